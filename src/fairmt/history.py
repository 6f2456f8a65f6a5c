"""Longer memory for the sums of small groups.

Gaps of noisy rates are biased upwards: an exactly fair predictor shows a gap in every mini-batch.
Sums therefore keep an exponentially decayed history, longer where evidence is scarce.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.moments import Moments


class DecayedMoments:
    """Exponentially decayed sums whose memory is as long as the evidence needs.

    For attribute *a* and statistic *j* the decay β is the smallest with
    ``E[rows per batch of the scarcest group] · (1 + β) / (1 - β) >= target``, at most
    `max_decay`: all groups that are compared share one memory. The expectation is the running
    mean of what was seen.

    The value is that of the decayed sums; the gradient flows through the current batch alone and
    is multiplied by ``W = Σ β^s``, so that it has the size it would have without memory.

    Parameters
    ----------
    target : float
        Effective rows that a rate should stand on.
    max_decay : float
        In [0, 1); 0 switches the memory off.
    """

    def __init__(
        self, ledger: Ledger, groups: Groups, target: float = 200.0, max_decay: float = 0.99
    ) -> None:
        if not 0 <= max_decay < 1:
            raise ValueError(f"max_decay must lie in [0, 1). Found {max_decay}.")
        self.target, self.max_decay = target, max_decay
        partition = groups.partition_of_group()
        self._n_partitions = len(groups.partitions)
        # Row 0 (everybody) keeps the memory of a partition of its own.
        self._partition = torch.cat([torch.tensor([self._n_partitions]), partition])
        self._column = ledger.statistic_of_column
        self.steps = 0
        self._sums: Tensor | None = None
        self._mass = self._mass2 = self._seen = self._memory = torch.zeros(0)

    def update(self, batch: Moments) -> Moments:
        """Add the moments of a batch; returns decayed moments that carry the batch's gradient."""
        if self.max_decay == 0:
            return batch
        if self._sums is None:
            self._start(batch)
        assert self._sums is not None
        self._seen = self._seen + (batch.mass.detach() - self._seen) / (self.steps + 1)
        beta = self._decay()
        beta_row = beta[self._partition]
        self._memory = beta_row * self._memory + 1.0
        new = batch.sums.detach()
        self._sums = beta_row[:, self._column] * self._sums + new
        self._mass = beta_row * self._mass + batch.mass
        self._mass2 = beta_row**2 * self._mass2 + batch.mass2
        self.steps += 1
        sums = self._sums
        if batch.sums.requires_grad:
            sums = sums + self._memory[:, self._column] * (batch.sums - new)
        return Moments(sums, self._mass, self._mass2)

    def _start(self, batch: Moments) -> None:
        self._partition = self._partition.to(batch.sums.device)
        self._column = self._column.to(batch.sums.device)
        self._sums = torch.zeros_like(batch.sums.detach())
        self._mass = torch.zeros_like(batch.mass)
        self._mass2 = torch.zeros_like(batch.mass2)
        self._seen = torch.zeros_like(batch.mass)
        self._memory = torch.zeros_like(batch.mass)

    def _decay(self) -> Tensor:
        """β by partition (everybody last) and statistic."""
        # A group that is practically never seen must not lengthen the others' memory to no use.
        seen = torch.where(self._seen > 1e-3, self._seen, torch.inf)
        scarcest = torch.full(
            (self._n_partitions + 1, seen.shape[1]), torch.inf, device=seen.device
        ).scatter_reduce(0, self._partition[:, None].expand_as(seen), seen, "amin")
        scarcest = torch.where(scarcest.isinf(), 0.0, scarcest)
        beta = (self.target - scarcest) / (self.target + scarcest)
        return beta.clamp(0.0, self.max_decay)

    def reset(self) -> None:
        self._sums, self.steps = None, 0

    def state_dict(self) -> dict[str, Any]:
        if self._sums is None:
            return {"steps": 0}
        return {
            "steps": self.steps,
            "sums": self._sums.clone(),
            "mass": self._mass.clone(),
            "mass2": self._mass2.clone(),
            "seen": self._seen.clone(),
            "memory": self._memory.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reset()
        if state["steps"] == 0:
            return
        self._partition = self._partition.to(state["sums"].device)
        self._column = self._column.to(state["sums"].device)
        self.steps = int(state["steps"])
        self._sums = state["sums"].clone()
        self._mass, self._mass2 = state["mass"].clone(), state["mass2"].clone()
        self._seen, self._memory = state["seen"].clone(), state["memory"].clone()
