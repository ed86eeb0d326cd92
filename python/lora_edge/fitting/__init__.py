"""Refitting an adapter to the quantised base that it runs beside."""

from .repair import FitReport, fit

__all__ = ["FitReport", "fit"]
