"""Encoders: BERT's forward pass in numpy, its tokenizer, its heads, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
from hf_folders import write_safetensors
from lora_edge import load
from lora_edge.cli.main import main
from lora_edge.convert import convert_model, export_model
from lora_edge.encoder_tokenizer import EncoderTokenizer
from lora_edge.gguf_file import open_gguf
from tiny_encoder import tiny_encoder

D, HEADS, FF, LAYERS, CTX = 24, 3, 40, 2, 100
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "light", "##s", "on", "off", "the", ",", "kitchen"]
LABELS = ["on", "off", "neither"]


Tensors = dict[str, np.ndarray]


def bert_folder(folder: Path, rng: np.random.Generator, head: str = "ForSequenceClassification", d: int = D) -> Tensors:
    """A random classifier with a WordPiece tokenizer; returns its tensors by transformers' names without "bert."."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), d),
        "embeddings.position_embeddings.weight": (CTX, d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "pooler.dense.weight": (d, d),
        "pooler.dense.bias": (d,),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        linears = {f"attention.self.{name}": (d, d) for name in ("query", "key", "value")}
        linears |= {"attention.output.dense": (d, d), "intermediate.dense": (FF, d), "output.dense": (d, FF)}
        for name, shape in linears.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    shapes |= {f"{name}.{part}": (d,) for name in norms for part in ("weight", "bias")}
    tensors = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    stored = {f"bert.{name}": x for name, x in tensors.items()}
    if head == "Model":
        stored = dict(tensors)
    else:
        for name, shape in {"classifier.weight": (len(LABELS), d), "classifier.bias": (len(LABELS),)}.items():
            stored[name] = tensors[name] = rng.normal(0, 0.4, shape).astype(np.float32)
    config = {
        "architectures": [f"Bert{head}"], "model_type": "bert", "hidden_size": d, "num_attention_heads": HEADS,
        "intermediate_size": FF, "num_hidden_layers": LAYERS, "vocab_size": len(WORDS), "type_vocab_size": 2,
        "max_position_embeddings": CTX, "layer_norm_eps": 1e-12, "id2label": dict(enumerate(LABELS)),
    }  # fmt: skip
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": w, "special": True} | dict.fromkeys(
            ("single_word", "lstrip", "rstrip", "normalized"), False) for i, w in enumerate(WORDS[:5])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {w: {"id": w, "ids": [WORDS.index(w)], "tokens": [w]} for w in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(WORDS)}},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_safetensors(folder / "model.safetensors", stored)
    return tensors


def forward(t: Tensors, ids: list[int], parts: list[int]) -> np.ndarray:
    """Last hidden states in float64."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].T.astype(np.float64) + t[f"{name}.bias"]

    n, head = len(ids), D // HEADS
    x = t["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = x + t["embeddings.token_type_embeddings.weight"][parts] + t["embeddings.position_embeddings.weight"][:n]
    x = norm(x, "embeddings.LayerNorm")
    erf = np.vectorize(math.erf)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{at}attention.self.{s}").reshape(n, HEADS, head) for s in ("query", "key", "value"))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(head)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads = np.einsum("hij,jhd->ihd", weights, v).reshape(n, D)
        x = norm(x + linear(heads, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        up = linear(x, f"{at}intermediate.dense")
        x = norm(x + linear(up * 0.5 * (1 + erf(up / math.sqrt(2))), f"{at}output.dense"), f"{at}output.LayerNorm")
    return x


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def test_labels_and_embeddings_are_those_of_the_definition(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="f32")
    long = " ".join(rng.choice(["light", "on", "off", "the", "kitchen"], 95))
    texts = ["Lights on, the kitchen", ("lights off", "on"), long]
    expected_ids = [[2, 5, 6, 7, 10, 9, 11, 3], [2, 5, 6, 8, 3, 7, 3]]
    with load(path, threads=2) as model:
        assert model.need_encoder().ids(texts[0]) == (expected_ids[0], [0] * 8)
        assert model.need_encoder().ids(texts[1]) == (expected_ids[1], [0] * 5 + [1] * 2)
        pooled = model.embed(texts, normalize=False)
        for row, text, found in zip(pooled, texts, model.classify(texts)):
            hidden = forward(tensors, *model.need_encoder().ids(text))
            assert np.abs(row - hidden.mean(0)).max() < 1e-4
            dense = np.tanh(tensors["pooler.dense.weight"] @ hidden[0] + tensors["pooler.dense.bias"])
            logits = tensors["classifier.weight"] @ dense + tensors["classifier.bias"]
            assert np.abs(found.logits - logits).max() < 1e-4 and found.label == LABELS[int(logits.argmax())]
            assert list(found.scores) == LABELS and abs(sum(found.scores.values()) - 1) < 1e-9


def test_bits_depend_on_neither_batch_nor_threads(tmp_path: Path, rng: np.random.Generator) -> None:
    bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="q8_0")
    ids = [[int(i) for i in rng.integers(5, len(WORDS), n)] for n in (1, 3, 70, 100, 99, 2)]
    with load(path, threads=1) as one, load(path, threads=3) as three:
        alone = np.array([one.embed([text])[0] for text in ids])
        assert np.array_equal(alone, one.embed(ids)) and np.array_equal(alone, three.embed(ids))
        assert one.memory()["kv"] == 0


def test_word_piece_without_the_libraries_own_file(tmp_path: Path, rng: np.random.Generator) -> None:
    bert_folder(tmp_path / "hf", rng)
    with load(convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="f32")) as model:
        metadata = model.core.file.metadata()
    assert metadata["tokenizer.ggml.tokens"][5:7] == ["\u2581light", "s"]
    exact = EncoderTokenizer.from_metadata(metadata)
    del metadata["tokenizer.huggingface.json"]
    built = EncoderTokenizer.from_metadata(metadata)
    for text in ("Lights ON, the Kitchén!", "", "lightsx onthe"):
        assert built.encode(text) == exact.encode(text)
        assert built.encode(text, "off") == exact.encode(text, "off")


def test_refusals(tmp_path: Path, rng: np.random.Generator) -> None:
    bert_folder(tmp_path / "hf", rng, head="Model")
    path = convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="f32")
    with load(path) as model:
        with pytest.raises(ValueError, match="encoder, which writes no text"):
            model.generate([1, 2])
        with pytest.raises(ValueError, match="encoder, which writes no text"):
            model.generate("lights")
        with pytest.raises(ValueError, match="no classifier"):
            model.classify("lights")
        with pytest.raises(ValueError, match="pooling is 'max'"):
            model.embed("lights", pooling="max")
        with pytest.raises(ValueError, match="exceed the context of 100"):
            model.embed([[5] * 101])
        with pytest.raises(ValueError, match="lone surrogate"):
            model.embed("\ud800")
        assert model.embed([]).shape == (0, D)
    with load() as decoder, pytest.raises(ValueError, match="is no encoder"):
        decoder.embed("lights")
    with pytest.raises(ValueError, match="can't be read"):
        EncoderTokenizer.from_metadata({"tokenizer.huggingface.json": "{"})

    def refused(change: dict[str, object], match: str) -> None:
        config = tmp_path / "hf" / "config.json"
        before = config.read_text()
        config.write_text(json.dumps(json.loads(before) | change))
        with pytest.raises(ValueError, match=match):
            convert_model(tmp_path / "hf", tmp_path / "no.gguf", type="f32")
        config.write_text(before)
        assert not (tmp_path / "no.gguf").exists()

    refused({"hidden_act": "relu"}, "hidden_act = relu")
    refused({"position_embedding_type": "relative_key"}, "position_embedding_type")
    refused({"num_hidden_layers": 3}, "no tensor for blk.2")
    refused({"num_hidden_layers": 1}, "has no place")
    refused({"vocab_size": 11}, "asks for")
    refused({"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification")


def test_a_pretrained_model(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    """As bert-base-uncased lies on the hub: heads of pretraining beside the encoder, norms named as TensorFlow's."""
    tensors = bert_folder(tmp_path / "hf", rng, "Model")
    renamed = {f"bert.{n}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
               for n, x in tensors.items()}  # fmt: skip
    heads = ["cls.predictions.bias", "cls.predictions.transform.dense.weight", "cls.seq_relationship.weight"]
    stored = {**renamed, **{name: np.ones((3, 3), np.float32) for name in heads}}
    write_safetensors(tmp_path / "hf" / "model.safetensors", stored)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    bare = {name: value for name, value in config.items() if name != "architectures"}
    plain = tmp_path / "plain.gguf"
    for fields in (
        {**config, "architectures": ["BertForMaskedLM"]},
        {**config, "architectures": ["BertForPreTraining"]},
        bare,
    ):
        (tmp_path / "hf" / "config.json").write_text(json.dumps(fields))
        assert main(["convert", str(tmp_path / "hf"), "-o", str(plain), "--type", "f32"]) == 0
        assert f"heads of pretraining: {', '.join(heads)}\n" in capsys.readouterr().out
        assert open_gguf(plain).metadata["bert.left_out"] == heads
        with load(plain) as model:
            hidden = forward(tensors, *model.need_encoder().ids("lights on"))
            assert np.abs(model.embed("lights on", normalize=False) - hidden.mean(0)).max() < 1e-4
    write_safetensors(tmp_path / "hf" / "model.safetensors", {**stored, "cls.other.bias": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"'cls\.other\.bias' has no place"):
        convert_model(tmp_path / "hf", tmp_path / "no.gguf", type="f32")


@pytest.mark.parametrize("problem", ["regression", "single_label_classification", "multi_label_classification", None])
def test_problem_types(tmp_path: Path, rng: np.random.Generator, problem: str | None) -> None:
    bert_folder(tmp_path / "hf", rng)
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "problem_type": problem}))
    path = convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="f32", name="x")
    with load(path) as model:
        found = model.classify("lights on")
    x = found.logits.astype(np.float64)
    sigmoid, softmax = 1 / (1 + np.exp(-x)), np.exp(x) / np.exp(x).sum()
    wanted = {"regression": x, "multi_label_classification": sigmoid}.get(problem or "", softmax)
    assert np.abs(np.array([found.scores[label] for label in LABELS]) - wanted).max() < 1e-12
    out = export_model(path, tmp_path / "out")
    assert json.loads((out / "config.json").read_text()).get("problem_type") == problem
    assert convert_model(out, tmp_path / "again.gguf", type="f32", name="x").read_bytes() == path.read_bytes()
    config.write_text(json.dumps({**json.loads(config.read_text()), "problem_type": "guessing"}))
    with pytest.raises(ValueError, match="problem_type is 'guessing'"):
        convert_model(tmp_path / "hf", tmp_path / "no.gguf", type="f32")


def write_gguf(path: Path, tensors: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]], source: Path) -> Path:
    """A file of these tensors, (raw rows, type), with the metadata of the encoder `source`."""
    writer = gguf.GGUFWriter(path, "bert")
    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith("bert.") and "labels" not in key:
            writer.add_key_value(key, field.contents(), *field.types[:2])
    for name, (raw, type) in tensors.items():
        writer.add_tensor(name, raw, raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(path: Path) -> dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]:
    return {t.name: (np.array(t.data), t.tensor_type) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("type", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_heads_of_any_type(tmp_path: Path, rng: np.random.Generator, type: str) -> None:
    """llama-quantize rounds the layers of a classifier as it does all others."""
    d = 96
    bert_folder(tmp_path / "hf", rng, d=d)
    path = convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="f32")
    tensors, kind = tensors_of(path), gguf.GGMLQuantizationType[type]
    for name in ("cls.weight", "cls.output.weight"):
        tensors[name] = gguf.quants.quantize(tensors[name][0], kind), kind
    path = write_gguf(tmp_path / "rounded.gguf", tensors, path)
    with load(path) as model:
        ids = [[5, 6, 7, 8]]
        first, pooled = (model.embed(ids, pooling=pooling, normalize=False)[0] for pooling in ("cls", "pooler"))
        found = model.classify(ids)[0].logits
    w, b, w_out, b_out = (gguf.quants.dequantize(*tensors[f"{stem}.{part}"])
                          for stem in ("cls", "cls.output") for part in ("weight", "bias"))  # fmt: skip
    np.testing.assert_allclose(pooled, np.tanh(w @ first + b), atol=1e-5)
    np.testing.assert_allclose(found, w_out @ pooled + b_out, atol=1e-5)


@pytest.mark.parametrize("name", ["token_embd_norm.bias", "blk.1.attn_output_norm.weight", "position_embd.weight"])
def test_a_file_without_a_tensor(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    bert_folder(tmp_path / "hf", rng)
    path = convert_model(tmp_path / "hf", tmp_path / "bert.gguf", type="f32")
    tensors = tensors_of(path)
    del tensors[name]
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        load(write_gguf(tmp_path / "cut.gguf", tensors, path))


NAMELESS = (
    '{"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "vocab": {"a": 0},'
    ' "max_input_chars_per_word": 100}, "post_processor": {"type": "Sequence", "processors": [{"type":'
    ' "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}], "pair": [],'
    ' "special_tokens": {}}]}}'
)
HOSTILE: list[tuple[dict[str, object], str]] = [
    ({"bert.pooling_type": 3}, "pooling_type is 3"),
    ({"bert.pooling_type": "mean"}, "pooling_type is mean"),
    ({"bert.classifier.output_labels": "x"}, "output_labels is no list"),
    ({"bert.classifier.output_labels": ["x", "x", "z"]}, "the same label twice"),
    ({"bert.classifier.output_labels": ["x", "y"]}, r"'cls\.output\.weight' has shape \(3, 8\)"),
    ({"bert.classifier.problem_type": "guess"}, "problem_type is 'guess'"),
    ({"bert.block_count": 1 << 30}, "block_count"),
    ({"bert.embedding_length": 1 << 31}, "embedding_length"),
    ({"bert.context_length": 1 << 20}, r"position_embd\.weight"),
    ({"bert.attention.head_count": 3}, "head"),
    ({"bert.attention.causal": True}, "causal bert"),
    ({"tokenizer.huggingface.json": "[" * 100_000}, "can't be read"),
    ({"tokenizer.huggingface.json": "{}"}, "can't be read"),
    ({"tokenizer.huggingface.json": NAMELESS}, r"a template with '\[X\]', to which it gives no ids"),
    ({"tokenizer.huggingface.json": None, "tokenizer.ggml.tokens": ["a"] * 10}, "tokens"),
    ({"tokenizer.huggingface.json": None, "tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model"),
]


@pytest.mark.parametrize(
    ("change", "message"), HOSTILE, ids=[f"{next(iter(c))} {i}" for i, (c, _) in enumerate(HOSTILE)]
)
def test_files_that_lie(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_encoder(metadata=change).raw)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert len(str(caught.value)) < 500


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    path, file = tmp_path / "m.gguf", tiny_encoder()
    path.write_bytes(file.raw[:-8] + b"\xff" * 8)  # the last row of token_types
    with load(path) as model:
        model.classify([[5, 6]])
        with pytest.raises(ValueError, match="not finite"):
            model.classify([("a", "b")])
        with pytest.raises(ValueError, match="not finite"):
            model.embed([("a", "b")])
