"""The stand-in for libcuda runs kernels as a device would, in any order, and finds what a device wouldn't forgive."""

from __future__ import annotations

import platform
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from standin import Cuda, CudaError, needs_standin

pytestmark = needs_standin
ORDERS = ("forward", "reverse", "1", "2", "3")


@pytest.fixture
def rng() -> np.random.Generator:
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    return np.random.default_rng(seed)


def reduce(
    cuda: Cuda, kernel: str, x: np.ndarray, threads: int = 256, outputs: int = 0, dynamic: int = 0
) -> np.ndarray:
    n_out = outputs or len(x) // threads
    inputs, sums = cuda.upload(x), cuda.allocate(4 * n_out)
    cuda.launch(kernel, struct.pack("QQ", inputs, sums), (len(x) // threads, 1, 1), threads, dynamic)
    return cuda.read(sums, n_out, np.float32)


@pytest.mark.parametrize("order", ORDERS)
def test_reduction(cuda: Cuda, rng: np.random.Generator, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
    x = rng.integers(-1000, 1000, 5 * 256).astype(np.float32)
    np.testing.assert_array_equal(reduce(cuda, "toy_reduce", x), x.reshape(5, 256).sum(1))
    np.testing.assert_array_equal(reduce(cuda, "toy_reduce_warp", x[:32], 32, dynamic=128), x[:32].sum())


@pytest.mark.parametrize("kernel", ["toy_reduce_no_first_barrier", "toy_reduce_no_step_barriers"])
def test_a_missing_barrier_shows(cuda: Cuda, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(1, 2 * 256 + 1, dtype=np.float32)
    right = []
    for order in ("forward", "reverse"):
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        right.append(np.array_equal(reduce(cuda, kernel, x), x.reshape(2, 256).sum(1)))
    assert not all(right)


def test_a_missing_warp_barrier_shows(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(32, dtype=np.float32)
    for order in ORDERS:
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        sums = reduce(cuda, "toy_reduce_warp_no_barrier", x, 32, outputs=32, dynamic=128)
        assert np.isnan(sums).sum() == 16 or (order.isdigit() and 0 < np.isnan(sums).sum() < 32)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("toy_divergent", "kernel toy_divergent, block (0, 0, 0): 128 threads wait at sync(), 128 have exited"),
        ("toy_divergent_shuffle", "16 threads wait at sync_warp(), 16 wait at a shuffle"),
    ],
)
@pytest.mark.parametrize("order", ["forward", "reverse", "7"])
def test_divergence_fails(
    cuda: Cuda, kernel: str, message: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
    p = cuda.upload(np.zeros(256, np.float32))
    with pytest.raises(CudaError) as error:
        cuda.launch(kernel, struct.pack("QQ", p, p), threads=256)
    assert error.value.code == 719
    assert message in (tmp_path / "log").read_text()
    with pytest.raises(CudaError) as error:
        cuda("cuCtxSynchronize")  # as a device's context, this one is of no use any more
    assert error.value.code == 719
    cuda.close()
    again = Cuda()
    cuda.functions = {}
    x = np.ones(256, np.float32)
    assert reduce(again, "toy_reduce", x) == 256


def test_shuffles(cuda: Cuda, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.integers(-(2**23), 2**23, 32).astype(np.int32)
    lane = np.arange(32)
    for order in ORDERS:
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        inputs, out = cuda.upload(x), cuda.allocate(4 * 128)
        cuda.launch("toy_shuffle", struct.pack("QQ", inputs, out))
        y = cuda.read(out, 128, np.int32).reshape(4, 32)
        np.testing.assert_array_equal(y[0], x[lane ^ 5])
        np.testing.assert_array_equal(y[1], x[31 - lane])
        np.testing.assert_array_equal(y[2], x[lane ^ 16])
        np.testing.assert_array_equal(y[3], np.full(32, x.sum()))


def test_mma_is_a_product_of_integers(cuda: Cuda, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    for order in ORDERS:
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        a, b = rng.integers(-128, 128, (16, 32)).astype(np.int8), rng.integers(-128, 128, (32, 8)).astype(np.int8)
        c = rng.integers(-1000, 1000, (16, 8)).astype(np.int32)
        pointers = [cuda.upload(array) for array in (a, np.ascontiguousarray(b.T), c)]
        cuda.launch("toy_mma", struct.pack("QQQ", *pointers))
        got = cuda.read(pointers[2], 128, np.int32).reshape(16, 8)
        np.testing.assert_array_equal(got, c + a.astype(np.int32) @ b.astype(np.int32))


def test_dot4(cuda: Cuda, rng: np.random.Generator) -> None:
    n = 1000
    a, b = rng.integers(-128, 128, (2, n, 4)).astype(np.int8)
    a[0], b[0] = -128, -128
    c = rng.integers(-(2**31), 2**31, n).astype(np.int32)
    c[:2] = 2**31 - 1  # sums wrap
    out = cuda.allocate(4 * n)
    cuda.launch(
        "toy_dot4", struct.pack("QQQQi4x", cuda.upload(a), cuda.upload(b), cuda.upload(c), out, n), (16, 1, 1), 64
    )
    sums = c.astype(np.int64) + (a.astype(np.int64) * b.astype(np.int64)).sum(1)
    np.testing.assert_array_equal(cuda.read(out, n, np.int32), sums.astype(np.uint64).astype(np.uint32).view(np.int32))


def test_halves_are_exact(cuda: Cuda, rng: np.random.Generator) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # NaNs are converted too
        every = np.arange(65536, dtype=np.uint16).view(np.float16)
        finite = np.sort(every[np.isfinite(every)].astype(np.float32))
        between = (finite[:-1] + finite[1:]) / 2  # ties
        x = np.concatenate(
            [
                every.astype(np.float32),
                between,
                np.nextafter(between, np.float32(np.inf)),
                np.nextafter(between, np.float32(-np.inf)),
                rng.integers(0, 2**32, 50000).astype(np.uint32).view(np.float32),
                np.array([65519.996, 65520, 2.0**-25, 2.0**-24, np.inf], np.float32),
            ]
        ).astype(np.float32)
        floats, halves = cuda.allocate(4 * 65536), cuda.allocate(2 * len(x))
        cuda.launch("toy_half", struct.pack("QQQi4x", floats, cuda.upload(x), halves, len(x)), (3, 1, 1), 256)
        got = cuda.read(floats, 65536, np.float32)
        numbers = ~np.isnan(every)
        np.testing.assert_array_equal(got.view(np.uint32)[numbers], every.astype(np.float32).view(np.uint32)[numbers])
        assert np.isnan(got[~numbers]).all()
        want = x.astype(np.float16).view(np.uint16)
        want[np.isnan(x)] = 0x7FFF
        np.testing.assert_array_equal(cuda.read(halves, len(x), np.uint16), want)


def test_orders(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def tickets(order: str) -> np.ndarray:
        """(2 phases, 3 blocks, 64 threads): when each thread ran, before the barrier and after."""
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        counter, out = cuda.upload(np.zeros(1, np.int32)), cuda.allocate(4 * 2 * 3 * 64)
        cuda.launch("toy_tickets", struct.pack("QQ", counter, out), (3, 1, 1), 64)
        return cuda.read(out, 2 * 3 * 64, np.int32).reshape(3, 2, 64).transpose(1, 0, 2)

    plain = np.arange(2 * 3 * 64).reshape(3, 2, 64).transpose(1, 0, 2)
    np.testing.assert_array_equal(tickets("forward"), plain)
    np.testing.assert_array_equal(tickets("reverse"), plain[:, ::-1, ::-1])
    first, other = tickets("1"), tickets("2")
    assert (first != other).any() and (np.argsort(first[0], -1) != np.argsort(first[1], -1)).any()
    np.testing.assert_array_equal(np.sort(first.ravel()), np.arange(2 * 3 * 64))
    np.testing.assert_array_equal(tickets("1"), first)
    assert (tickets("1") != first).any()  # it goes on
    monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", "sideways")
    with pytest.raises(CudaError):
        cuda.launch("toy_tickets", bytes(16))


def test_each_block_runs_once(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = cuda.upload(np.zeros(7 * 3 * 2, np.int32))
    for times, order in enumerate(ORDERS, 1):
        monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", order)
        cuda.launch("toy_count", struct.pack("Qq", counts, 0), (7, 3, 2), 64)
        np.testing.assert_array_equal(cuda.read(counts, 42, np.int32), 64 * times)


def test_shared_memory_holds_garbage_in_each_block(cuda: Cuda) -> None:
    p = cuda.upload(np.zeros(64, np.uint8))
    cuda.launch("toy_garbage", struct.pack("Qq", p, 0), (4, 1, 1), 32, 32)
    np.testing.assert_array_equal(cuda.read(p, 64, np.uint8), 0xFF)


@pytest.mark.parametrize(
    ("kernel", "at", "code", "message"),
    [
        ("toy_store_int", 2, 716, "isn't a multiple of 4"),
        ("toy_shared_index", 40, 700, "index 64 is outside of its array"),
        ("toy_shared_index", -3, 700, "index -3 is outside of its array"),
    ],
)
def test_what_a_device_refuses(
    cuda: Cuda, kernel: str, at: int, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_EDGE_STANDIN_ORDER", "forward")
    p = cuda.upload(np.zeros(64, np.uint8))
    cuda.launch(kernel, struct.pack("Qq", p, 32 if kernel == "toy_shared_index" else 4))
    with pytest.raises(CudaError) as error:
        cuda.launch(kernel, struct.pack("Qq", p, at))
    assert error.value.code == code
    log = (tmp_path / "log").read_text()
    assert message in log and "toys.cu:" in log


OUTSIDE = """
import ctypes, struct, sys
from standin import Cuda
cuda = Cuda()
p = cuda.allocate(1000)
cuda.launch("toy_store_int", struct.pack("Qq", p, 996))
print("inside", flush=True)
where = sys.argv[1]
if where == "host":
    ctypes.string_at(p, 4)
elif where == "freed":
    cuda("cuMemFree_v2", ctypes.c_uint64(p))
cuda.launch("toy_store_int", struct.pack("Qq", p, {"past": 1024, "before": -4096, "freed": 0}[where]))
"""
CPU = Path("/proc/cpuinfo")
KEYS = platform.machine() == "x86_64" and CPU.exists() and " ospke" in CPU.read_text()


@pytest.mark.parametrize(
    "where",
    [
        "past",
        "before",
        "freed",
        pytest.param("host", marks=pytest.mark.skipif(not KEYS, reason="needs a CPU with protection keys")),
    ],
)
def test_memory_out_of_reach_crashes(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, where], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "inside\n", done.stderr
    assert done.returncode == -signal.SIGSEGV, done.stderr
