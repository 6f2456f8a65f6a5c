"""Heads: from the representation to the outputs of every task, in the layout's fused order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fairmt.tasks import Layout


class LinearHeads(nn.Linear):
    """All linear heads as one matrix: (B, d) -> (B, n_outputs)."""

    def __init__(self, n_features: int, layout: Layout) -> None:
        super().__init__(n_features, layout.n_outputs)
        self.layout = layout


class TaskHeads(nn.Module):
    """A module of the user's own for every task: (B, d) -> (B, task.n_outputs) each.

    Raises
    ------
    ValueError
        If a task has no head, or a head has no task.
    """

    def __init__(self, heads: Mapping[str, nn.Module], layout: Layout) -> None:
        super().__init__()
        names = [t.name for t in layout.tasks]
        if set(heads) != set(names):
            raise ValueError(f"Heads must be given for the tasks {names}. Found {sorted(heads)}.")
        self.layout = layout
        # Fused order, and a list because task names may hold dots.
        self.names = [t.name for family in layout.families for t in family.tasks]
        self.heads = nn.ModuleList([heads[name] for name in self.names])

    def forward(self, z: Tensor) -> Tensor:
        return self.forward_each([z] * len(self.heads))

    def forward_each(self, z: list[Tensor]) -> Tensor:
        """Fused outputs from one representation per head, in fused order."""
        outputs = []
        for name, head, zt in zip(self.names, self.heads, z, strict=True):
            o = head(zt)
            expected = self.layout[name].n_outputs
            if o.ndim != 2 or o.shape[1] != expected:
                raise ValueError(
                    f"The head of task '{name}' must give (B, {expected}). Found {tuple(o.shape)}."
                )
            outputs.append(o)
        return torch.cat(outputs, 1)
