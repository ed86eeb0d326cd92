"""config.json as it lies about on the hub: what is passed over, what null means, and which spelling counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hf_folders import tiny_config, tiny_weights, write_model
from lora_edge.convert import convert_model
from lora_edge.convert.hparams import read_hparams
from tiny_models import fresh_rng


def test_fields_of_other_programs(tmp_path: Path) -> None:
    """As models on the hub have them: they don't change the logits, nor the file."""
    tensors = tiny_weights(tiny_config("LlamaForCausalLM"), fresh_rng())
    others = {"transformers.js_config": {"dtype": "q4"}, "pretraining_tp": 2, "_num_labels": 1, "output_past": True}
    made = [
        convert_model(
            write_model(tmp_path / str(i), tiny_config("LlamaForCausalLM", **fields), tensors),
            tmp_path / f"{i}.gguf",
            name="x",
        ).read_bytes()
        for i, fields in enumerate(({}, others))
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping", "sliding_window"])
def test_gemma2_without_what_gguf_has_no_word_for(tmp_path: Path, name: str) -> None:
    """Its null says that there is none, and GGUF would have the usual one."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": ["Gemma2ForCausalLM"], name: None}))
    with pytest.raises(ValueError, match=f"{name} = None"):
        read_hparams(tmp_path)


@pytest.mark.parametrize(
    ("step", "full"),
    [
        ({}, [5]),
        ({"_sliding_window_pattern": 3}, [5]),
        ({"sliding_window_pattern": 3, "_sliding_window_pattern": 2}, [2, 5]),
    ],
)
def test_the_period_of_gemma3(tmp_path: Path, step: dict[str, int], full: list[int]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7, **step})
    )
    sliding = read_hparams(tmp_path).sliding
    assert sliding is not None and [i for i, on in enumerate(sliding) if not on] == full
