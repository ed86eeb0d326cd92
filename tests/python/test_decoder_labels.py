"""Labels that an adapter brings to a decoder: a layer on the last token's normed hidden state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lora_edge import Model
from lora_edge.adapter_file import AdapterFile, BaseInfo, LoraEntry, Whole, read_adapter
from lora_edge.convert.adapter_gguf import write_adapter
from lora_edge.convert.adapter_peft import write_peft
from lora_edge.gguf_file import open_gguf
from lora_edge.taps import inputs_of
from tiny_models import ARCHS, fresh_rng, random_factors, random_ids, random_shape, random_tensors, write_model

LABELS = "cls.output.weight"


@pytest.mark.parametrize("arch", ARCHS)
def test_labels(tmp_path: Path, arch: str) -> None:
    """As a folder and as GGUF; the hidden states are, to the bit, those that make the logits of the vocabulary."""
    rng = fresh_rng()
    shape = random_shape(rng, arch, whole_blocks=True)
    path = write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), str(rng.choice(["f32", "q8_0"])))
    info = BaseInfo.from_gguf(open_gguf(path))
    chosen = [name for name in shape.linears if name.startswith("blk.0.") and rng.random() < 0.5]
    factors = random_factors(rng, shape, chosen or ["blk.0.ffn_down.weight"])
    weight = rng.standard_normal((3, info.shapes["token_embd.weight"][1])).astype(np.float32)
    entries = {name: LoraEntry(a, b, 0.5) for name, (a, b) in factors.items()}
    adapter = AdapterFile("a", "gguf", entries, {}, wholes={LABELS: Whole(weight)}, labels=["x", "y", "z"])
    write_adapter(adapter, info, tmp_path / "a.gguf", "f32", "a", None)
    write_peft(adapter, info, tmp_path / "folder", "f32", "base")
    with Model(path, n_ctx=512) as model:
        texts = [random_ids(rng, shape, n) for n in (1, 5, 300)]
        for name in ("a.gguf", "folder"):
            model.load_adapter(tmp_path / name, name=name)
            for ids, found in zip(texts, model.classify(texts, adapter=name), strict=True):
                last = inputs_of(model, ids, name)["output.weight"][-1]
                assert np.array_equal(found.logits, weight @ last + np.float32(0))
                assert list(found.scores) == ["x", "y", "z"] and abs(sum(found.scores.values()) - 1) < 1e-6
            alone = model.hidden_states(texts[1:2], adapter=name)[0]
            assert np.array_equal(alone, inputs_of(model, texts[1], name)["output.weight"])


def test_refusals(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, "llama")
    path = write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), "f32")
    info = BaseInfo.from_gguf(open_gguf(path))
    d = info.shapes["token_embd.weight"][1]

    def written(name: str, n: int = 2, k: int = d, labels: tuple[str, ...] = (), **changes: list[int]) -> Path:
        wholes = {LABELS: Whole(rng.standard_normal((n, k)).astype(np.float32))}
        adapter = AdapterFile("a", "gguf", {}, {}, wholes=wholes, labels=list(labels), **changes)
        write_adapter(adapter, info, tmp_path / name, "f32", "a", None)
        return tmp_path / name

    with Model(path) as model:
        for source, match in (
            (written("wide.gguf", k=d + 1), f"{LABELS}' of shape"),
            (written("names.gguf", labels=("a",)), "names 1 labels, and has not as many"),
            (written("late.gguf", invocation=[1]), "has invocation tokens"),
        ):
            with pytest.raises(ValueError, match=match):
                model.load_adapter(source)
        for name in ("a", "b"):
            model.load_adapter(written(f"{name}.gguf"), name=name)
        assert list(model.classify([[1, 2]], adapter="a")[0].scores) == ["LABEL_0", "LABEL_1"]
        for spec, match in ((None, "is no classifier"), ({"a": 1.0, "b": 1.0}, "two adapters replace")):
            with pytest.raises(ValueError, match=match):
                model.classify([[1, 2]], adapter=spec)
        with pytest.raises(ValueError, match="exceed the context"):
            model.classify([[1] * (model.n_ctx + 1)], adapter="a")
        with pytest.raises(ValueError, match="is no encoder"):
            model.embed([[1, 2]], adapter="a")
        assert model.generate([1, 2], adapter="a", max_tokens=2) == model.generate([1, 2], max_tokens=2)
    assert read_adapter(tmp_path / "a.gguf", info.arch, info).labels == []
