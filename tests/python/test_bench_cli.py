"""lora-edge bench, and what it reads of a machine, on trees that stand for /sys."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_edge import _core, builtin
from lora_edge.adapter_file import BaseInfo, read_adapter
from lora_edge.bench.energy import Meter, Rapl, Sampled, open_meter
from lora_edge.bench.sensors import look, parse_throttled
from lora_edge.bench.work import adapter_bytes, work_of
from lora_edge.cli.bench_table import lines
from lora_edge.cli.main import main
from lora_edge.convert.merge import merge
from lora_edge.convert.random_adapter import write_random_adapter
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from tiny_models import fresh_rng, random_factors, tiny_model, write_adapter

QUICK = ("-p", "8", "-n", "4", "-r", "2", "--no-peaks")


def tree(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def bench(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(["bench", *argv])
    out, err = capsys.readouterr()
    return status, out, err


def result(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    status, out, err = bench(capsys, *argv, "--json")
    assert (status, err) == (0, "")
    parsed: dict[str, Any] = json.loads(out)
    return parsed


# -- the command ------------------------------------------------------------------------------------------------


def test_json_of_the_built_in_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *QUICK, "-t", "1,2", "--rank", "4")
    assert [(t["test"], t["threads"]) for t in found["tests"]] == [("pp8", 1), ("tg4", 1), ("pp8", 2), ("tg4", 2)]
    for test in found["tests"]:
        assert list(test["arms"]) == ["base", "merged", "unmerged"]
        for arm in test["arms"].values():
            assert len(arm["seconds"]) == 2 and min(arm["seconds"]) > 0
            speeds = [test["tokens"] / s for s in arm["seconds"]]
            assert arm["tokens_per_second"] == pytest.approx(np.mean(speeds))
            assert arm["deviation"] == pytest.approx(np.std(speeds, ddof=1))
        ratios = np.array(test["arms"]["unmerged"]["seconds"]) / np.array(test["arms"]["base"]["seconds"])
        assert test["tax_percent"]["unmerged"] == pytest.approx(100 * (np.median(ratios) - 1))
    (adapter,) = found["adapters"]
    assert (adapter["path"], adapter["ranks"]) == (None, [4]) and adapter["bytes"] > 0
    assert found["machine"]["peaks"] == []


@pytest.mark.slow
def test_peaks_and_shares(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "-p", "8", "-n", "4", "-r", "1", "--no-merged", "--lora", "json", "-t", "1")
    (peak,) = found["machine"]["peaks"]
    assert peak["read_bandwidth"] > 1e7 and peak["int8_multiply_adds"] > 1e6
    prefill, decode = (test["arms"] for test in found["tests"])
    assert set(prefill) == {"base", "unmerged"}
    for arm in prefill.values():
        assert arm["operations_per_second"] == pytest.approx(2 * arm["share_of_int8_peak"] * peak["int8_multiply_adds"])
    for arm in decode.values():
        assert arm["bytes_per_second"] == pytest.approx(arm["share_of_read_bandwidth"] * peak["read_bandwidth"])
    assert found["adapters"][0]["path"] == str(builtin.adapters()["json"])


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = bench(capsys, *QUICK)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 120
    for part in ("tokens/s", "pp8", "tg4", "base", "merged", "unmerged", "tax", "GB/s", "GOPS", "tokens/J", "after"):
        assert part in out


def test_table_of_a_machine_that_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, *QUICK, "--no-merged")
    found["energy"] = {"source": "RAPL, package-0", "why_not": None}
    for test in found["tests"]:
        for arm in test["arms"].values():
            arm["tokens_per_joule"] = 12.5
    found["state"]["after"] = {
        "temperatures": {"gpu": 44.0, "soc": 61.5},
        "clocks": {"policy0": 1500.0, "policy4": 2400.0},
        "throttles": 3,
        "flags": ["throttled now"],
    }
    text = "\n".join(lines(found))
    for part in (
        "base 12.50, unmerged 12.50 (RAPL",
        "61.5 °C in soc, the hottest zone; 1500-2400 MHz; slowed for heat 3 times",
        "throttled now",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-p", "5x"], "-p '5x' is not a whole number"),
        (["-p", "8,,9"], "-p '8,,9' is not a whole number"),
        (["-p", "-3"], "-p '-3' is not a whole number"),
        (["-p", "100000"], "-p 100000 is more than the context of"),
        (["-n", "300", "-c", "200"], "-n 300 is more than the context of 200 tokens"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-t", "0"], "-t is 0, not a whole number from 1"),
        (["-r", "0"], "-r is 0, not a whole number from 1"),
        (["--rank", "0"], "rank is 0, not from 1"),
        (["-m", "absent.gguf"], "absent.gguf: No such file"),
        (["--lora", "absent"], "adapter 'absent': no such file"),
        (["-m", str(builtin.adapters()["json"])], "adapter"),
    ],
)
def test_mistakes_read_well(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = bench(capsys, *argv)
    assert (status, out) == (1, "")
    assert err.startswith("lora-edge: error: ") and len(err.splitlines()) == 1 and says in err


def test_nothing_is_left_behind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[str] = []

    def stop(*_: object, **__: object) -> None:
        seen.extend(path.name for path in tmp_path.rglob("*.gguf"))
        raise KeyboardInterrupt

    monkeypatch.setattr("lora_edge.cli.bench.measure", stop)
    assert bench(capsys, *QUICK)[0] == 130
    assert sorted(seen) == ["merged.gguf", "random.gguf"] and list(tmp_path.iterdir()) == []


# -- what a token costs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "kv_type"), [("f32", "f32"), ("q8_0", "f16"), ("q8_0", "q8_0")])
def test_work_is_what_the_file_says(type: str, kv_type: str, tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, "qwen2", type, head_dim=32)
    with Model(tmp_path / "base.gguf", threads=1, kv_type=kv_type) as model:
        work = work_of(model)
        layers = {name: n * k for name, (n, k) in shape.linears.items() if name.startswith("blk.")}
        assert work.linears == sum(layers.values()) and work.output == shape.n_vocab * shape.d
        assert work.prefill_multiply_adds(10) == 10 * work.linears + work.output
        sizes = {name: n_bytes for name, (_, _, n_bytes) in model.core.file.tensors().items()}
        row = 0 if model.config.tied_embeddings else sizes["token_embd.weight"] * (1 - 1 / shape.n_vocab)
        assert abs(work.weights - (sum(sizes.values()) - row)) <= 1
        sequence = model.sequence()
        sequence.feed([1])
        assert model.memory()["kv"] == 64 * work.kv  # a page
        assert work.decode_bytes(9, 100) == work.weights + 10 * work.kv + 100
        write_random_adapter(tmp_path / "base.gguf", tmp_path / "a.gguf", rank=3)
        model.load_adapter(tmp_path / "a.gguf")
        assert adapter_bytes(model, ["a"]) == sum(
            2 * 3 * (n + k) for name, (n, k) in shape.linears.items() if name.startswith("blk.")
        )


@pytest.mark.parametrize("tied", [True, False])
def test_merging_equals_running_beside(tied: bool, tmp_path: Path) -> None:
    """In F32, with adapters of the embedding, the output and the layers, and two of them with weights."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "base.gguf", rng, "llama", "f32", tied=tied)
    write_adapter(tmp_path / "one.gguf", "llama", random_factors(rng, shape))
    write_adapter(tmp_path / "two.gguf", "llama", random_factors(rng, shape, ["token_embd.weight"]), alpha=3.0)
    weights = {"one": 0.7, "two": -0.4}
    parts = [(tmp_path / f"{name}.gguf", weight) for name, weight in weights.items()]
    ids = [int(i) for i in rng.integers(0, shape.n_vocab, 6)]
    for chosen in (parts, parts[1:]):
        merge(tmp_path / "base.gguf", chosen, tmp_path / "merged.gguf")
        with Model(tmp_path / "base.gguf", threads=1) as base, Model(tmp_path / "merged.gguf", threads=1) as merged:
            for path, _ in chosen:
                base.load_adapter(path)
            beside = base.logits(ids, adapter={path.stem: weight for path, weight in chosen})
            np.testing.assert_allclose(merged.logits(ids), beside, rtol=1e-3, atol=1e-3)
            assert not np.allclose(base.logits(ids), beside, rtol=1e-3, atol=1e-3)


def test_a_random_adapter_is_a_whole_one(tmp_path: Path) -> None:
    base = builtin.base()
    info = BaseInfo.from_gguf(open_gguf(base))
    out = write_random_adapter(base, tmp_path / "r5.gguf", rank=5, seed=3)
    entries = read_adapter(out, info.arch, info).entries
    assert set(entries) == {name for name in info.shapes if name.startswith("blk.")}
    assert {entry.b.shape[1] for entry in entries.values()} == {5}
    assert {entry.scale for entry in entries.values()} == {2.0}
    other = read_adapter(write_random_adapter(base, tmp_path / "other.gguf", rank=5, seed=4), info.arch, info).entries
    assert not np.array_equal(entries["blk.0.attn_v.weight"].a, other["blk.0.attn_v.weight"].a)


# -- what a machine tells ---------------------------------------------------------------------------------------


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    state = look(tmp_path)
    assert (state.temperatures, state.clocks, state.throttles, state.flags) == ({}, {}, None, None)
    assert open_meter(tmp_path) == "this system has no RAPL counters and no power sensors"


def test_state_from_sysfs(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = tree(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 48250,
            "sys/class/thermal/thermal_zone1/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": 50000,
            "sys/class/thermal/thermal_zone2/type": "broken",
            "sys/class/thermal/thermal_zone2/temp": "n/a",
            "sys/class/thermal/cooling_device0/type": "fan",
            f"{cpu}/cpufreq/policy0/scaling_cur_freq": 1500000,
            f"{cpu}/cpufreq/policy4/scaling_cur_freq": 2400000,
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": 2,
            f"{cpu}/cpu1/thermal_throttle/core_throttle_count": 5,
        },
    )
    state = look(root)
    assert state.temperatures == {"cpu-thermal": 48.25, "cpu-thermal 1": 50.0}
    assert state.clocks == {"policy0": 1500.0, "policy4": 2400.0}
    assert state.throttles == 7


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        ("throttled=0x0\n", []),
        ("throttled=0x50005\n", ["under-voltage now", "throttled now", "under-voltage before", "throttled before"]),
        ("throttled=0x80008", ["soft temperature limit now", "soft temperature limit before"]),
        ("VCHI initialization failed", None),
        ("", None),
    ],
)
def test_words_of_the_firmware(answer: str, means: list[str] | None) -> None:
    assert parse_throttled(answer) == means


def test_joules_of_rapl(tmp_path: Path) -> None:
    """Two packages, one of which passes its end; cores inside of a package and other devices don't count."""
    zones = tmp_path / "sys/class/powercap"
    counters = {"intel-rapl:0": ("package-0", 9_000_000), "intel-rapl:1": ("package-1", 500_000)}
    for zone, (name, value) in counters.items():
        tree(zones / zone, {"name": name, "energy_uj": value, "max_energy_range_uj": 10_000_000})
    tree(zones / "intel-rapl:0:0", {"name": "core", "energy_uj": 1, "max_energy_range_uj": 10_000_000})
    tree(zones / "intel-rapl-mmio:0", {"name": "package-0", "energy_uj": 1, "max_energy_range_uj": 10_000_000})
    meter = open_meter(tmp_path)
    assert isinstance(meter, Rapl) and meter.source == "RAPL, package-0, package-1"
    assert meter.joules() == 0
    tree(
        zones,
        {"intel-rapl:0/energy_uj": 2_000_000, "intel-rapl:1/energy_uj": 1_500_000, "intel-rapl:0:0/energy_uj": 99},
    )
    assert meter.joules() == pytest.approx(3 + 1)
    assert meter.joules() == pytest.approx(4)


def test_rapl_that_only_root_reads(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    tree(zone, {"name": "package-0"})
    (zone / "energy_uj").mkdir()  # as unreadable as a file of root's, for root too
    why = open_meter(tmp_path)
    assert isinstance(why, str) and "energy_uj can't be read by this user" in why


def test_joules_of_power_sensors(tmp_path: Path) -> None:
    """A Jetson's rails: the one that feeds the board counts, not its parts."""
    hwmon = tmp_path / "sys/class/hwmon"
    tree(hwmon / "hwmon0", {"name": "nvme", "power1_input": 10**9})
    ina = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1000}
    tree(
        hwmon / "hwmon1",
        {**ina, "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 400, "curr4_input": 1400},
    )
    meter = open_meter(tmp_path)
    assert isinstance(meter, Sampled) and meter.source == "power sensors, VDD_IN"
    measured_joules(meter, watts=5)
    (hwmon / "hwmon1/in1_label").write_text("VDD_A\n")
    meter = open_meter(tmp_path)
    assert isinstance(meter, Sampled) and meter.source == "power sensors, VDD_A, VDD_CPU_GPU_CV"
    measured_joules(meter, watts=7)
    for name in ("in1_input", "in2_input"):
        (hwmon / "hwmon1" / name).unlink()
    tree(hwmon / "hwmon2", {"name": "ina226", "power1_input": 2_500_000})
    meter = open_meter(tmp_path)
    assert isinstance(meter, Sampled) and meter.source == "power sensors, ina226"
    measured_joules(meter, watts=2.5)


def measured_joules(meter: Meter, watts: float) -> None:
    clock = time.perf_counter
    with meter:
        before, first, begin = clock(), meter.joules(), clock()
        time.sleep(0.1)
        end, last, after = clock(), meter.joules(), clock()
    assert watts * (end - begin) * 0.999 <= last - first <= watts * (after - before) * 1.001


# -- probes -----------------------------------------------------------------------------------------------------


def test_probes_refuse_nonsense() -> None:
    for probe in (_core.probe_read_bandwidth, _core.probe_int8_peak):
        for threads, seconds, says in ((0, 0.1, "threads is 0"), (1, -1.0, "seconds"), (1, float("nan"), "seconds")):
            with pytest.raises(ValueError, match=says):
                probe(threads, seconds)
    for sizes in ((0, 64, 64), (1, 64, 33), (1, 0, 64), (1, 64, 0)):
        with pytest.raises(ValueError, match="multiple of 32"):
            _core.probe_matmul_q8(*sizes, 1, 0.0)


@pytest.mark.slow
def test_no_product_exceeds_the_peak() -> None:
    """The product does what the peak does, and more: a peak below it would not be one."""
    peak = max(_core.probe_int8_peak(1, 0.02) for _ in range(3))
    assert 0 < _core.probe_matmul_q8(64, 64, 256, 1, 0.02) < 1.2 * peak
