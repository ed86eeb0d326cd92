"""The stand-in for libcuda (tests/cuda/standin), found where the tests' build put it, and called with ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MACHINES = {"x86_64": 62, "aarch64": 183}  # ELF's numbers for this machine's kind

# Bytes of each toy kernel's arguments (tests/cuda/toys.h).
TOYS = {
    "toy_reduce": 16,
    "toy_reduce_no_first_barrier": 16,
    "toy_reduce_no_step_barriers": 16,
    "toy_reduce_warp": 16,
    "toy_reduce_warp_no_barrier": 16,
    "toy_divergent": 16,
    "toy_divergent_shuffle": 16,
    "toy_shuffle": 16,
    "toy_mma": 24,
    "toy_dot4": 40,
    "toy_half": 32,
    "toy_tickets": 16,
    "toy_count": 16,
    "toy_store_int": 16,
    "toy_shared_index": 16,
    "toy_garbage": 16,
}


def _of_this_machine(library: Path) -> bool:
    head = library.read_bytes()[:20]
    return int.from_bytes(head[18:20], "little") == MACHINES.get(platform.machine())


def find(folder: str = "standin") -> Path | None:
    """The library in LORA_EDGE_STANDIN's folder, or the newest in build/; None if there is none for this machine."""
    named = os.environ.get("LORA_EDGE_STANDIN")
    if named:
        return Path(named).parent / folder / "libcuda.so.1"
    found = [p for depth in ("*", "*/*") for p in REPOSITORY.glob(f"build/{depth}/{folder}/libcuda.so.1")]
    return max(filter(_of_this_machine, found), key=lambda p: p.stat().st_mtime, default=None)


needs_standin = pytest.mark.skipif(
    find() is None, reason="needs the stand-in for libcuda, which the C++ tests' build makes (LORA_EDGE_TESTS)"
)


class CudaError(Exception):
    """A function of the driver gave this code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name}: {code}")
        self.code = code


def code_of(work: Callable[..., object], *args: object) -> int:
    """What the driver gave to the work: 0 if nothing failed."""
    try:
        work(*args)
    except CudaError as error:
        return error.code
    return 0


def toy_ptx(
    version: str = "6.0", target: str = "sm_53", sizes: dict[str, int] = TOYS, threads: dict[str, int] | None = None
) -> bytes:
    """Text that claims the toy kernels: all that the stand-in reads of PTX."""
    text = f"//\n.version {version}\n.target {target}\n.address_size 64\n"
    for name, size in sizes.items():
        text += f".visible .entry {name}(\n\t.param .align 8 .b8 {name}_param_0[{size}]\n)\n"
        if threads and name in threads:
            text += f".maxntid {threads[name]}, 1, 1\n"
        text += f"{{\n\t.shared .align 4 .b8 _ZZ{name}[1024];\n\tret;\n}}\n"
    return text.encode()


class Cuda:
    """The driver with a current context on device 0."""

    def __init__(self) -> None:
        path = find()
        assert path
        self.lib = ctypes.CDLL(str(path))
        self("cuInit", 0)
        context = ctypes.c_void_p()
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self("cuCtxSetCurrent", context)
        self.functions: dict[str, ctypes.c_void_p] = {}

    def close(self) -> None:
        """Ends the context, and everything in it."""
        self("cuDevicePrimaryCtxRelease_v2", 0)

    def __call__(self, name: str, *args: object) -> None:
        code = getattr(self.lib, name)(*args)
        if code:
            raise CudaError(name, code)

    def handle(self, name: str, *args: object) -> ctypes.c_void_p:
        """What a function gives in its first argument."""
        made = ctypes.c_void_p()
        self(name, ctypes.byref(made), *args)
        return made

    def load(self, ptx: bytes) -> ctypes.c_void_p:
        return self.handle("cuModuleLoadDataEx", ptx, 0, None, None)

    def allocate(self, n_bytes: int) -> int:
        return self.handle("cuMemAlloc_v2", ctypes.c_size_t(n_bytes)).value or 0

    def upload(self, array: np.ndarray) -> int:
        """A device address with the array's bytes."""
        p = self.allocate(array.nbytes)
        self.write(p, array)
        return p

    def write(self, p: int, array: np.ndarray) -> None:
        source = np.ascontiguousarray(array)
        self(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(p),
            source.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_size_t(source.nbytes),
        )

    def read(self, p: int, count: int, dtype: type) -> np.ndarray:
        array = np.empty(count, dtype)
        self(
            "cuMemcpyDtoH_v2", array.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(p), ctypes.c_size_t(array.nbytes)
        )
        return array

    def attribute(self, which: int) -> int:
        """Of the device, e.g. 75: the major number of its compute capability."""
        value = ctypes.c_int()
        self("cuDeviceGetAttribute", ctypes.byref(value), which, 0)
        return value.value

    def function(self, name: str) -> ctypes.c_void_p:
        if name not in self.functions:
            module = self.load(toy_ptx())
            self.functions[name] = self.handle("cuModuleGetFunction", module, name.encode())
        return self.functions[name]

    def launch(
        self,
        kernel: str,
        args: bytes,
        grid: tuple[int, int, int] = (1, 1, 1),
        threads: int = 32,
        dynamic: int = 0,
        stream: ctypes.c_void_p | None = None,
    ) -> None:
        """Launches a toy kernel, whose arguments have these bytes."""
        held = ctypes.create_string_buffer(args, len(args))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(held))
        self("cuLaunchKernel", self.function(kernel), *grid, threads, 1, 1, dynamic, stream, parameters, None)
