"""Tensors that never change, kept on every device and in every precision they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Constant:
    """A tensor, or numbers in double precision, copied to a device or precision once.

    Parameters
    ----------
    value : Tensor or sequence of float
    """

    def __init__(self, value: Tensor | Sequence[float]) -> None:
        if not isinstance(value, Tensor):
            value = torch.tensor(list(value), dtype=torch.float64)
        self.value = value
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """On the device and in the precision of another tensor."""
        return self._copy(other.device, other.dtype)

    def on(self, device: torch.device) -> Tensor:
        """On a device, in its own precision."""
        return self._copy(device, self.value.dtype)

    def _copy(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (device, dtype)
        if key not in self._copies:
            self._copies[key] = self.value.to(device, dtype)
        return self._copies[key]
