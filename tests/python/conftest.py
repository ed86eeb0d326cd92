"""What the tests share: the folder of real models beside the project, how long they may take, simulated GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standin import Cuda

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

_absent = not SHARED.is_dir()
if _absent and os.environ.get("CI") == "true":
    raise RuntimeError(f"{SHARED} is absent: in CI the tests on real models must run")

# Limits of seconds are multiplied by it: 1 natively, more where a machine is emulated.
PATIENCE = float(os.environ.get("LORA_EDGE_TEST_PATIENCE", "1"))

needs_shared = pytest.mark.skipif(
    _absent, reason="needs the real models of ../shared/data, which are not part of the project"
)


@pytest.fixture
def cuda_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Cuda]]:
    """Makes the driver of a simulated machine, e.g. cuda_machine(sm=53, driver=10020), logging to tmp_path / "log"."""
    monkeypatch.setenv("LORA_EDGE_STANDIN_LOG", str(tmp_path / "log"))
    made: list[Cuda] = []

    def make(**variables: object) -> Cuda:
        for name, value in variables.items():
            monkeypatch.setenv(f"LORA_EDGE_STANDIN_{name.upper()}", str(value))
        made.append(Cuda())
        return made[-1]

    yield make
    for cuda in made:
        cuda.close()


@pytest.fixture
def cuda(cuda_machine: Callable[..., Cuda]) -> Cuda:
    return cuda_machine()
