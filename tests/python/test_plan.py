"""Memory that a run will need, the limits of a machine, cheaper settings: arithmetic against what the core keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lora_edge
import numpy as np
import pytest
from lora_edge.cli.main import main, parser
from lora_edge.cli.train_flags import settings_of
from lora_edge.planning import needs, parse_size
from lora_edge.planning.cheaper import cheaper
from lora_edge.planning.header import read_header
from lora_edge.planning.inference import check_context, kv_bytes
from lora_edge.planning.limits import Limit, limits
from lora_edge.planning.training import learned
from lora_edge.train.settings import Settings
from tiny_encoder import tiny_encoder
from tiny_gguf import Q8_0
from tiny_models import ARCHS, Shape, random_shape, random_tensors, write_adapter, write_model

SHAPE = Shape("llama", 3, 64, 4, 2, 16, 96, n_vocab=128, tied=True, n_ctx=1024)


def base_of(folder: Path, shape: Shape = SHAPE, type: str = "q8_0") -> Path:
    return write_model(folder / "base.gguf", shape, random_tensors(np.random.default_rng(0), shape), type)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(tmp_path_factory.mktemp("plan"))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without limits of its own."""
    monkeypatch.setattr(needs, "limits", lambda given, processes=1: [] if given is None else [Limit("given", given)])


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_keys_and_values_are_those_of_the_core(kind: str, tmp_path: Path) -> None:
    path = base_of(tmp_path, replace(SHAPE, head_dim=32))
    model, header = lora_edge.load(path, kv_type=kind, threads=1), read_header(path)
    for n in (1, 64, 65, 300):
        sequence = lora_edge.Sequence(model)
        sequence.feed([1] * n)
        assert model.core.kv_bytes == kv_bytes(header.n_layer, header.kv_dim, n, kind)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_header_says_what_the_model_says(arch: str, tmp_path: Path) -> None:
    path = base_of(tmp_path, random_shape(np.random.default_rng(1), arch), "f32")
    model, header = lora_edge.load(path, threads=1), read_header(path)
    c = model.config
    assert (header.n_layer, header.n_embd, header.n_head, header.n_head_kv, header.head_dim, header.n_vocab) == (
        c.n_layer, c.n_embd, c.n_head, c.n_head_kv, c.head_dim, c.n_vocab,
    )  # fmt: skip
    assert header.layer_ff == c.n_ff and header.tied == c.tied_embeddings
    assert header.linears == model.core.linear_shapes()


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj"), ("lm_head", "o_proj")])
def test_weights_that_train(targets: tuple[str, ...], base: Path) -> None:
    header, shapes = read_header(base), lora_edge.load(base, threads=1).core.linear_shapes()
    found = learned(header, Settings(rank=4, targets=targets))
    assert found.total == 4 * sum(sum(shapes[name]) for name in found.sizes)
    assert learned(header, Settings(method="full")).total == header.n_weights


def test_what_costs_more_is_planned_as_more(base: Path, room: None) -> None:
    def peak(**words: object) -> int:
        return lora_edge.plan(base, batch_size=8, **{"max_length": 512, "rank": 8, **words}).peak

    now = peak()
    cheaper: list[dict[str, object]] = [
        {"checkpointing": True}, {"accumulate": 4}, {"rank": 1}, {"max_length": 128}, {"targets": ("q_proj", "v_proj")},
        {"optimizer": "sgd"},
    ]  # fmt: skip
    for words in cheaper:
        assert peak(**words) < now, words
    assert peak(rank=64) > now < peak(method="dora")
    assert peak(length=64) < now == peak(length=4096)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_sizes_are_read() -> None:
    assert [parse_size(t) for t in ("2GB", "1.5 g", "900M", "2GiB", "4096", "1kib", "7 B")] == [
        2 * 10**9, 15 * 10**8, 9 * 10**8, 2 << 30, 4096, 1024, 7,
    ]  # fmt: skip
    for text in ("", "GB", "-1G", "0", "2 apples", "1e9", "0.1"):
        with pytest.raises(ValueError, match="no size"):
            parse_size(text)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


MACHINE = {
    "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB",
    "proc/self/status": "Name:\tx\nVmRSS:\t 300 kB\nRssAnon:\t 100 kB",
}


def test_nested_control_groups_of_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/user/job"
    root = machine(tmp_path, MACHINE | {
        "proc/self/cgroup": "0::/user/job",
        f"{group}/memory.max": str(5 << 20), f"{group}/memory.current": str(2 << 20),
        f"{group}/memory.stat": f"anon 5\ninactive_file {1 << 20}\nactive_file 0",
        "sys/fs/cgroup/user/memory.max": str(4 << 20), "sys/fs/cgroup/user/memory.current": str(3 << 20),
        "sys/fs/cgroup/memory.max": "max",
    })  # fmt: skip
    own = 100 * 1024
    assert limits(None, root=root) == [
        Limit("the control group /user", (1 << 20) + own),
        Limit("the control group /user/job", (4 << 20) + own),
        Limit("the machine's available memory", 8000 * 1024 + own),
    ]
    assert limits(1000, root=root)[0] == Limit("--memory-limit", 1000)
    assert limits(None, 2, root=root)[0].n_bytes == (1 << 19) + own


def test_control_groups_of_version_1_and_of_a_container(tmp_path: Path) -> None:
    top = "sys/fs/cgroup/memory"
    root = machine(tmp_path, MACHINE | {
        "proc/self/cgroup": "3:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/",  # the path of the host
        f"{top}/memory.limit_in_bytes": str(2 << 20), f"{top}/memory.usage_in_bytes": str(1 << 20),
        f"{top}/memory.stat": f"total_inactive_file {1 << 19}\ntotal_active_file {1 << 18}",
    })  # fmt: skip
    assert limits(root=root)[0] == Limit("the control group /", (2 << 20) - (1 << 18) + 100 * 1024)
    (root / top / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert [limit.what for limit in limits(root=root)] == ["the machine's available memory"]
    assert limits(root=tmp_path / "nowhere") == []


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_each_way_out_is_computed(base: Path, room: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"batch_size": 64, "max_length": 1024, "rank": 64}
    need = lora_edge.plan(base, **words).peak
    made = lora_edge.plan(base, memory_limit=need - 40_000_000, **words)
    assert not made.fits and "does not fit" in made.verdict()
    assert {"--checkpointing", "--accumulate 2"} <= {change.words for change in made.cheaper}
    for change in made.cheaper:
        flags = ["--batch-size", "64", "--max-length", "1024", "--rank", "64", *change.words.split()]
        settings = settings_of(parser().parse_args(["plan", "-m", str(base), *flags]))
        again = lora_edge.plan(base, settings=settings, memory_limit=need - 40_000_000)
        assert again.peak == change.peak and again.fits == change.fits
    with pytest.raises(MemoryError, match=r"(?s)does not fit: [0-9,]+ MB, but there are .* would fit: --checkpointing"):
        made.check()


def test_where_no_single_change_suffices_they_are_added_up(base: Path, room: None) -> None:
    words = {"batch_size": 64, "max_length": 1024}
    least = lora_edge.plan(base, batch_size=1, max_length=64, rank=1, checkpointing=True, optimizer="sgd").peak
    (change,) = lora_edge.plan(base, memory_limit=least + 6_000_000, **words).cheaper
    assert change.fits and change.words.startswith("--checkpointing --accumulate 64")
    (change,) = lora_edge.plan(base, memory_limit=1_000_000, **words).cheaper
    assert not change.fits
    assert "the least is --checkpointing" in lora_edge.plan(base, memory_limit=1_000_000, **words).verdict()


@pytest.mark.parametrize(("room", "with_library", "words"), [
    (6, True, "--optimizer adamw_8bit"), (6, False, "--optimizer sgd"), (4, True, "--optimizer sgd"),
])  # fmt: skip
def test_optimisers_with_smaller_states(
    room: int, with_library: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_edge.planning.cheaper.find_spec", lambda name: with_library or None)
    sizes = {"adamw": 9, "adamw_8bit": 5, "sgd": 3}
    made = cheaper(Settings(method="full", checkpointing=True), lambda s: sizes[s.optimizer], room)
    assert [change.words for change in made] == [words]


def test_encoders_that_cannot_fit(tmp_path: Path, room: None) -> None:
    path = tmp_path / "encoder.gguf"
    path.write_bytes(bytes(tiny_encoder(Q8_0).raw))
    (change,) = lora_edge.plan(path, method="lora", memory_limit=1_000_000).cheaper
    assert "--targets query,value" in change.words and not change.fits
    wide, narrow = (
        lora_edge.plan(path, method="lora", targets=targets).parts["adapters"]
        for targets in (("all-linear",), ("query", "key", "value", "attention.output.dense", "intermediate.dense"))
    )
    pooled = lora_edge.plan(path, method="lora", targets=("query", "pooler.dense")).parts["adapters"]
    assert wide > narrow > pooled
    model = lora_edge.load(path, threads=1)
    used = lora_edge.plan(path)
    assert model.core.kv_type == "f32" and used.parts["kv_cache"] == kv_bytes(1, 32, model.n_ctx, "f32")
    assert "--kv-type" not in " ".join(c.words for c in lora_edge.plan(path, memory_limit=1_000_000).cheaper)


def test_shorter_contexts_and_smaller_caches(tmp_path: Path, room: None) -> None:
    path = base_of(tmp_path, replace(SHAPE, n_layer=4, head_dim=32, n_ctx=1 << 20))
    need = lora_edge.plan(path).peak
    made = lora_edge.plan(path, memory_limit=need * 2 // 3)
    assert [change.fits for change in made.cheaper] == [True, True]
    kv, shorter = made.cheaper
    assert kv.words == "--kv-type q8_0" and kv.peak == lora_edge.plan(path, kv_type="q8_0").peak
    assert shorter.peak == lora_edge.plan(path, n_ctx=int(shorter.words.split()[1])).peak


def test_a_context_that_was_asked_for_must_fit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora_edge.load(base, n_ctx=1024, threads=1)
    check_context(model)
    monkeypatch.setattr("lora_edge.planning.inference.limits", lambda: [Limit("a small box", 200_000)])
    with pytest.raises(MemoryError, match=r"1024 tokens take 0 MB.*a small box.*-c with less"):
        check_context(model)


def test_what_is_no_model_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", "llama", {})
    with pytest.raises(ValueError, match="no model"):
        lora_edge.plan(adapter)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="0 GGUF files"):
        lora_edge.plan(tmp_path / "folder")
    with pytest.raises(ValueError, match="'ranks' is not one of"):
        lora_edge.plan(base, ranks=3)
    with pytest.raises(ValueError, match="target 'nothing' is no module"):
        lora_edge.plan(base, targets=("nothing",))
    with pytest.raises(FileNotFoundError):
        lora_edge.plan(tmp_path / "missing.gguf")


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", str(base), "-c", "512"]) == 0
    text = capsys.readouterr().out
    assert "keys and values" in text and "\nfits: " in text
    assert main(["plan", "-m", str(base), "--rank", "8", "--memory-limit", "20M", "--json"]) == 3
    made = json.loads(capsys.readouterr().out)
    assert made["peak"] == sum(made["bytes"].values()) and not made["fits"]
    assert made["limits"][0] == {"what": "--memory-limit", "n_bytes": 20_000_000}
    for flags, error in ((["--memory-limit", "much"], "no size"), (["--rank", "8", "-c", "9"], "plan one of them")):
        assert main(["plan", "-m", str(base), *flags]) == 1
        assert error in capsys.readouterr().err


def test_torch_is_not_needed(base: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from lora_edge.cli.main import main\n"
        f"raise SystemExit(main(['plan', '-m', {str(base)!r}, '--method', 'lora', '--json']))"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["bytes"]["base"] > 200_000_000
