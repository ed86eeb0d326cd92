"""A whole bench as one object: what ran, how fast, and how near to what the machine can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence as Seq
from dataclasses import asdict, dataclass
from typing import Any

from .. import __version__, _core
from ..devices import device_name
from ..model import Model
from .arms import Files
from .energy import Meter
from .runs import Arm, Test, Timing, in_turns, tax
from .sensors import cpu_name, look
from .work import adapter_bytes, work_of

PROBE_SECONDS = 0.5

Open = Callable[[int], tuple[Model, dict[str, float]]]  # threads -> a model, and its adapters' weights by name


@dataclass(frozen=True)
class Peaks:
    """What the device can do: bytes/s read by so many threads, or on a GPU copied, both ways counted; byte
    multiply-adds/s."""

    threads: int
    read_bandwidth: float
    int8_multiply_adds: float

    @staticmethod
    def probe(threads: int, device: str) -> Peaks:
        if device != "cpu":
            index = int(device.partition(":")[2])
            return Peaks(
                threads,
                _core.cuda_copy_bandwidth(index, PROBE_SECONDS),
                _core.cuda_int8_peak(index, PROBE_SECONDS),
            )
        return Peaks(
            threads,
            _core.probe_read_bandwidth(threads, PROBE_SECONDS),
            _core.probe_int8_peak(threads, PROBE_SECONDS),
        )

    def or_better(self, other: Peaks) -> Peaks:
        return Peaks(
            self.threads,
            max(self.read_bandwidth, other.read_bandwidth),
            max(self.int8_multiply_adds, other.int8_multiply_adds),
        )


def measure(
    files: Files,
    open_model: Open,
    tests: Seq[Test],
    threads: Seq[int],
    repeats: int,
    *,
    meter: Meter | str,
    peaks: bool = True,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Runs every test with every number of threads; the object that docs/bench.md describes. peaks: whether to probe
    the machine, before and after the tests of each number of threads. tick: called after each run of an arm."""
    joules = meter.joules if isinstance(meter, Meter) else None
    before, rows, found = look(), [], []
    about: dict[str, Any] = {}
    for count in threads:
        model, weights = open_model(count)
        arms = files.arms(model, weights)
        about = about or describe(files, model, arms)
        best = Peaks.probe(count, model.device) if peaks else None
        timed = [(test, in_turns(test, arms, repeats, joules=joules, tick=tick)) for test in tests]
        if best is not None:
            best = best.or_better(Peaks.probe(count, model.device))
            found.append(asdict(best))
        rows += [_row(test, count, arms, timings, best) for test, timings in timed]
        for arm in arms.values():
            arm.model.close()
    return {
        "version": __version__,
        "machine": {"cpu": cpu_name(), "isa": _core.build_info()["isa"], **about.pop("device"), "peaks": found},
        **about,
        "repeats": repeats,
        "tests": rows,
        "energy": {"source": meter.source if isinstance(meter, Meter) else None,
                   "why_not": None if isinstance(meter, Meter) else meter},
        "state": {"before": asdict(before), "after": asdict(look())},
    }  # fmt: skip


def describe(files: Files, model: Model, arms: Mapping[str, Arm]) -> dict[str, Any]:
    c, work, spec = model.config, work_of(model), arms["unmerged"].adapter
    assert isinstance(spec, Mapping)
    adapters = [
        {
            "name": name,
            "path": None if files.synthetic else model.adapters[name].path,
            "weight": weight,
            "ranks": sorted(set(model.adapters[name].ranks.values())),
            "bytes": model.adapters[name].n_bytes,
        }
        for name, weight in spec.items()
    ]
    return {
        "device": {"device": model.device, "device_name": device_name(model.device)},
        "model": {
            "path": model.path,
            "name": c.name,
            "architecture": c.arch,
            "file_bytes": model.core.file.size,
            "weight_bytes_per_token": work.weights,
            "kv_bytes_per_position": work.kv,
            "multiply_adds_per_token": work.linears + work.output,
            "q8_0": work.q8,
        },
        "adapters": adapters,
    }


def _row(
    test: Test, threads: int, arms: Mapping[str, Arm], timings: Mapping[str, Timing], peaks: Peaks | None
) -> dict[str, Any]:
    base = timings["base"]
    return {
        "test": test.name,
        "tokens": test.tokens,
        "threads": threads,
        "arms": {name: _figures(test, arms[name], timing, peaks) for name, timing in timings.items()},
        "tax_percent": {name: tax(timing, base) for name, timing in timings.items() if name != "base"},
    }


def _figures(test: Test, arm: Arm, timing: Timing, peaks: Peaks | None) -> dict[str, Any]:
    mean, deviation = timing.speed(test.tokens)
    out: dict[str, Any] = {
        "seconds": timing.seconds,
        "tokens_per_second": mean,
        "deviation": deviation,
        "tokens_per_joule": timing.tokens_per_joule(test.tokens),
    }
    work = work_of(arm.model)
    names = list(arm.adapter) if isinstance(arm.adapter, Mapping) else []
    if test.kind == "tg":
        per_token = work.decode_bytes((test.tokens - 1) / 2, adapter_bytes(arm.model, names))
        out["bytes_per_second"] = per_token * mean
        out["share_of_read_bandwidth"] = per_token * mean / peaks.read_bandwidth if peaks else None
    else:
        rate = work.prefill_multiply_adds(test.tokens) * mean / test.tokens
        out["operations_per_second"] = 2 * rate
        out["share_of_int8_peak"] = rate / peaks.int8_multiply_adds if peaks and work.q8 else None
    return out
