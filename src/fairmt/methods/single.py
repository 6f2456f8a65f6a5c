"""Single-task training: what each task reaches alone, the measure of transfer."""

from __future__ import annotations

from typing import ClassVar

from fairmt.methods.base import StepMethod
from fairmt.models import MultiTask, separate


class SingleTask(StepMethod):
    """A model of its own for every task, trained side by side.

    The models share nothing, so the gradients are those of separate trainings; what they do share
    is the schedule: early stopping looks at the mean over tasks, clipping at the joint norm.
    """

    name: ClassVar[str] = "single"
    summary: ClassVar[str] = "a model of its own for every task, no fairness term"
    attributes: ClassVar[str] = "none"
    limits: ClassVar[str] = "does nothing for any group; no transfer between tasks"

    @staticmethod
    def adapt(model: MultiTask) -> MultiTask:
        return separate(model)
