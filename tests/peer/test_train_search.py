"""The search over learning rate and rank: its trials, its table, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("optuna")
from lora_edge.cli.main import main  # noqa: E402
from lora_edge.train import Plan, Settings  # noqa: E402
from lora_edge.train.search import RANKS, Search, search  # noqa: E402
from train_runs import metrics, result_bytes, text_folder, tiny_base  # noqa: E402

SETTINGS = Settings(lr=3e-3, rank=8, alpha=16.0, batch_size=4, steps=6, max_length=48, seed=5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("data") / "data")


def look(n: int, base: Path, data: Path, out: Path, **words: Any) -> Search:
    words = {"settings": SETTINGS, "plan": Plan(log_every=1), "threads": 1, "say": lambda line: None, **words}
    return search(n, base, data, out, **words)


def test_trials_are_runs_and_the_best_comes_first(base: Path, data: Path, tmp_path: Path) -> None:
    found = look(7, base, data, tmp_path / "s").trials
    assert sorted(t.number for t in found) == [1, 2, 3, 4, 5, 6, 7]
    assert [t.loss for t in found] == sorted(t.loss for t in found)
    assert all(3e-4 <= t.lr <= 3e-2 and t.rank in RANKS for t in found)
    assert len({t.lr for t in found}) == 7 and len({t.rank for t in found}) > 1
    for t in found:
        used = json.loads((t.out / "settings.json").read_text())
        assert (used["lr"], used["rank"], used["alpha"] / used["rank"]) == (t.lr, t.rank, 2.0)
        assert metrics(t.out)[-1]["valid_loss"] == t.loss and (t.out / "adapter.gguf").exists()
    table = json.loads((tmp_path / "s" / "trials.json").read_text())
    assert [row["trial"] for row in table] == [t.number for t in found]


def test_a_stopped_search_goes_on(base: Path, data: Path, tmp_path: Path) -> None:
    whole = look(7, base, data, tmp_path / "whole" / "s")
    steps = 0

    def stop(line: dict[str, Any]) -> None:
        nonlocal steps
        steps += "loss" in line
        if steps == 6 * 5 + 3:  # in the middle of the sixth trial
            signal.raise_signal(signal.SIGTERM)

    out = tmp_path / "stopped" / "s"
    first = look(7, base, data, out, show=stop)
    assert first.signal == signal.SIGTERM and len(first.trials) == 5
    with pytest.raises(FileExistsError, match="holds a search already: --resume"):
        look(7, base, data, out)
    with pytest.raises(ValueError, match="other settings"):
        look(7, base, data, out, resume=True, settings=Settings())
    second = look(7, base, data, out, resume=True)
    assert [(t.number, t.lr, t.rank, t.loss) for t in second.trials] == [
        (t.number, t.lr, t.rank, t.loss) for t in whole.trials
    ]
    for mine, theirs in zip(second.trials, whole.trials):
        assert result_bytes(mine.out) == result_bytes(theirs.out)


def test_full_tuning_is_searched_for_its_rate_alone(base: Path, data: Path, tmp_path: Path) -> None:
    found = look(2, base, data, tmp_path / "s", settings=Settings(method="full", lr=1e-3, steps=2, max_length=48))
    assert {t.rank for t in found.trials} == {Settings().rank} and len({t.lr for t in found.trials}) == 2


def test_a_trial_without_a_number_is_the_worst(base: Path, data: Path, tmp_path: Path) -> None:
    wild = Settings(lr=1e29, steps=20, warmup=0.0, grad_clip=0.0, max_length=48, schedule="constant")
    said: list[str] = []
    found = look(1, base, data, tmp_path / "s", settings=wild, say=said.append)
    assert found.trials[0].loss == float("inf") and any("is no number" in line for line in said)
    assert json.loads((tmp_path / "s" / "trials.json").read_text())[0]["valid_loss"] is None


def test_the_command(base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "-m", str(base), "--data", str(data), "-o", str(tmp_path / "s"), "--steps", "2", "-t", "1",
            "--max-length", "48", "--batch-size", "4", "--search", "2"]  # fmt: skip
    assert main(argv) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["trial", "lr", "rank", "held-out", "loss", "folder"] and len(out) == 5
    assert out[-2].startswith("best: trial ") and Path(out[-1].removeprefix("use it: see ")).exists()
    (data_only := tmp_path / "d").mkdir()
    (data_only / "train.jsonl").write_bytes((data / "train.jsonl").read_bytes())
    assert main([*argv, "--data", str(data_only), "-o", str(tmp_path / "t")]) == 1
    assert "has no valid.jsonl" in capsys.readouterr().err
