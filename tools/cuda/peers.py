"""What else runs on a GPU, beside which lora_edge is timed: torch in bfloat16 with PEFT, and llama.cpp where its build
has CUDA. Each with one adapter, unmerged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lora_edge.model import Model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from engines import Llama  # noqa: E402


class Peer:
    """A prompt of n tokens, or n tokens one after another; when a call returns the next token can be chosen. close:
    gives its memory back."""

    def __init__(
        self, name: str, prompt: Callable[[int], object], tokens: Callable[[int], object], close: Callable[[], object]
    ) -> None:
        self.name, self.prompt, self.tokens, self.close = name, prompt, tokens, close


def peers(model: Model, adapter: Path, rank: int, device: str) -> Iterator[Peer | str]:
    """Those that run here, each until the next one is asked for; of others a line that says why not."""
    for name, make in (("torch bf16 + PEFT", torch_peer), ("llama.cpp", llama_peer)):
        try:
            peer = make(name, model, adapter, rank, device)
        except Exception as error:  # whatever keeps it from running
            yield not_measured(name, error)
            continue
        try:
            yield peer
        finally:
            peer.close()


def not_measured(name: str, error: Exception) -> str:
    return f"{name}: not measured, {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def torch_peer(name: str, model: Model, adapter: Path, rank: int, device: str) -> Peer:
    """Random weights of the model's shape."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    c = model.config
    shape = AutoConfig.for_model(
        c.arch, vocab_size=c.n_vocab, hidden_size=c.n_embd, num_hidden_layers=c.n_layer, num_attention_heads=c.n_head,
        num_key_value_heads=c.n_head_kv, intermediate_size=c.n_ff, max_position_embeddings=c.n_ctx_train,
    )  # fmt: skip
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    tuned = get_peft_model(base, LoraConfig(r=rank, target_modules="all-linear"), autocast_adapter_dtype=False).eval()

    def feed(ids: Any, cache: Any) -> Any:
        with torch.inference_mode():
            out = tuned(torch.tensor([ids], device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            out.logits[0, -1].argmax().item()
        return out.past_key_values

    def tokens(n: int) -> None:
        cache = None
        for _ in range(n):
            cache = feed([42], cache)

    def close() -> None:
        tuned.to("meta")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    return Peer(name, lambda n: feed([i % 100 for i in range(n)], None), tokens, close)


def llama_peer(name: str, model: Model, adapter: Path, rank: int, device: str) -> Peer:
    """The same file and adapter."""
    from llama_cpp import llama_cpp as api

    if not api.llama_supports_gpu_offload():
        raise RuntimeError("this build of llama-cpp-python has no CUDA")
    engine = Llama(Path(model.path), {"one": adapter}, threads=1)

    def start() -> None:
        engine.start()
        engine.use("one")

    def prompt(n: int) -> None:
        start()
        engine.feed([i % 100 for i in range(n)])
        engine.logits()

    def tokens(n: int) -> None:
        start()
        for _ in range(n):
            engine.feed([42])
            engine.logits()

    return Peer(name, prompt, tokens, engine.close)
