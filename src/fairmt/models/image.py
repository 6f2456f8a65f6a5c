"""Encoders of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class ResidualNetwork(nn.Module):
    """A small residual network: (B, channels, H, W), or as many columns, -> (B, widths[-1]).

    Each stage halves the sides. Groups of channels are normalised, not batches, so that a
    prediction does not depend on who else is predicted.

    Parameters
    ----------
    shape : (channels, H, W)
    widths : sequence of int
        Channels of every stage, multiples of 8; the last one is the representation.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if len(self.shape) != 3:
            raise ValueError(f"shape must be (channels, H, W). Found {self.shape}.")
        if any(w % 8 for w in widths) or not widths:
            raise ValueError(f"widths must be multiples of 8. Found {list(widths)}.")
        self.n_inputs = self.shape[0] * self.shape[1] * self.shape[2]
        self.n_features = widths[-1]
        stages: list[nn.Module] = []
        for n_in, n_out in zip((self.shape[0], *widths[:-1]), widths, strict=True):
            stages.append(_Stage(n_in, n_out))
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x.view(len(x), *self.shape)).mean((2, 3))  # type: ignore[no-any-return]


class _Stage(nn.Module):
    """Two convolutions beside a shortcut, sides halved."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(8, n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.GroupNorm(8, n_out),
        )
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=2, bias=False)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


class PretrainedImages(nn.Module):
    """A vision model of `transformers` as an encoder: (B, 3, H, W) -> (B, hidden size).

    Parameters
    ----------
    model : a loaded model (``AutoModel.from_pretrained(name)``) whose output has a
        `pooler_output` or a `last_hidden_state`.
    shape : (3, H, W), as the model expects pictures.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        config: Any = model.config
        sizes = getattr(config, "hidden_sizes", None)
        self.model, self.shape = model, tuple(shape)
        self.n_inputs = self.shape[0] * self.shape[1] * self.shape[2]
        self.n_features = int(sizes[-1] if sizes else config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        found = self.model(pixel_values=x.view(len(x), *self.shape))
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            pooled = found.last_hidden_state.mean(1)
        return pooled.flatten(1)  # type: ignore[no-any-return]
