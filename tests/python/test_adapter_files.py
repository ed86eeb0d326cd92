"""Reading adapters: layouts, exact scales, refusals by name, and files that lie."""

from __future__ import annotations

import json
import math
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE, SHARED, needs_shared
from hf_folders import Tensors, interleave, peft_tensors, random_array, tiny_base, write_peft
from lora_edge.adapter_file import BaseInfo, LoraEntry, read_adapter
from lora_edge.base_copy import check_base_copies
from lora_edge.convert import convert_adapter
from lora_edge.peft_config import PeftConfig
from lora_edge.quant import f32_to_bf16, quantize_q8_0, to_f32
from tiny_models import fresh_rng

BASE = tiny_base()
ALL = dict.fromkeys(BASE.shapes, 4)
SOME = {"blk.0.attn_q.weight": 4, "blk.1.attn_k.weight": 4, "blk.1.ffn_down.weight": 4}


def delta(tensor: str, entry: LoraEntry) -> np.ndarray:
    """The dense change of a weight, as if merged, float64 [n, k]."""
    a, b = to_f32(entry.a).astype(np.float64), to_f32(entry.b).astype(np.float64)
    return entry.scale * (a @ b.T if tensor == "token_embd.weight" else b @ a)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bf16"])
@pytest.mark.parametrize("infix", ["", ".default"])
def test_peft_folder(tmp_path: Path, arch: str, dtype: str, infix: str) -> None:
    base = tiny_base(arch)
    tensors = peft_tensors(base, fresh_rng(), ALL, dtype, infix)
    adapter = read_adapter(write_peft(tmp_path / "my-adapter", tensors), arch, base)
    assert (adapter.name, adapter.kind) == ("my-adapter", "peft")
    assert adapter.entries.keys() == base.shapes.keys()
    by_module = list(tensors.values())
    for i, (tensor, entry) in enumerate(adapter.entries.items()):
        a, b = by_module[2 * i], by_module[2 * i + 1]
        assert entry.bf16 == (dtype == "bf16")
        assert entry.a.flags.c_contiguous and entry.b.flags.c_contiguous
        assert entry.scale == 2.0
        if tensor == "token_embd.weight":
            assert np.array_equal(entry.a, a.T) and np.array_equal(entry.b, b)
            continue
        if arch == "llama" and tensor.endswith("attn_q.weight"):
            b = interleave(b, 4)
        elif arch == "llama" and tensor.endswith("attn_k.weight"):
            b = interleave(b, 2)
        assert np.array_equal(entry.a, a) and np.array_equal(entry.b, b)


def test_tied_base_takes_an_output_adapter(tmp_path: Path) -> None:
    tensors = peft_tensors(BASE, fresh_rng(), {"output.weight": 4})
    adapter = read_adapter(write_peft(tmp_path, tensors), "llama", tiny_base(tied=True))
    assert list(adapter.entries) == ["output.weight"]


@pytest.mark.parametrize(
    ("config", "ranks", "scales"),
    [
        ({}, [4, 4, 4], [2, 2, 2]),
        ({"lora_alpha": 7}, [4, 4, 4], [7 / 4] * 3),
        ({"lora_alpha": 2.5, "use_rslora": True}, [4, 4, 4], [1.25] * 3),
        ({"r": 3, "use_rslora": True}, [3, 3, 3], [8 / math.sqrt(3)] * 3),
        ({"rank_pattern": {"q_proj": 2}}, [2, 4, 4], [4, 2, 2]),
        ({"rank_pattern": {"q_proj": 2}, "use_rslora": True}, [2, 4, 4], [8 / math.sqrt(2), 4, 4]),
        ({"alpha_pattern": {"k_proj": 3, r"model\.layers\.1\..*": 5}}, [4, 4, 4], [2, 0.75, 1.25]),
        ({"alpha_pattern": {"layers.1.self_attn.k_proj": 3, "_proj": 5}}, [4, 4, 4], [2, 0.75, 2]),
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 1}}, [4, 4, 4], [0.25, 2, 2]),
        ({"alpha_pattern": {"q_pro": 1, "q_projx": 1, "(q|k)_proj": 6}}, [4, 4, 4], [1.5, 1.5, 2]),
        ({"fan_in_fan_out": True}, [4, 4, 4], [2, 2, 2]),
        ({"lora_alpha": -8}, [4, 4, 4], [-2, -2, -2]),
        ({"lora_alpha": 0}, [4, 4, 4], [0, 0, 0]),
    ],
)
def test_scales(tmp_path: Path, config: dict[str, Any], ranks: list[int], scales: list[float]) -> None:
    tensors = peft_tensors(BASE, fresh_rng(), dict(zip(SOME, ranks, strict=True)))
    adapter = read_adapter(write_peft(tmp_path, tensors, **config), "llama", BASE)
    assert [entry.scale for entry in adapter.entries.values()] == scales


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True), ("lora_bias", True), ("bias", "all"), ("bias", "lora_only"), ("bias", None),
        ("modules_to_save", ["lm_head"]), ("trainable_token_indices", [1]),
        ("modules_to_save", "lm_head"), ("trainable_token_indices", {"embed_tokens": 1}),
        ("alora_invocation_tokens", "x"), ("alora_invocation_tokens", [-1]),
        ("layer_replication", [[0, 2]]), ("megatron_config", {"a": 1}), ("target_parameters", ["x"]),
        ("use_qalora", True), ("ensure_weight_tying", True), ("arrow_config", {"top_k": 2}),
        ("use_bdlora", {"a": 1}),
        ("kasa_config", {"beta": 1}), ("monteclora_config", {"a": 1}), ("peft_type", "LOHA"),
        ("peft_type", None),
        ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"), ("brand_new_thing", 1), ("use_rslora", "yes"), ("fan_in_fan_out", 3),
        ("r", 0), ("r", 4.0), ("r", True), ("lora_alpha", "8"), ("lora_alpha", None), ("rank_pattern", [1]),
        ("rank_pattern", {"q_proj": 0}), ("alpha_pattern", {"q_proj": None}), ("alpha_pattern", {"(": 1}),
        ("alpha_pattern", {"(a+)+b": 1}), ("alpha_pattern", {".*.*.*.*.*x": 1}), ("lora_alpha", 1e39),
        ("lora_alpha", math.nan), ("alpha_pattern", {"q_proj": -math.inf}),
    ],
)  # fmt: skip
def test_what_would_not_be_exact_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    folder = write_peft(tmp_path, peft_tensors(BASE, fresh_rng(), SOME), **{field: value})
    with pytest.raises(ValueError, match=field):
        read_adapter(folder, "llama", BASE)


def test_harmless_fields_are_accepted(tmp_path: Path) -> None:
    harmless = {
        "init_lora_weights": "gaussian", "lora_dropout": 0.1, "target_modules": "all-linear",
        "revision": "main",
        "layers_to_transform": [0], "exclude_modules": ["x"], "use_dora": False, "brand_new_thing": None,
        "auto_mapping": {"a": "b"}, "eva_config": {"rho": 2.0}, "inference_mode": True, "megatron_core": "m",
    }  # fmt: skip
    read_adapter(write_peft(tmp_path, peft_tensors(BASE, fresh_rng(), SOME), **harmless), "llama", BASE)


def q_tensors() -> Tensors:
    return peft_tensors(BASE, fresh_rng(), {"blk.0.attn_q.weight": 4})


def renamed(old: str, new: str) -> Tensors:
    return {name.replace(old, new): x for name, x in q_tensors().items()}


Q = "base_model.model.model.layers.0.self_attn.q_proj"
BAD_TENSORS: dict[str, tuple[Callable[[], Tensors], str]] = {
    "A without B": (lambda: {k: v for k, v in q_tensors().items() if "lora_A" in k}, "no lora_B"),
    "B without A": (lambda: {k: v for k, v in q_tensors().items() if "lora_B" in k}, "no lora_A"),
    "DoRA's magnitude": (lambda: q_tensors() | {f"{Q}.lora_magnitude_vector": np.ones(32, np.float32)},
        "magnitude"),
    "a bias": (lambda: q_tensors() | {f"{Q}.lora_B.bias": np.ones(32, np.float32)}, "has a bias, but lora_bias"),
    "a saved module": (lambda: q_tensors() | {"base_model.model.score.weight": np.ones((2, 2),
        np.float32)}, "score"),
    "a norm": (lambda: q_tensors() | {"base_model.model.model.norm.weight": np.ones(24, np.float32)}, "norm"),
    "another module": (lambda: renamed("q_proj", "x_proj"), "x_proj"),
    "no prefix": (lambda: renamed("base_model.model.", ""), "not supported"),
    "a module of another layer": (lambda: renamed("layers.0", "layers.7"), r"another base.*blk\.7\.attn_q"),
    "a norm's adapter": (lambda: renamed("self_attn.q_proj", "input_layernorm"), "another base"),
    "integers": (lambda: {k: v.astype(np.int32) for k, v in q_tensors().items()}, "type I32"),
    "two adapters": (lambda: renamed(".weight", "") and {
        k.replace("lora_A.w", "lora_A.one.w").replace("lora_B.w", "lora_B.two.w"): v for k,
            v in q_tensors().items()
    }, "more than one adapter"),
    "other ranks": (lambda: {k: v[:3] if "lora_A" in k else v for k, v in q_tensors().items()},
        "common rank"),
    "a rank that the config denies": (lambda: peft_tensors(BASE, fresh_rng(), {"blk.0.attn_q.weight": 5}),
        "rank 5"),
    "no matrices": (lambda: {k: v.reshape(-1) for k, v in q_tensors().items()}, "common rank"),
    "nothing": (dict, "no LoRA tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_do_not_belong(tmp_path: Path, case: str) -> None:
    make, message = BAD_TENSORS[case]
    with pytest.raises(ValueError, match=message):
        read_adapter(write_peft(tmp_path, make()), "llama", BASE)


def test_another_base_is_named_with_both_shapes(tmp_path: Path) -> None:
    folder = write_peft(tmp_path, peft_tensors(BASE, fresh_rng(), SOME))
    shapes = {name: (n + 2, k) if "attn_k" in name else (n, k) for name, (n, k) in BASE.shapes.items()}
    with pytest.raises(ValueError, match=r"blk\.1\.attn_k\.weight is \(16, 24\) in the adapter and \(18, 24\)"):
        read_adapter(folder, "llama", BaseInfo("llama", 4, 2, 8, shapes))


def test_copies_of_the_base_are_checked(tmp_path: Path) -> None:
    rng = fresh_rng()
    base_matrix = random_array(rng, (50, 64))
    shapes = {**BASE.shapes, "token_embd.weight": (50, 64)}
    base = BaseInfo("llama", 4, 2, 8, shapes)
    tensors = peft_tensors(base, rng, {"token_embd.weight": 4})
    stored = {
        "float32": base_matrix, "float16": base_matrix.astype(np.float16), "bf16": f32_to_bf16(base_matrix),
        "q8_0": quantize_q8_0(base_matrix),
    }  # fmt: skip
    other = base_matrix.copy()
    other[49, 3] += 0.2
    for copy in (base_matrix, stored["float16"], stored["bf16"]):
        tensors["base_model.model.model.embed_tokens.base_layer.weight"] = copy
        adapter = read_adapter(write_peft(tmp_path, tensors), "llama", base)
        assert list(adapter.entries) == list(adapter.base_copies) == ["token_embd.weight"]
        for kind in stored.values():
            check_base_copies(adapter, {"token_embd.weight": kind}.get)
        for kind in (other, quantize_q8_0(other)):
            with pytest.raises(ValueError, match=r"carries its own token_embd\.weight"):
                check_base_copies(adapter, {"token_embd.weight": kind}.get)
    tensors["base_model.model.model.embed_tokens.base_layer.weight"] = random_array(rng, (52, 64))
    with pytest.raises(ValueError, match=r"token_embd\.weight is \(52, 64\)"):
        read_adapter(write_peft(tmp_path, tensors), "llama", base)


def test_missing_files_are_oserrors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_adapter(tmp_path / "nowhere", "llama", BASE)
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        read_adapter(tmp_path, "llama", BASE)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(FileNotFoundError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        read_adapter(tmp_path, "llama", BASE)


def write_base_config(folder: Path) -> Path:
    """A model folder without weights: all that the conversion of an adapter needs."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(
    ("config", "rank"),
    [({}, 4), ({"use_rslora": True}, 4), ({"rank_pattern": {"down_proj": 3}, "use_rslora": True}, 3),
     ({"alpha_pattern": {"down_proj": 5}}, 4)],
)  # fmt: skip
def test_gguf_adapter_equals_its_peft_source(tmp_path: Path, type: str, config: dict[str, Any], rank: int) -> None:
    ranks = {name: rank if "ffn_down" in name else 4 for name in BASE.shapes}
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, fresh_rng(), ranks), **config)
    seen: list[tuple[int, int, str]] = []
    out = convert_adapter(
        folder,
        write_base_config(tmp_path / "base"),
        tmp_path / "a.gguf",
        type=type,
        progress=lambda *x: seen.append(x),
    )
    assert seen[-1][0] == seen[-1][1] and len(seen) == 2 * len(ranks)
    source, made = read_adapter(folder, "llama", BASE), read_adapter(out, "llama", BASE)
    assert (made.name, made.kind) == ("a", "gguf")
    assert made.entries.keys() == source.entries.keys()
    for tensor, entry in made.entries.items():
        assert entry.bf16 == (type == "bf16")
        wanted = delta(tensor, source.entries[tensor])
        bound = {"f32": 1e-6, "f16": 2e-3, "bf16": 2e-2}[type] * np.abs(wanted).max()
        assert np.abs(delta(tensor, entry) - wanted).max() <= bound
    if type == "f32" and not config:
        assert all(np.array_equal(made.entries[t].b, source.entries[t].b) for t in ranks)
    with pytest.raises(ValueError, match=r"made for architecture .llama., the base is .qwen2."):
        read_adapter(out, "qwen2", tiny_base("qwen2"))
    with pytest.raises(ValueError, match=r"another base.*\(32, 24\)"):
        read_adapter(out, "llama", BaseInfo("llama", 4, 2, 8, {**BASE.shapes, "blk.0.attn_q.weight": (8, 8)}))


def test_a_base_file_is_no_adapter_and_a_scale_of_zero_no_gguf(tmp_path: Path) -> None:
    base = write_base_config(tmp_path / "base")
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, fresh_rng(), SOME), lora_alpha=0)
    with pytest.raises(ValueError, match="every scale is 0"):
        convert_adapter(folder, base, tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """One of: bytes changed (mostly in the header), the end cut off, a piece doubled or taken out."""
    data = bytearray(raw)
    kind = rng.integers(5)
    if kind <= 2:
        reach = len(data) if kind == 0 else min(len(data), 1500)
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(reach))] = (
                int(rng.integers(256)) if kind == 1 else int(rng.choice(list(b'0129[]{}",:a')))
            )
    elif kind == 3:
        del data[int(rng.integers(len(data))) :]
    else:
        at, n = int(rng.integers(len(data))), int(rng.integers(1, 40))
        data[at : at + n] = data[at : at + n] * int(rng.integers(0, 3))
    return bytes(data)


def check_survives(path: Path, label: str) -> bool:
    """Reading gives an adapter or a clean exception, quickly and in little memory."""
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.iterdir())
    tracemalloc.start()
    start = time.monotonic()
    try:
        adapter = read_adapter(path, "llama", BASE)
    except (ValueError, OSError) as error:
        assert str(error), label
        return False
    else:
        assert adapter.entries and all(math.isfinite(e.scale) for e in adapter.entries.values()), label
        assert all(delta(t, e).shape == BASE.shape(t) for t, e in adapter.entries.items()), label
        return True
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - start < 2 * PATIENCE, label
        assert peak <= 10 * size + (64 << 20), label


def test_mutated_files(tmp_path: Path) -> None:
    rng = fresh_rng()
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, rng, ALL), rank_pattern={"x": 2}, use_rslora=True)
    gguf_file = convert_adapter(folder, write_base_config(tmp_path / "base"), tmp_path / "a.gguf")
    targets = [folder / "adapter_model.safetensors", folder / "adapter_config.json", gguf_file]
    read = 0
    with np.errstate(all="ignore"):
        for i in range(300):
            target = targets[i % 3]
            original = target.read_bytes()
            target.write_bytes(mutate(original, rng))
            read += check_survives(target if target is gguf_file else folder, f"mutation {i} of {target.name}")
            target.write_bytes(original)
    assert 0 < read < 300


def test_patterns_that_people_write(tmp_path: Path) -> None:
    modules = [f"model.layers.{i}.self_attn.q_proj" for i in range(32)]
    fields = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    tables: list[dict[str, int]] = [
        {f"layers.{i}.*": i + 1 for i in range(32)},
        {f"model.layers.{i}.self_attn.q_proj": i + 1 for i in range(32)},
        {r"layers\.(" + "|".join(map(str, range(20))) + r")\.self_attn\.q_proj": 3},
        {".*layers.*self_attn.*q_proj.*": 5},
        {r"model\.layers\.[0-9]+\.(?!mlp)\w+\.[qv]_proj": 7},
    ]
    for table in tables:
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps({**fields, "rank_pattern": table}))
        config = PeftConfig(path)
        for module in modules:
            found = [r for pattern, r in table.items() if re.match(rf"(.*\.)?({pattern})$", module)]
            assert config.rank(module) == (found[0] if found else 8)


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(a?){30}b", ".*.*.*.*.*.*.*x", "a?" * 30 + "b"])
def test_patterns_that_never_end(tmp_path: Path, pattern: str) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "alpha_pattern": {pattern: 2}}))
    with pytest.raises(ValueError, match=r"alpha_pattern: the pattern .* could take very long to match"):
        PeftConfig(path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_of_the_folder_names_the_folder(tmp_path: Path, name: str) -> None:
    folder = write_peft(tmp_path / "peft", peft_tensors(BASE, fresh_rng(), ALL))
    with pytest.raises(ValueError, match=f"is one file of a PEFT adapter: give its folder, '{folder}'"):
        read_adapter(folder / name, "llama", BASE)


@needs_shared
def test_a_trained_adapter_is_read_in_milliseconds() -> None:
    shapes = {f"blk.{i}.attn_{x}.weight": (576 if x == "q" else 192, 576) for i in range(30) for x in "qv"}
    base = BaseInfo("llama", 9, 3, 64, shapes)
    path = SHARED / "adapters" / "smollm135m-medflash-100ep"
    times = []
    for _ in range(5):
        start = time.perf_counter()
        adapter = read_adapter(path, "llama", base)
        times.append(time.perf_counter() - start)
    assert adapter.entries.keys() == shapes.keys()
    assert {entry.scale for entry in adapter.entries.values()} == {2.0}
    assert min(times) < 0.1 * PATIENCE  # 4 ms on a development machine
