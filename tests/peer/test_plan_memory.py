"""`lora_edge.plan` against the peak of resident memory of processes that do what was planned."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lora_edge
import pytest
from lora_edge.convert import convert_model
from peer_models import fresh_rng
from test_encoders_hf import save_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from make_model import Shape, make_base

SHAPES = {
    "deep": Shape("llama", "smollm", 12, 384, 6, 2, 1024, 2048, 1e4, 8192, False),
    "wide": Shape("qwen2", "qwen2", 2, 256, 4, 2, 512, 151_936, 1e6, 1024, True),  # Qwen2.5's vocabulary
}
TOLERANCE = 0.15
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    for name, shape in SHAPES.items():
        make_base(shape, folder / f"{name}.gguf", "q8_0", 0)
    return {name: folder / f"{name}.gguf" for name in SHAPES}


def measured(kind: str, base: Path, words: dict[str, Any]) -> int:
    probe = [sys.executable, str(Path(__file__).with_name("memory_probe.py")), kind, str(base), json.dumps(words)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    made = subprocess.run(probe, capture_output=True, text=True, check=False, env=environment)
    assert made.returncode == 0, made.stderr
    return int(made.stdout.split()[-1])


BATCH = {"batch_size": 4, "max_length": 256}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deep", {"rank": 8, **BATCH}),
        ("deep", {"rank": 8, **BATCH, "checkpointing": True}),
        ("deep", {"rank": 64, **BATCH}),
        ("deep", {"rank": 64, **BATCH, "checkpointing": True}),
        ("deep", {"rank": 8, **BATCH, "accumulate": 4, "optimizer": "sgd", "targets": ["q_proj", "v_proj"]}),
        ("deep", {"method": "dora", "rank": 8, "batch_size": 2, "max_length": 256}),
        ("deep", {"method": "full", "batch_size": 2, "max_length": 128}),
        ("deep", {"method": "full", "batch_size": 2, "max_length": 128, "optimizer": "adamw_8bit"}),
        ("deep", {"rank": 8, "batch_size": 1, "max_length": 2048}),
        ("wide", {"rank": 8, "batch_size": 1, "max_length": 512}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_training(name: str, words: dict[str, Any], bases: dict[str, Path]) -> None:
    planned, found = lora_edge.plan(bases[name], threads=1, **words), measured("train", bases[name], words)
    print(f"planned {planned.peak / 1e6:.0f} MB, measured {found / 1e6:.0f} MB")
    assert planned.peak == pytest.approx(found, rel=TOLERANCE), planned.parts


@pytest.mark.parametrize(
    "words",
    [
        {"rank": 8, "batch_size": 8, "max_length": 192},
        {"method": "full", "batch_size": 8, "max_length": 192},
        {"rank": 8, "batch_size": 8, "max_length": 192, "checkpointing": True},
    ],
    ids=lambda words: ",".join(f"{k}={v}" for k, v in words.items()),
)
def test_training_of_an_encoder(words: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "num_hidden_layers": 8}
    save_model(tmp_path / "base", "Bert", "Model", fresh_rng(), **sizes)
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="q8_0")
    planned, found = lora_edge.plan(base, threads=1, **words), measured("label", base, words)
    print(f"planned {planned.peak / 1e6:.0f} MB, measured {found / 1e6:.0f} MB")
    assert planned.peak == pytest.approx(found, rel=TOLERANCE), planned.parts


@pytest.mark.parametrize("kv_type", ["f32", "q8_0"])
def test_inference_with_a_long_context(kv_type: str, bases: dict[str, Path]) -> None:
    words = {"n_ctx": 4096, "kv_type": kv_type}
    planned, found = lora_edge.plan(bases["deep"], threads=1, **words), measured("infer", bases["deep"], words)
    print(f"planned {planned.peak / 1e6:.0f} MB, measured {found / 1e6:.0f} MB")
    assert planned.peak == pytest.approx(found, rel=TOLERANCE), planned.parts


def test_a_run_that_cannot_fit_is_refused_before_any_work(bases: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "qx zj " * 2000}) + "\n")
    words = ["--data", str(tmp_path), "-o", str(tmp_path / "out"), "--memory-limit", "700M", "--max-length", "2048"]
    program = [sys.executable, "-m", "lora_edge", "train", "-m", str(bases["deep"]), *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)  # of its own: its memory counts
    assert done.returncode == 1
    assert re.search(r"(?s)training \(lora\) .*but there are 700 MB \(--memory-limit\).*would fit: --", done.stderr)
    assert not (tmp_path / "out").exists()
