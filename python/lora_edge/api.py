"""The functions of the package's front: load, generate, runtime_info."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _core, builtin, hub
from .adapter import AdapterSpec
from .devices import devices
from .generation import Token
from .model import Model
from .options import DEFAULT_MAX_TOKENS, OptionArgs, Speculative, Stop
from .threads import default_threads

if TYPE_CHECKING:
    from typing_extensions import Unpack

ModelSpec = str | os.PathLike[str] | Model | None

_cached: dict[tuple[str, int, int], Model] = {}


def load(
    path_or_name: str | os.PathLike[str] | None = None,
    *,
    n_ctx: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    kv_type: str = "auto",
    pin: bool = False,
) -> Model:
    """Loads a model: a .gguf file, a folder in Hugging Face's layout (converted once, into the user's cache), a name on
    the hub (hf://owner/name[@revision][:file or quantisation], extra `hub`), or "builtin" (None), which has its
    adapters loaded already.

    n_ctx: context in tokens, by default as trained; it allocates nothing until used. threads: by default one per
    (big) core. device: "cpu", "cuda" (the first GPU), "cuda:1" ...; "auto": the first GPU, if it passes a self-test,
    else the CPU. kv_type: "auto" (f32 for F32 files, else f16), "f32", "f16" or
    "q8_0" (half of f16's memory, for long contexts; rounds keys and values to 8 bits). pin: keeps each thread that the
    model starts on a (big) core of its own; by default they run where the system likes, which suits a machine that
    does other work.
    A context manager. FileNotFoundError, or ValueError that names what is wrong with the file; RuntimeError: the device
    asked for can't be used.
    """
    if path_or_name is None or path_or_name == builtin.NAME:
        model = Model(builtin.base(), n_ctx=n_ctx, threads=threads, kv_type=kv_type, pin=pin, device=device)
        for name, path in builtin.adapters().items():
            model.load_adapter(path, name=name)
        return model
    path = Path(hub.local(path_or_name))
    if path.is_dir():
        path = _gguf_of_folder(path, hub.title(path_or_name))
    return Model(path, n_ctx=n_ctx, threads=threads, kv_type=kv_type, pin=pin, device=device)


def _gguf_of_folder(folder: Path, name: str | None) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if len(files) > 1:
        raise ValueError(f"{folder} holds {len(files)} GGUF files: name one of {', '.join(f.name for f in files)}")
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} is an adapter, not a model: load its base and pass this as the adapter")
    from .convert import cached_conversion

    return cached_conversion(folder, name=name)


@overload
def generate(
    prompt: str | Seq[int],
    *,
    model: ModelSpec = ...,
    adapter: AdapterSpec | os.PathLike[str] = ...,
    stream: Literal[True],
    **options: Unpack[OptionArgs],
) -> Iterator[Token]: ...
@overload
def generate(
    prompt: str | Seq[int],
    *,
    model: ModelSpec = ...,
    adapter: AdapterSpec | os.PathLike[str] = ...,
    stream: Literal[False] = ...,
    **options: Unpack[OptionArgs],
) -> str: ...
def generate(
    prompt: str | Seq[int],
    *,
    model: ModelSpec = None,
    adapter: AdapterSpec | os.PathLike[str] = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repeat_penalty: float = 1.0,
    seed: int | None = None,
    stop: Stop = None,
    ignore_eos: bool = False,
    speculative: Speculative = None,
    stream: bool = False,
) -> str | Iterator[Token]:
    """Continues a prompt: one call from nothing to text.

    model: None (the built-in one), a path, or a Model. adapter: a loaded adapter's name, a path, or {name or
    path: weight}. The other options and the errors are those of `Model.generate`. The last model given by path
    stays loaded, so that a second call is quick; `load` gives one whose life you decide.
    """
    ready = model if isinstance(model, Model) else _load_cached(model)
    options = OptionArgs(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
        speculative=speculative,
    )
    spec = _load_adapters(ready, adapter)
    if stream:
        return ready.generate(prompt, adapter=spec, stream=True, **options)
    return ready.generate(prompt, adapter=spec, **options)


def _load_cached(path: str | os.PathLike[str] | None) -> Model:
    path = hub.local(path)
    name = os.path.abspath(path) if path is not None and path != builtin.NAME else builtin.base()
    info = os.stat(name)
    key = (os.fspath(name), info.st_mtime_ns, info.st_size)
    if key not in _cached:
        model = load(path)
        _cached.clear()  # one at a time: bases are large
        _cached[key] = model
    return _cached[key]


def _load_adapters(model: Model, adapter: AdapterSpec | os.PathLike[str]) -> AdapterSpec:
    """Loads what is a path and no loaded name; named by path and time of change: a new file is a new adapter."""
    if adapter is None:
        return None
    weights = adapter if isinstance(adapter, Mapping) else {os.fspath(adapter): 1.0}
    out: dict[str, float] = {}
    for entry, weight in weights.items():
        if entry not in model.adapters:
            entry = os.fspath(hub.local(entry))
            if not os.path.exists(entry):
                known = ", ".join(sorted(model.adapters)) or "none"
                raise FileNotFoundError(f"adapter {entry!r} is neither a loaded adapter ({known}) nor a file or folder")
            key = f"{os.path.abspath(entry)}@{_changed(Path(entry))}"
            if key not in model.adapters:
                model.load_adapter(entry, name=key)
            entry = key
        out[entry] = weight
    return out


def _changed(path: Path) -> int:
    """When a file, or any file of a folder, was last written, in ns."""
    return max(p.stat().st_mtime_ns for p in ([*path.iterdir()] if path.is_dir() else [path]) or [path])


def runtime_info() -> dict[str, Any]:
    """What runs here: isa (the kernel table in use), threads (the default), device (what "auto" chooses first), and
    build, a dict of version, compiler, isas_compiled, those of them that this CPU runs, isas_runnable, and those that
    this build lacks because its compiler was too old, isas_left_out."""
    build = _core.build_info()
    works = [gpu.name for gpu in devices() if not gpu.problem]
    return {"isa": build.pop("isa"), "threads": default_threads(), "device": (*works, "cpu")[0], "build": build}
