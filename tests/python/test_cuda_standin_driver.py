"""The stand-in for libcuda answers as a driver would: memory, launches, streams and graphs."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from standin import Cuda, code_of, needs_standin, toy_ptx

pytestmark = needs_standin
SIZE = ctypes.c_size_t
ONES = np.ones(256, np.float32)


def test_memory_is_accounted_for(cuda_machine: Callable[..., Cuda]) -> None:
    cuda = cuda_machine(memory=1 << 20)
    free, total = SIZE(), SIZE()

    def free_now() -> int:
        cuda("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        assert total.value == 1 << 20
        return free.value

    assert free_now() == 1 << 20
    p = cuda.allocate(700_000)
    assert p % 256 == 0
    assert free_now() == (1 << 20) - 700_000
    assert code_of(cuda.allocate, 400_000) == 2
    assert code_of(cuda.allocate, 0) == 1
    np.testing.assert_array_equal(cuda.read(p, 700_000, np.uint8), 0xFF)
    assert code_of(cuda, "cuMemFree_v2", ctypes.c_uint64(p + 256)) == 1
    assert code_of(cuda, "cuMemFree_v2", ctypes.c_uint64(p)) == 0
    assert code_of(cuda, "cuMemFree_v2", ctypes.c_uint64(p)) == 1
    assert free_now() == 1 << 20
    cuda.allocate(1 << 20)


def test_copies_stay_inside_allocations(cuda: Cuda) -> None:
    x = np.arange(100, dtype=np.uint8)
    p, q = cuda.upload(x), cuda.allocate(100)
    cuda("cuMemcpyDtoD_v2", ctypes.c_uint64(q), ctypes.c_uint64(p + 10), SIZE(90))
    np.testing.assert_array_equal(cuda.read(q, 100, np.uint8), [*x[10:], *[0xFF] * 10])
    for at, count in ((p, 101), (p + 60, 41), (p + 100, 1), (p - 1, 1), (0, 1), (x.ctypes.data, 1)):
        assert code_of(cuda.read, at, count, np.uint8) == 1
        assert code_of(cuda.write, at, np.zeros(count, np.uint8)) == 1
        assert code_of(cuda, "cuMemsetD8Async", ctypes.c_uint64(at), 1, SIZE(count), None) == 1
    # The host's side can't be a device's address.
    assert code_of(cuda, "cuMemcpyDtoH_v2", ctypes.c_void_p(p), ctypes.c_uint64(q), SIZE(1)) == 1
    cuda("cuMemsetD8Async", ctypes.c_uint64(p + 1), 7, SIZE(2), None)
    np.testing.assert_array_equal(cuda.read(p, 4, np.uint8), [0, 7, 7, 3])
    cuda("cuMemFree_v2", ctypes.c_uint64(p))
    assert code_of(cuda.read, p, 1, np.uint8) == 1


def test_memory_of_the_host(cuda: Cuda) -> None:
    pinned = cuda.handle("cuMemAllocHost_v2", SIZE(100))
    assert cuda.handle("cuMemHostGetDevicePointer_v2", pinned, 0).value == pinned.value
    own = np.zeros(4096, np.uint8)
    address = ctypes.c_void_p(own.ctypes.data)
    assert code_of(cuda.handle, "cuMemHostGetDevicePointer_v2", address, 0) == 1
    cuda("cuMemHostRegister_v2", address, SIZE(own.nbytes), 2)
    assert code_of(cuda, "cuMemHostRegister_v2", ctypes.c_void_p(own.ctypes.data + 8), SIZE(8), 0) == 712
    inner = cuda.handle("cuMemHostGetDevicePointer_v2", ctypes.c_void_p(own.ctypes.data + 64), 0).value or 0
    cuda.launch("toy_store_int", struct.pack("Qq", inner, 8))  # a kernel writes there
    assert own[72] == 1
    np.testing.assert_array_equal(cuda.read(inner, 16, np.uint8), own[64:80])
    cuda("cuMemHostUnregister", address)
    assert code_of(cuda, "cuMemHostUnregister", address) == 713
    cuda("cuMemFreeHost", pinned)
    assert code_of(cuda, "cuMemFreeHost", pinned) == 1


def test_limits_of_launches(cuda_machine: Callable[..., Cuda]) -> None:
    cuda = cuda_machine(sm=75)
    args = struct.pack("Qq", cuda.upload(np.zeros(64, np.int32)), 0)
    for grid, threads, code in (
        ((1, 1, 1), 64, 0),
        ((1, 1, 1), 96, 1),
        ((1, 1, 1), 48, 1),
        ((1, 1, 1), 0, 1),
        ((0, 1, 1), 64, 1),
        ((1, 65536, 1), 64, 1),
        ((1, 1, 65536), 64, 1),
    ):
        assert code_of(cuda.launch, "toy_count", args, grid, threads) == code
    assert code_of(cuda.launch, "toy_count", struct.pack("Qq", 0, 0), (1, 1, 1), 64, 48 << 10) == 1  # beside 1 KiB
    assert code_of(cuda.launch, "toy_count", args, (1, 1, 1), 64, 47 << 10) == 0
    function = cuda.function("toy_count")
    assert cuda.attribute(97) == 64 << 10
    assert code_of(cuda, "cuFuncSetAttribute", function, 8, 64 << 10) == 1
    assert code_of(cuda, "cuFuncSetAttribute", function, 8, 63 << 10) == 0
    assert code_of(cuda.launch, "toy_count", args, (1, 1, 1), 64, 63 << 10) == 0
    assert code_of(cuda.launch, "toy_count", args, (1, 1, 1), 64, (63 << 10) + 1) == 1
    cuda("cuModuleUnload", cuda.load(toy_ptx()))
    assert code_of(cuda, "cuLaunchKernel", ctypes.c_void_p(1), 1, 1, 1, 32, 1, 1, 0, None, None, None) == 400


def test_arguments_as_a_buffer(cuda: Cuda) -> None:
    count = cuda.upload(np.zeros(1, np.int32))
    for size, code in ((16, 0), (8, 1), (24, 1)):
        held, bytes_ = ctypes.create_string_buffer(struct.pack("Qqq", count, 0, 0)), SIZE(size)
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(held), 2, ctypes.addressof(bytes_), 0)
        function = cuda.function("toy_count")
        assert code_of(cuda, "cuLaunchKernel", function, 1, 1, 1, 64, 1, 1, 0, None, None, extra) == code
    assert cuda.read(count, 1, np.int32) == 64


def counted(cuda: Cuda, path: Path) -> dict[str, list[int]]:
    path.unlink(missing_ok=True)
    assert cuda.lib.lora_edge_standin_write_counts(str(path).encode()) == 0
    lines = (line.split() for line in path.read_text().splitlines())
    return {w[1]: [int(n) for n in w[3::2]] if w[0] == "kernel" else [int(w[2])] for w in lines}


@pytest.mark.parametrize("instantiate", ["cuGraphInstantiateWithFlags", "cuGraphInstantiate_v2", "cuGraphInstantiate"])
def test_graphs_replay_launches_and_copies(cuda: Cuda, instantiate: str, tmp_path: Path) -> None:
    stream = cuda.handle("cuStreamCreate", 1)
    x, y, z = cuda.upload(ONES), cuda.allocate(8), cuda.allocate(8)
    out = np.zeros(2, np.float32)
    cuda.function("toy_reduce")
    cuda("cuStreamBeginCapture_v2", stream, 2)
    cuda("cuMemsetD8Async", ctypes.c_uint64(y), 0, SIZE(8), stream)
    cuda.launch("toy_reduce", struct.pack("QQ", x, y + 4), threads=256, stream=stream)
    cuda("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(z), ctypes.c_uint64(y), SIZE(8), stream)
    cuda("cuMemcpyDtoHAsync_v2", out.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(z), SIZE(8), stream)
    graph = ctypes.c_void_p()
    cuda("cuStreamEndCapture", stream, ctypes.byref(graph))
    assert not out.any()  # nothing has run yet
    executable = cuda.handle(
        instantiate, graph, *([SIZE(0)] if instantiate.endswith("Flags") else [None, None, SIZE(0)])
    )
    cuda("cuGraphDestroy", graph)
    before = counted(cuda, tmp_path / "counts")
    for scale in (1, 2, 3):
        cuda.write(x, ONES * scale)
        cuda("cuGraphLaunch", executable, stream)
        cuda("cuStreamSynchronize", stream)
        assert out.tolist() == [0, 256 * scale]
    after = counted(cuda, tmp_path / "counts")
    launches, replays, barriers, _ = (b - a for a, b in zip(before.get("toy_reduce", [0] * 4), after["toy_reduce"]))
    assert (launches, replays, barriers) == (0, 3, 27)
    assert after["cuLaunchKernel"] == before["cuLaunchKernel"]
    cuda("cuMemFree_v2", ctypes.c_uint64(z))
    assert code_of(cuda, "cuGraphLaunch", executable, stream) == 1  # it copies to what is gone
    cuda("cuGraphExecDestroy", executable)
    assert code_of(cuda, "cuGraphLaunch", executable, stream) == 400
    cuda("cuStreamDestroy_v2", stream)
    assert code_of(cuda, "cuStreamSynchronize", stream) == 400


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_captures_forbid_waiting(cuda: Cuda, mode: int) -> None:
    stream, graph = cuda.handle("cuStreamCreate", 0), ctypes.c_void_p()
    p = cuda.upload(ONES)
    for work in (lambda: cuda.allocate(8), lambda: cuda.write(p, ONES), lambda: cuda("cuCtxSynchronize")):
        cuda("cuStreamBeginCapture_v2", stream, mode)
        assert code_of(work) == (0 if mode == 2 else 900)
        assert code_of(cuda, "cuStreamEndCapture", stream, ctypes.byref(graph)) == (0 if mode == 2 else 901)
        assert bool(graph) == (mode == 2)
    cuda("cuStreamBeginCapture_v2", stream, mode)
    assert code_of(cuda, "cuStreamSynchronize", stream) == 900
    assert code_of(cuda, "cuStreamBeginCapture_v2", None, mode) == 900
    cuda("cuStreamDestroy_v2", stream)
    cuda("cuCtxSynchronize")


def test_events_measure(cuda: Cuda) -> None:
    begin, end, ms = cuda.handle("cuEventCreate", 0), cuda.handle("cuEventCreate", 0), ctypes.c_float()
    assert code_of(cuda, "cuEventElapsedTime", ctypes.byref(ms), begin, end) == 400
    cuda("cuEventRecord", begin, None)
    cuda("cuEventRecord", end, None)
    cuda("cuEventSynchronize", end)
    cuda("cuEventElapsedTime", ctypes.byref(ms), begin, end)
    assert 0 <= ms.value < 60_000
    cuda("cuEventDestroy_v2", begin)
    assert code_of(cuda, "cuEventRecord", begin, None) == 400
