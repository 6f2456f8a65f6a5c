"""An encoder of tables in which features look at each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FeatureAttention(nn.Module):
    """A token per feature, a transformer over tokens: (B, n_inputs) -> (B, width).

    The columns of a feature (a number and its flag, the categories of a category) become one
    token by a linear map of their own; one more token, learned, collects what the others tell it
    and is the representation (FT-Transformer: Gorishniy, Rubachev, Khrulkov and Babenko, 2021,
    section 3.3).

    Parameters
    ----------
    spans : sequence of int
        Input columns of every feature, in their order; they sum to `n_inputs`.
    width : int
        Of tokens and representation, a multiple of `heads`.
    """

    def __init__(
        self,
        spans: Sequence[int],
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not spans or min(spans) < 1:
            raise ValueError(f"Every feature needs an input column. Found spans {list(spans)}.")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, {heads}. Found {width}.")
        self.spans, self.n_inputs, self.n_features = list(spans), sum(spans), width
        self.maps = nn.ModuleList(nn.Linear(span, width) for span in spans)
        self.collector = nn.Parameter(torch.randn(width) / width**0.5)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.spans, 1)
        tokens = [own(part) for own, part in zip(self.maps, parts, strict=True)]
        first = self.collector.expand(len(x), -1)
        found: Tensor = self.layers(torch.stack([first, *tokens], 1))
        return self.norm(found[:, 0])  # type: ignore[no-any-return]
