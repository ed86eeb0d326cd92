"""Freshly drawn tiny models and adapters in transformers and PEFT, whose every part shows in the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from conftest import SHARED

REAL = ["TinyStories-656K", "stories260K"]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip

# What a class of models can be configured to do beyond its defaults.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama with llama3 factors": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "llama with linear scaling": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "llama with attention bias": ("Llama", {"attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
}

ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 5},
    "per-module rank and alpha": {
        "rank_pattern": {"q_proj": 3, r"layers\.0\.mlp\..*": 2, "^model.layers.0.self_attn.v_proj": 6},
        "alpha_pattern": {"down_proj": 5, "layers.0.self_attn.k_proj": 2.5, "up_proj": 9},
    },
    "per-module rank, rslora": {"use_rslora": True, "rank_pattern": {"(q|k)_proj": 3}, "alpha_pattern": {"v_proj": 7}},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"], "rank_pattern": {"embed_tokens": 3}},
    "head": {"target_modules": ["lm_head", "o_proj"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
}  # fmt: skip


def fresh_rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def random_model(cls: str, rng: np.random.Generator, **changes: Any) -> Any:
    """A model of random shape: GQA of 1 to 4 heads per KV head, a head that is not d / n_head wide (but for Qwen2), an
    ffn that is no multiple of 32, tied or not."""
    n_kv = int(rng.integers(1, 4))
    n_head = n_kv * int(rng.integers(1, 5))
    head_dim = int(changes.get("head_dim", 2 * rng.integers(8, 17)))
    d = n_head * (head_dim if cls == "Qwen2" else head_dim + int(rng.choice([-3, 2, 5])))
    fields = {
        "vocab_size": int(rng.integers(90, 200)), "hidden_size": d,
        "intermediate_size": 32 * int(rng.integers(1, 4)) + 4 * int(rng.integers(1, 8)),
        "num_hidden_layers": int(rng.integers(1, 4)), "num_attention_heads": n_head, "num_key_value_heads": n_kv,
        "max_position_embeddings": 512, "rms_norm_eps": float(rng.choice([1e-6, 1e-5])),
        "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(rng.choice([1e4, 5e5]))},
        "tie_word_embeddings": bool(rng.integers(2)), **changes,
    }  # fmt: skip
    if cls != "Qwen2":
        fields["head_dim"] = head_dim
    print({k: v for k, v in fields.items() if k not in ("bos_token_id", "eos_token_id")})
    config = getattr(transformers, f"{cls}Config")(**fields)
    model = getattr(transformers, f"{cls}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.4, 1.6)
            elif p.ndim == 1:
                p.normal_(0, 1.0)
            elif "embed" in name or "lm_head" in name:
                p.normal_(0, 1.0 if config.tie_word_embeddings or "embed" in name else 0.5)
            else:
                p.normal_(0, 1.2 / p.shape[1] ** 0.5)
    return model


def random_adapter(
    model: Any, folder: Path, *, name: str = "default", safe_serialization: bool = True, **changes: Any
) -> Any:
    """The model under PEFT with one more adapter, saved to `folder`: random factors whose product is about half as
    large as a weight, whatever the scale."""
    adapted: Any
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": LINEARS, "task_type": "CAUSAL_LM", **changes}
    )
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config)
        adapted = model
    else:
        adapted = peft.get_peft_model(model, config, adapter_name=name)
    with torch.no_grad():
        for layer in lora_layers(adapted):
            if name in layer.lora_A:
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                a.normal_(0, a.shape[1] ** -0.5)
            elif name in layer.lora_embedding_A:
                a, b = layer.lora_embedding_A[name], layer.lora_embedding_B[name]
                a.normal_()
            else:
                continue
            b.normal_(0, 0.5 / (layer.scaling[name] * layer.r[name] ** 0.5))
        stir_the_rest(adapted, name)
    adapted.eval().save_pretrained(str(folder), selected_adapters=[name], safe_serialization=safe_serialization)
    return adapted


def stir_the_rest(adapted: Any, name: str) -> None:
    """Magnitudes, biases of lora_B, whole modules and token rows of an adapter, as training might leave them."""
    for key, p in adapted.named_parameters():
        if f".{name}" not in key:
            continue
        if "lora_magnitude_vector" in key:
            p.mul_(torch.empty_like(p).uniform_(0.5, 1.5))
        elif "lora_B" in key and key.endswith("bias"):
            p.normal_(0, 0.3)
        elif "modules_to_save" in key or "trainable_tokens_delta" in key:
            p.add_(torch.randn_like(p) * 0.5 * (p.std() if p.ndim > 1 else 1.0))


def lora_layers(adapted: Any) -> list[Any]:
    return [m for m in adapted.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    """Float32 logits [len(ids), n_vocab] of transformers, with PEFT's adapters as they are set."""
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0].float().numpy())


def real_model(name: str) -> Any:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(real_folder(name), dtype=torch.float32)
    return model.eval()


def real_folder(name: str) -> Path:
    return SHARED / "models" / ("stories260K-hf" if name == "stories260K" else name)


def trained_adapter(model: Any, folder: Path, text: list[int], steps: int = 60, context: int = 64) -> Any:
    """A rank-8 adapter after a few steps on `text`, saved to `folder`: enough for greedy text to go elsewhere."""
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    rows = torch.tensor(text[: len(text) // context * context]).view(-1, context)
    weights = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        picked = rows[torch.randint(len(rows), (8,))]
        adapted(input_ids=picked, labels=picked).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    adapted.eval().save_pretrained(str(folder))
    return adapted


def words_of(name: str, file: str, n: int) -> list[int]:
    """The first n token ids of a text in shared/data/datasets, by the model's own tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(real_folder(name))
    text = (SHARED / "datasets" / file).read_text("utf-8")[: 12 * n].replace("<|endoftext|>", "")
    ids = tokenizer(text, add_special_tokens=False).input_ids[:n]
    assert len(ids) == n
    return [int(i) for i in ids]
