"""Tokenizers and chat templates beside llama.cpp and transformers, live.

Where our ids differ from llama.cpp's, Hugging Face's decide, and these are all the differences:

- Qwen2's tokenizer.json normalises text to NFC; llama.cpp does not. Given normalised text it gives the same ids.
- Its contractions are matched without case, in Unicode's sense: 'ſ (U+017F) is one, as 's is. llama.cpp's list is ASCII.
- SmolLM's vocabulary lacks some bytes. Both leave them out, but in `tokenizers` their neighbours may then merge.
- TinyStories-656K has no byte tokens: unknown characters are <unk> here, and an exception (a crash) in llama.cpp; its merges
  are one per token, as trained, where llama.cpp tries every split. So it is compared on known characters, in ordinary text.
- "</s>" and the like are end-of-generation tokens for llama.cpp even where the file says that they are words (Qwen2).
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

llama_cpp = pytest.importorskip("llama_cpp")
transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from chat_cases import CONVERSATION, TEMPLATES  # noqa: E402
from lora_edge.chat import render_chat  # noqa: E402
from lora_edge.tokenizer import Tokenizer  # noqa: E402
from tokenizer_cases import (  # noqa: E402
    Metadata,
    metadata,
    random_text,
    small_vocabulary,
    special_words_of,
    words_of,
    write_vocabulary,
)

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
STRINGS = 5000
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the vocabularies of ../shared/data")


def llama_cpp_encode(meta: Metadata, folder: Path) -> Callable[[str, bool], list[int]]:
    path = folder / "vocab.gguf"
    write_vocabulary(path, meta)
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return lambda text, special: peer.tokenize(text.encode(), add_bos=True, special=special)


def compare(meta: Metadata, folder: Path, allowed: Callable[[str], bool] = lambda _: False) -> None:
    """All of STRINGS random texts, special tokens parsed and not; `allowed` says of a text that its ids may differ."""
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encode(meta, folder)
    words, specials = words_of(meta), special_words_of(meta)
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    differ = 0
    for i in range(STRINGS):
        text = random_text(rng, words if i % 3 else specials)
        for special in (False, True):
            if ours.encode(text, special=special) != peer(text, special):
                assert allowed(text), (seed, special, text)
                differ += 1
    print(f"seed {seed}: {2 * STRINGS} comparisons, {differ} differ as listed")


@needs_data
@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3", "stories260K"])
def test_same_ids_as_llama_cpp(name: str, tmp_path: Path) -> None:
    compare(metadata(name, DATA), tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gpt-2", "smollm", "llama-bpe", "default"])
def test_same_ids_as_llama_cpp_on_our_vocabularies(kind: str, tmp_path: Path) -> None:
    compare(small_vocabulary(kind), tmp_path)


@needs_data
@pytest.mark.parametrize("pre", ["llama-bpe", "default", "smollm"])
def test_same_ids_as_llama_cpp_on_gpt2_words(pre: str, tmp_path: Path) -> None:
    compare(metadata("gpt-2", DATA) | {"tokenizer.ggml.pre": pre}, tmp_path)


@needs_data
def test_qwen2_differs_from_llama_cpp_by_nfc_only(tmp_path: Path) -> None:
    meta = metadata("qwen2", DATA)
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encode(meta, tmp_path)

    def is_nfc(text: str) -> bool:
        normal = unicodedata.normalize("NFC", text)
        return normal != text and all(ours.encode(text, special=s) == peer(normal, s) for s in (False, True))

    compare(meta, tmp_path, is_nfc)
    assert ours.encode("e\u0301") == peer("\u00e9", False) != peer("e\u0301", False)
    assert ours.encode("x'\u017fabc") != peer("x'\u017fabc", False)


@needs_data
def test_smollm_differs_from_llama_cpp_by_missing_bytes_only(tmp_path: Path) -> None:
    meta = metadata("smollm", DATA)
    ours = Tokenizer.from_metadata(meta)
    compare(meta, tmp_path, lambda text: ours.decode(ours.encode(text)) != text)


@needs_data
def test_tinystories_text_as_llama_cpp(tmp_path: Path) -> None:
    meta = metadata("TinyStories-656K", DATA)
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encode(meta, tmp_path)
    stories = (DATA / "datasets" / "tinystories_1.5MiB.txt").read_text("utf-8")
    known = {c for word in words_of(meta) if len(word) == 1 for c in word} | {" "}
    stories = "".join(c for c in stories if c in known)
    for start in range(0, len(stories) - 300, 300):
        text = stories[start : start + 300]
        assert ours.encode(text) == peer(text, False), text


@needs_data
@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe", "default"])
def test_every_kind_of_character_is_cut_alike(pre: str, tmp_path: Path) -> None:
    """Each assigned character (one in 64 of the CJK and Hangul blocks) beside letters, digits, marks and white space."""
    meta = metadata("gpt-2", DATA) | {"tokenizer.ggml.pre": pre}
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encode(meta, tmp_path)
    uniform = [(0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x323AF)]
    for c in range(0x110000):
        if unicodedata.category(chr(c)) in ("Cs", "Co", "Cn"):
            continue
        if c % 64 and any(low < c < high for low, high in uniform):
            continue
        text = unicodedata.normalize("NFC", "a_b 1_2 !_? _ \n_\n _a".replace("_", chr(c)))
        assert ours.encode(text) == peer(text, False), hex(c)


def test_chat_templates_as_transformers_renders_them() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = [{"type": "function", "function": {"name": "größe", "parameters": {"a": "<b>", "n": [1, None, True]}}}]
    for template in TEMPLATES:
        for messages in (CONVERSATION, CONVERSATION[1:], CONVERSATION[1:2]):
            for prompt in (False, True):
                for given in (None, tools):
                    ours = render_chat(
                        template,
                        messages,
                        add_generation_prompt=prompt,
                        bos_token="<|begin_of_text|>",
                        eos_token="</s>",
                        tools=given,
                    )
                    theirs, _ = render_jinja_template(
                        conversations=[messages],
                        tools=given,
                        chat_template=template,
                        add_generation_prompt=prompt,
                        bos_token="<|begin_of_text|>",
                        eos_token="</s>",
                    )
                    assert ours == theirs[0], template[:80]


@needs_data
def test_smollm_chat_as_transformers(tmp_path: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(str(DATA / "tokenizers" / "smollm-135m-instruct"))
    ours = Tokenizer.from_metadata(metadata("smollm", DATA))
    prompt = render_chat(ours.chat_template, CONVERSATION)
    assert prompt == theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    ids = theirs.apply_chat_template(CONVERSATION, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ours.encode(prompt, add_bos=False, special=True) == np.asarray(ids).ravel().tolist()
