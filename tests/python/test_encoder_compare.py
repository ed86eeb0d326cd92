"""verify, extract, merge and fit on encoders."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hf_folders import write_peft
from lora_edge import extract, fit, load, merge, verify
from lora_edge.cli.main import main
from lora_edge.compare.encoders import EncoderReport
from lora_edge.convert import convert_model
from lora_edge.gguf_file import open_gguf
from test_encoder import Tensors, bert_folder, tensors_of, write_gguf
from test_encoder_adapters import adapter


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def tuned(base: Path, out: Path, rng: np.random.Generator, names: list[str]) -> Path:
    """The file with an update of rank 2 of these tensors, without its tokenizer and labels' names."""
    tensors = tensors_of(base)
    for name in names:
        x = tensors[name][0]
        change = rng.normal(0, 0.3, (x.shape[0], 2)) @ rng.normal(0, 0.3, (2, x.shape[1]))
        tensors[name] = (x + change).astype(np.float32), gguf.GGMLQuantizationType.F32
    return write_gguf(out, tensors, base)


def test_the_same_and_different(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    bert_folder(tmp_path / "hf", rng, d=96)
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    rounded = convert_model(tmp_path / "hf", tmp_path / "q.gguf", type="q8_0")
    report = verify(path, path)
    assert isinstance(report, EncoderReport) and report.ok and report.max_abs == 0 and report.ids_equal
    assert report.logits == 0 and report.top1 == 1 and report.texts > 5
    assert main(["verify", str(path), "--against", str(path)]) == 0
    assert "the same within the limits of f32" in capsys.readouterr().out
    report = verify(rounded, path)
    assert isinstance(report, EncoderReport) and report.type == "q8_0" and 0 < report.error < 0.1 and report.ok
    for name in ("blk.1.attn_k.weight", "blk.0.ffn_up.weight"):
        other = tuned(path, tmp_path / "other.gguf", rng, [name])
        assert main(["verify", str(other), "--against", str(path), "--json"]) == 3
        said = json.loads(capsys.readouterr().out)
        assert not said["ok"] and said["ids_equal"] is None
        after = "blk.1.attn_output.weight" if "attn_k" in name else "blk.0.ffn_down.weight"
        assert said["divergence"]["tensor"] == after
    head = tuned(path, tmp_path / "head.gguf", rng, ["cls.output.weight"])
    report = verify(head, path)
    assert isinstance(report, EncoderReport) and report.error == 0 and not report.ok
    with pytest.raises(ValueError, match="an encoder is compared with a folder or another GGUF file"):
        verify(path, "llama.cpp")


def test_verify_a_merged_adapter(tmp_path: Path, rng: np.random.Generator) -> None:
    bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    adapter(tmp_path / "a", rng, 0, task_type="FEATURE_EXTRACTION", modules_to_save=None)
    merge(path, [(tmp_path / "a", 0.5)], tmp_path / "merged.gguf")
    assert verify(path, tmp_path / "merged.gguf", adapters=[(tmp_path / "a", 0.5)], merged=True).ok
    assert not verify(path, tmp_path / "merged.gguf").ok


def test_extract(tmp_path: Path, rng: np.random.Generator) -> None:
    """Also of the pooler and the embedding, and never of what is only added."""
    bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    changed = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight", "cls.weight", "cls.output.weight", "token_embd.weight"]
    other = tuned(path, tmp_path / "tuned.gguf", rng, changed)
    for out in (tmp_path / "x.gguf", tmp_path / "x"):
        report = extract(other, path, out, rank=2, embeddings=True)
        assert sorted(t.name for t in report.tensors) == sorted(changed)
        with load(path) as model, load(other) as wanted:
            model.load_adapter(out, name="x")
            for text in ([2, 5, 6, 3], [2, 11, 3]):
                found = model.classify([text], adapter="x")[0].logits
                assert np.abs(found - wanted.classify([text])[0].logits).max() < 1e-3
    merge(path, [(tmp_path / "x.gguf", 1.0)], tmp_path / "merged.gguf")
    assert verify(tmp_path / "merged.gguf", other).ok
    positions = tuned(path, tmp_path / "p.gguf", rng, ["position_embd.weight", "blk.0.attn_q.weight"])
    with pytest.raises(ValueError, match=r"position_embd\.weight differ too"):
        extract(positions, path, tmp_path / "no.gguf", rank=2)
    report = extract(positions, path, tmp_path / "y.gguf", rank=2, allow_differences=True)
    assert [t.name for t in report.tensors] == ["blk.0.attn_q.weight"] and list(report.left_out) == [
        "position_embd.weight"
    ]


def test_merge_keeps_what_is_added_as_it_is(tmp_path: Path, rng: np.random.Generator) -> None:
    source: Tensors = bert_folder(tmp_path / "hf", rng, d=96)
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    write = {f"base_model.model.bert.encoder.layer.0.attention.self.query.lora_{s}.weight": x for s, x in
             (("A", np.zeros((4, 96), np.float32)), ("B", np.zeros((96, 4), np.float32)))}  # fmt: skip
    write_peft(tmp_path / "a", write, task_type="FEATURE_EXTRACTION")
    merge(path, [(tmp_path / "a", 1.0)], tmp_path / "m.gguf", type="q8_0")
    tensors = open_gguf(tmp_path / "m.gguf").tensors
    for name, module in (("position_embd", "position_embeddings"), ("token_types", "token_type_embeddings")):
        assert np.array_equal(tensors[f"{name}.weight"], source[f"embeddings.{module}.weight"])
    assert tensors["cls.weight"].dtype == np.uint8
    assert verify(tmp_path / "m.gguf", path).ok


def test_fit_is_for_decoders(tmp_path: Path, rng: np.random.Generator) -> None:
    bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "a.gguf", type="f32")
    adapter(tmp_path / "a", rng)
    with pytest.raises(ValueError, match=r"\[fit\] .* is an encoder; adapters of decoders are refitted"):
        fit(path, tmp_path / "a", tmp_path / "hf", tmp_path / "no.gguf", text="light on " * 400)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.gguf", "hf"]
