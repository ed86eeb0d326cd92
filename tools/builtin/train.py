"""Makes the built-in model: data, vocabulary, base, two adapters, figures, files.

    python tools/builtin/train.py --out build/builtin --into python/lora_edge/builtin

Needs torch, transformers and peft. Everything follows from --seed; the last bits of the floats also depend on
the machine and the version of torch.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from domain.samples import VIEWS, Sample, held_out
from evaluation import exact_match, rounded
from export import export
from peft import LoraConfig, PeftModel, get_peft_model
from training import batches, fit
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocabulary import train_vocabulary

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONTEXT = 256
VOCAB = 1600
RANK, ALPHA = 16, 32
BASE = ({"steps": 8000, "rate": 3e-3, "decay": 0.05}, {"steps": 5000, "rate": 2e-3, "decay": 0.05})  # a restart
ADAPTER = {"steps": 2000, "rate": 2e-3, "decay": 0.0}
BATCH_TOKENS = 1200
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


def train_base(out: Path, seed: int, scale: float) -> None:
    """Vocabulary and base -> out/base."""
    tok = train_vocabulary(VOCAB, seed)
    model = new_base(tok, seed)
    for i, part in enumerate(BASE):
        stream = batches(tok, "base", tokens=BATCH_TOKENS, notes=0.05, context=CONTEXT, seed=seed + 1 + 10 * i)
        fit(model, stream, steps=int(part["steps"] * scale), rate=part["rate"], decay=part["decay"], label="base")
    model.save_pretrained(out / "base")
    tok.save_pretrained(out / "base")


def load_base(out: Path) -> tuple[LlamaForCausalLM, Any]:
    """The base and the tokenizer of an earlier stage."""
    model = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(out / "base")


def train_adapter(out: Path, view: str, seed: int, scale: float) -> None:
    """An adapter on the frozen base, rounded as it will be used -> out/<view>."""
    base, tok = load_base(out)
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(rounded(base), config)
    stream = batches(tok, view, tokens=BATCH_TOKENS, notes=0.0, context=CONTEXT, seed=seed + 2)
    steps = int(ADAPTER["steps"] * scale)
    fit(model, stream, steps=steps, rate=ADAPTER["rate"], decay=ADAPTER["decay"], label=view)
    model.save_pretrained(str(out / view))


def evaluate(out: Path, seed: int, n: int) -> dict[str, dict[str, dict[str, float]]]:
    """Exact match on `n` held-out requests and, for JSON, on the handwritten ones.

    For the base as trained and as rounded to Q8_0.
    """
    samples = held_out(n, seed + 3)
    rows = json.loads(HANDWRITTEN.read_text(encoding="utf-8"))
    handwritten = [Sample(row["text"], {"json": row["json"]}, "handwritten") for row in rows]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for weights in ("f32", "q8_0"):
        show = 12 if weights == "q8_0" else 0
        figures[weights] = {}
        for view in VIEWS:
            base, tok = load_base(out)
            model = base if weights == "f32" else rounded(base)
            if view != "base":
                model = PeftModel.from_pretrained(model, str(out / view))
            found = exact_match(model, tok, samples, view, show)
            if view == "json":
                found["handwritten"] = exact_match(model, tok, handwritten, view, show)["all"]
            figures[weights][view] = found
            print(weights, view, found, flush=True)
    return figures


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
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "card.json"
    card = json.loads(log.read_text()) if log.exists() else {"seconds": {}}
    for stage in args.stage:
        start = time.time()
        if stage == "base":
            train_base(args.out, args.seed, args.scale)
        elif stage in VIEWS:
            train_adapter(args.out, stage, args.seed, args.scale)
        elif stage == "evaluate":
            card["exact_match"] = evaluate(args.out, args.seed, 600)
        elif stage == "export" and args.into:
            export(args.out, args.into)
        card["seconds"][stage] = round(time.time() - start)
        log.write_text(json.dumps(card, indent=1))
    if args.fixture:
        sample = [asdict(s) for s in held_out(200, args.seed + 4)]
        args.fixture.write_text(json.dumps(sample, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
