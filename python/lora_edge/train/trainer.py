"""The loop: batches, gradients, steps, checkpoints, measurements."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import lean
from .checkpoint import last_checkpoint, save_checkpoint
from .data import Batch, Batches, Data
from .eight_bits import AdamW8bit
from .group import Group
from .guard import Stop, cool_down, graceful
from .method import Method
from .settings import EIGHT_BITS, Settings, rate

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
OPEN = ("steps", "epochs")  # settings that a resumed run may change where the schedule is constant


@dataclass
class Plan:
    """When to look up: every so many steps; 0: at the end only. max_temp: °C, None: any."""

    log_every: int = 10
    eval_every: int = 0
    save_every: int = 0
    max_temp: float | None = None


@dataclass
class Result:
    """steps made in all, and whether these are all that were asked for; losses in nats per learned token; signal: what
    stopped the run, 0: nothing did."""

    steps: int
    finished: bool
    loss: float
    valid_loss: float | None
    tokens: int
    seconds: float
    best: dict[str, float] = field(default_factory=dict)
    signal: int = 0


class Trainer:
    """One run of a method over examples. `out` holds metrics.jsonl and checkpoints/; everything else is the caller's.

    Bits: a run that is resumed from a checkpoint goes on as if it hadn't stopped, on the same machine with the same
    threads. Two processes give the bits of one that makes as many parts of each batch (accumulate)."""

    def __init__(
        self,
        method: Method,
        settings: Settings,
        data: Data,
        out: Path,
        plan: Plan | None = None,
        say: Callable[[str], None] = print,
        show: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.method, self.settings, self.out = method, settings, out
        self.plan, self.say, self.show = plan or Plan(), say, show or (lambda line: None)
        self.group = Group()
        self.n_parts = settings.accumulate * self.group.size
        if settings.batch_size % self.n_parts:
            inside = f" in {settings.accumulate} parts (accumulate)" if settings.accumulate > 1 else ""
            raise ValueError(
                f"[train] batch_size {settings.batch_size}{inside} can't be divided among {self.group.size} processes "
                f"(torchrun): make it a multiple of {self.n_parts}"
            )
        self.data, self.head = data, data.labels is not None and data.labels.head
        self.batches = Batches(
            data.train, settings.batch_size, seed=settings.seed, pack=settings.pack, length=settings.max_length,
            head=self.head,
        )  # fmt: skip
        self.total = settings.steps or max(1, round(settings.epochs * len(self.batches)))
        method.start(self.total)
        self.parameters = list(method.parameters().values())
        self.optimizer = self._optimizer()
        self.peaks = [float(g["lr"]) for g in self.optimizer.param_groups]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.loss = math.nan
        self.valid_loss: float | None = None
        self.complete = False  # whether the checkpoint it resumed from was the last

    def _optimizer(self) -> lean.Optimizer:
        lean.leave_compiler_out()
        adamw = partial(torch.optim.AdamW, fused=True)
        kind = {"sgd": torch.optim.SGD, "adamw": adamw, EIGHT_BITS: AdamW8bit}[self.settings.optimizer]
        groups = [g for g in self.method.groups() if g["params"]]
        made: lean.Optimizer = kind(groups, lr=self.settings.lr, weight_decay=self.settings.weight_decay)
        return made

    # -- running --------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """To the last step, or to the first signal: then a checkpoint is left. RuntimeError: the loss is no number."""
        stopped = False
        with graceful() as stop:
            while self.step < self.total:
                stopped = self.group.agree(bool(stop))
                if stopped:
                    break
                self._heat(stop)
                self._one_step()
                done = self.step == self.total
                if _due(self.step, self.plan.eval_every) and not done:
                    self.evaluate()
                if _due(self.step, self.plan.save_every) and not done:
                    self.save()
            if not stopped and not self.complete:
                self.evaluate()
            if not self.complete:
                self.save()
        number = (stop.signal or signal.SIGTERM) if stopped else 0  # another process may have been told
        if stopped:
            self.say(f"{signal.Signals(number).name}: stopped after step {self.step}, checkpoint kept; --resume")
        return Result(self.step, not stopped, self.loss, self.valid_loss, self.tokens, self.seconds, signal=int(number))

    def _one_step(self) -> None:
        began = time.perf_counter()
        batch = self.batches.at(self.step)
        mine = self._mine(batch)
        learned = max(1, self.method.units(batch))
        factor = rate(self.step, self.total, self.settings.warmup, self.settings.schedule)
        for group, peak in zip(self.optimizer.param_groups, self.peaks):
            group["lr"] = peak * factor
        losses = []
        for number, part in mine:
            torch.manual_seed(_stream(self.settings.seed, self.step, number))
            losses.append(self.method.learn(part, 1.0 / learned).total if len(part.ids) else 0.0)
        (total,) = self.group.sum([sum(losses)])  # of all processes: where one finds no number, all stop
        if not math.isfinite(total):
            bad = [part for (_, part), loss in zip(mine, losses) if not math.isfinite(loss)]
            raise RuntimeError(self._no_number("the loss", *(bad or [batch])))
        self.group.sum_gradients(self.parameters)
        self.method.before_update(self.step)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip or math.inf))
        if not math.isfinite(norm):
            raise RuntimeError(self._no_number("the gradient's norm", batch))
        lean.step(self.optimizer)
        self.method.after_update(self.step)
        lean.forget_gradients(self.optimizer)
        self.loss = total / learned
        self.step += 1
        tokens = batch.n_inputs
        self.tokens += tokens
        seconds = time.perf_counter() - began
        self.seconds += seconds
        line = {
            "step": self.step,
            "loss": self.loss,
            "lr": self.settings.lr * factor,
            "grad_norm": norm,
            "tokens": self.tokens,
            "tokens_per_second": tokens / seconds,
            "seconds": self.seconds,
        }
        if _due(self.step, self.plan.log_every) or self.step in (1, self.total):
            self.write(line)
        self.show({**line, "total": self.total})

    def _mine(self, batch: Batch) -> list[tuple[int, Batch]]:
        """This process's parts of a batch with their numbers. A part is the same rows, with the same random numbers, in
        whatever process it is made."""
        first = self.group.rank * self.settings.accumulate
        return list(enumerate(batch.split(self.n_parts)))[first : first + self.settings.accumulate]

    def _no_number(self, what: str, *parts: Batch) -> str:
        lines = [str(n) for part in parts for n in part.lines]
        shown = ", ".join(lines[:8]) + (" ..." if len(lines) > 8 else "")
        report = self.data.reports.get("train")
        file = "the training file" if report is None else f"'{report.file}'"
        return (
            f"[train] {what} of step {self.step + 1} is no number (lines {shown} of {file}): lower lr (now "
            f"{self.settings.lr:g}) or grad_clip; checkpoints are kept"
        )

    def _heat(self, stop: Stop) -> None:
        if self.plan.max_temp is not None:
            cool_down(self.plan.max_temp, self.say, stop)

    def evaluate(self) -> float | None:
        """Mean loss of the held-out examples, in nats per learned token."""
        if not self.data.valid:
            return None
        total = n = 0.0
        for batch in Batches(self.data.valid, self.settings.batch_size, head=self.head, shuffle=False).epoch():
            for _, part in self._mine(batch):
                if len(part.ids):
                    loss = self.method.measure(part)
                    total, n = total + loss.total, n + loss.n
        total, n = self.group.sum([total, n])
        self.valid_loss = total / max(1.0, n)
        line = {"step": self.step, "valid_loss": self.valid_loss, **self.method.facts()}
        self.write(line)
        self.show({**line, "total": self.total})
        return self.valid_loss

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        if not self.group.first:
            return
        save_checkpoint(self.out / CHECKPOINTS, self.step, {
            "step": self.step,
            "total": self.total,
            "settings": json.dumps(self.settings.as_dict()),
            "data": self.data.digest,
            "parameters": {name: x.detach() for name, x in self.method.parameters().items()},
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state(),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": self.loss,
            "valid_loss": self.valid_loss,
        })  # fmt: skip

    def resume(self) -> bool:
        """Goes on from the last checkpoint that can be read, if there is one. ValueError: it is of another run, or none
        can be read."""
        found = last_checkpoint(self.out / CHECKPOINTS, self.say)
        if found is None:
            return False
        path, state = found
        self._check_same(path, state)
        with torch.no_grad():
            for name, x in self.method.parameters().items():
                x.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state(state["method"])
        self.step, self.tokens, self.seconds = int(state["step"]), int(state["tokens"]), float(state["seconds"])
        self.loss, self.valid_loss = state["loss"], state["valid_loss"]
        self.complete = self.step == self.total
        if self.group.first:
            self._cut_metrics()
        self.group.wait()
        return True

    def _check_same(self, path: Path, state: dict[str, Any]) -> None:
        before, now = json.loads(state["settings"]), self.settings.as_dict()
        for name, value in now.items():
            if before.get(name) != value and not (name in OPEN and self.settings.schedule == "constant"):
                raise ValueError(
                    f"[train] {path} was made with {name} {before.get(name)!r}, not {value!r}: "
                    "resume with the same settings, or give another folder"
                )
        if state["data"] != self.data.digest:
            raise ValueError(f"[train] {path} was made with other training data: resume with the same, or start anew")
        if {n: tuple(x.shape) for n, x in state["parameters"].items()} != {
            n: tuple(x.shape) for n, x in self.method.parameters().items()
        }:
            raise ValueError(f"[train] {path} is of another model")

    # -- metrics --------------------------------------------------------------------------------------------------

    def write(self, line: dict[str, Any]) -> None:
        if not self.group.first:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _cut_metrics(self) -> None:
        """Lines of steps after the checkpoint, and scores, which are made again, and a torn last line are taken off."""
        path = self.out / METRICS
        if not path.exists():
            return
        kept = []
        for text in path.read_text("utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line["step"] <= self.step and "split" not in line:
                kept.append(text)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(text + "\n" for text in kept), "utf-8")
        temporary.replace(path)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _stream(seed: int, step: int, part: int) -> int:
    """The seed of the random numbers (dropout) of a part of a step: a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence([seed % (1 << 64), step, part]).generate_state(1, np.uint64)[0])
