"""The table of PEFT's fields in docs/adapters.md says what peft_config does."""

from __future__ import annotations

import re
from pathlib import Path

from lora_edge.peft_config import EXACT, IRRELEVANT, REFUSED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"


def fields() -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \| (exact|refused|irrelevant) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_the_table_is_what_the_reader_does() -> None:
    wanted = {
        **dict.fromkeys(EXACT, "exact"),
        **dict.fromkeys(REFUSED, "refused"),
        **dict.fromkeys(IRRELEVANT, "irrelevant"),
    }
    assert len(wanted) == len(EXACT) + len(REFUSED) + len(IRRELEVANT)
    assert fields() == wanted
    assert list(fields()) == sorted(wanted)
