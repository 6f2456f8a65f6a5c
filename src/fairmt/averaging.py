"""Averaged weights: what is evaluated and kept, while training goes on with the current ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Average:
    """Exponentially averaged weights and buffers, with a start-up correction.

    Parameters
    ----------
    horizon : float
        Steps over which the average reaches back; 0 keeps the current weights.
    """

    def __init__(self, model: nn.Module, horizon: float) -> None:
        self._live = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
        self.values = [p.detach().clone() for p in self._live]
        self._decay = 1 - 1 / max(1.0, horizon)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        # Until the horizon is filled, a plain mean of what was seen so far.
        decay = min(self._decay, 1 - 1 / self.steps)
        torch._foreach_lerp_(self.values, [p.detach() for p in self._live], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averaged weights inside this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, value in zip(self._live, self.values, strict=True):
            kept = live.detach().clone()
            live.copy_(value)
            value.copy_(kept)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """End of training: the model keeps the averaged weights."""
        for live, value in zip(self._live, self.values, strict=True):
            live.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"values": [v.clone() for v in self.values], "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)
        self.steps = int(state["steps"])
