"""What is seen of a run: a bar on a terminal, lines where standard error is a file."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm


class TrainBar:
    """Shows the lines of a run's metrics. quiet: nothing at all, for processes beside the first."""

    def __init__(self, quiet: bool, every: int) -> None:
        self.quiet, self.every = quiet, max(1, every)
        self.plain = not sys.stderr.isatty()
        self.bar: Any = None
        self.losses: dict[str, float] = {}

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def show(self, line: dict[str, Any]) -> None:
        """A step (loss, tokens_per_second, total) or a measurement (valid_loss)."""
        if self.quiet:
            return
        step, total = line["step"], line["total"]
        if "valid_loss" in line:
            self.losses["valid"] = line["valid_loss"]
            return self.say(f"step {step} of {total}: held-out loss {line['valid_loss']:.4f}")
        if self.plain:
            if step % self.every == 0 or step in (1, total):
                self.say(
                    f"step {step} of {total}: loss {line['loss']:.4f}, {line['tokens_per_second']:.0f} tokens/s, "
                    f"{rss() >> 20} MiB"
                )
            return
        if self.bar is not None and step <= self.bar.n:  # the next run of a search
            self.close()
        if self.bar is None:
            self.bar = tqdm(total=total, initial=step - 1, desc="training", unit="step", file=sys.stderr)
        self.losses["loss"] = line["loss"]
        shown = ", ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        self.bar.set_postfix_str(f"{shown}, {line['tokens_per_second']:.0f} tokens/s, {rss() >> 20} MiB", refresh=False)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def rss() -> int:
    """Resident bytes of this process; 0 where the system doesn't tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
