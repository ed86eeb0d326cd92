"""Models on a GPU beside the same on the CPU; and what must not change a bit there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lora_edge
import numpy as np
import pytest
from lora_edge.adapter import AdapterSpec
from lora_edge.model import Model
from lora_edge.sequence import Sequence
from tiny_models import Shape, fresh_rng, random_factors, random_ids, tiny_model, write_adapter

ARCHITECTURES = ["qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "olmo2", "granite", "stablelm", "smollm3"]
TYPES = ["f32", "f16", "bf16", "q8_0", "q5_0", "iq4_nl", "q4_0", "q4_1", "q5_1"]
SUPERS = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]  # blocks of 256
KINDS = [*(("llama", type) for type in TYPES + SUPERS), ("phi3", "q8_0"), *((arch, "f32") for arch in ARCHITECTURES)]
SPECS: list[AdapterSpec] = [None, "one", {"one": 0.7, "two": -0.4}]
ORDERS = ["forward", "reverse", "7"]


class Case:
    """A model with two adapters, as files."""

    def __init__(self, folder: Path, arch: str, type: str) -> None:
        self.rng = fresh_rng()
        self.type = type
        self.base = folder / "base.gguf"
        sizes = {"d": 256, "n_head": 4, "n_kv": 2, "head_dim": 64, "n_ff": 256, "n_layer": 1} if type in SUPERS else {}
        self.shape: Shape = tiny_model(self.base, self.rng, arch, type, whole_blocks=True, **sizes)
        self.adapters = [
            write_adapter(folder / "one.gguf", arch, random_factors(self.rng, self.shape), type="f16"),
            write_adapter(folder / "two.gguf", arch, random_factors(self.rng, self.shape, r=5), alpha=8.0),
        ]

    def model(self, device: str) -> Model:
        model = Model(self.base, threads=1, device=device)
        for path in self.adapters:
            model.load_adapter(path)
        return model

    def ids(self, n: int) -> list[int]:
        return random_ids(self.rng, self.shape, n)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), *request.param)


@pytest.fixture
def cpu(case: Case) -> Iterator[Model]:
    with case.model("cpu") as model:
        yield model


@pytest.fixture
def gpu(case: Case) -> Iterator[Model]:
    with case.model("cuda") as model:
        assert model.device == "cuda:0"
        yield model


def alike(a: np.ndarray, b: np.ndarray, type: str) -> bool:
    """Logits of several positions. A sum's last bit decides now and then how an activation is rounded to 8 bits, or a
    key to 16; random weights make much of that, and later positions see it, so not all of them can be the same."""
    if type == "f32":
        return float(np.abs(a - b).max()) <= 1e-3
    off = divergences(a, b)
    return float(off.min()) <= 1e-6 and float(off.mean()) <= 2e-2


def divergences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL divergence of the distributions of each position, in nats."""
    a, b = (x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (a, b))
    return np.asarray(np.sum(np.exp(a) * (a - b), -1))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def skip_floats(case: Case) -> None:
    if case.type == "f32" and case.shape.arch != "llama":
        pytest.skip("the kernels of floats are slow on the stand-in, and one architecture shows this of them")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_logits(case: Case, cpu: Model, gpu: Model, spec: AdapterSpec) -> None:
    ids = case.ids(40)
    assert alike(cpu.logits(ids, adapter=spec), gpu.logits(ids, adapter=spec), case.type)


def test_chunks_and_single_tokens(case: Case, gpu: Model) -> None:
    skip_floats(case)
    for spec in SPECS[1:]:
        ids = case.ids(40)
        whole = gpu.logits(ids, adapter=spec)
        sequence = gpu.sequence(adapter=spec)
        at = 0
        for n in (1, 9, 17, 1, 1, 3, 8):
            at += n
            sequence.feed(ids[at - n : at])
            assert same(sequence.logits(), whole[at - 1])


def test_eight_in_a_batch_with_adapters_of_their_own(case: Case, cpu: Model, gpu: Model) -> None:
    specs = [SPECS[i % 3] for i in case.rng.permutation(8)]
    texts = [case.ids(int(n)) for n in case.rng.choice([1, 2, 5, 20], 8)]
    together = [gpu.sequence(adapter=spec) for spec in specs]
    Sequence.feed_all(list(zip(together, texts)))
    for _ in range(2):
        more = [case.ids(1) for _ in texts]
        texts = [a + b for a, b in zip(texts, more)]
        Sequence.feed_all(list(zip(together, more)))
    alone = np.array([gpu.logits(text, adapter=spec)[-1] for text, spec in zip(texts, specs)])
    assert same(np.array([sequence.logits() for sequence in together]), alone)
    expected = np.array([cpu.logits(text, adapter=spec)[-1] for text, spec in zip(texts, specs)])
    assert alike(expected, alone, case.type)


def test_on_off_on_and_forks(case: Case, gpu: Model) -> None:
    ids = case.ids(30)
    base, one, both = (gpu.logits(ids, adapter=spec) for spec in SPECS)
    assert not np.allclose(base, one, atol=0.01) and not np.allclose(one, both, atol=0.01)
    assert same(gpu.logits(ids, adapter="one"), one) and same(gpu.logits(ids), base)
    gpu.unload_adapter("one")
    gpu.load_adapter(case.adapters[0])
    assert same(gpu.logits(ids, adapter="one"), one)
    sequence = gpu.sequence()
    sequence.feed(ids[:20])
    fork = sequence.fork()
    sequence.feed(case.ids(3))
    fork.feed(ids[20:])
    assert same(fork.logits(), base[-1])


def test_the_built_in_model() -> None:
    ids = list(range(3, 90))
    with lora_edge.load(device="cpu", threads=1) as cpu, lora_edge.load(device="cuda") as gpu:
        for adapter in (None, "json", "german"):
            assert divergences(cpu.logits(ids, adapter=adapter), gpu.logits(ids, adapter=adapter)).mean() <= 1e-4
        asked = "turn on the kitchen light"
        assert gpu.generate(asked, adapter="json") == '{"device":"light","room":"kitchen","action":"on"}'
        assert gpu.generate_batch([asked, asked], adapters=["json", "german"]) == [
            cpu.generate(asked, adapter=adapter) for adapter in ("json", "german")
        ]


def test_orders_of_threads(case: Case, gpu: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_floats(case)
    ids = case.ids(70)
    made = []
    for order in ORDERS:
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        made.append(gpu.logits(ids, adapter=SPECS[2]))
    assert same(made[0], made[1]) and same(made[0], made[2])


def test_the_file_does_not_stay_in_memory(tmp_path: Path) -> None:
    """A device has its own copy of the weights."""
    path = tmp_path / "base.gguf"
    tiny_model(
        path, fresh_rng(), type="q8_0", whole_blocks=True, d=512, n_ff=2048, n_layer=4, n_head=8, n_kv=8, head_dim=64
    )

    def resident(model: Model) -> float:
        """Of the file's pages those in the process's memory."""
        model.generate_batch([[1, 2, 3]], max_tokens=2)
        size = rss = 0
        at_file = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            key, *values = line.split()
            if "-" in key:
                at_file = line.endswith(str(path))
            elif at_file and key in ("Size:", "Rss:"):
                size += int(values[0]) if key == "Size:" else 0
                rss += int(values[0]) if key == "Rss:" else 0
        return rss / size

    with Model(path, device="cpu") as cpu:
        assert resident(cpu) > 0.9
    with Model(path, device="cuda") as gpu:
        assert resident(gpu) < 0.2
