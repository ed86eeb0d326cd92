"""quant.py against gguf-py, ggml's own Python port, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, strategies as st
from lora_edge.quant import bf16_to_f32, dequantize_q8_0, f32_to_bf16, quantize_q8_0
from tiny_models import fresh_rng

Q8_0, BF16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16


def test_q8_0_equals_ggml() -> None:
    rng = fresh_rng()
    for scale in (1e-30, 1e-5, 1.0, 1e4):
        x = (rng.standard_normal((64, 320)) * scale * np.exp(rng.uniform(-3, 3, (64, 1)))).astype(np.float32)
        x[0] = 0
        raw = quantize_q8_0(x)
        assert raw.shape == (64, 340)
        assert np.array_equal(raw, gguf.quants.quantize(x, Q8_0))
        assert np.array_equal(dequantize_q8_0(raw), gguf.quants.dequantize(raw, Q8_0))


def test_q8_0_rounds_halves_away_from_zero() -> None:
    x = np.zeros(32, np.float32)
    x[:5] = [127, 0.5, -0.5, 2.5, -2.5]
    q = quantize_q8_0(x)[2:].view(np.int8)
    assert q[:5].tolist() == [127, 1, -1, 3, -3]


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=32, max_size=32))
def test_q8_0_of_any_block(values: list[float]) -> None:
    x = np.array(values, np.float32)
    largest = float(np.abs(x).max())
    raw = quantize_q8_0(x)
    if largest == 0 or largest / 127 > 2.0**-126:
        assert np.array_equal(raw, gguf.quants.quantize(x.reshape(1, -1), Q8_0)[0])
    if largest / 127 > 2.0**-14:  # the scale is a normal float16: off by half a step and its rounding
        error = float(np.abs(dequantize_q8_0(raw).astype(np.float64) - x).max())
        assert error <= largest / 127 * 0.5001 + largest * 2.0**-11


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e9])
def test_q8_0_refuses_what_it_cannot_hold(value: float) -> None:
    x = np.ones(64, np.float32)
    x[40] = value
    with pytest.raises(ValueError, match="Q8_0 cannot hold"):
        quantize_q8_0(x)


def test_q8_0_refuses_broken_rows() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        quantize_q8_0(np.zeros((2, 33), np.float32))
    with pytest.raises(ValueError, match="multiple of 34"):
        dequantize_q8_0(np.zeros(33, np.uint8))


def test_bf16_equals_ggml() -> None:
    rng = fresh_rng()
    bits = rng.integers(0, 1 << 32, (16, 1024), dtype=np.uint32)  # every kind of float, NaN included
    bits[0, :6] = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x00018000]
    x = bits.view(np.float32)
    ours = f32_to_bf16(x)
    assert np.array_equal(ours, gguf.quants.quantize(x, BF16).view(np.uint16))
    assert np.array_equal(bf16_to_f32(ours).view(np.uint32), ours.astype(np.uint32) << 16)


def test_every_bf16_survives() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    kept = f32_to_bf16(bf16_to_f32(bits))
    is_nan = np.isnan(bf16_to_f32(bits))
    assert np.array_equal(kept[~is_nan], bits[~is_nan])
    assert np.isnan(bf16_to_f32(kept[is_nan])).all()
