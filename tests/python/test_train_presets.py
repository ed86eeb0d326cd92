"""Presets and the warnings far from what was published."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lora_edge.train.presets import PRESETS, RANGES, advice, preset
from lora_edge.train.settings import Settings

METHODS = ["full", "lora", "rslora", "lora+", "dora", "adalora", "half", "qat", "prune", "distil", "dpo"]


def given(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**values)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_within_what_was_published(name: str) -> None:
    found = preset(name)
    assert advice(given(**found.values)) == [] and found.source and found.about
    assert found.values["method"] in METHODS
    Settings.from_dict(dict(found.values)).check()
    assert found.values.keys() <= Settings().as_dict().keys()
    # A whole run is decided: how fast, how much at once, for how long.
    assert {"lr", "batch_size", "schedule", "warmup"} <= found.values.keys()
    assert {"epochs", "steps"} & found.values.keys()


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"there is no preset 'loar'; full, lora, lora-qv, qlora"):
        preset("loar")


@pytest.mark.parametrize("kind", RANGES)
def test_ranges_are_ordered_and_say_what_happens(kind: str) -> None:
    for name, r in RANGES[kind].items():
        assert 0 <= r.far_below <= r.low < r.high <= r.far_above, name
        assert r.source and r.above and (r.below or r.far_below == 0)


BASE = {
    "full": {"method": "full", "lr": 2e-5, "batch_size": 32, "epochs": 3},
    "adapter": {"method": "lora", "lr": 1e-4, "batch_size": 64, "epochs": 3, "rank": 16, "alpha": 32},
    "preference": {"method": "dpo", "lr": 5e-6, "batch_size": 64, "epochs": 1, "rank": 16, "alpha": 32},
}


@pytest.mark.parametrize("kind", RANGES)
def test_each_setting_far_outside_is_named_once(kind: str) -> None:
    base = BASE[kind]
    assert advice(given(**base)) == []
    for name, r in RANGES[kind].items():
        if name == "alpha / rank":
            continue
        for value, what in ((r.far_below * 0.9, r.below), (r.far_above * 1.1, r.above)):
            changes = {name: value} | ({"alpha": 2 * value} if name == "rank" else {})
            found = advice(given(**base | changes))
            assert len(found) == 1 and found[0].startswith(f"{name} is ") and found[0].endswith(what)
            assert r.source in found[0]


def test_adapters_bear_ten_times_the_rate() -> None:
    for method in ("lora", "rslora", "dora", "adalora", "lora+"):
        [text] = advice(given(**BASE["adapter"] | {"method": method, "lr": 5e-6}))
        assert "ten times that of full fine-tuning" in text
    assert advice(given(**BASE["full"] | {"lr": 5e-6})) == []
    assert advice(given(**BASE["full"] | {"lr": 5e-4}))[0].startswith("lr is 0.0005; usual for full are 5e-06 to 5e-05")


def test_methods_that_go_both_ways() -> None:
    both = {"method": "qat", "lr": 1e-3, "batch_size": 32, "epochs": 3}
    assert advice(given(**both))[0].startswith("lr is 0.001; usual for qat are 5e-06")
    assert advice(given(**both, rank=16, alpha=32), adapter=True) == []
    assert advice(given(**BASE["adapter"], dropout=0.9), adapter=False)[0].startswith("dropout is 0.9")


def test_alpha_is_judged_by_its_scale() -> None:
    base = BASE["adapter"]
    assert advice(given(**base | {"alpha": 0.1}))[0].startswith("alpha / rank is 0.00625")
    assert advice(given(**base | {"alpha": 1000, "rank": 16}))[0].startswith("alpha / rank is 62.5")
    assert advice(given(**base | {"method": "rslora", "rank": 256, "alpha": 32})) == []  # 2 per root of the rank


def test_what_is_not_given_is_not_judged() -> None:
    assert advice(given()) == advice(given(method="lora", lr=None, rank=None)) == []
    assert advice(given(**BASE["adapter"], grad_clip=0, weight_decay=0.0, dropout=None)) == []
    assert advice(given(**BASE["adapter"] | {"epochs": 100}, steps=50)) == []
    assert advice(given(**BASE["adapter"], warmup=0.9))[0].startswith("warmup is 0.9")
