"""Every barrier of the kernels is needed: without any one of them the self-test fails under some order of threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REAL
from standin import REPOSITORY

KERNELS = REPOSITORY / "cpp/backend/cuda/kernels"
STANDIN = REPOSITORY / "tests/cuda/standin"
BARRIER = re.compile(r"^( *)sync\(\);\n", re.MULTILINE)
FILES = ["attention.cu", "inputs.cu", "likeliest.cu", "matmul.cu"]
PLACES = [
    (f, i) for f in FILES if (KERNELS / f).exists() for i in range(len(BARRIER.findall((KERNELS / f).read_text())))
]
ASK = "from lora_edge import _core; import sys; sys.exit(1 if _core.cuda_self_test(0) else 0)"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
pytestmark = pytest.mark.skipif(REAL or COMPILER is None, reason="needs a C++ compiler, and the stand-in")


def without(folder: Path, file: str, number: int) -> Path:
    """The stand-in with kernels of which one lacks its barrier of this number; -1: all are there."""
    kernels = folder / "kernels"
    shutil.copytree(KERNELS, kernels)
    text = (kernels / file).read_text()
    if number >= 0:
        found = list(BARRIER.finditer(text))[number]
        text = text[: found.start()] + text[found.end() :]
    (kernels / file).write_text(text)
    flags = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-w", f"-I{REPOSITORY / 'cpp'}", f"-I{STANDIN}"]
    objects = []
    for source in sorted(kernels.glob("*.cu")):
        objects.append(str(source.with_suffix(".o")))
        command = ["-x", "c++", "-include", str(STANDIN / "device.h"), "-iquote", str(kernels), "-c", str(source)]
        subprocess.run([str(COMPILER), *flags, *command, "-o", objects[-1]], check=True)
    sources = [str(p) for p in STANDIN.glob("*.cpp") if p.name not in ("old.cpp",)]
    library = folder / "libcuda.so.1"
    subprocess.run([str(COMPILER), *flags, "-shared", *sources, *objects, "-o", str(library), "-pthread"], check=True)
    return library


def passes(library: Path, order: str) -> bool:
    environment = {**os.environ, "LORA_EDGE_LIBCUDA": str(library), "LORA_EDGE_STANDIN_ORDER": order}
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run([sys.executable, "-c", ASK], env={**environment, "PYTHONPATH": path}).returncode == 0


def test_with_all_of_them(tmp_path: Path) -> None:
    library = without(tmp_path, FILES[0], -1)
    assert all(passes(library, order) for order in ("forward", "reverse", "1", "2"))


@pytest.mark.parametrize(("file", "number"), PLACES)
def test_without_one(tmp_path: Path, file: str, number: int) -> None:
    library = without(tmp_path, file, number)
    assert not all(passes(library, order) for order in ("forward", "reverse", "1", "2", "3"))
