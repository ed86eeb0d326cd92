"""Files that lie: damaged models and adapters give a clean exception or a valid model, in bounded time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

HERE = Path(__file__).resolve().parent
# One arena and one thread, for what is said of memory; a backtrace of Rust takes more than a case may, and hangs then.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "RUST_BACKTRACE": "0"}
CASES = int(os.environ.get("HOSTILE_CASES", "2000"))


pytestmark = pytest.mark.slow


def outcomes(arguments: list[str]) -> Counter[str]:
    """How many cases were valid and refused; fails for one that misbehaved, and if the worker died."""
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile_worker.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **ENVIRONMENT},
    )
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else "nothing"
    assert done.returncode == 0, f"the process died ({done.returncode}) after '{last}': {done.stderr[-2000:]}"
    failures = [line for line in lines if line.startswith("FAIL")]
    assert not failures, f"{len(failures)} cases, such as\n" + "\n".join(failures[:20])
    return Counter(line.split()[0] for line in lines)


def test_damaged_files(tmp_path: Path) -> None:
    seed = os.environ.get("HOSTILE_SEED") or str(np.random.SeedSequence().generate_state(1)[0])
    print(f"HOSTILE_SEED={seed}")
    real = [p for p in (SHARED / "gguf/stories260K-f32.gguf", SHARED / "gguf/stories260K-q8_0.gguf") if p.exists()]
    found = outcomes([str(tmp_path), seed, "0", str(CASES), *map(str, real)])
    print(found)
    assert found["begin"] == found["valid"] + found["refused"] == CASES
    assert found["refused"] > CASES // 2 and found["valid"] > CASES // 20


def test_crafted_files(tmp_path: Path) -> None:
    found = outcomes([str(tmp_path)])
    print(found)
    assert found["begin"] == found["valid"] + found["refused"] > 35
