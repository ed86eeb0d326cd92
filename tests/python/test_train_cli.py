"""The command line of training as far as it goes without torch: flags, presets, what is said where that is missing."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from lora_edge.cli.main import main, parser
from lora_edge.cli.train_flags import FLAGS, data_options, settings_of
from lora_edge.train.presets import PRESETS
from lora_edge.train.settings import Settings


def parsed(*flags: str) -> argparse.Namespace:
    return parser().parse_args(["train", "-m", "base.gguf", "--data", "d", "-o", "o", *flags])


def test_every_setting_has_a_flag() -> None:
    assert set(FLAGS) == {f.name for f in fields(Settings)} - {"options"}
    assert settings_of(parsed()) == Settings()


def test_names_of_mlx_lm_and_peft() -> None:
    settings = settings_of(parsed(
        "--fine-tune-type", "rslora", "--learning-rate", "2e-4", "--lora-rank", "4", "--lora-alpha", "8",
        "--lora-dropout", "0.1", "--target-modules", "q_proj,v_proj", "--iters", "7", "--grad-accumulation-steps", "2",
        "--max-seq-length", "64", "--grad-checkpoint", "--no-mask-prompt", "--max-grad-norm", "0.5",
        "--lr-scheduler-type", "cosine", "--warmup-ratio", "0.2",
    ))  # fmt: skip
    assert settings == Settings(
        method="rslora", lr=2e-4, rank=4, alpha=8.0, dropout=0.1, targets=("q_proj", "v_proj"), steps=7, accumulate=2,
        max_length=64, checkpointing=True, mask_prompt=False, grad_clip=0.5, schedule="cosine", warmup=0.2,
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_what_is_not_given(name: str) -> None:
    settings = settings_of(parsed("--preset", name, "--batch-size", "6", "--seed", "3"))
    assert (settings.batch_size, settings.seed) == (6, 3)
    for field, value in PRESETS[name].values.items():
        if field != "batch_size":
            assert getattr(settings, field) == value


def test_options_are_typed() -> None:
    flags = ["init_r=24", "beta1=0.9", "flag=true", "word=teacher.gguf", "text=a=b", "list=[1,2]"]
    settings = settings_of(parsed(*(x for flag in flags for x in ("--option", flag)), "--too-long", "split"))
    assert dict(settings.options) == {
        "init_r": 24, "beta1": 0.9, "flag": True, "word": "teacher.gguf", "text": "a=b", "list": [1, 2],
        "too_long": "split",
    }  # fmt: skip


def test_data_flags() -> None:
    assert data_options(parsed()) == {}
    given = parsed("--classify", "labels", "--label-prompt", r"{text}\nintent:", "--no-chat-template")
    assert data_options(given) == {"classify": "labels", "label_prompt": "{text}\nintent:", "chat_template": False}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lr", "0"], ["lr", "nothing would be learned"]),
        (["--lr", "nan"], ["lr", "nan"]),
        (["--rank", "0"], ["rank", "from 1 up"]),
        (["--batch-size", "5", "--accumulate", "2"], ["batch_size 5", "2 equal parts"]),
        (["--epochs", "0"], ["steps nor epochs"]),
        (["--option", "init_r"], ["init_r", "NAME=VALUE"]),
        (["--dropout", "1"], ["dropout", "below 1"]),
    ],
)
def test_a_wrong_setting_is_one_line(
    flags: list[str], says: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["train", "-m", "base.gguf", "--data", "d", "-o", str(tmp_path / "o"), *flags])
    err = capsys.readouterr().err
    assert status == 1 and len(err.splitlines()) == 1 and all(word in err for word in says), err


@pytest.mark.parametrize("flags", [["--method", "lorra"], ["--preset", "none"], ["--targets", ","], ["--lr", "x"]])
def test_wrong_usage(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed(*flags)
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


def test_missing_torch_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "torch" or m == "lora_edge.train.run"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    status = main(["train", "-m", "base.gguf", "--data", "d", "-o", "o"])
    err = capsys.readouterr().err
    assert status == 1 and err == "lora-edge: error: training needs PyTorch: pip install 'lora_edge[train]'\n"
