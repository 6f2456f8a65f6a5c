"""Separate models for every task, in the shape of a multi-task model."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from fairmt.models.heads import LinearHeads, TaskHeads
from fairmt.models.multitask import MultiTask


class SeparateEncoders(nn.Module):
    """An encoder per task; their representations stand side by side."""

    def __init__(self, encoders: list[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, features: Any) -> Tensor:
        return torch.cat([encoder(features) for encoder in self.encoders], 1)


class OwnPart(nn.Module):
    """A head that reads its own task's representation: part `position` of `parts`."""

    def __init__(self, head: nn.Module, position: int, parts: int) -> None:
        super().__init__()
        self.head, self.position, self.parts = head, position, parts

    def forward(self, z: Tensor) -> Tensor:
        return self.head(z.chunk(self.parts, 1)[self.position])  # type: ignore[no-any-return]


def separate(model: MultiTask) -> MultiTask:
    """One copy of encoder and head for every task, each with weights drawn anew."""
    tasks, shared = model.layout.tasks, model.heads
    heads: dict[str, nn.Module] = {}
    for position, task in enumerate(tasks):
        if isinstance(shared, LinearHeads):
            head: nn.Module = nn.Linear(shared.in_features, task.n_outputs)
            head.to(shared.weight)
        else:
            assert isinstance(shared, TaskHeads)
            head = _anew(shared.heads[shared.names.index(task.name)])
        heads[task.name] = OwnPart(head, position, len(tasks))
    return MultiTask(SeparateEncoders([_anew(model.encoder) for _ in tasks]), heads, model.layout)


def _anew(module: nn.Module) -> nn.Module:
    """A copy whose weights are drawn again, as far as its parts know how."""
    copy = deepcopy(module)
    for part in copy.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return copy
