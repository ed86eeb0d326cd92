"""Layers to labels beside transformers and PEFT: the same logits before, during and after training, in all that is
written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from lora_edge import load
from lora_edge.adapter_file import BaseInfo, read_adapter
from lora_edge.convert import convert_model, export_model
from lora_edge.encoder_names import encoder_stem
from lora_edge.encoder_tokenizer import Encoded
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from lora_edge.train.data import Batch, Batches, Data, Example, Labels
from lora_edge.train.head import add_head
from lora_edge.train.method import Method, hidden_of
from lora_edge.train.methods import method_class
from lora_edge.train.methods.adalora import AdaLora
from lora_edge.train.methods.lora import Lora
from lora_edge.train.network import Network
from lora_edge.train.output import write_result
from lora_edge.train.settings import Settings
from lora_edge.train.trainer import Trainer
from peer_models import fresh_rng
from test_encoders_hf import FAMILIES, save_model
from test_train_hf import ADALORA, STEPS, calm_model, optimizer_of

BOUND = 1e-3  # of losses, relative
CLOSE = 1e-4  # of logits
CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"use_rslora": True}, "lora+": {}, "dora": {"use_dora": True},
}  # fmt: skip
RATES = {"full": 2e-3, "lora": 5e-3, "rslora": 2.5e-3, "lora+": 2.5e-3, "dora": 5e-3, "adalora": 5e-3}


def texts(rng: np.random.Generator, n_vocab: int, n: int, n_labels: int, pairs: bool) -> list[Example]:
    """Of 5 to 30 ids, of which some tell the class."""
    made = []
    for line in range(n):
        label = int(rng.integers(n_labels))
        ids = rng.integers(n_labels + 5, n_vocab, int(rng.integers(5, 31))).astype(np.int32)
        ids[rng.random(len(ids)) < 0.4] = 5 + label
        parts = (np.arange(len(ids)) > len(ids) // 2).astype(np.int32) if pairs else None
        made.append(Example(ids, np.zeros(len(ids), np.bool_), line + 1, len(ids), label, parts))
    return made


def given(batch: Batch, roberta: bool) -> dict[str, Any]:
    """A batch as transformers takes it. RoBERTa counts positions of what is no padding."""
    t = batch.ids.shape[1]
    mask = np.arange(t) < batch.lengths[:, None]
    inputs = {"input_ids": batch.ids, "attention_mask": mask.astype(np.int64)}
    if batch.parts is not None:
        inputs["token_type_ids"] = batch.parts
    if roberta:
        inputs["position_ids"] = batch.positions + 2
    return {name: torch.from_numpy(x) for name, x in inputs.items()}


class Run:
    """A trainer of ours on the file of a model of theirs."""

    def __init__(self, folder: Path, family: str, rng: np.random.Generator, s: Settings, kind: str, type: str) -> None:
        self.folder, self.settings, self.roberta = folder, s, family == "Roberta"
        encoder = family in FAMILIES
        self.labels = [f"label {i}" for i in range(int(rng.integers(2, 6)))]
        names = dict(enumerate(self.labels))
        shape: dict[str, Any] = {"id2label": names, "num_labels": len(names), "initializer_range": 0.1}
        if encoder:  # wide enough for blocks, and to learn something in 50 steps
            shape |= {"hidden_size": 32 * int(rng.integers(1, 4)), "num_attention_heads": 4, "intermediate_size": 96}
        if encoder:
            source = save_model(folder / "base", family, kind, rng, **shape)
        else:
            source = calm_model(family, rng, **{**shape, "pad_token_id": 0})
            source.save_pretrained(folder / "base")
        self.config = source.config
        self.base = convert_model(folder / "base", folder / "base.gguf", type=type)
        self.model = Model(self.base, threads=2)
        self.network = Network(self.model, checkpointing=s.checkpointing)
        add_head(self.network, self.labels, s.seed)
        self.method: Method = method_class(s.method)(self.network, s)
        made = texts(rng, source.config.vocab_size, 130, len(self.labels), pairs=family == "Bert")
        data = Data(made[:90], made[90:], [], Labels(tuple(self.labels)))
        self.losses: list[float] = []
        self.trainer = Trainer(self.method, s, data, folder / "out", show=self._note)

    def _note(self, line: dict[str, Any]) -> None:
        if "loss" in line:
            self.losses.append(line["loss"] + getattr(self.method, "penalty", 0.0))

    def theirs(self) -> Any:
        """transformers' model of the base, with our head where it has none."""
        name = "AutoModelForSequenceClassification"
        model: Any = getattr(transformers, name).from_pretrained(
            self.folder / "base", dtype=torch.float32, num_labels=len(self.labels)
        )
        head = self.network.head
        assert head is not None
        modules = {"cls": "bert.pooler.dense", "cls.output": "classifier" if head.pooled else "score"}
        if self.roberta:
            modules = {"cls": "classifier.dense", "cls.output": "classifier.out_proj"}
        with torch.no_grad():
            for name, x in head.tensors().items():
                stem, _, part = name.rpartition(".")
                getattr(model.get_submodule(modules[stem]), part).copy_(x)
        return model.eval()

    def logits(self, network: Network | None = None) -> torch.Tensor:
        """Of the held-out texts, by the network."""
        network = network or self.network
        assert network.head is not None
        with torch.no_grad():
            return torch.cat([network.head(hidden_of(network, b), torch.from_numpy(b.lengths)) for b in self.valid()])

    def valid(self) -> list[Batch]:
        return list(Batches(self.trainer.data.valid, 7, head=True, shuffle=False).epoch())

    def logits_of(self, model: Any) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(**given(b, self.roberta)).logits for b in self.valid()])

    def runtime(self, model: Model, adapter: str | None = None) -> torch.Tensor:
        """By `classify`, each text as it is."""
        rows = []
        for b in self.valid():
            for ids, n, parts in zip(b.ids, b.lengths, np.zeros_like(b.ids) if b.parts is None else b.parts):
                found = model.classify([Encoded(ids[:n].tolist(), parts[:n].tolist())], adapter=adapter)[0]
                assert list(found.scores) == self.labels
                rows.append(found.logits)
        return torch.from_numpy(np.array(rows))


def settings_of(method: str, **changes: Any) -> Settings:
    decay = 0.0 if method == "dora" else 0.1  # transformers' Trainer would take DoRA's magnitudes for a matrix
    values = {"method": method, "rank": 4, "alpha": 8.0, "lr": RATES[method], "lr_ratio": 4.0, "steps": STEPS,
              "batch_size": 8, "warmup": 0.07, "weight_decay": decay, "seed": 5, **changes}  # fmt: skip
    return Settings.from_dict(values)


def their_losses(model: Any, run: Run) -> list[float]:
    s, losses = run.settings, []
    optimizer = optimizer_of(model, s)
    schedule = transformers.get_scheduler(s.schedule, optimizer, math.ceil(s.warmup * s.steps), s.steps)
    trained = [p for p in model.parameters() if p.requires_grad]
    for step in range(s.steps):
        batch = run.trainer.batches.at(step)
        assert batch.classes is not None
        loss = model(**given(batch, run.roberta), labels=torch.from_numpy(batch.classes)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, s.grad_clip)
        optimizer.step()
        schedule.step()
        if s.method == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def assert_follows(run: Run, theirs: Any) -> None:
    assert float((run.logits() - run.logits_of(theirs)).abs().max()) <= CLOSE
    result = run.trainer.run()
    wanted = their_losses(theirs, run)
    away = [abs(a - b) / abs(b) for a, b in zip(run.losses, wanted, strict=True)]
    print(f"{wanted[0]:.3f} -> {wanted[-1]:.3f}, apart {max(away):.1e}")
    assert max(away) <= BOUND
    assert np.mean(wanted[-8:]) < 0.99 * np.mean(wanted[:8])
    assert result.valid_loss == pytest.approx(mean_loss(run, run.logits_of(theirs)), rel=BOUND)


def mean_loss(run: Run, logits: torch.Tensor) -> float:
    classes = torch.cat([torch.from_numpy(b.classes) for b in run.valid() if b.classes is not None])
    return float(torch.nn.functional.cross_entropy(logits, classes))


@pytest.mark.parametrize("kind", ["Model", "ForSequenceClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_full(tmp_path: Path, family: str, kind: str) -> None:
    """Every weight; the file that is written runs as the network does, here and in transformers."""
    rng = fresh_rng()
    run = Run(tmp_path, family, rng, settings_of("full"), kind, "f32")
    assert_follows(run, run.theirs())
    write_result(run.method, tmp_path / "out", "base", "f32")
    with load(tmp_path / "out" / "model.gguf", threads=1) as model:
        assert float((run.runtime(model) - run.logits()).abs().max()) <= CLOSE
    export_model(tmp_path / "out" / "model.gguf", tmp_path / "back", type="f32")
    back: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    assert float((run.logits_of(back) - run.logits()).abs().max()) <= CLOSE
    assert list(back.config.id2label.values()) == run.labels


@pytest.mark.parametrize("type", ["q8_0", "f16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_base(tmp_path: Path, family: str, type: str) -> None:
    """The network is what the runtime runs, before training and after it; where activations have 8 bits, a last bit may
    round one of them elsewhere."""
    rng = fresh_rng()
    run = Run(tmp_path, family, rng, settings_of("lora", steps=20), "ForSequenceClassification", type)
    for kept in (False, True):
        if kept:
            run.trainer.run()
            write_result(run.method, tmp_path / "out", "base", "f32")
            run.model.load_adapter(tmp_path / "out", name="a")
        logits = run.logits()
        away = (run.runtime(run.model, "a" if kept else None) - logits).abs() / max(1.0, float(logits.abs().max()))
        print(f"apart {float(away.max()):.1e}, most of them {float(away.median()):.1e}")
        assert float(away.median()) <= 1e-5 and float(away.max()) <= (5e-2 if type == "q8_0" else CLOSE)


DECODERS = ["Llama", "Qwen2"]
ADAPTERS = ["lora", "rslora", "lora+", "dora"]


def adapted(run: Run, model: Any, **fields: Any) -> Any:
    s = run.settings
    names: Any = "all-linear" if s.targets == ("all-linear",) else list(s.targets)
    config = peft.LoraConfig(r=s.rank, lora_alpha=int(s.alpha), target_modules=names, task_type="SEQ_CLS",
                             **CONFIGS[s.method], **fields)  # fmt: skip
    return peft.get_peft_model(model, config).eval()


def check_adapter(run: Run, tmp_path: Path, **fields: Any) -> None:
    """Trains beside PEFT from PEFT's first values. What is written gives the same logits in PEFT, in the runtime as a
    folder and as GGUF, and in a run that goes on from it."""
    theirs = adapted(run, run.theirs(), **fields)
    theirs.save_pretrained(str(tmp_path / "first"))
    info = BaseInfo.from_gguf(open_gguf(run.base))
    assert isinstance(run.method, Lora)
    run.method.begin_with(read_adapter(tmp_path / "first", info.arch, info))
    assert_follows(run, theirs)
    for path in assert_runs(run, tmp_path):
        again = Network(run.model)
        add_head(again, run.labels, 77)
        method = method_class(run.settings.method)(again, run.settings)
        method.begin_with(read_adapter(path, info.arch, info))
        assert float((run.logits(again) - run.logits()).abs().max()) <= CLOSE


def assert_runs(run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """What is written gives the same logits in PEFT and in the runtime: a folder, and a file in it."""
    wanted, out = run.logits(), tmp_path / "out"
    write_result(run.method, out, str(tmp_path / "base"), "f32")
    loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(str(out), num_labels=len(run.labels)).eval()
    assert float((run.logits_of(loaded) - wanted).abs().max()) <= CLOSE
    for path in (out, out / "adapter.gguf"):
        run.model.load_adapter(path, name=path.name)
        assert float((run.runtime(run.model, path.name) - wanted).abs().max()) <= CLOSE
    return out, out / "adapter.gguf"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ADAPTERS)
def test_adapter(tmp_path: Path, method: str, family: str) -> None:
    rng = fresh_rng()
    kind = str(rng.choice(["Model", "ForSequenceClassification"]))
    check_adapter(Run(tmp_path, family, rng, settings_of(method), kind, "f32"), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_adalora(tmp_path: Path, family: str) -> None:
    run = Run(tmp_path, family, fresh_rng(), settings_of("adalora", options=ADALORA), "Model", "f32")
    config = peft.AdaLoraConfig(target_r=4, total_step=STEPS, lora_alpha=8, target_modules="all-linear",
                                task_type="SEQ_CLS", **ADALORA)  # fmt: skip
    theirs = peft.get_peft_model(run.theirs(), config).eval()
    assert isinstance(run.method, AdaLora)
    with torch.no_grad():
        for name, module in theirs.base_model.model.named_modules():
            if isinstance(module, peft.tuners.adalora.layer.SVDLinear):
                factors = run.method.factors[f"{encoder_stem(name, family.lower())}.weight"]
                factors.a.copy_(module.lora_A["default"])
                factors.b.copy_(module.lora_B["default"])
    assert_follows(run, theirs)
    assert_runs(run, tmp_path)


@pytest.mark.parametrize("cls", DECODERS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_adapter_of_a_decoder(tmp_path: Path, method: str, cls: str) -> None:
    """transformers' `score` on the last token."""
    s = settings_of(method, lr=RATES[method] / 2)
    check_adapter(Run(tmp_path, cls, fresh_rng(), s, "ForCausalLM", "f32"), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_few_modules_in_parts(tmp_path: Path, family: str) -> None:
    """Parts of a batch, activations made again, two modules and an embedding."""
    rng = fresh_rng()
    s = settings_of("lora", targets=["query", "value", "word_embeddings"], accumulate=4, checkpointing=True)
    check_adapter(Run(tmp_path, family, rng, s, "Model", "f32"), tmp_path)
