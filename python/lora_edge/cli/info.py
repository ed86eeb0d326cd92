"""lora-edge info: what a person wants to know about a model or adapter file, or about this installation."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import _core
from ..devices import devices, missing_driver
from ..gguf_file import GgufFile
from ..mlx_folder import is_mlx
from ..peft_config import MAX_CONFIG
from ..peft_folder import TensorFile, open_tensors
from ..safetensors_file import SafetensorsFile
from .common import plain

Rows = list[tuple[str, str]]
Tensors = dict[str, tuple[tuple[int, ...], str, int]]  # shape, type, bytes


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "info",
        help="describe a model, an adapter, or this installation",
        description="Describes a GGUF model, a GGUF adapter, a PEFT or MLX folder or a Hugging Face folder; without "
        "one, this installation and its built-in model.",
    )
    p.add_argument("path", metavar="PATH", nargs="?")
    p.add_argument("--metadata", action="store_true", help="also list all metadata of a GGUF file")
    p.add_argument("--tensors", action="store_true", help="also list all tensors of a GGUF file")
    p.add_argument("--devices", action="store_true", help="list the GPUs, each after a self-test")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.devices:
        return _print(_devices())
    if args.path is None:
        return _print(_installation())
    path = Path(args.path)
    if path.is_dir():
        return _print(_folder(path))
    file = GgufFile(path)
    _print(_gguf(path, file))
    if args.metadata:
        print()
        _print([(key, _short(value)) for key, value in file.metadata.items()])
    if args.tensors:
        print()
        _print([(name, f"{kind:<5} {list(shape)}") for name, (shape, kind, _) in file.core.tensors().items()])


def _print(rows: Rows) -> None:
    width = max((len(plain(label)) for label, _ in rows), default=0)
    for label, value in rows:
        print(f"{plain(label):<{width}}  {plain(value)}")


def _fields(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ValueError: there is none."""
    with open(path, "rb") as file:
        raw = file.read(MAX_CONFIG + 1)
    try:
        fields = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not valid JSON: {error}") from None
    if len(raw) > MAX_CONFIG or not isinstance(fields, dict):
        raise ValueError(f"'{path}' is not a JSON object of at most {MAX_CONFIG >> 20} MiB")
    return fields


def _devices() -> Rows:
    rows: Rows = [("cpu", f"kernels {_core.build_info()['isa']}")]
    if why := missing_driver():
        return [*rows, ("cuda", why)]
    version, _ = _core.cuda_driver()
    rows.append(("cuda", f"driver of CUDA {version // 1000}.{version % 1000 // 10}"))
    for gpu in devices():
        memory = f"{gpu.n_bytes / 1e9:.1f} GB{' shared with the CPU' if gpu.integrated else ''}"
        state = gpu.problem.removeprefix("[cuda] ") or "passes the self-test"
        rows.append((gpu.name, f"{gpu.title}, capability {gpu.capability[0]}.{gpu.capability[1]}, {memory}: {state}"))
    return rows


def _installation() -> Rows:
    from .. import builtin
    from ..api import runtime_info

    r = runtime_info()
    build = r["build"]
    rows = [
        ("lora_edge", f"{build['version']}, built with {build['compiler']}"),
        ("kernels", f"{r['isa']} (this CPU runs {', '.join(build['isas_runnable'])}; LORA_EDGE_ISA chooses)"),
    ]
    if build["isas_left_out"]:
        rows.append(("not built", f"{', '.join(build['isas_left_out'])} (the compiler is too old)"))
    return [
        *rows,
        ("threads", str(r["threads"])),
        ("device", r["device"]),
        ("built-in model", f"{builtin.base()}, adapters {', '.join(builtin.adapters())}"),
    ]


def _gguf(path: Path, file: GgufFile) -> Rows:
    meta = file.metadata
    kind = "adapter" if meta.get("general.type") == "adapter" else "model"
    rows = [
        ("file", f"{path} ({_size(file.core.size)}, GGUF v{file.core.version})"),
        ("kind", f"{meta.get('adapter.type', '')} adapter".strip() if kind == "adapter" else "model"),
        ("name", str(meta.get("general.name", "-"))),
        ("architecture", str(meta.get("general.architecture", "-"))),
    ]
    return rows + (_adapter(file) if kind == "adapter" else [*_model(file), _runs(path)])


def _runs(path: Path) -> tuple[str, str]:
    """Whether the file runs here, or why not."""
    try:
        _core.Model(str(path), 1, 1, "auto")
    except ValueError as error:
        return "runs here", f"no: {error}"
    return "runs here", "yes"


def _model(file: GgufFile) -> Rows:
    meta, tensors = file.metadata, file.core.tensors()
    arch = meta.get("general.architecture")

    def get(key: str, default: Any = None) -> Any:
        return meta.get(f"{arch}.{key}", default)

    n_head, n_embd, layers = get("attention.head_count"), get("embedding_length"), get("block_count")
    rows: Rows = [("parameters", f"{_parameters(tensors):,}"), ("weights", _types(tensors))]
    n_kv = get("attention.head_count_kv", n_head)
    head_dim = get("attention.key_length", n_embd // n_head if _counts(n_head, n_embd) else None)
    if _counts(n_head, n_embd, layers, n_kv, head_dim):
        rows += [
            ("layers", f"{layers}, width {n_embd}, feed-forward {get('feed_forward_length')}"),
            ("heads", f"{n_head} query, {n_kv} key/value, of {head_dim}"),
            ("context", f"{get('context_length')} tokens"),
        ]
    if "token_types.weight" in tensors:
        rows.append(("encoder", _encoder(get("classifier.output_labels"))))
    else:
        if _counts(layers, n_kv, head_dim):
            rows.append(_kv_cache(tensors, 2 * layers * n_kv * head_dim))
        rows.append(("embeddings", "separate output" if "output.weight" in tensors else "tied with the output"))
    tokens = meta.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        kind = f"{meta.get('tokenizer.ggml.model')}, {meta.get('tokenizer.ggml.pre', 'default')}"
        rows.append(("tokenizer", f"{len(tokens):,} tokens ({kind})"))
    rows.append(("chat template", "yes" if "tokenizer.chat_template" in meta else "no"))
    return rows


def _encoder(labels: Any) -> str:
    return f"classifies: {', '.join(map(str, labels))}" if isinstance(labels, list) else "embeds"


def _kv_cache(tensors: Tensors, elements: int) -> tuple[str, str]:
    """What a position takes by default: f32 where the weights are."""
    f32 = tensors.get("blk.0.attn_q.weight", ((), "", 0))[1] == "F32"
    return "KV cache", f"{_size(elements * (4 if f32 else 2))} per token in {'f32' if f32 else 'f16'}"


def _counts(*values: Any) -> bool:
    return all(isinstance(v, int) and v > 0 for v in values)


def _adapter(file: GgufFile) -> Rows:
    tensors, alpha = file.core.tensors(), file.metadata.get("adapter.lora.alpha", "-")
    ranks = {name: shape[-1] for name, (shape, _, _) in tensors.items() if name.endswith(".lora_b")}
    targets = {name.removesuffix(".lora_b"): r for name, r in ranks.items()}
    return [
        *_ranks(targets),
        ("alpha", f"{alpha:g}" if isinstance(alpha, float) else str(alpha)),
        ("parameters", f"{_parameters(tensors):,}"),
        ("weights", _types(tensors)),
        *_beside(name for name in tensors if not name.endswith((".lora_a", ".lora_b"))),
        *_invocation(file.metadata.get("adapter.alora.invocation_tokens")),
    ]


def _folder(path: Path) -> Rows:
    if (path / "adapter_config.json").exists():
        return _mlx(path) if is_mlx(path) else _peft(path)
    if (path / "config.json").exists():
        config = _fields(path / "config.json")
        architectures = config.get("architectures")
        return [
            ("folder", str(path)),
            ("kind", "Hugging Face model; `lora-edge convert` makes a GGUF of it"),
            ("architecture", ", ".join(map(str, architectures)) if isinstance(architectures, list) else "-"),
            ("layers", f"{config.get('num_hidden_layers')}, width {config.get('hidden_size')}"),
            ("vocabulary", f"{config.get('vocab_size')} tokens"),
        ]
    raise ValueError(f"'{path}' is neither a model folder (config.json) nor an adapter (adapter_config.json)")


def _peft(path: Path) -> Rows:
    config, file = _fields(path / "adapter_config.json"), open_tensors(path)
    names = {key.replace(".default", "").removeprefix("base_model.model."): key for key in file}
    ends = (".lora_B.weight", ".lora_embedding_B")
    return [
        ("folder", str(path)),
        ("kind", f"PEFT adapter ({config.get('peft_type', '?')})"),
        ("base", str(config.get("base_model_name_or_path", "-"))),
        *_ranks(_second_sizes(names, file, ends, 1)),
        ("alpha", f"{config.get('lora_alpha', '-')}{' (rsLoRA)' if config.get('use_rslora') else ''}"),
        *_beside(key for key in names if not key.endswith((*ends, ".lora_A.weight", ".lora_embedding_A"))),
        *_invocation(config.get("alora_invocation_tokens")),
    ]


def _mlx(path: Path) -> Rows:
    config, file = _fields(path / "adapter_config.json"), SafetensorsFile(path / "adapters.safetensors")
    parameters = config.get("lora_parameters")
    scale = parameters.get("scale", "-") if isinstance(parameters, dict) else "-"
    return [
        ("folder", str(path)),
        ("kind", f"MLX adapter ({config.get('fine_tune_type', 'lora')})"),
        ("base", str(config.get("model", "-"))),
        *_ranks(_second_sizes({key: key for key in file}, file, (".lora_b",), 0)),
        ("scale", str(scale)),
        *_beside(key for key in file if not key.endswith((".lora_a", ".lora_b"))),
    ]


def _second_sizes(names: dict[str, str], file: TensorFile, ends: tuple[str, ...], axis: int) -> dict[str, int]:
    """Rank by module: the size of each matrix with one of these endings along an axis."""
    found = {}
    for name, key in names.items():
        end, shape = next((e for e in ends if name.endswith(e)), None), file.info[key].shape
        if end and len(shape) == 2:
            found[name.removesuffix(end)] = shape[axis]
    return found


def _beside(names: Iterable[str]) -> Rows:
    """What an adapter holds beside factors."""
    kinds = {
        "lora_magnitude": "DoRA", "lora_magnitude_vector": "DoRA", "m": "DoRA", "lora_B.bias": "biases of lora_B",
        "lora_b.bias": "biases of lora_B", "trainable_tokens_delta": "token rows", "lookup_only": "",
    }  # fmt: skip
    ends = (next((what for end, what in kinds.items() if n.endswith("." + end)), "whole modules") for n in names)
    found = Counter(what for what in ends if what)
    return [("beside", ", ".join(f"{what} ×{n}" for what, n in found.items()))] if found else []


def _invocation(tokens: Any) -> Rows:
    n = len(tokens) if isinstance(tokens, list) or hasattr(tokens, "shape") else 0
    return [("activated", f"by {n} invocation tokens (aLoRA)")] if n else []


def _ranks(targets: dict[str, int]) -> Rows:
    modules = Counter(name.split(".")[-1] if "." not in name else _module(name) for name in targets)
    ranks = sorted(set(targets.values()))
    return [
        ("rank", ", ".join(map(str, ranks)) or "-"),
        ("adapts", ", ".join(f"{name} ×{n}" for name, n in modules.items()) or "nothing"),
    ]


def _module(name: str) -> str:
    """attn_q of blk.3.attn_q.weight, q_proj of model.layers.3.self_attn.q_proj."""
    return name.removesuffix(".weight").split(".")[-1]


def _parameters(tensors: Tensors) -> int:
    total = 0
    for shape, _, _ in tensors.values():
        n = 1
        for d in shape:
            n *= d
        total += n
    return total


def _types(tensors: Tensors) -> str:
    sizes: Counter[str] = Counter()
    for _, kind, n_bytes in tensors.values():
        sizes[kind] += n_bytes
    return ", ".join(f"{kind} {_size(n)}" for kind, n in sizes.most_common())


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GiB"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} strings"
    if hasattr(value, "shape"):
        return f"{value.size} × {value.dtype}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
