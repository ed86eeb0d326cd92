"""Encoders beside transformers: random BERT and RoBERTa models, their embeddings, labels and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from lora_edge import load
from lora_edge.convert import convert_model, export_model
from lora_edge.gguf_file import open_gguf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["A cat sat on the mat.", "Nobody expects the unexpected, naïve or not!", "x", "one two three " * 30]
FAMILIES = ["Bert", "Roberta"]


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng()


def word_piece(folder: Path) -> int:
    """A trained WordPiece tokenizer; returns its size."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.BertTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    return made.get_vocab_size()


def byte_level(folder: Path) -> int:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    transformers.RobertaTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    return made.get_vocab_size()


def save_model(folder: Path, family: str, kind: str, rng: np.random.Generator, **changes: Any) -> Any:
    """A random model with its tokenizer, saved."""
    n_vocab = (word_piece if family == "Bert" else byte_level)(folder) + int(rng.integers(0, 5))
    heads = int(rng.integers(1, 5))
    config = getattr(transformers, f"{family}Config")(
        **{"vocab_size": n_vocab, "hidden_size": heads * 2 * int(rng.integers(4, 17)), "num_attention_heads": heads,
           "num_hidden_layers": int(rng.integers(1, 4)), "intermediate_size": int(rng.integers(20, 200)),
           "max_position_embeddings": 210, "type_vocab_size": 2 if family == "Bert" else 1,
           "num_labels": int(rng.integers(1, 5)), "layer_norm_eps": float(rng.choice([1e-12, 1e-5])),
           "initializer_range": 0.3, "attn_implementation": "eager", **changes}
    )  # fmt: skip
    model = getattr(transformers, family + kind)(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                p.add_(torch.randn_like(p) * 0.2)
    model.save_pretrained(folder)
    return model


def hidden_of(model: Any, folder: Path, text: str | tuple[str, str]) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    parts = (text,) if isinstance(text, str) else text
    with torch.no_grad():
        return model(**tokenizer(*parts, return_tensors="pt"))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings(tmp_path: Path, family: str, rng: np.random.Generator) -> None:
    for i in range(5):
        folder = tmp_path / str(i)
        reference = save_model(folder, family, "Model", rng)
        texts: list[str | tuple[str, str]] = [*TEXTS]
        if family == "Bert":
            texts.append((TEXTS[0], TEXTS[1]))
        expected = [hidden_of(reference, folder, text).last_hidden_state[0].numpy() for text in texts]
        with load(convert_model(folder, tmp_path / f"{i}.gguf", type="f32"), threads=1 + i % 2) as model:
            for pooling, pool in {"mean": lambda h: h.mean(0), "cls": lambda h: h[0]}.items():
                found = model.embed(texts, pooling=pooling, normalize=False)
                assert np.abs(found - np.array([pool(h) for h in expected])).max() <= 1e-3
            unit = model.embed(TEXTS[0])
            assert unit.shape == (model.config.n_embd,) and abs(np.linalg.norm(unit) - 1) < 1e-5
            pooled = model.embed(texts, pooling="pooler", normalize=False)
            for row, text in zip(pooled, texts):
                assert np.abs(row - hidden_of(reference, folder, text).pooler_output[0].numpy()).max() <= 1e-3
            alone = np.array([model.embed([text])[0] for text in texts])
            assert np.array_equal(alone, model.embed(texts))  # the same bits in a batch


@pytest.mark.parametrize("family", FAMILIES)
def test_labels(tmp_path: Path, family: str, rng: np.random.Generator) -> None:
    for i in range(5):
        folder = tmp_path / str(i)
        reference = save_model(folder, family, "ForSequenceClassification", rng)
        with load(convert_model(folder, tmp_path / f"{i}.gguf", type="f32")) as model:
            for text, found in zip(TEXTS, model.classify(TEXTS)):
                expected = hidden_of(reference, folder, text).logits[0].numpy()
                assert np.abs(found.logits - expected).max() <= 1e-3
                assert found.label == reference.config.id2label[int(expected.argmax())]
                if len(expected) > 1:
                    assert abs(sum(found.scores.values()) - 1) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters(tmp_path: Path, family: str, rng: np.random.Generator) -> None:
    folder = tmp_path / "base"
    reference = save_model(folder, family, "Model", rng)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "key", "value", "attention.output.dense"])
    adapted = peft.get_peft_model(reference, config).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn_like(p) * 0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = hidden_of(adapted, folder, TEXTS[0]).last_hidden_state[0].numpy().mean(0)
    with load(convert_model(folder, tmp_path / "base.gguf", type="f32")) as model:
        base = model.embed(TEXTS[0], normalize=False)
        model.load_adapter(tmp_path / "adapter", name="a")
        found = model.embed(TEXTS[0], adapter="a", normalize=False)
        assert np.abs(found - expected).max() <= 1e-3 < np.abs(found - base).max()
        assert np.array_equal(model.embed(TEXTS[0], normalize=False), base)


@pytest.mark.parametrize("kind", ["Model", "ForSequenceClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_export(tmp_path: Path, family: str, kind: str, rng: np.random.Generator) -> None:
    """transformers loads what goes out: the original's numbers to the bit, its token ids, and the same file again."""
    for i in range(3):
        folder, out = tmp_path / str(i), tmp_path / f"out{i}"
        reference = save_model(folder, family, kind, rng)
        path = convert_model(folder, tmp_path / f"{i}.gguf", type="f32", name="x")
        export_model(path, out)
        loaded, said = type(reference).from_pretrained(out, output_loading_info=True, attn_implementation="eager")
        assert not said["missing_keys"] and not said["unexpected_keys"]
        for p in (*reference.parameters(), *loaded.parameters()):
            p.data = p.data.clone()  # torch's sums depend on where a tensor begins in memory
        tokenizers = [transformers.AutoTokenizer.from_pretrained(f) for f in (folder, out)]
        for text in TEXTS:
            assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids
            first, second = (hidden_of(m, f, text) for m, f in ((reference, folder), (loaded.eval(), out)))
            assert torch.equal(first[0], second[0])
        batch = tokenizers[1](TEXTS, padding=True, return_tensors="pt")
        with torch.no_grad():
            assert torch.allclose(loaded(**batch)[0][-1], reference(**batch)[0][-1])
        if kind != "Model":
            assert loaded.config.id2label == reference.config.id2label
        again = convert_model(out, tmp_path / f"again{i}.gguf", type="f32", name="x")
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["ForMaskedLM", "ForPreTraining"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pretrained_models(tmp_path: Path, family: str, kind: str, rng: np.random.Generator) -> None:
    """What the hub's bases of adapters are: the encoder converts exactly, its heads of pretraining are named; an
    adapter with labels runs on it as PEFT runs it on the folder."""
    if (family, kind) == ("Roberta", "ForPreTraining"):
        pytest.skip("there is no such class")
    folder = tmp_path / "base"
    save_model(folder, family, kind, rng)
    automatic = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    path = convert_model(folder, tmp_path / "base.gguf", type="f32", name="x")
    left_out = open_gguf(path).metadata["bert.left_out"]
    assert left_out and all(name.startswith(("cls.", "lm_head.")) for name in left_out)
    labelled = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    tuned = peft.get_peft_model(labelled, config).eval()
    with torch.no_grad():
        for p in (p for p in tuned.parameters() if p.requires_grad):
            p.add_(torch.randn_like(p) * 0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    with load(path) as model:
        for text in TEXTS:
            expected = hidden_of(automatic, folder, text).last_hidden_state[0].numpy().mean(0)
            assert np.abs(model.embed(text, normalize=False) - expected).max() <= 1e-3
        if family == "Bert" and kind == "ForMaskedLM":  # transformers saves it without the pooler
            with pytest.raises(ValueError, match="which stand on a pooler"):
                model.load_adapter(tmp_path / "adapter", name="a")
            return
        model.load_adapter(tmp_path / "adapter", name="a")
        for text in TEXTS:
            expected = hidden_of(tuned, folder, text).logits[0].numpy()
            assert np.abs(model.classify(text, adapter="a").logits - expected).max() <= 1e-3
    exported = export_model(path, tmp_path / "out")
    again = type(automatic).from_pretrained(exported, attn_implementation="eager").eval()
    assert torch.equal(*(hidden_of(m, folder, TEXTS[0]).last_hidden_state for m in (again, automatic)))
