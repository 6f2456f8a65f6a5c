"""The textbook penalty: differences of the groups' rates in the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fairmt.constants import Constant
from fairmt.distributed import joint
from fairmt.groups import Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.methods.base import Batch, StepMethod
from fairmt.methods.scores import mean_by_partition
from fairmt.models import MultiTask
from fairmt.notions import NotionSpec, resolve_notions
from fairmt.tasks import Layout, Task


class GapPenalty(StepMethod):
    """``Σ_t w_t L_t + λ Σ_t w_t mean_j mean_a mean_{g<h} |q_{j,g} − q_{j,h}|^p``.

    q are the rates of the notion's statistics with probabilities in place of decisions, from the
    batch alone; pairs are groups of one attribute with evidence in it. No direction, no memory, no
    worst case: what the `fairmt` constraint adds to it shows beside this.

    The difference of two noisy rates is squared with its noise: in small batches, or for small
    groups, much of the penalty is variance, which no model can lower but by levelling its scores.

    Parameters
    ----------
    strength : float
        λ.
    notion : str, sequence, or mapping from task name or kind
        See `fairmt.notions.resolve_notions`.
    squared : bool
        p = 2, else p = 1.
    """

    name: ClassVar[str] = "gap"
    summary: ClassVar[str] = "penalises differences of groups' rates in the batch"
    claims: ClassVar[tuple[str, ...]] = ("default",)
    # At λ = 20 its shortfall is still falling.
    strengths: ClassVar[tuple[float, float]] = (0.3, 100.0)
    revision: ClassVar[int] = 1
    source: ClassVar[str] = "common practice; e.g. Padala and Gujar (IJCAI 2020)"
    limits: ClassVar[str] = (
        "buys the gap partly by hurting the best-served group; biased in small batches"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        notion: NotionSpec = "default",
        squared: bool = True,
    ) -> None:
        self.strength, self.notion, self.squared = strength, notion, squared
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        """Compile the notion.

        Raises
        ------
        ValueError
            If the notion judges none of the tasks, or is a distance of distributions.
        """
        super().setup(model, groups, data)
        self.ledger = Ledger(self.layout, resolve_notions(self.layout.tasks, self.notion))
        if not len(self.ledger):
            raise ValueError(
                f"Notion {self.notion!r} judges none of the tasks "
                f"{[(t.name, t.kind) for t in self.layout.tasks]}; there is nothing to penalise."
            )
        if self.ledger.distance.any():
            raise ValueError(
                "Method 'gap' compares rates, and 'distribution_parity' has none: use the methods "
                "'wasserstein' or 'mmd', or notion='demographic_parity'."
            )
        pairs, partition = [], []
        for i, p in enumerate(groups.partitions):
            own = list(combinations(range(p.groups.start, p.groups.stop), 2))
            pairs += own
            partition += [i] * len(own)
        self._pairs = Constant(torch.tensor(pairs).T)
        self._partition = Constant(torch.tensor(partition))
        owner = one_hot(self.ledger.task_index, len(self.layout.tasks)).double()
        # A task that the notion does not judge has no statistic to take a mean of.
        self._mean_of_task = Constant(owner / owner.sum(0).clamp(min=1))

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        member = self.groups.membership(batch.attributes, outputs.dtype)
        weights = None if batch.weights is None else batch.weights.to(outputs.dtype)
        offsets = self.offsets.to(outputs)
        atoms = atoms_of(self.ledger, outputs, batch.labels, offsets, temperature=1.0)
        moments = self.ledger.moments(member, atoms, weights)
        rates = self.ledger.rates(joint(moments.sums))[1:]
        known = joint(moments.mass)[1:] > 0
        g, h = self._pairs.on(rates.device)
        gaps = rates[g] - rates[h]
        means = mean_by_partition(
            gaps**2 if self.squared else gaps.abs(),
            known[g] & known[h],
            self._partition.on(rates.device),
            len(self.groups.partitions),
        )
        per_task = means.mean(0) @ self._mean_of_task.like(means)
        return (per_task * self._task_weights.to(means)).sum()
