"""Several encoders side by side, each for its own input columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Joined(nn.Module):
    """(B, Σ n_inputs) -> (B, Σ n_features): every encoder reads its columns, in the given order.

    Parameters
    ----------
    encoders : sequence of modules with `n_inputs` and `n_features`.
    """

    def __init__(self, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        parts: Sequence[Any] = encoders
        self.spans = [int(e.n_inputs) for e in parts]
        self.n_inputs = sum(self.spans)
        self.n_features = int(sum(e.n_features for e in parts))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.spans, 1)
        return torch.cat([e(part) for e, part in zip(self.encoders, parts, strict=True)], 1)
