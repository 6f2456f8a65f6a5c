"""Encoders, heads, and the multi-task model that joins them."""

from fairmt.models.attention import FeatureAttention
from fairmt.models.choice import encoder_for
from fairmt.models.encoders import MLP
from fairmt.models.frozen import Frozen
from fairmt.models.heads import LinearHeads, TaskHeads
from fairmt.models.image import PretrainedImages, ResidualNetwork
from fairmt.models.joined import Joined
from fairmt.models.multitask import MultiTask
from fairmt.models.separate import separate
from fairmt.models.text import PretrainedTexts, WordTransformer

__all__ = [
    "MLP",
    "FeatureAttention",
    "Frozen",
    "Joined",
    "LinearHeads",
    "MultiTask",
    "PretrainedImages",
    "PretrainedTexts",
    "ResidualNetwork",
    "TaskHeads",
    "WordTransformer",
    "encoder_for",
    "separate",
]
