"""What the benchmarks share: options, model files (made once, under build/bench), engines, and the table at the end."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import ENGINES, Engine, Llama
from report import Report, machine

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "bench"
RANK = 16

_report = Report()


class Files(NamedTuple):
    """A base, two adapters of it (all seven linears, f16), and the base with the first one merged; all Q8_0."""

    model: str
    base: Path
    adapter: Path
    other: Path
    merged: Path


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lora_edge")
    group.addoption("--full", action="store_true", help="also the Qwen2.5-0.5B shape (about 1.5 GB of files)")
    group.addoption("--model", default=None, help="only this shape of tools/make_model.py")
    group.addoption("--rounds", type=int, default=7, help="turns of each engine per measurement")
    group.addoption("--threads", type=int, default=2, help="threads of each engine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "files" in metafunc.fixturenames:
        full = ["smollm2-135m", "qwen2.5-0.5b"] if metafunc.config.getoption("--full") else ["smollm2-135m"]
        only = metafunc.config.getoption("--model")
        metafunc.parametrize("files", [only] if only else full, indirect=True, scope="session")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--rounds"))


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--threads"))


@pytest.fixture(scope="session")
def report() -> Report:
    return _report


@pytest.fixture(scope="session")
def files(request: pytest.FixtureRequest) -> Files:
    name = request.param
    stem = CACHE / name
    made = Files(name, *(stem / f"{part}.gguf" for part in ("base", f"r{RANK}", f"r{RANK}-other", "merged")))
    _make(made.base, "base", name, made.base)
    _make(made.adapter, "adapter", made.base, made.adapter, "--rank", RANK, "--seed", 1)
    _make(made.other, "adapter", made.base, made.other, "--rank", RANK, "--seed", 2)
    _make(made.merged, "merge", made.base, made.adapter, made.merged)
    for path in made[1:]:
        _read_afresh(path)
    return made


def _make(path: Path, *args: object) -> None:
    tool = ROOT / "tools" / "make_model.py"
    if path.exists() and path.stat().st_mtime >= tool.stat().st_mtime:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, tool, *map(str, args)], check=True)


def _read_afresh(path: Path) -> None:
    """Has the page cache drop a file and read it in one go, so that all files lie alike in memory: pages that were
    left scattered, or are still being written back, slow decoding by up to a fifth."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 22):
            pass


@pytest.fixture(scope="session")
def kinds() -> dict[str, type[Engine]]:
    """The engines that are installed; lora_edge first."""
    absent = importlib.util.find_spec("llama_cpp") is None
    return {name: kind for name, kind in ENGINES.items() if not (absent and kind is Llama)}


@pytest.fixture(scope="session")
def engines(files: Files, kinds: dict[str, type[Engine]], threads: int) -> Iterator[dict[str, Engine]]:
    """Each engine on the base, with adapters "one" and "two" loaded."""
    adapters = {"one": files.adapter, "two": files.other}
    ready = {name: kind(files.base, adapters, threads=threads) for name, kind in kinds.items()}
    yield ready
    for engine in ready.values():
        engine.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _report.rows:
        return
    terminalreporter.section("lora_edge beside llama.cpp, interleaved; medians")
    terminalreporter.write_line(machine())
    if importlib.util.find_spec("llama_cpp") is None:
        terminalreporter.write_line("llama-cpp-python is not installed: no ratios")
    for line in _report.lines():
        terminalreporter.write_line(line)
