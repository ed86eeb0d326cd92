"""Reference quantisation in numpy: Q8_0 blocks and bfloat16, bit for bit as ggml stores them; and what a tensor means.

Q8_0 (ggml `block_q8_0`): a row is cut into blocks of 32 values; a block is 34 bytes, a little-endian
float16 scale d followed by 32 int8 q, and means d * q.  d = max|x| / 127 and q = round(x / d), halves away
from zero; the division is a multiplication by the float32 reciprocal of d before d is rounded to float16,
which decides some ties.

The compiled kernels and the converter are checked against these functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gguf_file import BlockRows

Q8_0_BLOCK = 32  # values per block
Q8_0_BYTES = 34  # bytes per block


def quantize_q8_0(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """x [..., k] float32, k a multiple of 32 -> raw blocks [..., k / 32 * 34] uint8.

    ValueError: k is not a multiple of 32, or a value or a scale is not finite (as float16, 65504 is the
    largest scale).
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim == 0 or x.shape[-1] % Q8_0_BLOCK:
        raise ValueError(f"[quant] Q8_0 needs rows of a multiple of {Q8_0_BLOCK} values, not shape {x.shape}")
    blocks = x.reshape(-1, Q8_0_BLOCK)
    d = np.abs(blocks).max(axis=1, keepdims=True, initial=0.0) / np.float32(127)
    with np.errstate(over="ignore"):
        d16 = d.astype("<f2")
    if not np.isfinite(d16).all():
        raise ValueError(
            "[quant] Q8_0 cannot hold these values: one is not finite, or its block's scale exceeds float16"
        )
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        scaled = blocks * inverse
    if not np.isfinite(scaled).all():  # 1 / d overflows float32 for d below 2**-128
        scaled = np.where(np.isfinite(scaled), scaled, np.float32(0))
    size = np.abs(scaled)
    whole = np.floor(size)
    rounded = np.copysign(whole + (size - whole >= 0.5), scaled)
    out = np.empty((blocks.shape[0], Q8_0_BYTES), np.uint8)
    out[:, :2] = d16.view(np.uint8).reshape(-1, 2)
    out[:, 2:] = rounded.astype(np.int8).view(np.uint8)
    return out.reshape(*x.shape[:-1], x.shape[-1] // Q8_0_BLOCK * Q8_0_BYTES)


def dequantize_q8_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Raw blocks [..., m * 34] uint8 -> [..., m * 32] float32.  ValueError: not a whole number of blocks."""
    raw = np.ascontiguousarray(raw, dtype=np.uint8)
    if raw.ndim == 0 or raw.shape[-1] % Q8_0_BYTES:
        raise ValueError(f"[quant] Q8_0 rows are a multiple of {Q8_0_BYTES} bytes, not shape {raw.shape}")
    blocks = raw.reshape(-1, Q8_0_BYTES)
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    q = blocks[:, 2:].view(np.int8).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale gives NaN
        q *= d
    return q.reshape(*raw.shape[:-1], raw.shape[-1] // Q8_0_BYTES * Q8_0_BLOCK)


def f32_to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Float32 of any shape -> bfloat16 bits, rounded to nearest, ties to even; a NaN stays a (quiet) NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    out: NDArray[np.uint16] = np.where(is_nan, quiet, rounded).astype(np.uint16)
    return out


def bf16_to_f32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 bits of any shape -> the float32 they mean (exact)."""
    wide: NDArray[np.uint32] = np.asarray(bits, dtype=np.uint16).astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32)


def to_f32(x: NDArray[Any] | BlockRows) -> NDArray[np.float32]:
    """What a tensor, or rows of one, as `GgufFile.tensors` and `LoraEntry` hold it, means: float32 of its own memory,
    counted in values, exact.

    float32, float16, uint16 (bfloat16 bits), uint8 (raw Q8_0 blocks [..., m * 34] -> [..., m * 32]), or BlockRows.
    ValueError: uint8 that is not a whole number of blocks.
    """
    if isinstance(x, BlockRows):
        return x[:]
    if x.dtype == np.uint8:
        return dequantize_q8_0(x)
    return bf16_to_f32(x) if x.dtype == np.uint16 else x.astype(np.float32)
