"""What the tests share: the optional folder of real models beside the project, and how long they may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

_absent = not SHARED.is_dir()
if _absent and os.environ.get("CI") == "true":
    raise RuntimeError(f"{SHARED} is absent: in CI the tests on real models must run")

# Limits of seconds are multiplied by it: 1 natively, more where a machine is emulated.
PATIENCE = float(os.environ.get("LORA_EDGE_TEST_PATIENCE", "1"))

needs_shared = pytest.mark.skipif(
    _absent, reason="needs the real models of ../shared/data, which are not part of the project"
)
