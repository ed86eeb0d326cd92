"""What a process holds before it has a model: Python and its libraries, measured where they are."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Resident after the imports, measured with CPython 3.11 on x86-64 (docs/train.md); PyTorch 2.13 for CPUs. Taken where
# they can't be measured.
RUNTIME, TRAINING = 40_000_000, 235_000_000
_IMPORTS = {
    "runtime": "import lora_edge; lora_edge.Model, lora_edge.generate; import tokenizers",
    "training": "import lora_edge.train.run",
}
_PROGRAM = "{imports}\nfrom lora_edge.planning.process import peak\nprint(peak())"


@cache
def imports(kind: str) -> tuple[int, bool]:
    """Bytes resident after the imports of "runtime" or "training", and whether they were measured here: a fresh process
    makes them."""
    if kind == "training" and find_spec("torch") is None:
        return TRAINING, False
    program = _PROGRAM.format(imports=_IMPORTS[kind])
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    measured = made.stdout.strip()
    if made.returncode == 0 and measured.isdigit() and int(measured):
        return int(measured), True
    return {"runtime": RUNTIME, "training": TRAINING}[kind], False


def peak(root: Path = Path("/")) -> int:
    """Bytes: the most that this process has been resident with, its pages of files included; 0: not known here."""
    return _status(root, "VmHWM")


def own_pages(root: Path = Path("/")) -> int:
    """Bytes of this process that are no pages of files."""
    return _status(root, "RssAnon")


def resident(root: Path = Path("/")) -> int:
    """Bytes that this process holds now, pages of files included."""
    return _status(root, "VmRSS")


def _status(root: Path, field: str) -> int:
    try:
        lines = (root / "proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
