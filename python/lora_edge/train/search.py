"""A search over learning rate and rank with Optuna: each trial is a run in OUT/trials/NNN, and the search goes on where
it was stopped, in the middle of a trial too."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .methods import method_class
from .run import train
from .settings import Settings

TRIALS, JOURNAL, TABLE = "trials", "trials.log", "trials.json"
RANKS = (4, 8, 16, 32, 64)
RANDOM = 5  # trials before what was found guides the others
SPAN = 10.0  # rates are tried from lr / SPAN to lr · SPAN


@dataclass(frozen=True)
class Trial:
    """A run of a search. loss: held out; infinity where it became no number."""

    number: int
    lr: float
    rank: int
    loss: float
    out: Path


@dataclass(frozen=True)
class Search:
    """trials: all that are done, the best first. signal: what stopped the search, 0: nothing did."""

    trials: list[Trial]
    signal: int = 0


def search(
    n: int,
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    settings: Settings,
    say: Callable[[str], None] = print,
    resume: bool = False,
    **others: Any,
) -> Search:
    """Makes `n` runs with learning rates from a tenth to ten times settings.lr, and for adapters ranks from 4 to 64
    with the settings' ratio of alpha to rank, by Optuna's TPE (Bergstra et al. 2011) seeded with settings.seed.
    others: for `train`. `out` gets trials.json, the table, and trials.log, Optuna's journal.

    RuntimeError: Optuna is missing. ValueError: the data has nothing held out. FileExistsError: `out` holds a search.
    """
    try:
        import optuna
    except ImportError:
        raise RuntimeError("[train] a search needs Optuna: pip install 'lora_edge[train]'") from None
    if n < 1:
        raise ValueError(f"[train] a search of {n} runs finds nothing: ask for at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("[train] a search is made by one process: leave torchrun out")
    out = Path(out)
    if not resume and (out / JOURNAL).exists():
        raise FileExistsError(f"[train] '{out}' holds a search already: --resume it, or give another folder")
    out.mkdir(parents=True, exist_ok=True)
    study = _study(out, {"model": os.fspath(model), "data": os.fspath(data), "settings": settings.as_dict()})
    space: dict[str, Any] = {
        "lr": optuna.distributions.FloatDistribution(settings.lr / SPAN, settings.lr * SPAN, log=True)
    }
    if method_class(settings.method).trained(settings) == "adapter":
        space["rank"] = optuna.distributions.CategoricalDistribution(RANKS)
    done = _table(study, out, settings)
    while len(done) < n:
        trial = _next(study, space, settings.seed)
        lr, rank = trial.params["lr"], trial.params.get("rank", settings.rank)
        say(f"trial {trial.number + 1}, {len(done)} of {n} done: lr {lr:.3g}, rank {rank}")
        tried = replace(settings, lr=lr, rank=rank, alpha=settings.alpha * rank / settings.rank)
        loss, signal = _run(tried, model, data, _folder(out, trial.number), say, others)
        if signal:
            return Search(done, signal)
        study.tell(trial.number, loss)
        done = _table(study, out, settings)
    return Search(done)


def _study(out: Path, asked: dict[str, Any]) -> Any:
    """The study of the folder's journal. ValueError: it asks something else."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    study = optuna.create_study(storage=storage, study_name="lora_edge", load_if_exists=True)
    before, asked = study.user_attrs.get("asked"), json.loads(json.dumps(asked))
    if before is None:
        study.set_user_attr("asked", asked)
    elif before != asked:
        raise ValueError(f"[train] '{out}' holds a search with other settings: resume with the same ones")
    return study


def _next(study: Any, space: Mapping[str, Any], seed: int) -> Any:
    """The trial that was stopped, or a new one: what it tries follows from the seed and the trials before it."""
    import optuna

    for stopped in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if set(stopped.params) == set(space):
            return stopped
        study.tell(stopped.number, state=optuna.trial.TrialState.FAIL)  # killed before it was asked anything
    number = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=(seed + number) % (1 << 32), n_startup_trials=RANDOM)
    return study.ask(dict(space))


def _run(
    settings: Settings, model: Any, data: Any, folder: Path, say: Callable[[str], None], others: Mapping[str, Any]
) -> tuple[float, int]:
    """The held-out loss of one trial, which goes on where it was stopped, and the signal that stopped it now."""
    try:
        run = train(model, data, folder, settings=settings, resume=folder.exists(), say=say, **others)
    except RuntimeError as error:
        if "is no number" not in str(error):
            raise
        say(str(error))
        return math.inf, 0
    if run.result.finished and run.result.valid_loss is None:
        raise ValueError(f"[train] '{data}' has no valid.jsonl: a search compares the losses of what is held out")
    return run.result.valid_loss or math.inf, run.result.signal


def _folder(out: Path, number: int) -> Path:
    return out / TRIALS / f"{number + 1:03d}"


def _table(study: Any, out: Path, settings: Settings) -> list[Trial]:
    """The trials that are done, the best first, as OUT/trials.json has them."""
    done = [
        Trial(t.number + 1, t.params["lr"], t.params.get("rank", settings.rank), t.value, _folder(out, t.number))
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE"
    ]
    done.sort(key=lambda t: (t.loss, t.number))
    rows = [
        {
            "trial": t.number, "lr": t.lr, "rank": t.rank, "out": f"{TRIALS}/{t.out.name}",
            "valid_loss": t.loss if math.isfinite(t.loss) else None,
        }
        for t in done
    ]  # fmt: skip
    temporary = out / (TABLE + ".tmp")
    temporary.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    temporary.replace(out / TABLE)
    return done
