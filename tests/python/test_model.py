"""Logits of the engine against the plain numpy decoder of reference.py, on random tiny models of every architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lora_edge.model import Model
from lora_edge.sequence import Sequence
from reference import Reference, ReferenceAdapter
from tiny_models import (
    ARCHS,
    fresh_rng,
    random_factors,
    random_ids,
    random_shape,
    random_tensors,
    tiny_model,
    write_adapter,
    write_model,
)

# The engine computes in float32; logits have a deviation of 2 to 5.
TIGHT = 5e-4
# Where a key or value is a hair from the middle of two float16 numbers, engine and reference may round it differently.
F16_KV = 2e-2
Q8_KV = 5e-2


def difference(made: np.ndarray, wanted: np.ndarray) -> float:
    assert made.shape == wanted.shape and made.dtype == np.float32
    return float(np.abs(made - wanted).max())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("draw", range(6))
def test_f32(tmp_path: Path, arch: str, draw: int) -> None:
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, arch)
    write_adapter(tmp_path / "one.gguf", arch, random_factors(rng, shape))
    some = [name for name in shape.linears if rng.integers(2)] or ["token_embd.weight"]
    write_adapter(tmp_path / "two.gguf", arch, random_factors(rng, shape, some, r=4), alpha=6.0)
    reference = Reference(tmp_path / "base.gguf")
    one, two = (ReferenceAdapter(tmp_path / f"{name}.gguf") for name in ("one", "two"))
    with Model(tmp_path / "base.gguf", threads=2) as model:
        model.load_adapter(tmp_path / "one.gguf")
        model.load_adapter(tmp_path / "two.gguf", scale=2.0)
        for n in (1, 2, int(rng.integers(3, 64)), int(rng.integers(65, 130))):  # a page of the cache holds 64
            ids = random_ids(rng, shape, n)
            alone = model.logits(ids)
            assert difference(alone, reference.logits(ids)) <= TIGHT
            assert difference(model.logits(ids, adapter="one"), reference.logits(ids, [(one, 1.0)])) <= TIGHT
            both = model.logits(ids, adapter={"two": 0.6, "one": -0.4})
            assert difference(both, reference.logits(ids, [(two, 1.2), (one, -0.4)])) <= TIGHT
            assert np.abs(both - alone).max() > 0.5
            assert np.array_equal(model.logits(ids), alone)


def test_more_than_a_chunk(tmp_path: Path) -> None:
    """A prompt of several chunks of 256 rows and several pages of keys."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, n_ctx=700)
    ids = random_ids(rng, shape, 700)
    with Model(tmp_path / "base.gguf") as model:
        wanted = Reference(tmp_path / "base.gguf").logits(ids)
        assert difference(model.logits(ids), wanted) <= TIGHT
        assert difference(model.logits(ids, last=3), wanted[-3:]) <= TIGHT


@pytest.mark.parametrize(("window", "kv_type"), [(1, "f32"), (40, "q8_0"), (64, "f32"), (300, "q8_0"), (700, "f32")])
def test_windows(tmp_path: Path, window: int, kv_type: str) -> None:
    """Texts beyond the window, over several spans of the cache: as the reference, and the same bits in pieces, beside
    others and with any number of threads. The second layer sees all."""
    rng = fresh_rng()
    extra = {"attention.sliding_window_pattern": [True, False, True]}
    tiny_model(
        tmp_path / "base.gguf", rng, "qwen2", n_layer=3, n_head=4, n_kv=2, head_dim=32, n_ctx=1200, window=window,
        extra=extra, rope_linear=None,
    )  # fmt: skip
    with Model(tmp_path / "base.gguf", threads=2, kv_type=kv_type) as model:
        shape = model.config
        ids = [int(i) for i in rng.integers(0, shape.n_vocab, 1200)]
        made = model.logits(ids)
        wanted = Reference(tmp_path / "base.gguf", kv_type).logits(ids)
        if kv_type == "f32":
            assert difference(made, wanted) <= TIGHT
        else:  # of so many positions a few are moved further by a number in the middle of two
            differences = [difference(a, b) for a, b in zip(made, wanted)]
            assert np.quantile(differences, 0.95) <= Q8_KV and max(differences) <= 10 * Q8_KV
        pieces, other = model.sequence(), model.sequence()
        while len(pieces) < len(ids):
            n = int(rng.choice([1, 3, 200, 300]))
            Sequence.feed_all([(pieces, ids[len(pieces) : len(pieces) + n]), (other, ids[: int(rng.integers(1, 5))])])
            assert pieces.logits().tobytes() == made[len(pieces) - 1].tobytes()
        assert window == 1 or difference(made[-1:], model.logits(ids[-window:], last=1)) > 1e-3
    with Model(tmp_path / "base.gguf", threads=5, kv_type=kv_type) as model:
        assert model.logits(ids).tobytes() == made.tobytes()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("type", ["f16", "bf16"])
@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_half_precision_weights(tmp_path: Path, arch: str, type: str, kv_type: str) -> None:
    """Products are computed from the weights as stored, in float32; only the cache may round."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, arch, type)
    write_adapter(tmp_path / "a.gguf", arch, random_factors(rng, shape), type=type)
    reference, adapter = Reference(tmp_path / "base.gguf", kv_type), ReferenceAdapter(tmp_path / "a.gguf")
    ids = random_ids(rng, shape, 70)
    with Model(tmp_path / "base.gguf", kv_type=kv_type) as model:
        model.load_adapter(tmp_path / "a.gguf")
        bound = TIGHT if kv_type == "f32" else F16_KV
        assert difference(model.logits(ids), reference.logits(ids)) <= bound
        assert difference(model.logits(ids, adapter="a"), reference.logits(ids, [(adapter, 1.0)])) <= bound


def test_pinned_threads_and_q8_0_cache(tmp_path: Path) -> None:
    """Pinning changes no bit; a Q8_0 cache rounds keys and values to 8 bits, and needs heads of whole blocks."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, "qwen2", head_dim=32, n_ctx=700)
    ids = random_ids(rng, shape, 600)  # more than one span
    with Model(tmp_path / "base.gguf", threads=2) as free, Model(tmp_path / "base.gguf", threads=2, pin=True) as pinned:
        wanted = free.logits(ids)
        assert wanted.tobytes() == pinned.logits(ids).tobytes()
    with Model(tmp_path / "base.gguf", threads=2, kv_type="q8_0") as model:
        rounded = model.logits(ids)
        sequence = model.sequence()
        for i in range(0, 600, 50):
            sequence.feed(ids[i : i + 50])
        assert sequence.logits().tobytes() == rounded[-1].tobytes()
        f32, q8 = free_kv_bytes(tmp_path, "f32"), free_kv_bytes(tmp_path, "q8_0")
        assert f32 * 34 == q8 * 128
    reference = Reference(tmp_path / "base.gguf", "q8_0").logits(ids)
    assert difference(rounded, reference) <= Q8_KV
    assert difference(rounded, wanted) > TIGHT
    tiny_model(tmp_path / "odd.gguf", rng, "qwen2", head_dim=16)
    with pytest.raises(ValueError, match=r"kv_type 'q8_0' needs heads of a multiple of 32.*use f16"):
        Model(tmp_path / "odd.gguf", kv_type="q8_0")


def free_kv_bytes(folder: Path, kv_type: str) -> int:
    """Bytes of a page of keys and values."""
    with Model(folder / "base.gguf", kv_type=kv_type) as model:
        sequence = model.sequence()
        sequence.feed([1])
        return model.memory()["kv"]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("whole_blocks", [True, False])
def test_q8_0(tmp_path: Path, arch: str, whole_blocks: bool) -> None:
    """Integer dot products of quantised activations. An activation within float32's rounding of the middle of two steps
    may go either way, which moves its position and may move later ones: with the adapter and without, most positions
    agree closely."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, arch, "q8_0", whole_blocks=whole_blocks)
    write_adapter(tmp_path / "a.gguf", arch, random_factors(rng, shape))
    reference, adapter = Reference(tmp_path / "base.gguf"), ReferenceAdapter(tmp_path / "a.gguf")
    assert not whole_blocks or {name for name in shape.linears if name in reference.w} == reference.quantised
    with Model(tmp_path / "base.gguf", kv_type="f32") as model:
        model.load_adapter(tmp_path / "a.gguf")
        differences = []
        for i in range(16):
            ids = random_ids(rng, shape, 5)
            name, set_ = ("a", [(adapter, 1.0)]) if i % 2 else (None, [])
            made, wanted = model.logits(ids, adapter=name), reference.logits(ids, set_)
            differences.append([difference(a, b) for a, b in zip(made, wanted, strict=True)])
    print(np.sort(differences, axis=None)[::-1][:20])
    for some in (differences[::2], differences[1::2]):
        assert np.mean(np.array(some) <= TIGHT) >= 0.7
    assert np.max(differences) < 1.5


@pytest.mark.parametrize("arch", ARCHS)
def test_every_tensor_counts(tmp_path: Path, arch: str) -> None:
    """No weight is read by another's name, and no adapter entry is left out: each alone changes the logits as it does
    in the reference."""
    rng = fresh_rng()
    bias = arch in ("llama", "qwen2", "gpt2", "stablelm", "smollm3")
    shape = random_shape(rng, arch, n_layer=2, tied=False, rope_factors=arch == "llama", bias=bias)
    tensors = random_tensors(rng, shape)
    ids = random_ids(rng, shape, 20)
    base = write_model(tmp_path / "base.gguf", shape, tensors)
    with Model(base) as model:
        alone = model.logits(ids)
        reference = Reference(base)
        for name in shape.linears:
            path = write_adapter(tmp_path / "a.gguf", arch, random_factors(rng, shape, [name]), alpha=3.0)
            model.load_adapter(path)
            made = model.logits(ids, adapter="a")
            model.unload_adapter("a")
            assert difference(made, alone) > 0.01, name
            assert difference(made, reference.logits(ids, [(ReferenceAdapter(path), 1.0)])) <= TIGHT, name
    unused = "long" if shape.extra.get("rope.scaling.original_context_length") == shape.n_ctx else "short"
    for name in [name for name in tensors if name not in shape.linears and name != f"rope_factors_{unused}.weight"]:
        changed = dict(tensors)
        changed[name] = rng.uniform(1.0, 3.0, tensors[name].shape).astype(np.float32)
        with Model(write_model(tmp_path / "changed.gguf", shape, changed)) as model:
            assert difference(model.logits(ids), alone) > 0.01, name
            assert difference(model.logits(ids), Reference(tmp_path / "changed.gguf").logits(ids)) <= TIGHT, name


def test_scores_are_the_logits_log_probabilities(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, "llama", "q8_0")
    write_adapter(tmp_path / "a.gguf", "llama", random_factors(rng, shape))
    ids = random_ids(rng, shape, 150)
    with Model(tmp_path / "base.gguf") as model:
        model.load_adapter(tmp_path / "a.gguf")
        for adapter in (None, "a", {"a": 0.5}):
            x = model.logits(ids, adapter=adapter).astype(np.float64)
            x -= x.max(axis=1, keepdims=True)
            p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
            scores = model.score(ids, adapter=adapter)
            assert scores.shape == (149,) and scores.dtype == np.float32
            np.testing.assert_allclose(scores, p[np.arange(149), ids[1:]], atol=2e-5)
        assert model.score(ids[:1]).shape == (0,)
        assert model.score([]).shape == (0,)
