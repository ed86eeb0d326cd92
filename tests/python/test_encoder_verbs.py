"""lora-edge embed and classify, and what the other verbs say of an encoder's file."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from lora_edge import load
from lora_edge.cli.main import main
from lora_edge.convert import convert_model
from test_encoder import LABELS, bert_folder

TEXTS = ["light on", "the kitchen, off", ""]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file; its folder is `hf` beside it."""
    folder = tmp_path_factory.mktemp("bert")
    bert_folder(folder / "hf", np.random.default_rng())
    return convert_model(folder / "hf", folder / "bert.gguf", type="f32")


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    status = main([str(arg) for arg in argv])
    return (status, *capsys.readouterr())


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_embed(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with load(bert) as model:
        unit, raw = model.embed(TEXTS), model.embed(TEXTS, pooling="pooler", normalize=False)
        pair = model.embed([("light", "on")])
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    for flags in (TEXTS, ["-f", tmp_path / "texts"], []):
        if not flags:
            stdin(monkeypatch, (tmp_path / "texts").read_bytes().replace(b"\n", b"\r\n"))
        status, out, _ = run(capsys, "embed", "-m", bert, *flags)
        assert status == 0 and np.array_equal(np.float32([json.loads(line) for line in out.splitlines()]), unit)
    more = [*TEXTS, "on"] * 20  # several batches
    (tmp_path / "texts").write_text("\n".join(more))
    out_file = tmp_path / "vectors.npy"
    flags = ["-f", tmp_path / "texts", "--pooling", "pooler", "--no-normalize", "-o", out_file]
    assert run(capsys, "embed", "-m", bert, *flags)[:2] == (0, f"wrote {out_file} (80 × 24)\n")
    vectors = np.load(out_file)
    assert vectors.dtype == np.float32 and np.array_equal(vectors[:3], raw) and np.array_equal(vectors[76:79], raw)
    status, out, _ = run(capsys, "embed", "-m", bert, "--pairs", "light\ton")
    assert status == 0 and np.array_equal(np.float32(json.loads(out)), pair[0])


def test_classify(bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with load(bert) as model:
        found = model.classify(TEXTS)
    status, out, _ = run(capsys, "classify", "-m", bert, *TEXTS)
    assert status == 0
    assert out.splitlines() == [f"{f.label}\t{f.scores[f.label]:.6f}" for f in found]
    for flag, n in (("2", 2), ("0", 3), ("7", 3)):
        status, out, _ = run(capsys, "classify", "-m", bert, "--top-k", flag, *TEXTS)
        for line, f in zip(out.splitlines(), found, strict=True):
            labels, scores = line.split("\t")[::2], [float(x) for x in line.split("\t")[1::2]]
            assert len(labels) == n and labels[0] == f.label and scores == sorted(scores, reverse=True)
    status, out, _ = run(capsys, "classify", "-m", bert, "--json", *TEXTS)
    for line, f in zip(out.splitlines(), found, strict=True):
        said = json.loads(line)
        assert said["label"] == f.label and said["scores"] == f.scores and list(said["scores"]) == LABELS
        assert np.array_equal(np.float32(said["logits"]), f.logits)


def test_errors(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lora_edge import builtin

    bert_folder(tmp_path / "hf", np.random.default_rng(0), head="Model")
    plain = convert_model(tmp_path / "hf", tmp_path / "plain.gguf", type="f32")
    (tmp_path / "latin").write_bytes(b"ok\ncaf\xe9\n")
    cases: list[tuple[list[str | Path], str]] = [
        (["embed", "x"], "the built-in model is no encoder: give one with -m"),
        (["classify", "-m", builtin.base(), "x"], "is no encoder (architecture"),
        (["classify", "-m", plain, "x"], "is no classifier"),
        (["classify", "-m", bert, "--top-k", "-1", "x"], "--top-k is -1"),
        (["embed", "-m", bert, "x", "-f", "y"], "texts are given twice"),
        (["embed", "-m", bert, "-f", tmp_path / "none"], "No such file"),
        (["embed", "-m", bert, "-f", tmp_path / "latin"], "is not UTF-8 text: line 2"),
        (["classify", "-m", bert, "--pairs", "a\tb", "c"], "text 2 is no pair"),
        (["embed", "-m", bert, "-o", tmp_path / "x.bin", "x"], "is no name of an .npy file"),
        (["embed", "-m", bert, "-o", tmp_path / "x.npy", "light " * 200], "exceed the context of 100"),
        (["generate", "-m", bert, "-p", "x"], "is an encoder, which writes no text"),
        (["bench", "-m", bert, "-p", "4", "-n", "1"], "is an encoder, which writes no text"),
    ]
    for argv, message in cases:
        status, _, err = run(capsys, *argv)
        assert status == 1 and message in err and len(err.splitlines()) == 1, (argv, err)
    assert not (tmp_path / "x.npy").exists() and not list(tmp_path.glob(".x.npy*"))
