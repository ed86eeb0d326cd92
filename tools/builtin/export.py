"""From the float folders to the files in the wheel: base in Q8_0, adapters in f16."""

from __future__ import annotations

import json
from pathlib import Path

from domain.samples import VIEWS
from lora_edge.convert import convert_adapter, convert_model


def export(out: Path, into: Path) -> dict[str, int]:
    """out/{base,json,german} -> into/*.gguf, with out/card.json beside them; returns the sizes in bytes."""
    into.mkdir(parents=True, exist_ok=True)
    files = {view: into / f"{view}.gguf" for view in VIEWS}
    convert_model(out / "base", files["base"], type="q8_0", name="lora_edge built-in home")
    for view in VIEWS[1:]:
        convert_adapter(out / view, files["base"], files[view], type="f16", name=f"lora_edge built-in {view}")
    sizes = {file.name: file.stat().st_size for file in files.values()}
    card = json.loads((out / "card.json").read_text())
    (into / "card.json").write_text(json.dumps({**card, "bytes": sizes}, indent=1) + "\n")
    return sizes
