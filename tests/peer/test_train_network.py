"""The network that trains is the runtime's: logits of random models of every architecture, rows, windows, caps; and its
gradients are true: against finite differences, plain cross-entropy and plain autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lora_edge
import numpy as np
import pytest
import torch
from lora_edge.encoder_tokenizer import Encoded
from lora_edge.gguf_file import open_gguf
from lora_edge.quant import to_f32
from lora_edge.train import network as network_module
from lora_edge.train.data import IGNORED, Batch
from lora_edge.train.kernels import rotate, swiglu
from lora_edge.train.loss import token_loss
from lora_edge.train.method import Method
from lora_edge.train.methods.full import Full
from lora_edge.train.methods.lora import Lora
from lora_edge.train.network import Network
from lora_edge.train.settings import Settings
from tiny_encoder import tiny_encoder
from tiny_models import ARCHS, fresh_rng, random_shape, random_tensors, write_model
from torch import Tensor
from torch.nn import functional as F

EXACT = 1e-4  # of logits with a deviation of a few units, of float32 weights
NOISE = 0.06  # of the logits' deviation: rounding activations to 8 bits must do less, where some go the other way
N = 130  # tokens: beyond all windows


def network_of(path: Path, rng: np.random.Generator, arch: str, type: str = "f32", **changes: Any) -> Network:
    shape = random_shape(rng, arch, whole_blocks=type != "f32", **changes)
    write_model(path / "base.gguf", shape, random_tensors(rng, shape), type)
    return Network(lora_edge.load(path / "base.gguf", threads=2))


def ids_of(rng: np.random.Generator, network: Network, *shape: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, network.config.n_vocab, shape))


def logits(network: Network, ids: Tensor, *places: Tensor) -> Tensor:
    with torch.no_grad():
        return network.logits(network.hidden(ids, *places))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Mean divergence of softmax(q) from softmax(p), rows of logits."""
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (p, q))
    return float((p.exp() * (p - q)).sum(-1).mean())


def stirred(network: Network, rng: np.random.Generator, *wanted: str) -> Lora:
    """LoRA of rank 3 whose B isn't zero."""
    lora = Lora(network, Settings(rank=3, alpha=6.0, targets=wanted or ("all-linear",)))
    with torch.no_grad():
        for factors in lora.factors.values():
            for x in (factors.a, factors.b):
                x.copy_(torch.from_numpy(rng.standard_normal(x.shape) * 0.5 / x.shape[1] ** 0.5))
    return lora


def batch_of(ids: Tensor, labels: Tensor) -> Batch:
    b, t = ids.shape
    positions = np.tile(np.arange(t), (b, 1))
    n = int((labels != IGNORED).sum())
    return Batch(ids.numpy(), labels.numpy(), positions, None, np.full(b, t), None, None, n, ((1,),) * b)


def gradients(method: Method, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of the summed loss, by the trainer's own way; taken off the tensors."""
    method.learn(batch_of(ids, labels), 1.0)
    found = {name: x.grad for name, x in method.parameters().items() if x.grad is not None}
    for x in method.parameters().values():
        x.grad = None
    return found


def labels_of(rng: np.random.Generator, ids: Tensor, n_vocab: int) -> Tensor:
    """Any tokens, of which a third isn't learned."""
    labels = torch.from_numpy(rng.integers(0, n_vocab, ids.shape))
    return labels.masked_fill(torch.from_numpy(rng.random(ids.shape) < 0.33), IGNORED)


def assert_close(made: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    """Within `bound` of each tensor's largest element; of tensors without any effect (the bias of k in a layer without
    rotation), of the largest of all."""
    assert made.keys() == wanted.keys()
    top = max(float(x.abs().max()) for x in wanted.values())
    for name, x in wanted.items():
        size = max(float(x.abs().max()), 1e-3 * top)
        assert float((made[name] - x).abs().max()) <= bound * size, name


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("draw", range(2))
def test_logits_are_the_runtimes(tmp_path: Path, arch: str, draw: int) -> None:
    """Of frozen weights, of thawed ones, and with an adapter."""
    rng = fresh_rng()
    network = network_of(tmp_path, rng, arch)
    ids = ids_of(rng, network, 2, N)
    wanted = [network.model.logits(row.tolist()) for row in ids]
    assert all(x.std() > 0.1 for x in wanted)
    for made, row in zip(logits(network, ids), wanted):
        assert np.abs(made.numpy() - row).max() <= EXACT
    stirred(network, rng)
    with_adapter = logits(network, ids)
    assert float((with_adapter[0] - torch.from_numpy(wanted[0])).abs().max()) > 100 * EXACT
    for linear in network.linears.values():
        linear.updates.clear()
    network.thaw()
    for made, row in zip(logits(network, ids), wanted):
        assert np.abs(made.numpy() - row).max() <= EXACT


@pytest.mark.parametrize("type", ["q8_0", "q4_0"])
@pytest.mark.parametrize("arch", ARCHS)
def test_quantised_logits_are_the_runtimes(tmp_path: Path, arch: str, type: str) -> None:
    """Some roundings of activations go the other way, as norms and attention sum in another order."""
    rng = fresh_rng()
    network = network_of(tmp_path, rng, arch, type)
    ids = ids_of(rng, network, 1, N)
    wanted, made = network.model.logits(ids[0].tolist()), logits(network, ids)[0].numpy()
    noisy = wanted + (NOISE * wanted.std() * rng.standard_normal(wanted.shape)).astype(np.float32)
    print(f"KL {kl(wanted, made):.1e}, of noise {kl(wanted, noisy):.1e}")
    assert kl(wanted, made) <= kl(wanted, noisy)


@pytest.mark.parametrize("arch", ARCHS)
def test_packed_rows_are_separate_rows(tmp_path: Path, arch: str) -> None:
    """Of different lengths, with padding after the last."""
    rng = fresh_rng()
    network = network_of(tmp_path, rng, arch)
    stirred(network, rng)
    cuts = [int(i) for i in (rng.integers(1, 40), rng.integers(41, 100))]
    ids, t = ids_of(rng, network, 1, N), N - 7
    parts = [slice(0, cuts[0]), slice(cuts[0], cuts[1]), slice(cuts[1], t)]
    positions, segments = torch.zeros(1, N, dtype=torch.int64), torch.full((1, N), -1, dtype=torch.int32)
    for i, part in enumerate(parts):
        positions[0, part] = torch.arange(part.stop - part.start)
        segments[0, part] = i
    packed = logits(network, ids, positions, segments)
    for part in parts:
        assert float((packed[:, part] - logits(network, ids[:, part])).abs().max()) <= EXACT
    assert float((packed[:, parts[2]] - logits(network, ids)[:, parts[2]]).abs().max()) > 100 * EXACT


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_windows(tmp_path: Path, arch: str) -> None:
    """A token outside the windows of all layers moves nothing, and one at their edge does."""
    rng = fresh_rng()
    extra: dict[str, Any] = {"attention.sliding_window_pattern": [True, False]}
    network = network_of(tmp_path, rng, arch, n_layer=1, window=17, extra={})
    ids = ids_of(rng, network, 1, N)
    other = ids.clone()
    other[0, 40] = (ids[0, 40] + 1) % network.config.n_vocab
    moved = (logits(network, ids) - logits(network, other)).abs().amax(-1)[0]
    assert float(moved[40 + 17 :].max()) == 0.0 and float(moved[:40].max()) == 0.0
    assert float(moved[40 : 40 + 17].min()) > 0.0
    mixed = network_of(tmp_path, rng, arch, n_layer=2, window=17, extra=extra)
    ids = ids_of(rng, mixed, 1, N)
    assert np.abs(logits(mixed, ids)[0].numpy() - mixed.model.logits(ids[0].tolist())).max() <= EXACT


@pytest.mark.parametrize("arch", ["llama", "gemma2", "phi3", "stablelm"])
def test_checkpointing_changes_no_gradient(tmp_path: Path, arch: str) -> None:
    rng = fresh_rng()
    network = network_of(tmp_path, rng, arch, "q8_0")
    lora = stirred(network, rng)
    ids = ids_of(rng, network, 2, 60)
    labels = labels_of(rng, ids, network.config.n_vocab)
    found = []
    for network.checkpointing in (False, True):
        found.append(gradients(lora, ids, labels))
    assert found[0].keys() == found[1].keys() == lora.parameters().keys()
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())


@pytest.mark.parametrize("arch", ARCHS)
def test_loss_in_pieces_is_cross_entropy(tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, gradient of every weight, and the value without a gradient."""
    rng = fresh_rng()
    network = network_of(tmp_path, rng, arch)
    monkeypatch.setattr(network_module, "LOGITS_BYTES", 4 * 13 * network.config.n_vocab)
    assert network.piece() == 13
    full = Full(network, Settings(method="full"))
    trained = full.parameters()
    ids = ids_of(rng, network, 2, 45)
    labels = labels_of(rng, ids, network.config.n_vocab)
    made = gradients(full, ids, labels)
    hidden = network.hidden(ids)
    plain = F.cross_entropy(
        network.logits(hidden).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    plain.backward()
    plain = plain.detach()
    assert_close(made, {name: x.grad for name, x in trained.items() if x.grad is not None}, 1e-4)
    assert made.keys() == trained.keys()
    for scale in (None, 0.5):
        loss = token_loss(network, hidden, labels, scale)
        assert loss.n == int((labels != IGNORED).sum())
        assert loss.total == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_finite_differences(tmp_path: Path, arch: str) -> None:
    """Three elements of every tensor, in float64, where differences are exact to many digits."""
    rng = fresh_rng()
    network = network_of(tmp_path, rng, arch)
    full = Full(network, Settings(method="full"))
    trained = full.parameters()
    for x in trained.values():
        x.data = x.data.double()
    ids = ids_of(rng, network, 2, 30)
    labels = labels_of(rng, ids, network.config.n_vocab)

    def total() -> float:
        with torch.no_grad():
            return token_loss(network, network.hidden(ids), labels).total

    found = gradients(full, ids, labels)
    assert found.keys() == trained.keys()
    step, shown = 1e-5, 0
    for name, x in trained.items():
        used = ids[0, :1].tolist() if name == "token_embd.weight" else []
        flat = x.data.view(-1)
        for at in [int(i) for i in rng.integers(0, len(flat), 3)] + [int(i) * x.shape[-1] for i in used]:
            before, sides = float(flat[at]), []
            for h in (step, -step):
                flat[at] = before + h
                sides.append(total())
            flat[at] = before
            slope = (sides[0] - sides[1]) / (2 * step)
            assert float(found[name].view(-1)[at]) == pytest.approx(slope, rel=1e-4, abs=1e-4), (name, at)
            shown += abs(slope) > 1e-2
    assert shown > len(trained)  # not all of them zeros


@pytest.mark.parametrize(
    "wanted", [("all-linear",), ("q_proj", "v_proj", "up_proj"), ("lm_head",), ("embed_tokens", "k_proj")]
)
@pytest.mark.parametrize("type", ["f32", "q8_0", "q4_0"])
def test_factors_gradients_are_autograds(tmp_path: Path, type: str, wanted: tuple[str, ...]) -> None:
    """Against F.linear of the dequantised weights; there activations aren't rounded."""
    rng = fresh_rng()
    network = network_of(tmp_path, rng, "llama", type, n_layer=2)
    lora = stirred(network, rng, *wanted)
    trained = lora.parameters()
    ids = ids_of(rng, network, 2, 60)
    labels = labels_of(rng, ids, network.config.n_vocab)
    made = gradients(lora, ids, labels)
    file = open_gguf(network.model.path)
    for name, linear in network.linears.items():
        stored = "token_embd.weight" if name == "output.weight" and network.tied else name
        linear.weight = torch.from_numpy(np.array(to_f32(file.tensors[stored])))
    hidden = network.hidden(ids)
    F.cross_entropy(
        network.logits(hidden).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    ).backward()
    plain = {name: x.grad for name, x in trained.items() if x.grad is not None}
    assert plain.keys() == made.keys() == trained.keys()
    if type == "f32":
        assert_close(made, plain, 1e-4)
    for name, x in plain.items():
        assert float(F.cosine_similarity(made[name].flatten(), x.flatten(), dim=0)) > 0.95, name


def test_nothing_drops_out_of_held_out_texts(tmp_path: Path) -> None:
    rng = fresh_rng()
    network = network_of(tmp_path, rng, "llama")
    lora = stirred(network, rng, "all-linear", "lm_head")
    batch = batch_of(ids_of(rng, network, 2, 40), labels_of(rng, ids_of(rng, network, 2, 40), network.config.n_vocab))
    plain, learned = lora.measure(batch).total, lora.learn(batch, 1.0).total
    assert learned == pytest.approx(plain, rel=1e-5)
    for factors in lora.factors.values():
        factors.dropout = 0.5
    assert lora.measure(batch).total == pytest.approx(plain, rel=1e-5)
    assert abs(lora.learn(batch, 1.0).total - plain) > 1e-4 * plain


def test_small_functions() -> None:
    """Rotations and swiglu against finite differences, in float64."""
    torch.manual_seed(int(fresh_rng().integers(1 << 30)))
    x = torch.randn(2, 5, 3, 10, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(2, 5, 1, 4, dtype=torch.float64)
    for interleaved in (False, True):
        assert torch.autograd.gradcheck(lambda x: rotate(x, angles.cos(), angles.sin(), interleaved), x)  # noqa: B023
    gate, up = (torch.randn(4, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(swiglu, (gate, up))


def test_an_encoder(tmp_path: Path) -> None:
    """Its hidden states, of pairs and of texts of different lengths side by side."""
    rng = fresh_rng()
    (tmp_path / "encoder.gguf").write_bytes(tiny_encoder().raw)
    with lora_edge.load(tmp_path / "encoder.gguf") as model:
        lengths = rng.integers(2, 20, 6)
        ids = rng.integers(0, 10, (6, int(lengths.max())))
        parts = rng.integers(0, 2, ids.shape)
        segments = np.where(np.arange(ids.shape[1]) < lengths[:, None], 0, -1)
        found = Network(model).hidden(*map(torch.from_numpy, (ids, np.arange(ids.shape[1])[None], segments, parts)))
        texts = [Encoded(i[:n].tolist(), p[:n].tolist()) for i, p, n in zip(ids, parts, lengths)]
        for row, wanted in zip(found, model.hidden_states(texts)):
            assert np.abs(row[: len(wanted)].detach().numpy() - wanted).max() < 1e-4
