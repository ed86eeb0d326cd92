"""Memory before a run begins: what it will need, what there is, and cheaper settings."""

from __future__ import annotations

from .limits import Limit, parse_size
from .needs import MemoryPlan, plan

__all__ = ["Limit", "MemoryPlan", "parse_size", "plan"]
