"""A random model of Qwen2 1.5B's shape in shards: how much memory its conversion takes (3.1 GB of disk, minutes)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

D, F, N_VOCAB, N_LAYER, KV = 1536, 8960, 151936, 28, 256
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": D, "intermediate_size": F, "num_hidden_layers": N_LAYER,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": N_VOCAB, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
LARGEST = 2 * N_VOCAB * D  # bytes of the embedding, bfloat16

MEASURE = """
import sys
from lora_edge.convert import convert_model
convert_model(sys.argv[1], sys.argv[2], type=sys.argv[3])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def shapes() -> dict[str, tuple[int, ...]]:
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (D, D), "self_attn.q_proj.bias": (D,), "self_attn.k_proj.weight": (KV, D),
        "self_attn.k_proj.bias": (KV,), "self_attn.v_proj.weight": (KV, D), "self_attn.v_proj.bias": (KV,),
        "self_attn.o_proj.weight": (D, D), "mlp.gate_proj.weight": (F, D), "mlp.up_proj.weight": (F, D),
        "mlp.down_proj.weight": (D, F), "input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,),
    }  # fmt: skip
    layers = {f"model.layers.{i}.{name}": shape for i in range(N_LAYER) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (N_VOCAB, D), **layers, "model.norm.weight": (D,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of bfloat16 bits between 0.008 and 0.03, of either sign."""
    folder, rng, everything = tmp_path_factory.mktemp("large"), np.random.default_rng(), list(shapes().items())
    noise = rng.integers(0x3C00, 0x3D00, 1 << 22, dtype=np.uint16) | rng.choice([0, 0x8000], 1 << 22).astype(np.uint16)
    weight_map = {}
    for i, part in enumerate((everything[: len(everything) // 2], everything[len(everything) // 2 :])):
        name = f"model-{i + 1:05}-of-00002.safetensors"
        header, at = {}, 0
        for tensor, shape in part:
            n_bytes = 2 * int(np.prod(shape))
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n_bytes]}
            weight_map[tensor], at = name, at + n_bytes
        raw = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for left in range(at // 2, 0, -len(noise)):
                file.write(noise[: min(left, len(noise))].data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize("type", ["q8_0", "f16"])
def test_memory_of_a_large_conversion(folder: Path, type: str) -> None:
    out = folder / "out.gguf"
    done = subprocess.run([sys.executable, "-c", MEASURE, folder, out, type], check=True, capture_output=True)
    peak = 1024 * int(done.stdout)
    print(f"{type}: {peak / 1e6:.0f} MB resident at most; largest tensor {LARGEST / 1e6:.0f} MB")
    out.unlink()
    assert peak <= 1.5 * LARGEST + 200e6
