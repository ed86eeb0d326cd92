"""What a PEFT `adapter_config.json` says about each module, or why the adapter cannot run exactly.

docs/adapters.md says it of every field.

Facts are those of PEFT (huggingface/peft, tuners/lora): the scale is lora_alpha / r, or lora_alpha /
sqrt(r) with use_rslora; rank_pattern and alpha_pattern are searched in their order with the regular
expression (.*\\.)?(pattern)$ against the module's path.  fan_in_fan_out concerns merging into transposed
weights only: the factors of a linear are stored [r, k] and [n, r] whatever it says.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import time
from pathlib import Path
from typing import Any, TypeVar

_Value = TypeVar("_Value")

MAX_CONFIG = 1 << 20  # bytes
MAX_PATTERNS = 4096
MAX_PATTERN = 1024  # characters
MAX_STEPS = 1e6  # of one match, by _steps: some 20 ms
MAX_SECONDS = 2.0  # of all matches of an adapter

# Fields that are honoured; bias and init_lora_weights with some of their values only.
EXACT = {
    "alora_invocation_tokens", "alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "lora_alpha",
    "lora_bias", "modules_to_save", "peft_type", "r", "rank_pattern", "task_type", "trainable_token_indices",
    "use_dora", "use_rslora",
}  # fmt: skip

# Fields that say how an adapter is trained, made or named: the tensors of the file say what there is.
IRRELEVANT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "velora_config",
}  # fmt: skip

# Fields that are refused where they are set.
REFUSED = {
    "arrow_config": "Arrow routing",
    "ensure_weight_tying": "tied adapters",
    "kasa_config": "KaSA",
    "layer_replication": "layer replication",
    "megatron_config": "Megatron layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "adapters on bare parameters",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}

# Initialisations that leave the base weights as they are; every other one rewrites them when PEFT loads the
# adapter.
PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


class PeftConfig:
    """A validated adapter_config.json: `rank(module)` and `scale(module)` for a module path of the base
    model. labels: whether it was trained with a layer to labels on top (task_type SEQ_CLS).

    ValueError names the field that cannot be honoured exactly.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.fields = fields = read_json(self.path, "peft")
        self._refuse_inexact()
        self._rslora = self._flag("use_rslora")
        self._flag("fan_in_fan_out")
        self.use_dora, self.lora_bias = self._flag("use_dora"), self._flag("lora_bias")
        self.invocation = self._ids("alora_invocation_tokens", fields.get("alora_invocation_tokens") or [])
        if self.use_dora and (self.lora_bias or self.invocation):
            self._fail("use_dora together with lora_bias or alora_invocation_tokens is nothing that PEFT runs")
        self.modules_to_save = self._names("modules_to_save")
        self.labels = fields.get("task_type") == "SEQ_CLS"
        self._seconds = 0.0  # spent on matching
        self._r = self._rank_value("r", fields.get("r", 8))
        self._alpha = self._number("lora_alpha", fields.get("lora_alpha", 8))
        self._ranks = [(p, self._rank_value("rank_pattern", v)) for p, v in self._patterns("rank_pattern")]
        self._alphas = [(p, self._number("alpha_pattern", v)) for p, v in self._patterns("alpha_pattern")]

    def rank(self, module: str) -> int:
        """r of a module such as "model.layers.0.self_attn.q_proj"."""
        r = self._first(self._ranks, module)
        return self._r if r is None else r

    def scale(self, module: str) -> float:
        """The factor of B A x, exactly as PEFT computes it (float64)."""
        alpha, r = self._first(self._alphas, module), self.rank(module)
        alpha = self._alpha if alpha is None else alpha
        return alpha / math.sqrt(r) if self._rslora else alpha / r

    def is_saved(self, module: str) -> bool:
        """Whether modules_to_save names the module, or one that it is part of."""
        return any(self.names(saved, module) for saved in self.modules_to_save)

    @staticmethod
    def names(saved: str, module: str) -> bool:
        """Whether an entry of modules_to_save, the end of a path, means the module or one that it is part of."""
        parts = module.split(".")
        return any(".".join(parts[: i + 1]).endswith(saved) for i in range(len(parts)))

    def token_ids(self, module: str) -> list[int]:
        """The ids of an embedding's trained rows, in the file's order."""
        ids = self.fields.get("trainable_token_indices") or []
        if isinstance(ids, dict):
            found = [value for name, value in ids.items() if f".{module}".endswith(f".{name}")]
            ids = found[0] if found else []
        return self._ids("trainable_token_indices", ids)

    def _first(self, table: list[tuple[re.Pattern[str], _Value]], module: str) -> _Value | None:
        """The value of the first pattern that matches."""
        begin = time.perf_counter()
        found = next((value for pattern, value in table if pattern.match(module)), None)
        self._seconds += time.perf_counter() - begin
        if self._seconds > MAX_SECONDS:
            self._fail(f"rank_pattern and alpha_pattern take more than {MAX_SECONDS:g} s to match")
        return found

    def _fail(self, what: str) -> None:
        raise ValueError(f"[peft] {self.path}: {what}")

    def _refuse_inexact(self) -> None:
        fields = self.fields
        if "peft_type" not in fields:
            self._fail("it has no peft_type: this is no adapter of PEFT's")
        if fields["peft_type"] != "LORA":
            self._fail(f"peft_type {show(fields['peft_type'])} is not supported; only LORA is")
        for name, value in fields.items():
            if not value or name in EXACT or name in IRRELEVANT:
                continue
            what = REFUSED.get(name)
            self._fail(
                f"{name} = {show(value)} ({what}) is not supported"
                if what
                else f"{name[:60]!r} = {show(value)} is not known; the adapter might not run exactly"
            )
        if fields.get("bias", "none") != "none":
            self._fail(f"bias = {show(fields['bias'])} (trained biases) is not supported; only 'none' is")
        init = fields.get("init_lora_weights", True)
        if not any(init is plain or (isinstance(plain, str) and init == plain) for plain in PLAIN_INITS):
            self._fail(
                f"init_lora_weights = {show(init)} is not supported: it changes the base weights; "
                "convert the adapter to plain LoRA with PEFT (path_initial_model_for_weight_conversion)"
            )

    def _flag(self, name: str) -> bool:
        value = self.fields.get(name) or False
        if not isinstance(value, bool):
            self._fail(f"{name} = {show(value)} is not true or false")
        return bool(value)

    def _ids(self, name: str, value: object) -> list[int]:
        if not isinstance(value, list) or not all(type(i) is int and 0 <= i < 1 << 31 for i in value):
            self._fail(f"{name} = {show(value)} is not a list of token ids")
        assert isinstance(value, list)
        return value

    def _names(self, name: str) -> list[str]:
        value = self.fields.get(name) or []
        if not isinstance(value, list) or not all(isinstance(x, str) and x for x in value) or len(value) > MAX_PATTERNS:
            self._fail(f"{name} = {show(value)} is not a list of names")
        assert isinstance(value, list)
        return value

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 3e38:
            self._fail(f"{name} = {show(value)} is not a finite float32")
        assert isinstance(value, (int, float))
        return value

    def _rank_value(self, name: str, value: object) -> int:
        if type(value) is not int or not 0 < value < 1 << 20:
            self._fail(f"{name} = {show(value)} is not a positive rank")
        assert isinstance(value, int)
        return value

    def _patterns(self, name: str) -> list[tuple[re.Pattern[str], object]]:
        table = self.fields.get(name) or {}
        if not isinstance(table, dict) or len(table) > MAX_PATTERNS:
            self._fail(f"{name} is not a map of at most {MAX_PATTERNS} patterns")
        found = []
        for key, value in table.items():
            if len(key) > MAX_PATTERN or _steps(key) > MAX_STEPS:
                self._fail(
                    f"{name}: the pattern {show(key)} could take very long to match: it has a repeated group, "
                    "too many repeats, or too many alternatives; write it as several simpler patterns"
                )
            try:
                found.append((re.compile(rf"(.*\.)?({key})$"), value))
            except (re.error, RecursionError, OverflowError) as error:
                self._fail(f"{name}: {show(key)} is not a regular expression: {error}")
        return found


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """A JSON object of at most 1 MiB. ValueError, which begins with [kind]: it is none; OSError: it can't be read."""
    with open(path, "rb") as file:
        raw = file.read(MAX_CONFIG + 1)
    if len(raw) > MAX_CONFIG:
        raise ValueError(f"[{kind}] {path}: it is larger than {MAX_CONFIG >> 20} MiB")
    try:
        fields = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[{kind}] {path}: not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"[{kind}] {path}: not a JSON object")
    return fields


_PATH = 40  # characters of a module's path, such as model.layers.10.self_attn.q_proj


def _steps(pattern: str) -> float:
    """A bound on the ways to match a path: each repeat may end anywhere after the one before, and each group of
    alternatives may take any. Infinite where a group is repeated, or sets flags that change what the rest means."""
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", re.sub(r"\\.", "x", pattern))
    bare = re.sub(r"\(\?(:|<?[=!])", "(", bare)
    if re.search(r"\)[*+{]|\(\?", bare):
        return math.inf
    repeats = len(re.findall(r"[*+{][?+]?", bare))
    ways = [1 + part.count("|") for part in re.split(r"[()]", bare)]
    return math.comb(_PATH + repeats, repeats) * math.prod(ways) * 2.0 ** len(re.findall(r"(?<![*+}])\?", bare))


_SHORT = reprlib.Repr()  # bounded in depth too
_SHORT.maxstring = _SHORT.maxother = 60


def show(value: object) -> str:
    """A value of a file in a message: short, whatever it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
