"""Names of an encoder's modules in transformers (BERT, RoBERTa) and in GGUF files of architecture "bert"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ENCODER = "bert"  # GGUF's architecture of all encoders
LABELS = "cls.output.weight"
LEFT_OUT = f"{ENCODER}.left_out"  # key of ours: tensors of the folder that belong to other tasks
LABELS_KEY = "classifier.output_labels"  # GGUF's, after the architecture
PROBLEM = f"{ENCODER}.classifier.problem_type"  # key of ours: what the labels are, as transformers names it
HEAD = ("cls.weight", LABELS)  # on the first token's vector, one after the other

_LAYER_MODULES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_OUTER_MODULES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
}
_HEADS = {
    "bert": {"classifier": "cls.output"},
    "roberta": {"classifier.dense": "cls", "classifier.out_proj": "cls.output"},
}
_IN_LAYER = re.compile(r"encoder\.layer\.(0|[1-9][0-9]{0,4})\.([A-Za-z_.]+)")


def encoder_stem(module: str, family: str | None = None) -> str | None:
    """GGUF tensor name, without ".weight" / ".bias", of a module of `family` ("bert", "roberta"; None: of either);
    None if there is none. Models with a head have the family's name before the others'."""
    for name, heads in _HEADS.items():
        if family not in (None, name):
            continue
        inner = module.removeprefix(f"{name}.")
        layer = _IN_LAYER.fullmatch(inner)
        if layer and layer.group(2) in _LAYER_MODULES:
            return f"blk.{layer.group(1)}.{_LAYER_MODULES[layer.group(2)]}"
        if stem := _OUTER_MODULES.get(inner) or heads.get(module):
            return stem
    return None


def encoder_module(stem: str, family: str = "", headed: bool = False) -> str | None:
    """The inverse: the module of a GGUF tensor's stem; None if there is none. headed: in a model with labels.

    ValueError: it has labels, and `family` is not known."""
    if headed and not family:
        raise ValueError(f"[names] without a tokenizer nothing says whether {stem!r} is of BERT or of RoBERTa")
    layer = re.fullmatch(r"blk\.([0-9]+)\.([a-z_]+)", stem)
    if headed and layer is None:
        for module, name in _HEADS[family].items():
            if name == stem:
                return module
    table = _OUTER_MODULES if layer is None else _LAYER_MODULES
    wanted = stem if layer is None else layer.group(2)
    found = next((module for module, name in table.items() if name == wanted), None)
    if found is None:
        return None
    path = found if layer is None else f"encoder.layer.{layer.group(1)}.{found}"
    return f"{family}.{path}" if headed else path


def family_of(metadata: Mapping[str, Any]) -> str:
    """ "bert" or "roberta", told by a file's tokenizer, which is byte-level in RoBERTa; empty without one."""
    return {"bert": "bert", "gpt2": "roberta"}.get(str(metadata.get("tokenizer.ggml.model")), "")


def label_names(labels: object, where: str) -> list[str]:
    """ValueError, which begins with `where`: they are no texts, or one is there twice."""
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{where} is no list of texts")
    if len(set(labels)) != len(labels):
        raise ValueError(f"{where} has the same label twice")
    return labels
