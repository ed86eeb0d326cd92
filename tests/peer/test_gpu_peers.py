"""What `make gpu` times beside lora_edge, on a CPU: that it runs, and that what can't is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lora_edge.convert.random_adapter import write_random_adapter
from lora_edge.model import Model

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "cuda"))
from on_gpu import beside  # noqa: E402
from peers import Peer, peers  # noqa: E402


@pytest.mark.parametrize("shape", ["tiny"])
def test_peers(tmp_path: Path, shape: str) -> None:
    base, adapter = tmp_path / "base.gguf", tmp_path / "one.gguf"
    subprocess.run([sys.executable, str(ROOT / "tools/make_model.py"), "base", shape, str(base)], check=True)
    write_random_adapter(base, adapter, rank=4, seed=1)
    with Model(base, threads=1) as model:
        model.load_adapter(adapter, name="one")
        lines, others = [], []
        for peer in peers(model, adapter, 4, "cpu"):
            if isinstance(peer, Peer):
                assert peer.name == "torch bf16 + PEFT"
            else:
                others.append(peer)
            lines += beside(model, "one", peer, "t", 9, 3, 2)
    assert others == ["llama.cpp: not measured, RuntimeError: this build of llama-cpp-python has no CUDA"]
    assert [line.split("|")[2].strip() for line in lines] == [
        "pp9, r 16: torch bf16 + PEFT / ours", "tg3, r 16: torch bf16 + PEFT / ours", "beside others",
    ]  # fmt: skip
    assert all(float(line.split("|")[3].split()[0]) > 0 for line in lines[:2])
