"""Training data: folders of JSONL or TSV to token ids with what is to be learned, and these to batches.

Nothing here needs torch.
"""

from __future__ import annotations

from .batches import Batch, Batches
from .example import IGNORED, Example
from .labels import Labels
from .load import Data, load_data
from .report import Report

__all__ = ["IGNORED", "Batch", "Batches", "Data", "Example", "Labels", "Report", "load_data"]
