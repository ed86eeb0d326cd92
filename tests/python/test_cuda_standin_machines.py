"""The stand-in for libcuda is a machine of one's choice: what modules it takes, and what it lacks."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from standin import REPOSITORY, TOYS, Cuda, code_of, find, needs_standin, toy_ptx

pytestmark = needs_standin


@pytest.mark.parametrize(
    ("driver", "knows"),
    [(10020, "6.5"), (11040, "7.4"), (11080, "7.8"), (12020, "8.2"), (12060, "8.5"), (12080, "8.7"), (13000, "9.0")],
)
def test_drivers_refuse_newer_ptx(cuda_machine: Callable[..., Cuda], driver: int, knows: str) -> None:
    cuda = cuda_machine(driver=driver)
    assert code_of(cuda.load, toy_ptx(knows)) == 0
    major, minor = map(int, knows.split("."))
    assert code_of(cuda.load, toy_ptx(f"{major}.{minor + 1}")) == 222
    assert code_of(cuda.load, toy_ptx(f"{major + 1}.0")) == 222


@pytest.mark.parametrize("sm", [53, 61, 75, 87])
def test_devices_refuse_newer_targets(cuda_machine: Callable[..., Cuda], sm: int) -> None:
    cuda = cuda_machine(sm=sm)
    assert cuda.attribute(75) * 10 + cuda.attribute(76) == sm
    for target in (53, 61, 75, 87, 90):
        assert code_of(cuda.load, toy_ptx(target=f"sm_{target}")) == (0 if target <= sm else 209)
    assert code_of(cuda.load, toy_ptx(target=f"sm_{sm}a")) == 0
    assert code_of(cuda.load, toy_ptx(target="sm_50a")) == 209


def test_text_that_is_no_ptx(cuda: Cuda) -> None:
    assert code_of(cuda.load, b"hello") == 218
    log = ctypes.create_string_buffer(200)
    options = (ctypes.c_int * 2)(5, 6)
    values = (ctypes.c_void_p * 2)(ctypes.addressof(log), 200)
    assert code_of(cuda.handle, "cuModuleLoadDataEx", b"hello", 2, options, values) == 218
    assert b"not PTX: 'hello'" in log.value


def test_ptx_and_kernels_must_agree(cuda: Cuda, tmp_path: Path) -> None:
    assert code_of(cuda.load, toy_ptx(sizes={**TOYS, "toy_dot4": 36})) == 218
    assert "toy_dot4 takes 36 bytes in PTX and 40 in C++" in (tmp_path / "log").read_text()
    assert code_of(cuda.load, toy_ptx(threads={"toy_dot4": 128})) == 218
    assert code_of(cuda.load, toy_ptx(threads={"toy_dot4": 64})) == 0
    two = toy_ptx().replace(b"toy_dot4_param_0[40]", b"toy_dot4_param_0[40],\n.param .u32 toy_dot4_param_1")
    assert code_of(cuda.load, two) == 218
    module = cuda.load(toy_ptx(sizes={"toy_reduce": 16, "not_here": 8}))
    for name, code in (("toy_reduce", 0), ("not_here", 500), ("toy_dot4", 500)):
        assert code_of(cuda.handle, "cuModuleGetFunction", module, name.encode()) == code


CLANG = shutil.which("clang++-19") or shutil.which("clang++")


@pytest.mark.skipif(not CLANG, reason="needs clang++")
@pytest.mark.parametrize(("sm", "ptx"), [(53, 60), (61, 60), (75, 65), (80, 70)])
def test_clangs_ptx_agrees(cuda_machine: Callable[..., Cuda], sm: int, ptx: int, tmp_path: Path) -> None:
    """The toys as PTX: both device.h hold the contract, and the argument sizes are the same."""
    out = tmp_path / "toys.ptx"
    kernels = REPOSITORY / "cpp/backend/cuda/kernels"
    flags = f"-x cuda --cuda-device-only --cuda-gpu-arch=sm_{sm} --cuda-feature=+ptx{ptx} --cuda-path=/nonexistent"
    flags += " -nocudainc -nocudalib -std=c++17 -O1 -ffp-contract=off -Wall -Wextra -Werror -S"
    subprocess.run(
        [str(CLANG), *flags.split(), "-iquote", str(kernels), "-o", str(out), str(REPOSITORY / "tests/cuda/toys.cu")],
        check=True,
    )
    cuda = cuda_machine(sm=sm)
    module = cuda.load(out.read_bytes())
    for name in TOYS:
        assert code_of(cuda.handle, "cuModuleGetFunction", module, name.encode()) == (
            500 if name == "toy_mma" and sm < 75 else 0
        )
    function = cuda.handle("cuModuleGetFunction", module, b"toy_reduce")
    value = ctypes.c_int()
    for which, want in ((0, 256), (1, 1024), (5, ptx), (6, sm), (8, 48 << 10)):
        cuda("cuFuncGetAttribute", ctypes.byref(value), which, function)
        assert value.value == want
    assembler = shutil.which("ptxas")
    if assembler and sm >= 75:
        subprocess.run([assembler, f"-arch=sm_{sm}", str(out), "-o", "/dev/null"], check=True)


def test_machines_without(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = ctypes.CDLL(str(find()))
    count = ctypes.c_int(7)
    for name, value, code in (("DEVICES", "0", 100), ("FAIL", "init", 999), ("SM", "x", 999), ("FAIL", "all", 999)):
        with monkeypatch.context() as m:
            m.setenv(f"LORA_EDGE_STANDIN_{name}", value)
            assert lib.cuInit(0) == code
            if name == "DEVICES":
                assert lib.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value == 0
    text = ctypes.c_char_p()
    assert lib.cuGetErrorName(100, ctypes.byref(text)) == 0 and text.value == b"CUDA_ERROR_NO_DEVICE"
    assert lib.cuGetErrorString(2, ctypes.byref(text)) == 0 and text.value == b"out of memory"
    assert lib.cuGetErrorName(12345, ctypes.byref(text)) == 1 and text.value is None


def test_several_devices(cuda_machine: Callable[..., Cuda]) -> None:
    cuda = cuda_machine(devices=2, sm=61)
    count, name = ctypes.c_int(), ctypes.create_string_buffer(64)
    cuda("cuDeviceGetCount", ctypes.byref(count))
    cuda("cuDeviceGetName", name, 64, 1)
    assert count.value == 2 and name.value == b"Stand-in sm_61"
    assert code_of(cuda, "cuDeviceGetName", name, 64, 2) == 101
    function = cuda.function("toy_count")
    other = cuda.handle("cuDevicePrimaryCtxRetain", 1)
    cuda("cuCtxSetCurrent", other)
    assert code_of(cuda, "cuLaunchKernel", function, 1, 1, 1, 64, 1, 1, 0, None, None, None) == 400
    cuda("cuDevicePrimaryCtxRelease_v2", 1)
    assert code_of(cuda, "cuCtxSynchronize") == 201


@pytest.mark.parametrize("fail", ["launch", "launch:2"])
def test_launches_that_fail(cuda_machine: Callable[..., Cuda], fail: str) -> None:
    cuda = cuda_machine(fail=fail)
    args = struct.pack("Qq", cuda.upload(np.zeros(1, np.int32)), 0)
    assert code_of(cuda.launch, "toy_count", args, (1, 1, 1), 64) == (719 if fail == "launch" else 0)
    assert code_of(cuda.launch, "toy_count", args, (1, 1, 1), 64) == 719
    assert code_of(cuda, "cuCtxSynchronize") == 719


def test_allocations_that_fail(cuda_machine: Callable[..., Cuda]) -> None:
    cuda = cuda_machine(fail="alloc:3,launch:9")
    assert [code_of(cuda.allocate, 8) for _ in range(5)] == [0, 0, 2, 0, 0]


def test_counts_at_exit(tmp_path: Path) -> None:
    code = "import ctypes, sys; from standin import Cuda; c = Cuda(); c.allocate(8); c.allocate(9)"
    counts = tmp_path / "counts"
    environment = {**os.environ, "LORA_EDGE_STANDIN_COUNT": str(counts)}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, check=True, timeout=60)
    assert "call cuMemAlloc_v2 2\n" in counts.read_text()


def test_a_driver_without_the_functions() -> None:
    lib = ctypes.CDLL(str(find("standin_old")))
    version = ctypes.c_int()
    assert lib.cuInit(0) == 0 and lib.cuDriverGetVersion(ctypes.byref(version)) == 0
    assert version.value < 10000
    assert hasattr(lib, "cuMemAlloc") and not hasattr(lib, "cuMemAlloc_v2") and not hasattr(lib, "cuLaunchKernel")
