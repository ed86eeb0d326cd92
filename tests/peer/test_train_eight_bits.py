"""Optimiser states in 8 bits: bitsandbytes' steps in pieces, what is learned with them, and what they take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.optim import AdamW8bit as Whole
from lora_edge.train import Plan, eight_bits as module, lean, train
from lora_edge.train.checkpoint import checkpoints, load_checkpoint
from lora_edge.train.eight_bits import AdamW8bit
from train_runs import LENGTH, metrics, result_bytes, text_folder, tiny_base

WORDS: dict[str, Any] = {"batch_size": 4, "max_length": LENGTH, "threads": 1, "plan": Plan(log_every=1)}


def state_bytes(state: Any, seen: set[int]) -> int:
    """Of the tensors in a checkpoint's optimiser, each memory once."""
    if isinstance(state, torch.Tensor):
        new = state.untyped_storage().data_ptr() not in seen
        seen.add(state.untyped_storage().data_ptr())
        return state.untyped_storage().nbytes() if new else 0
    if isinstance(state, dict):
        return sum(state_bytes(x, seen) for x in state.values())
    return sum(state_bytes(x, seen) for x in state) if isinstance(state, (list, tuple)) else 0


def test_pieces_step_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 256 * 64)
    shapes = [(300, 77), (256, 304), (8, 16), (64, 64)]
    ours = [torch.randn(shape).requires_grad_(True) for shape in shapes]
    theirs = [x.detach().clone().requires_grad_(True) for x in ours]
    still = ours[1].detach().clone()
    words = {"lr": 1e-2, "weight_decay": 0.0}
    pieces = AdamW8bit([{"params": ours[:1], "weight_decay": 0.1}, {"params": ours[1:], "lr": 5e-3}], **words)
    whole = Whole([{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "lr": 5e-3}], **words)
    for step in range(6):
        for group in (*pieces.param_groups, *whole.param_groups):
            group["lr"] *= 0.9
        for x, y in zip(ours, theirs):
            if step or x is not ours[1]:  # a tensor that has no gradient
                x.grad, y.grad = (g.clone() for g in [torch.randn_like(x)] * 2)
        lean.step(pieces)
        whole.step()
        lean.forget_gradients(pieces)
        whole.zero_grad()
        assert step or torch.equal(ours[1], still)
        for x, y in zip(ours, theirs):  # the last bit of a sum may make another of 256 levels
            assert float((x - y).detach().abs().mean()) < 1e-5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_learning(method: str, tmp_path: Path) -> None:
    base, data = tiny_base(tmp_path / "base.gguf"), text_folder(tmp_path / "data")
    losses, sizes = {}, {}
    for optimizer in ("adamw", "adamw_8bit"):
        out = tmp_path / optimizer
        words = {**WORDS, "method": method, "rank": 128, "lr": 1e-3, "steps": 40, "optimizer": optimizer}
        train(base, data, out, say=lambda _: None, **words)
        losses[optimizer] = [line["loss"] for line in metrics(out) if "loss" in line]
        sizes[optimizer] = state_bytes(load_checkpoint(checkpoints(out / "checkpoints")[-1])["optimizer"], set())
    exact, rounded = losses["adamw"], losses["adamw_8bit"]
    assert rounded[-1] < 0.6 * rounded[0] and exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)
    assert sizes["adamw_8bit"] < 0.4 * sizes["adamw"]


def test_what_is_resumed_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, data = tiny_base(tmp_path / "base.gguf"), text_folder(tmp_path / "data")
    monkeypatch.setattr(module, "PIECE", 8192)
    words = {**WORDS, "method": "full", "lr": 1e-3, "optimizer": "adamw_8bit", "schedule": "constant"}
    train(base, data, tmp_path / "whole", say=lambda _: None, steps=12, **words)
    train(base, data, tmp_path / "parts", say=lambda _: None, steps=7, **words)
    train(base, data, tmp_path / "parts", say=lambda _: None, steps=12, resume=True, **words)
    whole, parts = result_bytes(tmp_path / "whole"), result_bytes(tmp_path / "parts")
    assert whole["model.gguf"] == parts["model.gguf"]


def test_without_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, data = tiny_base(tmp_path / "base.gguf"), text_folder(tmp_path / "data")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=re.escape("pip install 'lora_edge[train,8bit]'")):
        train(base, data, tmp_path / "out", optimizer="adamw_8bit", **WORDS)
    assert not (tmp_path / "out").exists()
