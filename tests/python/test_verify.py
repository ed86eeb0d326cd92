"""`lora-edge verify` and the observation of linears' inputs that it stands on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from lora_edge import builtin
from lora_edge.cli.main import main
from lora_edge.compare import verify
from lora_edge.compare.numbers import LIMITS, coarser, kl, measure
from lora_edge.convert.merge import merge
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from lora_edge.taps import inputs_of, observed
from reference import Reference, ReferenceAdapter
from tiny_models import fresh_rng, random_factors, random_shape, random_tensors, tiny_model, write_adapter, write_model

VOCABULARY = open_gguf(builtin.base()).metadata
N_VOCAB = len(VOCABULARY["tokenizer.ggml.tokens"])


class Recording(Reference):
    def linear(self, x, name, adapters):  # type: ignore[no-untyped-def]
        self.seen[f"{name}.weight"] = x
        return super().linear(x, name, adapters)


@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_inputs_of_every_linear(type: str, tmp_path: Path) -> None:
    """As the float64 reference has them, over more rows than a pass takes at once."""
    rng = fresh_rng()
    shape = tiny_model(tmp_path / "m.gguf", rng, "qwen3", type, whole_blocks=True)
    write_adapter(tmp_path / "a.gguf", "qwen3", random_factors(rng, shape))
    ids = [int(i) for i in rng.integers(0, shape.n_vocab, 300)]
    reference = Recording(tmp_path / "m.gguf", "f32")
    reference.seen = {}
    reference.logits(ids, [(ReferenceAdapter(tmp_path / "a.gguf"), 0.5)])
    with Model(tmp_path / "m.gguf", threads=2, kv_type="f32") as model:
        model.load_adapter(tmp_path / "a.gguf", name="a")
        seen = inputs_of(model, ids, {"a": 0.5})
    assert list(seen) == list(reference.seen)
    for name, x in seen.items():
        y = reference.seen[name]
        assert np.linalg.norm(x - y) <= (1e-4 if type == "f32" else 2e-2) * np.linalg.norm(y), name


def test_observing_ends_and_may_fail(tmp_path: Path) -> None:
    rng = fresh_rng()
    tiny_model(tmp_path / "m.gguf", rng)
    with Model(tmp_path / "m.gguf", threads=1) as model:
        wanted = model.logits([1, 2, 3])

        def fail(names: list[str], x: np.ndarray) -> None:
            raise LookupError(names[0])

        sequence = model.sequence()
        sequence.feed([1])
        with observed(model, fail), pytest.raises(LookupError, match="attn_q"):
            sequence.feed([2, 3])
        assert len(sequence) == 1
        sequence.feed([2, 3])
        assert np.array_equal(sequence.logits(), wanted[-1])
        assert np.array_equal(model.logits([1, 2, 3]), wanted)


def changed(folder: Path, name: str) -> tuple[Path, Path]:
    """A model of three layers, and one of which a single tensor differs."""
    rng = fresh_rng()
    shape = random_shape(rng, "llama", n_layer=3, tied=False, n_vocab=N_VOCAB)
    tensors = random_tensors(rng, shape)
    one = write_model(folder / "one.gguf", shape, tensors, vocabulary=VOCABULARY)
    tensors[name] = tensors[name] * np.float32(1.5)
    return one, write_model(folder / "two.gguf", shape, tensors, vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    ("name", "first", "before"),
    [
        ("blk.0.attn_norm.weight", "blk.0.attn_q.weight", None),
        ("blk.1.attn_v.weight", "blk.1.attn_output.weight", "blk.1.attn_v.weight"),
        ("blk.1.ffn_up.weight", "blk.1.ffn_down.weight", "blk.1.ffn_up.weight"),
        ("blk.2.ffn_norm.weight", "blk.2.ffn_gate.weight", "blk.2.attn_output.weight"),
        ("output.weight", None, "output.weight"),
    ],
)
def test_the_first_divergence_is_named(
    name: str, first: str | None, before: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = changed(tmp_path, name)
    report = verify(two, one)
    assert not report.ok and report.ids_equal and report.divergence is not None
    assert (report.divergence.tensor, report.divergence.before) == (first, before)
    assert main(["verify", str(two), "--against", str(one)]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("DIFFERENT") and str(first or before) in said[-1]
    assert main(["verify", str(one), "--against", str(one), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["distance"]["max_abs"] == 0 and found["distance"]["top1"] == 1
    assert found["ids_equal"] is True and found["divergence"] is None


def test_merged_and_unmerged_are_the_same(tmp_path: Path) -> None:
    """In INT8, within its limits; without the adapter on one side they are not."""
    adapter = builtin.adapters()["json"]
    out = merge(builtin.base(), [(adapter, 1.0)], tmp_path / "merged.gguf", type="f32").path
    report = verify(builtin.base(), out, adapters=[(adapter, 1.0)], merged=True)
    assert report.ok and report.type == "q8_0" and report.ids_equal and 0 < report.distance.kl < 1e-2, report.verdict
    assert not verify(builtin.base(), out).ok
    assert not verify(builtin.base(), out, adapters=[(adapter, 0.5)], merged=True).ok


def test_other_token_ids_are_a_difference(tmp_path: Path) -> None:
    tokens = list(VOCABULARY["tokenizer.ggml.tokens"])
    a, b = (tokens.index(text) for text in ("e", "a"))
    tokens[a], tokens[b] = tokens[b], tokens[a]
    rng = fresh_rng()
    shape = random_shape(rng, "llama", n_vocab=N_VOCAB)
    tensors = random_tensors(rng, shape)
    vocabulary = {**VOCABULARY, "tokenizer.ggml.tokens": tokens}
    one = write_model(tmp_path / "a.gguf", shape, tensors, vocabulary=VOCABULARY)
    two = write_model(tmp_path / "b.gguf", shape, tensors, vocabulary=vocabulary)
    report = verify(one, two, text="e")
    assert report.ids_equal is False and not report.ok and "token ids" in report.verdict
    assert report.distance.max_abs == 0 and report.different_id is not None


def test_distances() -> None:
    rng = fresh_rng()
    y = rng.standard_normal((50, 30)).astype(np.float32)
    x = y + 0.01 * rng.standard_normal(y.shape).astype(np.float32)
    d = measure([(x[:20], y[:20]), (x[20:], y[20:])])
    p, q = (np.exp(z.astype(np.float64)) / np.exp(z.astype(np.float64)).sum(1, keepdims=True) for z in (y, x))
    assert d.kl == pytest.approx(float((p * np.log(p / q)).sum(1).mean())) and d.positions == 50
    assert d.max_abs == pytest.approx(float(np.abs(x - y).max())) and d.kl_max == pytest.approx(kl(y, x).max())
    assert d.top1 == (x.argmax(1) == y.argmax(1)).mean()
    assert coarser("f32", "q8_0") == "q8_0" and coarser("bf16", "f16") == "bf16"
    assert not LIMITS["f32"].passed(d) and LIMITS["q8_0"].passed(d)
    with pytest.raises(ValueError, match="not a finite number"):
        measure([(x * np.float32(np.nan), y)])


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = fresh_rng()
    tiny_model(tmp_path / "m.gguf", rng, n_vocab=70)
    tiny_model(tmp_path / "v.gguf", rng, n_vocab=71)
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "text").write_text("some text")
    (tmp_path / "folder").mkdir()
    model = str(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("lora_edge.compare.llama_cpp.find_spec", lambda name: None)
    cases = [
        ([model, "--against", tmp_path / "none"], ["none", "llama.cpp"]),
        ([tmp_path / "none", "--against", model], ["none"]),
        ([model, "--against", tmp_path / "v.gguf"], ["vocabulary"]),
        ([model, "--against", tmp_path / "text"], ["GGUF"]),
        ([model, "--against", model, "--text", tmp_path / "empty"], ["empty"]),
        ([model, "--against", model, "--text", tmp_path / "bad"], ["UTF-8"]),
        ([model, "--against", model, "--text", tmp_path / "text"], ["no tokenizer"]),
        ([model, "--against", model, "--lora", model], ["adapter"]),
        ([model, "--against", model, "-n", "0"], ["tokens is 0"]),
        ([model, "--against", tmp_path / "folder"], ["transformers", "train"]),
        ([model, "--against", "llama.cpp"], ["llama.cpp is not installed"]),
    ]
    for argv, says in cases:
        assert main(["verify", *map(str, argv)]) == 1
        err = capsys.readouterr().err
        assert all(word in err for word in says), err
    assert main(["verify", model, "--against", model, "-n", "40"]) == 0
    assert "no tokenizer" in capsys.readouterr().out
