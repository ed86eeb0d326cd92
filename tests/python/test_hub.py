"""hf:// names: which file is chosen, and huggingface_hub against a server that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hf_folders import tiny_config, tiny_weights, write_model as write_folder
from hub_server import Repos, commit, hub_server
from lora_edge import hub
from lora_edge.convert import convert_model
from tiny_gguf import tiny_adapter, tiny_model
from tiny_models import fresh_rng

try:
    import huggingface_hub
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    huggingface_hub = None  # type: ignore[assignment]

needs_library = pytest.mark.skipif(huggingface_hub is None, reason="needs the extra `hub` (huggingface_hub)")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("hf://a/b", ("a/b", "main", "")),
        ("hf://a/b.c-d:Q8_0", ("a/b.c-d", "main", "Q8_0")),
        ("hf://a/b@v1.0", ("a/b", "v1.0", "")),
        ("hf://a/b@refs/pr/1:sub/x.gguf", ("a/b", "refs/pr/1", "sub/x.gguf")),
        ("hf://a", None),
        ("hf://a/b/c.gguf", None),
        ("hf://a/b:", None),
        ("hf://../b c", None),
    ],
)
def test_names(name: str, found: tuple[str, str, str] | None) -> None:
    if found:
        assert hub.parse(name) == found
        return
    with pytest.raises(ValueError, match="is not hf://owner/name"):
        hub.parse(name)


MANY = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-f16.gguf", "mmproj-m-Q8_0.gguf", "README.md"]
FOLDER = ["README.md", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json",
          "model.safetensors.index.json", "tokenizer.json", "pytorch_model.bin", "onnx/config.json",
          "flax_model.msgpack"]  # fmt: skip
ENCODER = ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "onnx/model.onnx"]
LORA = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md"]


@pytest.mark.parametrize(
    ("choice", "files", "chosen"),
    [
        ("", ["x.gguf", "README.md"], ["x.gguf"]),
        ("", MANY, ["m-Q8_0.gguf"]),
        ("q4_k_m", MANY, ["m-Q4_K_M.gguf"]),
        ("f16", MANY, ["m-f16.gguf"]),
        ("mmproj-m-Q8_0.gguf", MANY, ["mmproj-m-Q8_0.gguf"]),
        ("Q8_0", MANY, "more than one .* fits 'Q8_0'.*hf://o/r:m-Q8_0.gguf.*: m-Q8_0.gguf, mmproj-m-Q8_0.gguf$"),
        ("Q5_0", MANY, "none .* fits 'Q5_0'.*m-Q4_K_M.gguf, m-Q8_0.gguf"),
        ("", ["a-f16.gguf", "b-f32.gguf"], r"none of .*\(none or several are q8_0\).*: a-f16.gguf, b-f32.gguf$"),
        ("", ["a-q8_0-00001-of-00002.gguf"], "part of a split GGUF"),
        ("", LORA, LORA[:2]),
        ("", [LORA[0], LORA[2]], [LORA[0], LORA[2]]),
        ("", FOLDER, ["config.json", *(f for f in FOLDER[1:6] if f != "config.json")]),
        ("", ENCODER, ["config.json", ENCODER[0], *ENCODER[2:4]]),
        ("config.json", FOLDER, "no GGUF file; leave it out"),
        ("", ["README.md", "pytorch_model.bin"], "holds no GGUF file.*README.md"),
        ("", [], "it is empty"),
    ],
)
def test_what_is_chosen(choice: str, files: list[str], chosen: list[str] | str) -> None:
    name = hub.Name("o/r", "main", choice)
    if isinstance(chosen, list):
        assert hub.choose(name, files) == chosen
        return
    with pytest.raises(ValueError, match=chosen):
        hub.choose(name, files)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"lora_edge\[hub\]"):
        hub.local("hf://owner/name")


ASK = """
import json, sys
import lora_edge
from lora_edge import hub
for name in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"path": str(hub.local(name))}))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
"""


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1",
            "LORA_EDGE_CACHE": str(home / "converted"), **more}  # fmt: skip


def ask(env: dict[str, str], *names: str) -> list[dict[str, str]]:
    run = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(names)], env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def command(env: dict[str, str], *argv: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "lora_edge", *argv], env=env, capture_output=True, text=True, timeout=120
    )


def repositories(folder: Path) -> Repos:
    rng = fresh_rng()
    config = tiny_config("LlamaForCausalLM")
    write_folder(folder / "tiny", config, tiny_weights(config, rng))
    files = {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()}
    model, other = tiny_model(seed=1).raw, tiny_model(seed=2).raw
    return {
        "owner/one": {"main": {"README.md": b"text", "one.gguf": model}, "v2": {"one.gguf": other}},
        "owner/many": {"main": {"m-f32.gguf": model, "m-f16.gguf": other}},
        "owner/tiny": {"main": {**files, "README.md": b"text", "pytorch_model.bin": b"x" * 100}},
        "owner/lora": {"main": {"lora.gguf": tiny_adapter().raw}},
    }


@pytest.mark.slow
@needs_library
def test_downloads_cache_and_offline_mode(tmp_path: Path) -> None:
    repos, home = repositories(tmp_path), tmp_path / "home"
    names = ["hf://owner/one", "hf://owner/one@v2:one.gguf", "hf://owner/many:F16", "hf://owner/tiny", "hf://owner/many",
             "hf://owner/absent", "hf://owner/one@v9"]  # fmt: skip
    with hub_server(repos) as (endpoint, asked):
        one, v2, many, tiny, *errors = ask(environment(endpoint, home), *names)
        assert Path(one["path"]).read_bytes() == repos["owner/one"]["main"]["one.gguf"]
        assert Path(v2["path"]).read_bytes() == repos["owner/one"]["v2"]["one.gguf"]
        assert Path(many["path"]).name == "m-f16.gguf"
        assert sorted(os.listdir(tiny["path"])) == ["config.json", "model.safetensors"]
        assert Path(one["path"]).parent.name == commit("owner/one", "main") and str(home) in one["path"]
        for found, says in zip(errors, (["m-f32.gguf, m-f16.gguf"], ["owner/absent", "HF_TOKEN"], ["revision 'v9'"])):
            assert all(word in found["error"] for word in says), found
        assert not any("README" in path or "pytorch" in path for path in asked if "resolve" in path)
        downloads = [path for path in asked if path.startswith("GET") and "resolve" in path]
        again = ask(environment(endpoint, home), *names[:4])
        assert [a["path"] for a in again] == [x["path"] for x in (one, v2, many, tiny)]
        assert [path for path in asked if path.startswith("GET") and "resolve" in path] == downloads
    for env in (environment(endpoint, home, HF_HUB_OFFLINE="1"), environment(endpoint, home)):  # the server has gone
        *found, uncached = ask(env, *names[:4], "hf://owner/lora")
        assert found == again
        assert "not in the cache" in uncached["error"] and "owner/lora" in uncached["error"]
        if "HF_HUB_OFFLINE" in env:
            assert command(env, "generate", "-hf", "owner/one", "-p", "a", "-n", "2", "--ids").returncode == 0


@pytest.mark.slow
@needs_library
def test_every_verb_takes_names(tmp_path: Path) -> None:
    repos, home = repositories(tmp_path), tmp_path / "home"
    base = convert_model(tmp_path / "tiny", tmp_path / "base.gguf", type="f32")
    with hub_server(repos) as (endpoint, _):
        env = environment(endpoint, home)
        ids = command(env, "generate", "-hf", "owner/one", "--lora", "hf://owner/lora", "-p", "a", "-n", "3", "--ids")
        assert ids.returncode == 0 and len(ids.stdout.split()) <= 3, ids.stderr
        out = tmp_path / "out.gguf"
        assert command(env, "convert", "hf://owner/tiny", "-o", str(out), "--type", "f32").returncode == 0
        assert b"tiny" in out.read_bytes() and len(out.read_bytes()) >= base.stat().st_size - 64
        merged = command(
            env, "merge", "hf://owner/one", "--lora", "hf://owner/lora:0.5", "-o", str(tmp_path / "merged.gguf")
        )
        assert merged.returncode == 0 and "blk.0.attn_q.weight" in merged.stdout, merged.stderr
        same = command(
            env, "verify", "hf://owner/one", "--lora", "hf://owner/lora:0.5", "--merged", "--against",
            str(tmp_path / "merged.gguf"),
        )  # fmt: skip
        assert same.returncode == 0, same.stdout + same.stderr
        both = command(env, "generate", "-hf", "owner/one", "-m", "x.gguf", "-p", "a")
        assert both.returncode == 1 and "-m and -hf" in both.stderr
        script = (
            "import lora_edge; m = lora_edge.load('hf://owner/tiny'); print(m.config.name);"
            "m = lora_edge.load('hf://owner/one'); m.load_adapter('hf://owner/lora'); print(list(m.adapters));"
            "print(len(lora_edge.generate('a', model='hf://owner/one', adapter='hf://owner/lora', max_tokens=2)) >= 0)"
        )
        run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
        assert run.stdout.splitlines() == ["tiny", "['lora']", "True"], run.stderr
