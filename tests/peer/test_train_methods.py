"""Half, quantisation-aware, pruning, distilling, preferring and sequential training against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lora_edge
import numpy as np
import pytest
import torch
from lora_edge.convert.weights import convert, meaning
from lora_edge.gguf_file import open_gguf
from lora_edge.quant import to_f32
from lora_edge.train.data import Data, Example
from lora_edge.train.methods import check_options
from lora_edge.train.methods.half import frozen_blocks
from lora_edge.train.methods.qat import on_grid
from lora_edge.train.output import read_metrics, write_model, write_result
from lora_edge.train.settings import Settings
from method_runs import base_file, random_data, runtime_loss, trainer
from tiny_models import fresh_rng, random_factors, random_ids, write_adapter

_CLOSE = {"full": 2e-5, "lora": 2e-5, "qat": 5e-3}  # the runtime also rounds activations, to 8 bits
GATED = ["llama", "qwen2", "gemma3"]


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "f16"])
def test_the_grid_is_that_of_the_file(kind: str) -> None:
    rng = fresh_rng()
    w = rng.standard_normal((70, 96)).astype(np.float32) * np.exp2(rng.integers(-30, 4, (70, 1))).astype(np.float32)
    w[3] = 0
    w[4, 32:64] = np.round(w[4, 32:64] * 4) / 4  # ties
    w[5] = np.where(rng.random(96) < 0.5, 1.5, -1.5)  # the largest size occurs with both signs
    w[6] = rng.integers(-254, 255, 96) / 2
    expected = meaning(convert(w, kind, "w"), kind)
    np.testing.assert_array_equal(on_grid(torch.from_numpy(w), kind).numpy(), expected)


@pytest.mark.parametrize("trains", ["full", "lora"])
@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_qat_trains_the_file_that_it_writes(tmp_path: Path, kind: str, trains: str) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng, arch=str(rng.choice(GATED)), type=str(rng.choice(["f32", "q8_0"])))
    data = random_data(rng, shape)
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="qat", options={"type": kind, "trains": trains})
    network = run.method.network
    before = {name: x.float_weight().detach().clone() for name, x in network.linears.items()}
    result = run.run()
    assert any(not torch.equal(x.float_weight(), before[name]) for name, x in network.linears.items())
    write_model(run.method, str(tmp_path / "base.gguf"), tmp_path / "out.gguf", "f16")
    file = open_gguf(tmp_path / "out.gguf")
    assert {t for _, t, _ in file.core.tensors().values()} == {kind.upper(), "F32"}
    for name, linear in network.linears.items():
        if name in file.tensors:
            np.testing.assert_array_equal(linear.float_weight().detach().numpy(), to_f32(file.tensors[name]), name)
    # The runtime also rounds activations, to 8 bits.
    assert runtime_loss(tmp_path / "out.gguf", data.valid) == pytest.approx(result.valid_loss, rel=5e-3)
    wide = {name: to_f32(file.tensors[name]) for name in file.tensors}
    assert _float_copy_loss(tmp_path, wide, data.valid) == pytest.approx(result.valid_loss, rel=2e-5)


def _float_copy_loss(folder: Path, tensors: dict[str, np.ndarray], examples: list) -> float:
    """The loss of the same weights in a float32 file."""
    from functools import partial

    from lora_edge.convert.merge import base_metadata
    from lora_edge.convert.writer import Planned, write_gguf

    source = folder / "base.gguf"
    arch = str(open_gguf(source).metadata["general.architecture"])
    planned = [Planned(n, "f32", x.shape, partial(np.ascontiguousarray, x)) for n, x in tensors.items()]
    write_gguf(folder / "wide.gguf", arch, base_metadata(source, "f32"), planned)
    return runtime_loss(folder / "wide.gguf", examples)


def test_qat_refuses_what_it_cannot_merge(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng, tied=True)
    data = random_data(rng, shape)
    for options, changes, words in [
        ({"type": "q5_1"}, {}, "q5_1"),
        ({"trains": "dora"}, {}, "dora"),
        ({"trains": "qat"}, {}, "itself"),
        ({"trains": "nothing"}, {}, "'nothing' is not one of"),
        ({"trains": "lora"}, {"targets": ("lm_head",)}, "embedding and output in one"),
        ({"trains": "lora"}, {"dropout": 0.1}, "dropout"),
    ]:
        with pytest.raises(ValueError, match=words):
            trainer(tmp_path / "base.gguf", data, tmp_path, method="qat", options=options, **changes)


def test_half_moves_exactly_half(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng, arch=str(rng.choice(["llama", "qwen3", "gpt2"])))
    data = random_data(rng, shape)
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="half", weight_decay=0.1)
    run.group.sum_gradients = _zeros_where_none  # type: ignore[method-assign]  # as of several processes
    run.run()
    moved = _moved(run.method.model_tensors(), tmp_path / "base.gguf")
    layers = {name.rpartition(".")[0] for name in moved if name.startswith("blk.")}
    still = {block for block in layers if not any(moved.get(f"{block}.{x}", False) for x in ("weight", "bias"))}
    for kind in ("attn_", "ffn_", "norm"):
        blocks = {b for b in layers if (b.endswith("norm") if kind == "norm" else kind in b and "norm" not in b)}
        assert len(blocks & still) == len(blocks) / 2, kind
    assert all(m for name, m in moved.items() if not name.startswith("blk."))


def _zeros_where_none(tensors: list[torch.Tensor]) -> None:
    for x in tensors:
        x.grad = torch.zeros_like(x) if x.grad is None else x.grad


def test_rounds_of_half_move_different_halves(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng)
    data = random_data(rng, shape)
    run = trainer(
        tmp_path / "base.gguf", data, tmp_path, method="half", options={"rounds": 2}, seed=int(rng.integers(99))
    )
    halves, before = [], {n: x.clone() for n, x in run.method.model_tensors().items()}
    for _ in range(2):
        for _ in range(3):
            run._one_step()
        now = {n: x.clone() for n, x in run.method.model_tensors().items()}
        halves.append({n for n, x in now.items() if not torch.equal(x, before[n])})
        before = now
    assert halves[0] != halves[1]
    blocks = [name.rpartition(".")[0] for name in before]
    for round, half in enumerate(halves):
        assert set(blocks) - {n.rpartition(".")[0] for n in half} == frozen_blocks(blocks, run.settings.seed, round)


def _moved(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, bool]:
    base = open_gguf(path).tensors
    return {name: not np.array_equal(x.numpy(), to_f32(base[name])) for name, x in tensors.items()}


@pytest.mark.parametrize("trains", ["full", "lora", "qat"])
@pytest.mark.parametrize("structure", ["weights", "heads", "ffn", "structured"])
def test_pruning_reaches_its_sparsity_and_keeps_it(tmp_path: Path, structure: str, trains: str) -> None:
    rng = fresh_rng()
    arch = str(rng.choice(["llama", "phi3", "gpt2"]))
    shape = base_file(tmp_path / "base.gguf", rng, arch=arch, n_kv=2, n_head=4)
    data = random_data(rng, shape)
    options = {"structure": structure, "trains": trains, "sparsity": 0.5, "end": 0.5, "type": "q8_0"}
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="prune", options=options, weight_decay=0.1)
    zeros, shares = [], []
    for _ in range(6):
        run._one_step()
        tensors = {n: x.float_weight().detach() for n, x in run.method.network.linears.items()}
        zeros.append({n: (m == 0).expand_as(tensors[n]) for n, m in run.method.masks.items()})
        assert all((tensors[n][gone] == 0).all() for n, gone in zeros[-1].items())
        (share, *_) = run.method.facts().values()
        shares.append(share)
    assert shares == sorted(shares) and 0 < shares[0] < shares[2] == shares[5]
    assert shares[5] == pytest.approx(0.5, abs=0.01)
    for before, after in pairwise(zeros):
        assert all((after[n] | ~x).all() for n, x in before.items())  # what is zero stays so
    c = run.method.network.config
    for name, x in zeros[-1].items():
        rows, columns = int(x.all(dim=1).sum()), int(x.all(dim=0).sum())
        if structure == "weights":
            assert int(x.sum()) == round(0.5 * x.numel())
        if structure in ("ffn", "structured") and "ffn" in name:
            assert (columns if "down" in name else rows) == len(x.T if "down" in name else x) / 2
        if structure in ("heads", "structured") and name.endswith("attn_output.weight"):
            assert columns == c.head_dim * c.n_head / 2
    assert any("ffn" in n for n in zeros[-1]) == (structure != "heads")
    assert any("attn" in n for n in zeros[-1]) == (structure != "ffn")
    write_model(run.method, str(tmp_path / "base.gguf"), tmp_path / "out.gguf", "f32")
    smaller = structure in ("ffn", "structured") and trains != "qat"
    assert lora_edge.load(tmp_path / "out.gguf").config.n_ff == (shape.n_ff // 2 if smaller else shape.n_ff)
    assert runtime_loss(tmp_path / "out.gguf", data.valid) == pytest.approx(
        run.evaluate(), rel=5e-3 if trains == "qat" else 2e-5
    )


def test_pruned_heads_and_neurons_have_no_part_in_the_result(tmp_path: Path) -> None:
    """Zeroing a unit's weights is the same as leaving out what it adds: whatever its other weights are."""
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng, arch=str(rng.choice(["llama", "phi3", "gpt2"])), n_kv=2, n_head=4)
    data = random_data(rng, shape)
    options = {"structure": "structured", "sparsity": 0.5, "begin": 0.0, "end": 0.0}
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="prune", options=options)
    first = run.evaluate()
    masks = run.method.masks
    with torch.no_grad():
        for name, mask in masks.items():
            linear = run.method.network.linears[name]
            linear.weight += 10 * (1 - mask.expand_as(linear.weight))
    assert run.evaluate() == first


def test_pruning_takes_the_smallest(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng)
    data = random_data(rng, shape)
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="prune", options={"sparsity": 0.3, "end": 0.0})
    for name, x in run.method.model_tensors().items():
        if name.startswith("blk.") and x.dim() == 2:
            w = np.abs(to_f32(open_gguf(tmp_path / "base.gguf").tensors[name]))
            gone = x.numpy() == 0
            assert w[gone].max() <= w[~gone].min(), name
    with pytest.raises(ValueError, match="sparsity"):
        trainer(tmp_path / "base.gguf", data, tmp_path, method="prune", options={"sparsity": 1.0})
    with pytest.raises(ValueError, match="structure"):
        trainer(tmp_path / "base.gguf", data, tmp_path, method="prune", options={"structure": "rows"})


@pytest.mark.parametrize("trains", ["full", "lora"])
def test_distillation_is_plain_kl(tmp_path: Path, trains: str) -> None:
    rng = fresh_rng()
    teacher = base_file(tmp_path / "teacher.gguf", rng, n_vocab=150)
    shape = base_file(tmp_path / "base.gguf", rng, n_vocab=150)
    write_adapter(tmp_path / "adapter.gguf", "llama", random_factors(rng, teacher))
    data = random_data(rng, shape)
    heat, share = float(rng.uniform(1, 4)), float(rng.uniform(0.1, 1))
    options = {
        "teacher": str(tmp_path / "teacher.gguf"), "teacher_adapter": str(tmp_path / "adapter.gguf"),
        "temperature": heat, "teacher_share": share, "trains": trains,
    }  # fmt: skip
    packed = bool(rng.integers(2))
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="distil", options=options, pack=packed, max_length=64)
    with torch.no_grad():
        for x in run.method.parameters().values():
            x += 0.05 * torch.randn_like(x)
    network, batch = run.method.network, run.batches.at(0)
    network.piece = lambda: 5  # type: ignore[method-assign]
    loss = run.method.learn(batch, 0.25)
    made = {n: x.grad.clone() for n, x in run.method.parameters().items() if x.grad is not None}
    for x in run.method.parameters().values():
        x.grad = None

    model = lora_edge.load(tmp_path / "teacher.gguf", threads=1)
    model.load_adapter(tmp_path / "adapter.gguf", name="a")
    total = torch.zeros(())
    by_line = {e.line: e for e in data.train}
    for line in batch.lines:
        e = by_line[line]
        ids, learn = torch.from_numpy(e.ids[None, :-1].astype(np.int64)), torch.from_numpy(e.learn[1:])
        y = network.logits(network.hidden(ids))[0][learn]
        t = torch.from_numpy(model.logits(e.ids[:-1].tolist(), adapter="a"))[learn]
        wanted = torch.from_numpy(e.ids[1:].astype(np.int64))[learn]
        nats = torch.nn.functional.cross_entropy(y, wanted, reduction="sum")
        kl = torch.nn.functional.kl_div(torch.log_softmax(y / heat, -1), torch.softmax(t / heat, -1), reduction="sum")
        total = total + (1 - share) * nats + share * heat**2 * kl
    (0.25 * total).backward()
    assert loss.total == pytest.approx(float(total.detach()), rel=1e-4)
    for name, x in run.method.parameters().items():
        if x.grad is not None:
            torch.testing.assert_close(made[name], x.grad, rtol=1e-3, atol=1e-5 * float(x.grad.abs().max()) + 1e-9)


def test_distillation_needs_a_teacher_of_the_same_vocabulary(tmp_path: Path) -> None:
    rng = fresh_rng()
    base_file(tmp_path / "teacher.gguf", rng, n_vocab=150)
    data = random_data(rng, base_file(tmp_path / "base.gguf", rng, n_vocab=151))
    with pytest.raises(ValueError, match="150 tokens, the student 151"):
        trainer(tmp_path / "base.gguf", data, tmp_path, method="distil", options={"teacher": tmp_path / "teacher.gguf"})
    with pytest.raises(ValueError, match="give the option teacher"):
        trainer(tmp_path / "base.gguf", data, tmp_path, method="distil")


@pytest.mark.parametrize("trains", ["full", "lora"])
def test_dpo_is_its_formula(tmp_path: Path, trains: str) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng)
    data = random_data(rng, shape, pairs=True)
    beta, smoothing = float(rng.uniform(0.05, 1)), float(rng.choice([0.0, 0.2]))
    options = {"beta": beta, "label_smoothing": smoothing, "trains": trains}
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="dpo", options=options)
    assert run.evaluate() == pytest.approx(np.log(2), rel=1e-4)  # nothing has changed yet
    with torch.no_grad():
        for x in run.method.parameters().values():
            x += 0.02 * torch.randn_like(x)
    network, batch = run.method.network, run.batches.at(0)
    network.piece = lambda: 7  # type: ignore[method-assign]
    assert run.method.units(batch) == 4
    loss = run.method.learn(batch, 0.25)
    made = {n: x.grad.clone() for n, x in run.method.parameters().items() if x.grad is not None}
    for x in run.method.parameters().values():
        x.grad = None

    model = lora_edge.load(tmp_path / "base.gguf", threads=1)
    by_line = {e.line: e for e in data.train}

    def likely(e: Example) -> tuple[torch.Tensor, float]:
        ids = torch.from_numpy(e.ids[None].astype(np.int64))
        log_p = torch.log_softmax(network.logits(network.hidden(ids[:, :-1])), -1)[0].gather(1, ids[0, 1:, None])[:, 0]
        return log_p[torch.from_numpy(e.learn[1:])].sum(), float(model.score(e.ids.tolist())[e.learn[1:]].sum())

    total = torch.zeros(())
    for rows in batch.rows[::2]:
        chosen = by_line[rows[0]]
        (ours, before), (worse, worse_before) = likely(chosen), likely(chosen.rejected)
        margin = beta * ((ours - before) - (worse - worse_before))
        sigmoid = torch.nn.functional.logsigmoid
        total = total - (1 - smoothing) * sigmoid(margin) - smoothing * sigmoid(-margin)
    (0.25 * total).backward()
    assert loss.n == 4 and loss.total == pytest.approx(float(total.detach()), rel=1e-3)
    for name, x in run.method.parameters().items():
        if x.grad is not None:
            torch.testing.assert_close(made[name], x.grad, rtol=5e-3, atol=1e-4 * float(x.grad.abs().max()) + 1e-9)


def test_dpo_learns_what_is_preferred(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng)
    data = random_data(rng, shape, n=8, pairs=True)
    data = Data(data.train, data.train, [])
    run = trainer(tmp_path / "base.gguf", data, tmp_path, method="dpo", steps=20, lr=1e-3)
    result = run.run()
    assert result.valid_loss is not None and result.valid_loss < 0.5
    facts = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert facts["accuracy"] == 1.0 and facts["margin"] > 0
    with pytest.raises(ValueError, match="preferences"):
        plain = random_data(rng, shape)
        trainer(tmp_path / "base.gguf", plain, tmp_path, method="dpo").run()


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_adapters_on_adapters_run_together_and_apart(tmp_path: Path, type: str, method: str) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng, arch=str(rng.choice(["llama", "phi3"])), type=type)
    names = list(shape.linears)[:: int(rng.integers(1, 3))]
    write_adapter(tmp_path / "first.gguf", shape.arch, random_factors(rng, shape, names))
    data = random_data(rng, shape)
    run = trainer(tmp_path / "base.gguf", data, tmp_path, under={tmp_path / "first.gguf": 0.7}, method=method)
    first = {name: f.b.clone() for name, f in run.method.network.updates() if not f.b.requires_grad}
    result = run.run()
    for name, f in run.method.network.updates():
        assert f.b.requires_grad or torch.equal(f.b, first[name])  # what lies under is not moved
    write_result(run.method, tmp_path / "second", "base", "f32")
    model = lora_edge.load(tmp_path / "base.gguf", threads=1)
    model.load_adapter(tmp_path / "first.gguf", name="first")
    model.load_adapter(tmp_path / "second", name="second")
    both = {"first": 0.7, "second": 1.0}
    close = {"f32": 1e-4, "q8_0": 6e-2}[type]  # roundings of activations flip where sums differ in their last bits

    def trained(ids: list[int], keep: Callable[[Any], bool]) -> np.ndarray:
        network = run.method.network.twin()
        for linear in network.linears.values():
            linear.updates = [u for u in linear.updates if keep(u)]
        with torch.no_grad():
            return network.logits(network.hidden(torch.tensor([ids])))[0].numpy()

    ids = random_ids(rng, shape, 12)
    for spec, keep in [
        (both, lambda u: True),
        ({"first": 0.7}, lambda u: not u.b.requires_grad),
        ({"second": 1.0}, lambda u: u.b.requires_grad),
        (None, lambda u: False),
    ]:
        expected, found = trained(ids, keep), model.logits(ids, adapter=spec)
        assert np.linalg.norm(found - expected) <= close * np.linalg.norm(expected), spec
    total = sum(-model.score(e.ids.tolist(), adapter=both)[e.learn[1:]].sum() for e in data.valid)
    assert total / sum(e.n_learned for e in data.valid) == pytest.approx(result.valid_loss, rel=close)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("half", {"rounds": 3}),
        ("qat", {"type": "q4_0"}),
        ("qat", {"trains": "lora"}),
        ("prune", {"end": 0.8, "structure": "weights"}),
        ("prune", {"end": 0.8, "structure": "structured", "trains": "qat/lora"}),
        ("dpo", {"trains": "full"}),
        ("dpo", {"trains": "adalora", "tinit": 1, "tfinal": 1}),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng)
    data = random_data(rng, shape, pairs=method == "dpo")
    settings = {"method": method, "options": options, "seed": int(rng.integers(99))}
    whole = trainer(tmp_path / "base.gguf", data, tmp_path / "whole", **settings)
    whole.run()
    first = trainer(tmp_path / "base.gguf", data, tmp_path / "parts", **settings)
    for _ in range(int(rng.integers(1, 6))):
        first._one_step()
    first.save()
    second = trainer(tmp_path / "base.gguf", data, tmp_path / "parts", **settings)
    assert second.resume()
    second.run()
    assert second.valid_loss == whole.valid_loss
    for name, x in whole.method.parameters().items():
        assert torch.equal(x, second.method.parameters()[name]), name


def test_options_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = base_file(tmp_path / "base.gguf", rng)
    data = random_data(rng, shape)
    for method, options in [("prune", {"trains": "qat/adalora", "type": "q8_0", "init_r": 9, "end": 1}), ("lora", {})]:
        check_options(Settings(method=method, options=tuple(options.items())))
    for method, options in [("lora", {"sparsity": 0.5}), ("qat", {"sparsity": 0.5}), ("prune", {"sparsty": 0.5})]:
        with pytest.raises(ValueError, match="knows no option 'spars"):
            check_options(Settings(method=method, options=tuple(options.items())))
    for method, option, value in [
        ("half", "rounds", 0), ("prune", "end", 1.5), ("prune", "begin", 0.9), ("dpo", "beta", "high"),
        ("dpo", "label_smoothing", 0.6), ("prune", "every", 0.5),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=option):
            trainer(tmp_path / "base.gguf", data, tmp_path, method=method, options={option: value})
