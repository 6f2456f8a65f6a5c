"""Minimax group fairness: the smallest possible loss of the worst group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.distributed import joint
from fairmt.groups import Groups
from fairmt.methods.base import Batch, StepMethod
from fairmt.models import MultiTask
from fairmt.row_losses import observed_tasks
from fairmt.tasks import Layout, Task

ROWS = 10_000
"""Rows of a round where the number of training rows is not known."""


class Minimax(StepMethod):
    """``Σ_t w_t L_t + λ Σ_t w_t mean_a Σ_g q_{t,g} L_{t,g}``, q an adversary over the groups.

    The game of Diana et al. (Algorithm 1): the model learns, and after every round, a pass over
    the training rows, q moves by exponentiated weights on the round's group losses

        ``q_{t,g} ∝ q_{t,g} exp(η/√k · L_{t,g} / max_g L_{t,g})``,   k the round,

    normalised within every task and attribute. For λ → ∞ the model minimises the loss of the
    groups' worst mixture, which is that of the worst group.

    `group_dro` plays the same game batch by batch: its q follows the noise of small groups in a
    batch, and losses as they are. Here q stands still while a whole round is summed, its steps
    shrink, so that it comes to rest (the theorem's 1/√k), and losses are divided by the largest,
    so that they lie in [0, 1], as the theorem asks, and one η does for tasks of all kinds.

    Ours: several tasks and attributes, each with a simplex of its own; the plain loss stays in, so
    that λ draws a frontier; the model goes on learning instead of being fitted anew in every
    round, so a round's losses are those on the way; its weights are averaged by the trainer, where
    the algorithm returns the uniform mixture of all models.

    Parameters
    ----------
    strength : float
        λ; the plain sum at 0.
    rate : float
        η.
    rows : int, optional
        Rows of a round. None: the training rows that `setup` sees, or else `ROWS`.
    """

    name: ClassVar[str] = "minimax"
    summary: ClassVar[str] = "minimises the loss of the worst group, found over whole epochs"
    source: ClassVar[str] = (
        "Diana, Gill, Kearns, Kenthapadi and Roth (AIES 2021); Martinez, Bertran and Sapiro "
        "(ICML 2020)"
    )
    limits: ClassVar[str] = "lowers the worst loss; closes no gap of rates"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        rate: float = 1.0,
        rows: int | None = None,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be positive. Found {rate}.")
        if rows is not None and rows < 1:
            raise ValueError(f"rows must be at least 1. Found {rows}.")
        self.strength, self.rate, self.rows = strength, rate, rows
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._round_rows = self.rows or (ROWS if data is None else len(data))
        shape = (groups.n_groups, len(self.layout.tasks))
        self.rounds, self._seen = 0, 0
        self.log_q = torch.zeros(shape)
        self._sums, self._mass = torch.zeros(shape), torch.zeros(shape)

    @property
    def q(self) -> Tensor:
        """Weights of the groups (G, T), summing to 1 within every attribute."""
        return torch.cat([self.log_q[p.groups].softmax(0) for p in self.groups.partitions])

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        losses, mass = self._group_losses(outputs, batch)
        q = self.q.to(losses)
        self._account(losses.detach(), mass, len(outputs))
        task_weights = self._task_weights.to(losses)
        return (q * losses * task_weights).sum() / len(self.groups.partitions)

    def _group_losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses of every group (G, T), and the weight of their rows."""
        member = self.groups.membership(batch.attributes, outputs.dtype)[:, 1:]
        if batch.weights is not None:
            member = member * batch.weights.to(outputs.dtype).unsqueeze(1)
        mass = joint(member.T @ observed_tasks(self.layout, batch.labels).to(outputs.dtype))
        losses = [self.losses(outputs, batch.labels, own, joint) for own in member.unbind(1)]
        return torch.stack(losses), mass

    def _account(self, losses: Tensor, mass: Tensor, rows: int) -> None:
        """Add a batch to the round; at the round's end, move q."""
        self._sums = self._sums.to(losses) + mass * losses
        self._mass = self._mass.to(mass) + mass
        self._seen += int(joint(mass.new_tensor(rows)))
        if self._seen < self._round_rows:
            return
        self.rounds += 1
        known = self._mass > 0
        means = self._sums / torch.where(known, self._mass, 1.0)
        parts = []
        for p in self.groups.partitions:
            own, seen = means[p.groups], known[p.groups]
            top = own.amax(0)
            # A group without rows is no better and no worse than the others.
            average = own.sum(0) / seen.sum(0).clamp(min=1)
            parts.append(torch.where(seen, own, average) / torch.where(top > 0, top, 1.0))
        relative = torch.cat(parts)
        self.log_q = self.log_q.to(relative) + self.rate / self.rounds**0.5 * relative
        self._seen, self._sums, self._mass = 0, self._sums * 0, self._mass * 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "log_q": self.log_q,
            "rounds": self.rounds,
            "seen": self._seen,
            "sums": self._sums,
            "mass": self._mass,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.log_q = state["log_q"].clone()
        self.rounds, self._seen = int(state["rounds"]), int(state["seen"])
        self._sums, self._mass = state["sums"].clone(), state["mass"].clone()
