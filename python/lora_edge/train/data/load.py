"""A folder with train.jsonl, valid.jsonl and test.jsonl (or .tsv) to examples."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence as Seq
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ...checks import whole
from ...encoder_tokenizer import EncoderTokenizer
from ...tokenizer import Tokenizer
from .encoding import Encoding, Made, TooLong
from .example import Example
from .formats import Chat, Labelled, Record, format_of, parse
from .labels import LabelEncoding, Labels, find_labels
from .lines import read_lines
from .problems import at_line, bad_file, bad_line
from .report import Report, count

SPLITS = ("train", "valid", "test")
Classify = Literal["labels", "head"]
_OTHER_NAMES = {"dev": "valid", "val": "valid", "validation": "valid", "training": "train", "eval": "valid"}
_MAX_CONTEXT = 1 << 30


@dataclass(frozen=True, eq=False)
class Data:
    """The examples of each split; valid and test are empty where the folder has none.

    labels: the classes, None where the data has none. reports: by split, for what was found and left out. chat: whether
    the chat template wrote the examples. digest: of the training examples, so that a resumed run can tell that it goes
    on with the same.
    """

    train: list[Example]
    valid: list[Example]
    test: list[Example]
    labels: Labels | None = None
    reports: dict[str, Report] = field(default_factory=dict)
    chat: bool = False

    def in_order(self, names: Seq[str]) -> Data:
        """With the classes numbered as in `names`, if these are the same; else as they are."""
        if self.labels is None or set(names) != set(self.labels.names):
            return self
        number = [names.index(name) for name in self.labels.names]
        train, valid, test = (
            [replace(e, label=number[e.label]) for e in split] for split in (self.train, self.valid, self.test)
        )
        return Data(train, valid, test, replace(self.labels, names=tuple(names)), self.reports)

    def lines(self) -> list[str]:
        """What to show before training begins."""
        out = [line for report in self.reports.values() for line in report.lines()]
        if self.labels is not None:
            out.append(f"{len(self.labels.names)} labels, {'by a head' if self.labels.head else 'scored'}")
        return out

    @property
    def digest(self) -> str:
        """SHA-256 of the ids and masks of the training examples."""
        h = hashlib.sha256()
        for example in self.train:
            for e in (example, example.rejected):
                if e is not None:
                    h.update(f"{len(e)},{e.label};".encode())
                    h.update(e.ids.tobytes())
                    h.update(e.learn.tobytes())
        return h.hexdigest()


def load_data(
    folder: str | os.PathLike[str],
    tokenizer: Tokenizer | EncoderTokenizer,
    *,
    n_ctx: int,
    mask_prompt: bool = True,
    classify: Classify | None = None,
    label_prompt: str | None = None,
    chat_template: bool | None = None,
    too_long: TooLong = "truncate",
) -> Data:
    """Reads a folder's train.jsonl, and valid.jsonl and test.jsonl where they are (or .tsv with a header).

    Each file has one format, told by its first line: {"text"}; {"prompt", "completion"}; {"messages"}; {"prompt",
    "chosen", "rejected"}; {"text", "label"}; {"sentence1", "sentence2", "label"}, also under GLUE's names.

    n_ctx: the longest example in tokens. mask_prompt: learn completions and the assistant's turns alone; False: all.
    classify: how labels are learned, "labels" (as text that is scored) or "head"; None: "labels", and for encoders
    "head". label_prompt: what stands around a labelled text, such as "{text}\\nlabel:". chat_template: whether prompts
    and completions go through the model's template; None: where it has one. too_long: "truncate", "split" (texts to
    pieces) or "drop".

    FileNotFoundError: no folder, or no training file. ValueError names the file, the line and what is wrong with it.
    """
    n_ctx = whole("n_ctx", n_ctx, 2, _MAX_CONTEXT)
    for name, value, known in (("too_long", too_long, TooLong), ("classify", classify, Classify)):
        if value is not None and value not in get_args(known):
            raise ValueError(f"{name} is {value!r}; {', '.join(map(repr, get_args(known)))} are possible")
    encoder = isinstance(tokenizer, EncoderTokenizer)
    head = (classify or ("head" if encoder else "labels")) == "head"
    files = find_files(Path(folder))
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    reports: dict[str, Report] = {}
    labelled: LabelEncoding | None = None
    chat = False
    for split, path in files.items():
        kind, records = _records(path)
        trained = reports["train"].format if reports else kind
        if kind != trained and {kind, trained} & {"label", "pair"}:
            raise bad_file(path, f"has the format {kind}, the training file {trained}: use one task for all files")
        make: Callable[[Any, int], Made]
        if kind in ("label", "pair"):
            labels = [(line, r) for line, r in records if isinstance(r, Labelled)]
            if labelled is None:
                labelled = LabelEncoding(
                    tokenizer, find_labels(labels, path), len(labels[0][1].texts), n_ctx=n_ctx, head=head,
                    prompt=label_prompt, mask_prompt=mask_prompt, drop=too_long == "drop",
                )  # fmt: skip
            make = labelled.make
        else:
            if isinstance(tokenizer, EncoderTokenizer) or classify is not None:
                why = "the model is an encoder" if encoder else f"classify={classify!r}"
                raise bad_file(path, f"has no labels, which are needed as {why}: its format is {kind}")
            encoding = _encoding(tokenizer, path, records, n_ctx, mask_prompt, chat_template, too_long)
            make, chat = encoding.make, chat or (kind != "text" and encoding.uses_template)
        splits[split], reports[split] = _examples(path, kind, records, make)
    trained_on = {e.ids.tobytes() for e in splits["train"]}
    for split, report in reports.items():
        if split != "train":
            repeated = sum(e.ids.tobytes() in trained_on for e in splits[split])
            reports[split] = replace(report, repeated=repeated)
    return Data(**splits, labels=None if labelled is None else labelled.labels, reports=reports, chat=chat)


def find_files(folder: Path) -> dict[str, Path]:
    """The files of the splits that are there, the training file always."""
    if not folder.is_dir():
        number = errno.ENOTDIR if folder.exists() else errno.ENOENT
        raise OSError(number, os.strerror(number), os.fspath(folder))
    files: dict[str, Path] = {}
    for split in SPLITS:
        found = [path for path in (folder / f"{split}.jsonl", folder / f"{split}.tsv") if path.exists()]
        if len(found) == 2:
            raise ValueError(f"[data] '{folder}' has both {found[0].name} and {found[1].name}: keep one")
        if found:
            files[split] = found[0]
    for name, split in _OTHER_NAMES.items():
        for ending in (".jsonl", ".tsv"):
            if split not in files and (folder / (name + ending)).exists():
                raise FileNotFoundError(f"[data] '{folder}' has {name}{ending}: rename it to {split}{ending}")
    if "train" not in files:
        raise FileNotFoundError(f"[data] '{folder}' has no train.jsonl and no train.tsv")
    return files


def _records(path: Path) -> tuple[str, list[tuple[int, Record]]]:
    """The format of a file, and its records with their lines."""
    kind, first = "", 0
    records: list[tuple[int, Record]] = []
    for line, value in read_lines(path):
        with at_line(path, line):
            found = format_of(value)
            if kind and found != kind:
                raise ValueError(f"has the format {found}, line {first} has {kind}: one format per file")
            if not kind:
                kind, first = found, line
            records.append((line, parse(value, kind)))
    if not records:
        raise bad_file(path, "has a header and no rows")
    return kind, records


def _encoding(
    tokenizer: Tokenizer,
    path: Path,
    records: list[tuple[int, Record]],
    n_ctx: int,
    mask_prompt: bool,
    chat_template: bool | None,
    too_long: TooLong,
) -> Encoding:
    encoding = Encoding(tokenizer, n_ctx, mask_prompt, chat_template, too_long)
    line, record = records[0]
    if tokenizer.chat_template is None and (isinstance(record, Chat) or chat_template):
        raise bad_line(
            path,
            line,
            "needs a chat template, and the model has none (tokenizer.chat_template): write prompts and completions",
        )
    return encoding


def _examples(
    path: Path, kind: str, records: list[tuple[int, Record]], make: Callable[[Any, int], Made]
) -> tuple[list[Example], Report]:
    examples: list[Example] = []
    truncated = cut = dropped = dropped_tokens = lost = 0
    for line, record in records:
        with at_line(path, line):
            made = make(record, line)
        examples += made.examples
        lost += made.lost
        if not made.examples:
            dropped, dropped_tokens = dropped + 1, dropped_tokens + made.cut
        elif made.cut:
            truncated, cut = truncated + 1, cut + made.cut
    if not examples:
        raise bad_file(path, f"has nothing left: all of its {dropped} lines are too long")
    tokens, learned, longest = count(examples)
    return examples, Report(
        path, kind, len(examples), tokens, learned, longest, truncated, cut, dropped, dropped_tokens, lost
    )
