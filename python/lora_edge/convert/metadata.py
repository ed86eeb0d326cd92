"""A model's numbers as GGUF metadata: written as llama.cpp's converter writes them, and read back."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np

from ..architectures import TABLE, Architecture, Setting, Value
from ..gguf_file import GgufFile
from .fields import Fields
from .hparams import MAX_HEAD, MOST, MOST_ELSE, HParams, period_of
from .rope import Rope

U32, F32, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
BOOL, ARRAY = gguf.GGUFValueType.BOOL, gguf.GGUFValueType.ARRAY
Metadata = dict[str, tuple[Any, gguf.GGUFValueType]]


def model_metadata(hparams: HParams) -> Metadata:
    """The architecture's own keys, as llama.cpp reads them."""
    values: Metadata = {}
    for key, value in hparams.values.items():
        values[key] = (value, BOOL if isinstance(value, bool) else F32 if isinstance(value, float) else U32)
    architecture, rope = hparams.architecture, hparams.rope
    if hparams.window is not None or architecture.gguf == "phi3":  # where phi3 has no window, llama.cpp wants 0
        values["attention.sliding_window"] = (hparams.window or 0, U32)
    if hparams.sliding is not None and architecture.period:
        period = period_of(hparams.sliding, architecture.period)
        if period != architecture.period:
            values["attention.sliding_window_pattern"] = (period, U32)
    elif hparams.sliding is not None:
        values["attention.sliding_window_pattern"] = (list(hparams.sliding), ARRAY)
    if rope is not None:
        values.update(_rope_metadata(rope))
    return {f"{hparams.arch}.{key}": value for key, value in values.items()}


def _rope_metadata(rope: Rope) -> Metadata:
    values: Metadata = {"rope.dimension_count": (rope.dims, U32), "rope.freq_base": (rope.theta, F32)}
    if rope.local_theta is not None:
        values["rope.freq_base_swa"] = (rope.local_theta, F32)
    if rope.linear is not None:
        values["rope.scaling.type"] = ("linear", STRING)
        values["rope.scaling.factor"] = (rope.linear, F32)
    if rope.old_ctx is not None:
        values["rope.scaling.original_context_length"] = (rope.old_ctx, U32)
    if rope.attn_factor is not None:
        values["rope.scaling.attn_factor"] = (rope.attn_factor, F32)
    return values


def hparams_of(file: GgufFile) -> HParams:
    """The numbers of a GGUF model of a known architecture.  ValueError names what is missing or not known."""
    arch, where = str(file.metadata.get("general.architecture")), file.core.path
    if file.metadata.get("general.type", "model") != "model":
        raise ValueError(f"[convert] {where} is not a model, but of type {file.metadata['general.type']!r}")
    prefix = f"{arch}."
    own = {key[len(prefix) :]: _plain(v) for key, v in file.metadata.items() if key.startswith(prefix)}
    get = Fields(own, where)
    architecture = _architecture_of(arch, get)
    embedding = file.tensors.keys() & {"token_embd.weight"} and file.core.tensors()["token_embd.weight"][0]
    if not embedding:
        raise ValueError(f"[convert] {where}: tensor 'token_embd.weight' is missing")
    defaults = {
        "vocab_size": embedding[0], "attention.head_count_kv": own.get("attention.head_count"),
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in file.tensors,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "embedding_scale": 1.0, "residual_scale": 1.0, "attention.sliding_window": 4096 if arch == "gemma2" else 0,
    }  # fmt: skip
    n_embd, n_head = get.count("embedding_length"), get.count("attention.head_count")
    head_dim = get.count("attention.key_length", n_embd // n_head, MAX_HEAD)
    defaults |= {"attention.key_length": head_dim, "attention.scale": head_dim**-0.5}
    given = Fields({**defaults, **own}, where)
    values = {setting.key: _value(given, setting) for setting in architecture.settings}
    if "attention.key_length" in values:
        values["attention.value_length"] = given.count("attention.value_length", head_dim)
        if values["attention.value_length"] != head_dim:
            given.fail("attention.value_length", f"not the key_length, {head_dim}")
    n_layer = int(values["block_count"])
    flags = frozenset(name for name in architecture.flags if _flag_of(name, architecture, file))
    if values.get("use_parallel_residual"):
        flags |= {"use_parallel_residual"}
    sliding = _sliding(given, architecture, n_layer)
    window = None
    if given.fields["attention.sliding_window"] != 0:
        window = given.count("attention.sliding_window")
    if window is None and sliding is not None and any(sliding):
        given.fail("attention.sliding_window", "missing, though layers have windows")
    tied = "output.weight" not in file.tensors
    return HParams(
        architecture, values, flags, _rope_of(given, architecture, head_dim, file), window, sliding, tied, {}
    )


def _architecture_of(arch: str, get: Fields) -> Architecture:
    rows = [row for row in TABLE if row.gguf == arch]
    if not rows:
        known = ", ".join(dict.fromkeys(row.gguf for row in TABLE))
        raise ValueError(f"[convert] {get.where}: architecture {arch[:40]!r} is not supported; {known} are")
    if get.fields.get("expert_count"):
        get.fail("expert_count", "not supported: the model is a mixture of experts")
    windowed = bool(get.fields.get("attention.sliding_window"))
    return next((row for row in rows if bool(row.window) == windowed), rows[0])


def _value(get: Fields, setting: Setting) -> Value:
    if setting.kind == "flag":
        return get.flag(setting.key)
    if setting.kind == "count":
        return get.count(setting.key, None, MOST.get(setting.key, MOST_ELSE))
    return short(get.number(setting.key))


def _flag_of(name: str, architecture: Architecture, file: GgufFile) -> bool:
    """Whether the tensors are there that come with this flag."""
    return any(
        (weight.bias == name and f"blk.0.{weight.stem}.bias" in file.tensors)
        or (weight.needs == name and f"blk.0.{weight.stem}.weight" in file.tensors)
        for weight in architecture.layer
    )


def _sliding(get: Fields, architecture: Architecture, n_layer: int) -> tuple[bool, ...] | None:
    pattern = get.fields.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) != n_layer:
            get.fail("attention.sliding_window_pattern", f"not {n_layer} layers long")
        return tuple(bool(is_sliding) for is_sliding in pattern)
    if not architecture.period:
        return None
    step = get.count("attention.sliding_window_pattern", architecture.period)
    return tuple(bool((i + 1) % step) for i in range(n_layer))


def _rope_of(get: Fields, architecture: Architecture, head_dim: int, file: GgufFile) -> Rope | None:
    if not architecture.ropes:
        return None
    dims = get.count("rope.dimension_count", head_dim)
    kind, linear = get.fields.get("rope.scaling.type", "none"), None
    if kind == "linear" or (kind == "none" and get.fields.get("rope.scaling.factor", 1.0) != 1.0):
        linear = short(get.number("rope.scaling.factor"))
    elif kind not in ("none", "longrope"):
        get.fail("rope.scaling.type", "not supported; linear and longrope are")
    names = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
    factors = {name: file.tensors[name] for name in names if name in file.tensors}
    for name, x in factors.items():
        if x.shape != (dims // 2,) or x.dtype != np.float32:
            raise ValueError(f"[convert] {get.where}: tensor {name!r} is not {dims // 2} numbers of type F32")
    n_ctx = get.count("context_length")
    return Rope(
        theta=short(get.number("rope.freq_base", 10000.0)), dims=dims, linear=linear, factors=factors,
        local_theta=short(get.number("rope.freq_base_swa", 10000.0)) if architecture.gguf == "gemma3" else None,
        old_ctx=get.count("rope.scaling.original_context_length", n_ctx) if architecture.gguf == "phi3" else None,
        attn_factor=short(get.number("rope.scaling.attn_factor", 1.0)) if len(factors) == 2 else None,
    )  # fmt: skip


def short(x: float) -> float:
    """The shortest decimal that is the same float32: what a configuration had before it was rounded."""
    return float(str(np.float32(x)))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
