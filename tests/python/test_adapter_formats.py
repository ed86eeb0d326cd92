"""Adapters from each format to each: round trips to the bit, the sums that each format stands for, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from adapter_folders import mlx_tensors, write_mlx, write_torch
from conftest import SHARED, needs_shared
from hf_folders import Tensors, hf_module, peft_tensors, random_array, tiny_base, tiny_config, write_peft
from lora_edge.adapter_file import AdapterFile, BaseInfo, read_adapter
from lora_edge.cli.main import main
from lora_edge.convert import convert_adapter
from lora_edge.quant import dequantize_q8_0, quantize_q8_0, to_f32
from lora_edge.safetensors_file import SafetensorsFile
from test_adapter_files import delta, fresh_rng, write_base_config

BASE = tiny_base()
ALL = dict.fromkeys(BASE.shapes, 4)
LINEARS = {name: 4 for name in BASE.shapes if name.startswith("blk.")}
Q = "blk.0.attn_q.weight"


def base_folder(tmp_path: Path) -> Path:
    return write_base_config(tmp_path / "base") if not (tmp_path / "base").exists() else tmp_path / "base"


def tensors_of(folder: Path) -> Tensors:
    file = SafetensorsFile(next(folder.glob("*.safetensors")))
    return {name: file.array(name) for name in file}


def same(one: AdapterFile, other: AdapterFile, *, bound: float = 0.0) -> None:
    """Equal factors to the bit, or, with a bound, products that are that near relative to the largest."""
    assert one.entries.keys() == other.entries.keys()
    assert one.wholes.keys() == other.wholes.keys() and one.invocation == other.invocation
    for tensor, x in one.entries.items():
        y = other.entries[tensor]
        if bound:
            wanted = delta(tensor, x)
            assert np.abs(delta(tensor, y) - wanted).max() <= bound * np.abs(wanted).max(), tensor
        else:
            assert (x.a.dtype, x.b.dtype) == (y.a.dtype, y.b.dtype)
            assert np.array_equal(x.a, y.a) and np.array_equal(x.b, y.b), tensor
            assert x.scale == y.scale
        for u, v in ((x.magnitude, y.magnitude), (x.bias, y.bias)):
            assert (u is None) == (v is None) and (u is None or v is None or np.array_equal(u, v))
    for tensor, whole in one.wholes.items():
        assert np.array_equal(whole.weight, other.wholes[tensor].weight)


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bf16"])
def test_peft_to_gguf_and_back(tmp_path: Path, arch: str, dtype: str) -> None:
    base = write_base(tmp_path, arch)
    tensors = peft_tensors(tiny_base(arch), fresh_rng(), ALL, dtype)
    folder = write_peft(tmp_path / "peft", tensors, lora_alpha=12)
    kind = {"float32": "f32", "float16": "f16", "bf16": "bf16"}[dtype]
    file = convert_adapter(folder, base, tmp_path / "a.gguf", type=kind)
    again = convert_adapter(file, base, tmp_path / "again", type=None)
    made = tensors_of(again)
    assert made.keys() == tensors.keys()
    assert all(np.array_equal(made[name], x) and made[name].dtype == x.dtype for name, x in tensors.items())
    fields = json.loads((again / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"], fields["peft_type"]) == (4, 12, "LORA")
    names = ["down_proj", "embed_tokens", "gate_proj", "k_proj", "lm_head", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert fields["target_modules"] == names
    same(read_adapter(folder, arch, tiny_base(arch)), read_adapter(again, arch, tiny_base(arch)))


def write_base(tmp_path: Path, arch: str) -> Path:
    folder = write_base_config(tmp_path / "base")
    if arch != "llama":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2ForCausalLM"]}))
    return folder


SCALES: list[dict[str, Any]] = [
    {"use_rslora": True},
    {"rank_pattern": {"down_proj": 3}, "use_rslora": True},
    {"alpha_pattern": {"down_proj": 5, "layers.0.self_attn.q_proj": 2.5}},
    {"rank_pattern": {"down_proj": 3}, "alpha_pattern": {"down_proj": 7}},
]


@pytest.mark.parametrize("config", SCALES)
@pytest.mark.parametrize("through", ["gguf", "mlx", "peft"])
def test_scales_survive(tmp_path: Path, config: dict[str, Any], through: str) -> None:
    """rsLoRA and patterns through each format and back to PEFT: the same products."""
    base, ranks = base_folder(tmp_path), dict(LINEARS)
    if "rank_pattern" in config:
        ranks |= {name: 3 for name in ranks if "ffn_down" in name}
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, fresh_rng(), ranks), **config)
    middle = convert_adapter(folder, base, tmp_path / ("a.gguf" if through == "gguf" else "middle"), to=through)
    back = convert_adapter(middle, base, tmp_path / "back", to="peft")
    source = read_adapter(folder, "llama", BASE)
    for path in (middle, back):
        same(source, read_adapter(path, "llama", BASE), bound=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bf16"])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("through", ["gguf", "peft"])
def test_mlx_and_back(tmp_path: Path, dtype: str, dora: bool, through: str) -> None:
    base = base_folder(tmp_path)
    ranks = LINEARS | {} if dora else ALL
    tensors = mlx_tensors(BASE, fresh_rng(), ranks, dtype, dora)
    folder = write_mlx(tmp_path / "mlx", tensors, fine_tune_type="dora" if dora else "lora")
    kind = {"float32": "f32", "float16": "f16", "bf16": "bf16"}[dtype]
    out = tmp_path / ("a.gguf" if through == "gguf" else "middle")
    middle = convert_adapter(folder, base, out, type=kind if through == "gguf" else None, to=through)
    back = convert_adapter(middle, base, tmp_path / "back", to="mlx", type=None)
    made = tensors_of(back)
    assert made.keys() == tensors.keys()
    assert all(np.array_equal(made[name], x) and made[name].dtype == x.dtype for name, x in tensors.items())
    fields = json.loads((back / "adapter_config.json").read_text())
    assert fields["lora_parameters"]["scale"] == 20.0 and fields["lora_parameters"]["rank"] == 4
    assert fields["num_layers"] == 2 and fields["fine_tune_type"] == ("dora" if dora else "lora")


@pytest.mark.parametrize("tied", [False, True])
def test_mlx_sums(tmp_path: Path, tied: bool) -> None:
    """mlx-lm's own forward formulas on random inputs, module by module."""
    rng, base = fresh_rng(), tiny_base(tied=tied)
    ranks = dict.fromkeys(base.shapes, 4)
    tensors = mlx_tensors(base, rng, ranks)
    adapter = read_adapter(write_mlx(tmp_path, tensors, scale=3.5), "qwen2", base)
    assert adapter.entries.keys() == base.shapes.keys() | {"output.weight"}
    for tensor in base.shapes:
        module = hf_module(tensor.removesuffix(".weight"))
        a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
        entry = adapter.entries[tensor]
        if tensor == "token_embd.weight":
            ids = rng.integers(0, 50, 7)
            assert np.allclose(entry.scale * entry.a[ids] @ entry.b.T, 3.5 * (a[ids] @ b), atol=1e-4)
            if tied:
                x, head = random_array(rng, (5, 24)), adapter.entries["output.weight"]
                assert np.allclose(head.scale * (x @ head.a.T) @ head.b.T, 3.5 * ((x @ b.T) @ a.T), atol=1e-4)
            continue
        x = random_array(rng, (5, a.shape[0]))
        assert np.allclose(entry.scale * (x @ entry.a.T) @ entry.b.T, 3.5 * ((x @ a) @ b), atol=1e-3)


def test_everything_of_peft_survives_gguf(tmp_path: Path) -> None:
    rng, base = fresh_rng(), base_folder(tmp_path)
    tensors = peft_tensors(BASE, rng, {name: 4 for name in LINEARS if "ffn_down" not in name})
    for name in [n for n in tensors if n.endswith("lora_B.weight")]:
        tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = random_array(rng, tensors[name].shape[:1])
    for module, shape in (("lm_head", (50, 24)), ("model.layers.1.mlp.down_proj", (24, 40))):
        tensors[f"base_model.model.{module}.weight"] = random_array(rng, shape)
    config = {"use_dora": True, "modules_to_save": ["lm_head", "layers.1.mlp.down_proj"]}
    folder = write_peft(tmp_path / "peft", tensors, **config)
    file = convert_adapter(folder, base, tmp_path / "a.gguf")
    again = convert_adapter(file, base, tmp_path / "again", type=None)
    made = tensors_of(again)
    assert made.keys() == tensors.keys() and all(np.array_equal(made[name], x) for name, x in tensors.items())
    same(read_adapter(folder, "llama", BASE), read_adapter(again, "llama", BASE))
    with pytest.raises(ValueError, match=r"output\.weight\) can't be said"):
        convert_adapter(folder, base, tmp_path / "mlx", to="mlx")
    assert not (tmp_path / "mlx").exists()


def test_biases_and_invocation_survive_gguf(tmp_path: Path) -> None:
    rng, base = fresh_rng(), base_folder(tmp_path)
    tensors = peft_tensors(BASE, rng, LINEARS)
    for name in [n for n in tensors if n.endswith("lora_B.weight")]:
        tensors[name.replace(".weight", ".bias")] = random_array(rng, tensors[name].shape[:1])
    config = {"lora_bias": True, "alora_invocation_tokens": [7, 1, 49]}
    folder = write_peft(tmp_path / "peft", tensors, **config)
    file = convert_adapter(folder, base, tmp_path / "a.gguf")
    field = gguf.GGUFReader(file).fields["adapter.alora.invocation_tokens"]
    assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32] and field.contents() == [7, 1, 49]
    again = convert_adapter(file, base, tmp_path / "again", type=None)
    fields = json.loads((again / "adapter_config.json").read_text())
    assert fields["lora_bias"] is True and fields["alora_invocation_tokens"] == [7, 1, 49]
    made = tensors_of(again)
    assert made.keys() == tensors.keys() and all(np.array_equal(made[name], x) for name, x in tensors.items())
    for what, change in (("bias", {"alora_invocation_tokens": None}), ("aLoRA", {})):
        write_peft(tmp_path / "peft", tensors, **{**config, **change})
        with pytest.raises(ValueError, match=what):
            convert_adapter(folder, base, tmp_path / "mlx", to="mlx")


@pytest.mark.parametrize("rank", [4, 32])
def test_q8_0(tmp_path: Path, rank: int) -> None:
    """Rows of A in Q8_0; of B where the rank is a multiple of 32, else in f16."""
    rng = fresh_rng()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(tiny_config("LlamaForCausalLM")))
    info = BaseInfo("llama", 4, 2, 8, {"blk.0.attn_v.weight": (16, 64), "blk.0.ffn_down.weight": (64, 40)})
    tensors = peft_tensors(info, rng, dict.fromkeys(info.shapes, rank))
    folder = write_peft(tmp_path / "peft", tensors, r=rank)
    file = convert_adapter(folder, tmp_path / "base", tmp_path / "a.gguf", type="q8_0")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(file).tensors}
    b_type = "Q8_0" if rank == 32 else "F16"
    assert kinds == {
        "blk.0.attn_v.weight.lora_a": "Q8_0", "blk.0.attn_v.weight.lora_b": b_type,
        "blk.0.ffn_down.weight.lora_a": "F16", "blk.0.ffn_down.weight.lora_b": b_type,
    }  # fmt: skip
    source, made = read_adapter(folder, "llama", info), read_adapter(file, "llama", info)
    entry, wanted = made.entries["blk.0.attn_v.weight"], source.entries["blk.0.attn_v.weight"]
    assert np.array_equal(entry.a, dequantize_q8_0(quantize_q8_0(wanted.a)))
    if rank == 4:
        assert np.array_equal(entry.b, wanted.b.astype(np.float16))
    same(source, made, bound=0.02)


MLX_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "fully tuned": ({"fine_tune_type": "full"}, "fine_tune_type 'full'"),
    "no parameters": ({"lora_parameters": None}, "no lora_parameters"),
    "an alpha": ({"lora_parameters": {"rank": 4, "alpha": 16, "scale": 10.0}}, "alpha = 16"),
    "a scale that is none": ({"lora_parameters": {"rank": 4, "scale": "10"}}, "not finite numbers"),
    "an infinite scale": ({"lora_parameters": {"rank": 4, "scale": math.inf}}, "not finite numbers"),
    "layers that are not adapted": ({"num_layers": 1}, r"layers\.0.* only layers from 1 on"),
    "layers that are none": ({"num_layers": "2"}, "num_layers = '2'"),
    "DoRA without magnitudes": ({"fine_tune_type": "dora"}, "lora_a, lora_b and m are read"),
}


@pytest.mark.parametrize("case", MLX_BAD)
def test_mlx_settings(tmp_path: Path, case: str) -> None:
    config, message = MLX_BAD[case]
    folder = write_mlx(tmp_path, mlx_tensors(BASE, fresh_rng(), LINEARS), **config)
    with pytest.raises(ValueError, match=message):
        read_adapter(folder, "llama", BASE)


def test_mlx_tensors_that_do_not_belong(tmp_path: Path) -> None:
    good = mlx_tensors(BASE, fresh_rng(), {Q: 4})
    name = "model.layers.0.self_attn.q_proj"
    bad: list[tuple[Tensors, str]] = [
        (good | {f"{name}.weight": np.ones((2, 2), np.float32)}, "not supported"),
        (good | {f"{name}.m": np.ones(32, np.float32)}, "lora_a, lora_b, m where"),
        ({k: v for k, v in good.items() if k.endswith("a")}, "lora_a where"),
        ({k.replace("q_proj", "z_proj"): v for k, v in good.items()}, "z_proj"),
        ({k: v.T for k, v in good.items()}, "common rank|another base"),
        ({k: v.reshape(-1) if k.endswith("b") else v for k, v in good.items()}, "not of matrices"),
        ({k: v.astype(np.int32) for k, v in good.items()}, "type I32"),
        ({k.replace("layers.0", "layers.9"): v for k, v in good.items()}, "another base"),
    ]
    for i, (tensors, message) in enumerate(bad):
        (tmp_path / str(i)).mkdir()
        with pytest.raises(ValueError, match=message):
            read_adapter(write_mlx(tmp_path / str(i), tensors), "llama", BASE)


def test_trained_rows_of_tied_and_other_embeddings_need_the_weights(tmp_path: Path) -> None:
    rng = fresh_rng()
    tensors = peft_tensors(BASE, rng, {Q: 4})
    rows = random_array(rng, (2, 24))
    tensors["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = rows
    folder = write_peft(tmp_path / "peft", tensors, trainable_token_indices=[7, 3])
    adapter = read_adapter(folder, "llama", BASE)
    assert adapter.token_rows["token_embd.weight"].ids == [7, 3]
    with pytest.raises(ValueError, match=r"trained rows of token_embd\.weight, and the base's own are not at hand"):
        convert_adapter(folder, base_folder(tmp_path), tmp_path / "a.gguf")
    again = convert_adapter(folder, tmp_path / "base", tmp_path / "again", to="peft", type=None)
    assert np.array_equal(tensors_of(again)[next(n for n in tensors if "tokens_delta" in n)], rows)
    for ids in ([7], [7, 7], [7, 50], {"lm_head": [7, 3]}):
        write_peft(tmp_path / "peft", tensors, trainable_token_indices=ids)
        with pytest.raises(ValueError, match="trainable_token_indices"):
            read_adapter(folder, "llama", BASE)


def test_refusals_write_nothing(tmp_path: Path) -> None:
    base = base_folder(tmp_path)
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, fresh_rng(), LINEARS))
    file = convert_adapter(folder, base, tmp_path / "a.gguf")
    before = sorted(tmp_path.rglob("*"))
    for source, out, options, message in (
        (file, tmp_path / "b.gguf", {}, "a GGUF adapter already"),
        (folder, tmp_path / "peft", {"to": "mlx"}, "is there already"),
        (folder, tmp_path / "new", {"to": "onnx"}, "'onnx' is not a format"),
        (folder, tmp_path / "new", {"to": "peft", "type": "q8_0"}, "type 'q8_0' is not one of"),
        (folder, tmp_path / "peft", {"to": "gguf"}, "not a regular file"),
    ):
        with pytest.raises((ValueError, FileExistsError), match=message):
            convert_adapter(source, base, out, **options)  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_goes_by_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(base_folder(tmp_path))
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, fresh_rng(), LINEARS))
    write_torch(folder / "adapter_model.bin", tensors_of(folder))
    (folder / "adapter_model.safetensors").unlink()
    steps = [("peft", "mlx", ["--to", "mlx"]), ("mlx", "a.gguf", []), ("a.gguf", "again", []),
             ("again", "b.gguf", ["--type", "f32"])]  # fmt: skip
    for source, out, flags in steps:
        assert main(["convert", str(tmp_path / source), "-o", str(tmp_path / out), "--base", base, *flags]) == 0
        assert "wrote" in capsys.readouterr().out
    same(read_adapter(folder, "llama", BASE), read_adapter(tmp_path / "b.gguf", "llama", BASE), bound=2e-3)
    assert main(["convert", base, "-o", str(tmp_path / "c.gguf"), "--to", "mlx"]) != 0
    assert "--to has no meaning" in capsys.readouterr().err


def qwen_half_billion(tmp_path: Path) -> tuple[Path, BaseInfo]:
    """The configuration of Qwen2.5-0.5B, all that the real MLX adapter needs of its base."""
    config = {
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    }  # fmt: skip
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    shapes = {f"blk.{i}.attn_{x}.weight": (896 if x == "q" else 128, 896) for i in range(24) for x in "qv"}
    return tmp_path / "base", BaseInfo("qwen2", 14, 2, 64, shapes)


@needs_shared
def test_the_real_mlx_adapter(tmp_path: Path) -> None:
    base, info = qwen_half_billion(tmp_path)
    source = SHARED / "adapters" / "qwen2.5-0.5b-mlx-dpo-2iters"
    adapter = read_adapter(source, "qwen2", info)
    assert sorted(adapter.entries) == [f"blk.{i}.attn_{x}.weight" for i in (22, 23) for x in "qv"]
    for through in ("a.gguf", "peft"):
        middle = convert_adapter(source, base, tmp_path / through, type="f32")
        same(adapter, read_adapter(middle, "qwen2", info))
        back = convert_adapter(middle, base, tmp_path / f"{through} and back", to="mlx", type=None)
        wanted, made = tensors_of(source), tensors_of(back)
        assert wanted.keys() == made.keys() and all(np.array_equal(made[n], x) for n, x in wanted.items())
        fields = json.loads((back / "adapter_config.json").read_text())
        assert fields["num_layers"] == 2 and fields["lora_parameters"]["scale"] == 20.0


@needs_shared
@pytest.mark.parametrize("name", ["smollm135m-medflash-100ep", "smollm135m-medflash-100ep-ckpt500"])
def test_the_real_peft_adapters(tmp_path: Path, name: str) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    source = SHARED / "adapters" / name
    wanted = tensors_of(source)
    for through in ("a.gguf", "mlx"):
        to = "mlx" if through == "mlx" else None
        middle = convert_adapter(source, tmp_path / "base", tmp_path / through, type="f32", to=to)
        back = convert_adapter(middle, tmp_path / "base", tmp_path / f"{through} and back", to="peft", type=None)
        made = tensors_of(back)
        assert wanted.keys() == made.keys() and all(np.array_equal(made[n], to_f32(x)) for n, x in wanted.items())
        fields, old = (json.loads((f / "adapter_config.json").read_text()) for f in (back, source))
        assert (fields["r"], fields["lora_alpha"], fields["base_model_name_or_path"]) == (
            old["r"], old["lora_alpha"], back_name(through, old))  # fmt: skip


def back_name(through: str, fields: dict[str, Any]) -> str:
    """GGUF adapters don't name their base: then it is called as its folder is."""
    return "base" if through == "a.gguf" else str(fields["base_model_name_or_path"])


def test_info_describes_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, base = fresh_rng(), base_folder(tmp_path)
    tensors = peft_tensors(BASE, rng, {Q: 4})
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    magnitude = {f"{name}.lora_magnitude_vector": np.ones(32, np.float32)}
    folder = write_peft(tmp_path / "peft", tensors | magnitude, use_dora=True)
    write_torch(folder / "adapter_model.bin", tensors | magnitude)
    (folder / "adapter_model.safetensors").unlink()
    file = convert_adapter(folder, base, tmp_path / "a.gguf")
    call = write_peft(tmp_path / "call", tensors, alora_invocation_tokens=[1, 2])
    mlx = convert_adapter(folder, base, tmp_path / "mlx", to="mlx")
    for path, words in (
        (folder, ["PEFT adapter (LORA)", "q_proj ×1", "rank", "4", "DoRA ×1"]),
        (file, ["lora adapter", "attn_q ×1", "DoRA ×1"]),
        (mlx, ["MLX adapter (dora)", "q_proj ×1", "scale", "2.0", "DoRA ×1"]),
        (call, ["by 2 invocation tokens (aLoRA)"]),
        (convert_adapter(call, base, tmp_path / "call.gguf"), ["by 2 invocation tokens (aLoRA)"]),
    ):
        assert main(["info", str(path)]) == 0
        said = capsys.readouterr().out
        assert all(word in said for word in words), said
