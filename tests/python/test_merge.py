"""`lora-edge merge`: the weights it writes, the errors it reports, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hf_folders import tiny_config, tiny_weights, write_model as write_folder
from lora_edge.adapter_file import BaseInfo
from lora_edge.cli.main import main
from lora_edge.convert.merge import merge
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from lora_edge.quant import to_f32
from tiny_models import fresh_rng, random_factors, tiny_model, write_adapter

LINEAR = "blk.0.ffn_up.weight"


def exact(base: Path, factors: dict[str, tuple[np.ndarray, np.ndarray]], name: str, weight: float = 1.0) -> np.ndarray:
    """W + weight · B A in float64 (alpha 0: scale 1)."""
    a, b = (x.astype(np.float64) for x in factors[name])
    product = a @ b.T if name == "token_embd.weight" else b @ a
    return to_f32(open_gguf(base).tensors[name]).astype(np.float64) + weight * product


@pytest.mark.parametrize(
    ("type", "bound"), [("f32", 1e-6), ("f16", 1e-3), ("bf16", 5e-3), ("q8_0", 1e-2), ("q4_0", 0.2), (None, 1e-6)]
)
def test_weights_and_report(type: str | None, bound: float, tmp_path: Path) -> None:
    rng = fresh_rng()
    base, adapter, out = tmp_path / "base.gguf", tmp_path / "a.gguf", tmp_path / "out.gguf"
    shape = tiny_model(base, rng, "llama", "f32", whole_blocks=True, tied=False)
    factors = random_factors(rng, shape, [LINEAR, "token_embd.weight"])
    write_adapter(adapter, "llama", factors)
    report = merge(base, [(adapter, 0.5)], out, type=type)
    merged = open_gguf(out)
    assert {kind for s, kind, _ in merged.core.tensors().values() if len(s) == 2} == {(type or "f32").upper()}
    assert [t.name for t in report.tensors] == [n for n in merged.tensors if n in factors]
    for t in report.tensors:
        wanted, stored = exact(base, factors, t.name, 0.5), to_f32(merged.tensors[t.name])
        change = wanted - to_f32(open_gguf(base).tensors[t.name])
        error = np.linalg.norm(stored - wanted)
        assert error <= bound * np.linalg.norm(wanted)
        assert t.error == pytest.approx(error / np.linalg.norm(wanted), rel=1e-2, abs=2e-7)
        assert t.delta_error == pytest.approx(error / np.linalg.norm(change), rel=1e-2, abs=2e-6)
        assert t.kept == pytest.approx(1, abs=0.05)
    with Model(out, threads=1) as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


def test_a_change_far_below_a_step_is_reported_as_lost(tmp_path: Path) -> None:
    rng = fresh_rng()
    base, adapter = tmp_path / "base.gguf", tmp_path / "a.gguf"
    shape = tiny_model(base, rng, "llama", "q8_0", whole_blocks=True)
    write_adapter(adapter, "llama", random_factors(rng, shape, [LINEAR]))
    (small,) = merge(base, [(adapter, 1e-5)], tmp_path / "small.gguf").tensors
    assert small.type == "q8_0" and small.kept < 0.2 and small.delta_error > 0.8
    (large,) = merge(base, [(adapter, 1.0)], tmp_path / "large.gguf").tensors
    assert large.kept > 0.97 and large.delta_error < 0.1
    (wide,) = merge(base, [(adapter, 1e-5)], tmp_path / "f32.gguf", type="f32").tensors
    assert wide.kept == pytest.approx(1, abs=0.05)


def test_blocks_of_less_than_8_bits_become_q8_0(tmp_path: Path) -> None:
    rng = fresh_rng()
    base, adapter = tmp_path / "base.gguf", tmp_path / "a.gguf"
    shape = tiny_model(base, rng, "llama", "q4_0", whole_blocks=True)
    factors = random_factors(rng, shape, [LINEAR])
    write_adapter(adapter, "llama", factors)
    merged = open_gguf(merge(base, [(adapter, 1.0)], tmp_path / "out.gguf").path)
    assert {kind for s, kind, _ in merged.core.tensors().values() if len(s) == 2} == {"Q8_0"}
    assert merged.metadata["general.file_type"] == 7  # llama.cpp's number for "mostly Q8_0"
    wanted = exact(base, factors, LINEAR)
    assert np.linalg.norm(to_f32(merged.tensors[LINEAR]) - wanted) <= 1e-2 * np.linalg.norm(wanted)


def test_a_folder_is_a_base_too(tmp_path: Path) -> None:
    config = tiny_config("LlamaForCausalLM")
    write_folder(tmp_path / "hf", config, tiny_weights(config, fresh_rng(), "float16"))
    main(["convert", str(tmp_path / "hf"), "-o", str(tmp_path / "base.gguf"), "--type", "f32"])
    info = BaseInfo.from_gguf(open_gguf(tmp_path / "base.gguf"))
    n, k = info.shapes[LINEAR]
    rng = fresh_rng()
    factors = {LINEAR: (rng.standard_normal((2, k)).astype("f4"), rng.standard_normal((n, 2)).astype("f4"))}
    write_adapter(tmp_path / "a.gguf", info.arch, factors)
    for type in ("f32", None):
        one = merge(tmp_path / "hf", [(tmp_path / "a.gguf", 1.0)], tmp_path / "one.gguf", type=type)
        two = merge(tmp_path / "base.gguf", [(tmp_path / "a.gguf", 1.0)], tmp_path / "two.gguf", type=type or "f16")
        assert one.tensors == two.tensors
        a, b = open_gguf(one.path), open_gguf(two.path)
        assert list(a.tensors) == list(b.tensors)
        assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = fresh_rng()
    base, adapter, out = (str(tmp_path / name) for name in ("base.gguf", "a:b.gguf", "out.gguf"))
    shape = tiny_model(Path(base), rng)
    write_adapter(Path(adapter), "llama", random_factors(rng, shape, [LINEAR]))
    assert main(["merge", base, "--lora", adapter, "--lora", f"{adapter}:-0.5", "-o", out]) == 0
    text = capsys.readouterr().out
    assert LINEAR in text and "kept" in text and f"wrote {out}" in text
    both = to_f32(open_gguf(out).tensors[LINEAR])
    assert main(["merge", base, "--lora", f"{adapter}:0.5", "-o", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == out and [t["name"] for t in found["tensors"]] == [LINEAR]
    np.testing.assert_allclose(both, to_f32(open_gguf(out).tensors[LINEAR]), atol=1e-5)


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = fresh_rng()
    base, adapter, other = (tmp_path / name for name in ("base.gguf", "a.gguf", "other.gguf"))
    shape = tiny_model(base, rng, d=24)
    write_adapter(adapter, "llama", random_factors(rng, shape, [LINEAR]))
    tiny_model(other, rng, d=40)
    shutil.copy(base, tmp_path / "kept.gguf")
    out = tmp_path / "out.gguf"
    kept = out.write_bytes(b"was here")
    cases = [
        ([base, "--lora", tmp_path / "none.gguf", "-o", out], "none.gguf"),
        ([tmp_path / "none.gguf", "--lora", adapter, "-o", out], "none.gguf"),
        ([tmp_path, "--lora", adapter, "-o", out], "config.json"),
        ([other, "--lora", adapter, "-o", out], "another base"),
        ([base, "--lora", base, "-o", out], "adapter"),
        ([base, "--lora", f"{adapter}:1e60", "-o", out], "finite"),
        ([base, "--lora", adapter, "-o", base], "also what is read"),
        ([base, "--lora", adapter, "-o", adapter], "also what is read"),
        ([base, "--lora", adapter, "-o", tmp_path], "not a regular file"),
    ]
    for argv, says in cases:
        assert main(["merge", *map(str, argv)]) == 1
        assert says in capsys.readouterr().err
    assert base.read_bytes() == (tmp_path / "kept.gguf").read_bytes() and out.stat().st_size == kept

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(base, [(adapter, 1.0)], out, progress=stop)
    assert out.stat().st_size == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "base.gguf", "kept.gguf", "other.gguf", "out.gguf"]
