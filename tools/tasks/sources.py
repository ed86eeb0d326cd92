"""Tasks from the data sets beside the project: CLINC150's intents, and plain text in pieces."""

from __future__ import annotations

import json
from pathlib import Path

DATASETS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "datasets"
CLINC150 = "clinc150_small_train_val.json"
TEXTS = {"tinystories": "tinystories_1.5MiB.txt", "tinyshakespeare": "tinyshakespeare_first_90.txt"}
STORY_END = "<|endoftext|>"

Rows = list[dict[str, str]]


def source(name: str, folder: Path = DATASETS) -> Path:
    """A data set's file. FileNotFoundError: it is not here; the data are no part of the project."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' is not here: this task is made of data that are no part of the project")
    return path


def clinc150(intents: int | None = None, out_of_scope: bool = False, folder: Path = DATASETS) -> dict[str, Rows]:
    """CLINC150 (Larson et al. 2019), the small training set: 50 texts for each of 150 intents to train on; of its 20
    for validation ten are valid and ten test.

    intents: only the first so many in the order of the alphabet. out_of_scope: with the texts that are of no intent, as
    the label "oos"."""
    data = json.loads(source(CLINC150, folder).read_text("utf-8"))
    names = sorted({label for _, label in data["train"]})[:intents]
    names += ["oos"] if out_of_scope else []
    given = {split: data[split] + data[f"oos_{split}"] for split in ("train", "val")}
    out: dict[str, Rows] = {"train": [], "valid": [], "test": []}
    seen: dict[str, int] = dict.fromkeys(names, 0)
    for split, rows in given.items():
        for text, label in rows:
            if label in seen:
                seen[label] += split == "val"
                to = "train" if split == "train" else "valid" if seen[label] % 2 else "test"
                out[to].append({"text": text, "label": label.replace("_", " ")})
    return out


def text(name: str, size: int = 800, held_out: float = 0.1, folder: Path = DATASETS) -> dict[str, Rows]:
    """A text in order as rows {"text"} of at most `size` characters: its begin to train on, the last `held_out` of it
    half as valid and half as test. Stories stay whole where they fit; a play is cut between speeches, a long speech
    between its lines. Nothing is left out but a story that the file cuts off."""
    raw = source(TEXTS[name], folder).read_text("utf-8")
    if name == "tinystories":
        stories = raw.split(STORY_END)[:-1]
        rows = [piece for story in stories for piece in pieces(story.strip(), size)]
    else:
        rows = pieces(raw, size)
    a, b = round(len(rows) * (1 - held_out)), round(len(rows) * (1 - held_out / 2))
    return {
        split: [{"text": row} for row in part]
        for split, part in (("train", rows[:a]), ("valid", rows[a:b]), ("test", rows[b:]))
    }


def pieces(raw: str, size: int) -> list[str]:
    """`raw` in pieces of at most `size` characters that, joined, are `raw`: cut after blank lines, else after lines,
    else anywhere."""
    out = [""]
    for part in _cut(raw, size, ("\n\n", "\n", " ")):
        if len(out[-1]) + len(part) > size:
            out.append("")
        out[-1] += part
    return [piece for piece in out if piece]


def _cut(raw: str, size: int, ends: tuple[str, ...]) -> list[str]:
    if not ends:
        return [raw[i : i + size] for i in range(0, len(raw), size)]
    parts = [part + ends[0] for part in raw.split(ends[0])]
    parts[-1] = parts[-1].removesuffix(ends[0])
    return [p for part in parts for p in ([part] if len(part) <= size else _cut(part, size, ends[1:]))]
