#!/usr/bin/env python3
"""Train a PEFT LoRA adapter for a small Hugging Face causal language model on a plain-text file.

With the defaults and TinyStories-656K this takes a minute or two on one core and leaves a rank-8 adapter
under which greedy text reads like the training text.  Seeded: the same machine and versions give the same
adapter.

    python tools/train_adapter.py MODEL TEXT OUT
    python tools/train_adapter.py MODEL TEXT OUT --rslora --rank-pattern '{"q_proj": 4}'

Needs the extra `train` (torch, transformers, peft).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a PEFT LoRA adapter on a plain-text file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="folder of the base model (safetensors)")
    parser.add_argument("text", type=Path, help="UTF-8 text; its last tenth is held out")
    parser.add_argument("out", type=Path, help="folder to write the adapter to")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument("--targets", nargs="+", default=list(LINEARS), metavar="MODULE",
                        help="modules to adapt; embed_tokens and lm_head are allowed")  # fmt: skip
    parser.add_argument("--rslora", action="store_true", help="scale alpha/sqrt(r) in place of alpha/r")
    parser.add_argument("--rank-pattern", type=json.loads, default={}, metavar="JSON", help='e.g. {"q_proj": 4}')
    parser.add_argument("--alpha-pattern", type=json.loads, default={}, metavar="JSON", help='e.g. {"v_proj": 32}')
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--context", type=int, default=128, help="tokens per row")
    parser.add_argument("--lr", type=float, default=1e-2, help="peak of the one-cycle cosine schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", default="Once upon a time", help="prompt of the samples before and after")
    return parser.parse_args(argv)


def load_base(folder: Path) -> tuple[Any, Any]:
    """Model (float32) and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def held_out_loss(model: Any, rows: Any, batch: int) -> float:
    """Mean next-token loss (nats) over rows [m, context]."""
    import torch

    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            total += float(model(input_ids=part, labels=part).loss) * len(part)
    return total / len(rows)


def sample(model: Any, tokenizer: Any, prompt: str, n_tokens: int = 80) -> str:
    import torch

    ids = torch.tensor([tokenizer(prompt).input_ids])
    model.eval()
    out = model.generate(ids, max_new_tokens=n_tokens, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(out[0], skip_special_tokens=True))


def train(args: argparse.Namespace) -> float:
    """Train, print the progress and write the adapter; returns the drop of the held-out loss in nats."""
    import peft
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, tokenizer = load_base(args.model)

    ids = tokenizer(args.text.read_text(encoding="utf-8"), add_special_tokens=False).input_ids
    n_rows = len(ids) // args.context
    if n_rows < 20:
        raise SystemExit(f"{args.text}: {len(ids)} tokens are too few, at least {20 * args.context} are needed")
    rows = torch.tensor(ids[: n_rows * args.context]).view(n_rows, args.context)
    n_held = max(1, n_rows // 10)
    fit, held = rows[:-n_held], rows[-n_held:][:64]

    before = held_out_loss(model, held, args.batch)
    print(f"base: {sample(model, tokenizer, args.prompt)!r}\nheld-out loss {before:.3f}")

    config = peft.LoraConfig(
        r=args.rank, lora_alpha=args.alpha, target_modules=args.targets, use_rslora=args.rslora,
        rank_pattern=args.rank_pattern, alpha_pattern=args.alpha_pattern, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(model, config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=0.0)
    warmup = max(1, args.steps // 20)
    start = time.monotonic()
    for step in range(args.steps):
        scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        optimizer.param_groups[0]["lr"] = args.lr * scale
        picked = fit[torch.randint(len(fit), (args.batch,))]
        model.train()
        loss = model(input_ids=picked, labels=picked).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            print(f"step {step + 1:5d}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s", flush=True)

    after = held_out_loss(model, held, args.batch)
    print(f"adapted: {sample(model, tokenizer, args.prompt)!r}\nheld-out loss {after:.3f} (was {before:.3f})")
    model.peft_config["default"].base_model_name_or_path = args.model.name
    model.save_pretrained(args.out, save_embedding_layers=False)  # the base's embeddings are frozen
    return before - after


def main() -> int:
    args = parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    train(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
