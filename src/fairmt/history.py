"""Longer memory for the sums of small groups.

Gaps of noisy rates are biased upwards: an exactly fair predictor shows a gap in every mini-batch.
Sums therefore keep an exponentially decayed history, longer where evidence is scarce.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairmt.constants import Constant
from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.moments import Moments

NEVER = Constant(torch.tensor(torch.inf))
NOTHING = Constant(torch.tensor(0.0))
REFRESH = 16
"""Batches from one look at the decay to the next, after as many first ones."""


class DecayedMoments:
    """Exponentially decayed sums whose memory is as long as the evidence needs.

    For attribute *a* and statistic *j* the decay β is the smallest with
    ``E[rows per batch of the scarcest group] · (1 + β) / (1 - β) >= target``, at most
    `max_decay`: all groups that are compared share one memory. The expectation is the running
    mean of what was seen, looked at again at every `REFRESH`-th batch.

    The value is that of the decayed sums; the gradient flows through the current batch alone and
    is multiplied by ``W = Σ β^s``, so that it has the size it would have without memory.

    Parameters
    ----------
    target : float
        Effective rows that a rate should stand on.
    max_decay : float
        In [0, 1); 0 switches the memory off.

    Notes
    -----
    Where the length of an epoch is known (`set_epoch`), what is remembered is at most an epoch
    old in the mean, ``β / (1 - β) <= n``: rows that come again are no new evidence, and what they
    said of an earlier model is out of date.
    """

    def __init__(
        self, ledger: Ledger, groups: Groups, target: float = 200.0, max_decay: float = 0.99
    ) -> None:
        if not 0 <= max_decay < 1:
            raise ValueError(f"max_decay must lie in [0, 1). Found {max_decay}.")
        self.target, self.max_decay = target, max_decay
        self._longest = max_decay
        # Row 0 (everybody) keeps the memory of a partition of its own, the first.
        partition = torch.cat([torch.tensor([-1]), groups.partition_of_group()]) + 1
        members = groups.members_of_partitions() + 1
        everybody = torch.zeros(1, members.shape[1], dtype=torch.int64)
        self._partition = Constant(partition)
        self._members = Constant(torch.cat([everybody, members]))
        self._column = Constant(ledger.statistic_of_column)
        self.steps = 0
        self._sums: Tensor | None = None
        self._mass = self._mass2 = self._seen = self._memory = self._beta = torch.zeros(0)

    def set_epoch(self, n_batches: float) -> None:
        """How many batches an epoch has."""
        self._longest = min(self.max_decay, n_batches / (1.0 + n_batches))

    def update(self, batch: Moments) -> Moments:
        """Add the moments of a batch; returns decayed moments that carry the batch's gradient."""
        if self.max_decay == 0:
            return batch
        if self._sums is None:
            self._start(batch)
        assert self._sums is not None
        partition = self._partition.on(batch.sums.device)
        column = self._column.on(batch.sums.device)
        # What is returned is never changed in place; the rest is.
        self._seen.lerp_(batch.evidence, 1 / (self.steps + 1))
        # A mean over all batches so far moves ever less.
        if self.steps < REFRESH or self.steps % REFRESH == 0:
            self._beta = self._decay().index_select(0, partition)
        beta = self._beta
        self._memory.mul_(beta).add_(1.0)
        new = batch.sums.detach()
        self._sums = torch.addcmul(new, beta.index_select(1, column), self._sums)
        self._mass = torch.addcmul(batch.mass, beta, self._mass)
        self._mass2 = torch.addcmul(batch.mass2, beta * beta, self._mass2)
        self.steps += 1
        sums = self._sums
        if batch.sums.requires_grad:
            sums = torch.addcmul(sums, self._memory.index_select(1, column), batch.sums - new)
        return Moments(sums, self._mass, self._mass2)

    def through(self, gradient: Tensor) -> Tensor:
        """From the gradient at the decayed sums of the last update to that at its batch's sums."""
        if self.max_decay == 0:
            return gradient
        return gradient * self._memory.index_select(1, self._column.on(gradient.device))

    def _start(self, batch: Moments) -> None:
        self._sums = torch.zeros_like(batch.sums.detach())
        self._mass = torch.zeros_like(batch.mass)
        self._mass2 = torch.zeros_like(batch.mass2)
        self._seen = torch.zeros_like(batch.mass)
        self._memory = torch.zeros_like(batch.mass)

    def _decay(self) -> Tensor:
        """β by partition (everybody first) and statistic."""
        # A group that is practically never seen must not lengthen the others' memory to no use.
        never = NEVER.like(self._seen)
        seen = torch.where(self._seen > 1e-3, self._seen, never)
        members = self._members.on(seen.device)
        scarcest = seen.index_select(0, members.view(-1)).view(*members.shape, -1).amin(1)
        scarcest = torch.where(scarcest < never, scarcest, NOTHING.like(seen))
        beta = (self.target - scarcest).div_(scarcest.add_(self.target))
        return beta.clamp_(0.0, self._longest)

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
            "beta": self._beta.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reset()
        if state["steps"] == 0:
            return
        self.steps = int(state["steps"])
        self._sums = state["sums"].clone()
        self._mass, self._mass2 = state["mass"].clone(), state["mass2"].clone()
        self._seen, self._memory = state["seen"].clone(), state["memory"].clone()
        self._beta = state["beta"].clone()
