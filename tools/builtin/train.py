"""Makes the built-in model: data, vocabulary, base, two adapters, figures, files.

    python tools/builtin/train.py --out build/builtin --into python/lora_edge/builtin

Needs the extra train, and transformers for the base's first weights. A run that was stopped goes on from its last
checkpoint. Everything follows from --seed; the last bits of the floats also depend on the machine and the version of
torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from domain.samples import VIEWS, Sample, held_out
from evaluation import exact_match
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.convert.merge import merge
from lora_edge.model import Model
from training import run
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocabulary import train_vocabulary

CONTEXT = 256
VOCAB = 1600
RANK, ALPHA = 16, 32
# Steps, and settings; the base with a restart.
BASE = ((8000, {"lr": 3e-3, "weight_decay": 0.05}), (5000, {"lr": 2e-3, "weight_decay": 0.05}))
ADAPTER = (2000, {"lr": 2e-3})
HANDWRITTEN = Path(__file__).parent / "handwritten.json"  # not from the templates


def new_base(tok: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh model: 2.3 million weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.eos_token_id,
            initializer_range=0.04,
        )
    )


def train_base(out: Path, seed: int, scale: float, threads: int) -> None:
    """Vocabulary and base -> out/base-f32.gguf and out/base.gguf, as it ships."""
    tok = train_vocabulary(VOCAB, seed)
    new_base(tok, seed).save_pretrained(out / "new")
    tok.save_pretrained(out / "new")
    base = convert_model(out / "new", out / "new.gguf", type="f32", name="lora_edge built-in home")
    for i, (steps, words) in enumerate(BASE):
        folder = out / f"base-{i}"
        run(
            base, "base", folder, int(steps * scale), method="full", notes=0.05, type="f32", threads=threads,
            context=CONTEXT, seed=seed + 1 + 10 * i, **words,
        )  # fmt: skip
        base = folder / "model.gguf"
    shutil.copyfile(base, out / "base-f32.gguf")
    merge(base, [], out / "base.gguf", type="q8_0")


def train_adapter(out: Path, view: str, seed: int, scale: float, threads: int) -> None:
    """An adapter on the frozen base as it ships -> out/<view>."""
    steps, words = ADAPTER
    run(
        out / "base.gguf", view, out / view, int(steps * scale), method="lora", rank=RANK, alpha=ALPHA, notes=0.0,
        type="f16", threads=threads, context=CONTEXT, seed=seed + 2, **words,
    )  # fmt: skip


def evaluate(out: Path, seed: int, n: int, threads: int) -> dict[str, dict[str, float]]:
    """Exact match on `n` held-out requests and, for JSON, on the handwritten ones."""
    samples = held_out(n, seed + 3)
    rows = json.loads(HANDWRITTEN.read_text(encoding="utf-8"))
    handwritten = [Sample(row["text"], {"json": row["json"]}, "handwritten") for row in rows]
    figures: dict[str, dict[str, float]] = {}
    model = Model(out / "base.gguf", threads=threads)
    for view in VIEWS:
        adapter = None if view == "base" else model.load_adapter(out / view, name=view).name
        figures[view] = exact_match(model, adapter, samples, view, show=12)
        if view == "json":
            figures[view]["handwritten"] = exact_match(model, adapter, handwritten, view)["all"]
        print(view, figures[view], flush=True)
    return figures


def export(out: Path, into: Path) -> None:
    """out/base.gguf and the adapters -> into/*.gguf, with out/card.json beside them."""
    into.mkdir(parents=True, exist_ok=True)
    files = {view: into / f"{view}.gguf" for view in VIEWS}
    shutil.copyfile(out / "base.gguf", files["base"])
    for view in VIEWS[1:]:
        convert_adapter(out / view, files["base"], files[view], type="f16", name=f"lora_edge built-in {view}")
    card = json.loads((out / "card.json").read_text())
    sizes = {file.name: file.stat().st_size for file in files.values()}
    (into / "card.json").write_text(json.dumps({**card, "bytes": sizes}, indent=1) + "\n")


def main() -> None:
    """Runs the stages asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the float model and the adapters")
    parser.add_argument("--into", type=Path, help="folder for the GGUF files")
    parser.add_argument("--fixture", type=Path, help="file for 200 held-out requests with their answers")
    parser.add_argument("--stage", nargs="+", default=["base", "json", "german", "evaluate", "export"])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="a factor on all numbers of steps, for a quick try")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "card.json"
    card = json.loads(log.read_text()) if log.exists() else {"seconds": {}}
    for stage in args.stage:
        start = time.time()
        if stage == "base":
            train_base(args.out, args.seed, args.scale, args.threads)
        elif stage in VIEWS:
            train_adapter(args.out, stage, args.seed, args.scale, args.threads)
        elif stage == "evaluate":
            card["exact_match"] = evaluate(args.out, args.seed, 600, args.threads)
        elif stage == "export" and args.into:
            export(args.out, args.into)
        card["seconds"][stage] = round(time.time() - start)
        log.write_text(json.dumps(card, indent=1))
    if args.fixture:
        sample = [asdict(s) for s in held_out(200, args.seed + 4)]
        args.fixture.write_text(json.dumps(sample, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
