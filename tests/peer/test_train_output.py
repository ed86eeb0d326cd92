"""What a run leaves: a folder that PEFT loads, GGUF files, a curve, a model card, scores of labels."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
from conftest import SHARED, needs_shared  # noqa: E402
from huggingface_hub import ModelCard  # noqa: E402
from lora_edge import load  # noqa: E402
from lora_edge.cli.main import main  # noqa: E402
from lora_edge.cli.train_bar import TrainBar  # noqa: E402
from lora_edge.convert import convert_model  # noqa: E402
from lora_edge.train.data import load_data  # noqa: E402
from train_runs import metrics, sentences, text_folder, tiny_base, write_jsonl  # noqa: E402

FOLDER = SHARED / "models" / "TinyStories-656K"
SMALL = ["--batch-size", "4", "--max-length", "48", "-t", "1", "--log-every", "1"]


def trained(model: Path, data: Path, out: Path, *flags: str) -> Path:
    assert main(["train", "-m", str(model), "--data", str(data), "-o", str(out), *SMALL, *flags]) == 0
    return out


@needs_shared
@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "lora", "--rank", "3"],
        ["--method", "rslora", "--rank", "5", "--targets", "q_proj,down_proj,embed_tokens"],
        ["--method", "dora"],
        ["--method", "adalora", "--rank", "2"],
    ],
)
def test_peft_loads_the_folder(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a folder as base, which files name so that PEFT finds it; the judge runs in float32, as the base does here."""
    data = text_folder(tmp_path / "data")
    base = convert_model(FOLDER, tmp_path / "base.gguf", type="f32")
    out = trained(base, data, tmp_path / "run", "--steps", "12", "--lr", "5e-3", *flags)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith(f"wrote {out}: 12 steps") and said[1].endswith(f"--lora {out} -p ...")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, out).eval()
    ours = load(base)
    ids = ours.tokenize("Once upon a time there was a cat. It sat on the red mat.")
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    effect = np.abs(ours.logits(ids) - wanted).max()
    assert effect > 0.03
    for path, limit in ((out, 1e-4), (out / "adapter.gguf", 1e-4 + 5e-3 * effect)):  # the second is F16
        ours.load_adapter(path, name=str(path))
        assert np.abs(ours.logits(ids, adapter=str(path)) - wanted).max() <= limit


@needs_shared
def test_a_folder_as_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is trained on it as `load` runs it, in Q8_0; its weights themselves as F32."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = text_folder(tmp_path / "data")
    out = trained(FOLDER, data, tmp_path / "adapter", "--steps", "2")
    config = peft.PeftConfig.from_pretrained(out)
    assert config.base_model_name_or_path == str(FOLDER)
    out = trained(FOLDER, data, tmp_path / "model", "--steps", "2", "--method", "full", "--type", "f32")
    used = sorted(path.name for path in (tmp_path / "cache").rglob("*.gguf"))
    assert ["-f32-" in used[0], "-q8_0-" in used[1], len(used)] == [True, True, 2]
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    ids = [1, 20, 300, 4, 50]
    with torch.no_grad():
        before = theirs(torch.tensor([ids])).logits[0].numpy()
    changed = np.abs(load(out / "model.gguf").logits(ids) - before).max()
    assert 1e-4 < changed < 1  # two small steps away from the folder's weights


def test_card_curve_and_settings(tmp_path: Path) -> None:
    base, data = tiny_base(tmp_path / "base.gguf"), text_folder(tmp_path / "data")
    out = trained(base, data, tmp_path / "run", "--steps", "50", "--eval-every", "10", "--label-prompt", "a|b {text}")
    card = ModelCard.load(out / "README.md")
    fields = card.data.to_dict()
    assert fields["base_model"] == "base.gguf" and fields["library_name"] == "peft"
    assert fields["tags"] == ["lora", "lora_edge", "gguf"] and fields["pipeline_tag"] == "text-generation"
    last = [line for line in metrics(out) if "valid_loss" in line][-1]
    for part in (
        "| rank | 16 |",
        "| steps | 50 |",
        "24 examples",
        f"{last['valid_loss']:.4f}",
        r"a\|b {text}",
        "loss.png",
    ):
        assert part in card.text, part
    from PIL import Image

    image = np.asarray(Image.open(out / "loss.png").convert("RGB")).astype(int)
    assert image.shape[0] >= 400 and image.shape[1] >= 800
    for colour in ((0x1F, 0x5F, 0x99), (0xD1, 0x49, 0x5B)):  # the curves of training and of what is held out
        assert (np.abs(image - colour).sum(axis=2) < 12).sum() > 100


def test_labels_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split, n in (("train", 60), ("valid", 20), ("test", 10)):
        rows = ({"text": t, "label": "cats" if i % 2 else "dogs"} for i, t in enumerate(sentences(n, seed=n)))
        write_jsonl(data / f"{split}.jsonl", ({**r, "text": f"{r['label'][0] * 3} {r['text']}"} for r in rows))
    base = tiny_base(tmp_path / "base.gguf")
    out = trained(base, data, tmp_path / "run", "--steps", "60", "--lr", "5e-3", "--rank", "8")
    lines = {line["split"]: line for line in metrics(out) if "split" in line}
    assert list(lines) == ["valid", "test"] and [line["n"] for line in lines.values()] == [20, 10]
    said = capsys.readouterr().out
    assert f"valid accuracy {lines['valid']['accuracy']:.3f}" in said and "MCC" in said
    assert lines["valid"]["accuracy"] >= 0.9  # the first word tells the label
    model = load(base)  # the same by every label's score
    model.load_adapter(out / "adapter.gguf", name="a")
    found = load_data(data, model.need_tokenizer(), n_ctx=48)
    assert found.labels is not None
    right = 0
    for example in found.valid:
        scores = [float(model.score(c.ids.tolist(), adapter="a")[-c.n_learned :].sum())
                  for c in found.labels.candidates(example)]  # fmt: skip
        right += int(np.argmax(scores)) == example.label
    assert right / 20 == lines["valid"]["accuracy"]
    assert model.adapters.keys() == {"a"}


def test_data_that_cannot_be_used_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, data = tiny_base(tmp_path / "base.gguf"), text_folder(tmp_path / "data")
    argv = ["train", "-m", str(base), "--data", str(data), "-o", str(tmp_path / "run"), *SMALL]
    (data / "valid.jsonl").write_text('{"text": "a"}\n{"text": \n')
    for flags, says in (([], "valid.jsonl' line 2"), (["--data", str(tmp_path / "none")], "No such file")):
        assert main([*argv, *flags]) == 1
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and says in err
    assert not (tmp_path / "run").exists()


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    bar = TrainBar(False, 10)
    for step in range(1, 6):
        bar.show({"step": step, "total": 5, "loss": 2.5 / step, "tokens_per_second": 321.0})
    bar.show({"step": 5, "total": 5, "valid_loss": 0.75})
    bar.close()
    shown = screen.getvalue()
    for part in ("training: 100%", "5/5", "loss 0.5000", "321 tokens/s", "MiB", "held-out loss 0.7500"):
        assert part in shown, shown
    quiet = TrainBar(True, 1)
    quiet.show({"step": 1, "total": 1, "loss": 1.0, "tokens_per_second": 1.0})
    quiet.say("x")
    assert screen.getvalue() == shown and os.path.exists("/proc/self/statm")
