"""The trainer beside transformers and PEFT: the same weights and batches give the same losses for 50 steps, and what it
writes runs in PEFT as it does here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from lora_edge.adapter_file import BaseInfo, read_adapter
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from lora_edge.train.data import Batch, Data, Example
from lora_edge.train.method import Method
from lora_edge.train.methods import method_class
from lora_edge.train.methods.lora import Lora, add_frozen
from lora_edge.train.network import Network
from lora_edge.train.output import write_result
from lora_edge.train.settings import Settings, rate
from lora_edge.train.trainer import Trainer
from peer_models import LINEARS, fresh_rng, logits_of, lora_layers, random_model
from peft.optimizers import create_loraplus_optimizer
from random_configs import drawn_model

STEPS = 50
BOUND = 1e-3  # of losses, relative
RANK = 4
RATES = {"rslora": 2.5e-3, "lora+": 1.5e-3, "adalora": 1e-2}  # of higher ones some runs are chaotic
ADALORA = {"init_r": 6, "tinit": 5, "tfinal": 15, "deltaT": 3, "orth_reg_weight": 0.1}
CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora+": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}


def examples(rng: np.random.Generator, n_vocab: int, n: int) -> list[Example]:
    """Texts of 8 to 40 tokens, each of which mostly follows from the one before; prompts of some are not learned."""
    after = rng.permutation(n_vocab)
    made = []
    for line in range(n):
        ids = [int(rng.integers(n_vocab))]
        while len(ids) < rng.integers(8, 41):
            ids.append(int(after[ids[-1]] if rng.random() < 0.9 else rng.integers(n_vocab)))
        learn = np.arange(len(ids)) >= (int(rng.integers(1, 6)) if line % 3 == 0 else 1)
        made.append(Example(np.array(ids, np.int32), learn, line + 1))
    return made


def settings_of(method: str, **changes: Any) -> Settings:
    values = {
        "method": method, "rank": RANK, "alpha": 8.0, "lr": RATES.get(method, 5e-3), "lr_ratio": 4.0, "steps": STEPS,
        "batch_size": 8, "warmup": 0.07, "grad_clip": 1.0, "seed": 5,
        "options": ADALORA if method == "adalora" else {}, **changes,
    }  # fmt: skip
    return Settings.from_dict(values)


def calm_model(cls: str, rng: np.random.Generator, **changes: Any) -> Any:
    """A random model whose logits have a deviation of 2: of hot ones a step's last bit decides the steps after it."""
    model = random_model(cls, rng, **changes)
    ids = [int(i) for i in rng.integers(0, model.config.vocab_size, 100)]
    with torch.no_grad():
        model.model.norm.weight.mul_(2 / float(logits_of(model, ids).std()))
    return model


# -- theirs -----------------------------------------------------------------------------------------------------------


def adapted(model: Any, s: Settings) -> Any:
    """The model under PEFT with a new adapter."""
    names: Any = "all-linear" if s.targets == ("all-linear",) else list(s.targets)
    common: dict[str, Any] = {"lora_alpha": s.alpha, "target_modules": names, "task_type": "CAUSAL_LM"}
    if s.method == "adalora":
        config: Any = peft.AdaLoraConfig(target_r=s.rank, total_step=s.steps, **ADALORA, **common)
    else:
        config = peft.LoraConfig(r=s.rank, **CONFIGS[s.method], **common)
    return peft.get_peft_model(model, config)


def give_values(theirs: Any, method: Method, folder: Path, base: Path) -> None:
    """PEFT's first values to ours; AdaLoRA's factors by way of a plain adapter of their rank."""
    source = theirs
    if method.settings.method == "adalora":
        plain = peft.LoraConfig(r=ADALORA["init_r"], target_modules=LINEARS, task_type="CAUSAL_LM")
        bare = transformers.AutoModelForCausalLM.from_pretrained(base.parent / "base")
        source = peft.get_peft_model(bare, plain)
        with torch.no_grad():
            for to, layer in zip(lora_layers(source), svd_layers(theirs), strict=True):
                to.lora_A["default"].weight.copy_(layer.lora_A["default"])
                to.lora_B["default"].weight.copy_(layer.lora_B["default"])
    source.save_pretrained(str(folder))
    info = BaseInfo.from_gguf(open_gguf(base))
    file = read_adapter(folder, info.arch, info)
    assert isinstance(method, method_class("lora"))
    if method.settings.method == "adalora":
        with torch.no_grad():
            for name, entry in file.entries.items():
                method.factors[name].a.copy_(torch.from_numpy(np.array(entry.a)))
                method.factors[name].b.copy_(torch.from_numpy(np.array(entry.b)))
    else:
        method.begin_with(file)


def svd_layers(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, peft.tuners.adalora.layer.SVDLinear)]


def optimizer_of(model: Any, s: Settings) -> torch.optim.Optimizer:
    """AdamW, with the groups of transformers' Trainer or of LoRA+."""
    if s.method == "lora+":
        return create_loraplus_optimizer(  # type: ignore[no-any-return]
            model, torch.optim.AdamW, lr=s.lr, loraplus_lr_ratio=s.lr_ratio, loraplus_weight_decay=s.weight_decay
        )
    decaying = set(transformers.Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trained if n in decaying], "weight_decay": s.weight_decay},
        {"params": [p for n, p in trained if n not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=s.lr)


def texts(batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """ids and labels [b, t] as transformers takes them; of packed rows each text alone."""
    if not len(batch.ids):
        return
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels).contiguous()
    if batch.segments is None:
        yield ids, labels
        return
    for row, numbers in enumerate(torch.from_numpy(batch.segments)):
        for number in range(int(numbers.max()) + 1):
            yield ids[row][numbers == number][None], labels[row][numbers == number][None]


def their_losses(model: Any, s: Settings, parts_of: Callable[[int], list[Batch]]) -> list[float]:
    """Of each step, in nats per learned token; with AdaLoRA's penalty."""
    optimizer = optimizer_of(model, s)
    schedule = transformers.get_scheduler(
        s.schedule, optimizer, num_warmup_steps=math.ceil(s.warmup * s.steps), num_training_steps=s.steps
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    losses = []
    model.eval()  # gpt2 would drop out
    for step in range(s.steps):
        parts = parts_of(step)
        n = sum(part.n_tokens for part in parts)
        total = 0.0
        for part in parts:
            for ids, labels in texts(part):
                loss = model(input_ids=ids, labels=labels, shift_labels=labels, num_items_in_batch=n).loss
                loss.backward()
                total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, s.grad_clip)
        optimizer.step()
        schedule.step()
        if s.method == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        losses.append(total)
    return losses


# -- ours -------------------------------------------------------------------------------------------------------------


class Run:
    """A trainer of ours on the float32 file of a model of theirs."""

    def __init__(self, source: Any, folder: Path, s: Settings, rng: np.random.Generator) -> None:
        source.save_pretrained(folder / "base")
        self.folder, self.settings = folder, s
        self.base = convert_model(folder / "base", folder / "base.gguf", type="f32")
        self.model = Model(self.base, threads=2, n_ctx=256)  # of LongRoPE the short factors, as theirs
        self.method = method_class(s.method)(Network(self.model, checkpointing=s.checkpointing), s)
        n_vocab = self.model.config.n_vocab
        made = examples(rng, n_vocab, 130)
        self.losses: list[float] = []
        self.trainer = Trainer(self.method, s, Data(made[:90], made[90:], []), folder / "out", show=self._note)

    def parts(self, step: int) -> list[Batch]:
        return list(self.trainer.batches.at(step).split(self.settings.accumulate))

    def _note(self, line: dict[str, Any]) -> None:
        if "loss" in line:
            self.losses.append(line["loss"] + getattr(self.method, "penalty", 0.0))

    def train(self) -> None:
        result = self.trainer.run()
        assert result.finished and result.valid_loss is not None and len(self.losses) == STEPS

    def valid_loss_of(self, model: Any) -> float:
        total = n = 0.0
        for e in self.trainer.data.valid:
            log_p = torch.log_softmax(torch.from_numpy(logits_of(model, e.ids.tolist())[:-1]), -1)
            picked = log_p.gather(1, torch.from_numpy(e.ids[1:].astype(np.int64))[:, None])[:, 0]
            total, n = total - float(picked[torch.from_numpy(e.learn[1:])].sum()), n + int(e.learn[1:].sum())
        return total / n


def assert_follows(run: Run, theirs: Any) -> None:
    """Trains both. The losses are theirs, they fall, and so does that of held-out texts."""
    before = run.valid_loss_of(theirs.eval())
    run.train()
    wanted = their_losses(theirs, run.settings, run.parts)
    away = [abs(a - b) / abs(b) for a, b in zip(run.losses, wanted)]
    valid = run.valid_loss_of(theirs)
    print(f"{wanted[0]:.3f} -> {wanted[-1]:.3f}, held out {before:.3f} -> {valid:.3f}; apart {max(away):.1e}")
    assert max(away) <= BOUND
    assert run.trainer.valid_loss == pytest.approx(valid, rel=BOUND)
    assert np.mean(wanted[-5:]) < 0.95 * np.mean(wanted[:5])
    assert valid < 0.98 * before


def assert_runs_in_peft(run: Run, rng: np.random.Generator) -> None:
    """What is written gives the same logits in PEFT, the runtime from the folder and from GGUF, and the network."""
    out = run.folder / "out"
    write_result(run.method, out, "base", "f32")
    fresh: Any = transformers.AutoModelForCausalLM.from_pretrained(run.folder / "base", dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(fresh, str(out)).eval()
    run.model.load_adapter(out, name="folder")
    run.model.load_adapter(out / "adapter.gguf", name="file")
    ids = [int(i) for i in rng.integers(0, run.model.config.n_vocab, 100)]
    wanted = logits_of(loaded, ids)
    assert np.abs(wanted - run.model.logits(ids)).max() > 0.1
    for name in ("folder", "file"):
        assert np.abs(run.model.logits(ids, adapter=name) - wanted).max() <= 1e-3
    network = run.method.network
    with torch.no_grad():
        assert np.abs(network.logits(network.hidden(torch.tensor([ids])))[0].numpy() - wanted).max() <= 1e-3


def assert_goes_on(run: Run, rng: np.random.Generator) -> None:
    """A new run that begins with what was written, as a folder, in bfloat16 or as GGUF, is where this one ended; so is
    a network with it underneath."""
    out, s = run.folder / "out", run.settings
    ids = torch.from_numpy(rng.integers(0, run.model.config.n_vocab, (1, 60)))

    def logits(network: Network) -> torch.Tensor:
        with torch.no_grad():
            return network.logits(network.hidden(ids))

    wanted = logits(run.method.network)
    convert_adapter(out, run.base, run.folder / "bf16", to="peft", type="bf16")
    info = BaseInfo.from_gguf(open_gguf(run.base))
    for path, bound in ((out, 1e-4), (out / "adapter.gguf", 1e-4), (run.folder / "bf16", 0.1 * float(wanted.std()))):
        if s.method != "adalora":
            method = method_class(s.method)(Network(run.model), s)
            assert isinstance(method, Lora)
            method.begin_with(read_adapter(path, info.arch, info))
            assert float((logits(method.network) - wanted).abs().max()) <= bound
        network = Network(run.model)
        if s.method == "dora":
            with pytest.raises(ValueError, match="DoRA"):
                add_frozen(network, {str(path): 1.0})
        else:
            add_frozen(network, {str(path): 1.0})
            assert float((logits(network) - wanted).abs().max()) <= bound


def check_adapter(tmp_path: Path, source: Any, rng: np.random.Generator, s: Settings) -> None:
    run = Run(source, tmp_path, s, rng)
    theirs = adapted(source, s)
    give_values(theirs, run.method, tmp_path / "first", run.base)
    assert_follows(run, theirs)
    assert_runs_in_peft(run, rng)
    assert_goes_on(run, rng)


# -- the methods ------------------------------------------------------------------------------------------------------

ADAPTERS = ["lora", "rslora", "lora+", "dora", "adalora"]


@pytest.mark.parametrize("cls", ["Llama", "Qwen2"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_adapter(tmp_path: Path, method: str, cls: str) -> None:
    rng = fresh_rng()
    check_adapter(tmp_path, calm_model(cls, rng), rng, settings_of(method))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", ["lora", "lora+"])
def test_embedding_and_head(tmp_path: Path, method: str, tied: bool) -> None:
    rng = fresh_rng()
    targets = ["embed_tokens", "lm_head", "q_proj", "down_proj"]
    s = settings_of(method, targets=targets, **({"lr": 3e-3} if method == "lora+" else {}))
    check_adapter(tmp_path, calm_model("Llama", rng, tie_word_embeddings=tied), rng, s)


CHANGES: dict[str, dict[str, Any]] = {
    "parts of uneven numbers of tokens": {"accumulate": 4},
    "packed rows": {"pack": True, "max_length": 64, "batch_size": 3},
    "checkpointing": {"checkpointing": True},
    "weight decay, cosine": {"weight_decay": 0.3, "schedule": "cosine"},
    "no warm-up, no clipping": {"warmup": 0.0, "grad_clip": 1e9},
    "few modules": {"targets": ["q_proj", "v_proj"], "lr": 1e-2},
    "the head alone": {"targets": ["lm_head"], "lr": 5e-2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_settings(tmp_path: Path, change: str) -> None:
    rng = fresh_rng()
    check_adapter(
        tmp_path, calm_model("Mistral", rng, sliding_window=None), rng, settings_of("lora", **CHANGES[change])
    )


@pytest.mark.parametrize("cls", ["Gemma2ForCausalLM", "GPT2LMHeadModel", "Phi3ForCausalLM", "Qwen3ForCausalLM"])
def test_lora_of_other_architectures(tmp_path: Path, cls: str) -> None:
    rng = fresh_rng()
    check_adapter(tmp_path, drawn_model(cls, rng), rng, settings_of("lora"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cls", ["Llama", "Qwen2", "Qwen3"])
def test_full(tmp_path: Path, cls: str, tied: bool) -> None:
    """Every weight, with weight decay as transformers has it; the file that is written runs as the network does."""
    rng = fresh_rng()
    source = calm_model(cls, rng, tie_word_embeddings=tied)
    run = Run(source, tmp_path, settings_of("full", lr=2e-3, weight_decay=0.1), rng)
    assert_follows(run, source)
    write_result(run.method, tmp_path / "out", "base", "f32")
    ids = [int(i) for i in rng.integers(0, run.model.config.n_vocab, 100)]
    network = run.method.network
    with torch.no_grad():
        wanted = network.logits(network.hidden(torch.tensor([ids])))[0].numpy()
    with Model(tmp_path / "out" / "model.gguf") as trained:
        assert np.abs(trained.logits(ids) - wanted).max() <= 1e-3


@pytest.mark.parametrize(
    "name, theirs", [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")]
)
@pytest.mark.parametrize("total, warmup", [(50, 0.07), (100, 0.5), (9, 0.0), (1, 0.0), (2, 0.03)])
def test_schedule(name: str, theirs: str, total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = transformers.get_scheduler(theirs, optimizer, math.ceil(warmup * total), total)
    for step in range(total):
        assert rate(step, total, warmup, name) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
