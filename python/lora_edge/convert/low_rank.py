"""Truncated singular value decompositions of what an adapter has to say: exact for small matrices, by subspace
iteration with random starts (Halko, Martinsson, Tropp 2011, arXiv:0909.4061) for large ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .base_file import Floats

EXACT = 768  # the smaller side of a matrix that is decomposed whole
OVERSAMPLE = 16  # directions beyond those asked for
SETTLED = 1e-7  # iteration ends when the captured energy grows by less than this part of all
MAX_ITERATIONS = 20
FIRST_RANK = 32
ROWS = 1024  # at a time


class Truncated(NamedTuple):
    """u [n, m], s [m] falling, v [m, k] with D ≈ (u · s) v; energy: ‖D‖² of all of D; rest: ‖D - (u · s) v‖²."""

    u: Floats
    s: Floats
    v: Floats
    energy: float
    rest: float

    def error(self, rank: int) -> float:
        """‖D - D_rank‖ / ‖D‖ of the first `rank` terms."""
        lost = self.rest + float(np.square(self.s[rank:], dtype=np.float64).sum())
        return float(np.sqrt(lost / self.energy)) if self.energy else 0.0

    def rank_for(self, tolerance: float) -> int | None:
        """The smallest rank whose error is at most `tolerance`; None: more than s has."""
        return next((r for r in range(len(self.s) + 1) if self.error(r) <= tolerance), None)

    def factors(self, rank: int) -> tuple[Floats, Floats]:
        """A [rank, k] and B [n, rank], which share the singular values: both stay in the range of float16."""
        root = np.sqrt(self.s[:rank])
        return root[:, None] * self.v[:rank], self.u[:, :rank] * root


def decompose(d: Floats, rank: int) -> Truncated:
    """At least the first min(rank, n, k) singular triples of d [n, k]."""
    energy = _energy(d)
    if min(d.shape) <= max(EXACT, 2 * (rank + OVERSAMPLE)):
        u, s, v = np.linalg.svd(d, full_matrices=False)
        return Truncated(u, s, v, energy, 0.0)
    q = _range(d, rank + OVERSAMPLE, energy)
    inside = q.T @ d
    rest = sum(_energy(d[at : at + ROWS] - q[at : at + ROWS] @ inside) for at in range(0, len(d), ROWS))
    u, s, v = np.linalg.svd(inside, full_matrices=False)
    return Truncated((q @ u)[:, :rank], s[:rank], v[:rank], energy, rest + _energy(s[rank:, None]))


def decompose_to(d: Floats, tolerance: float, max_rank: int) -> tuple[Truncated, int]:
    """As many triples as an error of `tolerance` takes, and their number; `max_rank` where that doesn't suffice."""
    limit = min(max_rank, *d.shape)
    rank = min(FIRST_RANK, limit)
    while True:
        found = decompose(d, rank)
        enough = found.rank_for(tolerance)
        if enough is not None and enough <= limit:
            return found, enough
        if rank == limit:
            return found, limit
        rank = min(2 * rank, limit)


def _range(d: Floats, size: int, energy: float) -> Floats:
    """An orthonormal basis [n, size] of where d's largest singular vectors lie. Iterates until ‖qᵀd‖², which only
    grows, has settled."""
    start = np.random.default_rng(0).standard_normal((d.shape[1], size), dtype=np.float32)
    q = np.linalg.qr(d @ start)[0]
    captured = -np.inf
    for _ in range(MAX_ITERATIONS):
        projected = q.T @ d
        now = float(np.square(projected, dtype=np.float64).sum())
        if now - captured <= SETTLED * energy:
            break
        captured = now
        q = np.linalg.qr(d @ np.linalg.qr(projected.T)[0])[0]
    return q


def _energy(d: Floats) -> float:
    """‖d‖², summed in float64 over rows."""
    return float(np.einsum("ij,ij->i", d, d).sum(dtype=np.float64))
