"""Every field of PEFT's own LoraConfig has its place in ours, and does there what the table says of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
from lora_edge.peft_config import EXACT, IRRELEVANT, PLAIN_INITS, REFUSED, PeftConfig

FIELDS = {f.name: f for f in dataclasses.fields(peft.LoraConfig)}


def read(tmp_path: Path, **changes: Any) -> PeftConfig:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **changes}))
    return PeftConfig(path)


def test_no_field_is_unknown() -> None:
    ours = [*EXACT, *IRRELEVANT, *REFUSED]
    assert len(ours) == len(set(ours))
    new, gone = FIELDS.keys() - set(ours), set(ours) - FIELDS.keys()
    assert not new, (
        f"PEFT {peft.__version__} has fields that docs/adapters.md and peft_config don't know: {sorted(new)}"
    )
    assert not gone, f"PEFT {peft.__version__} has these fields no longer: {sorted(gone)}"


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_set(tmp_path: Path, name: str) -> None:
    """Refused fields are refused whatever they hold, irrelevant ones never, and a field of tomorrow is refused."""
    for value in (True, 7, "x", ["x"], {"a": 1}):
        if name in REFUSED:
            with pytest.raises(ValueError, match=name):
                read(tmp_path, **{name: value})
        elif name in IRRELEVANT:
            read(tmp_path, **{name: value})
        with pytest.raises(ValueError, match=f"'{name}_2' = "):
            read(tmp_path, **{f"{name}_2": value})


def test_peft_s_defaults_are_read(tmp_path: Path) -> None:
    config = peft.LoraConfig(target_modules=["q_proj"])
    config.save_pretrained(str(tmp_path))
    assert PeftConfig(tmp_path / "adapter_config.json").scale("model.layers.0.self_attn.q_proj") == 1.0


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "eva", "orthogonal",
                                  "mica", "gaussian", True, False])  # fmt: skip
def test_initialisations(tmp_path: Path, init: str | bool) -> None:
    if init in PLAIN_INITS:
        read(tmp_path, init_lora_weights=init)
    else:
        with pytest.raises(ValueError, match=f"init_lora_weights = '{init}' is not supported"):
            read(tmp_path, init_lora_weights=init)
