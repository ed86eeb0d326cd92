#!/usr/bin/env python3
"""Record what transformers and PEFT compute in float32 on tiny random models, for tests/python/test_recorded.py.

One folder per architecture under tests/fixtures/models: base.gguf (F16, and the weights are float16 numbers, so nothing
is lost), adapters as PEFT folders and one as a GGUF file, and expected.npz: `ids`, logits [n, n_vocab] under "base",
each adapter's name and "both" (plain · 0.7 + ends · -1.3), and greedy continuations of the first 4 ids under "greedy
base" and "greedy plain".

    python tools/record_model_fixtures.py

Needs the extra `peer` (torch, transformers, peft).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))

from lora_edge.convert import convert_adapter, convert_model  # noqa: E402

OUT = ROOT / "tests" / "fixtures" / "models"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
N_IDS, N_GREEDY = 20, 20
BOTH = {"plain": 0.7, "ends": -1.3}

SHAPE: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"head_dim": 8, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama_bias": ("Llama", {"head_dim": 8, "rope_parameters": LINEAR, "attention_bias": True}),
    "qwen2": ("Qwen2", {"rope_parameters": PLAIN, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8, "rope_parameters": PLAIN}),
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": LINEARS},
    "patterns": {
        "r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "k_proj", "down_proj"], "use_rslora": True,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 7},
    },
    "ends": {"r": 2, "lora_alpha": 3, "target_modules": ["embed_tokens", "lm_head"]},
}  # fmt: skip


def random_model(cls: str, fields: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{cls}Config")(**{**SHAPE, "tie_word_embeddings": False, **fields})
    model = getattr(transformers, f"{cls}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.4, 1.6)
            elif p.ndim == 1:
                p.normal_()
            else:
                p.normal_(0, 1.0 if "embed" in name else 1.5 / p.shape[1] ** 0.5)
            p.copy_(p if p.ndim == 1 else p.half().float())  # vectors are stored as F32
    return model


def add_adapters(model: Any, name: str, folder: Path) -> Any:
    """The model under PEFT with all of ADAPTERS, each saved below `folder`."""
    adapted: Any = None
    for adapter, fields in ADAPTERS.items():
        config = peft.LoraConfig(task_type="CAUSAL_LM", **fields)
        if adapted is None:
            adapted = peft.get_peft_model(model, config, adapter_name=adapter)
        else:
            adapted.add_adapter(adapter, config)
        adapted.peft_config[adapter].base_model_name_or_path = name
        with torch.no_grad():
            for layer in lora_layers(adapted):
                if adapter in layer.lora_A:
                    layer.lora_A[adapter].weight.normal_(0, 0.3)
                    layer.lora_B[adapter].weight.normal_(0, 0.3)
                if adapter in layer.lora_embedding_A:
                    layer.lora_embedding_A[adapter].normal_(0, 0.3)
                    layer.lora_embedding_B[adapter].normal_(0, 0.3)
        adapted.save_pretrained(str(folder), selected_adapters=[adapter])
        sort_targets(folder / adapter / "adapter_config.json")
    (folder / "README.md").unlink(missing_ok=True)
    return adapted.eval()


def sort_targets(path: Path) -> None:
    """PEFT writes a set, whose order changes from run to run."""
    fields = json.loads(path.read_text())
    fields["target_modules"].sort()
    path.write_text(json.dumps(fields, indent=2) + "\n")


def lora_layers(adapted: Any) -> list[Any]:
    return [m for m in adapted.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]


def set_weights(adapted: Any, weights: dict[str, float]) -> None:
    adapted.base_model.set_adapter(list(weights))
    for layer in lora_layers(adapted):
        for name, weight in weights.items():
            layer.set_scale(name, weight)


def logits(model: Any, ids: Any) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(ids).logits[0].numpy())


def greedy(model: Any, ids: Any) -> np.ndarray:
    mask = torch.ones_like(ids)  # by default, ids that equal the padding's are masked
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=N_GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return np.asarray(out[0, ids.shape[1] :].numpy().astype(np.int32))


def record(name: str, folder: Path) -> None:
    cls, fields = MODELS[name]
    model = random_model(cls, fields)
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary)
        convert_model(temporary, folder / "base.gguf", type="f16", name=name)
    ids = torch.randint(0, SHAPE["vocab_size"], (1, N_IDS))
    expected: dict[str, Any] = {
        "ids": ids[0].numpy().astype(np.int32),
        "base": logits(model, ids),
        "greedy base": greedy(model, ids[:, :4]),
    }
    adapted = add_adapters(model, name, folder)
    convert_adapter(folder / "patterns", folder / "base.gguf", folder / "patterns.gguf")
    for adapter in ADAPTERS:
        set_weights(adapted, {adapter: 1.0})
        expected[adapter] = logits(adapted, ids)
        if adapter == "plain":
            expected["greedy plain"] = greedy(adapted, ids[:, :4])
    set_weights(adapted, BOTH)
    expected["both"] = logits(adapted, ids)
    np.savez_compressed(folder / "expected.npz", **expected)


def main() -> None:
    torch.manual_seed(20)
    shutil.rmtree(OUT, ignore_errors=True)
    for name in MODELS:
        (OUT / name).mkdir(parents=True)
        record(name, OUT / name)
    total = sum(file.stat().st_size for file in OUT.rglob("*") if file.is_file())
    print(f"{OUT}: {total / 1000:.0f} kB")


if __name__ == "__main__":
    main()
