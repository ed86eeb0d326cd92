"""Hugging Face folder -> GGUF -> folder -> GGUF for every architecture, and what export refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hf_architectures import CONFIGS, D, F, config_of, tensors_of
from hf_folders import write_model
from lora_edge.architectures import TABLE
from lora_edge.convert import convert_model, export_model
from lora_edge.gguf_file import open_gguf
from lora_edge.quant import dequantize_q8_0, to_f32
from lora_edge.safetensors_file import SafetensorsFile
from lora_edge.tokenizer import Tokenizer
from tiny_models import fresh_rng
from tokenizers import Tokenizer as HfTokenizer


def tensors_in(folder: Path) -> dict[str, np.ndarray]:
    return {name: file.array(name) for path in sorted(folder.glob("*.safetensors"))
            for file in [SafetensorsFile(path)] for name in file}  # fmt: skip


@pytest.mark.parametrize(("dtype", "type"), [("float32", "f32"), ("float16", "f16"), ("bf16", "bf16")])
@pytest.mark.parametrize("cls", CONFIGS)
def test_there_and_back(tmp_path: Path, cls: str, dtype: str, type: str) -> None:
    """The same weights under the same names, and from them the same file, to the bit."""
    source = tensors_of(cls, fresh_rng(), dtype)
    file = convert_model(write_model(tmp_path / "model", config_of(cls), source), tmp_path / "a.gguf", type=type)
    back = export_model(file, tmp_path / "back", max_shard=30_000)
    assert len(list(back.glob("model-*-of-*.safetensors"))) > 1
    made = tensors_in(back)
    if json.loads((back / "config.json").read_text())["tie_word_embeddings"]:
        assert "lm_head.weight" not in made
    assert made.keys() == source.keys()
    for name, x in source.items():
        if cls.startswith("Gemma") and "norm" in name:  # 1 + w has been rounded
            np.testing.assert_allclose(to_f32(made[name]), to_f32(x), atol=4e-7, err_msg=name)
        else:
            assert made[name].dtype == x.dtype and np.array_equal(made[name], x), name
    again = convert_model(back, tmp_path / "b.gguf", type=type, name="model")
    assert gguf_values(again) == gguf_values(file)
    if not cls.startswith("Gemma"):
        assert again.read_bytes() == file.read_bytes()


def gguf_values(path: Path) -> dict[str, Any]:
    """Metadata, and names, shapes and types of the tensors."""
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    return {**fields, **{t.name: (t.shape.tolist(), t.tensor_type.name) for t in reader.tensors}}


@pytest.mark.parametrize("cls", CONFIGS)
def test_names_are_those_of_gguf_py(tmp_path: Path, cls: str) -> None:
    """Our table against the tensor map of llama.cpp's own package."""
    source = tensors_of(cls, fresh_rng())
    file = open_gguf(convert_model(write_model(tmp_path, config_of(cls), source), tmp_path / "a.gguf", type="f32"))
    arch = next(row.gguf for row in TABLE if row.hf_class == cls)
    keys = {name: value for name, value in gguf.MODEL_ARCH_NAMES.items() if value == arch}
    names = gguf.get_tensor_name_map(next(iter(keys)), 4)
    wanted = set()
    for name in source:
        if "_layernorm.norms." in name:  # llama.cpp's converter stacks these itself
            name = name[: name.index(".norms.")] + ".weight"
        wanted.add(names.get_name(name, try_suffixes=(".weight", ".bias")))
    extra = {name for name in file.tensors if name.startswith("rope_f")}
    assert wanted == set(file.tensors) - extra
    groups = (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
    known = {getattr(group, key) for group in groups for key in vars(group) if not key.startswith("_")}
    mine = {key.replace(f"{arch}.", "{arch}.", 1) for key in file.metadata if key.startswith(f"{arch}.")}
    assert mine <= known


def test_quantised_weights_are_dequantised(tmp_path: Path) -> None:
    source = tensors_of("Qwen2ForCausalLM", fresh_rng())
    folder = write_model(tmp_path / "m", config_of("Qwen2ForCausalLM"), source)
    file = convert_model(folder, tmp_path / "a.gguf", type="q8_0")
    stored = open_gguf(file).tensors["blk.1.ffn_up.weight"]
    made = tensors_in(export_model(file, tmp_path / "f32", type="f32"))["model.layers.1.mlp.up_proj.weight"]
    assert stored.dtype == np.uint8 and made.dtype == np.float32
    assert np.array_equal(made, dequantize_q8_0(stored))
    half = tensors_in(export_model(file, tmp_path / "f16"))["model.layers.1.mlp.up_proj.weight"]
    assert half.dtype == np.float16 and np.array_equal(half, made.astype(np.float16))


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q6_K", "IQ4_NL"])
def test_other_types_are_dequantised_as_gguf_py_does(tmp_path: Path, kind: str) -> None:
    rng, type = fresh_rng(), gguf.GGMLQuantizationType[kind]
    source = tensors_of("Olmo2ForCausalLM", rng)
    wider = {D: 256, 32: 128}
    tensors = {name: np.ones([wider.get(n, n) for n in x.shape], np.float32) for name, x in source.items()}
    folder = write_model(tmp_path / "m", config_of("Olmo2ForCausalLM", hidden_size=256), tensors)
    plain = convert_model(folder, tmp_path / "a.gguf", type="f32")
    reader, writer = gguf.GGUFReader(plain), gguf.GGUFWriter(tmp_path / "q.gguf", "olmo2")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0])
    block, n_bytes = gguf.GGML_QUANT_SIZES[type]
    data = rng.integers(0, 64, (40, 256 // block * n_bytes), dtype=np.uint8)  # small bytes: no scale is infinite
    for t in reader.tensors:
        if t.name == "blk.0.ffn_up.weight":
            writer.add_tensor(t.name, data, raw_dtype=type)
        else:
            writer.add_tensor(t.name, np.array(t.data))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    made = tensors_in(export_model(tmp_path / "q.gguf", tmp_path / "back"))
    assert np.array_equal(made["model.layers.0.mlp.up_proj.weight"], gguf.dequantize(data, type))


TEXTS = ["", " a", 'Once upon a time, 12345 little cats.\n\n  They said: "Héllo, wörld!"', "a  b   c\t\td 日本語 🙂"]


@needs_shared
@pytest.mark.parametrize("source", ["models/TinyStories-656K", "models/stories260K-hf"])
def test_real_models_there_and_back(tmp_path: Path, source: str) -> None:
    """Weights, tokenizer and file are the same; so the text is."""
    file = convert_model(SHARED / source, tmp_path / "a.gguf", type="f32")
    back = export_model(file, tmp_path / "back")
    made, wanted = tensors_in(back), tensors_in(SHARED / source)
    wanted.setdefault("model.embed_tokens.weight", wanted.pop("lm_head.weight", np.zeros(0)))  # tied, under one name
    assert made.keys() == wanted.keys() and all(np.array_equal(made[n], to_f32(wanted[n])) for n in made)
    name = (SHARED / source).name
    assert convert_model(back, tmp_path / "b.gguf", type="f32", name=name).read_bytes() == file.read_bytes()
    same_tokenizers(SHARED / source, back)


@needs_shared
def test_a_real_tokenizer_there_and_back(tmp_path: Path) -> None:
    folder = SHARED / "tokenizers" / "smollm-135m-instruct"
    n_vocab = max(HfTokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().values()) + 3
    config = {**config_of("Qwen2ForCausalLM", vocab_size=n_vocab, tie_word_embeddings=True), "hidden_size": 2,
              "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 2}  # fmt: skip
    sizes = {D: 2, F: 2, 32: 2, 50: n_vocab}
    tensors = {
        name: np.zeros([sizes[n] for n in x.shape], np.float16)
        for name, x in tensors_of("Qwen2ForCausalLM", fresh_rng()).items() if name != "lm_head.weight"
    }  # fmt: skip
    model = write_model(tmp_path / "m", config, tensors)
    for path in folder.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    file = convert_model(model, tmp_path / "a.gguf")
    back = export_model(file, tmp_path / "back")
    same_tokenizers(folder, back)
    assert convert_model(back, tmp_path / "b.gguf", name="m").read_bytes() == file.read_bytes()


def same_tokenizers(source: Path, back: Path) -> None:
    first, second = (HfTokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source, back))
    for text in TEXTS:
        ids = first.encode(text).ids
        assert second.encode(text).ids == ids
        if first.token_to_id("<unk>") in ids:
            continue  # what it decodes to depends on more than its text
        assert second.decode(ids, skip_special_tokens=False) == first.decode(ids, skip_special_tokens=False)
    made, wanted = second.get_vocab(), first.get_vocab()
    assert made == wanted


def test_generation_defaults_come_along(tmp_path: Path) -> None:
    from test_convert_vocab import spm_json

    folder = write_model(tmp_path / "m", config_of("Qwen3ForCausalLM", vocab_size=265), {
        name: np.zeros([265 if n == 50 else n for n in x.shape], np.float32)
        for name, x in tensors_of("Qwen3ForCausalLM", fresh_rng()).items()})  # fmt: skip
    generation = {
        "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.05,
        "bos_token_id": 1, "eos_token_id": [2, 263, 262], "pad_token_id": 0,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(spm_json()))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    file = convert_model(folder, tmp_path / "a.gguf")
    meta = open_gguf(file).metadata
    assert meta["general.sampling.top_k"] == 20 and abs(meta["general.sampling.temp"] - 0.7) < 1e-6
    back = export_model(file, tmp_path / "back")
    assert json.loads((back / "generation_config.json").read_text()) == generation
    assert json.loads((back / "config.json").read_text())["eos_token_id"] == [2, 263, 262]
    assert Tokenizer.from_metadata(meta).stop_ids == {2, 262, 263}


def test_what_export_refuses(tmp_path: Path) -> None:
    config = config_of("LlamaForCausalLM")
    folder = write_model(tmp_path / "m", config, tensors_of("LlamaForCausalLM", fresh_rng()))
    file = convert_model(folder, tmp_path / "a.gguf", type="f32")

    def refused(error: type[Exception], message: str, path: Path = file, **options: Any) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(error, match=message):
            export_model(path, tmp_path / "out", **options)
        assert sorted(tmp_path.rglob("*")) == before

    def changed(values: dict[str, Any], drop: str = "", extra: str = "", arch: str = "llama") -> Path:
        reader, writer = gguf.GGUFReader(file), gguf.GGUFWriter(tmp_path / "bad.gguf", arch)
        fields = {key: (f.contents(), f.types[0]) for key, f in reader.fields.items() if not key.startswith("GGUF.")}
        fields |= {key: (value, gguf.GGUFValueType.get_type(value)) for key, value in values.items()}
        for key, (value, kind) in fields.items():
            if key != "general.architecture":
                writer.add_key_value(key, value, kind)
        for t in reader.tensors:
            if t.name != drop:
                writer.add_tensor(t.name, np.array(t.data))
        if extra:
            writer.add_tensor(extra, np.zeros(64, np.float32))
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        return tmp_path / "bad.gguf"

    refused(ValueError, "q8_0", type="q8_0")
    refused(ValueError, r"blk\.0\.attn_sinks.*no place", changed({}, extra="blk.0.attn_sinks.weight"))
    refused(ValueError, r"blk\.1\.ffn_up\.weight' is missing", changed({}, drop="blk.1.ffn_up.weight"))
    refused(ValueError, "'mamba' is not supported", changed({}, arch="mamba"))
    refused(ValueError, "expert_count", changed({"llama.expert_count": 8}))
    refused(ValueError, r"rope\.scaling\.type.*yarn", changed({"llama.rope.scaling.type": "yarn"}))
    refused(ValueError, "feed_forward_length", changed({"llama.feed_forward_length": 0}))
    refused(ValueError, "block_count", changed({"llama.block_count": 1 << 30}))
    refused(ValueError, r"blk\.0\..* has the shape", changed({"llama.feed_forward_length": 41}))
    refused(ValueError, "adapter", changed({"general.type": "adapter"}))
    refused(ValueError, r"tokenizer\.ggml\.model", changed({"tokenizer.ggml.model": "t5"}))
    (tmp_path / "out").mkdir()
    export_model(file, tmp_path / "out")
    refused(FileExistsError, "out' is there already")


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", config_of("LlamaForCausalLM"), tensors_of("LlamaForCausalLM", fresh_rng()))
    file = convert_model(folder, tmp_path / "a.gguf")

    def interrupt(done: int, total: int, name: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(file, tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "m"]
