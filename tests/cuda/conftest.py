"""A GPU for these tests: the stand-in for libcuda, or with LORA_EDGE_GPU=1 the machine's own. A process has one driver,
so they run apart from the others: pytest tests/cuda."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from standin import find

REAL = os.environ.get("LORA_EDGE_GPU") == "1"
STANDIN = None if REAL else find()
if STANDIN:
    os.environ["LORA_EDGE_LIBCUDA"] = str(STANDIN)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not REAL and STANDIN is None:
        reason = "needs the stand-in for libcuda, which the C++ tests' build makes, or LORA_EDGE_GPU=1"
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def order(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """In each test threads run in another order."""
    value = os.environ.get("LORA_EDGE_STANDIN_ORDER") or str(np.random.SeedSequence().generate_state(1)[0])
    monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", value)
    print(f"LORA_EDGE_STANDIN_ORDER={value}")
    yield value
