"""A loaded base model: one file mapped read-only, adapters beside it, sequences on top."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import _core, hub
from .adapter import Adapter, AdapterSpec, head_parts
from .adapter_file import BaseInfo, adapter_kind, read_adapter
from .base_copy import check_base_copies
from .chat import render_chat
from .checks import real, token_ids, whole
from .devices import choose
from .encoder import Classification, Encoder, Head, Text, decoder_head
from .encoder_head import HeadPart, split_head
from .encoder_names import LABELS
from .encoder_tokenizer import Encoded
from .generation import Completion, Run, Token, steps
from .gguf_file import open_gguf
from .options import DEFAULT_MAX_TOKENS, OptionArgs, Speculative, Stop, make_options
from .sequence import Sequence
from .threads import big_cores, default_threads
from .token_rows import with_token_factors
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_CONTEXT = 1 << 30  # tokens
MAX_THREADS = 1024
_LOGITS_ROWS = 64  # of a long text's logits at a time in `score`


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a model, from its file. Lengths in elements, n_ctx_train, n_ctx_max and window in tokens.

    window: what attention sees in the layers that have a sliding window, 0 if none has one. causal: false for an
    encoder, whose tokens see all of their text; n_parts: the kinds of tokens that it tells apart."""

    arch: str
    causal: bool
    n_parts: int
    name: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    n_ctx_max: int
    window: int
    norm_eps: float
    rope_base: float
    rope_scale: float
    tied_embeddings: bool


class Model:
    """A model ready to run, made by `lora_edge.load`. Several threads may use it; forward passes take turns."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_ctx: int | None = None,
        threads: int | None = None,
        kv_type: str = "auto",
        pin: bool = False,
        device: str = "cpu",
    ) -> None:
        self.path = os.fspath(path)
        cuda = choose(device, str(kv_type))
        self._core: _core.Model | None = _core.Model(
            self.path,
            0 if n_ctx is None else whole("n_ctx", n_ctx, 1, MAX_CONTEXT),
            default_threads() if threads is None else whole("threads", threads, 1, MAX_THREADS),
            str(kv_type),
            big_cores() if pin else [],
            cuda,
        )
        self.device = f"cuda:{cuda}" if cuda >= 0 else "cpu"
        self.n_ctx = self._core.n_ctx
        self.config = ModelConfig(**self._core.config)
        metadata = self._core.file.metadata()
        self._encoder = None if self.config.causal else Encoder(self.path, self._core, metadata)
        has_tokenizer = self.config.causal and "tokenizer.ggml.tokens" in metadata
        self.tokenizer = Tokenizer.from_metadata(metadata) if has_tokenizer else None
        if self.tokenizer and self.tokenizer.vocab_size > self.config.n_vocab:
            raise ValueError(
                f"[model] the tokenizer has {self.tokenizer.vocab_size} tokens, "
                f"the embedding only {self.config.n_vocab}"
            )
        self._adapters: dict[str, Adapter] = {}

    # -- adapters -----------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The loaded adapters by name: a copy, in the order of loading."""
        return dict(self._adapters)

    def load_adapter(self, path: str | os.PathLike[str], *, name: str | None = None, scale: float = 1.0) -> Adapter:
        """Loads a GGUF adapter, or a PEFT or MLX folder as it is, beside the base; running texts are not disturbed. An
        adapter of the hub is hf://owner/name.

        name: by default the folder's name, or the file's without its ending. scale multiplies the file's own
        scales. ValueError: the adapter is damaged, needs something unsupported (it is named), was made for
        another base (the first tensor that doesn't fit is named), or the name is taken.
        """
        source = Path(hub.local(path))
        if name is None:
            name = hub.title(path) or (source.resolve().name if source.is_dir() else source.stem)
        elif not isinstance(name, str) or not name:
            raise ValueError(f"name is {name!r}, not a text")
        if name in self._adapters:
            raise ValueError(f"an adapter named {name!r} is loaded already: unload it, or give another name")
        factor = real("scale", scale)
        kind = adapter_kind(source)
        head = HeadPart()
        mapped = _core.GgufFile(os.fspath(source)) if kind == "gguf" and self._encoder is None else None
        if mapped is not None and f"{LABELS}.modules_to_save" not in mapped.tensors():
            core = _core.Adapter.from_gguf(self.core, name, mapped, factor)
            invocation = [int(i) for i in _core.gguf_lora(mapped, self.config.arch)[2]]
        else:
            core, invocation, head = self._core_adapter(source, name, factor)
        adapter = Adapter(name, os.fspath(source), kind, factor, tuple(invocation), core, head)
        self._adapters[name] = adapter
        return adapter

    def _core_adapter(self, folder: Path, name: str, factor: float) -> tuple[_core.Adapter, list[int], HeadPart]:
        """The adapter of a folder in the core, its invocation tokens, and its part for an encoder's head."""
        c = self.config
        shapes = self.core.linear_shapes()
        if self._encoder is not None:
            shapes |= self._encoder.head_shapes
        elif c.tied_embeddings:
            del shapes["output.weight"]
        base = BaseInfo(c.arch, c.n_head, c.n_head_kv, c.head_dim, shapes)
        file = read_adapter(folder, c.arch, base)
        if file.base_copies or file.token_rows:
            weight_of = open_gguf(self.path).tensors.get
            check_base_copies(file, weight_of)
            file = with_token_factors(file, base, weight_of)
        if file.invocation and (self._encoder is not None or LABELS in file.wholes):
            raise ValueError(f"[adapter] {folder} has invocation tokens (aLoRA), which labels and encoders don't have")
        file, head = split_head(file)
        head = replace(head, entries={n: replace(e, scale=e.scale * factor) for n, e in head.entries.items()})
        entries = {k: (e.a, e.b, e.scale * factor, e.magnitude, e.bias) for k, e in file.entries.items()}
        wholes = {k: (w.weight, w.bias) for k, w in file.wholes.items()}
        return _core.Adapter(self.core, name, entries, wholes), file.invocation, head

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; its memory goes when the last sequence that uses it does. ValueError: not loaded."""
        if not isinstance(name, str) or name not in self._adapters:
            raise ValueError(f"no adapter {name!r} is loaded")
        del self._adapters[name]

    # -- text and ids -------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_bos: bool | None = None, special: bool = False) -> list[int]:
        """Token ids. add_bos: as the file says, by default. special: text such as <|im_end|> becomes that token."""
        return self.need_tokenizer().encode(text, add_bos=add_bos, special=special)

    def detokenize(self, ids: Seq[int]) -> str:
        """The text of ids; control tokens are not shown."""
        return self.need_tokenizer().decode(ids)

    def need_decoder(self) -> None:
        """ValueError: the model is an encoder."""
        if not self.config.causal:
            raise ValueError(f"'{self.path}' is an encoder, which writes no text: use embed or classify")

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer. ValueError: the file holds none."""
        self.need_decoder()
        if self.tokenizer is None:
            raise ValueError(f"'{self.path}' holds no tokenizer: give token ids instead of text")
        return self.tokenizer

    def _ids(self, prompt: str | Seq[int]) -> list[int]:
        return self.tokenize(prompt) if isinstance(prompt, str) else token_ids(prompt, self.config.n_vocab)

    # -- generation ---------------------------------------------------------------------------------------------

    def run(
        self, sequences: Seq[Sequence], prompts: Seq[list[int]], options: Seq[Mapping[str, Any]]
    ) -> list[Completion]:
        """Completes each prompt on its sequence, all in one batch."""
        runs = []
        for i, (sequence, prompt, given) in enumerate(zip(sequences, prompts, options)):
            try:
                runs.append(Run.start(sequence, prompt, make_options(given)))
            except ValueError as error:
                raise ValueError(f"prompt {i}: {error}") if len(prompts) > 1 else error from None
        for _ in steps(runs, prompts):
            pass
        return [run.completion() for run in runs]

    def stream(self, sequence: Sequence, prompt: list[int], options: Mapping[str, Any]) -> Iterator[Token]:
        """Completes one prompt token by token. Options are checked at once, not at the first token."""
        run = Run.start(sequence, prompt, make_options(options))
        return (token for _, token in steps([run], [prompt]))

    def sequence(self, *, adapter: AdapterSpec = None) -> Sequence:
        """A new, empty sequence, which keeps its keys and values between calls."""
        return Sequence(self, adapter)

    @overload
    def generate(
        self,
        prompt: str | Seq[int],
        *,
        adapter: AdapterSpec = ...,
        stream: Literal[True],
        **options: Unpack[OptionArgs],
    ) -> Iterator[Token]: ...
    @overload
    def generate(
        self,
        prompt: str | Seq[int],
        *,
        adapter: AdapterSpec = ...,
        stream: Literal[False] = ...,
        **options: Unpack[OptionArgs],
    ) -> str: ...
    def generate(
        self,
        prompt: str | Seq[int],
        *,
        adapter: AdapterSpec = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: Stop = None,
        ignore_eos: bool = False,
        speculative: Speculative = None,
        stream: bool = False,
    ) -> str | Iterator[Token]:
        """Continues a prompt (text, or token ids as they are); no chat template is applied.

        adapter: None (the base), a loaded adapter's name, or {name: weight}. max_tokens: not given, fewer where the
        context ends; -1, to the end of the context. temperature: 0 takes the likeliest token. top_k, top_p, min_p:
        sample among the k likeliest, among the likeliest that sum to p, among those at least p times as likely as
        the likeliest (0, 1 and 0: among all). repeat_penalty: over the last 64 tokens. seed: the same seed gives
        the same text; None takes a fresh one. stop: a string or several that end the text and are no part of it.
        ignore_eos: goes on after an end token. speculative: "prompt-lookup" (Saxena 2023) guesses tokens from what the
        text has said before and checks several in one pass; the result is the same to the bit, sooner where a text
        repeats its prompt or itself. stream: an iterator of Token(id, text, logprob) instead of the text.
        ValueError: prompt and max_tokens exceed the context (the numbers are given), or an option makes no sense.
        """
        options = OptionArgs(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
            speculative=speculative,
        )
        if stream:
            return self.stream(self.sequence(adapter=adapter), self._ids(prompt), options)
        return self.complete(prompt, adapter=adapter, **options).text

    def complete(
        self, prompt: str | Seq[int], *, adapter: AdapterSpec = None, **options: Unpack[OptionArgs]
    ) -> Completion:
        """As `generate`, with ids, log-probabilities, the reason of the end, and timings."""
        return self.run([self.sequence(adapter=adapter)], [self._ids(prompt)], [options])[0]

    def generate_batch(
        self, prompts: Seq[str | Seq[int]], *, adapters: Seq[AdapterSpec] | None = None, **options: Any
    ) -> list[str]:
        """Continues several prompts side by side, each with its own adapters; each text is what it is alone.

        adapters: one entry per prompt. Options as in `generate`; a list gives one value per prompt (stop strings:
        a list of lists).
        """
        if isinstance(prompts, (str, bytes)):
            raise ValueError("prompts must be a list, with a text or a list of ids for each sequence")
        n = len(prompts)
        if adapters is not None and (isinstance(adapters, (str, Mapping)) or len(adapters) != n):
            raise ValueError(f"adapters must be a list with one entry for each of the {n} prompts")
        for key, value in options.items():
            if _per_prompt(key, value) and len(value) != n:
                raise ValueError(f"{key} has {len(value)} values for {n} prompts")
        each = [{k: v[i] if _per_prompt(k, v) else v for k, v in options.items()} for i in range(n)]
        sequences = [self.sequence(adapter=adapters[i] if adapters else None) for i in range(n)]
        return [c.text for c in self.run(sequences, [self._ids(p) for p in prompts], each)] if n else []

    @overload
    def chat(
        self,
        messages: Seq[Mapping[str, Any]],
        *,
        adapter: AdapterSpec = ...,
        stream: Literal[True],
        **options: Unpack[OptionArgs],
    ) -> Iterator[Token]: ...
    @overload
    def chat(
        self,
        messages: Seq[Mapping[str, Any]],
        *,
        adapter: AdapterSpec = ...,
        stream: Literal[False] = ...,
        **options: Unpack[OptionArgs],
    ) -> str: ...
    def chat(
        self,
        messages: Seq[Mapping[str, Any]],
        *,
        adapter: AdapterSpec = None,
        stream: bool = False,
        **options: Unpack[OptionArgs],
    ) -> str | Iterator[Token]:
        """The assistant's answer to messages [{"role": ..., "content": ...}], through the file's chat template."""
        ids = self.apply_chat_template(messages)
        if stream:
            return self.generate(ids, adapter=adapter, stream=True, **options)
        return self.generate(ids, adapter=adapter, **options)

    def need_chat_template(self) -> str:
        """The chat template (jinja2). ValueError: the file holds none."""
        template = self.need_tokenizer().chat_template
        if template is None:
            raise ValueError(f"'{self.path}' has no chat template: use generate, with a prompt in its own format")
        return template

    def apply_chat_template(self, messages: Seq[Mapping[str, Any]]) -> list[int]:
        """Token ids of the conversation, up to where the assistant speaks."""
        tokenizer, template = self.need_tokenizer(), self.need_chat_template()
        bos = tokenizer.token_text(tokenizer.bos_id) if tokenizer.bos_id is not None else ""
        eos = tokenizer.token_text(tokenizer.eos_id) if tokenizer.eos_id is not None else ""
        text = render_chat(template, messages, bos_token=bos, eos_token=eos)
        add_bos = None if not (bos and text.startswith(bos)) else False
        return tokenizer.encode(text, add_bos=add_bos, special=True)

    # -- encoders -----------------------------------------------------------------------------------------------

    def embed(
        self,
        texts: str | Seq[Text],
        *,
        adapter: AdapterSpec = None,
        pooling: str | None = None,
        normalize: bool = True,
    ) -> NDArray[np.float32]:
        """Embeddings of texts by an encoder: [n, n_embd], or [n_embd] for a single str.

        texts: each a str, a pair of them, or token ids. pooling: "mean", "cls" or "pooler"; None: as the file says,
        else "mean". normalize: to length 1. ValueError: the model is no encoder, or a text exceeds its context.
        """
        head = self.need_encoder().head(head_parts(adapter, self._adapters))
        kind = head.check_pooling(pooling)
        hidden = self.hidden_states([texts] if isinstance(texts, str) else texts, adapter=adapter)
        rows = [head.pool(h, kind) for h in hidden]
        out = np.array(rows, np.float32).reshape(len(rows), self.config.n_embd)
        if normalize:
            lengths = np.linalg.norm(out.astype(np.float64), axis=1, keepdims=True)  # squares may exceed float32
            out /= np.maximum(lengths, 1e-12).astype(np.float32)
        return out[0] if isinstance(texts, str) else out

    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is a sequence, too
        self, texts: str, *, adapter: AdapterSpec = ...
    ) -> Classification: ...
    @overload
    def classify(self, texts: Seq[Text], *, adapter: AdapterSpec = ...) -> list[Classification]: ...
    def classify(self, texts: str | Seq[Text], *, adapter: AdapterSpec = None) -> Classification | list[Classification]:
        """The labels of texts by a classifier (BERT, RoBERTa), or a decoder to which an adapter brings labels: one
        Classification each; for a single str just its own.

        texts as in `embed`; of a pair a decoder gets two lines. ValueError: the model is no classifier, or a text
        exceeds its context.
        """
        head = self.classifier(adapter)
        hidden = self.hidden_states([texts] if isinstance(texts, str) else texts, adapter=adapter)
        found = [head.classify(h) for h in hidden]
        return found[0] if isinstance(texts, str) else found

    def classifier(self, adapter: AdapterSpec = None) -> Head:
        """What comes after the last layer. ValueError: nothing that tells labels apart."""
        parts = head_parts(adapter, self._adapters)
        head = decoder_head(self.path, parts) if self._encoder is None else self._encoder.head(parts)
        head.check_labels()
        return head

    def need_encoder(self) -> Encoder:
        """The tokenizer and the head. ValueError: the model is a decoder."""
        if self._encoder is None:
            raise ValueError(f"'{self.path}' is no encoder (architecture {self.config.arch}): use generate")
        return self._encoder

    def hidden_states(self, texts: Seq[Text], *, adapter: AdapterSpec = None) -> list[NDArray[np.float32]]:
        """The last hidden states, a decoder's normed, [tokens, n_embd] of each text. ValueError: see `embed`."""
        made = [self._decoder_ids(text) if self._encoder is None else self._encoder.ids(text) for text in texts]
        batch = [(self.sequence(adapter=adapter).core, ids, parts) for ids, parts in made]
        rows = self.core.encode(batch) if batch else np.empty((0, self.config.n_embd), np.float32)
        return np.split(rows, np.cumsum([len(ids) for ids, _ in made])[:-1]) if made else []

    def _decoder_ids(self, text: Text) -> tuple[list[int], list[int]]:
        if isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str):
            text = f"{text[0]}\n{text[1]}"
        ids = self._ids(text if isinstance(text, str) else text.ids if isinstance(text, Encoded) else list(text))
        return ids, [0] * len(ids)

    # -- numbers ------------------------------------------------------------------------------------------------

    def logits(self, ids: Seq[int], *, adapter: AdapterSpec = None, last: int | None = None) -> NDArray[np.float32]:
        """Logits after each of ids [n, n_vocab], or after the last `last` of them."""
        tokens = token_ids(ids, self.config.n_vocab)
        cut = 0 if last is None else len(tokens) - whole("last", last, 1, max(1, len(tokens)))
        sequence = self._invoked(adapter, tokens)
        if cut:
            self.core.forward([(sequence, tokens[:cut], 1)])
        out = self.core.forward([(sequence, tokens[cut:], 1)], all_logits=True)
        assert out is not None
        return out

    def score(self, ids: Seq[int], *, adapter: AdapterSpec = None) -> NDArray[np.float32]:
        """Log-probability of each next token, [len(ids) - 1]: entry i is log p(ids[i + 1] | ids[: i + 1])."""
        tokens = token_ids(ids, self.config.n_vocab)
        if len(tokens) > self.n_ctx:
            raise ValueError(f"{len(tokens)} ids exceed the context of {self.n_ctx}")
        sequence = self._invoked(adapter, tokens)
        parts = [np.empty(0, np.float32)]
        for at in range(0, len(tokens) - 1, _LOGITS_ROWS):
            chunk = tokens[at : min(at + _LOGITS_ROWS, len(tokens) - 1)]
            logits = self.core.forward([(sequence, chunk, 1)], all_logits=True)
            assert logits is not None
            parts.append(_core.log_probabilities(logits, tokens[at + 1 : at + 1 + len(chunk)]))
        return np.concatenate(parts)

    def _invoked(self, adapter: AdapterSpec, tokens: list[int]) -> _core.Sequence:
        """A sequence that is to hold `tokens`."""
        sequence = self.sequence(adapter=adapter)
        sequence.invoke(tokens)
        return sequence.core

    def memory(self) -> dict[str, int]:
        """Bytes: "file" (mapped, shared with the page cache), "kv" (pages in use), "adapters", "buffers".

        On a GPU "kv" and "buffers" are in its memory, and its copy of the weights is among the buffers."""
        return {
            "file": self.core.file.size,
            "kv": self.core.kv_bytes,
            "adapters": sum(a.n_bytes for a in self._adapters.values()),
            "buffers": self.core.buffer_bytes,
        }

    # -- life ---------------------------------------------------------------------------------------------------

    @property
    def core(self) -> _core.Model:
        if self._core is None:
            raise ValueError("the model is closed")
        return self._core

    def close(self) -> None:
        """Gives the model up: its sequences end with it, and its memory goes with the last of them."""
        self._core = None
        self._adapters.clear()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._core is None else f"{self.config.arch}, {len(self._adapters)} adapters"
        return f"<lora_edge.Model '{self.path}' ({state})>"


def _per_prompt(key: str, value: Any) -> bool:
    if not isinstance(value, (list, tuple, np.ndarray)):
        return False
    return key != "stop" or any(v is None or isinstance(v, (list, tuple)) for v in value)
