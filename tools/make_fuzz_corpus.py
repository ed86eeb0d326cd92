"""Writes tests/fixtures/gguf_corpus: tiny GGUF files of every kind, whole and damaged, from which the fuzzer starts and
which the tests load one by one. Run from anywhere; the files are the same each time.

The name tells what must come of a file: ok_* are models, adapters or metadata that load; bad_* are refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/python"), str(ROOT / "python")]

from tiny_gguf import (  # noqa: E402  (the tests' own writer)
    BF16,
    F16,
    F32,
    Q4_0,
    Q8_0,
    Field,
    File,
    Tensor,
    every_value,
    pack,
    patch,
    tiny_adapter,
    tiny_adapter_of_all_kinds,
    tiny_model,
    write_gguf,
)  # fmt: skip

CORPUS = ROOT / "tests/fixtures/gguf_corpus"


def nth(file: File, kind: str, n: int = 0) -> Field:
    return [f for f in file.fields if f.kind == kind][n]


def with_field(file: File, kind: str, n: int, value: int) -> bytes:
    field = nth(file, kind, n)
    return patch(file.raw, field.at, value, field.size)


def good() -> dict[str, bytes]:
    tiny = {"n_vocab": 36}
    aligned = {"general.alignment": 64}
    return {
        "llama_f32": tiny_model("llama", F32, **tiny).raw,
        "llama_q8_0": tiny_model("llama", Q8_0, **tiny).raw,
        "llama_v2": tiny_model("llama", F16, version=2, **tiny).raw,
        "qwen2_f16": tiny_model("qwen2", F16, **tiny).raw,
        "qwen2_q8_0": tiny_model("qwen2", Q8_0, **tiny).raw,
        "qwen3_bf16": tiny_model("qwen3", BF16, **tiny).raw,
        "gemma3_q8_0": tiny_model("gemma3", Q8_0, **tiny).raw,
        "phi3_f16": tiny_model("phi3", F16, **tiny).raw,
        "gpt2_f32": tiny_model("gpt2", F32, **tiny).raw,
        "stablelm_q8_0": tiny_model("stablelm", Q8_0, **tiny).raw,
        "adapter_f32": tiny_adapter("llama", F32).raw,
        "adapter_q8_0": tiny_adapter("llama", Q8_0, base=Q8_0).raw,
        "adapter_of_all_kinds": tiny_adapter_of_all_kinds("qwen2", 36).raw,
        "every_value": every_value().raw,
        "alignment_64": write_gguf(aligned, {"x": pack(np.ones((3, 5), np.float32), F32)}, alignment=64).raw,
        "q4_0_tensor": write_gguf({}, {"x": Tensor(Q4_0, (2, 32), bytes(36))}).raw,
        "nan_weights": _filled(tiny_model("llama", F32, **tiny), b"\xff"),
        "infinite_scales": _filled(tiny_model("llama", Q8_0, **tiny), b"\x00\x7c"),
    }


def _filled(file: File, pattern: bytes) -> bytes:
    """The file with the first half of its data replaced."""
    at = len(file.raw) - len(file.raw) // 3
    n = (len(file.raw) - at) // 2
    return file.raw[:at] + (pattern * n)[:n] + file.raw[at + n :]


def bad() -> dict[str, bytes]:
    huge = 2**64 - 1
    one = {"x": pack(np.ones((2, 4), np.float32), F32)}
    two = write_gguf({}, {**one, "y": pack(np.ones((2, 4), np.float32), F32)})
    file = write_gguf({"a": ["text"], "b": np.ones(3, np.float32), "c": 1}, one)
    return {
        "magic": b"GGML" + file.raw[4:],
        "version_1": with_field(file, "version", 0, 1),
        "big_endian": with_field(file, "version", 0, 3 << 24),
        "tensor_count": with_field(file, "count", 0, huge),
        "value_count": with_field(file, "count", 1, huge),
        "array_count": with_field(file, "count", 2, huge // 8),
        "key_length": with_field(file, "length", 0, huge),
        "value_type": with_field(file, "type", 0, 13),
        "nested_array": with_field(write_gguf({"a": ["x"]}, {}), "type", 1, 9),
        "dimension_0": with_field(file, "dimension", 0, 0),
        "dimension_huge": with_field(file, "dimension", 0, huge),
        "dimension_overflow": with_field(file, "dimension", 1, 2**62),
        "tensor_type": with_field(two, "type", 0, 99),
        "q8_0_row": with_field(two, "type", 0, Q8_0),
        "offset_odd": with_field(two, "offset", 1, 33),
        "offset_huge": with_field(two, "offset", 1, huge - 31),
        "overlap": with_field(two, "offset", 1, 0),
        "alignment_0": write_gguf({"general.alignment": 0}, one).raw,
        "alignment_huge": write_gguf({"general.alignment": 1 << 31}, one).raw,
        "same_key": write_gguf({"a": 1, "b": 2}, {}).raw.replace(b"b\x04", b"a\x04"),
        "name_not_utf8": write_gguf({}, {"\udcff\n": Tensor(F32, (4,), b"")}).raw,
        "cut_head": file.raw[:70],
        "cut_data": file.raw[:-8],
        "only_magic": b"GGUF",
    }


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for old in CORPUS.glob("*.gguf"):
        old.unlink()
    files = {f"ok_{n}": raw for n, raw in good().items()} | {f"bad_{n}": raw for n, raw in bad().items()}
    for name, raw in files.items():
        (CORPUS / f"{name}.gguf").write_bytes(raw)
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes, in {CORPUS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
