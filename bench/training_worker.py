"""One training program in a process of its own, with its own settings of OpenMP: a step for each line it is sent.

    python training_worker.py lora_edge BASE.gguf BATCH TOKENS THREADS
    python training_worker.py f32|bf16 BASE.gguf BATCH TOKENS THREADS      # transformers + PEFT, of the base's shape

Rank 16 on all linears, AdamW, clipping, random tokens. "ready" comes first, then "done" after each step.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

RANK, ALPHA, LR = 16, 32.0, 1e-4


def wait() -> None:
    """For the next line; the end of them ends the process."""
    if not sys.stdin.readline():
        raise SystemExit


def say(word: str) -> None:
    print(word, flush=True)


def lora_edge_steps(base: str, batch: int, tokens: int, threads: int) -> None:
    """The trainer as users run it."""
    import lora_edge
    import numpy as np
    from lora_edge.train.data import Data, Example
    from lora_edge.train.methods import method_class
    from lora_edge.train.network import Network
    from lora_edge.train.settings import Settings
    from lora_edge.train.trainer import Trainer

    settings = Settings(rank=RANK, alpha=ALPHA, lr=LR, batch_size=batch, steps=1 << 20, schedule="constant")
    model = lora_edge.load(base, threads=threads)
    rng = np.random.default_rng(0)
    learn = np.arange(tokens + 1) > 0
    texts = [
        Example(rng.integers(0, model.config.n_vocab, tokens + 1).astype(np.int32), learn, i) for i in range(16 * batch)
    ]
    method = method_class("lora")(Network(model), settings)

    def stepped(line: dict[str, object]) -> None:
        say("done")
        wait()

    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(method, settings, Data(texts, [], []), Path(out), show=stepped)
        say("ready")
        wait()
        trainer.run()


def peft_steps(base: str, batch: int, tokens: int, dtype: torch.dtype) -> None:
    import peft
    import transformers
    from lora_edge.gguf_file import open_gguf

    meta, shapes = open_gguf(base).metadata, open_gguf(base).core.tensors()
    config = transformers.LlamaConfig(
        vocab_size=shapes["token_embd.weight"][0][0],
        hidden_size=int(meta["llama.embedding_length"]),
        intermediate_size=int(meta["llama.feed_forward_length"]),
        num_hidden_layers=int(meta["llama.block_count"]),
        num_attention_heads=int(meta["llama.attention.head_count"]),
        num_key_value_heads=int(meta["llama.attention.head_count_kv"]),
        tie_word_embeddings="output.weight" not in shapes,
        use_cache=False,
    )
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config).to(dtype), lora, autocast_adapter_dtype=False)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, fused=True)
    say("ready")
    while True:
        wait()
        ids = torch.randint(0, config.vocab_size, (batch, tokens))
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        say("done")


def main() -> None:
    kind, base = sys.argv[1:3]
    batch, tokens, threads = map(int, sys.argv[3:6])
    torch.set_num_threads(threads)
    if kind == "lora_edge":
        lora_edge_steps(base, batch, tokens, threads)
    else:
        peft_steps(base, batch, tokens, {"f32": torch.float32, "bf16": torch.bfloat16}[kind])


if __name__ == "__main__":
    main()
