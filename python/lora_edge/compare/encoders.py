"""verify for encoders: hidden states, embeddings and labels of texts, beside transformers or another file."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..adapter import head_parts
from ..checks import whole
from ..encoder import Text, scores_of
from ..model import Model
from ..taps import observed
from .divergence import Divergence, Inputs, diverged
from .numbers import INPUT_LIMITS, Floats, coarser
from .sides import Loras, TransformersSide, type_of

MAX_ABS = 1e-3  # of hidden states and logits, where all weights are float32
MAX_TEXT = 256  # tokens
FIRST_ID = 5  # of random texts: the ids below are special ones, which RoBERTa gives positions of their own
Ids = tuple[list[int], list[int]]  # tokens, and the part of a pair that each belongs to


@dataclass(frozen=True)
class EncoderReport:
    """ok: token ids are the same and the distances are within the limits of `type`, the coarser of both weights' types.

    ids_equal: None where either has no tokenizer; different_text: the first text whose ids differ. error: ‖x - y‖ / ‖y‖
    of all last hidden states, y the reference's; max_abs: of x - y. cosine: the least between two embeddings of a text.
    logits: largest |Δlogit| of labels, probability: of their probabilities, top1: the share of texts with the same
    label; None where either is no classifier. errors: of each linear's input, where the limits are exceeded.
    """

    model: str
    against: str
    type: str
    texts: int
    tokens: int
    ids_equal: bool | None
    different_text: int | None
    error: float
    max_abs: float
    cosine: float
    logits: float | None
    probability: float | None
    top1: float | None
    limit: float
    divergence: Divergence | None
    errors: dict[str, float]

    @property
    def within(self) -> bool:
        """Whether the distances are within the limits."""
        if self.type == "f32" and not max(self.max_abs, self.logits or 0) <= MAX_ABS:
            return False
        return self.error <= self.limit and (self.probability or 0) <= self.limit

    @property
    def ok(self) -> bool:
        return self.ids_equal is not False and self.within

    @property
    def verdict(self) -> str:
        """One line."""
        within = f"within the limits of {self.type} (error ≤ {self.limit:g})"
        if self.ids_equal is False:
            return f"DIFFERENT: token ids, from text {self.different_text} on; numbers {within}: {self.within}"
        if self.within:
            return f"the same {within} on {self.texts} texts of {self.tokens} tokens"
        return f"DIFFERENT: not {within}; {self.divergence or 'there are no layers to compare'}"

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "verdict": self.verdict, **asdict(self)}


class Side(Protocol):
    """One of two that are compared. labels: how many it has, 0 for none."""

    name: str
    type: str
    labels: int

    def ids(self, text: str) -> list[int] | None: ...  # None: it has no tokenizer
    def run(self, text: Ids) -> tuple[Floats, Floats | None]: ...  # [tokens, n_embd], [labels]
    def inputs(self, text: Ids) -> Inputs: ...
    def close(self) -> None: ...


class OurEncoder:
    """This engine on a GGUF file."""

    def __init__(self, path: str | os.PathLike[str], loras: Loras) -> None:
        self.name, self.type = os.fspath(path), type_of(path)
        self.model = Model(path, kv_type="f32")
        self.encoder = self.model.need_encoder()
        self._adapter = {str(i): weight for i, (_, weight) in enumerate(loras)} or None
        for i, (lora, _) in enumerate(loras):
            self.model.load_adapter(lora, name=str(i))
        self.head = self.encoder.head(head_parts(self._adapter, self.model.adapters))
        self.labels = 0 if self.head.output is None else len(self.head.output.bias)

    @property
    def longest(self) -> int:
        return min(MAX_TEXT, self.model.n_ctx)

    def ids(self, text: str) -> list[int] | None:
        return self.encoder.ids(text)[0] if self.encoder.tokenizer else None

    def run(self, text: Ids) -> tuple[Floats, Floats | None]:
        hidden = self.model.core.encode([(self.model.sequence(adapter=self._adapter).core, *text)])
        return hidden, self.head.classify(hidden).logits if self.labels else None

    def embedding(self, hidden: Floats) -> Floats:
        """[n_embd] of a text's hidden states, pooled as the file says."""
        return self.head.pool(hidden, self.head.check_pooling(None))

    def inputs(self, text: Ids) -> Inputs:
        found: dict[str, list[Floats]] = {}

        def see(names: list[str], x: Floats) -> None:
            for name in names:
                found.setdefault(name, []).append(x)

        with observed(self.model, see):
            self.run(text)
        return {name: np.concatenate(rows) for name, rows in found.items()}

    def close(self) -> None:
        self.model.close()


class TransformersEncoder(TransformersSide):
    """transformers in float32 on a Hugging Face folder, with PEFT's adapters; with `labels` where ours has them."""

    def __init__(self, folder: str | os.PathLike[str], loras: Loras, labels: int) -> None:
        if labels:
            super().__init__(folder, loras, "AutoModelForSequenceClassification", num_labels=labels)
        else:
            super().__init__(folder, loras, "AutoModel")
        self.labels = labels

    def run(self, text: Ids) -> tuple[Floats, Floats | None]:
        ids, parts = (self._torch.tensor([x]) for x in text)
        with self._torch.no_grad():
            out = self._model(input_ids=ids, token_type_ids=parts, output_hidden_states=True)
        hidden = np.asarray(out.hidden_states[-1][0].numpy())
        return hidden, np.asarray(out.logits[0].numpy()) if self.labels else None

    def inputs(self, ids: Any) -> Inputs:
        return self.seen(lambda: self.run(ids))


def verify_encoder(
    model: str | os.PathLike[str],
    against: str | os.PathLike[str],
    reference_loras: Loras,
    loras: Loras,
    text: str,
    tokens: int,
) -> EncoderReport:
    """Each line of `text` is one to run, at most `tokens` in all; the reference is a folder or another GGUF file.
    ValueError: it is llama.cpp, is of another width, or can't be loaded."""
    if not os.path.exists(against):
        raise ValueError(f"[verify] '{os.fspath(against)}': an encoder is compared with a folder or another GGUF file")
    ours = OurEncoder(model, loras)
    theirs: Side | None = None
    try:
        if Path(against).is_dir():
            theirs = TransformersEncoder(against, reference_loras, ours.labels)
        else:
            theirs = OurEncoder(against, reference_loras)
        return _compare(ours, theirs, [line for line in text.splitlines() if line.strip()], tokens)
    finally:
        ours.close()
        if theirs is not None:
            theirs.close()


def _texts(ours: OurEncoder, lines: Seq[str], tokens: int) -> list[Ids]:
    """Ids of the lines, and of the first two as a pair where the model knows pairs; random ones without a tokenizer."""
    if ours.encoder.tokenizer is None:
        rng = np.random.default_rng(0)
        n_vocab = ours.model.config.n_vocab
        first = FIRST_ID if n_vocab > 2 * FIRST_ID else 0
        sizes = [min(n, ours.longest, tokens) for n in (1, 7, 64)]
        return [(rng.integers(first, n_vocab, n).tolist(), [0] * n) for n in sizes]
    texts: list[Ids] = []
    pairs: list[Text] = [(lines[0], lines[1])] if len(lines) > 1 and ours.model.config.n_parts > 1 else []
    for line in (*lines[:2], *pairs, *lines[2:]):
        ids, parts = (x[: min(ours.longest, tokens)] for x in ours.encoder.ids(line))
        tokens -= len(ids)
        if ids:
            texts.append((ids, parts))
    return texts


def _compare(ours: OurEncoder, theirs: Side, lines: Seq[str], tokens: int) -> EncoderReport:
    whole("tokens", tokens, 1, 1 << 20)
    texts = _texts(ours, lines, tokens)
    different = None
    known = ours.encoder.tokenizer is not None and bool(lines) and theirs.ids(lines[0]) is not None
    if known:
        different = next((i for i, line in enumerate(lines) if ours.ids(line) != theirs.ids(line)), None)
    runs = [(ours.run(text), theirs.run(text)) for text in texts]
    hidden = [(x, y) for (x, _), (y, _) in runs]
    for x, y in hidden:
        if x.shape != y.shape:
            raise ValueError(f"[verify] hidden states of shapes {x.shape} and {y.shape}: these are different models")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("[verify] a hidden state is not a finite number")
    every, reference = (np.concatenate(side) for side in zip(*hidden))
    error = float(np.linalg.norm(every - reference) / max(float(np.linalg.norm(reference)), 1e-30))
    kind = coarser(ours.type, theirs.type)
    logits = [(x, y) for (_, x), (_, y) in runs if x is not None and y is not None]
    if any(x.shape != y.shape for x, y in logits):
        raise ValueError("[verify] the two have different numbers of labels")
    regression = ours.encoder.problem == "regression"  # whose numbers have no scale: sigmoids are compared
    scores = partial(scores_of, problem=None if regression else ours.encoder.problem)
    same = [int(x.argmax()) == int(y.argmax()) for x, y in logits]
    report = EncoderReport(
        ours.name, theirs.name, kind, len(texts), len(every), different is None if known else None, different, error,
        float(np.abs(every - reference).max()), min(_cosine(ours.embedding(x), ours.embedding(y)) for x, y in hidden),
        max((float(np.abs(x - y).max()) for x, y in logits), default=None),
        max((float(np.abs(scores(x) - scores(y)).max()) for x, y in logits), default=None),
        sum(same) / len(same) if same else None, INPUT_LIMITS[kind], None, {},
    )  # fmt: skip
    if report.within:
        return report
    worst = max(range(len(texts)), key=lambda i: float(np.abs(hidden[i][0] - hidden[i][1]).max()))
    where, errors = diverged(ours.inputs(texts[worst]), theirs.inputs(texts[worst]), INPUT_LIMITS[kind])
    return replace(report, divergence=where, errors=errors)


def _cosine(x: Floats, y: Floats) -> float:
    return float(np.vdot(x, y) / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-30))
