"""Writing a PEFT adapter folder: adapter_config.json and adapter_model.safetensors as PEFT itself would save them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter_file import AdapterFile, BaseInfo
from ..encoder_names import ENCODER, LABELS, encoder_module
from ..hf_names import hf_module, is_permuted, unpermute_rows
from ..peft_folder import CONFIG, LABELS_META, SAFETENSORS
from .outputs import write_folder
from .safetensors_writer import write_safetensors
from .weights import Array, convert

_PREFIX = "base_model.model."


def write_peft(adapter: AdapterFile, info: BaseInfo, out: Path, type: str | None, base: str) -> None:
    """type: "f32", "f16" or "bf16" of the tensors, None for those that they have.  base: what
    base_model_name_or_path says.  ValueError: the adapter cannot be said exactly.  FileExistsError: `out` is there
    already."""
    if LABELS in adapter.wholes:
        info = replace(info, shapes={**info.shapes, **{t: w.weight.shape for t, w in adapter.wholes.items()}})
    tensors: dict[str, Array] = {}

    def add(key: str, x: Array) -> None:
        tensors[_PREFIX + key] = x if type is None else convert(x, type, key)

    for tensor, entry in adapter.entries.items():
        module = module_of(info, tensor)
        b = hf_rows(info, tensor, entry.b)
        if tensor == "token_embd.weight":
            add(f"{module}.lora_embedding_A", np.ascontiguousarray(entry.a.T))
            add(f"{module}.lora_embedding_B", b)
        else:
            add(f"{module}.lora_A.weight", entry.a)
            add(f"{module}.lora_B.weight", b)
        if entry.bias is not None:
            add(f"{module}.lora_B.bias", hf_rows(info, tensor, entry.bias))
        if entry.magnitude is not None:
            add(f"{module}.lora_magnitude_vector", hf_rows(info, tensor, entry.magnitude))
    for tensor, whole in adapter.wholes.items():
        add(f"{module_of(info, tensor)}.weight", hf_rows(info, tensor, whole.weight))
        if whole.bias is not None:
            add(f"{module_of(info, tensor)}.bias", hf_rows(info, tensor, whole.bias))
    for tensor, trained in adapter.token_rows.items():
        add(f"{module_of(info, tensor)}.token_adapter.trainable_tokens_delta", trained.rows)
    text = json.dumps(peft_fields(adapter, info, base), indent=2, sort_keys=True)
    with write_folder(out) as folder:
        (folder / CONFIG).write_text(text + "\n", "utf-8")
        names = {LABELS_META: json.dumps(adapter.labels)} if adapter.labels else {}
        write_safetensors(folder / SAFETENSORS, tensors, {"format": "pt", **names})


def peft_fields(adapter: AdapterFile, info: BaseInfo, base: str) -> dict[str, Any]:
    """adapter_config.json: rank and alpha of most modules, patterns for the others, and every module by its path where
    its name alone would mean others too."""
    ranks = {module_of(info, t): e.b.shape[1] for t, e in adapter.entries.items()}
    alphas = {module_of(info, t): _whole_number(e.scale * e.b.shape[1]) for t, e in adapter.entries.items()}
    r, alpha = _most_common(ranks, 8), _most_common(alphas, 8)
    dora = {e.magnitude is not None for e in adapter.entries.values()}
    bias = {e.bias is not None for t, e in adapter.entries.items() if t != "token_embd.weight"}
    if len(dora) > 1 or len(bias) > 1:
        raise ValueError(f"[convert] {adapter.name}: PEFT has no DoRA, or bias of lora_B, in some modules only")
    saved = [module_of(info, t) for t in adapter.wholes]
    task = "SEQ_CLS" if LABELS in adapter.wholes else "CAUSAL_LM"
    if info.arch == ENCODER:
        head = [module_of(info, t) for t in info.shapes if module_of(info, t).startswith("classifier")]
        task = "SEQ_CLS" if head and set(head) <= set(saved) else "FEATURE_EXTRACTION"
        if task == "SEQ_CLS":
            saved = ["classifier", *(module for module in saved if module not in head)]
    return {
        "peft_type": "LORA", "task_type": task, "base_model_name_or_path": base, "inference_mode": True,
        "r": r, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "init_lora_weights": True, "use_rslora": False, "use_dora": True in dora, "lora_bias": True in bias,
        "rank_pattern": {m: x for m, x in ranks.items() if x != r},
        "alpha_pattern": {m: x for m, x in alphas.items() if x != alpha},
        "target_modules": _targets(adapter, info),
        "modules_to_save": saved or None,
        "trainable_token_indices": {module_of(info, t): list(x.ids) for t, x in adapter.token_rows.items()} or None,
        "alora_invocation_tokens": adapter.invocation or None,
    }  # fmt: skip


def module_of(info: BaseInfo, tensor: str) -> str:
    """Hugging Face's module of a GGUF tensor."""
    stem, module = tensor.removesuffix(".weight"), None
    if info.arch == ENCODER:
        module = encoder_module(stem, info.family, LABELS in info.shapes)
    else:
        module = hf_module(stem, info.arch)
    if module is None:
        raise ValueError(f"[convert] {tensor[:120]!r} has no module in Hugging Face's layout")
    return module


def hf_rows(info: BaseInfo, tensor: str, rows: Array) -> Array:
    """Rows of outputs in Hugging Face's order."""
    stem = tensor.removesuffix(".weight")
    if not is_permuted(info.arch, stem):
        return rows
    return unpermute_rows(rows, info.n_head if stem.endswith("attn_q") else info.n_head_kv)


def _targets(adapter: AdapterFile, info: BaseInfo) -> list[str]:
    """Last names, where every module of that name is adapted, else paths."""
    adapted = {module_of(info, t) for t in adapter.entries}
    all_modules = {module_of(info, t) for t in info.shapes}
    names = {m.rpartition(".")[2] for m in adapted}
    whole = {n for n in names if {m for m in all_modules if m.rpartition(".")[2] == n} <= adapted}
    return sorted(whole) + sorted(m for m in adapted if m.rpartition(".")[2] not in whole)


def _whole_number(alpha: float) -> int | float:
    """Without the last bits that scale times r may have lost."""
    near = float(np.float32(alpha))
    alpha = near if abs(alpha - near) <= 1e-12 * abs(alpha) else alpha
    return int(alpha) if alpha == int(alpha) else alpha


def _most_common(values: dict[str, Any], otherwise: int) -> Any:
    return Counter(values.values()).most_common(1)[0][0] if values else otherwise
