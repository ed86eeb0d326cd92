"""The safetensors reader: what it reads, and that a header cannot lie about the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_folders import random_array, write_safetensors
from lora_edge.safetensors_file import SafetensorsFile


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "a": random_array(rng, (3, 5)), "b": random_array(rng, (7,), "float16"), "c": random_array(rng, (2,
            2, 2), "bf16"),
        "empty": np.zeros((0, 4), np.float32), "scalar": np.float32(3.0).reshape(()), "é": np.arange(3,
            dtype=np.int32),
    }  # fmt: skip
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}):
        write_safetensors(path, tensors, metadata)
        file = SafetensorsFile(path)
        assert list(file) == list(tensors) and "a" in file and "z" not in file
        assert file.metadata == (metadata or {})
        assert file.info["c"].dtype == "BF16"
        for name, x in tensors.items():
            read = file.array(name)
            assert read.dtype == x.dtype and np.array_equal(read, x) and not read.flags.writeable
    keep = file.array("a")
    del file
    assert np.array_equal(keep, tensors["a"])


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD: list[tuple[Any, int, str]] = [  # header (or raw bytes), length of the data, message
    ({"x": {**F32, "dtype": "F33"}}, 8, "'F33'"),
    ({"x": {**F32, "dtype": ["F32"]}}, 8, "type"),
    ({"x": {**F32, "shape": [3]}}, 8, "does not fill"),
    ({"x": {**F32, "shape": [-2]}}, 8, "impossible shape"),
    ({"x": {**F32, "shape": [2.0]}}, 8, "impossible shape"),
    ({"x": {**F32, "shape": [True, 2]}}, 8, "impossible shape"),
    ({"x": {**F32, "shape": [1] * 100 + [2]}}, 8, "impossible shape"),
    ({"x": {**F32, "shape": [1 << 59, 1 << 59]}}, 8, "does not fill"),
    ({"x": {**F32, "data_offsets": [0, 9]}}, 8, "outside of the file"),
    ({"x": {**F32, "data_offsets": [8, 0]}}, 8, "outside of the file"),
    ({"x": {**F32, "data_offsets": [-8, 0]}}, 8, "outside of the file"),
    ({"x": {**F32, "data_offsets": [0, 8, 8]}}, 8, "outside of the file"),
    ({"x": {**F32, "data_offsets": None}}, 8, "outside of the file"),
    ({"x": {**F32, "extra": 1}}, 8, "not described"),
    ({"x": [1]}, 8, "not described"),
    ({"x" * 2000: F32}, 8, "not described"),
    ({"x": F32, "y": F32}, 8, "where byte"),
    ({"x": {**F32, "data_offsets": [4, 12]}}, 12, "where byte"),
    ({"x": F32}, 12, "end at byte"),
    ({}, 4, "end at byte"),
    ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
    ([1], 0, "not a JSON object"),
    (b'{"x": 1', 0, "not valid JSON"),
    (b'{"x": 1, "x": 1}', 0, "twice"),
    (b'{"\xff": 1}', 0, "not valid JSON"),
    (b"[" * 100_000, 0, "not valid JSON"),
]


@pytest.mark.parametrize(("header", "n_data", "message"), BAD)
def test_lies(tmp_path: Path, header: Any, n_data: int, message: str) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(n_data))
    with pytest.raises(ValueError, match=message):
        SafetensorsFile(path)


@pytest.mark.parametrize("raw", [b"", b"1234567", bytes(8), b"\xff" * 8, (1000).to_bytes(8, "little") + b"{}"])
def test_lengths_are_bounded(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="does not fit a file"):
        SafetensorsFile(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SafetensorsFile(tmp_path / "nothing")
