"""Plain multi-task training: the reference that every fair method is judged against."""

from __future__ import annotations

from typing import ClassVar

from fairmt.methods.base import StepMethod


class Plain(StepMethod):
    """``min Σ_t w_t L_t``, one shared encoder, no word of groups."""

    name: ClassVar[str] = "plain"
    summary: ClassVar[str] = "one model for all tasks, no fairness term"
    attributes: ClassVar[str] = "none"
    limits: ClassVar[str] = "does nothing for any group"
