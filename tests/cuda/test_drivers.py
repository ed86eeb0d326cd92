"""Drivers and machines that won't do: the CPU takes over with one clear line, and device="cuda" says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REAL
from standin import find

pytestmark = pytest.mark.skipif(REAL, reason="the stand-in plays these drivers")
GENERATE = """
import sys, warnings, lora_edge
with lora_edge.load(device=sys.argv[1], threads=1) as model:
    print(model.device, model.generate("turn on the kitchen light", adapter="json"))
"""
ANSWER = '{"device":"light","room":"kitchen","action":"on"}'


def run_code(
    code: str, *arguments: str, library: Path | str | None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own: each has one driver."""
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    settings["LORA_EDGE_LIBCUDA"] = str(library)
    return subprocess.run([sys.executable, "-c", code, *arguments], env=settings, capture_output=True, text=True)


def run(device: str, library: Path | str | None, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_code(GENERATE, device, library=library, **environment)


# What is played, whether "auto" warns (a GPU is there and can't be used), and what device="cuda" says.
PLAYED = {
    "no driver": ({"LORA_EDGE_STANDIN_NONE": "1"}, False, "no CUDA driver"),
    "no device": ({"LORA_EDGE_STANDIN_DEVICES": "0"}, False, "finds no GPU"),
    "init fails": ({"LORA_EDGE_STANDIN_FAIL": "init"}, False, "finds no GPU"),
    "old generation": ({"LORA_EDGE_STANDIN_SM": "35"}, True, "compute capability 3.5; the kernels need 5.3"),
    "PTX too new": ({"LORA_EDGE_STANDIN_DRIVER": "8000"}, True, "takes no kernels"),
    "launches fail": ({"LORA_EDGE_STANDIN_FAIL": "launch"}, True, "launching"),
    "a later launch fails": ({"LORA_EDGE_STANDIN_FAIL": "launch:20"}, True, "launching"),
    "no memory": ({"LORA_EDGE_STANDIN_MEMORY": "4096"}, True, "MiB don't fit"),
}


@pytest.mark.parametrize("name", PLAYED)
def test_what_will_not_do(name: str, tmp_path: Path) -> None:
    environment, warns, message = PLAYED[name]
    library = tmp_path / "nothing.so" if name == "no driver" else find()
    done = run("auto", library, **environment)
    assert done.returncode == 0 and done.stdout == f"cpu {ANSWER}\n"
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    assert len(lines) == (1 if warns else 0), done.stderr
    assert not warns or "the GPU isn't used, the CPU is: " in lines[0]
    refused = run("cuda", library, **environment)
    assert refused.returncode == 1 and message in refused.stderr.splitlines()[-1]
    assert "RuntimeError: device 'cuda' can't be used: " in refused.stderr.splitlines()[-1]


def test_a_driver_without_what_is_needed() -> None:
    old = find("standin_old")
    assert old is not None
    assert run("auto", old).stdout == f"cpu {ANSWER}\n"
    assert "the CUDA driver is too old: it has no " in run("cuda", old).stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("sm", "driver"), [("53", "10020"), ("61", "10020"), ("75", "11040"), ("87", "12060"), ("110", "13000")]
)
def test_generations(sm: str, driver: str) -> None:
    done = run("auto", find(), LORA_EDGE_STANDIN_SM=sm, LORA_EDGE_STANDIN_DRIVER=driver)
    assert done.stdout == f"cuda:0 {ANSWER}\n", done.stderr


def test_a_second_device_that_is_not_there() -> None:
    assert "there is no device cuda:3; the driver has 1" in run("cuda:3", find()).stderr.splitlines()[-1]
