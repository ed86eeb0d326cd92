"""verify: whether a model says what another program, or the file it was made of, says."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import hub
from ..checks import whole
from ..encoder_names import ENCODER
from ..gguf_file import open_gguf
from .divergence import Divergence, diverged
from .encoders import EncoderReport, verify_encoder
from .llama_cpp import WINDOW
from .numbers import INPUT_LIMITS, LIMITS, Distance, Limits, coarser, measure
from .sides import LlamaCppSide, Loras, OurSide, Side, TransformersSide

LLAMA_CPP = "llama.cpp"
DEFAULT_TOKENS = 1024
MAX_TOKENS = 1 << 20
LONGEST_TOKEN = 16  # characters that a token takes at most, on the whole: text beyond is not looked at
DIVERGED_ROWS = 64  # tokens whose inputs of all linears are compared

TEXT = """Once upon a time, in a village by the sea, there lived an old clockmaker. Every morning at 7:45 he opened his
shop, and every evening he wound 123 clocks, one after another: tick, tock. "What time is it?" the children asked.

def area(width: float, height: float) -> float:
    return width * height  # in square metres

Der schnelle braune Fuchs springt über den faulen Hund. El niño comió una manzana. Быстрая лиса. 今日は良い天気です。 🙂
The sum of 17 and 25 is 42; half of it is 21. In 1969, two people walked on the Moon, and 600 million watched.
"""


@dataclass(frozen=True)
class VerifyReport:
    """ok: token ids are the same and the distance is within the limits of `type`, the coarser of both weights' types.

    ids_equal: None where either has no tokenizer. different_id: position of the first id that differs.
    errors: ‖x - y‖ / ‖y‖ of each linear's input, where both sides show them and the limits are exceeded.
    """

    model: str
    against: str
    type: str
    tokens: int
    ids_equal: bool | None
    different_id: int | None
    distance: Distance
    limits: Limits
    divergence: Divergence | None
    errors: dict[str, float]

    @property
    def ok(self) -> bool:
        return self.ids_equal is not False and self.limits.passed(self.distance)

    @property
    def verdict(self) -> str:
        """One line."""
        within = f"within the limits of {self.type} ({self.limits})"
        passed = self.limits.passed(self.distance)
        if self.ids_equal is False:
            return f"DIFFERENT: token ids, from position {self.different_id} on; logits {within}: {passed}"
        if passed:
            return f"the same {within} on {self.tokens} tokens"
        return f"DIFFERENT: not {within}; {self.divergence or 'there are no layers to compare'}"

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "verdict": self.verdict, **asdict(self)}


def verify(
    model: str | os.PathLike[str],
    against: str | os.PathLike[str],
    *,
    adapters: Loras = (),
    merged: bool = False,
    text: str | None = None,
    tokens: int = DEFAULT_TOKENS,
) -> VerifyReport | EncoderReport:
    """Compares a GGUF model, with adapters (path, weight) beside it, with a reference: a Hugging Face folder (run by
    transformers in float32, adapters by PEFT), another GGUF file (run here), or "llama.cpp" on the same file.

    merged: the reference has the adapters in its weights, not beside it. text: to run, a built-in one by default;
    where the model has no tokenizer, random ids. tokens: that are compared at most, in windows of 256. Keys and values
    are float32 everywhere. An encoder runs each line as a text beside a folder or a file; its hidden states, embeddings
    and labels are compared. ValueError: the text is empty, a file is damaged, the vocabularies differ in size, or the
    reference's program is not installed.
    """
    whole("tokens", tokens, 1, MAX_TOKENS)
    if text is not None and not text.strip():
        raise ValueError("[verify] the text is empty: there is nothing to compare")
    model, against = hub.local(model), hub.local(against)
    adapters = [(hub.local(path), weight) for path, weight in adapters]
    if open_gguf(model).metadata.get("general.architecture") == ENCODER:
        return verify_encoder(model, against, () if merged else adapters, adapters, text or TEXT, tokens)
    ours = OurSide(model, adapters)
    theirs: Side | None = None
    try:
        theirs = _reference(model, against, () if merged else adapters)
        return _compare(ours, theirs, text, tokens)
    finally:
        ours.close()
        if theirs is not None:
            theirs.close()


def _reference(model: str | os.PathLike[str], against: str | os.PathLike[str], adapters: Loras) -> Side:
    if os.fspath(against) == LLAMA_CPP:
        return LlamaCppSide(model, adapters)
    if not os.path.exists(against):
        raise FileNotFoundError(f"{against}: no such file or folder; the third way is '{LLAMA_CPP}'")
    return (TransformersSide if Path(against).is_dir() else OurSide)(against, adapters)


def _compare(ours: OurSide, theirs: Side, text: str | None, tokens: int) -> VerifyReport:
    shown = (text or TEXT)[: LONGEST_TOKEN * tokens]
    ids = ours.ids(shown)
    if ids is None and text is not None:
        raise ValueError(f"[verify] '{ours.name}' holds no tokenizer: leave the text out, and random ids are run")
    others = theirs.ids(shown) if ids is not None else None
    equal = None if ids is None or others is None else ids == others
    if ids is None:
        ids = np.random.default_rng(0).integers(0, ours.model.config.n_vocab, min(tokens, WINDOW)).tolist()
    first = None
    if equal is False:
        assert others is not None
        first = next((i for i, (a, b) in enumerate(zip(ids, others)) if a != b), min(len(ids), len(others)))
    used = ids[:tokens]
    step = min(WINDOW, ours.model.n_ctx)
    windows = [used[i : i + step] for i in range(0, len(used), step)]
    pairs = [(ours.logits(w), theirs.logits(w)) for w in windows]
    kind = coarser(ours.type, theirs.type)
    distance, limits = measure(pairs), LIMITS[kind]
    divergence, errors = None, dict[str, float]()
    if not limits.passed(distance):
        worst = max(zip(windows, pairs), key=lambda item: float(np.abs(item[1][0] - item[1][1]).max()))[0]
        x, y = (side.inputs(worst[:DIVERGED_ROWS]) for side in (ours, theirs))
        divergence, errors = diverged(x, y, INPUT_LIMITS[kind])
    return VerifyReport(
        ours.name, theirs.name, kind, len(used), equal, first, distance, limits, divergence, errors
    )  # fmt: skip
