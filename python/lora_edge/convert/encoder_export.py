"""An encoder's GGUF -> Hugging Face folder: `encoder.py` read backwards.

The family is told by the tokenizer; without one the folder is BERT's, which says the same of either: RoBERTa differs in
names, and in the positions that it leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..encoder import labels_of, pooling_of, problem_of
from ..encoder_names import ENCODER, LABELS, PROBLEM, encoder_module, family_of
from ..encoder_tokenizer import HF_JSON, EncoderTokenizer
from ..gguf_file import GgufFile
from ..vocab import MODEL
from .changes import hf_rows
from .encoder import Shapes, shapes_of
from .export_rows import TORCH_DTYPES, Rows
from .fields import Fields
from .metadata import short
from .vocab_export import Files
from .weights import Array, convert
from .writer import Planned

_ROLES = {"bos": "bos", "eos": "eos", "cls": "cls", "sep": "seperator", "pad": "padding", "unk": "unknown",
          "mask": "mask"}  # fmt: skip


def plan_encoder_export(file: GgufFile, kind: str) -> tuple[dict[str, Any], list[Planned], Files]:
    """config.json, the tensors in type `kind`, and the other files. ValueError names what the folder can't say."""
    meta = {key: value.tolist() if isinstance(value, np.generic) else value for key, value in file.metadata.items()}
    prefix = f"{ENCODER}."
    get = Fields({k.removeprefix(prefix): v for k, v in meta.items() if k.startswith(prefix)}, str(file.core.path))
    if get.fields.get("attention.causal"):
        get.fail("attention.causal", "not supported")
    infos = file.core.tensors()
    labels = labels_of(meta, f"{prefix}classifier.output_labels")
    if LABELS in infos and not labels:
        labels = [f"LABEL_{i}" for i in range(infos[LABELS][0][0])]
    n_embd, n_layer = get.count("embedding_length"), get.count("block_count", None, len(infos))
    n_vocab, n_parts = (
        infos[name][0][0] if name in infos else 0 for name in ("token_embd.weight", "token_types.weight")
    )
    n_ctx, n_ff = get.count("context_length"), get.count("feed_forward_length")
    _check(file, *shapes_of(n_vocab, n_parts, n_ctx, n_embd, n_layer, n_ff, len(labels)))

    family = family_of(meta) or "bert"
    files, ids = _tokenizer_files(meta, n_vocab, n_ctx)
    skipped = ids.setdefault("pad_token_id", 1) + 1 if family == "roberta" else 0
    config: dict[str, Any] = {
        "architectures": [family.capitalize() + ("ForSequenceClassification" if labels else "Model")],
        "model_type": family, "vocab_size": n_vocab, "hidden_size": n_embd, "num_hidden_layers": n_layer,
        "num_attention_heads": get.count("attention.head_count"), "intermediate_size": n_ff, "hidden_act": "gelu",
        "max_position_embeddings": n_ctx + skipped, "type_vocab_size": n_parts,
        "layer_norm_eps": short(get.number("attention.layer_norm_epsilon")), "torch_dtype": TORCH_DTYPES[kind],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")), **ids,
    }  # fmt: skip
    if labels:
        config |= {
            "id2label": {str(i): x for i, x in enumerate(labels)},
            "label2id": {x: i for i, x in enumerate(labels)},
        }
        if problem := problem_of(meta.get(PROBLEM), f"[export] {PROBLEM}"):
            config["problem_type"] = problem
    elif f"{prefix}pooling_type" in meta:
        files |= _pooling_files(pooling_of(meta, f"{prefix}pooling_type"), n_embd)
    rows = Rows(file)
    tensors = [_planned(rows, name, tuple(infos[name][0]), family, bool(labels), skipped, kind) for name in infos]
    return config, tensors, files


def _check(file: GgufFile, expected: Shapes, optional: Shapes) -> None:
    infos, where = file.core.tensors(), file.core.path
    for name, (shape, *_) in infos.items():
        wanted = expected.get(name) or optional.get(name)
        if wanted is None:
            raise ValueError(f"[export] {where}: the tensor {name!r} has no place in an encoder")
        if tuple(shape) != wanted:
            raise ValueError(f"[export] {where}: {name!r} has the shape {tuple(shape)}, the metadata ask for {wanted}")
    missing = [name for name in expected if name not in infos]
    if missing:
        raise ValueError(f"[export] {where}: tensor {missing[0]!r} is missing ({len(missing)} are)")


def _planned(
    rows: Rows, name: str, shape: tuple[int, ...], family: str, headed: bool, skipped: int, kind: str
) -> Planned:
    stem, _, part = name.rpartition(".")
    target = f"{encoder_module(stem, family, headed)}.{part}"
    read = rows.of(name)
    if name != "position_embd.weight" or not skipped:
        return Planned(target, kind, shape, lambda: hf_rows(read, shape, "", 1, kind, target))

    def positions() -> Iterator[Array]:
        yield convert(np.zeros((skipped, shape[1]), np.float32), kind, target)
        yield from hf_rows(read, shape, "", 1, kind, target)

    return Planned(target, kind, (shape[0] + skipped, shape[1]), positions)


def _tokenizer_files(meta: dict[str, Any], n_vocab: int, n_ctx: int) -> tuple[Files, dict[str, int]]:
    """tokenizer.json and its settings, and the special ids of config.json; empty for a file without a tokenizer."""
    if HF_JSON not in meta and MODEL not in meta:
        return {}, {}
    tokenizer = EncoderTokenizer.from_metadata(meta)
    if tokenizer.vocab_size > n_vocab:
        raise ValueError(f"[export] the tokenizer has {tokenizer.vocab_size} tokens, the model {n_vocab}")
    ids = {role: meta.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLES.items()}
    texts = {role: tokenizer.token(i) for role, i in ids.items() if isinstance(i, int) and 0 <= i < n_vocab}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": n_ctx,
                **{f"{role}_token": text for role, text in texts.items() if text is not None}}  # fmt: skip
    kept = {f"{role}_token_id": int(i) for role, i in ids.items() if role in ("bos", "eos", "pad") and i is not None}
    return {"tokenizer.json": meta.get(HF_JSON) or tokenizer.to_json(), "tokenizer_config.json": settings}, kept


def _pooling_files(pooling: str, n_embd: int) -> Files:
    """What sentence-transformers reads; nothing for a pooler, of which it has no word."""
    if pooling == "pooler":
        return {}
    kinds = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
    ]
    settings = {"word_embedding_dimension": n_embd, **{key: name == pooling for name, key in kinds.items()}}
    return {"modules.json": json.dumps(modules, indent=2), "1_Pooling/config.json": settings}
