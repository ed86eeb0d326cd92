"""Hugging Face model folder -> GGUF, for the classes that `hparams.ARCHITECTURES` lists."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..hf_names import gguf_stem, is_permuted, permute_rows
from .hparams import HParams, read_hparams
from .vocab import read_vocab
from .weights import Array, WeightFolder, convert, stored_type
from .writer import TYPES, Planned, Progress, check_out, check_type, write_gguf

U32, F32, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


def convert_model(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str = "f16",
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert a folder of config.json + safetensors (+ tokenizer.json) to one GGUF file; returns its path.

    type: "f32", "f16", "bf16" or "q8_0", for matrices; vectors are f32, and rows that don't divide into
    blocks are f16. progress(bytes written, bytes in all, tensor) is called after each tensor.  Memory:
    about the largest tensor. A folder without a tokenizer gives a file without one.  ValueError names
    whatever the file could not say exactly: an unknown tensor, a missing one, a shape that contradicts
    config.json, a setting that is not supported.
    """
    check_type(type)
    folder, out = Path(folder), Path(out)
    check_out(out)
    hparams = read_hparams(folder)
    weights = WeightFolder(folder)
    if hparams.tied and _tie_is_broken(weights):
        hparams = dataclasses.replace(hparams, tied=False)
    tensors = plan_tensors(hparams, weights, type)
    metadata: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        "general.type": ("model", STRING),
        "general.name": (name or folder.resolve().name, STRING),
        "general.file_type": (int(TYPES[type][1]), U32),
        "general.quantization_version": (gguf.GGML_QUANT_VERSION, U32),
        **model_metadata(hparams),
        **read_vocab(folder, hparams.n_vocab, hparams.raw),
    }
    write_gguf(out, hparams.arch, metadata, tensors, progress)
    return out


def _tie_is_broken(weights: WeightFolder) -> bool:
    """Whether both ends of the tie are stored and differ; transformers then leaves them apart, whatever the
    config says."""
    first, second = "model.embed_tokens.weight", "lm_head.weight"
    both = first in weights and second in weights
    return both and not np.array_equal(weights.array(first), weights.array(second))


def model_metadata(hparams: HParams) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    """The architecture's own keys, as llama.cpp reads them."""
    values: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        "context_length": (hparams.n_ctx, U32),
        "embedding_length": (hparams.n_embd, U32),
        "block_count": (hparams.n_layer, U32),
        "feed_forward_length": (hparams.n_ff, U32),
        "vocab_size": (hparams.n_vocab, U32),
        "attention.head_count": (hparams.n_head, U32),
        "attention.head_count_kv": (hparams.n_head_kv, U32),
        "attention.key_length": (hparams.head_dim, U32),
        "attention.value_length": (hparams.head_dim, U32),
        "attention.layer_norm_rms_epsilon": (hparams.norm_eps, F32),
        "rope.dimension_count": (hparams.head_dim, U32),
        "rope.freq_base": (hparams.rope_theta, F32),
    }
    if hparams.window is not None:
        values["attention.sliding_window"] = (hparams.window, U32)
    if hparams.rope_linear is not None:
        values["rope.scaling.type"] = ("linear", STRING)
        values["rope.scaling.factor"] = (hparams.rope_linear, F32)
    return {f"{hparams.arch}.{key}": value for key, value in values.items()}


def expected_tensors(hparams: HParams) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape of every tensor that the file gets, bar rope_freqs."""
    shapes: dict[str, tuple[int, ...]] = {"output_norm.weight": (hparams.n_embd,), **hparams.linear_shapes()}
    for i in range(hparams.n_layer):
        shapes[f"blk.{i}.attn_norm.weight"] = shapes[f"blk.{i}.ffn_norm.weight"] = (hparams.n_embd,)
        if hparams.qk_norm:
            shapes[f"blk.{i}.attn_q_norm.weight"] = shapes[f"blk.{i}.attn_k_norm.weight"] = (hparams.head_dim,)
        biased = ["attn_q", "attn_k", "attn_v"] * hparams.qkv_bias + ["attn_output"] * hparams.output_bias
        for stem in biased:
            shapes[f"blk.{i}.{stem}.bias"] = shapes[f"blk.{i}.{stem}.weight"][:1]
    return shapes


def plan_tensors(hparams: HParams, weights: WeightFolder, type: str) -> list[Planned]:
    """Pair every tensor of the folder with one of the file, and every one of the file with one of the folder.

    A tied model (tie_word_embeddings) may store the shared matrix under either name or, equal, under both;
    it becomes token_embd.weight.
    """
    expected = expected_tensors(hparams)
    sources: dict[str, str] = {}
    for source in weights:
        module, _, part = source.rpartition(".")
        if module.endswith(".rotary_emb") and part == "inv_freq":
            continue  # a buffer that old versions stored; it follows from the configuration
        stem = gguf_stem(module)
        if hparams.tied and stem == "output":
            if "model.embed_tokens.weight" in weights:
                continue
            stem = "token_embd"
        target = f"{stem}.{part}"
        if stem is None or target not in expected:
            raise ValueError(
                f"[convert] {weights.folder}: the tensor {source!r} has no place in a {hparams.arch} model"
            )
        if weights.shape(source) != expected[target]:
            raise ValueError(
                f"[convert] {weights.folder}: {source!r} has the shape {weights.shape(source)}, "
                f"config.json asks for {expected[target]}"
            )
        sources[target] = source
    missing = [target for target in expected if target not in sources]
    if missing:
        raise ValueError(
            f"[convert] {weights.folder}: there is no tensor for {missing[0]} ({len(missing)} are missing)"
        )
    plan = [_plan(hparams, weights, type, target, source) for target, source in sources.items()]
    if hparams.rope_factors is not None:
        factors = hparams.rope_factors
        plan.append(Planned("rope_freqs.weight", "f32", factors.shape, lambda: factors))
    return sorted(plan, key=_order)


def _plan(hparams: HParams, weights: WeightFolder, type: str, target: str, source: str) -> Planned:
    shape, stem = weights.shape(source), target.rpartition(".")[0]
    kind = stored_type(type, shape)

    def make() -> Array:
        x = weights.array(source)
        if is_permuted(hparams.arch, stem):
            x = permute_rows(x, hparams.n_head if stem.endswith("attn_q") else hparams.n_head_kv)
        return convert(np.asarray(x), kind, source)

    return Planned(target, kind, shape, make)


def _order(tensor: Planned) -> tuple[int, str]:
    """Embedding first, then the layers in turn, so that a run reads the file forwards."""
    if tensor.name.startswith("blk."):
        return 1 + int(tensor.name.split(".")[1]), tensor.name
    return (0 if tensor.name.startswith(("token_embd", "rope_freqs")) else 1 << 30), tensor.name
