"""The models that experiments begin with: TinyStories-656K as it is and rounded, and a fresh smaller student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from lora_edge.convert import convert_model
from safetensors.numpy import save_file

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "models" / "TinyStories-656K"
STUDENT = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 4}


def base(name: str, folder: Path) -> Path:
    """The GGUF file of "656k-TYPE" or "student-TYPE", made where it isn't there yet."""
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    if not SOURCE.is_dir():
        raise FileNotFoundError(f"'{SOURCE}' is not here: the experiments use a model that is no part of the project")
    folder.mkdir(parents=True, exist_ok=True)
    kind, _, type = name.partition("-")
    source = SOURCE if kind == "656k" else fresh_student(folder / "student")
    return convert_model(source, path, type=type)


def fresh_student(folder: Path) -> Path:
    """A model folder with random weights, half as wide and half as deep: normal with 0.02 as transformers has it, norms
    1."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(SOURCE / name, folder / name)
    config = json.loads((SOURCE / "config.json").read_text("utf-8")) | STUDENT | {"num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    d, ffn, kv = config["hidden_size"], config["intermediate_size"], config["hidden_size"] // 2
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (config["vocab_size"], d), "model.norm": (d,)}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes |= {f"{p}self_attn.{x}_proj": (n, d) for x, n in (("q", d), ("k", kv), ("v", kv), ("o", d))}
        shapes |= {f"{p}mlp.gate_proj": (ffn, d), f"{p}mlp.up_proj": (ffn, d), f"{p}mlp.down_proj": (d, ffn)}
        shapes |= {f"{p}input_layernorm": (d,), f"{p}post_attention_layernorm": (d,)}
    tensors = {}
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.02, shape)
        tensors[f"{name}.weight"] = values.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder
