"""A model's numbers as the config.json of transformers: `hparams.py` read backwards."""

from __future__ import annotations

from typing import Any

from .hparams import HParams, attention_scalar
from .rope import rope_config


def config_of(hparams: HParams, dtype: str) -> dict[str, Any]:
    """Everything that changes the results, written out, also where it is transformers' default.

    dtype: of the weights, as torch names it.
    """
    architecture = hparams.architecture
    config: dict[str, Any] = {
        "architectures": [architecture.hf_class],
        "model_type": architecture.model_type,
        **{setting.name: hparams.values[setting.key] for setting in architecture.settings},
        **{flag: flag in hparams.flags for flag in architecture.flags},
        **{name: values[0] for name, values in architecture.fixed.items()},
        "tie_word_embeddings": hparams.tied,
        "torch_dtype": dtype,
    }
    if hparams.rope is not None:
        config |= rope_config(hparams.rope, architecture, hparams.head_dim, hparams.n_ctx)
    if "query_pre_attn_scalar" in architecture.defaults:
        config["query_pre_attn_scalar"] = attention_scalar(
            hparams.arch, hparams.n_layer, hparams.head_dim, hparams.count("embedding_length") // hparams.n_head
        )
    return config | _windows(hparams)


def _windows(hparams: HParams) -> dict[str, Any]:
    kind, n_layer = hparams.architecture.window, hparams.n_layer
    if not kind:
        return {}
    fields: dict[str, Any] = {"sliding_window": hparams.window}
    if kind == "all":
        return fields
    sliding = hparams.sliding or (hparams.window is not None,) * n_layer
    fields["layer_types"] = ["sliding_attention" if is_sliding else "full_attention" for is_sliding in sliding]
    if kind == "qwen":
        fields["use_sliding_window"] = hparams.window is not None
        fields["max_window_layers"] = sliding.index(True) if any(sliding) else n_layer
    return fields
