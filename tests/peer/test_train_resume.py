"""Runs that are killed, stopped, or find their checkpoints damaged: what is resumed goes on bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from lora_edge.bench import sensors  # noqa: E402
from lora_edge.cli.main import main  # noqa: E402
from lora_edge.gguf_file import open_gguf  # noqa: E402
from lora_edge.safetensors_file import SafetensorsFile  # noqa: E402
from lora_edge.train import Plan, guard, train  # noqa: E402
from lora_edge.train.checkpoint import checkpoints, load_checkpoint  # noqa: E402
from train_runs import ENVIRONMENT, command, metrics, result_bytes, text_folder, tiny_base  # noqa: E402

KILLS = 20
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch._dynamo", "lora_edge.train.run"])  # loaded in the first step, or at the end


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("data") / "data")


def check_whole(out: Path) -> None:
    """Every file under a final name can be read to its end."""
    for path in checkpoints(out / "checkpoints"):
        load_checkpoint(path)
    if (out / "adapter.gguf").exists():
        assert open_gguf(out / "adapter.gguf").tensors
    if (out / "adapter_model.safetensors").exists():
        assert SafetensorsFile(out / "adapter_model.safetensors").info
    for name in ("settings.json", "adapter_config.json"):
        if (out / name).exists():
            json.loads((out / name).read_text("utf-8"))
    if (out / "README.md").exists():
        assert (out / "README.md").read_text("utf-8").endswith("|\n")
    if (out / "loss.png").exists():
        assert (out / "loss.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def command_in_fork(argv: list[str], log: str) -> None:
    """`python -m lora_edge`, in a process forked from one that has torch loaded already."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.exit(main(argv[3:]))


def run_and_kill(argv: list[str], fresh: bool, wait: float, log: Path) -> bool:
    """Kills the run `wait` seconds after it has shown its first step, or what it does instead; whether it was still
    there to be killed. fresh: a Python of its own, which takes seconds to load torch."""
    log.write_text("")
    if fresh:
        with open(log, "w") as file:
            process: Any = subprocess.Popen(argv, env=ENVIRONMENT, stderr=file, stdout=file)
        status = process.poll
    else:
        process = FORKED.Process(target=command_in_fork, args=(argv, str(log)))
        process.start()
        status = lambda: process.exitcode  # noqa: E731
    while status() is None and "step " not in log.read_text() and "finished" not in log.read_text():
        time.sleep(0.005)
    time.sleep(wait)
    alive = status() is None
    process.kill()
    process.wait() if fresh else process.join()
    assert alive or status() == 0, log.read_text()
    return alive


def test_killed_at_random_moments(base: Path, data: Path, tmp_path: Path) -> None:
    flags = ["--steps", "240", "--dropout", "0.1", "--accumulate", "2", "--save-every", "4", "--eval-every", "40"]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert main(command(base, data, whole, *flags)[3:]) == 0
    rng = random.Random()
    kills = 0
    while kills < KILLS:
        # Steps are a few milliseconds; the last few moments fall into writing what is trained.
        wait = rng.uniform(0, 0.3) if kills < KILLS - 4 else rng.uniform(0, 1.5)
        argv = command(base, data, killed, *flags, "--resume")
        kills += run_and_kill(argv, kills % 5 == 0, wait, tmp_path / "log")
        check_whole(killed)
    last = subprocess.run(command(base, data, killed, *flags, "--resume"), env=ENVIRONMENT, capture_output=True)
    assert last.returncode == 0, last.stderr
    assert result_bytes(killed) == result_bytes(whole)
    assert metrics(killed) == metrics(whole)
    steps = [line["step"] for line in metrics(killed) if "loss" in line]
    assert steps == list(range(1, 241))
    assert not [p.name for p in killed.rglob("*.tmp")] + [p.name for p in killed.glob(".peft*")]


def in_process(base: Path, data: Path, out: Path, **changes: Any) -> Any:
    words: dict[str, Any] = {"steps": 8, "rank": 4, "lr": 1e-3, "batch_size": 4, "max_length": 48, "dropout": 0.1}
    words |= changes
    plan = words.pop("plan", Plan(log_every=1))
    return train(base, data, out, plan=plan, threads=1, say=words.pop("say", lambda line: None), **words)


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[dict[str, Any]], None]:
    def show(line: dict[str, Any]) -> None:
        if line["step"] == step and "loss" in line:
            signal.raise_signal(number)

    return show


@pytest.mark.parametrize("method", ["lora", "lora+", "dora", "adalora", "full"])
def test_resumed_is_as_if_never_stopped(method: str, base: Path, data: Path, tmp_path: Path) -> None:
    if method == "adalora":
        pytest.importorskip("peft")
    changes = {"method": method, "optimizer": "sgd" if method == "lora+" else "adamw"}
    whole, stopped = tmp_path / "whole" / "run", tmp_path / "stopped" / "run"
    in_process(base, data, whole, **changes)
    first = in_process(base, data, stopped, show=stop_at(5), **changes)
    assert (first.result.steps, first.result.finished, first.result.signal) == (5, False, signal.SIGTERM)
    assert not first.files
    done = in_process(base, data, stopped, resume=True, **changes)
    assert done.result.finished and result_bytes(stopped) == result_bytes(whole) != {}
    assert metrics(stopped) == metrics(whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_a_checkpoint(number: int, status: int, base: Path, data: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(command(base, data, out, "--steps", "100000"), env=ENVIRONMENT, stderr=file)
        while "step 3 " not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == status
    (left,) = checkpoints(out / "checkpoints")
    said = log.read_text().splitlines()[-1]
    assert signal.Signals(number).name in said and f"after step {load_checkpoint(left)['step']}," in said


def test_a_finished_run_writes_its_files_again(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = in_process(base, data, out)
    before, lines = result_bytes(out), metrics(out)
    (out / "adapter.gguf").unlink()
    said: list[str] = []
    again = in_process(base, data, out, resume=True, say=said.append)
    assert result_bytes(out) == before and metrics(out) == lines
    assert any("was finished" in line for line in said)
    assert (again.result.loss, again.result.valid_loss) == (first.result.loss, first.result.valid_loss)


def test_nothing_to_resume_begins_anew(base: Path, data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert in_process(base, data, tmp_path / "run", resume=True, say=said.append).result.finished
    assert any("no checkpoint to resume" in line for line in said)


def test_a_run_is_not_written_over(base: Path, data: Path, tmp_path: Path) -> None:
    in_process(base, data, tmp_path / "run", steps=1)
    with pytest.raises(FileExistsError, match="holds a run already: --resume"):
        in_process(base, data, tmp_path / "run", steps=1)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has a README\.md"):
        in_process(base, data, tmp_path, steps=1)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_another_run_is_told_apart(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    in_process(base, data, out, show=stop_at(3))
    for words, says in (
        ({"rank": 8}, "made with rank 4, not 8"),
        ({"lr": 2e-3}, "made with lr 0.001, not 0.002"),
        ({"steps": 20}, "made with steps 8, not 20"),
    ):
        with pytest.raises(ValueError, match=says):
            in_process(base, data, out, resume=True, **words)
    with pytest.raises(ValueError, match="other training data"):
        in_process(base, text_folder(tmp_path / "other", n=23), out, resume=True)


def test_a_constant_schedule_may_go_on_longer(base: Path, data: Path, tmp_path: Path) -> None:
    long, short = tmp_path / "long" / "run", tmp_path / "short" / "run"
    in_process(base, data, long, schedule="constant", warmup=0.0, steps=8)
    in_process(base, data, short, schedule="constant", warmup=0.0, steps=5)
    in_process(base, data, short, schedule="constant", warmup=0.0, steps=8, resume=True)
    assert result_bytes(short) == result_bytes(long)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over(harm: str, base: Path, data: Path, tmp_path: Path) -> None:
    whole, hurt = tmp_path / "whole" / "run", tmp_path / "hurt" / "run"
    in_process(base, data, whole)
    in_process(base, data, hurt, plan=Plan(log_every=1, save_every=2), show=stop_at(5))
    older, newest = checkpoints(hurt / "checkpoints")
    raw = bytearray(newest.read_bytes())
    if harm == "flipped":
        raw[len(raw) // 2] ^= 1  # in the middle of a tensor
    newest.write_bytes({"cut": raw[:-100], "flipped": raw, "empty": b""}[harm])
    said: list[str] = []
    in_process(base, data, hurt, resume=True, say=said.append)
    assert any(newest.name in line and "damaged" in line and "the one before" in line for line in said), said
    assert "resumed after step 4 of 8" in said
    assert result_bytes(hurt) == result_bytes(whole) and metrics(hurt) == metrics(whole)
    for path in checkpoints(hurt / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        in_process(base, data, hurt, resume=True)
    assert older


def test_a_full_disk_keeps_the_last_checkpoint(base: Path, data: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that has become full."""
    out = tmp_path / "run"
    in_process(base, data, out, show=stop_at(3))
    (kept,) = checkpoints(out / "checkpoints")
    before = kept.read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    flags = ["--steps", "8", "--dropout", "0.1", "--save-every", "2", "--resume"]
    done = subprocess.run(
        command(base, data, out, *flags), env=ENVIRONMENT, preexec_fn=limit, capture_output=True, text=True
    )
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "the checkpoint of step 4 can't be written (File too large)" in error, done.stderr
    assert f"{kept.name} is kept" in error and "Traceback" not in done.stderr
    assert kept.read_bytes() == before and checkpoints(out / "checkpoints") == [kept]
    assert not list((out / "checkpoints").glob("*.tmp"))
    done = subprocess.run(command(base, data, out, *flags), env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0 and (out / "adapter.gguf").exists()


def test_no_number_stops_with_step_and_lines(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        in_process(base, data, tmp_path / "run", lr=1e30, warmup=0.0, grad_clip=0.0, dropout=0.0, steps=50)
    said = str(error.value)
    assert "is no number" in said and "of step" in said and "train.jsonl" in said and "lower lr (now 1e+30)" in said
    lines = said.partition("(lines ")[2].partition(" of ")[0].split(", ")
    assert len(lines) == 4 and all(1 <= int(line) <= 24 for line in lines)


def test_too_hot_waits_and_says_so(base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    readings = iter([60_000, 60_000, 81_000, 79_000, 76_500, 74_000, 73_000])
    waits: list[float] = []

    def temperatures() -> dict[str, float]:
        (zone / "temp").write_text(f"{next(readings, 60_000)}\n")
        return sensors.temperatures(tmp_path)

    monkeypatch.setattr(guard, "temperatures", temperatures)
    monkeypatch.setattr(guard.time, "sleep", waits.append)
    said: list[str] = []
    done = in_process(base, data, tmp_path / "run", plan=Plan(max_temp=80.0), say=said.append)
    assert done.result.finished and len(waits) == 2
    assert "cpu-thermal is at 81 °C, above 80: waiting for 75" in said
    monkeypatch.setattr(guard, "temperatures", dict)
    with pytest.raises(ValueError, match="tells no temperature"):
        in_process(base, data, tmp_path / "other", plan=Plan(max_temp=80.0))
