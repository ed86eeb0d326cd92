"""What must not change a bit: how a prompt is cut, how many threads work, who else is in the batch, which kernels run.

Bits are compared with tobytes, so that -0.0 and NaN count too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lora_edge
import numpy as np
import pytest
from lora_edge.model import Model
from lora_edge.sequence import Sequence
from tiny_models import Shape, fresh_rng, random_factors, random_ids, tiny_model, write_adapter

KINDS = [
    ("llama", "f32"), ("llama", "q8_0"), ("qwen2", "q8_0"), ("qwen3", "f16"), ("qwen3", "q8_0"), ("llama", "bf16"),
    ("gemma2", "q8_0"), ("gemma3", "f16"), ("phi3", "q8_0"), ("gpt2", "f32"), ("olmo2", "q8_0"), ("granite", "f16"),
    ("stablelm", "q8_0"), ("smollm3", "bf16"),
]  # fmt: skip


class Case:
    """A model with two adapters, as files."""

    def __init__(self, folder: Path, arch: str, type: str) -> None:
        self.rng = fresh_rng()
        self.arch, self.base = arch, folder / "base.gguf"
        self.shape: Shape = tiny_model(self.base, self.rng, arch, type, whole_blocks=bool(self.rng.integers(2)))
        self.adapters = [
            write_adapter(folder / "one.gguf", arch, random_factors(self.rng, self.shape), type="f16"),
            write_adapter(folder / "two.gguf", arch, random_factors(self.rng, self.shape, r=5), alpha=8.0),
        ]

    def model(self, threads: int) -> Model:
        model = Model(self.base, threads=threads)
        for path in self.adapters:
            model.load_adapter(path)
        return model

    def ids(self, n: int) -> list[int]:
        return random_ids(self.rng, self.shape, n)


SPECS = [None, "one", {"one": 0.7, "two": -0.4}]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), *request.param)


@pytest.fixture
def model(case: Case) -> Iterator[Model]:
    with case.model(threads=2) as model:
        yield model


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def fed_in_pieces(sequence: Sequence, ids: list[int], rng: np.random.Generator) -> np.ndarray:
    """Logits after the last id of a text fed in random pieces, single tokens and long runs among them."""
    at = 0
    while at < len(ids):
        n = int(rng.choice([1, 1, 2, 3, 4, 5, 8, 17, 64, 255, 300]))
        sequence.feed(ids[at : at + n])
        at += n
    return sequence.logits()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_chunks_and_single_tokens(case: Case, model: Model, spec: lora_edge.adapter.AdapterSpec) -> None:
    ids = case.ids(330)
    whole = model.logits(ids, adapter=spec)
    for _ in range(3):
        sequence = model.sequence(adapter=spec)
        prompt = int(case.rng.integers(1, 320))
        assert same(fed_in_pieces(sequence, ids[:prompt], case.rng), whole[prompt - 1])
        for i in range(prompt, prompt + 10):
            sequence.feed(ids[i : i + 1])
            assert same(sequence.logits(), whole[i])
    assert same(model.logits(ids, adapter=spec, last=7), whole[-7:])


def test_threads(case: Case) -> None:
    ids = case.ids(140)
    results = []
    for threads in (1, 2, 3, 5):
        with case.model(threads=threads) as model:
            logits = [model.logits(ids, adapter=spec) for spec in SPECS]
            text = model.complete(ids[:20], adapter="one", max_tokens=25, temperature=0.9, seed=7)
            results.append((logits, text.ids, text.logprobs))
    for logits, sampled, logprobs in results[1:]:
        assert all(map(same, logits, results[0][0]))
        assert (sampled, logprobs) == results[0][1:]


def test_neighbours(case: Case, model: Model) -> None:
    """Sequences of one batch, with different adapters, lengths and pasts: each is what it is alone."""
    rng = case.rng
    specs = [SPECS[i] for i in rng.integers(0, 3, 7)] + SPECS
    texts = [case.ids(int(n)) for n in rng.choice([1, 2, 5, 30, 130], len(specs))]
    order = rng.permutation(len(specs))
    together = {i: model.sequence(adapter=specs[i]) for i in order}
    for i in order[:4]:
        together[i].feed(texts[i][: len(texts[i]) // 2])
    Sequence.feed_all([(together[i], texts[i][len(together[i]) :]) for i in order])
    for _ in range(3):
        more = {i: case.ids(1) for i in order}
        for i in order:
            texts[i] += more[i]
        Sequence.feed_all([(together[i], more[i]) for i in order])
    for i in order:
        assert same(together[i].logits(), model.logits(texts[i], adapter=specs[i])[-1])


def test_on_off_on(case: Case, model: Model) -> None:
    ids = case.ids(80)
    base, one, both = (model.logits(ids, adapter=spec) for spec in SPECS)
    assert not np.allclose(base, one, atol=0.01) and not np.allclose(one, both, atol=0.01)
    for _ in range(2):
        assert same(model.logits(ids, adapter="one"), one)
        assert same(model.logits(ids), base)
        assert same(model.logits(ids, adapter=SPECS[2]), both)
    assert same(model.logits(ids, adapter={"one": 0.0}), base)
    assert same(model.logits(ids, adapter={"one": 1.0}), one)
    model.unload_adapter("one")
    assert same(model.logits(ids), base)
    model.load_adapter(case.adapters[0])
    assert same(model.logits(ids, adapter="one"), one)


def test_settling(case: Case, tmp_path: Path) -> None:
    """An adapter is used from its file at first and taken into memory pass by pass; nobody can tell, and in the end the
    file may go."""
    paths = [Path(shutil.copy(path, tmp_path)) for path in case.adapters]
    with Model(case.base, threads=2) as model:
        for path in paths:
            model.load_adapter(path)
        ids, spec = case.ids(40), {"one": 1.0, "two": 0.5}
        first = model.logits(ids, adapter=spec)
        for _ in range(3):
            assert same(model.logits(ids, adapter=spec), first)
        for path in paths:
            path.write_bytes(b"")  # in place: reading what was mapped would be a bus error
        assert same(model.logits(ids, adapter=spec), first)


def test_an_adapter_may_change_in_mid_text(case: Case, model: Model) -> None:
    """Tokens keep the keys and values of the adapter that they were computed with."""
    ids = case.ids(40)
    switched = model.sequence()
    switched.feed(ids[:25])
    switched.adapter = "one"
    switched.feed(ids[25:])
    again = model.sequence()
    for i in ids[:25]:
        again.feed([i])
    again.adapter = "one"
    for i in ids[25:]:
        again.feed([i])
    assert same(again.logits(), switched.logits())
    assert not same(switched.logits(), model.logits(ids, adapter="one")[-1])
    assert not same(switched.logits(), model.logits(ids)[-1])


def test_fork_and_truncate(case: Case, model: Model) -> None:
    ids = case.ids(150)
    whole = model.logits(ids, adapter="one")
    trunk = model.sequence(adapter="one")
    trunk.feed(ids[:100])
    branch = trunk.fork()
    assert same(branch.logits(), whole[99])
    other = case.ids(70)
    branch.truncate(90)
    branch.feed(other)
    assert same(branch.logits(), model.logits(ids[:90] + other, adapter="one")[-1])
    trunk.feed(ids[100:])
    assert same(trunk.logits(), whole[-1])
    for n in (149, 128, 65, 64, 63, 1):
        trunk.truncate(n)
        assert len(trunk) == n and same(trunk.logits(), whole[n - 1])
    trunk.truncate(0)
    with pytest.raises(ValueError, match="empty"):
        trunk.logits()
    trunk.feed(ids[:100])
    assert same(trunk.logits(), whole[99])
    with pytest.raises(ValueError, match="100 tokens to 101"):
        trunk.truncate(101)


def test_forks_share_memory(case: Case, model: Model) -> None:
    trunk = model.sequence()
    trunk.feed(case.ids(128))
    alone = model.memory()["kv"]
    forks = [trunk.fork() for _ in range(10)]
    assert model.memory()["kv"] == alone
    forks[0].feed(case.ids(1))
    assert alone < model.memory()["kv"] <= 2 * alone
    del trunk, forks
    assert model.memory()["kv"] == 0


ISA_PROBE = """
import sys, numpy, lora_edge
from lora_edge.model import Model
model = Model(sys.argv[1], threads=2)
model.load_adapter(sys.argv[2])
model.load_adapter(sys.argv[3])
ids = numpy.load(sys.argv[4]).tolist()
out = [model.logits(ids, adapter=spec) for spec in (None, "one", {"one": 0.7, "two": -0.4})]
numpy.save(sys.argv[5], numpy.stack(out))
print(lora_edge.runtime_info()["isa"])
"""


def test_every_kernel_table(case: Case, model: Model, tmp_path: Path) -> None:
    ids = case.ids(90)
    np.save(tmp_path / "ids.npy", np.array(ids))
    here = np.stack([model.logits(ids, adapter=spec) for spec in SPECS])
    names = list(lora_edge.runtime_info()["build"]["isas_runnable"])
    assert names[0] == "ref"
    for name in names:
        run = subprocess.run(
            [sys.executable, "-c", ISA_PROBE, case.base, *case.adapters, tmp_path / "ids.npy", tmp_path / "out.npy"],
            env={**os.environ, "LORA_EDGE_ISA": name}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == name
        assert same(np.load(tmp_path / "out.npy"), here), name
