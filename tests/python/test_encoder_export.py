"""Encoders back to Hugging Face folders: the tensors and files that came in, or a refusal that leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_edge.convert import convert_model, export_model
from lora_edge.gguf_file import open_gguf
from lora_edge.safetensors_file import SafetensorsFile
from test_encoder import LABELS, bert_folder, tensors_of, write_gguf


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_what_came_in_goes_out(tmp_path: Path, head: str) -> None:
    source = bert_folder(tmp_path / "hf", np.random.default_rng(), head)
    if head == "Model":  # as sentence-transformers saves it
        (tmp_path / "hf" / "modules.json").write_text("[]")
        (tmp_path / "hf" / "1_Pooling").mkdir()
        (tmp_path / "hf" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32", name="x")
    out = export_model(path, tmp_path / "out")
    stored = SafetensorsFile(out / "model.safetensors")
    prefix = "" if head == "Model" else "bert."
    names = {name if name.startswith("classifier") else prefix + name: x for name, x in source.items()}
    assert set(stored) == set(names)
    for name, x in names.items():
        assert np.array_equal(stored.array(name), x)
    config = json.loads((out / "config.json").read_text())
    given = json.loads((tmp_path / "hf" / "config.json").read_text())
    for field in set(given) - {"id2label"}:
        assert config[field] == given[field]
    if head != "Model":
        assert config["id2label"] == {str(i): label for i, label in enumerate(LABELS)}
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert (settings["cls_token"], settings["sep_token"], settings["pad_token"]) == ("[CLS]", "[SEP]", "[PAD]")
    assert (out / "tokenizer.json").read_text() == (tmp_path / "hf" / "tokenizer.json").read_text()
    again = convert_model(out, tmp_path / "b.gguf", type="f32", name="x")
    assert again.read_bytes() == path.read_bytes()


def rewritten(path: Path, out: Path, change: dict[str, Any]) -> Path:
    """The file with other tensors; None leaves one out."""
    tensors = tensors_of(path)
    for name, x in change.items():
        if x is None:
            del tensors[name]
        else:
            tensors[name] = (x, tensors.get(name, next(iter(tensors.values())))[1])
    return write_gguf(out, tensors, path)


def test_a_file_without_labels_and_tokenizer(tmp_path: Path) -> None:
    """As another converter might leave it: the labels get transformers' default names."""
    bert_folder(tmp_path / "hf", np.random.default_rng())
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    bare = write_gguf(tmp_path / "bare.gguf", tensors_of(path), path)
    out = export_model(bare, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_refusals(tmp_path: Path) -> None:
    bert_folder(tmp_path / "hf", np.random.default_rng())
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    d = len(open_gguf(path).tensors["cls.bias"])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cls.weight": None}, r"'cls\.weight' is missing"),
        ({"blk.1.attn_q.bias": None}, r"'blk\.1\.attn_q\.bias' is missing"),
        ({"blk.2.attn_q.weight": np.zeros((d, d), np.float32)}, r"'blk\.2\.attn_q\.weight' has no place"),
        ({"extra.weight": np.zeros((d, d), np.float32)}, r"'extra\.weight' has no place"),
        ({"position_embd.weight": np.zeros((7, d), np.float32)}, r"'position_embd\.weight' has the shape \(7, 24\)"),
        ({"token_types.weight": None}, r"'token_types\.weight'"),
        ({"token_embd.weight": None}, r"'token_embd\.weight' is missing"),
    ]
    for change, message in cases:
        bad = rewritten(path, tmp_path / "bad.gguf", change)
        with pytest.raises(ValueError, match=message):
            export_model(bad, tmp_path / "no")
        assert not (tmp_path / "no").exists() and not list(tmp_path.glob(".no*"))
