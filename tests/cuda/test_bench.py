"""Measuring on a GPU: lora-edge bench, and what `make gpu` writes into the log."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import REAL
from lora_edge import _core, builtin
from lora_edge.cli.main import main

TOOL = Path(__file__).resolve().parents[2] / "tools" / "cuda" / "on_gpu.py"


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda", "-p", "8", "-n", "3", "-r", "1", "--no-merged", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    machine = found["machine"]
    assert machine["device"] == "cuda:0" and machine["device_name"]
    (peak,) = machine["peaks"]
    assert peak["read_bandwidth"] > 1e6 and peak["int8_multiply_adds"] > 1e6
    decode = found["tests"][1]["arms"]["unmerged"]
    assert decode["bytes_per_second"] == pytest.approx(decode["share_of_read_bandwidth"] * peak["read_bandwidth"])


def test_the_kernels_count_what_the_probe_says() -> None:
    assert 1e6 < _core.cuda_int8_peak(0, 0.05) < 1e17 and 1e6 < _core.cuda_copy_bandwidth(0, 0.05) < 1e16
    with pytest.raises(RuntimeError, match="there is no device cuda:9"):
        _core.cuda_int8_peak(9, 0.05)


@pytest.mark.skipif(REAL, reason="the tool itself runs there")
def test_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOL.parent)
    spec = importlib.util.spec_from_file_location("on_gpu", TOOL)
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for name, value in {"TOKENS": 2, "PROMPT": 9, "TEXTS": 2, "SWITCHES": 2}.items():
        monkeypatch.setattr(tool, name, value)
    base, log = tmp_path / "home" / "base.gguf", tmp_path / "LOG.md"
    base.parent.mkdir()
    shutil.copy(builtin.base(), base)
    log.write_text("# Log\n")
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--rounds", "2", "--log", str(log), str(base)])
    tool.main()
    text = log.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| home | ")]
    beside = [line for line in rows if "torch bf16 + PEFT" in line or "llama.cpp" in line]
    assert text.startswith("# Log\n\n## 20") and len(rows) - len(beside) == 6 and len(beside) >= 2
    for part in ("tokens/s", "r 16 / off", "2 adapters: speed / without", "a switch", "TOPS"):
        assert part in text
