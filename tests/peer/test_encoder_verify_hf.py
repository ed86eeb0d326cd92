"""`verify` of encoders against transformers with PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from lora_edge import verify
from lora_edge.compare.encoders import EncoderReport
from lora_edge.convert import convert_model
from test_encoder_adapters_hf import adapted
from test_encoders_hf import FAMILIES, save_model

# Wide and mild enough that rounding to 8 bits stays far below its limit.
WIDE = {
    "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128,
    "initializer_range": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["Model", "ForSequenceClassification"])
def test_a_conversion_and_its_folder(tmp_path: Path, family: str, kind: str) -> None:
    """Then with one weight of the folder changed, which is found."""
    folder = tmp_path / "hf"
    for type, sizes in (("q8_0", WIDE), ("f32", {})):
        reference = save_model(folder, family, kind, np.random.default_rng(), **sizes)
        path = convert_model(folder, tmp_path / f"{type}.gguf", type=type)
        report = verify(path, folder)
        assert report.ok and report.ids_equal and (report.type == "f32") == (type == "f32"), report.verdict
        assert isinstance(report, EncoderReport) and (report.logits is None) == (kind == "Model")
    shutil.copytree(folder, tmp_path / "changed")
    with torch.no_grad():
        reference.base_model.encoder.layer[0].attention.self.key.weight.mul_(2)
    reference.save_pretrained(tmp_path / "changed")
    report = verify(tmp_path / "f32.gguf", tmp_path / "changed")
    assert not report.ok and report.divergence is not None
    assert report.divergence.tensor == "blk.0.attn_output.weight", report.verdict


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_that_brings_labels(tmp_path: Path, family: str) -> None:
    folder = tmp_path / "hf"
    save_model(folder, family, "Model", np.random.default_rng())
    bare = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    adapted(bare, "SEQ_CLS").save_pretrained(tmp_path / "a")
    path = convert_model(folder, tmp_path / "m.gguf", type="f32")
    report = verify(path, folder, adapters=[(tmp_path / "a", 1.0)])
    assert isinstance(report, EncoderReport) and report.ok and report.logits is not None, report.verdict
