"""What the benchmarks share: options, model files, engines, and the table at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from engines import ENGINES, Engine, Llama
from models import Files, files_of, read_afresh
from report import Report, machine

_report = Report()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lora_edge")
    group.addoption("--full", action="store_true", help="also the Qwen2.5-0.5B shape (about 1.5 GB of files)")
    group.addoption("--model", default=None, help="only this shape of tools/make_model.py")
    group.addoption("--type", default="q8_0", help="of the weights: q8_0, q4_0, q4_k_m, f16 or f32")
    group.addoption("--rounds", type=int, default=7, help="turns of each engine per measurement")
    group.addoption("--threads", type=int, default=2, help="threads of each engine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "files" in metafunc.fixturenames:
        full = ["smollm2-135m", "qwen2.5-0.5b"] if metafunc.config.getoption("--full") else ["smollm2-135m"]
        only = metafunc.config.getoption("--model")
        kind = metafunc.config.getoption("--type")
        shapes = [shape if kind == "q8_0" else f"{shape}:{kind}" for shape in ([only] if only else full)]
        metafunc.parametrize("files", shapes, indirect=True, scope="session")


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
    made = files_of(request.param)
    for path in made[1:]:
        read_afresh(path)
    return made


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
