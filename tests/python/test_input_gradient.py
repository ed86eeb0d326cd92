"""What training multiplies by: W·x as the runtime makes it, dY·W straight from the blocks, and rows of a matrix."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import gguf
import lora_edge
import numpy as np
import pytest
from lora_edge import _core
from lora_edge.taps import inputs_of
from tiny_models import BLOCKS, TYPES, fresh_rng, random_ids, random_shape, random_tensors, write_model

QKV = [f"blk.0.attn_{part}.weight" for part in "qkv"]
UP = ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"]
DOWN = "blk.0.ffn_down.weight"
CLOSE = 1e-5  # of the largest element: sums of float32 in another order
IN_16_BITS = ("q8_0", "q4_0", "q5_0", "iq4_nl")  # dY is rounded
ROUNDED = 3e-4  # of a row's length


def base(path: Path, type: str) -> np.random.Generator:
    """One layer whose depths leave a part of a chunk of columns over, and are whole super-blocks where they must."""
    rng = fresh_rng()
    if type in TYPES:
        sizes = {"d": 96 if type == "q8_0" else 83, "head_dim": 32, "n_ff": 160 if type == "q8_0" else 131}
    else:
        sizes = {"d": 512, "head_dim": 64, "n_ff": 256}
    shape = random_shape(rng, "llama", n_head=4, n_kv=2, n_layer=1, n_vocab=90, tied=False, bias=True, **sizes)
    write_model(path, shape, random_tensors(rng, shape), type)
    return rng


def core_of(path: Path, threads: int = 2) -> _core.Model:
    return _core.Model(str(path), 0, threads, "auto")


def floats(path: Path) -> dict[str, np.ndarray]:
    """The file's tensors, dequantised by gguf-py."""
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def error(made: np.ndarray, wanted: np.ndarray) -> float:
    """The largest of the rows, each relative to its wanted length."""
    return float((np.linalg.norm(made - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())


def close(made: np.ndarray, wanted: np.ndarray) -> bool:
    return made.dtype == np.float32 and bool(np.abs(made - wanted).max() <= CLOSE * np.abs(wanted).max())


@pytest.mark.parametrize("type", [*TYPES, *BLOCKS])
def test_gradient_is_that_of_the_dequantised_weight(tmp_path: Path, type: str) -> None:
    rng = base(tmp_path / "base.gguf", type)
    core, file = core_of(tmp_path / "base.gguf"), floats(tmp_path / "base.gguf")
    shapes = core.linear_shapes()
    for names in ([DOWN], QKV, UP, ["output.weight"], ["token_embd.weight"]):
        w = [file[name].astype(np.float64) for name in names]
        for m in (1, 5, 130):
            dys = [normal(rng, m, shapes[name][0]) for name in names]
            some = core.input_gradient(names, [dy[:, 7:61].copy() for dy in dys], rows=(7, 61))
            for made, wanted in (
                (core.input_gradient(names, dys), sum(dy @ wi for dy, wi in zip(dys, w))),
                (some, sum(dy[:, 7:61] @ wi[7:61] for dy, wi in zip(dys, w))),
            ):
                assert error(made, wanted) < ROUNDED if type in IN_16_BITS else close(made, wanted)


def gradients(rng: np.random.Generator, m: int, n: int) -> dict[str, np.ndarray]:
    """dY as training has them and worse: [m, n] by what is special about them."""
    one_row, one_element, spikes = normal(rng, m, n), normal(rng, m, n), normal(rng, m, n)
    one_row[m // 2] *= 1e6
    one_element[0, n // 3] = 1e6
    spikes[:, rng.integers(0, n, 3)] *= 300
    softmax = np.exp(4 * normal(rng, m, n))
    softmax /= softmax.sum(1, keepdims=True)
    softmax[np.arange(m), rng.integers(0, n, m)] -= 1
    return {
        "one row": one_row, "one element": one_element, "spikes in columns": spikes, "of cross-entropy": softmax,
        "heavy tails": rng.standard_cauchy((m, n)).astype(np.float32),
        "six decades": normal(rng, m, n) * 10 ** rng.uniform(-6, 0, (m, n)).astype(np.float32),
        "small": 1e-12 * normal(rng, m, n), "large": 1e12 * normal(rng, m, n),
    }  # fmt: skip


@pytest.mark.parametrize("type", IN_16_BITS)
def test_rounding_of_outliers(tmp_path: Path, type: str) -> None:
    rng = base(tmp_path / "base.gguf", type)
    core, file = core_of(tmp_path / "base.gguf"), floats(tmp_path / "base.gguf")
    for name in (DOWN, UP[0], "output.weight"):
        for kind, dy in gradients(rng, 40, len(file[name])).items():
            found = error(core.input_gradient([name], [dy]), dy.astype(np.float64) @ file[name])
            assert found < ROUNDED, (name, kind)


def test_what_is_no_number_stays_in_its_row(tmp_path: Path) -> None:
    rng = base(tmp_path / "base.gguf", "q8_0")
    core = core_of(tmp_path / "base.gguf")
    dy = normal(rng, 9, 96)
    wanted = core.input_gradient([DOWN], [dy])
    dy[2, 11], dy[5, 95], dy[7, 0] = np.nan, np.inf, -np.inf
    made = core.input_gradient([DOWN], [dy])
    assert np.isnan(made[[2, 5, 7]]).all()
    rest = [0, 1, 3, 4, 6, 8]
    assert np.array_equal(made[rest], wanted[rest])


@pytest.mark.parametrize("type", [*TYPES, *BLOCKS])
def test_product_is_the_runtimes(tmp_path: Path, type: str) -> None:
    """The output layer's to the bit; gate and up by what follows from them."""
    rng = base(tmp_path / "base.gguf", type)
    with lora_edge.load(tmp_path / "base.gguf", threads=2) as model:
        ids = random_ids(rng, random_shape(rng, "llama", n_vocab=90), 300)  # more than a pass takes at once
        seen, logits, core = inputs_of(model, ids), model.logits(ids), model.core
        x = seen["output.weight"]
        (made,) = core.linear(["output.weight"], x)
        assert np.array_equal(made, logits)
        (some,) = core.linear(["output.weight"], x[40:47], rows=(11, 30))
        assert np.array_equal(some, logits[40:47, 11:30])
        gate, up = (y.astype(np.float64) for y in core.linear(UP, seen[UP[0]]))
        assert close(seen[DOWN], gate / (1 + np.exp(-gate)) * up)
        q, k, v = core.linear(QKV, seen[QKV[0]])
        assert all(np.array_equal(y, core.linear([name], seen[name])[0]) for name, y in zip(QKV, (q, k, v)))


def digests(path: str | Path, threads: int) -> list[str]:
    """Of products whose input follows from the file alone."""
    core = core_of(Path(path), threads)
    shapes = core.linear_shapes()
    out = []
    for names in (QKV, UP, [DOWN], ["output.weight"]):
        rng = np.random.default_rng(1)
        dx = core.input_gradient(names, [normal(rng, 110, shapes[name][0]) for name in names])
        for y in [dx, *core.linear(names, normal(rng, 110, shapes[names[0]][1]))]:
            out.append(hashlib.sha256(y.tobytes()).hexdigest())
    return out


@pytest.mark.parametrize("type", ["f32", "q8_0", "q4_0", "q4_k"])
def test_same_bits_for_any_threads_and_rows(tmp_path: Path, type: str) -> None:
    rng = base(tmp_path / "base.gguf", type)
    path, names = tmp_path / "base.gguf", QKV
    cores = [core_of(path, threads) for threads in (1, 2, 3)]
    shapes = cores[0].linear_shapes()
    m = 401
    dys, x = [normal(rng, m, shapes[name][0]) for name in names], normal(rng, m, shapes[names[0]][1])
    dx, ys = cores[0].input_gradient(names, dys), cores[0].linear(names, x)
    for core in cores:
        assert np.array_equal(core.input_gradient(names, dys), dx)
        assert all(np.array_equal(made, y) for made, y in zip(core.linear(names, x), ys))
        for cut in (slice(0, 1), slice(3, 60), slice(60, m)):
            assert np.array_equal(core.input_gradient(names, [dy[cut] for dy in dys]), dx[cut])
            assert all(np.array_equal(made, y[cut]) for made, y in zip(core.linear(names, x[cut]), ys))


def test_same_bits_on_every_table(tmp_path: Path) -> None:
    """Of every type; one thread there, two here."""
    paths = [tmp_path / f"{type}.gguf" for type in (*TYPES, *BLOCKS)]
    for path in paths:
        base(path, path.stem)
    wanted = [digest for path in paths for digest in digests(path, 2)]
    assert len(set(wanted)) == len(wanted)
    script = f"import test_input_gradient as t; print(*[d for p in {list(map(str, paths))!r} for d in t.digests(p, 1)])"
    for name in _core.build_info()["isas_runnable"]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "LORA_EDGE_ISA": name}, cwd=Path(__file__).parent,
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        assert done.stdout.split() == wanted, name


def test_rows(tmp_path: Path) -> None:
    rng = base(tmp_path / "base.gguf", "q8_0")
    core, table = core_of(tmp_path / "base.gguf"), floats(tmp_path / "base.gguf")["token_embd.weight"]
    for ids in (rng.integers(0, 90, 33), rng.integers(0, 90, 7).astype(np.int32), [5, 5, 0]):
        assert np.array_equal(core.rows("token_embd.weight", ids), table[np.asarray(ids)])
    assert core.rows(DOWN, np.empty(0, np.int64)).shape == (0, 160)


def test_tied_output(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, "llama", tied=True, whole_blocks=True)
    core = core_of(write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), "q8_0"))
    x, dy = normal(rng, 4, shape.d), normal(rng, 4, shape.n_vocab)
    a, b = (core.linear([name], x)[0] for name in ("output.weight", "token_embd.weight"))
    assert np.array_equal(a, b)
    a, b = (core.input_gradient([name], [dy]) for name in ("output.weight", "token_embd.weight"))
    assert np.array_equal(a, b)
    assert np.array_equal(core.rows("output.weight", [3]), core.rows("token_embd.weight", [3]))


def test_nothing_grows_with_the_rows(tmp_path: Path) -> None:
    rng = base(tmp_path / "base.gguf", "q8_0")
    core = core_of(tmp_path / "base.gguf")
    sizes = []
    for m in (256, 4096):
        core.linear(QKV, normal(rng, m, 96))
        core.input_gradient([DOWN], [normal(rng, m, 96)])
        sizes.append(core.buffer_bytes)
    assert sizes[0] == sizes[1]


def test_calls_take_turns(tmp_path: Path) -> None:
    rng = base(tmp_path / "base.gguf", "q8_0")
    core = core_of(tmp_path / "base.gguf")
    dy, x = normal(rng, 64, 96), normal(rng, 64, 160)
    wanted, failed = (core.input_gradient([DOWN], [dy]), core.linear([DOWN], x)[0]), []

    def work() -> None:
        for _ in range(50):
            made = core.input_gradient([DOWN], [dy]), core.linear([DOWN], x)[0]
            failed.extend(i for i in (0, 1) if not np.array_equal(made[i], wanted[i]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_no_rows(tmp_path: Path) -> None:
    base(tmp_path / "base.gguf", "q8_0")
    core = core_of(tmp_path / "base.gguf")
    assert core.linear([DOWN], np.empty((0, 160), np.float32))[0].shape == (0, 96)
    assert core.input_gradient([DOWN], [np.empty((0, 96), np.float32)]).shape == (0, 160)


def test_bad_input(tmp_path: Path) -> None:
    base(tmp_path / "base.gguf", "q8_0")
    core = core_of(tmp_path / "base.gguf")
    x, dy = np.zeros((4, 160), np.float32), np.zeros((4, 96), np.float32)

    def refused(match: str, call: str, *arguments: object, **options: object) -> None:
        with pytest.raises(ValueError, match=match):
            getattr(core, call)(*arguments, **options)

    refused("no linear 'blk.9.ffn_up.weight'", "linear", ["blk.9.ffn_up.weight"], x)
    refused("no linear 'output_norm.weight'", "input_gradient", ["output_norm.weight"], [dy])
    refused("no linear is named", "linear", [], x)
    refused("no linear is named", "input_gradient", [], [])
    refused(rf"'{DOWN}' takes 160 inputs and '{QKV[0]}' 96", "linear", [QKV[0], DOWN], x)
    refused(rf"x of '{DOWN}' has shape \(4, 96\); it must be \(m, 160\)", "linear", [DOWN], dy)
    refused(rf"dy of '{DOWN}' has shape \(4, 160\); it must be \(m, 96\)", "input_gradient", [DOWN], [x])
    refused("is float64, not float32", "linear", [DOWN], x.astype(np.float64))
    refused("is >f4, not float32", "linear", [DOWN], x.astype(">f4"))
    refused("is list, not a numpy array", "linear", [DOWN], x.tolist())
    refused("is not contiguous in C order", "linear", [DOWN], np.asfortranarray(x))
    refused("is not contiguous in C order", "linear", [DOWN], np.zeros((4, 320), np.float32)[:, ::2])
    refused("2 gradients of 1 linears", "input_gradient", [DOWN], [dy, dy])
    refused(r"dy of .* has 3 rows and that of .* 4", "input_gradient", [DOWN, DOWN], [dy, dy[:3]])
    refused("has 96 rows, not rows 0 to 97", "linear", [DOWN], x, rows=(0, 97))
    for none in ((5, 5), (6, 5), (-3, 5)):
        refused("are none", "linear", [DOWN], x, rows=none)
    refused("no tensor 'nothing'", "rows", "nothing", [1])
    refused("is no matrix", "rows", "output_norm.weight", [1])
    refused("has 90 rows, not a row 90", "rows", "token_embd.weight", [90])
    refused("has 90 rows, not a row -1", "rows", "token_embd.weight", np.array([-1], np.int32))
    refused("no vector of integers", "rows", "token_embd.weight", [1.5])
    refused("no vector of integers", "rows", "token_embd.weight", [[1]])
