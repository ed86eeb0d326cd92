"""A tiny GGUF encoder, with labels and a tokenizer, made from nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from tiny_gguf import F32, Q8_0, File, Tensor, pack, write_gguf

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2581a", "\u2581b", "\u2581ab", "b", "\u2581é"]


def huggingface_json() -> str:
    """The same vocabulary as the `tokenizers` library writes it."""
    ends = {w: {"id": w, "ids": [TOKENS.index(w)], "tokens": [w]} for w in ("[CLS]", "[SEP]")}
    first, last = ({"SpecialToken": {"id": w, "type_id": 0}} for w in ends)
    words = {t if t.startswith("[") else t[1:] if t[0] == "\u2581" else f"##{t}": i for i, t in enumerate(TOKENS)}
    added = [{"id": i, "content": t, "special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
              "normalized": False} for i, t in enumerate(TOKENS[:5])]  # fmt: skip
    a, b = ({"Sequence": {"id": x, "type_id": i}} for i, x in enumerate("AB"))
    return json.dumps({
        "version": "1.0", "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [first, a, last],
                           "pair": [first, a, last, b, last], "special_tokens": ends},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": words},
    })  # fmt: skip


def tiny_encoder(kind: int = F32, *, json_tokenizer: bool = True, metadata: Mapping[str, object] | None = None) -> File:
    """One layer; d 8 (32 for Q8_0), 2 heads, ffn 12 (32), 3 labels. `metadata` is laid over the usual, None taking an
    entry away."""
    rng = np.random.default_rng(0)
    d, ffn = (32, 32) if kind == Q8_0 else (8, 12)
    meta: dict[str, object] = {
        "general.architecture": "bert", "general.name": "tiny", "bert.block_count": 1, "bert.embedding_length": d,
        "bert.feed_forward_length": ffn, "bert.context_length": 64, "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-5, "bert.attention.causal": False, "bert.pooling_type": 2,
        "bert.classifier.output_labels": ["x", "y", "z"], "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": np.array([3] * 5 + [1] * 5, np.int32),
        "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.unknown_token_id": 1,
        **({"tokenizer.huggingface.json": huggingface_json()} if json_tokenizer else {}),
    }  # fmt: skip
    meta = {key: value for key, value in (meta | dict(metadata or {})).items() if value is not None}
    matrices = {"token_embd": (len(TOKENS), d), "cls": (d, d), "cls.output": (3, d), "blk.0.ffn_up": (ffn, d),
                "blk.0.ffn_down": (d, ffn), "blk.0.attn_output": (d, d),
                **{f"blk.0.attn_{x}": (d, d) for x in "qkv"}}  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for name, shape in matrices.items():
        tensors[f"{name}.weight"] = pack(rng.standard_normal(shape).astype(np.float32), kind)
        if name != "token_embd":
            tensors[f"{name}.bias"] = pack(rng.standard_normal(shape[0]).astype(np.float32), F32)
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}"] = pack(rng.standard_normal(d).astype(np.float32), F32)
    for name, n in (("position_embd", 64), ("token_types", 2)):
        tensors[f"{name}.weight"] = pack(rng.standard_normal((n, d)).astype(np.float32), F32)
    return write_gguf(meta, tensors)
