"""Model folders that lie, or end early: one clear error each, and nothing written.  What interrupts a conversion leaves
no half file; its memory is bounded by the largest tensor."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE
from hf_architectures import config_of, tensors_of
from hf_folders import Tensors, write_model, write_safetensors
from lora_edge.convert import convert_model, export_model

CLS = "LlamaForCausalLM"


def tensors() -> Tensors:
    return tensors_of(CLS, np.random.default_rng(0))


def refused(tmp_path: Path, message: str, error: type[Exception] = ValueError) -> None:
    """Within seconds, and with nothing left beside the folder."""
    before, start = sorted(tmp_path.rglob("*")), time.process_time()
    with pytest.raises(error, match=message) as caught:
        convert_model(tmp_path / "m", tmp_path / "out.gguf")
    assert len(str(caught.value)) < 500
    assert sorted(tmp_path.rglob("*")) == before
    assert time.process_time() - start < 2 * PATIENCE


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    change(header)
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + n :])


NAME = "model.layers.0.mlp.up_proj.weight"
HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "offsets behind the end": (lambda h: h[NAME].update(data_offsets=[0, 1 << 50]), r"data_offsets"),
    "negative offsets": (lambda h: h[NAME].update(data_offsets=[-8, 8]), r"data_offsets"),
    "a shape that overflows": (lambda h: h[NAME].update(shape=[1 << 40, 1 << 40]), r"does not fill"),
    "a negative shape": (lambda h: h[NAME].update(shape=[-1, 64]), r"impossible shape"),
    "a shape of text": (lambda h: h[NAME].update(shape="64"), r"impossible shape"),
    "two tensors on the same bytes": (
        lambda h: h[NAME].update(h["model.layers.1.mlp.up_proj.weight"]),
        r"starts at byte",
    ),
    "an unknown type": (lambda h: h[NAME].update(dtype="F8_E4M3"), r"F8_E4M3"),
    "a hole": (lambda h: h.pop(NAME), r"starts at byte"),
    "transposed": (lambda h: h[NAME].update(shape=h[NAME]["shape"][::-1]), r"up_proj.*shape"),
    "integers": (lambda h: h[NAME].update(dtype="I32"), r"up_proj.*I32"),
    "no object": (lambda h: h.update({NAME: 3}), r"is not described"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_lying_headers(tmp_path: Path, case: str) -> None:
    change, message = HEADERS[case]
    folder = write_model(tmp_path / "m", config_of(CLS), tensors())
    rewrite_header(folder / "model.safetensors", change)
    refused(tmp_path, message)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 1 << 62}, "hidden_size"),
    ({"hidden_size": 10**400}, "hidden_size"),
    ({"num_hidden_layers": 1 << 30}, "num_hidden_layers.*more than"),
    ({"vocab_size": 1 << 40}, "vocab_size.*more than"),
    ({"vocab_size": 1 << 20}, "embed_tokens"),
    ({"intermediate_size": 1 << 30}, "_proj"),
    ({"num_attention_heads": 1 << 30}, "head_dim|num_|_proj"),
    ({"max_position_embeddings": -5}, "max_position_embeddings"),
    ({"num_key_value_heads": 0}, "num_key_value_heads"),
    ({"head_dim": 1 << 30}, "head_dim.*more than"),
    ({"rms_norm_eps": 1e999}, "rms_norm_eps"),
    ({"rope_theta": "1e4"}, "rope_theta"),
    ({"rope_scaling": [1]}, "rope_scaling"),
    ({"rope_scaling": {"rope_type": {"a": 1}}}, "rope_type"),
    ({"architectures": [["LlamaForCausalLM"]]}, "not supported"),
    ({"architectures": {"a": 1}}, "architectures"),
    ({"hidden_act": ["silu"]}, "hidden_act"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ({"per_layer_config": {"3": {"num_attention_heads": 2}}}, "per_layer_config.*not supported"),
    ({"use_qk_clip": True}, "use_qk_clip.*not supported"),
    ({"logit_bias_scale": 0.5}, "logit_bias_scale.*not supported"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"x" * 100_000: 1}, "xxx"),
]


@pytest.mark.parametrize(("fields", "message"), CONFIGS, ids=[next(iter(c))[:20] for c, _ in CONFIGS])
def test_absurd_configurations(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_model(tmp_path / "m", config_of(CLS, **fields), tensors())
    refused(tmp_path, message)


PER_CLASS: list[tuple[str, dict[str, Any], str]] = [
    ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
    ("SmolLM3ForCausalLM", {"use_sliding_window": True}, "use_sliding_window"),
    ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 224}, "query_pre_attn_scalar"),
    ("Gemma2ForCausalLM", {"hidden_activation": "gelu"}, "hidden_activation"),
    ("Gemma2ForCausalLM", {"layer_types": ["full_attention"] + ["sliding_attention"] * 3}, "layer_types"),
    ("Gemma2ForCausalLM", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("Gemma3ForCausalLM", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("Gemma3ForCausalLM", {"architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma3ForConditionalGeneration"),
    ("Phi3ForCausalLM", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
     "long_factor"),
    ("Phi3ForCausalLM", {"head_dim": 32}, "head_dim"),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("GPT2LMHeadModel", {"activation_function": "relu"}, "activation_function"),
    ("Olmo2ForCausalLM", {"attention_bias": True}, "attention_bias"),
    ("GraniteForCausalLM", {"residual_multiplier": 0.0}, "residual_multiplier"),
    ("StableLmForCausalLM", {"partial_rotary_factor": 0.2}, "partial_rotary_factor"),
    ("Qwen2ForCausalLM", {"layer_types": ["linear_attention"] * 4}, "layer_types"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "fields", "message"), PER_CLASS)
def test_what_an_architecture_cannot_say(tmp_path: Path, cls: str, fields: dict[str, Any], message: str) -> None:
    write_model(tmp_path / "m", config_of(cls, **fields), tensors_of(cls, np.random.default_rng(0)))
    refused(tmp_path, message)


def sharded(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    folder, all_tensors = write_model(tmp_path / "m", config_of(CLS), {}), tensors()
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(all_tensors)}
    for file in ("part-0.safetensors", "part-1.safetensors"):
        write_safetensors(folder / file, {n: x for n, x in all_tensors.items() if weight_map[n] == file})
    return folder, weight_map


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_damaged_shards(tmp_path: Path) -> None:
    folder, weight_map = sharded(tmp_path)
    write_index(folder, weight_map)
    convert_model(folder, tmp_path / "good.gguf")

    for name in ("../part-0.safetensors", "/etc/passwd", "sub/part-0.safetensors", "..", ".", "", "a\\..\\b", "a\0b"):
        write_index(folder, {**weight_map, "extra": name})
        refused(tmp_path, "outside of its folder|no such|No such|null|part-|a", (ValueError, OSError))  # type: ignore[arg-type]
    (tmp_path / "secret.safetensors").write_bytes((folder / "part-0.safetensors").read_bytes())
    write_index(folder, {n: "../secret.safetensors" if f.startswith("part-0") else f for n, f in weight_map.items()})
    refused(tmp_path, "names files outside of its folder")

    write_index(folder, weight_map)
    part = (folder / "part-1.safetensors").read_bytes()
    (folder / "part-1.safetensors").write_bytes((folder / "part-0.safetensors").read_bytes())
    refused(tmp_path, "is in more than one file")
    (folder / "part-1.safetensors").write_bytes(part[: len(part) // 2])
    refused(tmp_path, r"part-1\.safetensors")
    (folder / "part-1.safetensors").unlink()
    refused(tmp_path, r"part-1\.safetensors", FileNotFoundError)


def test_a_name_twice_in_a_header(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", config_of(CLS), tensors())
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    raw = data[8 : 8 + n]
    raw = raw[:1] + raw[1 : raw.index(b"}, ") + 3] + raw[1:]
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + n :])
    refused(tmp_path, "occurs twice")


CONVERT = """
import os, sys
from lora_edge.convert import convert_model
folder, out, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = 0
def progress(done, total, name):
    global seen
    seen += 1
    if seen == stop:
        os.kill(os.getpid(), int(sys.argv[4]))
convert_model(folder, out, type="f32", progress=progress)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_conversion_leaves_no_half_file(tmp_path: Path, number: int) -> None:
    folder = write_model(tmp_path / "m", config_of(CLS), tensors())
    (tmp_path / "old.gguf").write_bytes(b"old")
    for stop in (1, 7, 38):
        for out in ("new.gguf", "old.gguf"):
            args = [sys.executable, "-c", CONVERT, folder, tmp_path / out, str(stop), str(int(number))]
            assert subprocess.run(args, check=False, timeout=60 * PATIENCE).returncode == -number
    assert not (tmp_path / "new.gguf").exists() and (tmp_path / "old.gguf").read_bytes() == b"old"


def test_the_command_cleans_up_when_terminated(tmp_path: Path) -> None:
    config = config_of(CLS, vocab_size=200_000)
    source = {n: np.zeros([200_000 if k == 50 else k for k in x.shape], np.float16) for n, x in tensors().items()}
    folder = write_model(tmp_path / "m", config, source)
    args = [sys.executable, "-m", "lora_edge", "convert", str(folder), "-o", str(tmp_path / "out.gguf")]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".out.gguf.*")) and process.poll() is None:
        time.sleep(0.002)
    process.terminate()
    process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


MEASURE = """
import sys
from lora_edge.convert import convert_model
convert_model(sys.argv[1], sys.argv[2], type=sys.argv[3])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory(folder: Path, out: Path, type: str) -> int:
    """Bytes resident at most while a process of its own converts."""
    args = [sys.executable, "-c", MEASURE, folder, out, type]
    return 1024 * int(subprocess.run(args, check=True, capture_output=True, timeout=600 * PATIENCE).stdout)


@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path, type: str) -> None:
    """Five tensors of 64 MiB in the folder: were they all in memory, the bound would not hold."""
    names, largest = {50: 65536, 40: 65536, 64: 256}, 64 << 20
    config = config_of(
        CLS, hidden_size=256, vocab_size=65536, intermediate_size=65536, num_hidden_layers=1, num_attention_heads=16
    )
    source = {
        name: np.full([names.get(n, n) for n in x.shape], 0.5, np.float32)
        for name, x in tensors().items()
        if ".layers." not in name or ".layers.0." in name
    }
    folder = write_model(tmp_path / "m", {**config, "head_dim": 16}, source)
    del source
    assert (folder / "model.safetensors").stat().st_size > 5 * largest
    assert peak_memory(folder, tmp_path / "out.gguf", type) <= 1.5 * largest + 200e6


def test_export_gives_no_way_out_of_its_folder(tmp_path: Path) -> None:
    """A link at the target is not followed into an existing folder."""
    folder = write_model(tmp_path / "m", config_of(CLS), tensors())
    file = convert_model(folder, tmp_path / "a.gguf")
    (tmp_path / "link").symlink_to("m")
    with pytest.raises(FileExistsError, match="link"):
        export_model(file, tmp_path / "link")
