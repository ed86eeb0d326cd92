"""Reading a PEFT adapter folder: adapter_config.json beside adapter_model.safetensors, or adapter_model.bin.

Each tensor of the file finds its place or is refused by name; what PEFT's forward makes of the tensors is
in the classes of `adapter_parts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .adapter_parts import (
    AdapterFile,
    Array,
    BaseInfo,
    LoraEntry,
    TokenRows,
    Whole,
    check_factors,
    check_shape,
    check_wholes,
    packed,
    vector,
)
from .encoder_names import ENCODER, LABELS, label_names
from .hf_names import SCORE, gguf_stem, is_permuted, permute_rows
from .peft_config import PeftConfig, show
from .safetensors_file import SafetensorsFile, TensorInfo

CONFIG, SAFETENSORS, TORCH = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_PREFIX = "base_model.model."
_NAME = r"(?:\.(?!weight$|bias$)([^.]+))?"  # an adapter's name, which files saved by hand may hold
_PARTS = {
    "lora_A": re.compile(rf"(.+)\.lora_A{_NAME}\.weight"),
    "lora_B": re.compile(rf"(.+)\.lora_B{_NAME}\.weight"),
    "bias": re.compile(rf"(.+)\.lora_B{_NAME}\.bias"),
    "lora_embedding_A": re.compile(rf"(.+)\.lora_embedding_A{_NAME}"),
    "lora_embedding_B": re.compile(rf"(.+)\.lora_embedding_B{_NAME}"),
    "magnitude": re.compile(rf"(.+)\.lora_magnitude_vector{_NAME}(?:\.weight)?"),
    "tokens": re.compile(rf"(.+)\.token_adapter\.trainable_tokens_delta{_NAME}"),
    "saved": re.compile(rf"(.+)\.modules_to_save{_NAME}\.(?:weight|bias)"),
    "original": re.compile(r"(.+)\.(?:base_layer|original_module)()\.(?:weight|bias)"),
    "plain": re.compile(r"(.+?)()\.(?:weight|bias)"),
}
_SIDES = {"lora_embedding_A": "lora_A", "lora_embedding_B": "lora_B"}
_EMBEDDINGS = ("token_embd", "output")
LABELS_META = "lora_edge.labels"  # of the safetensors file: the labels' names, as JSON
_HEADS = ("classifier", "score")  # of transformers' classifiers


class TensorFile(Protocol):
    """What reads as a safetensors file does."""

    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def info(self) -> Mapping[str, TensorInfo]: ...
    def __iter__(self) -> Iterator[str]: ...
    def array(self, name: str) -> Array: ...


def is_peft(path: Path) -> bool:
    """Whether it is a PEFT folder. ValueError: it is a file of such a folder."""
    if path.name in (CONFIG, SAFETENSORS, TORCH) and path.is_file():
        raise ValueError(f"[peft] {path} is one file of a PEFT adapter: give its folder, '{path.parent}'")
    return path.is_dir()


def read_peft(folder: Path, arch: str, base: BaseInfo) -> AdapterFile:
    """The adapter in the base's layout. ValueError names what cannot be honoured; OSError: a file is missing."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a PEFT adapter: it has no {CONFIG}")
    config = PeftConfig(folder / CONFIG)
    return _Reader(folder, config, open_tensors(folder), arch, base).read()


def open_tensors(folder: Path) -> TensorFile:
    """The weights of a PEFT folder. FileNotFoundError: it has none; ValueError: they are damaged."""
    if (folder / SAFETENSORS).is_file():
        return SafetensorsFile(folder / SAFETENSORS)
    if (folder / TORCH).is_file():
        from .torch_file import TorchFile  # its zipfile takes milliseconds to import

        return TorchFile(folder / TORCH)
    raise FileNotFoundError(f"{folder} has neither {SAFETENSORS} nor {TORCH}")


@dataclass
class _Reader:
    folder: Path
    config: PeftConfig
    file: TensorFile
    arch: str
    base: BaseInfo
    found: dict[str, dict[str, str]] = field(default_factory=dict)  # module -> part -> key
    copies: dict[str, Array] = field(default_factory=dict)

    def read(self) -> AdapterFile:
        self._sort_keys()
        self._check_head()
        entries: dict[str, LoraEntry] = {}
        wholes: dict[str, Whole] = {}
        tokens: dict[str, TokenRows] = {}
        for module, parts in self.found.items():
            stem = gguf_stem(module)
            if stem is None:
                self._fail(f"the module {module[:120]!r} is not one of this kind of model")
            tensor = f"{stem}.weight"
            if "weight" in parts or "whole bias" in parts:
                wholes[tensor] = self._whole(tensor, parts)
            if "tokens" in parts:
                tokens[tensor] = self._token_rows(module, tensor, parts["tokens"])
            if parts.keys() - {"weight", "whole bias", "tokens"}:
                entries[tensor] = self._entry(module, tensor, parts)
            if (tensor in wholes) + (tensor in tokens) + (tensor in entries) > 1:
                self._fail(f"{module} is adapted in more than one way, which PEFT cannot run either")
        if not entries and not wholes and not tokens:
            self._fail("the adapter holds no LoRA tensors")
        labels = self._label_names()
        check_wholes(self.folder, self.base, wholes, labels)
        for saved in self.config.modules_to_save:
            if self.config.labels and saved in _HEADS:
                continue  # PEFT names both, and a model has one
            if not any(PeftConfig.names(saved, module) for module, parts in self.found.items() if "weight" in parts):
                self._fail(f"modules_to_save names {saved[:80]!r}, of which the file holds nothing")
        if self.config.fields.get("trainable_token_indices") and not tokens:
            self._fail("trainable_token_indices are set, but the file holds no such rows")
        name = self.folder.resolve().name
        invocation = self.config.invocation
        return AdapterFile(name, "peft", entries, self.config.fields, self.copies, wholes, tokens, invocation, labels)

    def _label_names(self) -> list[str]:
        """As `convert` leaves them in the tensors' file; PEFT has no place for them."""
        text = self.file.metadata.get(LABELS_META)
        if text is None:
            return []
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        return label_names(found, f"[peft] {self.folder}: {LABELS_META}")

    def _fail(self, what: str) -> None:
        raise ValueError(f"[peft] {self.folder}: {what}")

    def _sort_keys(self) -> None:
        names = set()
        for key in self.file:
            module, part, name = self._part(key)
            if part == "original":
                self._copy(key, module)
                continue
            if part not in ("weight", "whole bias", "tokens"):
                names.add(name)
            parts = self.found.setdefault(module, {})
            if part in parts or len(names) > 1:
                self._fail(f"more than one adapter in the file (tensor {key[:120]!r})")
            parts[part] = key

    def _check_head(self) -> None:
        """ValueError: the layer to the labels is trained, and is none that this base runs as PEFT does."""
        heads = [module for module in self.found if module.split(".")[0] in _HEADS]
        task = self.config.fields.get("task_type")
        for module in heads:
            if (module == SCORE) == (self.arch == ENCODER):
                self._fail(
                    f"it trains {module[:80]!r}, the head of a classifier: one of {self.arch} has no such module"
                )
        if heads and not self.config.labels and (task not in (None, "FEATURE_EXTRACTION") or self._is_bare()):
            self._fail(f"{heads[0][:80]!r} with task_type {show(task)} is not supported; SEQ_CLS is")
        if self.config.labels and not heads:
            self._fail("task_type is SEQ_CLS, but the file holds no layer to the labels (classifier, score)")
        if "classifier.out_proj" in heads and "classifier.dense" not in heads and self.config.is_saved("classifier"):
            self._fail("modules_to_save names 'classifier', of which the file holds no 'dense'")

    def _is_bare(self) -> bool:
        return self.base.shape(LABELS) is None

    def _part(self, key: str) -> tuple[str, str, str | None]:
        """(module, part, the adapter's name in the key): what a tensor is."""
        for part, pattern in _PARTS.items():
            found = pattern.fullmatch(key, len(_PREFIX)) if key.startswith(_PREFIX) else None
            if found is None:
                continue
            module, name = found.groups()
            stem = gguf_stem(module)
            if part.startswith("lora_") and (part in _SIDES) != (stem == "token_embd"):
                break
            if part == "saved" or (part == "plain" and self.config.is_saved(module)):
                return module, "whole bias" if key.endswith(".bias") else "weight", None
            if part in ("plain", "original"):
                if stem not in _EMBEDDINGS or key.endswith(".bias"):
                    break
                return module, "original", None
            return module, _SIDES.get(part, part), name
        raise ValueError(f"[peft] {self.folder}: the tensor {key[:120]!r} is not supported")

    def _copy(self, key: str, module: str) -> None:
        tensor = f"{gguf_stem(module)}.weight"
        check_shape(self.folder, self.base, tensor, self.file.info[key].shape)
        self.copies[tensor] = self._array(key)

    def _array(self, key: str) -> Array:
        """float32, float16 or bfloat16 bits."""
        dtype = self.file.info[key].dtype
        if dtype not in ("F32", "F16", "BF16"):
            self._fail(f"{key!r} has the type {dtype}; F32, F16 and BF16 are read")
        return self.file.array(key)

    def _permuted(self, tensor: str, rows: Array) -> Array:
        """Rows of outputs in the base's order."""
        stem = tensor.removesuffix(".weight")
        if not is_permuted(self.arch, stem):
            return rows
        return permute_rows(rows, self.base.n_head if stem.endswith("attn_q") else self.base.n_head_kv)

    def _entry(self, module: str, tensor: str, parts: Mapping[str, str]) -> LoraEntry:
        for side, other in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
            if side not in parts:
                self._fail(f"{parts.get(other) or next(iter(parts.values()))!r} has no {side} beside it")
        a, b = self._array(parts["lora_A"]), self._array(parts["lora_B"])
        if tensor == "token_embd.weight":
            a = a.T
        check_factors(self.folder, self.base, tensor, a, b)
        r, expected = b.shape[1], self.config.rank(module)
        if r != expected:
            self._fail(f"{module} has rank {r}, {CONFIG} says {expected}")
        vectors = {}
        for part, wanted in (("magnitude", self.config.use_dora), ("bias", self.config.lora_bias)):
            asked = wanted and not (part == "bias" and tensor == "token_embd.weight")
            if (part in parts) != asked:
                flag = "use_dora" if part == "magnitude" else "lora_bias"
                self._fail(f"{module} has {'no' if asked else 'a'} {part}, but {flag} is {str(wanted).lower()}")
            if part in parts:
                x = vector(self.folder, tensor, part, self._array(parts[part]), b.shape[0])
                vectors[part] = packed(self._permuted(tensor, x))
        b = self._permuted(tensor, b)
        scale = self.config.scale(module)
        return LoraEntry(packed(a), packed(b), scale, vectors.get("magnitude"), vectors.get("bias"))

    def _whole(self, tensor: str, parts: Mapping[str, str]) -> Whole:
        if "weight" not in parts:
            self._fail(f"{parts['whole bias']!r} has no weight beside it")
        weight = self._array(parts["weight"])
        if weight.ndim == 1:
            self._fail(f"modules_to_save: {parts['weight'][:120]!r}: trained norms are not supported")
        bias = None
        if "whole bias" in parts:
            x = vector(self.folder, tensor, "the bias", self._array(parts["whole bias"]), weight.shape[0])
            bias = packed(self._permuted(tensor, x))
        return Whole(packed(self._permuted(tensor, weight)), bias)

    def _token_rows(self, module: str, tensor: str, key: str) -> TokenRows:
        rows, shape = self._array(key), self.base.shape(tensor)
        ids = self.config.token_ids(module)
        if tensor.removesuffix(".weight") not in _EMBEDDINGS or shape is None:
            self._fail(f"trainable_token_indices of {module[:120]!r}, which is no embedding")
        assert shape is not None
        if rows.shape != (len(ids), shape[1]):
            self._fail(f"{key!r} has the shape {rows.shape}; trainable_token_indices needs {(len(ids), shape[1])}")
        if not all(0 <= i < shape[0] for i in ids) or len(set(ids)) != len(ids):
            self._fail(f"trainable_token_indices are not different ids below {shape[0]}")
        return TokenRows(ids, packed(rows))
