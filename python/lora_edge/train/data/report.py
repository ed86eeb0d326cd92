"""What loading a file found and left out, for people."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from .example import Example


@dataclass(frozen=True)
class Report:
    """One file. tokens: in the examples as they will be used; learned: of these with a loss; longest: of an example.

    truncated: examples that lost their end, cut: the tokens they lost; dropped: lines left out as too long,
    dropped_tokens: what these had; lost_turns: turns of the assistant that the chat template hides; repeated: examples
    that the training file has too.
    """

    file: Path
    format: str
    examples: int
    tokens: int
    learned: int
    longest: int
    truncated: int = 0
    cut: int = 0
    dropped: int = 0
    dropped_tokens: int = 0
    lost_turns: int = 0
    repeated: int = 0

    def lines(self) -> list[str]:
        """What to show: a line on the file, and one on each thing that was left out."""
        share = f", {self.learned:,} learned" if self.learned else ""
        out = [
            f"{self.file.name}: {self.examples:,} examples ({self.format}), {self.tokens:,} tokens{share}, "
            f"longest {self.longest:,}"
        ]
        if self.truncated:
            share = f"{self.cut / (self.tokens + self.cut):.1%}"
            out.append(
                f"{self.file.name}: {self.truncated:,} examples were truncated: {self.cut:,} tokens ({share}) left out"
            )
        if self.dropped:
            out.append(
                f"{self.file.name}: {self.dropped:,} lines were too long and dropped: {self.dropped_tokens:,} tokens"
            )
        if self.lost_turns:
            out.append(
                f"{self.file.name}: {self.lost_turns:,} turns of the assistant are not learned: the chat template "
                "writes them anew when others follow"
            )
        if self.repeated:
            out.append(
                f"{self.file.name}: {self.repeated:,} examples are in the training file, too: what is measured on them "
                "is no held-out loss"
            )
        return out


def count(examples: Seq[Example]) -> tuple[int, int, int]:
    """Tokens, learned tokens and the longest example, rejected answers included."""
    every = [e for example in examples for e in (example, example.rejected) if e is not None]
    return sum(map(len, every)), sum(e.n_learned for e in every), max(map(len, every), default=0)
