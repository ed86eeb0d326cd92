"""The tasks that models are trained on in experiments: generated pairs, and what is made of other data."""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_shared
from hypothesis import given, strategies as st
from lora_edge.train.data import load_data
from train_cases import small_tokenizer

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "tasks"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> Any:
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


def module(name: str) -> Any:
    return importlib.import_module(name)


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def overlap(row: dict[str, str]) -> float:
    a, b = words(row["sentence1"]), words(row["sentence2"])
    return (a & b).total() / (a | b).total()


SIZES = {"train": 2000, "valid": 200, "test": 200}


def test_pairs_follow_the_seed() -> None:
    pairs = module("paraphrase").pairs
    assert pairs(SIZES, 3) == pairs(SIZES, 3) != pairs(SIZES, 4)
    made = pairs(SIZES, random.randrange(1 << 30))
    assert {split: len(rows) for split, rows in made.items()} == SIZES and list(made) == list(SIZES)
    assert 0.45 < Counter(row["label"] for row in made["train"])["same"] / SIZES["train"] < 0.55


def test_no_sentence_of_a_split_is_in_another() -> None:
    made = module("paraphrase").pairs(SIZES, random.randrange(1 << 30))
    said = {split: {row[key] for row in rows for key in ("sentence1", "sentence2")} for split, rows in made.items()}
    assert not said["train"] & said["test"] and not said["train"] & said["valid"] and not said["valid"] & said["test"]


def test_words_alone_do_not_tell() -> None:
    """The best threshold on the share of common words is right for few more than half of the pairs."""
    rows = module("paraphrase").pairs({"train": 4000}, random.randrange(1 << 30))["train"]
    shared = np.array([overlap(row) for row in rows])
    same = np.array([row["label"] == "same" for row in rows])
    right = [((shared >= threshold) == same).mean() for threshold in np.unique(shared)]
    assert max(max(right), 1 - min(right)) < 0.62


def test_one_meaning_has_one_truth() -> None:
    """Two sentences never stand in both classes, whichever comes first."""
    rows = module("paraphrase").pairs({"train": 6000}, random.randrange(1 << 30))["train"]
    labels: dict[frozenset[str], str] = {}
    for row in rows:
        pair = frozenset((row["sentence1"], row["sentence2"]))
        assert len(pair) == 2 and labels.setdefault(pair, row["label"]) == row["label"]


@given(
    raw=st.lists(st.sampled_from(["a", "word ", "\n", "\n\n", "long" * 9, "é"])).map("".join), size=st.integers(1, 40)
)
def test_pieces_are_the_whole(raw: str, size: int) -> None:
    sys.path.insert(0, str(TOOLS))
    found = module("sources").pieces(raw, size)
    assert "".join(found) == raw and all(0 < len(piece) <= size for piece in found)


def test_clinc150_is_shared_out(tmp_path: Path) -> None:
    rows = {
        "train": [[f"{name} {i}", name] for name in ("get_up", "eat", "sleep") for i in range(5)],
        "val": [[f"{name} v{i}", name] for name in ("get_up", "eat", "sleep") for i in range(4)],
        "oos_train": [["x", "oos"]],
        "oos_val": [["y", "oos"]],
    }
    (tmp_path / "clinc150_small_train_val.json").write_text(json.dumps(rows))
    sources = module("sources")
    made = sources.clinc150(folder=tmp_path)
    assert Counter(row["label"] for row in made["train"]) == {"get up": 5, "eat": 5, "sleep": 5}
    for split in ("valid", "test"):
        assert Counter(row["label"] for row in made[split]) == {"get up": 2, "eat": 2, "sleep": 2}
    assert {row["label"] for row in sources.clinc150(2, folder=tmp_path)["train"]} == {"eat", "get up"}
    assert {"text": "x", "label": "oos"} in sources.clinc150(2, True, folder=tmp_path)["train"]


def test_absent_data_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("sources").clinc150, "__defaults__", (None, False, tmp_path))
    assert module("make_task").main(["clinc150", "-o", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert (
        "skipped" in text and "clinc150_small_train_val.json' is not here" in text and not (tmp_path / "out").exists()
    )


def test_a_task_is_a_folder_to_train_on(tmp_path: Path) -> None:
    assert module("make_task").main(["paraphrase", "-o", str(tmp_path / "task"), "--train", "80"]) == 0
    data = load_data(tmp_path / "task", small_tokenizer("qwen2"), n_ctx=256)
    assert (len(data.train), len(data.valid), len(data.test)) == (80, 10, 10)
    assert data.labels is not None and data.labels.names == ("different", "same")


@needs_shared
@pytest.mark.parametrize("task", ["clinc150", "tinyshakespeare", "tinystories"])
def test_tasks_of_other_data(tmp_path: Path, task: str) -> None:
    assert module("make_task").main([task, "-o", str(tmp_path), "--size", "600"]) == 0
    rows = {s: [json.loads(line) for line in (tmp_path / f"{s}.jsonl").open()] for s in ("train", "valid", "test")}
    if task == "clinc150":
        assert [len(r) for r in rows.values()] == [7500, 1500, 1500]
        assert len({row["label"] for row in rows["test"]}) == 150
        return
    size = {s: sum(len(row["text"]) for row in r) for s, r in rows.items()}
    assert 0.88 < size["train"] / sum(size.values()) < 0.92 and sum(size.values()) > 0.97e6
    assert max(len(row["text"]) for r in rows.values() for row in r) <= 600
    held = {row["text"] for s in ("valid", "test") for row in rows[s]}
    assert not held & {row["text"] for row in rows["train"]}
