"""BERT and RoBERTa folders (Devlin et al. 2018; Liu et al. 2019) -> GGUF of architecture "bert", as llama.cpp names its
tensors: embedders (BertModel, RobertaModel), classifiers (…ForSequenceClassification), and pretrained models, whose
heads for masked words and next sentences neither embed nor classify uses: they are left out, and the file names them.

RoBERTa counts positions from pad_token_id + 1 on; the rows before that are left out, so that both count from 0. The
layer on the first token, with tanh (BERT's pooler, RoBERTa's classifier.dense), is `cls`, and the labels' is
`cls.output`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..encoder import problem_of
from ..encoder_names import LEFT_OUT, PROBLEM, encoder_stem
from ..encoder_tokenizer import HF_JSON, WORD
from ..vocab import CONTROL, NORMAL, UNUSED
from .fields import Fields, read_json
from .vocab import read_vocab
from .weights import Array, WeightFolder, convert, stored_type
from .writer import Planned

U32, F32, STRING, BOOL = (getattr(gguf.GGUFValueType, name) for name in ("UINT32", "FLOAT32", "STRING", "BOOL"))
Metadata = dict[str, tuple[Any, gguf.GGUFValueType]]
Shapes = dict[str, tuple[int, ...]]

KINDS = ("Model", "ForSequenceClassification", "ForMaskedLM", "ForPreTraining")
CLASSES = {f"{family}{kind}": family for family in ("Bert", "Roberta") for kind in KINDS}
_PRETRAINING = {"Bert": ("cls.predictions.", "cls.seq_relationship."), "Roberta": ("lm_head.",)}  # its heads' tensors
_POOLINGS = {"pooling_mode_mean_tokens": gguf.PoolingType.MEAN, "pooling_mode_cls_token": gguf.PoolingType.CLS}


def is_encoder(config: dict[str, Any]) -> bool:
    """Whether a config.json is that of a supported encoder."""
    return _class_of(config) in CLASSES


def _class_of(config: dict[str, Any]) -> str:
    """transformers' class; the plain model where only the type is said."""
    names = config.get("architectures") or [f"{str(config.get('model_type')).capitalize()}Model"]
    return str(names[0]) if isinstance(names, list) and len(names) == 1 else ""


def plan_encoder(folder: Path, config: dict[str, Any], type: str, name: str) -> tuple[Metadata, list[Planned]]:
    """Metadata and tensors of an encoder's folder, for a file of architecture "bert".

    type: of the matrices; vectors and the embeddings of positions and parts are f32. ValueError names what the file
    could not say exactly.
    """
    where = str(folder / "config.json")
    hf_class = _class_of(config)
    family = CLASSES[hf_class]
    get = Fields(config, where)
    if get.fields.get("hidden_act", "gelu") != "gelu":
        get.fail("hidden_act", "not supported; gelu is")
    if get.fields.get("position_embedding_type", "absolute") != "absolute":
        get.fail("position_embedding_type", "not supported; absolute is")
    for flag in ("is_decoder", "add_cross_attention", "quantization_config"):
        if get.fields.get(flag):
            get.fail(flag, "not supported")
    skipped = 0 if family == "Bert" else get.count("pad_token_id", 1) + 1
    n_embd, n_head = get.count("hidden_size", 768), get.count("num_attention_heads", 12)
    if n_embd % n_head:
        get.fail("num_attention_heads", f"not a divisor of hidden_size {n_embd}")
    n_ctx = get.count("max_position_embeddings", 512) - skipped
    n_vocab, n_parts = get.count("vocab_size"), get.count("type_vocab_size", 2)
    n_layer, n_ff = get.count("num_hidden_layers", 12), get.count("intermediate_size", 3072)
    if n_ctx < 1:
        get.fail("max_position_embeddings", f"not more than the {skipped} positions that RoBERTa leaves out")
    labels = _labels(get) if hf_class.endswith("Classification") else []
    problem = problem_of(config.get("problem_type"), f"[convert] {where}: problem_type") if labels else None

    expected, optional = shapes_of(n_vocab, n_parts, n_ctx, n_embd, n_layer, n_ff, len(labels))
    weights = WeightFolder(folder)
    left_out = sorted(source for source in weights if source.startswith(_PRETRAINING[family]))
    tensors = _tensors(weights, left_out, family, expected, optional, skipped, type)
    metadata: Metadata = {
        "bert.context_length": (n_ctx, U32),
        "bert.embedding_length": (n_embd, U32),
        "bert.block_count": (n_layer, U32),
        "bert.feed_forward_length": (n_ff, U32),
        "bert.vocab_size": (n_vocab, U32),
        "bert.attention.head_count": (n_head, U32),
        "bert.attention.layer_norm_epsilon": (get.number("layer_norm_eps", 1e-12), F32),
        "bert.attention.causal": (False, BOOL),
        **({"bert.pooling_type": (int(pooling), U32)} if (pooling := _pooling(folder)) is not None else {}),
        **({"bert.classifier.output_labels": (labels, STRING)} if labels else {}),
        **({PROBLEM: (problem, STRING)} if problem else {}),
        **({LEFT_OUT: (left_out, STRING)} if left_out else {}),
        **_tokenizer(folder, n_vocab, n_parts, config, name),
    }
    return metadata, tensors


def shapes_of(
    n_vocab: int, n_parts: int, n_ctx: int, n_embd: int, n_layer: int, n_ff: int, n_labels: int
) -> tuple[Shapes, Shapes]:
    """Of the tensors that a file has to have, and of those that it may have."""
    norm = {"weight": (n_embd,), "bias": (n_embd,)}
    expected: Shapes = {
        "token_embd.weight": (n_vocab, n_embd),
        "token_types.weight": (n_parts, n_embd),
        "position_embd.weight": (n_ctx, n_embd),
        **{f"token_embd_norm.{part}": shape for part, shape in norm.items()},
    }
    for i in range(n_layer):
        for stem in ("attn_output_norm", "layer_output_norm"):
            expected.update({f"blk.{i}.{stem}.{part}": shape for part, shape in norm.items()})
        linears = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (n_embd, n_embd))
        for stem, shape in (linears | {"ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff)}).items():
            expected |= {f"blk.{i}.{stem}.weight": shape, f"blk.{i}.{stem}.bias": shape[:1]}
    optional: Shapes = {"cls.weight": (n_embd, n_embd), "cls.bias": (n_embd,)}
    if n_labels:
        expected |= {**optional, "cls.output.weight": (n_labels, n_embd), "cls.output.bias": (n_labels,)}
    return expected, optional


def _labels(get: Fields) -> list[str]:
    table = get.fields.get("id2label") or {str(i): f"LABEL_{i}" for i in range(get.count("num_labels", 2))}
    if not isinstance(table, dict) or {str(i) for i in table} != {str(i) for i in range(len(table))}:
        get.fail("id2label", "not a table of the labels 0, 1, …")
    by_id = {int(i): str(label) for i, label in table.items()}
    return [by_id[i] for i in range(len(by_id))]


def _tensors(
    weights: WeightFolder,
    left_out: list[str],
    family: str,
    expected: dict[str, tuple[int, ...]],
    optional: dict[str, tuple[int, ...]],
    skipped: int,
    type: str,
) -> list[Planned]:
    plan: dict[str, Planned] = {}
    for source in weights:
        target = "" if source in left_out else _target(source, family)
        if target == "":
            continue
        shape = expected.get(target or "") or optional.get(target or "")
        if target is None or shape is None:
            raise ValueError(f"[convert] {weights.folder}: the tensor {source!r} has no place in a {family} encoder")
        cut = skipped if target == "position_embd.weight" else 0
        found = weights.shape(source)
        if (found[0] - cut, *found[1:]) != shape:
            raise ValueError(
                f"[convert] {weights.folder}: {source!r} has the shape {found}, config.json asks for "
                f"{(shape[0] + cut, *shape[1:])}"
            )
        if target in plan:
            raise ValueError(f"[convert] {weights.folder}: two tensors are {target}, the second is {source!r}")
        kind = "f32" if target.startswith(("position_embd", "token_types")) else stored_type(type, shape)
        weights.check_type(source)
        plan[target] = Planned(target, kind, shape, _maker(weights, source, cut, kind))
    missing = [target for target in expected if target not in plan]
    if missing:
        raise ValueError(
            f"[convert] {weights.folder}: there is no tensor for {missing[0]} ({len(missing)} are missing)"
        )
    return [plan[target] for target in dict.fromkeys((*expected, *optional)) if target in plan]


def _maker(weights: WeightFolder, source: str, cut: int, kind: str) -> Callable[[], Array]:
    return lambda: convert(np.asarray(weights.array(source)[cut:]), kind, source)


def _target(source: str, family: str) -> str | None:
    """GGUF name of a tensor; "" for a buffer that follows from the configuration; None if it has no place."""
    module, _, part = source.rpartition(".")
    if module.endswith("embeddings") and part in ("position_ids", "token_type_ids"):
        return ""
    part = {"gamma": "weight", "beta": "bias"}.get(part, part)  # of checkpoints made from TensorFlow's
    stem = encoder_stem(module, family.lower())
    return f"{stem}.{part}" if stem and part in ("weight", "bias") else None


def _pooling(folder: Path) -> gguf.PoolingType | None:
    """What sentence-transformers' modules.json says; None where there is none."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    settings = folder / "1_Pooling" / "config.json"
    chosen = {key for key, on in (read_json(settings) if settings.is_file() else {}).items() if on is True}
    known = {_POOLINGS[key] for key in chosen if key in _POOLINGS}
    others = {key for key in chosen if key.startswith("pooling_mode_") and key not in _POOLINGS}
    if others or len(known) != 1:
        raise ValueError(f"[convert] {settings}: {sorted(others) or 'no pooling'} is not supported; mean and cls are")
    return known.pop()


def _tokenizer(folder: Path, n_vocab: int, n_parts: int, config: dict[str, Any], name: str) -> Metadata:
    """tokenizer.json as it is, and its tokens as llama.cpp reads them; empty for a folder without a tokenizer."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        if (folder / "vocab.txt").is_file() or (folder / "vocab.json").is_file():
            raise ValueError(f"[convert] {folder} has no tokenizer.json; save it as a fast tokenizer first")
        return {}
    tokenizer = read_json(path)
    whole: Metadata = {
        HF_JSON: (path.read_text(encoding="utf-8"), STRING),
        "tokenizer.ggml.token_type_count": (n_parts, U32),
    }
    if tokenizer.get("model", {}).get("type") != "WordPiece":
        return whole | read_vocab(folder, n_vocab, config, name)
    return whole | _word_pieces(tokenizer, n_vocab, str(path))


def _word_pieces(tokenizer: dict[str, Any], n_vocab: int, where: str) -> Metadata:
    vocab = tokenizer["model"].get("vocab")
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < n_vocab for i in vocab.values()):
        raise ValueError(f"[convert] {where}: the vocabulary is no table of ids below {n_vocab}")
    special = {added["content"] for added in tokenizer.get("added_tokens") or [] if added.get("special")}
    texts, types = [f"[PAD{i}]" for i in range(n_vocab)], [UNUSED] * n_vocab
    for text, i in vocab.items():
        types[i] = CONTROL if text in special else NORMAL
        texts[i] = text if text in special else text[2:] if text.startswith("##") else WORD + text
    meta: Metadata = {
        "tokenizer.ggml.model": ("bert", STRING),
        "tokenizer.ggml.pre": ("default", STRING),
        "tokenizer.ggml.tokens": (texts, STRING),
        "tokenizer.ggml.token_type": (types, gguf.GGUFValueType.INT32),
    }
    roles = {"bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "seperator": "[SEP]", "padding": "[PAD]", "mask": "[MASK]",
             "unknown": str(tokenizer["model"].get("unk_token"))}  # fmt: skip
    return meta | {f"tokenizer.ggml.{role}_token_id": (vocab[t], U32) for role, t in roles.items() if t in vocab}
