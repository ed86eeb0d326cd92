"""Conversion to GGUF: Hugging Face model folders and PEFT adapter folders.  Needs no torch and no compiled
core."""

from .adapter import convert_adapter
from .cache import cached_conversion
from .model import convert_model

__all__ = ["cached_conversion", "convert_adapter", "convert_model"]
