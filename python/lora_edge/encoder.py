"""What an encoder's last hidden states are made into: embeddings of texts, and labels.

Pooling as sentence-transformers does it (Reimers & Gurevych 2019): "mean" over a text's tokens, "cls" for the first
token, "pooler" for the first token through the layer with tanh that BERT was trained with. A classifier's file holds
that layer as `cls` and the one to the labels as `cls.output`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .checks import token_ids
from .encoder_head import HeadParts, Layer, adapted, read_layer, run
from .encoder_names import HEAD, LABELS, LABELS_KEY, PROBLEM, label_names
from .encoder_tokenizer import HF_JSON, Encoded, EncoderTokenizer
from .gguf_file import open_gguf
from .vocab import MODEL

Floats = NDArray[np.float32]
Text = str | tuple[str, str] | Encoded | Seq[int]  # a text, a pair of texts, or ids as they are

POOLINGS = ("mean", "cls", "pooler")
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
_BY_TYPE = {0: "mean", 1: "mean", 2: "cls", 4: "pooler"}  # GGUF's pooling_type; 0: it leaves the choice


@dataclass(frozen=True)
class Classification:
    """label: the likeliest. scores: of each label, as `scores_of` makes them of the logits [labels], which are in the
    same order."""

    label: str
    scores: dict[str, float]
    logits: Floats


class Encoder:
    """The part of an encoder that isn't in the core: its tokenizer, and what comes after the last layer."""

    def __init__(self, path: str, core: _core.Model, metadata: Mapping[str, Any]) -> None:
        self._path, self._n_vocab = path, int(core.config["n_vocab"])
        has_tokenizer = HF_JSON in metadata or MODEL in metadata
        self.tokenizer = EncoderTokenizer.from_metadata(metadata) if has_tokenizer else None
        if self.tokenizer and self.tokenizer.vocab_size > self._n_vocab:
            raise ValueError(
                f"[model] the tokenizer has {self.tokenizer.vocab_size} tokens, the embedding only {self._n_vocab}"
            )
        arch = metadata["general.architecture"]
        self.labels = labels_of(metadata, f"{arch}.{LABELS_KEY}")
        self.pooling = pooling_of(metadata, f"{arch}.pooling_type")
        self.problem = problem_of(metadata.get(PROBLEM), f"[model] {PROBLEM}")
        n = int(core.config["n_embd"])
        tensors = open_gguf(path).tensors
        self._dense = read_layer(tensors, "cls", (n, n))
        self._output = read_layer(tensors, "cls.output", (len(self.labels) or None, n))

    def need_tokenizer(self) -> EncoderTokenizer:
        """ValueError: the file holds none."""
        if self.tokenizer is None:
            raise ValueError(f"'{self._path}' holds no tokenizer: give token ids instead of text")
        return self.tokenizer

    def ids(self, text: Text) -> tuple[list[int], list[int]]:
        """Token ids of a text, and the part of a pair that each belongs to."""
        if isinstance(text, str) or (isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str)):
            tokenizer = self.need_tokenizer()
            first, other = (text, None) if isinstance(text, str) else text
            made = tokenizer.encode(str(first), None if other is None else str(other))
            return made.ids, made.parts
        if isinstance(text, Encoded):
            return token_ids(text.ids, self._n_vocab), text.parts
        ids = token_ids(text, self._n_vocab)
        return ids, [0] * len(ids)

    @property
    def own_labels(self) -> list[str]:
        """The labels of the file's classifier, in the order of its logits; empty where it is none."""
        return [] if self._output is None else named(self.labels, len(self._output.bias))

    @property
    def head_shapes(self) -> dict[str, tuple[int, int]]:
        """(n, k) of the layers on top that the file has, by tensor name."""
        layers = zip(HEAD, (self._dense, self._output))
        return {name: (len(layer.bias), layer.weight.shape[1]) for name, layer in layers if layer is not None}

    def head(self, parts: HeadParts = ()) -> Head:
        """What comes after the last layer, with these adapters. ValueError: two of them replace the same layer."""
        dense, output = (adapted(n, own, parts) for n, own in zip(HEAD, (self._dense, self._output)))
        labels = next((part.labels for part, weight in parts if weight and part.labels), self.labels)
        return Head(self._path, self.pooling, labels, self.problem, dense, output, parts)


def decoder_head(path: str, parts: HeadParts) -> Head:
    """Labels that adapters bring to a decoder: a layer on a text's last token, as transformers' ...ForSequence-
    Classification have it."""
    labels = next((part.labels for part, weight in parts if weight and part.labels), [])
    return Head(path, "last", labels, None, None, adapted(LABELS, None, parts), parts)


@dataclass(frozen=True)
class Head:
    """Pooling and labels of one call. path, pooling, problem: the file's. labels: its, or an adapter's. dense, output:
    None where there are none."""

    path: str
    pooling: str
    labels: list[str]
    problem: str | None
    dense: Layer | None
    output: Layer | None
    parts: HeadParts

    def check_pooling(self, pooling: str | None) -> str:
        """The pooling asked for, or the file's. ValueError: no such pooling, or there is no pooler."""
        pooling = self.pooling if pooling is None else pooling
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; {', '.join(POOLINGS)} are possible")
        if pooling == "pooler" and self.dense is None:
            raise ValueError(f"'{self.path}' has no pooler (cls.weight): use the pooling 'mean' or 'cls'")
        return pooling

    def check_labels(self) -> None:
        """ValueError: there is no layer to labels."""
        if self.output is None:
            raise ValueError(f"'{self.path}' is no classifier: it has no {LABELS}, and no adapter brings one")

    @np.errstate(over="ignore", invalid="ignore")  # what isn't finite is an error, no warning
    def pool(self, hidden: Floats, pooling: str) -> Floats:
        """hidden [tokens, n_embd] of one text -> [n_embd]. ValueError: a number is not finite."""
        if pooling == "mean":
            out = np.asarray(hidden.mean(axis=0, dtype=np.float32))
        elif pooling == "last":
            out = np.asarray(hidden[-1])
        elif pooling == "cls" or self.dense is None:
            out = np.asarray(hidden[0])
        else:
            out = np.asarray(np.tanh(run(HEAD[0], self.dense, self.parts, hidden[0])))
        return self._finite(out)

    @np.errstate(over="ignore", invalid="ignore")
    def classify(self, hidden: Floats) -> Classification:
        """hidden [tokens, n_embd] of one text. ValueError: a logit is not finite."""
        assert self.output is not None
        pooled = self.pool(hidden, "last" if self.pooling == "last" else "pooler")
        logits = self._finite(run(LABELS, self.output, self.parts, pooled))
        by_label = dict(zip(named(self.labels, len(logits)), scores_of(logits, self.problem).tolist()))
        return Classification(max(by_label, key=by_label.__getitem__), by_label, logits)

    def _finite(self, x: Floats) -> Floats:
        if not np.isfinite(x).all():
            raise ValueError(f"'{self.path}': the model gives numbers that are not finite: its weights are damaged")
        return x


def named(labels: list[str], n: int) -> list[str]:
    """The labels, or transformers' names for n that have none."""
    return labels if len(labels) == n else [f"LABEL_{i}" for i in range(n)]


def scores_of(logits: Floats, problem: str | None) -> NDArray[np.float64]:
    """Of logits [labels], as transformers' pipeline makes them: softmax, where one label is right; each one's sigmoid,
    where several may be (multi_label_classification) or there is only one; the logits themselves of a regression."""
    x = logits.astype(np.float64)
    if problem == "regression":
        return x
    if problem == "multi_label_classification" or len(x) == 1:
        return np.asarray(np.exp(-np.logaddexp(0, -x)))
    scores = np.exp(x - x.max())
    return np.asarray(scores / scores.sum())


def problem_of(value: object, where: str) -> str | None:
    """A `problem_type` of transformers; None where there is none. ValueError: it is none of those, and begins with
    `where`."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or value not in PROBLEMS:
        raise ValueError(f"{where} is {str(value)[:40]!r}; {', '.join(PROBLEMS)} are known")
    return value


def labels_of(metadata: Mapping[str, Any], key: str) -> list[str]:
    """ValueError: they are no texts, or one is there twice."""
    return label_names(metadata.get(key, []), f"[model] {key}")


def pooling_of(metadata: Mapping[str, Any], key: str) -> str:
    """ValueError: GGUF's pooling type is none of those that are known here."""
    kind = metadata.get(key, 1)
    if not isinstance(kind, int) or kind not in _BY_TYPE:
        raise ValueError(f"[model] {key} is {str(kind)[:40]}; 0 to 2 (none, mean, cls) and 4 (the pooler) are known")
    return _BY_TYPE[kind]
