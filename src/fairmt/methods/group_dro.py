"""Group DRO: the groups with the largest loss weigh most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.distributed import joint
from fairmt.groups import Groups
from fairmt.methods.base import Batch, StepMethod
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task


class GroupDRO(StepMethod):
    """``Σ_t w_t L_t + λ Σ_t w_t mean_a Σ_g q_{t,g} L_{t,g}``, q moved towards the worst groups.

    ``q ← q · exp(η L_{t,g})``, normalised within every task and attribute (Sagawa, Koh, Hashimoto
    and Liang, 2020, Algorithm 1). Ours: several tasks and attributes, each with a simplex of its
    own, because losses of different kinds cannot be compared; the plain loss stays in, so that λ
    draws a frontier; groups absent from a batch keep their q.

    Parameters
    ----------
    strength : float
        λ; the plain sum at 0.
    rate : float
        η, per step.
    """

    name: ClassVar[str] = "group_dro"
    summary: ClassVar[str] = "distributionally robust: the groups with the largest loss weigh most"
    source: ClassVar[str] = "Sagawa, Koh, Hashimoto and Liang (ICLR 2020)"
    limits: ClassVar[str] = "evens out losses, not rates; small groups are noisy"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        rate: float = 0.01,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be positive. Found {rate}.")
        self.strength, self.rate = strength, rate
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._partition = groups.partition_of_group()
        self._n = len(groups.partitions)
        self.log_q = torch.zeros(groups.n_groups, len(self.layout.tasks))

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        member = self.groups.membership(batch.attributes, outputs.dtype)[:, 1:]
        w = None if batch.weights is None else batch.weights.to(outputs.dtype)
        losses, seen = [], []
        observed = self._observed(batch.labels).to(outputs.dtype)
        for g in range(self.groups.n_groups):
            own = member[:, g] if w is None else member[:, g] * w
            losses.append(self.losses(outputs, batch.labels, own, joint))
            seen.append(joint(own @ observed) > 0)
        loss, known = torch.stack(losses), torch.stack(seen)
        self.log_q = self.log_q.to(loss.device)
        self.log_q = self.log_q + self.rate * torch.where(known, loss.detach(), 0.0)
        weights = self._normalised()
        task_weights = self._task_weights.to(loss.device)
        return (weights * torch.where(known, loss, 0.0) * task_weights).sum() / self._n

    def _observed(self, labels: Tensor) -> Tensor:
        """(B, T): 1 where the row has a label of the task."""
        known = (~labels.isnan()).float()
        return torch.stack(
            [known[:, self.layout.labels[t.name]].amax(1) for t in self.layout.tasks], 1
        )

    def _normalised(self) -> Tensor:
        """q (G, T), summing to 1 within every attribute."""
        index = self._partition.to(self.log_q.device)[:, None].expand_as(self.log_q)
        empty = self.log_q.new_full((self._n, self.log_q.shape[1]), -torch.inf)
        top = empty.scatter_reduce(0, index, self.log_q, "amax")
        q = (self.log_q - top.gather(0, index)).exp()
        total = torch.zeros_like(top).scatter_add(0, index, q)
        return q / total.gather(0, index)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"log_q": self.log_q}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.log_q = state["log_q"].clone()
