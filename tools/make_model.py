#!/usr/bin/env python3
"""Write random-weight models and adapters of real shapes, for benchmarks.

    python tools/make_model.py base smollm2-135m base.gguf --type q8_0
    python tools/make_model.py base smollm2-135m base.gguf --vocab 151936
    python tools/make_model.py base tinyllama-1.1b base.gguf --type q4_k_m   # the mixture that llama.cpp makes
    python tools/make_model.py adapter base.gguf r16.gguf --rank 16      # all seven linears, f16
    python tools/make_model.py adapter base.gguf r16 --rank 16           # the same as a PEFT folder
    python tools/make_model.py merge base.gguf r16.gguf merged.gguf      # requantised to the base's types

Weights are drawn as Q8_0 blocks whatever the type, so that the files of one shape and seed hold the same model (f16 and
q4_0 round it once more); but super-blocks are drawn as they are. Rows have a norm near 1, as trained ones, so that
logits are finite and adapters show in them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from lora_edge.adapter_file import BaseInfo
from lora_edge.convert.merge import merge
from lora_edge.convert.random_adapter import ALPHA_PER_RANK, LINEARS, random_factors, write_random_adapter
from lora_edge.convert.safetensors_writer import write_safetensors
from lora_edge.convert.weights import convert
from lora_edge.convert.writer import TYPES, Planned, write_gguf
from lora_edge.gguf_file import open_gguf
from lora_edge.quant import Q8_0_BLOCK, Q8_0_BYTES, dequantize_q8_0
from numpy.typing import NDArray

U32, F32, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


END = "<|endoftext|>"
MAX_TOKEN = 16  # bytes


class Shape(NamedTuple):
    """A decoder; `pre` names the pre-tokenizer. Lengths in elements, n_ctx in tokens."""

    arch: str
    pre: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int
    rope_base: float
    n_ctx: int
    qkv_bias: bool
    tied: bool = True

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def linears(self) -> dict[str, tuple[int, int]]:
        """Stem -> (n, k) of one layer."""
        q, kv, d, f = self.n_head * self.head_dim, self.n_head_kv * self.head_dim, self.n_embd, self.n_ff
        return {"attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q),
                "ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}  # fmt: skip


SHAPES = {
    "tiny": Shape("llama", "smollm", 2, 64, 4, 2, 96, 384, 1e4, 8192, False),
    "smollm2-135m": Shape("llama", "smollm", 30, 576, 9, 3, 1536, 49152, 1e5, 8192, False),
    "qwen2.5-0.5b": Shape("qwen2", "qwen2", 24, 896, 14, 2, 4864, 151936, 1e6, 32768, True),
    "tinyllama-1.1b": Shape("llama", "smollm", 22, 2048, 32, 4, 5632, 32000, 1e4, 2048, False, tied=False),
    "llama2-7b": Shape("llama", "smollm", 32, 4096, 32, 32, 11008, 32000, 1e4, 4096, False, tied=False),
}


# Types of files whose matrices are of several: the one of most of them, and the file's.
BLOCKS = {
    "q4_0": ("q4_0", gguf.LlamaFileType.MOSTLY_Q4_0),
    "q4_k_m": ("q4_k", gguf.LlamaFileType.MOSTLY_Q4_K_M),
}
SUPER_BLOCK = 256
# Bytes of one, and where its halves lie with what they are to each other: 7.5 · 31.5 of values against 31.5 of minima.
SUPER_BLOCKS: dict[str, tuple[int, list[tuple[int, float]]]] = {
    "q4_k": (144, [(0, 1.0), (2, 7.5)]),
    "q6_k": (210, [(208, 1.0)]),
}


def make_base(shape: Shape, out: Path, kind: str, seed: int) -> None:
    """A model file of one of TYPES or BLOCKS; norms and biases are f32. Memory: about one tensor."""
    rng = np.random.default_rng(seed)

    def matrix(name: str, n: int, k: int) -> Planned:
        own = type_of(shape, name, kind, k)
        return Planned(name, own, (n, k), lambda: _random_matrix(rng, n, k, own))

    def vector(name: str, n: int, centre: float, spread: float) -> Planned:
        return Planned(name, "f32", (n,), lambda: rng.normal(centre, spread, n).astype(np.float32))

    tensors = [
        matrix("token_embd.weight", shape.n_vocab, shape.n_embd),
        vector("output_norm.weight", shape.n_embd, 1, 0.1),
    ]
    if not shape.tied:
        tensors.append(matrix("output.weight", shape.n_vocab, shape.n_embd))
    for i in range(shape.n_layer):
        tensors += [vector(f"blk.{i}.{stem}.weight", shape.n_embd, 1, 0.1) for stem in ("attn_norm", "ffn_norm")]
        for stem, (n, k) in shape.linears().items():
            tensors.append(matrix(f"blk.{i}.{stem}.weight", n, k))
            if shape.qkv_bias and stem in ("attn_q", "attn_k", "attn_v"):
                tensors.append(vector(f"blk.{i}.{stem}.bias", n, 0, 0.1))
    write_gguf(out, shape.arch, _metadata(shape, out.stem, kind), tensors)


def type_of(shape: Shape, name: str, kind: str, k: int) -> str:
    """The type of a matrix in a file of type `kind`, as llama.cpp chooses it: q4_0 and q4_k_m keep the output in Q6_K;
    q4_k_m has more bits in the values and down projections of the first and last eighths of the layers and every third
    between; rows that are no whole super-blocks take the next finer type of blocks of 32."""
    if kind not in BLOCKS:
        return kind
    output = name == ("token_embd.weight" if shape.tied else "output.weight")
    own = "q6_k" if output else BLOCKS[kind][0]
    if kind == "q4_k_m" and ("attn_v" in name or "ffn_down" in name):
        i, n = int(name.split(".")[1]), shape.n_layer
        if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2:
            own = "q6_k"
    return {"q4_k": "q5_0", "q6_k": "q8_0"}.get(own, own) if k % SUPER_BLOCK else own


def _random_super_blocks(rng: np.random.Generator, n: int, k: int, kind: str) -> NDArray[np.uint8]:
    """Random bytes, with scales that make rows of a norm near 1; what Q4_K's minima take off is what its scales add."""
    size, halves = SUPER_BLOCKS[kind]
    raw = rng.integers(0, 256, (n, k // SUPER_BLOCK, size), dtype=np.uint8)
    one = gguf.GGMLQuantizationType[kind.upper()]
    for at, ratio in halves:
        raw[:, :, at : at + 2] = np.array([ratio], "<f2").view(np.uint8)
    rms = float(np.sqrt((gguf.quants.dequantize(raw[:8].reshape(min(n, 8), -1), one).astype(np.float64) ** 2).mean()))
    for at, ratio in halves:
        raw[:, :, at : at + 2] = np.array([ratio / (rms * np.sqrt(k))], "<f2").view(np.uint8)
    return np.asarray(raw.reshape(n, -1))


def _random_matrix(rng: np.random.Generator, n: int, k: int, kind: str) -> NDArray[Any]:
    if kind in SUPER_BLOCKS:
        return _random_super_blocks(rng, n, k, kind)
    raw = rng.integers(0, 256, (n, k // Q8_0_BLOCK, Q8_0_BYTES), dtype=np.uint8)
    quants = raw[:, :, 2:].view(np.int8)
    np.maximum(quants, -127, out=quants)
    root_mean_square = 73.6  # of integers uniform in [-127, 127]
    scales = rng.uniform(0.5, 1.5, raw.shape[:2]) / (root_mean_square * np.sqrt(k))
    raw[:, :, :2] = scales.astype("<f2")[:, :, None].view(np.uint8)
    blocks = raw.reshape(n, -1)
    if kind in ("q4_0", "q5_0"):
        q = gguf.GGMLQuantizationType[kind.upper()]
        return np.concatenate([gguf.quants.quantize(dequantize_q8_0(part), q) for part in np.array_split(blocks, 16)])
    return blocks if kind == "q8_0" else convert(dequantize_q8_0(blocks), kind, "a random matrix")


def _metadata(shape: Shape, name: str, kind: str) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    tokens, merges = _vocabulary(shape.n_vocab)
    own: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        "context_length": (shape.n_ctx, U32),
        "embedding_length": (shape.n_embd, U32),
        "block_count": (shape.n_layer, U32),
        "feed_forward_length": (shape.n_ff, U32),
        "vocab_size": (shape.n_vocab, U32),
        "attention.head_count": (shape.n_head, U32),
        "attention.head_count_kv": (shape.n_head_kv, U32),
        "attention.layer_norm_rms_epsilon": (1e-5, F32),
        "rope.dimension_count": (shape.head_dim, U32),
        "rope.freq_base": (shape.rope_base, F32),
    }
    return {
        "general.type": ("model", STRING),
        "general.name": (name, STRING),
        "general.file_type": (int(BLOCKS[kind][1] if kind in BLOCKS else TYPES[kind][1]), U32),
        "general.quantization_version": (gguf.GGML_QUANT_VERSION, U32),
        **{f"{shape.arch}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": ("gpt2", STRING),
        "tokenizer.ggml.pre": (shape.pre, STRING),
        "tokenizer.ggml.tokens": (tokens, gguf.GGUFValueType.ARRAY),
        "tokenizer.ggml.token_type": ([3] + [1] * (shape.n_vocab - 1), gguf.GGUFValueType.ARRAY),  # control, normal
        "tokenizer.ggml.merges": (merges, gguf.GGUFValueType.ARRAY),
        "tokenizer.ggml.eos_token_id": (0, U32),
        "tokenizer.ggml.bos_token_id": (0, U32),
        "tokenizer.ggml.add_bos_token": (False, gguf.GGUFValueType.BOOL),
    }


def _vocabulary(n: int) -> tuple[list[str], list[str]]:
    """A byte-level BPE vocabulary that costs what a real one of its size does: an end token, the 256 bytes, then tokens
    of up to 16 bytes, each by a merge of two that came before."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's bytes that stand for themselves
    symbols = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    if n <= len(symbols):
        raise ValueError(f"a vocabulary of {n} tokens can't be made: it has an end token and the 256 bytes at least")
    tokens, merges = list(symbols), []
    known = set(tokens)
    draw = random.Random(n)
    while len(tokens) < n - 1:
        left, right = draw.choice(tokens), draw.choice(tokens)
        if len(left + right) <= MAX_TOKEN and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    return [END, *tokens], merges


def make_adapter(base: Path, out: Path, rank: int, seed: int) -> None:
    """A random adapter of all seven linears of every layer, f16, alpha = 2 · rank: a GGUF file where `out` ends in
    .gguf, else a PEFT folder with the same factors."""
    if out.suffix == ".gguf":
        write_random_adapter(base, out, rank=rank, seed=seed)
        return
    arrays: dict[str, NDArray[np.float16]] = {}
    for i, module, a, b in random_factors(BaseInfo.from_gguf(open_gguf(base)), rank, seed):
        name = f"base_model.model.model.layers.{i}.{module}"
        arrays[f"{name}.lora_A.weight"], arrays[f"{name}.lora_B.weight"] = a, b
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": ALPHA_PER_RANK * rank,
              "bias": "none", "target_modules": [module.split(".")[-1] for module in LINEARS]}  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_safetensors(out / "adapter_model.safetensors", arrays, {"format": "pt"})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    base = verbs.add_parser("base", help="a model file")
    base.add_argument("shape", choices=SHAPES)
    base.add_argument("out", type=Path)
    base.add_argument("--type", choices=("q8_0", "f16", "f32", *BLOCKS), default="q8_0")
    base.add_argument("--vocab", metavar="N", type=int, help="tokens, instead of the shape's own number")
    adapter = verbs.add_parser("adapter", help="a GGUF adapter, or a PEFT folder where OUT doesn't end in .gguf")
    adapter.add_argument("base", type=Path)
    adapter.add_argument("out", type=Path)
    adapter.add_argument("--rank", type=int, default=16)
    for verb in (base, adapter):
        verb.add_argument("--seed", type=int, default=0)
    merged = verbs.add_parser("merge", help="a model file with the adapter in its weights")
    merged.add_argument("base", type=Path)
    merged.add_argument("adapter", type=Path)
    merged.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    if args.verb == "base":
        shape = SHAPES[args.shape]
        make_base(shape._replace(n_vocab=args.vocab or shape.n_vocab), args.out, args.type, args.seed)
    elif args.verb == "adapter":
        make_adapter(args.base, args.out, args.rank, args.seed)
    else:
        merge(args.base, [(args.adapter, 1.0)], args.out)


if __name__ == "__main__":
    main()
