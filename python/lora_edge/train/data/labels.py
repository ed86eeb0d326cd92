"""Classification: the classes of a task, and labelled texts to examples.

Either the label is a completion like any other, and a text's class is the label that the model finds likeliest (`scored
labels`, as GPT-3 was evaluated by Brown et al. 2020); or a layer on the last token tells the classes apart (a `head`).
"""

from __future__ import annotations

import string
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...encoder_tokenizer import EncoderTokenizer
from ...tokenizer import Tokenizer
from .encoding import Made, begin
from .example import Example, Ids
from .formats import Labelled
from .problems import bad_file, bad_line, shown

FIELDS = {1: ("text",), 2: ("sentence1", "sentence2")}
SCORED_PROMPTS = {1: "{text}\nlabel:", 2: "{sentence1}\n{sentence2}\nlabel:"}
HEAD_PROMPTS = {1: "{text}", 2: "{sentence1}\n{sentence2}"}


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes, in the order of their indices: by number where all are whole numbers, else by the alphabet.

    answers: the ids that follow the prompt for each class, the end token included; empty with a head.
    """

    names: tuple[str, ...]
    answers: tuple[Ids, ...] = ()

    @property
    def head(self) -> bool:
        """Whether a layer on the last token tells the classes apart."""
        return not self.answers

    def candidates(self, example: Example) -> list[Example]:
        """The example's prompt with each class's answer, only that learned: the likeliest is the model's choice."""
        prompt = example.ids[: example.n_prompt]
        out = []
        for label, answer in enumerate(self.answers):
            ids = np.concatenate([prompt, answer])
            out.append(Example(ids, np.arange(len(ids)) >= len(prompt), example.line, len(prompt), label))
        return out


def find_labels(records: Seq[tuple[int, Labelled]], path: Path) -> tuple[str, ...]:
    """The classes of the training file. ValueError: one class only, or numbers beside texts."""
    first_line, first = records[0]
    for line, record in records:
        if record.number != first.number:
            a, b = ("a number", "a text") if record.number else ("a text", "a number")
            raise bad_line(path, line, f'"label" {shown(record.label)} is {a}, that of line {first_line} is {b}')
    names = {record.label for _, record in records}
    if len(names) == 1:
        raise bad_file(path, f"has one label only, {shown(first.label)}: there is nothing to tell apart")
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


class LabelEncoding:
    """How labelled texts become ids for one model. Of a text that is too long the end is left out, never the label."""

    def __init__(
        self,
        tokenizer: Tokenizer | EncoderTokenizer,
        names: Seq[str],
        n_texts: int,
        *,
        n_ctx: int,
        head: bool,
        prompt: str | None = None,
        mask_prompt: bool = True,
        drop: bool = False,
    ) -> None:
        self._tokenizer, self._n_ctx, self._mask_prompt, self._drop = tokenizer, n_ctx, mask_prompt, drop
        prompts = HEAD_PROMPTS if head else SCORED_PROMPTS
        self._pieces = _pieces(prompts[n_texts] if prompt is None else prompt, FIELDS[n_texts])
        self._index = {name: i for i, name in enumerate(names)}
        if head:
            self.labels = Labels(tuple(names))
        elif isinstance(tokenizer, Tokenizer):
            self.labels = Labels(tuple(names), _answers(tokenizer, names))
        else:
            raise ValueError("[data] an encoder completes no text: classify with a head")

    def make(self, record: Labelled, line: int) -> Made:
        """ValueError: the label is none of the training file's, or the context has no room for the text."""
        if record.label not in self._index:
            known = ", ".join(list(self._index)[:8]) + (", …" if len(self._index) > 8 else "")
            raise ValueError(f'"label" {shown(record.label)} occurs in no line of the training file ({known})')
        label = self._index[record.label]
        answer = [] if self.labels.head else self.labels.answers[label].tolist()
        if isinstance(self._tokenizer, EncoderTokenizer):
            ids, parts, cut = self._encoder_ids(self._tokenizer, record.texts)
        else:
            room = self._n_ctx - max((len(ids) for ids in self.labels.answers), default=0)
            ids, cut = self._prompt_ids(self._tokenizer, record.texts, room)
            parts = None
        if not ids:
            raise ValueError("the text has no tokens in this model's vocabulary")
        if cut and self._drop:
            return Made([], len(ids) + len(answer) + cut)
        learn = np.zeros(len(ids) + len(answer), np.bool_)
        if answer:
            learn[len(ids) if self._mask_prompt else 1 :] = True
        kinds = None if parts is None else np.array(parts, np.int32)
        n_prompt = len(ids)
        return Made([Example(np.array(ids + answer, np.int32), learn, line, n_prompt, label, kinds)], cut)

    def _prompt_ids(self, tokenizer: Tokenizer, texts: Seq[str], room: int) -> tuple[list[int], int]:
        """The prompt's ids in at most `room`, and how many tokens of the texts were left out, of the longest first."""
        given = dict(zip(FIELDS[len(texts)], texts))
        parts = [begin(tokenizer, given.get(self._pieces[0][0], self._pieces[0][1]))]
        movable = []
        last = parts[0][-1] if parts[0] else None
        for field, literal in self._pieces:
            ids = tokenizer.encode(given.get(field, literal), add_bos=False, special=True, after=last)
            if field:
                movable.append(ids)
            parts.append(ids)
            last = ids[-1] if ids else last
        cut = max(0, sum(map(len, parts)) - room)
        _shorten(movable, cut, self._n_ctx)
        return [i for part in parts for i in part], cut

    def _encoder_ids(self, tokenizer: EncoderTokenizer, texts: Seq[str]) -> tuple[list[int], list[int], int]:
        """[CLS] text [SEP], or [CLS] text [SEP] other [SEP], with the part each token belongs to."""
        ids, kinds = tokenizer.encode(texts[0], texts[1] if len(texts) == 2 else None)
        cut = max(0, len(ids) - self._n_ctx)
        if not cut:
            return ids, kinds, 0
        split = kinds.index(1) if 1 in kinds else 0
        heads = [list(range(1, split - 1))] if split else []
        movable = [*heads, list(range(split or 1, len(ids) - 1))]
        keep = {i for part in movable for i in part}
        _shorten(movable, cut, self._n_ctx)
        kept = {i for part in movable for i in part} | (set(range(len(ids))) - keep)
        return [ids[i] for i in sorted(kept)], [kinds[i] for i in sorted(kept)], cut


def _pieces(prompt: str, fields: Seq[str]) -> list[tuple[str, str]]:
    """A prompt such as "{text}\nlabel:" as (field or "", literal text)."""
    try:
        parsed = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"[data] the prompt {shown(prompt)} can't be read: {error}") from None
    pieces: list[tuple[str, str]] = []
    for literal, field, spec, conversion in parsed:
        if literal:
            pieces.append(("", literal))
        if field is not None:
            if field not in fields or spec or conversion:
                raise ValueError(
                    f"[data] the prompt {shown(prompt)} has {shown(field)} in braces; it may have {_braced(fields)}"
                )
            pieces.append((field, ""))
    if {field for field, _ in pieces if field} != set(fields):
        raise ValueError(f"[data] the prompt {shown(prompt)} must have {_braced(fields)}")
    return pieces


def _braced(fields: Seq[str]) -> str:
    return " and ".join(f"{{{field}}}" for field in fields)


def _answers(tokenizer: Tokenizer, names: Seq[str]) -> tuple[Ids, ...]:
    """ " label" and the end token, for each. ValueError: two labels have the same ids."""
    found: dict[tuple[int, ...], str] = {}
    plain = next(iter(tokenizer.encode("label:", add_bos=False)), None)  # a word stands before it, not a control token
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for name in names:
        ids = (*tokenizer.encode(" " + name, add_bos=False, after=plain), *end)
        if ids in found:
            raise ValueError(
                f"[data] the labels {shown(found[ids])} and {shown(name)} are the same tokens in this model's "
                "vocabulary: rename one, or classify with a head"
            )
        found[ids] = name
    return tuple(np.array(ids, np.int32) for ids in found)


def _shorten(parts: Seq[list[int]], excess: int, n_ctx: int) -> None:
    """Takes `excess` items off the ends of the parts, each time off the longest; one stays of each."""
    if excess > sum(max(0, len(part) - 1) for part in parts):
        raise ValueError(f"the context of {n_ctx} tokens has no room for the text beside the prompt and the label")
    for _ in range(excess):
        max(parts, key=len).pop()
