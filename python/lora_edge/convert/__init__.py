"""Conversion to GGUF and back: Hugging Face model folders and PEFT adapter folders.  Needs no torch."""

from .adapter import convert_adapter
from .cache import cached_conversion
from .export import export_model
from .model import convert_model

__all__ = ["cached_conversion", "convert_adapter", "convert_model", "export_model"]
