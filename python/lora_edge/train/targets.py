"""Which linears an adapter is for, by the names that Hugging Face and PEFT have for modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence as Seq
from typing import TYPE_CHECKING

from ..encoder_names import ENCODER, encoder_module, family_of
from ..gguf_file import open_gguf
from ..hf_names import hf_module

if TYPE_CHECKING:
    from .network import Network

ALL_LINEAR = "all-linear"
OUTER = ("token_embd.weight", "output.weight")
QUERIES_AND_VALUES = (("q_proj", "v_proj"), ("query", "value"))


def modules(names: Iterable[str], arch: str, family: str = "") -> dict[str, str]:
    """Hugging Face's module -> GGUF tensor of linears. family: of an encoder, as `encoder_names.family_of` tells it."""
    stems = {name.removesuffix(".weight"): name for name in names}
    if arch == ENCODER:
        return {str(encoder_module(stem, family or "bert", True)): name for stem, name in stems.items()}
    return {str(hf_module(stem, arch)): name for stem, name in stems.items()}


def targets(network: Network, wanted: Seq[str]) -> list[str]:
    """GGUF tensors, in the model's order, of modules given by the ends of their names ("q_proj",
    "layers.0.mlp.up_proj"), or all linears but the outer ones for "all-linear". ValueError: a name fits none."""
    replaced = () if network.head is None else (*network.head.whole, "output.weight")
    names = [name for name in network.linears if name not in replaced]
    return targets_of(names, network.config.arch, wanted, family_of(open_gguf(network.model.path).metadata))


def targets_of(names: Iterable[str], arch: str, wanted: Seq[str], family: str = "") -> list[str]:
    """The same, of the names of a model's linears."""
    names = list(names)
    known = modules(names, arch, family)
    chosen = set()
    for name in wanted:
        if name == ALL_LINEAR:
            found = [tensor for tensor in known.values() if tensor not in OUTER]
        else:
            found = [tensor for module, tensor in known.items() if f".{module}".endswith(f".{name}")]
        if not found:
            ends = sorted({module.rpartition(".")[2] for module in known})
            raise ValueError(f"[train] target {name!r} is no module of this model; {', '.join(ends)} are")
        chosen.update(found)
    return [name for name in names if name in chosen]


def queries_and_values(names: Iterable[str], arch: str, family: str = "") -> tuple[str, ...]:
    """What these modules of a model are called; (): it has them in one."""
    ends = {module.rpartition(".")[2] for module in modules(names, arch, family)}
    return next((pair for pair in QUERIES_AND_VALUES if ends.issuperset(pair)), ())
