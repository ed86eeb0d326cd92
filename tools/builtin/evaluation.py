"""Exact match on held-out requests, with the weights as trained or rounded to Q8_0."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from domain.samples import Sample
from transformers import PreTrainedTokenizerFast


def answers(model: torch.nn.Module, tok: PreTrainedTokenizerFast, texts: Sequence[str], batch: int = 50) -> list[str]:
    """Greedy answers to the texts, exactly as given: no template."""
    model.eval()
    tok.padding_side = "left"
    out: list[str] = []
    for i in range(0, len(texts), batch):
        inputs = tok(list(texts[i : i + batch]), return_tensors="pt", padding=True)
        with torch.no_grad():
            ids = model.generate(  # type: ignore[operator]
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=110,
                do_sample=False,
                eos_token_id=tok.eos_token_id,
                pad_token_id=tok.eos_token_id,
            )
        out += tok.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return out


def exact_match(
    model: torch.nn.Module, tok: PreTrainedTokenizerFast, samples: Sequence[Sample], view: str, show: int = 0
) -> dict[str, float]:
    """The share answered exactly, for each split and in all; prints the first `show` mistakes."""
    given = answers(model, tok, [s.text for s in samples])
    right = [g == s.answers[view] for g, s in zip(given, samples, strict=True)]
    for g, s in [(g, s) for g, s, ok in zip(given, samples, right, strict=True) if not ok][:show]:
        print(f"  {s.text!r}\n    wants {s.answers[view]}\n    gives {g}")
    result = {"all": sum(right) / len(right)}
    for split in ("template", "combination"):
        of_split = [ok for ok, s in zip(right, samples, strict=True) if s.split == split]
        result[split] = sum(of_split) / max(1, len(of_split))
    return result


def round_q8_0(w: torch.Tensor) -> torch.Tensor:
    """`w` [n, k] as Q8_0 keeps it: blocks of 32 along k, a scale max|w|/127 rounded to f16, integers."""
    blocks = w.float().reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    whole = torch.where(scale > 0, (blocks / scale).round(), torch.zeros_like(blocks))
    return (whole * scale.half().float()).reshape(w.shape)


def rounded(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a base with every matrix rounded to Q8_0."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.dim() == 2:
                parameter.copy_(round_q8_0(parameter))
    return twin
