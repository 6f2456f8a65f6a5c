"""Encoders, heads, and the multi-task model that joins them."""

from fairmt.models.encoders import MLP
from fairmt.models.heads import LinearHeads, TaskHeads
from fairmt.models.multitask import MultiTask
from fairmt.models.separate import separate

__all__ = ["MLP", "LinearHeads", "MultiTask", "TaskHeads", "separate"]
