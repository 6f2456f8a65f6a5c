"""Task losses row by row, for what looks at single rows or reweighs them afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fairmt.losses import Losses
from fairmt.tasks import Layout, Regression, Task


class RowLosses:
    """``row_losses(outputs, labels)`` gives (B, T): the losses of every row by itself.

    A row's loss is the mean over its observed entries, 0 where it has none. Class weights belong
    to rows and do not show here. Concordance is no property of a row: squared error in its place.
    """

    def __init__(self, layout: Layout) -> None:
        rows = Layout(tuple(_by_row(task) for task in layout.tasks))
        # Without concordance other tasks may stand side by side.
        self._outputs = _positions(rows, layout.outputs)
        self._labels = _positions(rows, layout.labels)
        self._losses = Losses(rows)

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        o = outputs[:, self._outputs.to(outputs.device)]
        y = labels[:, self._labels.to(labels.device)]
        return torch.vmap(lambda o, y: self._losses(o[None], y[None]))(o, y)


def observed_tasks(layout: Layout, labels: Tensor) -> Tensor:
    """(B, T) of bool: whether the row has a label of the task."""
    known = ~labels.isnan()
    return torch.stack([known[:, layout.labels[t.name]].any(1) for t in layout.tasks], 1)


def _by_row(task: Task) -> Task:
    if isinstance(task, Regression) and task.loss == "ccc":
        return replace(task, loss="mse")
    return task


def _positions(rows: Layout, places: dict[str, slice]) -> Tensor:
    order = [t.name for family in rows.families for t in family.tasks]
    return torch.cat([torch.arange(places[name].start, places[name].stop) for name in order])
