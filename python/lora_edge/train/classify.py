"""The class of a text on the model as it is deployed: by its head, or by scored labels, the likeliest of them after the
text's prompt."""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from ..adapter import AdapterSpec
from ..encoder import Text
from ..encoder_tokenizer import Encoded
from ..model import Model
from ..sequence import Sequence
from .data import Example, Labels

TEXTS = 32  # that a head tells apart in a call
Path = tuple[int, ...]  # the first tokens of an answer


def predict(model: Model, examples: Seq[Example], labels: Labels, *, adapter: AdapterSpec = None) -> NDArray[np.int64]:
    """For each example the likeliest class [n]: by the head, or that whose answer has the largest log-probability after
    the example's prompt.

    The answers form a tree of tokens, and a longer path is never likelier than its beginning; so the best path is
    followed first, and the first whole answer is the likeliest of all. Of 150 labels few are ever computed.
    ValueError: there is no head for labels that are told apart by one.
    """
    if labels.head:
        return _by_head(model, examples, adapter)
    nexts, ends = _tree(labels.answers)
    found = []
    for example in examples:
        prompt = model.sequence(adapter=adapter)
        prompt.feed(example.ids[: example.n_prompt].tolist())
        found.append(_best(prompt, nexts, ends))
    return np.array(found, np.int64)


def _by_head(model: Model, examples: Seq[Example], adapter: AdapterSpec) -> NDArray[np.int64]:
    found: list[int] = []
    for i in range(0, len(examples), TEXTS):
        texts: list[Text] = []
        for e in examples[i : i + TEXTS]:
            texts.append(Encoded(e.ids.tolist(), [0] * len(e) if e.parts is None else e.parts.tolist()))
        found += [int(c.logits.argmax()) for c in model.classify(texts, adapter=adapter)]
    return np.array(found, np.int64)


def _tree(answers: Seq[NDArray[np.int32]]) -> tuple[dict[Path, list[int]], dict[Path, int]]:
    """The tokens that may follow each path, and the class of each whole answer."""
    nexts: dict[Path, list[int]] = {}
    ends: dict[Path, int] = {}
    for label, answer in enumerate(answers):
        path: Path = tuple(answer.tolist())
        ends[path] = label
        for i, token in enumerate(path):
            after = nexts.setdefault(path[:i], [])
            if token not in after:
                after.append(token)
    return nexts, ends


def _best(prompt: Sequence, nexts: dict[Path, list[int]], ends: dict[Path, int]) -> int:
    """The class of the likeliest answer; of equally likely ones the lowest."""
    # (minus log-probability, class if the answer ends here, path, the sequence before the path's last token)
    heap: list[tuple[float, int, Path, Sequence]] = []
    path: Path = ()
    cost, sequence = 0.0, prompt
    while True:
        logits = sequence.logits().astype(np.float64)
        total = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        for token in nexts[path]:
            longer = (*path, token)
            price = cost + float(total - logits[token])
            if longer in ends:
                heapq.heappush(heap, (price, ends[longer], longer, sequence))
            if longer in nexts:
                heapq.heappush(heap, (price, len(ends), longer, sequence))
        cost, label, path, before = heapq.heappop(heap)
        if label < len(ends):
            return label
        sequence = before.fork()
        sequence.feed(path[-1:])
