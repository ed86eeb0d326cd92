"""Comparing a model with another program or file that should say the same."""

from .verification import VerifyReport, verify

__all__ = ["VerifyReport", "verify"]
