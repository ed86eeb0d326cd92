"""Hugging Face folder -> GGUF: every tensor and every key that the runtime relies on, and what is refused."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hf_folders import (
    CLASSES,
    Tensors,
    hf_module,
    interleave,
    tiny_config,
    tiny_weights,
    write_model,
    write_safetensors,
)
from lora_edge.convert import cached_conversion, convert_model
from lora_edge.model import Model
from lora_edge.quant import f32_to_bf16, quantize_q8_0, to_f32
from tiny_models import fresh_rng


class Made:
    """A converted file, read back with gguf-py."""

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = gguf.GGUFReader(path)
        self.meta: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
        self.tensors = {t.name: np.array(t.data) for t in reader.tensors}
        self.types = {t.name: t.tensor_type.name for t in reader.tensors}


def made_from(folder: Path, config: dict[str, Any], tensors: Tensors, **options: Any) -> Made:
    return Made(convert_model(write_model(folder, config, tensors), folder / "out.gguf", **options))


def stored(x: np.ndarray, type: str) -> tuple[np.ndarray, str]:
    """What a source array must have become, and its GGUF type."""
    x = to_f32(x)
    if x.ndim == 1 or type == "f32":
        return x, "F32"
    if type == "f16" or (type in ("q8_0", "q4_0") and x.shape[1] % 32):
        return x.astype(np.float16), "F16"
    if type == "q4_0":
        return gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q4_0), "Q4_0"
    return (quantize_q8_0(x), "Q8_0") if type == "q8_0" else (f32_to_bf16(x).view(np.uint8), "BF16")


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("dtype", "type"),
    [("float32", "f32"), ("bf16", "q8_0"), ("float16", "bf16"), ("float32", "f16"), ("float32", "q4_0")],
)
def test_every_tensor(tmp_path: Path, cls: str, dtype: str, type: str) -> None:
    config = tiny_config(cls)
    tensors = tiny_weights(config, fresh_rng(), dtype)
    made = made_from(tmp_path, config, tensors, type=type)
    assert len(made.tensors) == len(tensors)
    for name, x in made.tensors.items():
        stem, _, part = name.rpartition(".")
        source = tensors[f"{hf_module(stem)}.{part}"]
        if CLASSES[cls] == "llama" and stem.endswith(("attn_q", "attn_k")):
            source = interleave(source, 4 if stem.endswith("q") else 2)
        wanted, kind = stored(source, type)
        assert made.types[name] == kind
        assert np.array_equal(x, wanted), name


@pytest.mark.parametrize("cls", CLASSES)
def test_metadata(tmp_path: Path, cls: str) -> None:
    config = tiny_config(cls, rope_theta=50000.0)
    made = made_from(tmp_path / "tiny", config, tiny_weights(config, fresh_rng()), type="q8_0")
    arch = CLASSES[cls]
    wanted = {
        "general.architecture": arch, "general.type": "model", "general.name": "tiny", "general.file_type": 7,
        "general.quantization_version": 2, f"{arch}.vocab_size": 50, f"{arch}.context_length": 96,
        f"{arch}.embedding_length": 64, f"{arch}.block_count": 2, f"{arch}.feed_forward_length": 40,
        f"{arch}.attention.head_count": 4, f"{arch}.attention.head_count_kv": 2,
            f"{arch}.attention.key_length": 8,
        f"{arch}.attention.value_length": 8,
            f"{arch}.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        f"{arch}.rope.dimension_count": 8, f"{arch}.rope.freq_base": 50000.0,
    }  # fmt: skip
    assert {key: made.meta.get(key) for key in wanted} == wanted
    assert not any(key.startswith("tokenizer.") for key in made.meta)


def test_bias_of_llama_attention(tmp_path: Path) -> None:
    config = tiny_config("LlamaForCausalLM", attention_bias=True)
    tensors = tiny_weights(config, fresh_rng())
    made = made_from(tmp_path, config, tensors)
    prefix = "model.layers.1.self_attn."
    assert np.array_equal(made.tensors["blk.1.attn_q.bias"], interleave(tensors[prefix + "q_proj.bias"], 4))
    assert np.array_equal(made.tensors["blk.1.attn_k.bias"], interleave(tensors[prefix + "k_proj.bias"], 2))
    assert np.array_equal(made.tensors["blk.1.attn_v.bias"], tensors[prefix + "v_proj.bias"])
    assert np.array_equal(made.tensors["blk.1.attn_output.bias"], tensors[prefix + "o_proj.bias"])


@pytest.mark.parametrize("stored_as", ["embed_tokens", "lm_head", "both", "both, different"])
def test_tied_embeddings(tmp_path: Path, stored_as: str) -> None:
    config = tiny_config("LlamaForCausalLM", tie_word_embeddings=True)
    tensors = tiny_weights(config, fresh_rng())
    matrix = tensors["model.embed_tokens.weight"]
    if stored_as != "embed_tokens":
        tensors["lm_head.weight"] = matrix if stored_as != "both, different" else matrix + 1
    if stored_as == "lm_head":
        del tensors["model.embed_tokens.weight"]
    made = made_from(tmp_path, config, tensors, type="f32")
    assert np.array_equal(made.tensors["token_embd.weight"], matrix)
    if stored_as == "both, different":  # transformers leaves them apart
        assert np.array_equal(made.tensors["output.weight"], matrix + 1)
    else:
        assert "output.weight" not in made.tensors


@pytest.mark.parametrize("layout", ["old", "older", "new"])
def test_rope_layouts(tmp_path: Path, layout: str) -> None:
    def made_with(scaling: dict[str, Any], theta: float) -> Made:
        if layout == "new":
            fields: dict[str, Any] = {"rope_parameters": {"rope_theta": theta, **scaling}}
        else:
            key = "type" if layout == "older" else "rope_type"
            old = {key if k == "rope_type" else k: v for k, v in scaling.items()}
            fields = {"rope_theta": theta, "rope_scaling": old if scaling["rope_type"] != "default" else None}
        config = tiny_config("LlamaForCausalLM", **fields)
        return made_from(tmp_path, config, tiny_weights(config, np.random.default_rng(1)))

    plain = made_with({"rope_type": "default"}, 123456.0)
    assert plain.meta["llama.rope.freq_base"] == 123456.0
    assert "llama.rope.scaling.type" not in plain.meta and "rope_freqs.weight" not in plain.tensors

    linear = made_with({"rope_type": "linear", "factor": 2.5}, 10000.0)
    assert linear.meta["llama.rope.scaling.type"] == "linear" and linear.meta["llama.rope.scaling.factor"] == 2.5

    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    llama3 = made_with(scaling, 500.0)
    wanted = []
    for pair in range(4):  # the rule as Llama 3.1 states it, in wavelengths
        wavelength = 2 * math.pi * 500.0 ** (2 * pair / 8)
        if wavelength < 64 / 4:
            wanted.append(1.0)
        elif wavelength > 64 / 1:
            wanted.append(8.0)
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            wanted.append(1 / ((1 - smooth) / 8 + smooth))
    assert llama3.types["rope_freqs.weight"] == "F32"
    assert 1.0 in wanted and 8.0 in wanted and any(1 < w < 8 for w in wanted)
    np.testing.assert_allclose(llama3.tensors["rope_freqs.weight"], wanted, rtol=1e-6)
    assert "llama.rope.scaling.type" not in llama3.meta


@pytest.mark.parametrize(
    ("cls", "fields", "window"),
    [
        ("MistralForCausalLM", {"sliding_window": 40}, 40),
        ("MistralForCausalLM", {"sliding_window": 400}, 0),
        ("MistralForCausalLM", {"sliding_window": None, "max_position_embeddings": 9000}, 0),
        ("Qwen2ForCausalLM", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0,
                              "max_position_embeddings": 9000}, 0),
        ("LlamaForCausalLM", {"sliding_window": 40}, 0),
        ("Qwen2ForCausalLM", {"sliding_window": 40, "use_sliding_window": False}, 0),
        ("Qwen2ForCausalLM", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 2}, 0),
        ("Qwen2ForCausalLM", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 1}, 40),
        ("Qwen3ForCausalLM", {"sliding_window": 40, "use_sliding_window": True,
            "layer_types": ["full_attention"] * 2}, 0),
        ("Qwen3ForCausalLM", {"sliding_window": 40, "use_sliding_window": True,
                              "layer_types": ["full_attention", "sliding_attention"]}, 40),
    ],
)  # fmt: skip
def test_a_sliding_window_is_kept(tmp_path: Path, cls: str, fields: dict[str, Any], window: int) -> None:
    config = tiny_config(cls, **fields)
    made = made_from(tmp_path, config, tiny_weights(config, fresh_rng()))
    n_ctx = config["max_position_embeddings"]
    assert made.meta[f"{CLASSES[cls]}.context_length"] == n_ctx
    with Model(made.path) as model:
        assert model.config.n_ctx_train == n_ctx
        assert model.config.window == window
    Model(made.path, n_ctx=500).close()


@pytest.mark.parametrize("n_shards", [1, 3])
def test_shards(tmp_path: Path, n_shards: int) -> None:
    config = tiny_config("Qwen2ForCausalLM")
    tensors = tiny_weights(config, fresh_rng())
    whole = made_from(tmp_path / "whole", config, tensors)
    folder = write_model(tmp_path / "parts", config, tensors)
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    weight_map = {name: f"model-{i % n_shards}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        write_safetensors(folder / file, {n: tensors[n] for n in names if weight_map[n] == file})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    parts = Made(convert_model(folder, tmp_path / "parts.gguf"))
    assert parts.tensors.keys() == whole.tensors.keys()
    assert all(np.array_equal(parts.tensors[n], whole.tensors[n]) for n in whole.tensors)

    for broken, message in (
        ({**weight_map, "extra.weight": "model-0.safetensors"}, r"extra\.weight"),
        ({**weight_map, "x": "../secret.safetensors"}, "outside of its folder"),
        ([1], "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": broken}))
        with pytest.raises(ValueError, match=message):
            convert_model(folder, tmp_path / "no.gguf")
    assert not (tmp_path / "no.gguf").exists()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
    ({"architectures": None, "model_type": "bloom"}, "bloom"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
    ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers"),
    ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ({"head_dim": 7}, "head_dim"),
    ({"vocab_size": 51}, r"embed_tokens.*\(50, 64\).*\(51, 64\)"),
    ({"num_hidden_layers": 3}, r"no tensor for blk\.2"),
    ({"num_hidden_layers": 1}, r"model\.layers\.1\..*no place"),
    ({"attention_bias": True}, "no tensor for"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_cannot_be_said_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    tensors = tiny_weights(tiny_config("LlamaForCausalLM"), fresh_rng())
    folder = write_model(tmp_path / "m", tiny_config("LlamaForCausalLM", **fields), tensors)
    with pytest.raises(ValueError, match=message):
        convert_model(folder, tmp_path / "out.gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_tensors_and_values_that_do_not_belong(tmp_path: Path) -> None:
    config, rng = tiny_config("LlamaForCausalLM"), fresh_rng()
    out = tmp_path / "out.gguf"
    up = "model.layers.0.mlp.up_proj"

    def refused(changes: Tensors, message: str, **options: Any) -> None:
        folder = write_model(tmp_path / "m", config, {**tiny_weights(config, rng), **changes})
        with pytest.raises(ValueError, match=message):
            convert_model(folder, out, **options)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]

    refused({"model.layers.0.self_attn.sinks": np.ones(4, np.float32)}, "sinks")
    refused({f"{up}.bias": np.ones(40, np.float32)}, r"up_proj\.bias")
    refused({f"{up}.weight": np.ones((40, 64), np.int32)}, "type I32")
    refused({f"{up}.weight": np.full((40, 64), np.nan, np.float32)}, r"up_proj\.weight.*not finite", type="f32")
    refused({f"{up}.weight": np.full((40, 64), 7e4, np.float32)}, r"up_proj\.weight.*65504")
    refused({f"{up}.weight": np.full((40, 64), 1e8, np.float32)}, r"up_proj\.weight.*Q8_0", type="q8_0")
    refused({}, "q4_k", type="q4_k")
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    convert_model(write_model(tmp_path / "m", config, tiny_weights(config, rng) | inv_freq), out)


def test_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        convert_model(tmp_path, tmp_path / "out.gguf")
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("LlamaForCausalLM")))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        convert_model(tmp_path, tmp_path / "out.gguf")


def test_an_interrupt_leaves_nothing_and_spares_the_old_file(tmp_path: Path) -> None:
    config = tiny_config("LlamaForCausalLM")
    folder = write_model(tmp_path / "m", config, tiny_weights(config, fresh_rng()))
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    calls = []

    def interrupt(done: int, total: int, name: str) -> None:
        calls.append(name)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_model(folder, out, progress=interrupt)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "out.gguf"]


def test_progress_and_memory(tmp_path: Path) -> None:
    config = tiny_config("LlamaForCausalLM", vocab_size=60_000, tie_word_embeddings=True)
    folder = write_model(tmp_path, config, tiny_weights(config, fresh_rng()))
    seen: list[tuple[int, int, str]] = []
    tracemalloc.start()
    convert_model(folder, tmp_path / "out.gguf", type="q8_0", progress=lambda *x: seen.append(x))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen[0][2] == "token_embd.weight" and seen[-1][0] == seen[-1][1]
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert peak < 60_000 * 64 * 2 + (64 << 20)


@needs_shared
@pytest.mark.parametrize(
    ("source", "name"), [("TinyStories-656K", "TinyStories-656K"), ("stories260K-hf", "stories260K")]
)
@pytest.mark.parametrize("type", ["f32", "f16", "q8_0"])
def test_real_models_equal_llama_cpp_files(tmp_path: Path, source: str, name: str, type: str) -> None:
    made = Made(convert_model(SHARED / "models" / source, tmp_path / "out.gguf", type=type))
    theirs = Made(SHARED / "gguf" / f"{name}-{type}.gguf")
    assert made.types == theirs.types
    assert all(np.array_equal(made.tensors[n], theirs.tensors[n]) for n in theirs.tensors)
    added = {"general.type", "general.name", "general.quantization_version", "general.license",
        "GGUF.kv_count", "tokenizer.ggml.padding_token_id",
             "tokenizer.ggml.scores", "llama.attention.key_length",
                 "llama.attention.value_length"}  # fmt: skip
    differing = {k for k in made.meta.keys() | theirs.meta.keys() if made.meta.get(k) != theirs.meta.get(k)}
    assert differing <= added


def test_a_folder_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_EDGE_CACHE", str(tmp_path / "cache"))
    config = tiny_config("LlamaForCausalLM")
    folder = write_model(tmp_path / "a model", config, tiny_weights(config, fresh_rng()))
    first = cached_conversion(folder)
    assert first.parent == tmp_path / "cache" and Made(first).types["blk.0.attn_q.weight"] == "Q8_0"
    made_at = first.stat().st_mtime_ns
    assert cached_conversion(folder) == first and first.stat().st_mtime_ns == made_at
    assert cached_conversion(folder, type="f32") != first
    write_model(folder, {**config, "rope_theta": 777.0}, tiny_weights(config, fresh_rng()))
    second = cached_conversion(folder)
    assert second != first and Made(second).meta["llama.rope.freq_base"] == 777.0
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    assert cached_conversion(folder) != second


def test_the_output_is_a_regular_file(tmp_path: Path) -> None:
    """What is no file is left alone; a link is followed, not replaced."""
    config = tiny_config("LlamaForCausalLM")
    folder = write_model(tmp_path / "model", config, tiny_weights(config, fresh_rng()))
    os.mkfifo(tmp_path / "pipe")
    for bad in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        before = os.stat(bad)
        with pytest.raises(ValueError, match=f"'{bad}' is not a regular file"):
            convert_model(folder, bad)
        assert os.path.samestat(before, os.stat(bad))
    (tmp_path / "link.gguf").symlink_to("target.gguf")
    convert_model(folder, tmp_path / "link.gguf")
    assert (tmp_path / "link.gguf").is_symlink() and (tmp_path / "target.gguf").read_bytes()[:4] == b"GGUF"
