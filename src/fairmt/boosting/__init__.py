"""Boosted trees that are fair to several attributes at once."""

from __future__ import annotations

from fairmt.boosting.mmm_fair import MMMFair

__all__ = ["MMMFair"]
