"""A row's likeliest tokens, which the device finds: the choices are those that the whole row would give."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import REAL
from lora_edge import _core
from lora_edge.model import Model
from test_graphs import counts
from tiny_models import fresh_rng, random_ids, tiny_model

WAYS = {
    "greedy": {},
    "top-k": {"temperature": 0.8, "top_k": 40},
    "top-k and others": {"temperature": 1.5, "top_k": 60, "top_p": 0.9, "min_p": 0.01},
    "a penalty": {"temperature": 1.0, "top_k": 64, "repeat_penalty": 1.3},
    "a greedy penalty": {"repeat_penalty": 2.0},
    # of these the row comes to the host
    "a bonus": {"repeat_penalty": 0.8},
    "many": {"temperature": 1.0, "top_k": 129},
    "all": {"temperature": 1.0},
}


def sampler(seed: int, **changes: float) -> _core.Sampler:
    words = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "seed": seed, **changes}
    return _core.Sampler(**words)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_vocab", [100, 4096, 9001])
def test_choices(tmp_path: Path, n_vocab: int) -> None:
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, n_layer=1, n_vocab=n_vocab)
    with Model(tmp_path / "base.gguf", device="cuda") as model:
        sequence = model.sequence()
        sequence.feed(random_ids(rng, shape, 5))
        logits = sequence.logits()
        exact = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64))
        order = np.argsort(-logits, kind="stable")
        for name, way in WAYS.items():
            mine, theirs = (sampler(7, **way) for _ in range(2))
            for token in (*order[:3].tolist(), *rng.integers(0, n_vocab, 50).tolist()):
                mine.accept(token)
                theirs.accept(token)
            for _ in range(20):
                token, logprob = mine.sample(sequence.core, 5)
                assert token == theirs.sample_row(logits), name
                assert logprob == pytest.approx(exact[token], abs=1e-4)
        assert sampler(7).sample(sequence.core, 5)[0] == order[0]


def test_a_draft_and_a_cut(tmp_path: Path) -> None:
    """The rows of a fed draft, of a fork, and after a cut."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, n_layer=1)
    ids = random_ids(rng, shape, 9)
    with Model(tmp_path / "base.gguf", device="cuda") as model:
        whole = model.logits(ids)
        core = model.sequence().core
        model.core.forward([(core, ids[:5], 1)])
        model.core.forward([(core, ids[5:], 3)])
        fork = core.fork()
        for one in (core, fork):
            for n in (9, 7, 8):
                token, logprob = sampler(1).sample(one, n)
                assert token == whole[n - 1].argmax()
                assert logprob == pytest.approx(whole[n - 1].max() - np.logaddexp.reduce(whole[n - 1]), abs=1e-4)
                assert sampler(1, temperature=0.5).sample(one, n)[0] == sampler(1, temperature=0.5).sample_row(
                    whole[n - 1]
                )
            one.truncate(8)
            assert one.logits().tobytes() == whole[7].tobytes()
            with pytest.raises(ValueError, match="there are no logits"):
                sampler(1).sample(one, 9)


@pytest.mark.skipif(REAL, reason="the stand-in counts bytes")
def test_only_the_likeliest_come_back(tmp_path: Path) -> None:
    few, many = (counts(tmp_path / str(n), "json", n)["out"] for n in (4, 24))
    assert (many - few) / 20 < 1600 * 4 / 5  # the built-in model has 1,600 tokens


def test_damaged_weights(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, n_layer=1, tied=False)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        _damage(tmp_path, value)
        with Model(tmp_path / "damaged.gguf", device="cuda") as model:
            sequence = model.sequence()
            sequence.feed(random_ids(rng, shape, 2))
            with pytest.raises(ValueError, match="NaN or infinity"):
                sampler(1).sample(sequence.core, 2)


def _damage(folder: Path, value: float) -> None:
    """A model of which one row of the output layer is no numbers."""
    data = bytearray((folder / "base.gguf").read_bytes())
    tensor = next(t for t in gguf.GGUFReader(folder / "base.gguf").tensors if t.name == "output.weight")
    at = tensor.data_offset + 7 * int(tensor.shape[0]) * 4
    data[at : at + 4] = np.float32(value).tobytes()
    (folder / "damaged.gguf").write_bytes(data)
