"""Several processes of torchrun: the same run as one process with the same global batch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from lora_edge.cli.main import main  # noqa: E402
from lora_edge.train import train, trainer  # noqa: E402
from train_runs import ENVIRONMENT, command, metrics, text_folder, tiny_base  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("data") / "data", n=22)  # the last batch of an epoch is smaller


def torchrun(argv: list[str], n: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return [argv[0], *launcher, *argv[1:]]


def run(argv: list[str]) -> str:
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 and done.stderr.count("step 30 of 30: loss") == 1
    return done.stderr


def test_two_processes_are_one(data: Path, tmp_path: Path) -> None:
    """With the sums of a batch in another order. On quantised weights activations are rounded to 8 bits, which makes
    much of the last bit of a float; so here the base is F32."""
    base = tiny_base(tmp_path / "base.gguf", "f32")
    flags = ["--steps", "30", "--eval-every", "10", "--schedule", "cosine"]
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    assert main(command(base, data, one, *flags)[3:]) == 0
    run(torchrun(command(base, data, two, *flags), 2))
    mine, theirs = metrics(two), metrics(one)
    assert [(m["step"], m.get("tokens")) for m in mine] == [(m["step"], m.get("tokens")) for m in theirs]
    for key in ("loss", "valid_loss"):
        a, b = (np.array([m[key] for m in lines if key in m]) for lines in (mine, theirs))
        assert len(a) == {"loss": 30, "valid_loss": 3}[key]
        print(f"{key}: largest difference {np.abs(a - b).max():.1e}")
        assert np.abs(a - b).max() <= 1e-4
    assert mine[0]["loss"] - mine[-2]["loss"] > 0.1  # and it is a run that learns


def test_two_processes_have_the_bits_of_one_with_two_parts(base: Path, data: Path, tmp_path: Path) -> None:
    flags = ["--steps", "30", "--dropout", "0.1"]
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    assert main(command(base, data, one, *flags, "--accumulate", "2")[3:]) == 0
    run(torchrun(command(base, data, two, *flags), 2))
    assert metrics(two) == metrics(one)
    for name in ("adapter.gguf", "adapter_model.safetensors"):
        assert (two / name).read_bytes() == (one / name).read_bytes()


class ThreeProcesses:
    rank, size, first = 0, 3, True


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({}, r"batch_size 4 can't be divided among 3 processes \(torchrun\): make it a multiple of 3"),
        ({"accumulate": 2}, r"batch_size 4 in 2 parts \(accumulate\) can't be divided .* a multiple of 6"),
    ],
)
def test_a_batch_that_cannot_be_divided(
    flags: dict[str, int], says: str, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "Group", ThreeProcesses)
    with pytest.raises(ValueError, match=says):
        train(base, data, tmp_path / "run", steps=1, batch_size=4, max_length=48, **flags, say=lambda line: None)
