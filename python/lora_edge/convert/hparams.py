"""The numbers of a model, between the config.json of transformers and the metadata of GGUF.

Whatever would change the arithmetic and cannot be said in GGUF is a ValueError that names the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..architectures import BY_CLASS, BY_MODEL_TYPE, IGNORED, READ, Architecture, Setting, Value, Weight
from .fields import Fields, read_json
from .rope import Rope, read_rope

MAX_LAYERS = 1 << 10
MAX_VOCAB = 1 << 20
MAX_HEAD = 1 << 12  # dimensions
MOST = {"block_count": MAX_LAYERS, "vocab_size": MAX_VOCAB, "attention.key_length": MAX_HEAD}
MOST_ELSE = (1 << 31) - 1
NONE_IS_NONE = {"sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "num_key_value_heads"}
"""Fields whose null says that there is none; that of the others stands for transformers' default."""


@dataclass(frozen=True)
class HParams:
    """values: by the architecture's GGUF key.  flags: the architecture's, true ones.  window: positions that a token
    sees in layers with a sliding window, itself included; sliding: which layers have one (None: nothing to say beyond
    what llama.cpp assumes).  raw: config.json as it is; empty for a GGUF file."""

    architecture: Architecture
    values: dict[str, Value]
    flags: frozenset[str]
    rope: Rope | None
    window: int | None
    sliding: tuple[bool, ...] | None
    tied: bool
    raw: dict[str, Any]

    @property
    def arch(self) -> str:
        return self.architecture.gguf

    def count(self, key: str) -> int:
        return int(self.values[key])

    @property
    def n_vocab(self) -> int:
        return self.count("vocab_size")

    @property
    def n_layer(self) -> int:
        return self.count("block_count")

    @property
    def n_ctx(self) -> int:
        return self.count("context_length")

    @property
    def n_head(self) -> int:
        return self.count("attention.head_count")

    @property
    def n_head_kv(self) -> int:
        return int(self.values.get("attention.head_count_kv", self.n_head))

    @property
    def head_dim(self) -> int:
        return int(self.values.get("attention.key_length", self.count("embedding_length") // self.n_head))

    @property
    def sizes(self) -> dict[str, int]:
        """The words of `Weight.shape`."""
        q, kv, ff = self.n_head * self.head_dim, self.n_head_kv * self.head_dim, self.count("feed_forward_length")
        return {
            "vocab": self.n_vocab, "embd": self.count("embedding_length"), "ctx": self.n_ctx, "ff": ff, "2ff": 2 * ff,
            "q": q, "kv": kv, "qkv": q + 2 * kv, "head": self.head_dim, "n_head": self.n_head,
            "n_head_kv": self.n_head_kv,
        }  # fmt: skip

    def shape(self, weight: Weight) -> tuple[int, ...]:
        sizes = self.sizes
        return tuple(sizes[size] for size in weight.shape)

    def has(self, flag: str) -> bool:
        """Whether a word of `Weight.bias` or `Weight.needs` holds."""
        return flag == "yes" or (flag[1:] not in self.flags if flag.startswith("!") else flag in self.flags)

    def weights(self) -> list[tuple[str, str, Weight]]:
        """(module, GGUF stem, row of the table) of everything that this model has."""
        arch = self.architecture
        found = []
        for weight in arch.outer:
            if weight.stem != "output" or not self.tied:
                inner = weight.module == "lm_head"
                found.append((weight.module if inner else f"{arch.prefix}.{weight.module}", weight.stem, weight))
        rows = [weight for weight in arch.layer if not weight.needs or self.has(weight.needs)]
        for i in range(self.n_layer):
            base = f"{arch.prefix}.{arch.layers}.{i}"
            found += [(f"{base}.{weight.module}", f"blk.{i}.{weight.stem}", weight) for weight in rows]
        return found

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(n, k) by GGUF tensor name, of token_embd, output (unless tied) and each layer's linears."""
        shapes = {}
        for _, stem, weight in self.weights():
            if len(weight.shape) == 2 and weight.change != "stack" and stem != "position_embd":
                n, k = self.shape(weight)
                shapes[f"{stem}.weight"] = (n, k)
        return shapes


def read_hparams(folder: Path) -> HParams:
    """Read config.json of a model folder.  FileNotFoundError, or ValueError naming what is not supported."""
    path = folder / "config.json"
    if not path.is_file():
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is not a Hugging Face model folder: {what}")
    return parse_hparams(read_json(path), str(path))


def parse_hparams(config: dict[str, Any], where: str) -> HParams:
    architecture = _architecture(config, where)
    _refuse_unknown(config, architecture, where)
    given = {name: value for name, value in config.items() if value is not None or name in NONE_IS_NONE}
    get = Fields({**architecture.defaults, **given}, where)
    values = {setting.key: _read(get, setting) for setting in architecture.settings}
    n_embd, n_head = int(values["embedding_length"]), int(values["attention.head_count"])
    head_dim = int(values.get("attention.key_length", n_embd // n_head))
    if architecture.square and (n_embd % n_head or get.fields.get("head_dim", head_dim) != head_dim):
        get.fail("head_dim", f"not hidden_size / num_attention_heads, the only one in {architecture.gguf}")
    if not head_dim or head_dim % 2:
        get.fail("head_dim", "an odd number, which rotary embeddings cannot use")
    if head_dim > MAX_HEAD:
        get.fail("num_attention_heads", f"not enough for hidden_size: heads of more than {MAX_HEAD} are not supported")
    if n_head % int(values.get("attention.head_count_kv", n_head)):
        get.fail("num_key_value_heads", f"not a divisor of {n_head} heads")
    if "attention.key_length" in values:
        values["attention.value_length"] = head_dim
    if "query_pre_attn_scalar" in architecture.defaults:
        scalar = attention_scalar(architecture.gguf, int(values["block_count"]), head_dim, n_embd // n_head)
        if get.number("query_pre_attn_scalar") != scalar:
            get.fail("query_pre_attn_scalar", f"not supported; {scalar} is")
    tied = get.flag("tie_word_embeddings")
    if not tied and architecture.no_output:
        get.fail("tie_word_embeddings", f"not supported in {architecture.gguf}, whose output is the embedding")
    n_layer, n_ctx = int(values["block_count"]), int(values["context_length"])
    window, sliding = _windows(get, architecture, n_layer, n_ctx)
    return HParams(
        architecture, values, frozenset(name for name, absent in architecture.flags.items() if get.flag(name, absent)),
        read_rope(get, architecture, head_dim, n_ctx), window, sliding, tied, config,
    )  # fmt: skip


def _architecture(config: dict[str, Any], where: str) -> Architecture:
    names = config.get("architectures")
    if not names:
        kind = str(config.get("model_type"))
        names = [BY_MODEL_TYPE[kind].hf_class if kind in BY_MODEL_TYPE else kind]
    if not isinstance(names, list):
        raise ValueError(f"[convert] {where}: architectures is {str(names)[:60]!r}, not a list of class names")
    if len(names) != 1 or not isinstance(names[0], str) or names[0] not in BY_CLASS:
        raise ValueError(f"[convert] {where}: {str(names)[:80]} is not supported; {', '.join(BY_CLASS)} are")
    return BY_CLASS[names[0]]


def _refuse_unknown(config: dict[str, Any], architecture: Architecture, where: str) -> None:
    """Fields with a value that GGUF can't say, and fields that nothing is known of, unless they are empty or text."""
    for name, allowed in architecture.fixed.items():
        value = config.get(name, allowed[0])
        if not any(value is choice or (value == choice and type(value) is type(choice)) for choice in allowed):
            Fields(config, where).fail(name, f"not supported; {' or '.join(map(str, allowed))} is")
    known = {setting.name for setting in architecture.settings} | {*architecture.fixed, *architecture.flags}
    known |= READ | IGNORED | architecture.ignored
    for name, value in config.items():
        if name not in known and (name == "quantization_config" or not isinstance(value, str)) and value:
            Fields(config, where).fail(
                name[:60], "a setting that is not supported; if the model doesn't need it, remove it from config.json"
            )


def _read(get: Fields, setting: Setting) -> Value:
    name = setting.name
    if setting.kind == "flag":
        return get.flag(name)
    if setting.kind == "number":
        return get.number(name)
    if setting.kind == "scale":
        if not get.number(name):
            get.fail(name, "not above 0")
        return get.number(name)
    most = MOST.get(setting.key, MOST_ELSE)
    defaults = {"num_key_value_heads": "num_attention_heads"}
    default = None
    if name in defaults:
        default = get.count(defaults[name])
    elif name == "head_dim":
        default = get.count("hidden_size") // get.count("num_attention_heads")
    elif name == "n_inner":
        default = 4 * get.count("n_embd")
    return get.count(name, default, most)


def _windows(
    get: Fields, architecture: Architecture, n_layer: int, n_ctx: int
) -> tuple[int | None, tuple[bool, ...] | None]:
    """`HParams.window` and `HParams.sliding`."""
    kind = architecture.window
    if architecture.gguf == "smollm3":
        _check_rope_layers(get, n_layer)
    if kind == "all":
        window = get.count("sliding_window") if get.fields.get("sliding_window") is not None else None
        return (window if window and (window < n_ctx or architecture.gguf == "phi3") else None), None
    if kind == "qwen":
        if get.fields.get("sliding_window") is None or not get.flag("use_sliding_window"):
            return None, None
        full = get.fields.get("max_window_layers")
        types = _layer_types(get, n_layer, tuple(isinstance(full, int) and i >= full for i in range(n_layer)))
        window = get.count("sliding_window")
        if window >= n_ctx or not any(types):
            return None, None
        return window, None if all(types) else types
    if kind == "pattern":
        step = architecture.period
        if (
            architecture.gguf == "gemma3"
        ):  # gemma2's is fixed, and what begins with _ is nothing that transformers reads
            step = get.count("sliding_window_pattern", step)
        types = _layer_types(get, n_layer, tuple(bool((i + 1) % step) for i in range(n_layer)))
        if period_of(types, architecture.period) is None:
            get.fail("layer_types", "not periodic (sliding layers, then one full layer), as it has to be in GGUF")
        return get.count("sliding_window"), types
    return None, None


def attention_scalar(arch: str, n_layer: int, head_dim: int, width: int) -> int:
    """Whose root llama.cpp divides gemma's scores by: the size of a head; in the largest models, which it knows by
    their number of layers, `width` = n_embd / n_head."""
    return width if (arch, n_layer) in (("gemma2", 46), ("gemma3", 62)) else head_dim


def _layer_types(get: Fields, n_layer: int, default: tuple[bool, ...]) -> tuple[bool, ...]:
    types = get.fields.get("layer_types")
    if types is None:
        return default
    if not isinstance(types, list) or not {str(t) for t in types} <= {"full_attention", "sliding_attention"}:
        get.fail("layer_types", "not supported; full_attention and sliding_attention are")
    if len(types) != n_layer:
        get.fail("layer_types", f"not {n_layer} layers long")
    return tuple(t == "sliding_attention" for t in types)


def period_of(sliding: tuple[bool, ...], usual: int) -> int | None:
    """The n of "every n-th layer is full", `usual` where it fits; None if no n fits."""
    candidates: tuple[int, ...] = (usual, *range(1, len(sliding) + 2))
    for n in candidates:
        if sliding == tuple(bool((i + 1) % n) for i in range(len(sliding))):
            return n
    return None


def _check_rope_layers(get: Fields, n_layer: int) -> None:
    every_fourth = [int((i + 1) % 4 != 0) for i in range(n_layer)]
    if get.fields.get("no_rope_layers", every_fourth) != every_fourth:
        get.fail("no_rope_layers", "not supported; every fourth layer without rotary embedding is")
    _layer_types(get, n_layer, ())
    if "sliding_attention" in (get.fields.get("layer_types") or ()):
        get.fail("layer_types", "not supported in smollm3; full_attention is")
