"""The model card of a run: README.md with the front matter that the Hugging Face hub reads.

Fields: huggingface.co/docs/hub/model-cards. YAML holds JSON, so values are written as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data import Data
from .metrics import Scores
from .output import CARD, CURVE
from .settings import Settings
from .trainer import Result

_UNSAID = ("options", "steps", "epochs")  # shown in another way


def write_card(
    out: Path, kind: str, base: str, settings: Settings, data: Data, result: Result, scores: Mapping[str, Scores]
) -> Path:
    """kind: "adapter" or "model"; base: a name of the hub, or a file's or folder's. The curve is shown where there is
    one. README.md appears whole."""
    title, head = out.resolve().name, data.labels is not None and data.labels.head
    parts = [
        _front(kind, base, settings, head),
        f"# {title}",
        f"{_what(kind, settings)} of `{base}`, trained with lora_edge.",
        _use_of_labels(kind, base, title, data) if head else _use(kind, base, title, data.chat),
        "## Results\n\n"
        + _results(result, scores, "label" if head else "token")
        + ("\n\n![loss](loss.png)" if (out / CURVE).exists() else ""),
        "## Data\n\n" + "\n".join(f"- {line}" for line in data.lines()),
        "## Settings\n\n" + _table(["setting", "value"], _settings(settings)),
    ]
    path = out / CARD
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n\n".join(parts) + "\n", "utf-8")
    os.replace(temporary, path)
    return path


def _front(kind: str, base: str, settings: Settings, head: bool) -> str:
    fields: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter" if kind == "adapter" else "finetune",
        "library_name": "peft" if kind == "adapter" else "gguf",
        "pipeline_tag": "text-classification" if head else "text-generation",
        "tags": [*(("lora",) if kind == "adapter" else ()), settings.method, "lora_edge", "gguf"],
    }
    fields["tags"] = list(dict.fromkeys(fields["tags"]))
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _what(kind: str, settings: Settings) -> str:
    return f"A {settings.method} adapter" if kind == "adapter" else f"A fine-tuned copy ({settings.method})"


def _use(kind: str, base: str, title: str, chat: bool) -> str:
    verb, prompt = ("chat", "") if chat else ("generate", " -p ...")
    if kind == "model":
        return f"```\nlora-edge {verb} -m {title}/model.gguf{prompt}\n```"
    return (
        f"```\nlora-edge {verb} -m {base} --lora {title}{prompt}\n```\n\n"
        "`adapter.gguf` is the same adapter for llama.cpp (`--lora`); PEFT loads the folder:\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{_float_base(base)}")\n'
        f'model = PeftModel.from_pretrained(base, "{title}")\n```'
    )


def _use_of_labels(kind: str, base: str, title: str, data: Data) -> str:
    assert data.labels is not None
    names = ", ".join(_cell(name) for name in data.labels.names)
    if kind == "model":
        return f"```\nlora-edge classify -m {title}/model.gguf ...\n```\n\nLabels: {names}."
    return (
        f"```\nlora-edge classify -m {base} --lora {title} ...\n```\n\nPEFT loads the folder; its labels are, "
        f"in this order: {names}.\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForSequenceClassification\n\n"
        f'base = AutoModelForSequenceClassification.from_pretrained("{_float_base(base)}", '
        f'num_labels={len(data.labels.names)})\nmodel = PeftModel.from_pretrained(base, "{title}")\n```'
    )


def _float_base(base: str) -> str:
    return f"the model that {base} was made of" if base.endswith(".gguf") else base


def _results(result: Result, scores: Mapping[str, Scores], unit: str) -> str:
    rows = [["steps", f"{result.steps:,}"], ["tokens", f"{result.tokens:,}"], ["seconds", f"{result.seconds:,.0f}"]]
    rows.append([f"training loss (nats per {unit})", f"{result.loss:.4f}"])
    if result.valid_loss is not None:
        rows.append([f"held-out loss (nats per {unit})", f"{result.valid_loss:.4f}"])
    for split, s in scores.items():
        rows += [
            [f"{split}: accuracy", f"{s.accuracy:.4f}"],
            [f"{split}: F1 (macro)", f"{s.f1_macro:.4f}"],
            [f"{split}: Matthews correlation", f"{s.mcc:.4f}"],
        ]
    return _table(["", ""], rows)


def _settings(settings: Settings) -> list[list[str]]:
    values = settings.as_dict()
    length = {"steps": settings.steps} if settings.steps else {"epochs": settings.epochs}
    shown = {**{k: v for k, v in values.items() if k not in _UNSAID}, **length, **values["options"]}
    return [[name, _cell(value)] for name, value in shown.items()]


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", "\\|").replace("\n", "\\n")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
