"""fit: an adapter that takes back what the quantisation of its base did, as far as its rank goes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import hub
from ..adapter_file import AdapterFile, BaseInfo, LoraEntry, read_adapter
from ..checks import whole
from ..compare.numbers import Distance, measure
from ..convert.adapter_gguf import write_adapter
from ..convert.base_file import EMBEDDING, Floats, as_gguf, check_apart, paired
from ..convert.low_rank import decompose
from ..convert.outputs import check_out
from ..convert.weights import convert
from ..convert.writer import check_type
from ..gguf_file import GgufFile, open_gguf
from ..model import Model
from ..quant import to_f32
from .calibration import Inputs, Moments, Tick, collect, groups, windows_of

WINDOW = 256  # tokens
DEFAULT_TOKENS = 16384
MAX_TOKENS = 1 << 24
LEAST_TOKENS = 320
LONGEST_TOKEN = 8  # characters on the average, at most: text beyond is not looked at
MAX_EXTRA = 1 << 10
MEMORY = 512 << 20  # bytes of moments at a time; more of them take another run over the text
RIDGE = 1e-4  # of the inputs' mean square: directions that the text doesn't show count that much


@dataclass(frozen=True)
class FittedTensor:
    """Of one linear, on the held-out text: ‖(W + s B A - W_q - B' A') X‖ / ‖(W + s B A) X‖ with the adapter as it was
    (before: B' A' = s B A) and refitted (after). X are the inputs of the deployed model, not rounded."""

    name: str
    rank: int
    before: float
    after: float


@dataclass(frozen=True)
class FitReport:
    """tokens: fitted to, and held out. before, after: as of the tensors, over all of them together. logits_before,
    logits_after: of the deployed model with the old and the new adapter, against the reference with the old one, on
    the held-out text."""

    path: Path
    tokens: int
    held_tokens: int
    tensors: list[FittedTensor]
    before: float
    after: float
    logits_before: Distance
    logits_after: Distance

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def fit(
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    against: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    text: str,
    tokens: int = DEFAULT_TOKENS,
    extra_rank: int = 0,
    every_linear: bool = False,
    type: str = "f16",
    progress: Tick | None = None,
) -> FitReport:
    """Writes a GGUF adapter for `model`, the base as deployed (W_q), that comes closest to `adapter` on `against`, the
    base it was trained on (W; a GGUF file or a Hugging Face folder).

    For each linear B' A' minimises ‖(W + s B A - W_q - B' A') X‖, X being its inputs when the deployed model runs the
    text with the adapter: reduced-rank regression (Izenman 1975), closed form. B' are the first left singular vectors
    of (W + s B A - W_q) L with L Lᵀ = X Xᵀ, and A' = B'ᵀ (W + s B A - W_q).

    text: like what the model will read; a fifth is held out for the report. tokens: used at most. extra_rank: added to
    each tensor's rank. every_linear: also those that the adapter leaves alone (with extra_rank). type: of the factors,
    "f32", "f16" or "bf16". ValueError: the text is too short, the files don't belong together, or an adapter is no
    plain LoRA. Memory: some six times the largest linear in float32, and 512 MB.
    """
    check_type(type, ("f32", "f16", "bf16"))
    whole("tokens", tokens, LEAST_TOKENS, MAX_TOKENS)
    whole("extra_rank", extra_rank, 0, MAX_EXTRA)
    if every_linear and not extra_rank:
        raise ValueError("[fit] every_linear needs an extra_rank: the linears without an adapter have no rank yet")
    model, adapter, against, out = hub.local(model), hub.local(adapter), hub.local(against), Path(out)
    check_out(out)
    check_apart(out, [model, adapter, against])
    with ExitStack() as stack:
        deployed = stack.enter_context(Model(model, kv_type="f32"))
        if not deployed.config.causal:
            raise ValueError(f"[fit] '{deployed.path}' is an encoder; adapters of decoders are refitted")
        reference = stack.enter_context(as_gguf(against, out))
        weights, quantised = open_gguf(reference), open_gguf(deployed.path)
        paired(weights, quantised, ("base to compare with", "deployed model"))
        info = BaseInfo.from_gguf(quantised)
        given = read_adapter(adapter, info.arch, info)
        if given.beyond_factors:
            raise ValueError(f"[fit] {adapter} can't be refitted: it has {given.beyond_factors}")
        entries = given.entries
        deployed.load_adapter(adapter, name="old")
        ids = deployed.tokenize(text[: LONGEST_TOKEN * tokens])
        if len(ids) < LEAST_TOKENS:
            raise ValueError(f"[fit] the text has {len(ids)} tokens; {LEAST_TOKENS} are the least to fit to")
        texts = windows_of(ids, min(WINDOW, deployed.n_ctx), tokens)
        ranks = {name: entry.b.shape[1] + extra_rank for name, entry in entries.items() if name in quantised.tensors}
        if every_linear:
            ranks |= {n: extra_rank for n in info.shapes if n in deployed.core.linear_shapes() and n not in ranks}
        ranks.pop(EMBEDDING, None)  # a lookup, no product
        if not ranks:
            raise ValueError("[fit] the adapter changes no linear that has a weight of its own in this base")
        job = _Job(weights, quantised, entries, type)
        fitted: dict[str, LoraEntry] = {}
        for names in groups(dict(info.shapes), list(ranks), MEMORY):
            inputs = collect(deployed, "old", *texts, names)
            for name in names:
                fitted[name] = job.fit(name, min(ranks[name], *info.shapes[name]), inputs[name])
                if progress is not None:
                    progress(len(fitted), len(ranks), name)
            del inputs
        write_adapter(AdapterFile(out.stem, "gguf", {**entries, **fitted}, {}), info, out, type, out.stem, None)
        deployed.load_adapter(out, name="new")
        with Model(reference, kv_type="f32") as exact:
            exact.load_adapter(adapter, name="old")
            held = texts[1][: max(1, 2048 // len(texts[1][0]))]
            wanted = [exact.logits(w, adapter="old") for w in held]
        old, new = (measure([(deployed.logits(w, adapter=name), y) for w, y in zip(held, wanted)])
                    for name in ("old", "new"))  # fmt: skip
    n_fit, n_held = (sum(map(len, part)) for part in texts)
    return FitReport(out, n_fit, n_held, job.tensors, job.total("before"), job.total("after"), old, new)


class _Job:
    """The fits of one call, and their sums of squares on the held-out text."""

    def __init__(self, weights: GgufFile, quantised: GgufFile, entries: dict[str, LoraEntry], type: str) -> None:
        self.weights, self.quantised, self.entries, self.type = weights, quantised, entries, type
        self.tensors: list[FittedTensor] = []
        self._sums = {"before": 0.0, "after": 0.0, "wanted": 0.0}

    def total(self, which: str) -> float:
        return float(np.sqrt(self._sums[which] / self._sums["wanted"])) if self._sums["wanted"] else 0.0

    def fit(self, name: str, rank: int, inputs: Inputs) -> LoraEntry:
        """The best factors of this rank, unless those at hand are as good already on the text that is fitted to."""
        wanted = to_f32(self.weights.tensors[name if name in self.weights.tensors else EMBEDDING])
        error = wanted - to_f32(self.quantised.tensors[name])
        d = error.copy()
        old = self.entries.get(name)
        if old is not None:
            product = (to_f32(old.b) * np.float32(old.scale)) @ to_f32(old.a)
            wanted += product
            d += product
        basis = decompose(d @ _root(inputs.fit), rank).u[:, :rank]
        a, b = (convert(x, self.type, name) for x in (basis.T @ d, basis))
        d -= to_f32(b) @ to_f32(a)
        entry = LoraEntry(a, b, 1.0)
        if old is not None and _energy(d, inputs.fit) >= _energy(error, inputs.fit):
            d, entry = error, old
        before, after, scale = (_energy(x, inputs.held) for x in (error, d, wanted))
        for key, value in (("before", before), ("after", after), ("wanted", scale)):
            self._sums[key] += value
        errors = [float(np.sqrt(value / scale)) if scale else 0.0 for value in (before, after)]
        self.tensors.append(FittedTensor(name, entry.b.shape[1], *errors))
        return entry


def _root(moments: Moments) -> Floats:
    """Lower triangular L [k, k] with L Lᵀ = the moments and a ridge, so that ‖E L‖² is the mean of |E x|²."""
    k = len(moments)
    mean = max(float(np.trace(moments)) / k, 1e-30)
    ridged = moments + RIDGE * mean * np.eye(k)
    return np.linalg.cholesky(ridged).astype(np.float32)


def _energy(e: Floats, moments: Moments) -> float:
    """The mean over inputs of |e x|²: tr(e M eᵀ)."""
    return max(float(np.vdot(e @ moments.astype(np.float32), e)), 0.0)
