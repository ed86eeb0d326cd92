"""DoRA, biases of lora_B and whole modules in the engine against their definitions in plain numpy, on bases of each
type as they are deployed; and that they leave no trace."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from lora_edge.convert.merge import merge
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from reference import Adapters, Array, Reference, ReferenceAdapter, q8_round_trip
from tiny_models import (
    Shape,
    Tensors,
    fresh_rng,
    random_factors,
    random_ids,
    random_shape,
    random_tensors,
    tiny_model,
    write_adapter,
    write_model,
)

BOUND = 5e-4


def extend(path: Path, extra: Tensors) -> Path:
    """The adapter file with more tensors, in F32."""
    reader = gguf.GGUFReader(path)
    w = gguf.GGUFWriter(str(path) + ".new", str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            w.add_key_value(key, field.contents(), field.types[0])
    for t in reader.tensors:
        w.add_tensor(t.name, np.array(t.data), None, t.tensor_type)
    for name, x in extra.items():
        w.add_tensor(name, x.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return Path(str(path) + ".new").rename(path)


class Judge(Reference):
    """The decoder with adapters as PEFT defines them: DoRA's y = b + c ∘ (W·x + s·B(A·x)), c = m / ‖W + s·BA‖, after
    what the adapters before it made."""

    def logits(self, ids: Seq[int], adapters: Adapters = ()) -> Array:
        """One of weight 0 is left out."""
        return super().logits(ids, [(adapter, weight) for adapter, weight in adapters if weight])

    def linear(self, x: Array, name: str, adapters: Adapters) -> Array:
        key = f"{name}.weight"
        stored = key if key in self.w else "token_embd.weight"
        wholes = [a.tensors[f"{key}.modules_to_save"] for a, _ in adapters if f"{key}.modules_to_save" in a.tensors]
        bias = self.w.get(f"{name}.bias", np.zeros(len(self.w[stored])))
        for adapter, _ in adapters:
            bias = adapter.tensors.get(f"{name}.bias.modules_to_save", bias)
        weight = wholes[0] if wholes else self.w[stored]
        y = (q8_round_trip(x) if stored in self.quantised and not wholes else x) @ weight.T + bias
        for adapter, given in adapters:
            found = adapter.factors(key)
            if not found:
                continue
            a, b, scale = found[0], found[1], found[2] * given
            y = y + scale * ((x @ a.T) @ b.T + adapter.tensors.get(f"{key}.lora_b.bias", 0.0))
            if f"{key}.lora_magnitude" in adapter.tensors:
                norm = np.sqrt(((self.w[stored] + scale * b @ a) ** 2).sum(axis=1))
                y = (y - bias) * (adapter.tensors[f"{key}.lora_magnitude"] / norm) + bias
        return np.asarray(y)

    def embed(self, ids: Seq[int], adapters: Adapters) -> Array:
        key = "token_embd.weight"
        weight = self.w[key]
        for adapter, _ in adapters:
            weight = adapter.tensors.get(f"{key}.modules_to_save", weight)
        x = weight[list(ids)]
        for adapter, given in adapters:
            found = adapter.factors(key)
            if not found:
                continue
            a, b, scale = found[0], found[1], found[2] * given
            x = x + scale * (a[list(ids)] @ b.T)
            if f"{key}.lora_magnitude" in adapter.tensors:
                norm = np.sqrt(((weight + scale * a @ b.T) ** 2).sum(axis=0))
                x = x * (adapter.tensors[f"{key}.lora_magnitude"] / norm)
        return np.asarray(x)


def magnitudes(rng: np.random.Generator, base: Path, shape: Shape, tensors: list[str]) -> Tensors:
    """Near the norms of the base's rows, and for the embedding of its columns."""
    w = Reference(base).w
    out = {}
    for name in tensors:
        weight = w.get(name, w["token_embd.weight"])
        norm = np.sqrt((weight**2).sum(axis=0 if name == "token_embd.weight" else 1))
        out[f"{name}.lora_magnitude"] = norm * rng.uniform(0.6, 1.5, len(norm))
    return out


def dora(rng: np.random.Generator, folder: Path, shape: Shape, name: str, **options: Any) -> Path:
    factors = random_factors(rng, shape, **options)
    path = write_adapter(folder / f"{name}.gguf", shape.arch, factors, alpha=3.0)
    return extend(path, magnitudes(rng, folder / "base.gguf", shape, [*factors]))


def whole(rng: np.random.Generator, folder: Path, shape: Shape, name: str, tensors: list[str], biased: bool) -> Path:
    """Some whole weights, and factors for what is left; biases where the base has them."""
    factors = random_factors(rng, shape, [n for n in shape.linears if n not in tensors])
    path = write_adapter(folder / f"{name}.gguf", shape.arch, factors)
    extra: Tensors = {}
    for tensor in tensors:
        n, k = shape.linears[tensor]
        extra[f"{tensor}.modules_to_save"] = rng.standard_normal((n, k)) / (1 if "token_embd" in tensor else k**0.5)
        stem = tensor.removesuffix("weight")
        if biased and stem.endswith(("attn_q.", "attn_k.", "attn_v.")):
            extra[f"{stem}bias.modules_to_save"] = rng.standard_normal(n)
    return extend(path, extra)


def biases(rng: np.random.Generator, folder: Path, shape: Shape, name: str) -> Path:
    factors = random_factors(rng, shape)
    path = write_adapter(folder / f"{name}.gguf", shape.arch, factors, alpha=5.0)
    extra = {f"{t}.lora_b.bias": rng.standard_normal(len(b)) for t, (_, b) in factors.items() if "embd" not in t}
    return extend(path, extra)


@pytest.mark.parametrize(("arch", "type"), [("llama", "f32"), ("qwen2", "f32"), ("llama", "q8_0"), ("qwen2", "q8_0"),
                                            ("qwen3", "f16"), ("qwen2", "bf16")])  # fmt: skip
def test_kinds(tmp_path: Path, arch: str, type: str) -> None:
    rng = fresh_rng()
    base = tmp_path / "base.gguf"
    shape = tiny_model(base, rng, arch, type)
    judge = Judge(base)
    biased = any(name.endswith("attn_q.bias") for name in judge.w)
    paths = {
        "dora": dora(rng, tmp_path, shape, "dora"), "small": dora(rng, tmp_path, shape, "small", r=2),
        "bias": biases(rng, tmp_path, shape, "bias"),
        "whole": whole(rng, tmp_path, shape, "whole", ["token_embd.weight", "output.weight", "blk.0.attn_q.weight",
                                                       "blk.0.ffn_down.weight"], biased),
    }  # fmt: skip
    adapters = {name: ReferenceAdapter(path) for name, path in paths.items()}
    ids = random_ids(rng, shape, 40)
    with Model(base, threads=2, kv_type="f32") as model:
        alone = model.logits(ids)
        for name, path in paths.items():
            model.load_adapter(path, name=name)
        specs: list[dict[str, float]] = [
            *({name: 1.0} for name in paths), {"dora": -0.5}, {"bias": 2.0}, {"whole": 0.3}, {"dora": 1.0, "bias": 1.0},
            {"bias": 1.0, "small": 1.5, "dora": 1.0}, {"dora": 1.0, "small": 1.0}, {"dora": 0.0, "whole": 0.0},
        ]  # fmt: skip
        # Where inputs are rounded to bytes, one halfway between two may go either way, which moves that position and
        # may move later ones.
        close = []
        for spec in specs:
            made = model.logits(ids, adapter=spec)
            wanted = judge.logits(ids, [(adapters[name], weight) for name, weight in spec.items()])
            errors = np.abs(made - wanted).max(1) / max(1.0, float(wanted.std()))
            assert errors.max() <= (BOUND if type != "q8_0" else 0.3), spec
            close.append(np.mean(errors <= BOUND))
            off = not any(spec.values())
            assert np.array_equal(made, alone) if off else np.abs(made - alone).max() > 0.1
            assert model.logits(ids).tobytes() == alone.tobytes()
        print(np.round(close, 3))
        assert np.count_nonzero(close) >= len(specs) - 1 and np.mean(close) >= 0.75


@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_each_row_has_its_own(tmp_path: Path, type: str) -> None:
    """A batch of adapters of every kind gives each sequence the bits that it has alone; so do threads and pieces."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, "qwen2", type)
    write_adapter(tmp_path / "plain.gguf", "qwen2", random_factors(rng, shape))
    dora(rng, tmp_path, shape, "dora")
    biases(rng, tmp_path, shape, "bias")
    whole(rng, tmp_path, shape, "whole", ["output.weight", "token_embd.weight", "blk.0.ffn_up.weight"], False)
    specs: list[Any] = [None, "whole", "dora", "plain", "whole", {"bias": 1.0, "dora": 0.5}, None, "bias", "whole"]
    texts = [random_ids(rng, shape, int(rng.integers(1, 50))) for _ in specs]
    alone = []
    for threads in (1, 3):
        with Model(tmp_path / "base.gguf", threads=threads) as model:
            for name in ("plain", "dora", "bias", "whole"):
                model.load_adapter(tmp_path / f"{name}.gguf")
            one_by_one = [model.logits(t, adapter=a, last=1)[0] for t, a in zip(texts, specs, strict=True)]
            sequences = [model.sequence(adapter=a) for a in specs]
            model.core.forward([(s.core, t, 1) for s, t in zip(sequences, texts, strict=True)])
            for sequence, wanted in zip(sequences, one_by_one, strict=True):
                assert sequence.core.logits().tobytes() == wanted.tobytes()
            for text, spec, wanted in zip(texts, specs, one_by_one, strict=True):
                sequence = model.sequence(adapter=spec)
                for token in text:
                    sequence.feed([token])
                assert sequence.logits().tobytes() == wanted.tobytes()
            alone.append(one_by_one)
    assert np.array_equal(alone[0], alone[1])


@pytest.mark.parametrize(("type", "scale_at"), [("q8_0", 0), ("q4_0", 0), ("q5_1", 2), ("q6_k", 208)])
def test_whole_weights_in_blocks(tmp_path: Path, type: str, scale_at: int) -> None:
    """They give the bits of a base that has them, and are read to their end only."""
    rng = fresh_rng()
    shape = random_shape(rng, "llama", d=256, n_head=4, n_kv=2, head_dim=64, n_ff=256, bias=False)
    tensors, name = random_tensors(rng, shape), "blk.0.attn_v.weight"
    write_model(tmp_path / "base.gguf", shape, tensors, type)
    write_model(tmp_path / "other.gguf", shape, {**tensors, name: tensors[name][::-1].copy()}, type)
    (stored,) = (t for t in gguf.GGUFReader(tmp_path / "other.gguf").tensors if t.name == name)
    raw = np.array(stored.data)
    assert stored.tensor_type.name.lower() == type
    for kind in ("good", "bad"):
        w = gguf.GGUFWriter(str(tmp_path / f"{kind}.gguf"), "llama")
        w.add_type("adapter")
        w.add_string("adapter.type", "lora")
        w.add_tensor(f"{name}.modules_to_save", raw, raw_dtype=stored.tensor_type)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        raw = raw.copy()
        raw[-1, -gguf.GGML_QUANT_SIZES[stored.tensor_type][1] :][scale_at : scale_at + 2] = (0x00, 0x7E)
    ids = random_ids(rng, shape, 9)
    with Model(tmp_path / "base.gguf") as model, Model(tmp_path / "other.gguf") as other:
        model.load_adapter(tmp_path / "good.gguf")
        assert model.logits(ids, adapter="good").tobytes() == other.logits(ids).tobytes()
        assert model.logits(ids).tobytes() != other.logits(ids).tobytes()
        with pytest.raises(ValueError, match="NaN or infinity"):
            model.load_adapter(tmp_path / "bad.gguf")


BAD: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "a magnitude too long": ({"blk.0.attn_q.weight.lora_magnitude": np.ones(3)}, "lora_magnitude has 3 elements"),
    "a bias too long": ({"blk.0.attn_q.weight.lora_b.bias": np.ones(3)}, "bias of lora_b has 3 elements"),
    "a magnitude that is none": ({"blk.0.attn_q.weight.lora_magnitude": np.full(16, np.nan)}, "NaN or infinity"),
    "a magnitude alone": ({"blk.0.attn_k.weight.lora_magnitude": np.ones(16)}, "has no lora_a"),
    "a matrix as magnitude": ({"blk.0.attn_q.weight.lora_magnitude": np.ones((2, 8))}, "must be a vector of F32"),
    "a whole of another shape": ({"output.weight.modules_to_save": np.ones((4, 4))}, r"output\.weight is \(4, 4\)"),
    "a whole beside factors": ({"blk.0.attn_q.weight.modules_to_save": np.ones((16, 16))}, "both replaced and adapted"),
    "a whole of no tensor": ({"blk.9.attn_q.weight.modules_to_save": np.ones((16, 16))}, "another base"),
    "a whole norm": ({"output_norm.weight.modules_to_save": np.ones(16)}, "another base"),
    "a whole with NaN": ({"blk.0.attn_v.weight.modules_to_save": np.full((16, 16), np.nan)}, "NaN or infinity"),
    "a whole without its bias": ({"blk.0.attn_v.bias.modules_to_save": np.ones(16)}, "no whole weight, but its bias"),
    "a bias that the base lacks": ({"blk.0.attn_v.weight.modules_to_save": np.ones((16, 16)),
                                    "blk.0.attn_v.bias.modules_to_save": np.ones(16)}, "has no bias in the base"),
    "a short bias of a whole": ({"blk.0.attn_v.weight.modules_to_save": np.ones((16, 16)),
                                 "blk.0.attn_v.bias.modules_to_save": np.ones(3)}, "has 3 elements for 16 outputs"),
    "DoRA of an absurd rank": ({"blk.0.attn_v.weight.lora_a": np.ones((2049, 16)),
                                "blk.0.attn_v.weight.lora_b": np.ones((16, 2049)),
                                "blk.0.attn_v.weight.lora_magnitude": np.ones(16)}, "DoRA of rank 2049; at most 2048"),
    "an unknown part": ({"blk.0.attn_q.weight.lora_c": np.ones(16)}, "not supported"),
    "a lookup of another tensor": ({"blk.0.attn_q.weight.lookup_only": np.ones(1)}, "not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_parts_that_do_not_belong(tmp_path: Path, case: str) -> None:
    rng = fresh_rng()
    extra, message = BAD[case]
    tiny_model(tmp_path / "base.gguf", rng, d=16, n_head=2, n_kv=2, head_dim=8, n_layer=1, bias="short bias" in case)
    shapes = {"blk.0.attn_q.weight": (16, 16)}
    factors = {n: (np.ones((2, k), np.float32), np.ones((m, 2), np.float32)) for n, (m, k) in shapes.items()}
    path = extend(write_adapter(tmp_path / "a.gguf", "llama", factors), extra)
    with Model(tmp_path / "base.gguf") as model:
        with pytest.raises(ValueError, match=message):
            model.load_adapter(path)
        assert not model.adapters


def test_a_row_of_zeros_has_no_norm(tmp_path: Path) -> None:
    """DoRA divides by the norm of W + s·B·A."""
    rng = fresh_rng()
    tiny_model(tmp_path / "base.gguf", rng, d=16, n_head=2, n_kv=2, head_dim=8, n_layer=1)
    name = "blk.0.attn_v.weight"
    w = Reference(tmp_path / "base.gguf").w[name].astype(np.float32)
    b = np.zeros((16, 1), np.float32)
    b[5] = 1
    path = write_adapter(tmp_path / "a.gguf", "llama", {name: (-w[5:6], b)})
    extend(path, {f"{name}.lora_magnitude": np.ones(16)})
    with Model(tmp_path / "base.gguf") as model, pytest.raises(ValueError, match=r"attn_v\.weight: DoRA divides"):
        model.load_adapter(path)


@pytest.mark.parametrize(("arch", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("gemma3", True)])
def test_merged_wholes(tmp_path: Path, arch: str, tied: bool) -> None:
    """Merging takes whole weights as they are; the merged model says what the base says with the adapter beside it."""
    rng = fresh_rng()
    base = tmp_path / "base.gguf"
    shape = tiny_model(base, rng, arch, "f32", tied=tied)
    biased = "blk.0.attn_q.bias" in open_gguf(base).tensors
    tensors = ["token_embd.weight", "blk.0.attn_q.weight", *([] if tied else ["output.weight"])]
    adapter = whole(rng, tmp_path, shape, "whole", tensors, biased)
    merge(base, [(adapter, 0.5)], tmp_path / "merged.gguf")
    stored, given = open_gguf(tmp_path / "merged.gguf").tensors, open_gguf(adapter).tensors
    assert all(np.array_equal(stored[name], given[f"{name}.modules_to_save"]) for name in tensors)
    ids = [int(i) for i in rng.integers(0, shape.n_vocab, 20)]
    with Model(base) as beside, Model(tmp_path / "merged.gguf") as merged:
        beside.load_adapter(adapter, name="a")
        assert np.abs(merged.logits(ids) - beside.logits(ids, adapter={"a": 0.5})).max() < 2e-3
    if biased:
        bare = whole(rng, tmp_path, shape, "bare", ["blk.0.attn_q.weight"], False)
        with pytest.raises(ValueError, match=r"only the base has a blk\.0\.attn_q\.bias"):
            merge(base, [(bare, 1.0)], tmp_path / "no.gguf")
