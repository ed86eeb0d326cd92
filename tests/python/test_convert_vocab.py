"""tokenizer.json -> GGUF metadata -> our tokenizer: the ids must be those of the `tokenizers` library on
the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hf_folders import tiny_config, tiny_weights, write_model
from lora_edge.convert import convert_model
from lora_edge.gguf_file import open_gguf
from lora_edge.pretokenizers import byte_alphabet
from lora_edge.tokenizer import Tokenizer
from tokenizers import (
    Regex,
    Tokenizer as HfTokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "It's a test, isn't it? We'll see 1234567890 things in 2024.\n\n  Indented   text\tand tabs.",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX! don't DON'T 3.14159 2,718",
    "Größe, naïve, café, Ελληνικά, русский текст, 中文字符, 日本語, emoji 🙂🙃 and e\u0301 combining",
] * 4
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(kind: str) -> HfTokenizer:
    """A freshly trained byte-level BPE tokenizer in the manner of gpt-2, smollm, llama-bpe or qwen2."""
    tokenizer = HfTokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    if kind in ("gpt-2", "smollm"):
        whole: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "smollm":
            whole = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
        tokenizer.pre_tokenizer = whole
    else:
        words = WORDS % (r"\p{N}{1,3}" if kind == "llama-bpe" else r"\p{N}")
        split = pre_tokenizers.Split(Regex(words), "isolated")
        byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def convert(folder: Path, n_vocab: int, **files: Any) -> dict[str, Any]:
    """Metadata of a tiny model with these JSON (or text) files beside it; "__" in a name stands for a dot."""
    config = tiny_config("LlamaForCausalLM", vocab_size=n_vocab, bos_token_id=1, eos_token_id=2)
    write_model(folder, config, tiny_weights(config, np.random.default_rng(0)))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return open_gguf(convert_model(folder, folder / "out.gguf")).metadata


def random_texts(n: int) -> list[str]:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    ranges = [
        (32, 127),
        (9, 14),
        (0xA0, 0x250),
        (0x300, 0x310),
        (0x390, 0x450),
        (0x4E00, 0x4E40),
        (0x1F600, 0x1F640),
    ]
    texts = []
    for _ in range(n):
        chosen = [
            ranges[i] for i in rng.choice(len(ranges), rng.integers(1, 40), p=[0.55, 0.1, 0.1, 0.05, 0.1, 0.05, 0.05])
        ]
        texts.append("".join(chr(rng.integers(*r)) for r in chosen))
    return texts


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_byte_level(tmp_path: Path, kind: str) -> None:
    source = byte_level(kind)
    n = source.get_vocab_size()
    meta = convert(tmp_path, n + 3, tokenizer__json=source.to_str())
    assert (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) == ("gpt2", kind)
    assert meta["tokenizer.ggml.tokens"][n:] == [f"[PAD{i}]" for i in range(n, n + 3)]
    types = list(meta["tokenizer.ggml.token_type"])
    assert types == [3, 3, 3] + [1] * (n - 3) + [5, 5, 5]
    made = Tokenizer.from_metadata(meta)
    source.encode_special_tokens = True  # a special token that a text spells is text
    for text in CORPUS + random_texts(300):
        assert made.encode(text) == source.encode(text).ids, repr(text)
    assert made.encode("hi<|im_end|>", special=True)[-1] == 2
    assert (made.bos_id, made.eos_id, made.add_bos) == (1, 2, False)


@needs_shared
@pytest.mark.parametrize("model", ["TinyStories-656K", "stories260K-hf"])
def test_sentencepiece_like(tmp_path: Path, model: str) -> None:
    folder = SHARED / "models" / model
    source = HfTokenizer.from_file(str(folder / "tokenizer.json"))
    made = Tokenizer.from_metadata(open_gguf(convert_model(folder, tmp_path / "out.gguf")).metadata)
    story = (SHARED / "datasets" / "tinystories_1.5MiB.txt").read_text(encoding="utf-8")[:200_000]
    source.encode_special_tokens = True
    for text in [*story.split("<|endoftext|>")[:100], "T<s>x</s>", *random_texts(300)]:
        assert made.encode(text) == source.encode(text).ids, repr(text)
    assert made.add_bos and (made.bos_id, made.eos_id) == (1, 2)


@needs_shared
def test_smollm(tmp_path: Path) -> None:
    folder = SHARED / "tokenizers" / "smollm-135m-instruct"
    files = {p.name.replace(".", "__"): p.read_text(encoding="utf-8") for p in folder.iterdir()}
    meta = convert(tmp_path, 49152, **files)
    source = HfTokenizer.from_file(str(folder / "tokenizer.json"))
    made = Tokenizer.from_metadata(meta)
    assert meta["tokenizer.ggml.pre"] == "smollm"
    source.encode_special_tokens = True
    for text in [*random_texts(200), "x = 12345 + 6\n\n\tdef f():  return 'é'", "a<|im_end|>b"]:
        assert made.encode(text) == source.encode(text).ids, repr(text)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert made.chat_template == settings["chat_template"]
    assert made.token_text(made.eos_id or 0) == settings["eos_token"]


def spm_json() -> dict[str, Any]:
    """A small SentencePiece-like tokenizer.json with byte tokens."""
    space = "\u2581"
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        space,
        "a",
        "b",
        space + "a",
        "ab",
        space + "ab",
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": space}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": tokens[i], "special": True, "normalized": False, "single_word": False,
                "lstrip": False,
             "rstrip": False} for i in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": space}, replace]},
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [f"{space} a", "a b",
                  f"{space}a b", f"{space} ab"]},
    }  # fmt: skip


def test_scores_types_and_added_tokens(tmp_path: Path) -> None:
    source = spm_json()
    source["added_tokens"].append({**source["added_tokens"][0], "id": 265, "content": "<turn>", "special": False})
    meta = convert(tmp_path, 266, tokenizer__json=source)
    assert (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) == ("llama", "default")
    assert list(meta["tokenizer.ggml.token_type"]) == [2, 3, 3] + [6] * 256 + [1] * 6 + [4]
    assert list(meta["tokenizer.ggml.scores"][-7:]) == [-10000, -10000, -10000, 0, -1, -2, 0]
    assert meta["tokenizer.ggml.add_space_prefix"] is True and meta["tokenizer.ggml.unknown_token_id"] == 0
    made = Tokenizer.from_metadata(meta)
    original = HfTokenizer.from_str(json.dumps(source))
    for text in ("ab a b", "abab  aé", "", "ba"):
        assert made.encode(text, add_bos=False) == original.encode(text).ids


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_metaspace(tmp_path: Path, scheme: str) -> None:
    source = spm_json()
    source["normalizer"] = None
    source["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": scheme,
        "split": False,
    }
    made = Tokenizer.from_metadata(convert(tmp_path, 265, tokenizer__json=source))
    original = HfTokenizer.from_str(json.dumps(source))
    for text in ("ab a b", "abab  aé", "ba"):
        assert made.encode(text, add_bos=False) == original.encode(text).ids


def template(*parts: str) -> dict[str, Any]:
    built = processors.TemplateProcessing(
        single=" ".join(parts), special_tokens=[("<s>", 1), ("</s>", 2), ("<unk>", 0)]
    )
    holder = HfTokenizer(models.BPE())
    holder.post_processor = built
    loaded: dict[str, Any] = json.loads(holder.to_str())["post_processor"]
    return loaded


@pytest.mark.parametrize(
    ("post", "settings", "add_bos", "add_eos"),
    [
        (None, {}, False, False),
        (["<s>", "$A"], {}, True, False),
        (["$A", "</s>"], {}, False, True),
        (["<s>", "$A", "</s>"], {"add_bos_token": False}, True, True),
        (["<s>", "$A"], {"add_bos_token": False, "tokenizer_class": "LlamaTokenizer"}, False, False),
        (None, {"add_bos_token": True, "tokenizer_class": "LlamaTokenizerFast"}, True, False),
    ],
)
def test_when_bos_and_eos_are_added(
    tmp_path: Path, post: list[str] | None, settings: dict[str, Any], add_bos: bool, add_eos: bool
) -> None:
    source = {**spm_json(), "post_processor": template(*post) if post else None}
    meta = convert(tmp_path, 265, tokenizer__json=source, tokenizer_config__json=settings)
    assert meta["tokenizer.ggml.add_bos_token"] is add_bos
    assert meta["tokenizer.ggml.add_eos_token"] is add_eos


def test_special_ids(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "ab", "pad_token": "b", "unk_token": None}
    generation = {"eos_token_id": [2, 263, 262]}
    meta = convert(
        tmp_path,
        265,
        tokenizer__json=spm_json(),
        tokenizer_config__json=settings,
        generation_config__json=generation,
    )
    ids = {name: meta[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot", "eom", "padding", "unknown")}
    assert ids == {"bos": 1, "eos": 263, "eot": 2, "eom": 262, "padding": 261, "unknown": 0}


def test_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tools", "template": "T"}]
    for settings, wanted in (({"chat_template": "one"}, "one"), ({"chat_template": named}, "D"), ({}, None)):
        meta = convert(tmp_path, 265, tokenizer__json=spm_json(), tokenizer_config__json=settings)
        assert meta.get("tokenizer.chat_template") == wanted
        assert meta.get("tokenizer.chat_template.tools") == ("T" if wanted == "D" else None)
    files = {"tokenizer_config__json": {"chat_template": "old"}, "chat_template__jinja": "{{ new }}é"}
    meta = convert(tmp_path, 265, tokenizer__json=spm_json(), **files)
    assert meta["tokenizer.chat_template"] == "{{ new }}é" and "tokenizer.chat_templates" not in meta
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("{{ r }}", "utf-8")
    meta = convert(tmp_path, 265, tokenizer__json=spm_json(), **files)
    assert (meta["tokenizer.chat_template"], meta["tokenizer.chat_template.rag"]) == ("{{ new }}é", "{{ r }}")
    assert meta["tokenizer.chat_templates"] == ["rag"]


def broken(**changes: Any) -> dict[str, Any]:
    source = spm_json()
    return {
        **source,
        **{k: v for k, v in changes.items() if k != "model"},
        "model": {**source["model"], **changes.get("model", {})},
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (broken(model={"type": "Unigram"}), "Unigram"),
        (broken(model={"byte_fallback": False}), "not supported"),
        (broken(normalizer={"type": "Lowercase"}), "Lowercase"),
        (broken(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
        (broken(model={"merges": ["a b c"]}), "merge"),
        (broken(model={"merges": None}), "laid out"),
        (broken(model={"vocab": {"a": 300}}), "300"),
        (broken(added_tokens=[{"id": 5, "content": "a", "special": True}]), "same text"),
        (broken(post_processor=template("<unk>", "$A")), "post-processor"),
        ([1], "JSON object"),
    ],
)
def test_unfaithful_tokenizers_are_refused(tmp_path: Path, source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, 265, tokenizer__json=source)
    assert not (tmp_path / "out.gguf").exists()


def test_a_slow_tokenizer_is_not_silently_dropped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab\.json, but no tokenizer\.json"):
        convert(tmp_path / "bpe", 265, vocab__json={})
    for damage in ("x", "\x0a\x7f", "\x0f", "\x0a\x02\x15\x00", "\x0a\x03\x0a\x01\x7f" * 265):
        with pytest.raises(ValueError, match=r"tokenizer\.model"):
            convert(tmp_path / "spm", 265, tokenizer__model=damage)
        assert not (tmp_path / "spm" / "out.gguf").exists()


def test_more_ends_than_a_file_can_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 tokens end a generation.*'b'"):
        convert(tmp_path, 265, tokenizer__json=spm_json(), generation_config__json={"eos_token_id": [2, 263, 262, 261]})


def phi3_json() -> dict[str, Any]:
    """Special tokens that eat the space after them, as Phi-3's do."""
    source = spm_json()
    plain = source["added_tokens"][0]
    source["added_tokens"] += [
        {**plain, "id": 265, "content": "<|endoftext|>"},
        {**plain, "id": 266, "content": "<|user|>", "rstrip": True},
    ]
    return source


@pytest.mark.parametrize("name", ["mine", "My-Phi-3-tuned"])
def test_tokens_that_eat_space(tmp_path: Path, name: str) -> None:
    """Only the model's name says so, to llama.cpp and to us."""
    (tmp_path / name).mkdir()
    meta = convert(tmp_path / name, 267, tokenizer__json=phi3_json())
    assert meta["general.name"] == (name if name != "mine" else "mine (phi-3)")
    made, original = Tokenizer.from_metadata(meta), HfTokenizer.from_str(json.dumps(phi3_json()))
    for text in ("<|user|>\n ab", "<|user|> ab<|endoftext|> a", "<s> a"):
        assert made.encode(text, special=True, add_bos=False) == original.encode(text).ids, text


def test_gemma_like_tokenizers(tmp_path: Path) -> None:
    """Spaces are marked, none is put in front, and runs of them are tokens that are looked for in the text."""
    source = spm_json()
    mark = "\u2581"
    source["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    source["pre_tokenizer"] = {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
    }  # fmt: skip
    source["model"]["vocab"][mark * 2] = 265
    source["model"]["merges"].insert(0, f"{mark} {mark}")
    source["added_tokens"].append({**source["added_tokens"][0], "id": 265, "content": mark * 2, "special": False})
    meta = convert(tmp_path, 266, tokenizer__json=source)
    assert meta["tokenizer.ggml.add_space_prefix"] is False
    assert (meta["tokenizer.ggml.tokens"][265], meta["tokenizer.ggml.token_type"][265]) == ("  ", 4)
    made, original = Tokenizer.from_metadata(meta), HfTokenizer.from_str(json.dumps(source))
    for text in ("ab a b", "a  b", "a   b", " a", "ab  é"):
        assert made.encode(text, add_bos=False) == original.encode(text).ids, text


@pytest.mark.parametrize(
    ("digits", "normalizer", "whole", "pre"),
    [(3, None, True, "llama-bpe"), (3, None, False, "dbrx"), (1, "NFC", False, "qwen2"), (1, None, False, "stablelm2"),
     (0, "NFC", False, "olmo"), (0, None, False, "gpt-2")],
)  # fmt: skip
@pytest.mark.parametrize("removed", [False, True])
def test_names_of_pretokenizers(
    tmp_path: Path, digits: int, normalizer: str | None, whole: bool, pre: str, removed: bool
) -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not digits}
    cuts: list[dict[str, Any]] = [level]
    if digits:
        pattern = {"Regex": WORDS % (r"\p{N}{1,3}" if digits == 3 else r"\p{N}")}
        behavior = "Removed" if removed else "Isolated"
        cuts.insert(0, {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": removed})
    letters = sorted(byte_alphabet())
    source = {
        "version": "1.0", "added_tokens": [], "post_processor": None, "decoder": None,
        "normalizer": normalizer and {"type": normalizer},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
        "model": {"type": "BPE", "ignore_merges": whole, "vocab": {c: i for i, c in enumerate([*letters, "12", "123"])},
                  "merges": ["1 2"] if whole else ["1 2", "12 3"]},
    }  # fmt: skip
    meta = convert(tmp_path, len(letters) + 2, tokenizer__json=source)
    assert meta["tokenizer.ggml.pre"] == pre
    made, original = Tokenizer.from_metadata(meta), HfTokenizer.from_str(json.dumps(source))
    for text in ("12345 123", "Don't stop\n\n  now, e\u0301!", "x=12;"):
        assert made.encode(text, add_bos=False) == original.encode(text).ids, text
