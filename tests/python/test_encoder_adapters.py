"""Adapters of a classifier: labels, the pooler and linears, beside the same sums in numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_folders import write_peft as write_folder
from lora_edge import load, merge
from lora_edge.adapter_file import BaseInfo, read_adapter
from lora_edge.convert import convert_adapter, convert_model, export_model
from lora_edge.convert.adapter_gguf import write_adapter
from lora_edge.convert.adapter_peft import write_peft
from lora_edge.gguf_file import open_gguf
from lora_edge.safetensors_file import SafetensorsFile
from test_encoder import LABELS, D, Tensors, bert_folder, forward

R, SCALE = 4, 2.0  # write_folder's lora_alpha / r
QUERY, POOLER = "encoder.layer.1.attention.self.query", "pooler.dense"


def adapter(folder: Path, rng: np.random.Generator, n_labels: int = 3, **config: Any) -> Tensors:
    """LoRA of a query and of the pooler, and whole labels."""
    tensors: Tensors = {}
    for module in (QUERY, POOLER):
        tensors[f"bert.{module}.lora_A.weight"] = rng.normal(0, 0.3, (R, D)).astype(np.float32)
        tensors[f"bert.{module}.lora_B.weight"] = rng.normal(0, 0.3, (D, R)).astype(np.float32)
    if n_labels:
        tensors["classifier.weight"] = rng.normal(0, 0.3, (n_labels, D)).astype(np.float32)
        tensors["classifier.bias"] = rng.normal(0, 0.3, n_labels).astype(np.float32)
    fields = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"], **config}
    write_folder(folder, {f"base_model.model.{name}": x for name, x in tensors.items()}, **fields)
    return tensors


def with_update(base: Tensors, tensors: Tensors, weight: float = 1.0) -> Tensors:
    """The base with W + s·B·A."""
    out = dict(base)
    for module in (QUERY, POOLER):
        a, b = (tensors[f"bert.{module}.lora_{side}.weight"] for side in "AB")
        out[f"{module}.weight"] = base[f"{module}.weight"] + np.float32(SCALE * weight) * b @ a
    return out


def logits(t: Tensors, head: Tensors, ids: list[int]) -> np.ndarray:
    first = forward(t, ids, [0] * len(ids))[0]
    pooled = np.tanh(t["pooler.dense.weight"] @ first + t["pooler.dense.bias"])
    return np.asarray(head["classifier.weight"] @ pooled + head["classifier.bias"])


@pytest.mark.parametrize("head", ["ForSequenceClassification", "Model"])
def test_labels_of_an_adapter(tmp_path: Path, head: str) -> None:
    rng = np.random.default_rng()
    base = bert_folder(tmp_path / "hf", rng, head)
    path = convert_model(tmp_path / "hf", tmp_path / "base.gguf", type="f32")
    given = adapter(tmp_path / "a", rng)
    ids = [2, 5, 7, 9, 3]
    converted = convert_adapter(tmp_path / "a", path, tmp_path / "a.gguf", type="f32")
    back = convert_adapter(converted, tmp_path / "hf", tmp_path / "back")
    with load(path) as model:
        for i, source in enumerate((tmp_path / "a", converted, back)):
            loaded = model.load_adapter(source, name=str(i))
            assert loaded.ranks == {"blk.1.attn_q.weight": R, "cls.weight": R} and loaded.n_bytes > 4 * 3 * D
            for weight in (1.0, 0.5):
                found = model.classify([ids], adapter={str(i): weight})[0].logits
                assert np.abs(found - logits(with_update(base, given, weight), given, ids)).max() < 1e-4
        if head != "Model":
            assert np.abs(model.classify([ids])[0].logits - logits(base, base, ids)).max() < 1e-4
        with pytest.raises(ValueError, match=r"two adapters replace cls\.output\.weight"):
            model.classify([ids], adapter={"0": 1, "1": 1})
        assert np.array_equal(
            model.classify([ids], adapter={"0": 1, "1": 0})[0].logits, model.classify([ids], adapter="0")[0].logits
        )
    with pytest.raises(ValueError, match=r"two adapters replace cls\.output\.weight"):
        merge(path, [(tmp_path / "a", 1.0), (converted, 1.0)], tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()
    for weight in (1.0, 0.5):
        merge(path, [(tmp_path / "a", weight), (converted, 0.0)], tmp_path / "merged.gguf")
        with load(tmp_path / "merged.gguf") as model:
            found = model.classify([ids])[0]
            assert list(found.scores) == (LABELS if head != "Model" else ["LABEL_0", "LABEL_1", "LABEL_2"])
            assert np.abs(found.logits - logits(with_update(base, given, weight), given, ids)).max() < 1e-4
        stored = open_gguf(tmp_path / "merged.gguf").tensors
        assert np.array_equal(stored["cls.output.weight"], given["classifier.weight"])
        assert np.array_equal(stored["cls.output.bias"], given["classifier.bias"])
    folder = export_model(tmp_path / "merged.gguf", tmp_path / "exported")
    assert np.array_equal(SafetensorsFile(folder / "model.safetensors").array("classifier.weight"),
                          given["classifier.weight"])  # fmt: skip


def test_names_of_labels(tmp_path: Path) -> None:
    """They go wherever the labels go."""
    rng = np.random.default_rng()
    bert_folder(tmp_path / "hf", rng, "Model")
    path = convert_model(tmp_path / "hf", tmp_path / "base.gguf", type="f32")
    info = BaseInfo.from_gguf(open_gguf(path))
    adapter(tmp_path / "a", rng)
    named = replace(read_adapter(tmp_path / "a", info.arch, info), labels=["cat", "dog", "ant"])
    write_adapter(named, info, tmp_path / "named.gguf", "f32", "named", None)
    convert_adapter(tmp_path / "named.gguf", path, tmp_path / "folder")
    merge(path, [(tmp_path / "folder", 1.0)], tmp_path / "merged.gguf")
    with load(path) as model, load(tmp_path / "merged.gguf") as merged:
        for source in ("named.gguf", "folder"):
            model.load_adapter(tmp_path / source, name=source)
            assert list(model.classify([[2, 5, 3]], adapter=source)[0].scores) == named.labels
        assert list(merged.classify([[2, 5, 3]])[0].scores) == named.labels
        for wrong, match in ((["cat"], "names 1 labels, and has not as many"), (["a", "b", "a"], "the same label")):
            write_adapter(replace(named, labels=wrong), info, tmp_path / "wrong.gguf", "f32", "wrong", None)
            write_peft(replace(named, labels=wrong), info, tmp_path / f"wrong{len(wrong)}", "f32", "base")
            for source in ("wrong.gguf", f"wrong{len(wrong)}"):
                with pytest.raises(ValueError, match=match):
                    model.load_adapter(tmp_path / source)


def test_a_merged_pooler(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    base = bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "base.gguf", type="f32")
    given = adapter(tmp_path / "a", rng, 0, task_type="FEATURE_EXTRACTION", modules_to_save=None)
    merge(path, [(tmp_path / "a", 0.5)], tmp_path / "merged.gguf")
    with load(tmp_path / "merged.gguf") as model:
        found = model.classify([[2, 5, 3]])[0].logits
    assert np.abs(found - logits(with_update(base, given, 0.5), base, [2, 5, 3])).max() < 1e-4


def test_refusals(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    bert_folder(tmp_path / "hf", rng)
    bert_folder(tmp_path / "bare", rng, "Model")
    path = convert_model(tmp_path / "hf", tmp_path / "base.gguf", type="f32")
    bare = convert_model(tmp_path / "bare", tmp_path / "bare.gguf", type="f32")

    def refused(base: Path, match: str, **changes: Any) -> None:
        adapter(tmp_path / "a", rng, **changes)
        with load(base) as model, pytest.raises(ValueError, match=match):
            model.load_adapter(tmp_path / "a")
        with pytest.raises(ValueError, match=match):
            convert_adapter(tmp_path / "a", base, tmp_path / "no.gguf")
        assert not (tmp_path / "no.gguf").exists()

    refused(path, "task_type 'TOKEN_CLS' is not supported", task_type="TOKEN_CLS")
    refused(bare, "task_type None is not supported", task_type=None)
    refused(path, r"cls.output.weight is \(4, 24\) in the adapter and \(3, 24\) in the base", n_labels=4)
    refused(path, "holds no layer to the labels", n_labels=0)
    adapter(tmp_path / "a", rng, alora_invocation_tokens=[5])
    with load(path) as model, pytest.raises(ValueError, match="aLoRA"):
        model.load_adapter(tmp_path / "a")
    adapter(tmp_path / "a", rng)
    with load() as decoder, pytest.raises(ValueError, match="'classifier', the head of a classifier: "):
        decoder.load_adapter(tmp_path / "a")
    with pytest.raises(ValueError, match="mlx-lm has no encoders"):
        convert_adapter(tmp_path / "a", path, tmp_path / "mlx", to="mlx")
