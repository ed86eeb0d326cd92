"""Training examples beside transformers: the ids of conversations, and what of them is the assistant's."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from conftest import SHARED, needs_shared  # noqa: E402
from lora_edge.tokenizer import Tokenizer  # noqa: E402
from lora_edge.train.data import load_data  # noqa: E402
from tokenizer_cases import metadata  # noqa: E402
from train_cases import write_jsonl  # noqa: E402

WORDS = ["light", "kitchen", "Grüße", "🙂", "  two", "\n", "don't", "3.14", "é", "x = [1, 2]", "<b>", "<|im_end|"]


def conversation(rng: random.Random) -> list[dict[str, str]]:
    def says(role: str) -> dict[str, str]:
        return {"role": role, "content": "a " + " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))}

    messages = [says("system")] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        messages += [says("user"), says("assistant")]
    return messages


@needs_shared
@pytest.mark.parametrize("mask_prompt", [True, False])
def test_conversations_as_transformers_has_them(tmp_path: Path, mask_prompt: bool) -> None:
    theirs: Any = transformers.AutoTokenizer.from_pretrained(SHARED / "tokenizers" / "smollm-135m-instruct")
    ours = Tokenizer.from_metadata(metadata("smollm", SHARED))
    rng = random.Random()
    talks = [conversation(rng) for _ in range(60)]
    write_jsonl(tmp_path / "train.jsonl", ({"messages": talk} for talk in talks))
    data = load_data(tmp_path, ours, n_ctx=1 << 20, mask_prompt=mask_prompt)

    def ids_of(messages: list[dict[str, str]], header: bool) -> list[int]:
        text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=header)
        return list(theirs(text, add_special_tokens=False)["input_ids"])

    for example, talk in zip(data.train, talks):
        whole = ids_of(talk, False)
        if not mask_prompt:
            assert example.ids.tolist() == whole
            continue
        assert example.ids.tolist() == whole[: len(example)] and len(whole) - len(example) == 1  # the last line break
        learned = [False] * len(whole)
        for i, message in enumerate(talk):
            if message["role"] == "assistant":
                begin, end = len(ids_of(talk[:i], True)), len(ids_of(talk[: i + 1], False)) - 1
                learned[begin:end] = [True] * (end - begin)
        assert example.learn.tolist() == learned[: len(example)]
