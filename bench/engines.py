"""lora_edge and llama.cpp behind one face, so that a benchmark times the same work on the same files.

llama.cpp is driven through llama-cpp-python's low-level API: a call of its C functions per batch, with the defaults of
its own benchmark (flash attention auto, f16 KV cache, batches of 512).
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lora_edge
import numpy as np
from numpy.typing import NDArray

N_CTX = 1024
N_BATCH = 512


class Engine(ABC):
    """One base model, adapters beside it, and a text; or a batch of several texts, which takes the place of it."""

    name: str

    @abstractmethod
    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path] | None = None,
        *,
        threads: int,
        n_ctx: int = N_CTX,
        n_texts: int = 1,
    ) -> None:
        """n_ctx: tokens that a text may have; n_texts: how many a batch may have."""

    @abstractmethod
    def load_adapter(self, name: str, path: Path) -> None: ...

    @abstractmethod
    def unload_adapter(self, name: str) -> None: ...

    @abstractmethod
    def start(self) -> None:
        """Begins a new text, with no adapter."""

    @abstractmethod
    def use(self, adapter: str | None) -> None:
        """Switches the adapter for the tokens to come."""

    @abstractmethod
    def feed(self, ids: Sequence[int]) -> None:
        """Computes the tokens, and the logits after the last."""

    @abstractmethod
    def truncate(self, n: int) -> None:
        """Keeps the first n tokens of the text."""

    @abstractmethod
    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] after the last token."""

    @abstractmethod
    def start_batch(self, adapters: Sequence[str | None]) -> None:
        """Begins a text for each entry, which runs with that adapter."""

    @abstractmethod
    def feed_batch(self, tokens: Sequence[int]) -> None:
        """Computes one token of each text of the batch, and the logits after it."""

    @abstractmethod
    def close(self) -> None: ...


class Edge(Engine):
    """lora_edge through its public API."""

    name = "lora_edge"

    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path] | None = None,
        *,
        threads: int,
        n_ctx: int = N_CTX,
        n_texts: int = 1,
    ) -> None:
        self.model = lora_edge.load(base, threads=threads, n_ctx=n_ctx)
        self.batch: list[lora_edge.Sequence] = []
        for name, path in (adapters or {}).items():
            self.load_adapter(name, path)
        self.start()

    def load_adapter(self, name: str, path: Path) -> None:
        self.model.load_adapter(path, name=name)

    def unload_adapter(self, name: str) -> None:
        self.model.unload_adapter(name)

    def start(self) -> None:
        self.sequence = self.model.sequence()

    def use(self, adapter: str | None) -> None:
        self.sequence.adapter = adapter

    def feed(self, ids: Sequence[int]) -> None:
        self.sequence.feed(ids)

    def truncate(self, n: int) -> None:
        self.sequence.truncate(n)

    def logits(self) -> NDArray[np.float32]:
        return self.sequence.logits()

    def start_batch(self, adapters: Sequence[str | None]) -> None:
        self.batch = [self.model.sequence(adapter=adapter) for adapter in adapters]

    def feed_batch(self, tokens: Sequence[int]) -> None:
        lora_edge.Sequence.feed_all([(sequence, [token]) for sequence, token in zip(self.batch, tokens)])

    def close(self) -> None:
        del self.sequence
        self.batch = []
        self.model.close()


class Llama(Engine):
    """llama.cpp through the C API that llama-cpp-python exposes."""

    name = "llama.cpp"
    _silent: Any = None  # the log callback, which must outlive every call

    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path] | None = None,
        *,
        threads: int,
        n_ctx: int = N_CTX,
        n_texts: int = 1,
    ) -> None:
        from llama_cpp import llama_cpp as api

        self.api: Any = api
        if Llama._silent is None:
            Llama._silent = api.llama_log_callback(lambda level, text, user: None)
            api.llama_log_set(Llama._silent, ctypes.c_void_p(0))
            api.llama_backend_init()
        self.model = api.llama_model_load_from_file(str(base).encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx * n_texts, N_BATCH, N_BATCH
        params.n_seq_max = n_texts
        params.n_threads = params.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, params)
        if not self.model or not self.context:
            raise RuntimeError(f"llama.cpp can't load {base}")
        self.memory = api.llama_get_memory(self.context)
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.adapters: dict[str, Any] = {}
        self.batch: Any = self.api.llama_batch_init(n_texts, 0, 1)
        self.batch_length = 0
        for name, path in (adapters or {}).items():
            self.load_adapter(name, path)

    def load_adapter(self, name: str, path: Path) -> None:
        adapter = self.api.llama_adapter_lora_init(self.model, str(path).encode())
        if not adapter:
            raise RuntimeError(f"llama.cpp can't load the adapter {path}")
        self.adapters[name] = adapter

    def unload_adapter(self, name: str) -> None:
        self.api.llama_adapter_lora_free(self.adapters.pop(name))

    def start(self) -> None:
        self.api.llama_memory_clear(self.memory, False)
        self.use(None)

    def use(self, adapter: str | None) -> None:
        if adapter is None:
            status = self.api.llama_set_adapters_lora(self.context, None, 0, None)
        else:
            one = (self.api.llama_adapter_lora_p_ctypes * 1)(self.adapters[adapter])
            status = self.api.llama_set_adapters_lora(self.context, one, 1, (ctypes.c_float * 1)(1.0))
        if status != 0:
            raise RuntimeError(f"llama.cpp refuses the adapter {adapter}")

    def feed(self, ids: Sequence[int]) -> None:
        for at in range(0, len(ids), N_BATCH):
            part = ids[at : at + N_BATCH]
            array = (self.api.llama_token * len(part))(*part)  # the batch only points to it
            if self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(part))) != 0:
                raise RuntimeError("llama_decode failed")
        self.api.llama_synchronize(self.context)

    def truncate(self, n: int) -> None:
        if not self.api.llama_memory_seq_rm(self.memory, 0, n, -1):
            raise RuntimeError("llama.cpp can't cut the text back")

    def start_batch(self, adapters: Sequence[str | None]) -> None:
        if len(set(adapters)) > 1:
            raise ValueError("llama.cpp runs a batch with one set of adapters")
        self.start()
        self.use(adapters[0])
        self.batch_length = 0

    def feed_batch(self, tokens: Sequence[int]) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, self.batch_length, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, i
        if self.api.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        self.api.llama_synchronize(self.context)
        self.batch_length += 1

    def logits(self) -> NDArray[np.float32]:
        pointer = self.api.llama_get_logits_ith(self.context, -1)
        return np.array(np.ctypeslib.as_array(pointer, (self.n_vocab,)), np.float32)

    def close(self) -> None:
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)


ENGINES: dict[str, type[Engine]] = {Edge.name: Edge, Llama.name: Llama}
