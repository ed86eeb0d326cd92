"""What the experiments are: bases, data, settings. A run is a call of `lora_edge.train.train`, in its own process."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

STORIES, PLAY = "tinystories", "tinyshakespeare"


@dataclass(frozen=True)
class Run:
    """base: as `bases.base` knows it, or the name of a run of its group, whose model it is. data: of tools/tasks.
    words: for `train`. texts: plain texts whose held-out bits per character are measured. labelled: whether the data
    has labels. also: types in which base and result are written and measured, too."""

    name: str
    base: str
    data: str
    words: dict[str, Any]
    texts: tuple[str, ...] = (STORIES,)
    labelled: bool = False
    also: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _words(method: str, lr: float, steps: int, **more: Any) -> dict[str, Any]:
    options = more.pop("options", {})
    return {
        "method": method,
        "lr": lr,
        "steps": steps,
        "batch_size": 8,
        "schedule": "cosine",
        **more,
        "options": options,
    }


_COMPRESS, _STUDY, _ADAPT = 720, 800, 480  # steps
_CLASSES = {"batch_size": 32, "warmup": 0.05}
_Q4_0: dict[str, Any] = {"type": "q4_0"}
_TEACHER: dict[str, Any] = {"teacher": "656k-f32", "temperature": 1.5, "teacher_share": 0.7}

RUNS = {
    # Smaller files. All begin with the same float weights and see the same batches.
    "compress": [
        Run("full", "656k-f32", STORIES, _words("full", 1e-3, _COMPRESS), also=("q4_0",)),
        Run("qat", "656k-f32", STORIES, _words("qat", 1e-3, _COMPRESS, options=_Q4_0)),
        # On from the trained float weights, where a float model has little more to learn.
        Run("full-on", "full", STORIES, _words("full", 1e-3, _COMPRESS), also=("q4_0",)),
        Run("qat-on", "full", STORIES, _words("qat", 1e-3, _COMPRESS, options=_Q4_0)),
        Run("prune-recover", "656k-f32", STORIES, _words("prune", 1e-3, _COMPRESS, options={"sparsity": 0.5})),
        Run(
            "prune-after", "656k-f32", STORIES,
            _words("prune", 1e-3, _COMPRESS, options={"sparsity": 0.5, "begin": 1.0, "end": 1.0}),
        ),
        Run("student-labels", "student-f32", STORIES, _words("full", 3e-3, _STUDY)),
        Run("student-distil", "student-f32", STORIES, _words("distil", 3e-3, _STUDY, options=_TEACHER)),
    ],
    # What is learned of a new text, and forgotten of the old one.
    "adapt": [
        Run("full", "656k-f32", PLAY, _words("full", 1e-3, _ADAPT), texts=(PLAY, STORIES)),
        *(
            Run(
                f"lora-r{r}", "656k-q8_0", PLAY, _words("lora", 5e-3, _ADAPT, rank=r, alpha=2.0 * r),
                texts=(PLAY, STORIES),
            )
            for r in (1, 4, 16, 64)
        ),
    ],
    # Labels that the model writes, scored. An adapter needs a lower rate, and more steps, to tell paraphrases apart.
    "classify": [
        Run(
            f"{task}-{method}", "656k-f32" if method == "full" else "656k-q8_0", task,
            _words(method, lr, steps, rank=rank, alpha=2.0 * rank, **_CLASSES), labelled=True, texts=(),
        )
        for task, method, lr, steps, rank in (
            ("clinc150", "full", 3e-3, 2000, 16),
            ("clinc150", "lora", 5e-3, 2000, 16),
            ("paraphrase", "full", 3e-3, 8000, 64),
            ("paraphrase", "lora", 1e-3, 12_000, 64),
        )
    ],
}  # fmt: skip


@dataclass
class Measured:
    """One line of results. bits: per character of held-out text, before and after, by text; rounded: the same of base
    and result written in other types; scores: of labels by split; curve: step and held-out loss; facts: what the method
    says at the end; peak_mb: of the whole process."""

    group: str
    run: dict[str, Any]
    bits: dict[str, dict[str, float]] = field(default_factory=dict)
    rounded: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)
