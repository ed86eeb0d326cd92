"""The programs that can be compared: this one on a GGUF file, transformers (with PEFT) on a folder, and llama.cpp."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence as Seq
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..gguf_file import open_gguf
from ..hf_names import gguf_stem
from ..model import Model
from ..taps import inputs_of
from .llama_cpp import WINDOW, LlamaCpp
from .numbers import ORDER

Floats = NDArray[np.float32]
Loras = Seq[tuple[str | os.PathLike[str], float]]  # adapters with their weights


class Side(Protocol):
    """One of two that are compared. type: of its weights, as `numbers.ORDER` has it."""

    name: str
    type: str

    def ids(self, text: str) -> list[int] | None: ...  # None: it has no tokenizer
    def logits(self, ids: list[int]) -> Floats: ...  # [len(ids), n_vocab]
    def inputs(self, ids: list[int]) -> dict[str, Floats] | None: ...  # of each linear [len(ids), k]; None: not at hand
    def close(self) -> None: ...


def type_of(path: str | os.PathLike[str]) -> str:
    """The coarsest type of a file's matrices."""
    kinds = {kind.lower() for shape, kind, _ in open_gguf(path).core.tensors().values() if len(shape) > 1}
    return max((kind if kind in ORDER else ORDER[-1] for kind in kinds), key=ORDER.index, default="f32")


def _context(path: str | os.PathLike[str]) -> int | None:
    """No longer than the texts that are compared: beyond the original context of LongRoPE its other factors hold."""
    meta = open_gguf(path).metadata
    trained = meta.get(f"{meta.get('general.architecture')}.context_length")
    return min(WINDOW, trained) if isinstance(trained, int) and trained > 0 else None


class OurSide:
    """This engine on a GGUF file, with keys and values in float32, so that the weights are what is judged."""

    def __init__(self, path: str | os.PathLike[str], loras: Loras) -> None:
        self.name, self.type = os.fspath(path), type_of(path)
        self.model = Model(path, n_ctx=_context(path), kv_type="f32")
        self._adapter = {str(i): weight for i, (_, weight) in enumerate(loras)} or None
        for i, (lora, _) in enumerate(loras):
            self.model.load_adapter(lora, name=str(i))

    def ids(self, text: str) -> list[int] | None:
        return self.model.tokenize(text, special=True) if self.model.tokenizer else None

    def logits(self, ids: list[int]) -> Floats:
        return self.model.logits(ids, adapter=self._adapter)

    def inputs(self, ids: list[int]) -> dict[str, Floats] | None:
        return inputs_of(self.model, ids, self._adapter)

    def close(self) -> None:
        self.model.close()


class TransformersSide:
    """transformers in float32 on a Hugging Face folder, with PEFT's adapters."""

    type = "f32"

    def __init__(
        self, folder: str | os.PathLike[str], loras: Loras, auto: str = "AutoModelForCausalLM", **options: Any
    ) -> None:
        """auto: transformers' class, with these options."""
        try:
            import torch
            import transformers
        except ImportError:
            raise ValueError(
                f"[verify] '{folder}' is a folder, which transformers has to run: pip install 'lora_edge[train]'"
            ) from None
        self.name, self._torch = f"transformers on {os.fspath(folder)}", torch
        folder = os.fspath(Path(folder).resolve())
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            loaded: Any = getattr(transformers, auto).from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, **options
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"[verify] transformers can't load '{folder}': {error}") from None
        self._model = self._adapted(loaded, loras).eval()
        self._tokenizer: Any = None
        if any((Path(folder) / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def _adapted(self, model: Any, loras: Loras) -> Any:
        names = []
        for i, (path, weight) in enumerate(loras):
            if not Path(path).is_dir():
                raise ValueError(f"[verify] transformers reads PEFT folders, not '{path}': give the adapter as one")
            import peft

            name = f"lora{i}"
            if i == 0:
                model = peft.PeftModel.from_pretrained(model, os.fspath(path), adapter_name=name)
            else:
                model.load_adapter(os.fspath(path), adapter_name=name)
            for module in model.modules():
                if isinstance(module, peft.tuners.lora.LoraLayer) and name in module.scaling:
                    module.scaling[name] *= weight
            names.append(name)
        if names:
            model.base_model.set_adapter(names)
        return model

    def ids(self, text: str) -> list[int] | None:
        return [int(i) for i in self._tokenizer(text).input_ids] if self._tokenizer else None

    def logits(self, ids: list[int]) -> Floats:
        with self._torch.no_grad():
            return np.asarray(self._model(self._torch.tensor([ids])).logits[0].float().numpy())

    def inputs(self, ids: list[int]) -> dict[str, Floats] | None:
        return self.seen(lambda: self.logits(ids))

    def seen(self, run: Callable[[], Any]) -> dict[str, Floats]:
        """The inputs of linears while `run` runs the model."""
        seen: dict[str, Floats] = {}
        hooks = []
        for path, module in self._model.named_modules():
            stem = gguf_stem(path.removeprefix("base_model.model."))
            if stem is None or stem == "token_embd" or stem.endswith("_norm"):
                continue

            def see(_: Any, args: tuple[Any, ...], name: str = f"{stem}.weight") -> None:
                if args and args[0].ndim == 3:  # [1, m, k]
                    seen[name] = args[0][0].float().numpy()

            hooks.append(module.register_forward_pre_hook(see))
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def close(self) -> None:
        self._model = self._tokenizer = None


class LlamaCppSide:
    """llama.cpp, through llama-cpp-python, on the same GGUF file; a PEFT folder is converted for it, in float32."""

    def __init__(self, path: str | os.PathLike[str], loras: Loras) -> None:
        if len(loras) > 1:
            raise ValueError("[verify] llama-cpp-python takes one adapter: verify them one by one, or merged")
        self.name, self.type = "llama.cpp", type_of(path)
        with tempfile.TemporaryDirectory(prefix="lora-edge-verify-") as folder:
            lora, scale = loras[0] if loras else (None, 1.0)
            if lora is not None and os.path.isdir(lora):
                from ..convert import convert_adapter

                lora = convert_adapter(lora, path, Path(folder) / "adapter.gguf", type="f32")
            self._program = LlamaCpp(path, lora, scale)

    def ids(self, text: str) -> list[int] | None:
        return self._program.ids(text)

    def logits(self, ids: list[int]) -> Floats:
        return self._program.logits(ids)

    def inputs(self, ids: list[int]) -> dict[str, Floats] | None:
        return None

    def close(self) -> None:
        self._program.close()
