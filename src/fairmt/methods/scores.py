"""What penalties on distributions of scores share: which groups are compared, and the means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.constants import Constant
from fairmt.distributed import joint
from fairmt.groups import Groups
from fairmt.ledger import probabilities
from fairmt.measures import safe
from fairmt.methods.base import Batch, StepMethod
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task


class ScorePenalty(StepMethod):
    """``Σ_t w_t L_t + λ Σ_t w_t mean_a mean_g d_t(g, others)`` for a distance d of scores.

    Scores are the probabilities of classes and labels, and predictions in standard units; others
    are the people of the attribute's other groups. A group is compared where the batch holds two
    rows of it and two of others.

    Parameters
    ----------
    strength : float
        λ.
    """

    claims: ClassVar[tuple[str, ...]] = ("demographic_parity",)
    label_free: ClassVar[bool] = True

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
    ) -> None:
        self.strength = strength
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        owner = self.layout.task_of_output()
        share = torch.zeros(len(self.layout.tasks), self.layout.n_outputs)
        share[owner, torch.arange(len(owner))] = 1 / owner.bincount()[owner]
        self._mean_of_task = Constant(share)
        self._partition = Constant(groups.partition_of_group())

    @abstractmethod
    def distances(self, scores: Tensor, own: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        """Distance of every group's scores to the others', (T, G); finite also without rows.

        Parameters
        ----------
        scores : (B, n_outputs)
        own, others : (B, G), weighted membership in the group, and in another of its attribute.
        labels : (B, n_labels)
        """

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        own = self.groups.membership(batch.attributes, outputs.dtype)[:, 1:]
        if batch.weights is not None:
            own = own * batch.weights.to(own).unsqueeze(1)
        partition = self._partition.on(own.device)
        known = own.new_zeros(len(own), len(self.groups.partitions)).index_add(1, partition, own)
        others = known.index_select(1, partition) - own
        enough = (self.reduce((own > 0).sum(0)) > 1) & (self.reduce((others > 0).sum(0)) > 1)
        scores = probabilities(self.layout, outputs)
        found = self.distances(scores, own, others, batch.labels)
        means = mean_by_partition(found.T, enough.unsqueeze(1), partition, known.shape[1])
        return (means.mean(0) * self._task_weights.to(means)).sum()

    @staticmethod
    def reduce(sums: Tensor) -> Tensor:
        """From sums over this process's rows to those over all."""
        return joint(sums)

    def mean_of_task(self, values: Tensor) -> Tensor:
        """Means over every task's outputs, (T, G) from (n_outputs, G)."""
        return self._mean_of_task.like(values) @ values


def mean_by_partition(values: Tensor, known: Tensor, partition: Tensor, n: int) -> Tensor:
    """Means of the known rows of each of `n` partitions, (n, J); 0 where none is known.

    Parameters
    ----------
    values : (N, J)
    known : (N, J) or (N, 1), bool.
    partition : (N,) int64, of every row.
    """
    known = known.expand_as(values)
    empty = values.new_zeros(n, values.shape[1])
    total = empty.index_add(0, partition, torch.where(known, values, 0.0))
    return total / safe(empty.index_add(0, partition, known.to(values.dtype)))
