"""Labels of encoders from a folder of data to files that are used: the command line, resuming, scores, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from huggingface_hub import ModelCard  # noqa: E402
from lora_edge import load  # noqa: E402
from lora_edge.cli.main import main  # noqa: E402
from lora_edge.convert import convert_adapter, convert_model  # noqa: E402
from lora_edge.train import Plan, train  # noqa: E402
from peer_models import fresh_rng  # noqa: E402
from test_encoders_hf import FAMILIES, save_model  # noqa: E402
from train_runs import ENVIRONMENT, metrics, result_bytes, sentences, tiny_base, write_jsonl  # noqa: E402

SMALL = ["--batch-size", "8", "--max-length", "64", "-t", "1", "--log-every", "1", "--rank", "4"]
QUIET: dict[str, Any] = {"batch_size": 8, "rank": 4, "lr": 2e-3, "threads": 1, "say": lambda line: None}


def base_of(folder: Path, family: str = "Bert", kind: str = "Model", type: str = "q8_0", **shape: Any) -> Path:
    wide = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2}
    save_model(folder / "base", family, kind, fresh_rng(), **{**wide, "initializer_range": 0.1, **shape})
    return convert_model(folder / "base", folder / "base.gguf", type=type)


def labelled(folder: Path, pairs: bool = False) -> Path:
    """Cats from dogs, by the word that begins a text; or whether two texts begin alike."""
    folder.mkdir()
    for split, n in (("train", 60), ("valid", 20), ("test", 12)):
        rows: list[dict[str, Any]] = []
        for i, text in enumerate(sentences(n, seed=n)):
            first, second = ("cat", "dog")[i % 2], ("cat", "dog")[i // 2 % 2]
            if pairs:
                rows.append({"sentence1": f"{first} {text}", "sentence2": second, "label": int(first == second)})
            else:
                rows.append({"text": f"{first} {first} {first} {first} {text}", "label": f"{first}s"})
        write_jsonl(folder / f"{split}.jsonl", iter(rows))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_command(tmp_path: Path, family: str, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, scored by what was written, and used by the line that is printed."""
    base, data, out = base_of(tmp_path, family), labelled(tmp_path / "data"), tmp_path / "run"
    flags = ["--method", method, "--steps", "100", "--lr", "2e-3"]
    assert main(["train", "-m", str(base), "--data", str(data), "-o", str(out), *SMALL, *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    lines = {line["split"]: line for line in metrics(out) if "split" in line}
    assert list(lines) == ["valid", "test"] and [line["n"] for line in lines.values()] == [20, 12]
    assert all(line[key] >= 0.7 for line in lines.values() for key in ("accuracy", "f1_macro"))
    assert f"valid accuracy {lines['valid']['accuracy']:.3f}" in said[-2]
    use = said[-1].removeprefix("use it: ").removesuffix(" ...").split()
    assert use[1] == "classify"
    rows = [json.loads(line) for line in (data / "valid.jsonl").read_text("utf-8").splitlines()]
    assert main([*use[1:], *(row["text"] for row in rows)]) == 0
    found = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    right = [label == row["label"] for label, row in zip(found, rows, strict=True)]
    assert np.mean(right) == lines["valid"]["accuracy"]
    card = ModelCard.load(out / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "text-classification"
    assert "nats per label" in card.text and "cats, dogs" in card.text and "lora-edge classify" in card.text
    if method == "lora":
        assert peft.PeftConfig.from_pretrained(str(out)).task_type == "SEQ_CLS"
        convert_adapter(out, base, tmp_path / "again.gguf")
        convert_adapter(out / "adapter.gguf", base, tmp_path / "back")
        with load(base) as model:
            for path in (out, out / "adapter.gguf", tmp_path / "again.gguf", tmp_path / "back"):
                model.load_adapter(path, name=str(path))
                assert set(model.classify("cat cat the mat", adapter=str(path)).scores) == {"cats", "dogs"}


def test_a_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A head on the last token: trained, resumed to the bit, scored and used. Its own file can hold none."""
    base, data = tiny_base(tmp_path / "base.gguf"), labelled(tmp_path / "data", pairs=True)
    argv = ["train", "-m", str(base), "--data", str(data), *SMALL, "--lr", "5e-3", "--option", "classify=head"]
    for out, flags in (("whole", []), ("parted", ["--steps", "5", "--schedule", "constant"]), ("parted", ["--resume"])):
        length = ["--schedule", "constant", "--steps", "12"] if "--steps" not in flags else []
        assert main([*argv, "-o", str(tmp_path / out / "run"), *flags, *length]) == 0
    whole, parted = (result_bytes(tmp_path / out / "run") for out in ("whole", "parted"))
    assert whole == parted and len(whole) == 4
    use = capsys.readouterr().out.splitlines()[-1].removeprefix("use it: ").removesuffix(" ...").split()
    assert use[1] == "classify"
    rows = [json.loads(line) for line in (data / "valid.jsonl").read_text("utf-8").splitlines()]
    assert main([*use[1:], "--pairs", *(f"{row['sentence1']}\t{row['sentence2']}" for row in rows)]) == 0
    found = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    right = [label == str(row["label"]) for label, row in zip(found, rows, strict=True)]
    line = next(line for line in metrics(tmp_path / "whole" / "run") if line.get("split") == "valid")
    assert np.mean(right) == line["accuracy"]
    assert main([*argv, "-o", str(tmp_path / "no"), "--method", "full"]) == 1
    assert "full trains no head for labels here; lora, rslora, lora+, dora, adalora do" in capsys.readouterr().err
    assert main(["classify", "-m", str(base), "x"]) == 1
    assert "is no encoder" in capsys.readouterr().err


def test_pairs(tmp_path: Path) -> None:
    """The second of two texts is told from the first; numbers are labels; F1 is that of the second."""
    base, data = base_of(tmp_path), labelled(tmp_path / "data", pairs=True)
    done = train(base, data, tmp_path / "run", method="full", steps=40, **{**QUIET, "rank": 1, "lr": 1e-3})
    scores = done.scores["valid"]
    assert scores.f1_binary is not None and scores.n == 20
    right = 0
    with load(tmp_path / "run" / "model.gguf") as model:
        for line in (data / "valid.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            right += model.classify([(row["sentence1"], row["sentence2"])])[0].label == str(row["label"])
    assert right / 20 == scores.accuracy


@pytest.mark.parametrize("method", ["lora", "full", "lora+"])
def test_resumed_to_the_bit(tmp_path: Path, method: str) -> None:
    base, data = base_of(tmp_path), labelled(tmp_path / "data")
    words = {**QUIET, "method": method, "steps": 12, "dropout": 0.1 if method == "lora" else 0.0}
    train(base, data, tmp_path / "whole" / "run", plan=Plan(1, 4, 4), **words)
    out = tmp_path / "stopped" / "run"
    shutil.copytree(tmp_path / "whole" / "run", out)
    for path in out.iterdir():
        if path.is_file() and path.name not in ("metrics.jsonl", "settings.json"):
            path.unlink()
    (out / "checkpoints" / "step-00000012.pt").unlink()
    train(base, data, out, plan=Plan(1, 4, 4), resume=True, **words)
    assert result_bytes(out) == result_bytes(tmp_path / "whole" / "run")
    assert metrics(out) == metrics(tmp_path / "whole" / "run")


def test_two_processes(tmp_path: Path) -> None:
    base, data = base_of(tmp_path), labelled(tmp_path / "data")
    train(base, data, tmp_path / "one" / "run", plan=Plan(1), steps=8, accumulate=2, **QUIET)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541"]
    argv = ["-m", "lora_edge", "train", "-m", str(base), "--data", str(data), "-o", str(tmp_path / "two" / "run")]
    subprocess.run([*launch, *argv, *SMALL, "--steps", "8", "--lr", "2e-3"], env=ENVIRONMENT, check=True)
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    assert (one / "adapter.gguf").read_bytes() == (two / "adapter.gguf").read_bytes()


def test_goes_on_from_labels(tmp_path: Path) -> None:
    """A base that knows the labels keeps them, in its own order; one with others gets new ones."""
    names = {"id2label": {0: "dogs", 1: "cats"}, "num_labels": 2}
    base, data = base_of(tmp_path, kind="ForSequenceClassification", type="f32", **names), labelled(tmp_path / "data")
    train(base, data, tmp_path / "run", method="full", type="f32", **{**QUIET, "steps": 1, "lr": 1e-9})
    texts = ["cat cat the mat", "dog the mat"]
    with load(base) as before, load(tmp_path / "run" / "model.gguf") as after:
        for a, b in zip(before.classify(texts), after.classify(texts)):
            assert list(b.scores) == ["dogs", "cats"] and np.abs(a.logits - b.logits).max() < 1e-4
    first = train(base, data, tmp_path / "a", **{**QUIET, "steps": 30, "lr": 5e-3})
    again = train(base, data, tmp_path / "b", begin_with=tmp_path / "a", **{**QUIET, "steps": 1, "lr": 1e-9})
    assert again.result.valid_loss == pytest.approx(first.result.valid_loss, rel=1e-4)
    other = base_of(tmp_path / "x", kind="ForSequenceClassification", num_labels=3)
    with pytest.raises(ValueError, match=r"tells 3 labels apart .* train full, or an adapter on the encoder without"):
        train(other, data, tmp_path / "c", steps=1, **QUIET)
    done = train(other, data, tmp_path / "d", method="full", **{**QUIET, "steps": 1, "rank": 1})
    with load(done.out / "model.gguf") as model:
        assert set(model.classify(texts[0]).scores) == {"cats", "dogs"}


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, data = base_of(tmp_path), labelled(tmp_path / "data")
    argv = ["train", "-m", str(base), "--data", str(data), "-o", str(tmp_path / "run"), *SMALL, "--steps", "2"]
    texts = tmp_path / "texts"
    texts.mkdir()
    write_jsonl(texts / "train.jsonl", iter([{"text": "a cat"}]))
    says = {
        ("--method", "distil", "--option", "teacher=x.gguf"): "distil trains no head for labels here; full, lora",
        ("--option", "classify=labels"): "an encoder completes no text",
        ("--targets", "q_proj"): "target 'q_proj' is no module of this model; ",
        ("--pack",): "packing is for texts",
        ("--data", str(texts)): "has no labels, which are needed as the model is an encoder",
    }
    capsys.readouterr()
    for flags, expected in says.items():
        assert main([*argv, *flags]) == 1
        err = capsys.readouterr().err
        assert expected in err.splitlines()[-1] and "Traceback" not in err, err
    assert not (tmp_path / "run").exists()
