"""The encoder that fits a table's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from fairmt.models.attention import FeatureAttention
from fairmt.models.encoders import MLP
from fairmt.models.image import ResidualNetwork
from fairmt.models.joined import Joined
from fairmt.models.text import WordTransformer

if TYPE_CHECKING:
    from fairmt.data import Schema

ENCODERS = ("mlp", "attention")


def encoder_for(
    schema: Schema, kind: str = "mlp", widths: Sequence[int] = (128, 64), dropout: float = 0.0
) -> nn.Module:
    """An encoder with the schema's `n_inputs`.

    Parameters
    ----------
    kind : 'mlp' or 'attention', for the columns of the table.
    widths : of the MLP; the last one is the width of every encoder's representation.

    Pictures and words have encoders of their own beside the table's, counted words an MLP.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if kind not in ENCODERS:
        raise ValueError(f"encoder must be one of {list(ENCODERS)}. Found {kind!r}.")
    from fairmt.data.wide import VOCABULARY, ImageFeature, WordsFeature

    parts: list[nn.Module] = []
    if schema.spans and kind == "attention":
        parts.append(FeatureAttention(schema.spans, widths[-1], dropout=dropout))
    elif schema.spans:
        parts.append(MLP(schema.n_table_inputs, tuple(widths), dropout))
    for feature in schema.wide:
        if isinstance(feature, ImageFeature):
            parts.append(ResidualNetwork(feature.shape))
        elif isinstance(feature, WordsFeature):
            parts.append(WordTransformer(feature.shape[0], VOCABULARY, widths[-1]))
        else:
            parts.append(MLP(feature.shape[0], tuple(widths), dropout))
    return parts[0] if len(parts) == 1 else Joined(parts)
