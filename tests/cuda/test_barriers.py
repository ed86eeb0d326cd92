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
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-w", f"-I{REPOSITORY / 'cpp'}", f"-I{STANDIN}"]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
pytestmark = pytest.mark.skipif(REAL or COMPILER is None, reason="needs a C++ compiler, and the stand-in")


def compile_kernels(source: Path) -> Path:
    """The object of a .cu file, beside it."""
    made = source.with_suffix(".o")
    command = ["-x", "c++", "-include", STANDIN / "device.h", "-iquote", KERNELS, "-c", source, "-o", made]
    subprocess.run([str(COMPILER), *FLAGS, *map(str, command)], check=True)
    return made


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the stand-in's own sources and of the kernels as they are, by file."""
    folder = tmp_path_factory.mktemp("objects")
    made = {}
    for source in sorted(KERNELS.glob("*.cu")):
        made[source.name] = compile_kernels(Path(shutil.copy(source, folder)))
    for source in sorted(STANDIN.glob("*.cpp")):
        if source.name != "old.cpp":
            made[source.name] = folder / f"{source.stem}.standin.o"
            command = [COMPILER, *FLAGS, "-c", source, "-o", made[source.name]]
            subprocess.run(list(map(str, command)), check=True)
    return made


def without(objects: dict[str, Path], folder: Path, file: str, number: int) -> Path:
    """The stand-in with kernels of which one lacks its barrier of this number."""
    text = (KERNELS / file).read_text()
    found = list(BARRIER.finditer(text))[number]
    (folder / file).write_text(text[: found.start()] + text[found.end() :])
    return linked({**objects, file: compile_kernels(folder / file)}, folder)


def linked(objects: dict[str, Path], folder: Path) -> Path:
    library = folder / "libcuda.so.1"
    command = [COMPILER, "-shared", *objects.values(), "-o", library, "-pthread"]
    subprocess.run(list(map(str, command)), check=True)
    return library


def passes(library: Path, order: str) -> bool:
    environment = {**os.environ, "LORA_EDGE_LIBCUDA": str(library), "LORA_EDGE_STANDIN_ORDER": order}
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run([sys.executable, "-c", ASK], env={**environment, "PYTHONPATH": path}).returncode == 0


def test_with_all_of_them(objects: dict[str, Path], tmp_path: Path) -> None:
    library = linked(objects, tmp_path)
    assert all(passes(library, order) for order in ("forward", "reverse", "1", "2"))


@pytest.mark.parametrize(("file", "number"), PLACES)
def test_without_one(objects: dict[str, Path], tmp_path: Path, file: str, number: int) -> None:
    library = without(objects, tmp_path, file, number)
    assert not all(passes(library, order) for order in ("forward", "reverse", "1", "2", "3"))
