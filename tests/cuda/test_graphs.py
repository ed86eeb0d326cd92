"""Decode steps are replayed as graphs, which a switch between adapters doesn't rebuild."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from conftest import REAL
from standin import find
from test_drivers import run_code

pytestmark = pytest.mark.skipif(REAL, reason="the stand-in counts calls")
# Sequences with these adapters in turn make a token each, `steps` times.
TAKE_TURNS = """
import sys, lora_edge
adapters, steps = sys.argv[1].split(","), int(sys.argv[2])
with lora_edge.load(device="cuda", threads=1) as model, lora_edge.load(device="cpu") as cpu:
    made = []
    for m in (model, cpu):
        sequences = [m.sequence(adapter=name or None) for name in adapters]
        streams = [s.generate("dim the light to 40 percent", stream=True, max_tokens=steps, ignore_eos=True)
                   for s in sequences]
        for _ in range(steps):
            for stream in streams:
                next(stream)
        made.append([s.ids for s in sequences])
    assert made[0] == made[1]
"""


def counts(path: Path, adapters: str, steps: int, **machine: str) -> Counter[str]:
    """Calls of the driver, bytes that came `out` of it, and of kernels how often they were launched or replayed."""
    done = run_code(TAKE_TURNS, adapters, str(steps), library=find(), LORA_EDGE_STANDIN_COUNT=str(path), **machine)
    assert done.returncode == 0, done.stderr
    found: Counter[str] = Counter()
    for kind, name, *numbers in map(str.split, path.read_text().splitlines()):
        if kind != "kernel":
            found[name] += int(numbers[0])
        else:
            found["launches"] += int(numbers[1])
            found["replays"] += int(numbers[3])
    return found


@pytest.mark.parametrize(("sm", "driver"), [("87", "12060"), ("75", "11020"), ("53", "10020")])
def test_switches_rebuild_nothing(tmp_path: Path, sm: str, driver: str) -> None:
    machine = {"LORA_EDGE_STANDIN_SM": sm, "LORA_EDGE_STANDIN_DRIVER": driver}
    made = "cuGraphInstantiateWithFlags" if driver == "12060" else "cuGraphInstantiate_v2" if driver == "11020" else ""
    made = made or "cuGraphInstantiate"
    one = counts(tmp_path / "one", "json", 24, **machine)
    two = counts(tmp_path / "two", "json,german", 24, **machine)  # both of rank 16
    off = counts(tmp_path / "off", "json,,german", 24, **machine)
    assert one[made] > 0 and two[made] == one[made]
    assert one[made] < off[made] <= 2 * one[made]  # without adapter there are fewer launches: graphs of their own
    for found, sequences in ((one, 1), (two, 2), (off, 3)):
        assert found["cuGraphLaunch"] >= sequences * 23 - found[made]  # a list's first time is no replay
        assert found["replays"] > sequences * 20 * 40  # of a step's launches
    assert two["launches"] - one["launches"] < 200  # the second prompt's


def test_few_passes_make_no_graph(tmp_path: Path) -> None:
    assert counts(tmp_path / "counts", "json", 2)["replays"] == 0
