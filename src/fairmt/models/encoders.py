"""The usual encoder of rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Sequential):
    """Fully connected encoder: (B, n_inputs) -> (B, widths[-1]).

    Parameters
    ----------
    n_inputs : int
    widths : sequence of int
        Width of every layer; the last one is the representation.
    dropout : float
        Applied after every layer.
    """

    def __init__(
        self, n_inputs: int, widths: Sequence[int] = (128, 64), dropout: float = 0.0
    ) -> None:
        if not widths:
            raise ValueError("An MLP needs at least one layer; widths is empty.")
        layers: list[nn.Module] = []
        for n_in, n_out in zip((n_inputs, *widths[:-1]), widths, strict=True):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.n_inputs, self.n_features = n_inputs, widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)  # type: ignore[no-any-return]
