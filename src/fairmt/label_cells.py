"""Losses of decisions given the truth: one column for every class, and two for every label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.distributed import joint
from fairmt.groups import Groups
from fairmt.tasks import Layout
from fairmt.truths import truths


class LabelCells:
    """Cells are the truths of a task: each class holds; each label holds, and does not.

    Attributes
    ----------
    owner : Tensor (C,), the position of every cell's task; regression has none.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        repeats = {"classification": 1, "detection": 2, "regression": 0}
        owner = [
            layout.task_of_output()[f.outputs].repeat(repeats[f.kind]) for f in layout.families
        ]
        self.owner = torch.cat(owner)

    def losses(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-probability of the right decision, if the cell were the truth, (B, C),
        and 1 where it is the truth.
        """
        observed, actual = truths(self.layout, labels, outputs.dtype)
        losses, cells = [outputs[:, :0]], [outputs[:, :0]]
        for family, o in zip(self.layout.families, self.layout.by_family(outputs), strict=True):
            present = (observed * actual)[:, family.outputs]
            if family.kind == "classification":
                shape = (len(family.tasks), family.tasks[0].n_outputs)
                losses.append(-F.log_softmax(o.unflatten(1, shape), 2).flatten(1))
                cells.append(present)
            elif family.kind == "detection":
                losses += [F.softplus(-o), F.softplus(o)]
                cells += [present, observed[:, family.outputs] - present]
        return torch.cat(losses, 1), torch.cat(cells, 1)


def group_means(values: Tensor, cells: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of values (B, C) in every cell of every group, (G, C), and which have any row.

    Parameters
    ----------
    cells : (B, C), 1 where the row is in the cell.
    member : (B, G), the weight of a row in a group.
    """
    sums, mass = joint(torch.stack([member.T @ (cells * values), member.T @ cells]))
    known = mass > 0
    return torch.where(known, sums / torch.where(known, mass, 1.0), 0.0), known


def extremes(means: Tensor, known: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
    """Largest and smallest group mean in every attribute, (P, C) each; 0 where none is known."""
    top, low = [], []
    for p in groups.partitions:
        some = known[p.groups].any(0)
        top.append(torch.where(some, means[p.groups].where(known[p.groups], -torch.inf).amax(0), 0))
        low.append(torch.where(some, means[p.groups].where(known[p.groups], torch.inf).amin(0), 0))
    return torch.stack(top), torch.stack(low)
