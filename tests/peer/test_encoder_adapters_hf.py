"""Adapters of classifiers beside PEFT: trained labels and poolers, brought to models with and without a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from lora_edge import Model, load, merge
from lora_edge.convert import convert_adapter, convert_model
from test_encoders_hf import FAMILIES, TEXTS, hidden_of, save_model

ATTENTION = ["query", "value", "attention.output.dense"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora, biases of lora_B": {"use_rslora": True, "lora_bias": True},
    "dora": {"use_dora": True},
    "all linears": {"target_modules": r".*(query|key|value|dense)"},
    "dora of all linears": {"target_modules": r".*(query|key|value|dense)", "use_dora": True},
    "words": {"target_modules": ["query", "word_embeddings"]},
    "patterns": {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}},
}


def shaken(model: Any) -> Any:
    """The same model with everything that is trained moved from where it began."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "magnitude" not in name:
                p.add_(torch.randn_like(p) * 0.3)
            elif p.requires_grad:
                p.mul_(1 + 0.3 * torch.rand_like(p))
    return model.eval()


def adapted(model: Any, task: str | None, **fields: Any) -> Any:
    config = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": task, **fields}
    return shaken(peft.get_peft_model(model, peft.LoraConfig(**config)))


def check_labels(model: Model, reference: Any, folder: Path, name: str) -> None:
    for text in TEXTS:
        expected = hidden_of(reference, folder, text).logits[0].numpy()
        assert np.abs(model.classify(text, adapter=name).logits - expected).max() <= 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_labels(tmp_path: Path, family: str, kind: str) -> None:
    rng = np.random.default_rng()
    fields = dict(KINDS[kind])
    if family == "Roberta" and isinstance(fields.get("target_modules"), str):
        fields["target_modules"] = r".*encoder.*(query|key|value|dense)"  # its classifier is replaced as a whole
    folder = tmp_path / "base"
    tuned = adapted(save_model(folder, family, "ForSequenceClassification", rng), "SEQ_CLS", **fields)
    tuned.save_pretrained(tmp_path / "adapter")
    base = convert_model(folder, tmp_path / "base.gguf", type="f32")
    with load(base) as model:
        before = model.classify(TEXTS[0]).logits
        model.load_adapter(tmp_path / "adapter", name="a")
        check_labels(model, tuned, folder, "a")
        assert np.array_equal(model.classify(TEXTS[0]).logits, before)
        assert np.array_equal(model.classify(TEXTS[0], adapter={"a": 0}).logits, before)
        # through GGUF and back to PEFT: the same again
        for given in (base, folder):
            converted = convert_adapter(tmp_path / "adapter", given, tmp_path / f"{given.name}-a.gguf", type="f32")
        model.load_adapter(converted, name="gguf")
        check_labels(model, tuned, folder, "gguf")
        back = convert_adapter(converted, base, tmp_path / "back")
    fresh = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(fresh, str(back)).eval()
    for text in TEXTS[:2]:
        expected, found = (hidden_of(each, folder, text).logits for each in (tuned, loaded))
        assert (found - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_for_a_model_without(tmp_path: Path, family: str) -> None:
    """What people train: a plain model from the hub, to which the adapter brings its labels."""
    rng = np.random.default_rng()
    folder = tmp_path / "base"
    save_model(folder, family, "Model", rng)
    bare = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    tuned = adapted(bare, "SEQ_CLS")
    tuned.save_pretrained(tmp_path / "adapter")
    with load(convert_model(folder, tmp_path / "base.gguf", type="f32")) as model:
        with pytest.raises(ValueError, match="no classifier"):
            model.classify(TEXTS[0])
        model.load_adapter(tmp_path / "adapter", name="a")
        check_labels(model, tuned, folder, "a")
        assert sorted(model.classify(TEXTS[0], adapter="a").scores) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        model.load_adapter(tmp_path / "adapter", name="b")
        with pytest.raises(ValueError, match="two adapters replace"):
            model.classify(TEXTS[0], adapter={"a": 1, "b": 1})


@pytest.mark.parametrize("family", FAMILIES)
def test_poolers(tmp_path: Path, family: str) -> None:
    """FEATURE_EXTRACTION: a pooler trained whole, or by factors."""
    rng = np.random.default_rng()
    folder = tmp_path / "base"
    for i, fields in enumerate(({"modules_to_save": ["pooler"]}, {"target_modules": ["query", "pooler.dense"]})):
        tuned = adapted(save_model(folder, family, "Model", rng), "FEATURE_EXTRACTION", **fields)
        tuned.save_pretrained(tmp_path / f"adapter{i}")
        base = convert_model(folder, tmp_path / "base.gguf", type="f32")
        with load(base) as model:
            model.load_adapter(tmp_path / f"adapter{i}", name="a")
            for text in TEXTS:
                found = model.embed(text, adapter="a", pooling="pooler", normalize=False)
                assert np.abs(found - hidden_of(tuned, folder, text).pooler_output[0].numpy()).max() <= 1e-3
        if i:
            merge(base, [(tmp_path / f"adapter{i}", 1.0)], tmp_path / "merged.gguf")
            with load(tmp_path / "merged.gguf") as model:
                found = model.embed(TEXTS[0], pooling="pooler", normalize=False)
                assert np.abs(found - hidden_of(tuned, folder, TEXTS[0]).pooler_output[0].numpy()).max() <= 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_token_rows_and_norms(tmp_path: Path, family: str) -> None:
    rng = np.random.default_rng()
    folder = tmp_path / "base"
    reference = save_model(folder, family, "Model", rng)
    tuned = adapted(reference, "FEATURE_EXTRACTION", trainable_token_indices={"word_embeddings": [5, 9, 11]})
    tuned.save_pretrained(tmp_path / "rows")
    with load(convert_model(folder, tmp_path / "base.gguf", type="f32")) as model:
        model.load_adapter(tmp_path / "rows", name="a")
        for text in TEXTS:
            expected = hidden_of(tuned, folder, text).last_hidden_state[0].numpy().mean(0)
            assert np.abs(model.embed(text, adapter="a", normalize=False) - expected).max() <= 1e-3
        norms = adapted(save_model(folder, family, "Model", rng), None, modules_to_save=["LayerNorm"])
        norms.save_pretrained(tmp_path / "norms")
        with pytest.raises(ValueError, match=r"trained norms are not supported"):
            model.load_adapter(tmp_path / "norms", name="n")


def test_other_heads_are_refused(tmp_path: Path) -> None:
    """Labels of each token pass no pooler, though their layer has the same name; an encoder's are none of a decoder."""
    rng = np.random.default_rng()
    folder = tmp_path / "base"
    save_model(folder, "Bert", "Model", rng)
    path = convert_model(folder, tmp_path / "base.gguf", type="f32")
    with load(path) as model:
        for kind, task in (("TokenClassification", "TOKEN_CLS"), ("QuestionAnswering", "QUESTION_ANS")):
            other = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder)
            adapted(other, task).save_pretrained(tmp_path / task)
            with pytest.raises(ValueError, match=r"TOKEN_CLS' is not supported|'qa_outputs' is not one"):
                model.load_adapter(tmp_path / task)
    adapted(transformers.BertForSequenceClassification.from_pretrained(folder), "SEQ_CLS").save_pretrained(
        tmp_path / "labels"
    )
    with load() as decoder, pytest.raises(ValueError, match="'classifier', the head of a classifier"):
        decoder.load_adapter(tmp_path / "labels")


def test_labels_of_decoders(tmp_path: Path) -> None:
    """A `score` on the last token, through GGUF and back; a decoder's own file has no place for it."""
    rng = np.random.default_rng()
    for name in ("Llama", "GPT2"):
        config = getattr(transformers, f"{name}Config")(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_labels=3,
            initializer_range=0.3, pad_token_id=0,
        )  # fmt: skip
        causal = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else "LlamaForCausalLM")(config)
        causal.save_pretrained(tmp_path / name)
        tuned = getattr(transformers, f"{name}ForSequenceClassification")(config)
        targets = ["c_attn"] if name == "GPT2" else ["q_proj"]
        wanted = {n: x for n, x in causal.state_dict().items() if n != "lm_head.weight"}
        assert tuned.load_state_dict(wanted, strict=False).missing_keys == ["score.weight"]
        tuned = adapted(tuned, "SEQ_CLS", target_modules=targets)
        tuned.save_pretrained(tmp_path / f"{name}-adapter")
        base = convert_model(tmp_path / name, tmp_path / f"{name}.gguf", type="f32")
        convert_adapter(tmp_path / f"{name}-adapter", base, tmp_path / f"{name}-a.gguf")
        convert_adapter(tmp_path / f"{name}-a.gguf", tmp_path / name, tmp_path / f"{name}-back")
        texts = [[int(i) for i in rng.integers(1, 40, n)] for n in (1, 7, 300)]
        with load(base) as model:
            for source in (f"{name}-adapter", f"{name}-a.gguf", f"{name}-back"):
                model.load_adapter(tmp_path / source, name=source)
                for found, ids in zip(model.classify(texts, adapter=source), texts, strict=True):
                    with torch.no_grad():
                        expected = tuned(torch.tensor([ids])).logits[0].numpy()
                    assert np.abs(found.logits - expected).max() <= 1e-3
            alone = model.classify(texts[1:2], adapter=source)[0].logits
            assert np.array_equal(alone, model.classify(texts, adapter=source)[1].logits)
            with pytest.raises(ValueError, match="two adapters replace"):
                model.classify(texts, adapter={f"{name}-adapter": 1, source: 1})
            with pytest.raises(ValueError, match="no classifier"):
                model.classify(texts)
        with pytest.raises(ValueError, match="a decoder's file has no place for labels"):
            merge(base, [(tmp_path / f"{name}-adapter", 1.0)], tmp_path / "no.gguf")
        assert not (tmp_path / "no.gguf").exists()
