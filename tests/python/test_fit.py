"""`lora-edge fit`: what it reports is so, it is the best of its rank, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from lora_edge import builtin
from lora_edge.adapter_file import BaseInfo, LoraEntry, read_adapter
from lora_edge.cli.main import main
from lora_edge.fitting import fit
from lora_edge.fitting.calibration import groups, windows_of
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from lora_edge.quant import to_f32
from lora_edge.taps import inputs_of
from tiny_models import Shape, fresh_rng, random_factors, random_shape, random_tensors, write_adapter, write_model

VOCABULARY = open_gguf(builtin.base()).metadata
N_VOCAB = len(VOCABULARY["tokenizer.ggml.tokens"])
TEXT = Path(__file__).read_text("utf-8")
TOKENS = 1600


def files(folder: Path, rng: np.random.Generator, *, tied: bool = True) -> Shape:
    """exact.gguf and int8.gguf, the same model in F32 and Q8_0, and a.gguf, an adapter of rank 4 on two linears."""
    shape = random_shape(rng, "llama", whole_blocks=True, n_layer=2, d=64, n_ff=96, n_vocab=N_VOCAB, tied=tied)
    tensors = random_tensors(rng, shape)
    write_model(folder / "exact.gguf", shape, tensors, vocabulary=VOCABULARY)
    write_model(folder / "int8.gguf", shape, tensors, "q8_0", vocabulary=VOCABULARY)
    write_adapter(
        folder / "a.gguf", "llama", random_factors(rng, shape, ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"], 4)
    )
    return shape


def entries(path: Path, base: Path) -> dict[str, LoraEntry]:
    info = BaseInfo.from_gguf(open_gguf(base))
    return read_adapter(path, info.arch, info).entries


def product(entry: LoraEntry) -> np.ndarray:
    return entry.scale * to_f32(entry.b).astype(np.float64) @ to_f32(entry.a)


def test_the_report_and_the_optimum(tmp_path: Path) -> None:
    """Errors as computed from the inputs themselves; no other factors of that rank do better on the fitted text."""
    rng = fresh_rng()
    files(tmp_path, rng)
    exact, int8, old, out = (tmp_path / f"{name}.gguf" for name in ("exact", "int8", "a", "out"))
    report = fit(int8, old, exact, out, text=TEXT, tokens=TOKENS, type="f32")
    assert [t.name for t in report.tensors] == ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]
    assert report.after < report.before and 0.15 < report.held_tokens / (report.tokens + report.held_tokens) < 0.25
    before, after = entries(old, int8), entries(out, int8)
    with Model(int8, kv_type="f32") as model:
        model.load_adapter(old, name="old")
        texts = windows_of(model.tokenize(TEXT), 256, TOKENS)
        assert [sum(map(len, part)) for part in texts] == [report.tokens, report.held_tokens]
        seen = [[inputs_of(model, ids, "old") for ids in part] for part in texts]
    w, w_q = open_gguf(exact).tensors, open_gguf(int8).tensors
    for t in report.tensors:
        x, held = (np.concatenate([inputs[t.name] for inputs in part]).astype(np.float64).T for part in seen)
        wanted = to_f32(w[t.name]) + product(before[t.name])
        rests = [wanted - to_f32(w_q[t.name]) - product(e[t.name]) for e in (before, after)]
        errors = [np.linalg.norm(rest @ held) / np.linalg.norm(wanted @ held) for rest in rests]
        assert [t.before, t.after] == pytest.approx(errors, rel=1e-3) and t.rank == 4
        assert t.after < 0.97 * t.before
        d = wanted - to_f32(w_q[t.name])
        best = np.sqrt((np.linalg.svd(d @ x, compute_uv=False)[4:] ** 2).sum())
        assert best <= np.linalg.norm(rests[1] @ x) <= 1.02 * best
        u, s, v = np.linalg.svd(d)
        plain = d - (u[:, :4] * s[:4]) @ v[:4]
        assert np.linalg.norm(rests[1] @ x) < np.linalg.norm(plain @ x)


def test_ranks_and_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the full rank on every linear only rounded activations and the embedding are left to differ."""
    rng = fresh_rng()
    files(tmp_path, rng, tied=False)
    int8, exact, old, out = (str(tmp_path / f"{name}.gguf") for name in ("int8", "exact", "a", "out"))
    argv = ["fit", int8, "--lora", old, "--against", exact, "--text", __file__, "-n", str(TOKENS), "-o", out]
    capsys.readouterr()
    assert main([*argv, "--extra-rank", "96", "--every-linear", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["tensors"]) == 15 and found["after"] < 0.05 * found["before"]
    assert found["logits_after"]["kl"] < 0.8 * found["logits_before"]["kl"]
    assert {t["rank"] for t in found["tensors"] if t["name"].endswith("ffn_up.weight")} == {64}
    assert main([*argv, "--extra-rank", "2"]) == 0
    text = capsys.readouterr().out
    assert "logits, KL" in text and re.search(r"blk\.0\.attn_q\.weight +6 ", text) and "blk.0.attn_k" not in text
    with Model(tmp_path / "int8.gguf") as model:
        assert set(model.load_adapter(tmp_path / "out.gguf").ranks.values()) == {6}


def test_what_is_exact_already_is_left_alone(tmp_path: Path) -> None:
    rng = fresh_rng()
    files(tmp_path, rng)
    int8, old, out = (tmp_path / f"{name}.gguf" for name in ("int8", "a", "out"))
    report = fit(int8, old, int8, out, text=TEXT, tokens=400, type="f32")
    assert report.before == report.after == 0 and report.logits_after == report.logits_before
    for name, entry in entries(out, int8).items():
        np.testing.assert_allclose(product(entry), product(entries(old, int8)[name]), rtol=1e-6, atol=1e-7)


def test_parts() -> None:
    ids = list(range(1000))
    fitted, held = windows_of(ids, 100, 950)
    assert len(fitted) == 8 and held == [ids[400:500]] and all(len(w) == 100 for w in fitted)
    assert [len(part) for part in windows_of(ids[:320], 256, 999)] == [4, 1]
    shapes = {"a": (1, 100), "b": (1, 100), "c": (1, 1000)}
    assert groups(shapes, "abc", 2 * 8 * 100**2 * 2) == [["a", "b"], ["c"]]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = fresh_rng()
    files(tmp_path, rng)
    other = random_shape(rng, "llama", d=40)
    write_model(tmp_path / "other.gguf", other, random_tensors(rng, other))
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "empty.txt").write_text("")
    names = sorted(p.name for p in tmp_path.iterdir())

    def run(model: str = "int8.gguf", **changes: object) -> tuple[int, str]:
        flags = {
            "lora": tmp_path / "a.gguf",
            "against": tmp_path / "exact.gguf",
            "text": __file__,
            "o": tmp_path / "out",
        }
        flags |= changes
        argv = [
            part for flag, value in flags.items() for part in (f"--{flag}" if len(flag) > 1 else f"-{flag}", str(value))
        ]
        return main(["fit", str(tmp_path / model), *argv]), capsys.readouterr().err

    for changes, says in (
        ({"text": tmp_path / "short.txt"}, "tokens; 320 are the least"),
        ({"text": tmp_path / "empty.txt"}, "tokens; 320 are the least"),
        ({"text": tmp_path / "none.txt"}, "none.txt"),
        ({"against": tmp_path / "other.gguf"}, "in the base to compare with"),
        ({"against": tmp_path / "none.gguf"}, "none.gguf"),
        ({"lora": tmp_path / "none.gguf"}, "none.gguf"),
        ({"lora": tmp_path / "exact.gguf"}, "adapter"),
        ({"model": "other.gguf"}, "in the deployed model"),
        ({"model": "none.gguf"}, "none.gguf"),
        ({"o": tmp_path / "int8.gguf"}, "also what is read"),
        ({"o": tmp_path / "a.gguf"}, "also what is read"),
        ({"tokens": 5}, "tokens is 5"),
        ({"extra-rank": -1}, "extra_rank is -1"),
    ):
        status, err = run(**changes)  # type: ignore[arg-type]
        assert status == 1 and says in err, (changes, err)
    with pytest.raises(ValueError, match="every_linear needs an extra_rank"):
        fit(tmp_path / "int8.gguf", tmp_path / "a.gguf", tmp_path / "exact.gguf", tmp_path / "out", text=TEXT,
            every_linear=True)  # fmt: skip

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "int8.gguf", tmp_path / "a.gguf", tmp_path / "exact.gguf", tmp_path / "out", text=TEXT,
            tokens=400, progress=stop)  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == names
