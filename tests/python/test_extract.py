"""`lora-edge extract`: known updates are found again, and what a LoRA can't say is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hf_folders import tiny_config, tiny_weights, write_model as write_folder
from lora_edge.adapter_file import BaseInfo, read_adapter
from lora_edge.cli.main import main
from lora_edge.convert import low_rank
from lora_edge.convert.extract import extract
from lora_edge.convert.low_rank import decompose, decompose_to
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from tiny_models import Shape, Tensors, fresh_rng, random_shape, random_tensors, write_model

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def tuned_pair(
    folder: Path, rng: np.random.Generator, *, tied: bool = False, r: int = 8, names: tuple[str, ...] = ()
) -> tuple[Shape, Tensors, Tensors]:
    """base.gguf, and tuned.gguf = base + a rank-r update of `names` (none: all linears of the layers)."""
    shape = random_shape(rng, "qwen3", tied=tied, d=72, n_ff=130, n_layer=2, head_dim=20, n_head=4, n_kv=2)
    base = random_tensors(rng, shape)
    tuned = dict(base)
    for name in base:
        if name in names or (not names and base[name].ndim == 2 and any(stem in name for stem in LINEARS)):
            n, k = base[name].shape
            update = rng.standard_normal((n, r)) @ rng.standard_normal((r, k))
            update *= 0.3 * np.linalg.norm(base[name]) / np.linalg.norm(update)
            tuned[name] = (base[name] + update).astype(np.float32)
    write_model(folder / "base.gguf", shape, base)
    write_model(folder / "tuned.gguf", shape, tuned)
    return shape, base, tuned


@pytest.mark.parametrize("how", [{"rank": 8}, {"tolerance": 1e-3}, {"tolerance": 1e-5}])
def test_a_known_update_is_recovered(how: dict[str, float], tmp_path: Path) -> None:
    rng = fresh_rng()
    shape, base, tuned = tuned_pair(tmp_path, rng)
    report = extract(tmp_path / "tuned.gguf", tmp_path / "base.gguf", tmp_path / "a.gguf", **how)  # type: ignore[arg-type]
    assert len(report.tensors) == 14 and not report.left_out and not report.over
    info = BaseInfo.from_gguf(open_gguf(tmp_path / "base.gguf"))
    entries = read_adapter(tmp_path / "a.gguf", info.arch, info).entries
    for t in report.tensors:
        wanted = (tuned[t.name] - base[t.name]).astype(np.float64)
        e = entries[t.name]
        error = np.linalg.norm(wanted - e.scale * e.b.astype(np.float64) @ e.a) / np.linalg.norm(wanted)
        assert t.rank == 8 and error <= 1e-3 and t.error == pytest.approx(error, abs=2e-6)
        assert t.energy == pytest.approx(1 - error**2) and t.delta == pytest.approx(0.3, abs=1e-3)
    ids = [int(i) for i in rng.integers(0, shape.n_vocab, 40)]
    with Model(tmp_path / "base.gguf", threads=1) as model, Model(tmp_path / "tuned.gguf", threads=1) as wanted_model:
        model.load_adapter(tmp_path / "a.gguf")
        wanted = wanted_model.logits(ids)
        assert np.abs(model.logits(ids, adapter="a") - wanted).max() <= 1e-3
        assert np.abs(model.logits(ids) - wanted).max() > 0.1


def test_a_peft_folder(tmp_path: Path) -> None:
    """Rows of q and k are permuted back; ranks of their own are in rank_pattern."""
    rng = fresh_rng()
    shape = random_shape(rng, "llama", d=48, n_ff=64, n_layer=1)
    base = random_tensors(rng, shape)
    tuned = dict(base)
    for name, r in (("blk.0.attn_q.weight", 2), ("blk.0.ffn_down.weight", 5)):
        n, k = base[name].shape
        tuned[name] = (base[name] + rng.standard_normal((n, r)) @ rng.standard_normal((r, k))).astype(np.float32)
    paths = [write_model(tmp_path / f"{name}.gguf", shape, x) for name, x in (("tuned", tuned), ("base", base))]
    extract(*paths, tmp_path / "a.gguf", tolerance=1e-4)
    report = extract(*paths, tmp_path / "folder", tolerance=1e-4)
    assert [t.rank for t in report.tensors] == [2, 5] and report.path.is_dir()
    info = BaseInfo.from_gguf(open_gguf(paths[1]))
    one, two = (read_adapter(tmp_path / name, info.arch, info) for name in ("a.gguf", "folder"))
    for name, e in one.entries.items():
        f = two.entries[name]
        np.testing.assert_allclose(f.scale * f.b @ f.a, e.scale * e.b @ e.a, rtol=1e-5, atol=1e-5)
    with pytest.raises(FileExistsError, match="is there already"):
        extract(*paths, tmp_path / "folder", rank=2)


def test_rank_follows_the_tolerance(tmp_path: Path) -> None:
    """Against numpy's decomposition: the smallest rank that suffices, of each tensor its own; and the cap."""
    rng = fresh_rng()
    shape = random_shape(rng, "llama", d=64, n_ff=96, n_layer=1, tied=False)
    base = random_tensors(rng, shape)
    tuned = dict(base)
    for i, stem in enumerate(("attn_q", "ffn_up", "output")):
        name = f"blk.0.{stem}.weight" if stem != "output" else "output.weight"
        x = rng.standard_normal(base[name].shape)
        u, s, v = np.linalg.svd(x, full_matrices=False)
        tuned[name] = (base[name] + (u * 0.7 ** (np.arange(len(s)) / (i + 1))) @ v).astype(np.float32)
    write_model(tmp_path / "base.gguf", shape, base)
    write_model(tmp_path / "tuned.gguf", shape, tuned)
    report = extract(tmp_path / "tuned.gguf", tmp_path / "base.gguf", tmp_path / "a.gguf", tolerance=0.1)
    ranks = []
    for t in report.tensors:
        s = np.linalg.svd(tuned[t.name] - base[t.name], compute_uv=False)
        errors = [np.sqrt((s[r:] ** 2).sum() / (s**2).sum()) for r in range(len(s) + 1)]
        assert t.rank == next(r for r, e in enumerate(errors) if e <= 0.1)
        assert t.error == pytest.approx(errors[t.rank], rel=1e-2)
        ranks.append(t.rank)
    assert len(ranks) == 3 and len(set(ranks)) > 1 and not report.over
    capped = extract(tmp_path / "tuned.gguf", tmp_path / "base.gguf", tmp_path / "b.gguf", tolerance=0.1, max_rank=3)
    assert {t.rank for t in capped.tensors} == {3} and set(capped.over) == {t.name for t in capped.tensors}


def test_large_matrices_by_subspace_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as the whole decomposition, for spectra that fall fast, slowly, and not at all beyond some rank."""
    rng = fresh_rng()
    monkeypatch.setattr(low_rank, "EXACT", 100)
    n, k, r = 290, 310, 24
    u, v = (np.linalg.qr(rng.standard_normal((m, n)))[0].T[:n] for m in (n, k))
    for s in (0.8 ** np.arange(n), 1 / (1 + np.arange(n)), np.where(np.arange(n) < 8, 1.0, 1e-4)):
        d = ((u.T * s) @ v).astype(np.float32)
        found = decompose(d, r)
        assert len(found.s) == r
        best = np.sqrt((s[r:] ** 2).sum() / (s**2).sum())
        a, b = found.factors(r)
        error = np.linalg.norm(d - b @ a) / np.linalg.norm(d)
        assert error <= 1.005 * best + 1e-6 and found.error(r) == pytest.approx(error, rel=1e-2, abs=1e-6)
    found, rank = decompose_to(((u.T * 0.9 ** np.arange(n)) @ v).astype(np.float32), 0.01, 256)
    assert abs(rank - next(r for r in range(n) if 0.9**r <= 0.01)) <= 1


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_where_asked_for(tied: bool, tmp_path: Path) -> None:
    rng = fresh_rng()
    shape, _, _ = tuned_pair(tmp_path, rng, tied=tied, r=3, names=("token_embd.weight", "output.weight"))
    paths = tmp_path / "tuned.gguf", tmp_path / "base.gguf", tmp_path / "a.gguf"
    with pytest.raises(ValueError, match=r"token_embd\.weight differ.*--embeddings"):
        extract(*paths, rank=3)
    extract(*paths, rank=3, embeddings=True)
    ids = [int(i) for i in rng.integers(0, shape.n_vocab, 40)]
    with Model(paths[1], threads=1) as model, Model(paths[0], threads=1) as wanted:
        model.load_adapter(paths[2])
        assert set(model.adapters["a"].ranks) == {"token_embd.weight", "output.weight"}
        assert np.abs(model.logits(ids, adapter="a") - wanted.logits(ids)).max() <= 1e-3


def test_folders_and_other_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder against the GGUF of its base (permuted q and k); norms that differ are named, and left where allowed."""
    rng = fresh_rng()
    config = tiny_config("LlamaForCausalLM")
    base = tiny_weights(config, rng)
    write_folder(tmp_path / "base", config, base)
    main(["convert", str(tmp_path / "base"), "-o", str(tmp_path / "base.gguf"), "--type", "f32"])
    tuned = dict(base)
    name = "model.layers.1.self_attn.q_proj.weight"
    n, k = base[name].shape
    tuned[name] = base[name] + (rng.standard_normal((n, 2)) @ rng.standard_normal((2, k))).astype(np.float32)
    write_folder(tmp_path / "tuned", config, tuned)
    argv = ["extract", str(tmp_path / "tuned"), str(tmp_path / "base.gguf"), "-o", str(tmp_path / "a.gguf")]
    capsys.readouterr()
    assert main([*argv, "--tolerance", "0.001", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tensors"]
    assert found["name"] == "blk.1.attn_q.weight" and found["rank"] == 2 and found["error"] <= 1e-3

    tuned["model.norm.weight"] = base["model.norm.weight"] * np.float32(1.1)
    write_folder(tmp_path / "tuned", config, tuned)
    (tmp_path / "a.gguf").unlink()
    assert main([*argv, "--rank", "2"]) == 1
    err = capsys.readouterr().err
    assert "output_norm.weight" in err and "--allow-differences" in err and not (tmp_path / "a.gguf").exists()
    assert main([*argv, "--rank", "2", "--allow-differences", "--type", "f16"]) == 0
    out = capsys.readouterr().out
    assert "left as the base's: output_norm.weight, which differs by 1.00e-01" in out and "blk.1.attn_q" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "base", "base.gguf", "tuned"]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = fresh_rng()
    tuned_pair(tmp_path, rng)
    write_model(tmp_path / "arch.gguf", s := random_shape(rng, "llama"), random_tensors(rng, s))
    write_model(tmp_path / "shape.gguf", s := random_shape(rng, "qwen3", d=40), random_tensors(rng, s))
    tuned, base, out = (str(tmp_path / name) for name in ("tuned.gguf", "base.gguf", "a.gguf"))
    cases = [
        ([tuned, base, "--tolerance", "1"], "tolerance is 1"),
        ([tuned, base, "--rank", "0"], "rank is 0"),
        ([tuned, base, "--rank", "4", "--max-rank", "4"], "max_rank"),
        ([base, base, "--rank", "4"], "nothing to extract"),
        ([tmp_path / "arch.gguf", base, "--rank", "4"], "architecture"),
        ([tmp_path / "shape.gguf", base, "--rank", "4"], "in the base"),
        ([tmp_path / "none", base, "--rank", "4"], "none"),
        ([tmp_path, base, "--rank", "4"], "config.json"),
        ([tuned, base, "--rank", "4", "-o", base], "also what is read"),
    ]
    for argv, says in cases:
        assert main(["extract", "-o", out, *map(str, argv)]) == 1
        assert says in capsys.readouterr().err
    assert not Path(out).exists()
    with pytest.raises(SystemExit):
        main(["extract", tuned, base, "-o", out])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(tuned, base, out, rank=2, progress=stop)
    names = ["arch.gguf", "base.gguf", "shape.gguf", "tuned.gguf"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
