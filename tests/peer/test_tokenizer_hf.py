"""Tokenizers and chat templates beside llama.cpp and transformers, live.

Where our ids differ from llama.cpp's, Hugging Face's decide, and these are all the differences:

- NFC: Qwen2's tokenizer.json normalises text to NFC; llama.cpp does not. Given normalised text it gives the
  same ids.

- Long s: the contractions of Qwen2 and Llama 3 are matched without case in Unicode's sense, so that U+017F
  after an apostrophe is one, as s is. llama.cpp's list is ASCII. No vocabulary here has a token in which
  that shows.

- Missing bytes: SmolLM's vocabulary lacks some bytes. Both leave them out, but in `tokenizers` their
  neighbours may then merge.

- No byte tokens: TinyStories-656K has none, so unknown characters are <unk> here, and an exception (a
  crash) in llama.cpp; its merges are one per token, as trained, where llama.cpp tries every split. So it is
  compared on known characters, in ordinary text.

- Unicode 16: the letters and numbers that it added are known to `tokenizers` 0.23, and not yet to
  llama.cpp.

- Words that look like ends: "</s>" and the like are end-of-generation tokens for llama.cpp even where the
  file says that they are words (Qwen2).
"""

from __future__ import annotations

import contextlib
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import transformers
from chat_cases import CONVERSATION, TEMPLATES
from conftest import SHARED, needs_shared
from lora_edge.chat import render_chat
from lora_edge.tokenizer import Tokenizer
from tokenizer_cases import (
    Metadata,
    metadata,
    random_text,
    small_vocabulary,
    special_words_of,
    words_of,
    write_vocabulary,
)

STRINGS = 5000
UNICODE_16 = [
    (0x1C89, 0x1C8A), (0xA7CB, 0xA7CD), (0xA7DA, 0xA7DC), (0x105C0, 0x105F3), (0x10D40, 0x10D85),
    (0x10EC2, 0x10EC4), (0x11380, 0x113D3), (0x116D0, 0x116E3), (0x11BC0, 0x11BF9), (0x13460, 0x143FA),
    (0x16100, 0x16139), (0x16D40, 0x16D79), (0x18CFF, 0x18CFF), (0x1CCF0, 0x1CCF9), (0x1E5D0, 0x1E5FA),
]  # fmt: skip


Encode = Callable[[str, bool], list[int]]
Encoder = Callable[[Metadata], Encode]


@pytest.fixture
def llama_cpp_encoder(tmp_path: Path) -> Iterator[Encoder]:
    """Makes llama.cpp's encoder (text, special) -> ids of a vocabulary; the files and models go after the test."""
    with contextlib.ExitStack() as opened:

        def encoder(meta: Metadata) -> Encode:
            write_vocabulary(tmp_path / "vocab.gguf", meta)
            peer = llama_cpp.Llama(str(tmp_path / "vocab.gguf"), vocab_only=True, verbose=False)
            opened.callback(peer.close)
            return lambda text, special: peer.tokenize(text.encode(), add_bos=True, special=special)

        yield encoder


def is_new(character: str) -> bool:
    """Whether it is a letter or number since Unicode 16."""
    return any(low <= ord(character) <= high for low, high in UNICODE_16)


def compare(meta: Metadata, peer: Encode, allowed: Callable[[str, bool], bool] = lambda text, special: False) -> None:
    """All of STRINGS random texts, special tokens parsed and not; `allowed` says of a text that its ids may
    differ."""
    ours = Tokenizer.from_metadata(meta)
    words, specials = words_of(meta), special_words_of(meta)
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    differ = 0
    for i in range(STRINGS):
        text = random_text(rng, words if i % 3 else specials)
        for special in (False, True):
            if ours.encode(text, special=special) != peer(text, special):
                assert allowed(text, special) or any(map(is_new, text)), (seed, special, text)
                differ += 1
    print(f"seed {seed}: {2 * STRINGS} comparisons, {differ} differ as listed")


@needs_shared
@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3", "stories260K"])
def test_same_ids_as_llama_cpp(name: str, llama_cpp_encoder: Encoder) -> None:
    meta = metadata(name, SHARED)
    compare(meta, llama_cpp_encoder(meta))


@pytest.mark.parametrize("kind", ["llama", "gpt-2", "smollm", "llama-bpe", "default"])
def test_same_ids_as_llama_cpp_on_our_vocabularies(kind: str, llama_cpp_encoder: Encoder) -> None:
    meta = small_vocabulary(kind)
    compare(meta, llama_cpp_encoder(meta))


@needs_shared
@pytest.mark.parametrize("pre", ["llama-bpe", "default", "smollm"])
def test_same_ids_as_llama_cpp_on_gpt2_words(pre: str, llama_cpp_encoder: Encoder) -> None:
    meta = metadata("gpt-2", SHARED) | {"tokenizer.ggml.pre": pre}
    compare(meta, llama_cpp_encoder(meta))


@needs_shared
def test_qwen2_differs_from_llama_cpp_as_listed(llama_cpp_encoder: Encoder) -> None:
    meta = metadata("qwen2", SHARED)
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encoder(meta)

    specials = re.compile("(" + "|".join(map(re.escape, special_words_of(meta))) + ")")

    def is_listed(text: str, special: bool) -> bool:
        parts = (
            specials.split(text) if special else [text]
        )  # what is parsed as a token is not normalised with its neighbours
        normal = "".join(
            part if special and specials.fullmatch(part) else unicodedata.normalize("NFC", part) for part in parts
        )
        if special and "</s>" in text:
            return True
        return normal != text and ours.encode(text, special=special) == peer(normal, special)

    compare(meta, peer, is_listed)
    assert ours.encode("e\u0301") == peer("\u00e9", False) != peer("e\u0301", False)


@needs_shared
def test_smollm_differs_from_llama_cpp_by_missing_bytes_only(llama_cpp_encoder: Encoder) -> None:
    meta = metadata("smollm", SHARED)
    ours = Tokenizer.from_metadata(meta)
    compare(meta, llama_cpp_encoder(meta), lambda text, _: ours.decode(ours.encode(text)) != text)


@needs_shared
def test_tinystories_text_as_llama_cpp(llama_cpp_encoder: Encoder) -> None:
    meta = metadata("TinyStories-656K", SHARED)
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encoder(meta)
    stories = (SHARED / "datasets" / "tinystories_1.5MiB.txt").read_text("utf-8")
    known = {c for word in words_of(meta) if len(word) == 1 for c in word} | {" "}
    stories = "".join(c for c in stories if c in known)
    for start in range(0, len(stories) - 300, 300):
        text = stories[start : start + 300]
        assert ours.encode(text) == peer(text, False), text


@needs_shared
@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe", "default"])
def test_every_kind_of_character_is_cut_alike(pre: str, llama_cpp_encoder: Encoder) -> None:
    """Each assigned character (one in 64 of the CJK and Hangul blocks) beside letters, digits, marks and
    white space."""
    meta = metadata("gpt-2", SHARED) | {"tokenizer.ggml.pre": pre}
    ours, peer = Tokenizer.from_metadata(meta), llama_cpp_encoder(meta)
    uniform = [(0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x323AF)]
    for c in range(0x110000):
        if unicodedata.category(chr(c)) in ("Cs", "Co", "Cn") or is_new(chr(c)):
            continue
        if c % 64 and any(low < c < high for low, high in uniform):
            continue
        text = unicodedata.normalize("NFC", "a_b 1_2 !_? _ \n_\n _a _'t a_'s".replace("_", chr(c)))
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


@needs_shared
def test_smollm_chat_as_transformers() -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(str(SHARED / "tokenizers" / "smollm-135m-instruct"))
    ours = Tokenizer.from_metadata(metadata("smollm", SHARED))
    prompt = render_chat(ours.chat_template, CONVERSATION)
    assert prompt == theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    ids = theirs.apply_chat_template(CONVERSATION, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ours.encode(prompt, add_bos=False, special=True) == np.asarray(ids).ravel().tolist()
