"""MTA-F: each part of a task's unfairness is mended where it belongs, in trunk or head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairmt.groups import Groups
from fairmt.kernel_distance import kernel_distance
from fairmt.ledger import probabilities
from fairmt.methods.base import Batch, StepMethod, precise
from fairmt.models import MultiTask
from fairmt.tasks import Classification, Layout, Task
from fairmt.truths import truths

WIDTH = 0.1
"""Of the kernel, in units of a probability."""


class MTAF(StepMethod):
    """``Σ_t w_t (L_t + λ D_t)``, the gradient of the fairness term D split between trunk and heads.

    D is the distance (squared MMD, see `fairmt.kernel_distance`) between groups of the scores
    that a task gives to its negatives: the false alarms. A negative is *exclusive* to the task if
    some other task is positive there, and *shared* if none is known to be. With e the exclusive
    ones' share of a task's negatives in the batch, and r the head's share of the work on them,

        head t:  ``∇ w_t [L_t + λ r e D_t(exclusive)]``
        trunk:   ``∇ Σ_t w_t [L_t + λ ((1 - e) D_t(shared) + (1 - r) e D_t(exclusive))]``

    so what only one task gets wrong is mended in its head, and the rest in the trunk.

    After the equations of Wang et al. (2021), who have two tasks of two classes, and give the trunk
    ``D_t(all) - r D_t(exclusive)``. That is the same where D adds over the two sets, which a
    distance between distributions does not: the difference then rewards the trunk for gaps among
    the exclusive negatives, and with few of them training went astray. Ours, besides: any number
    of tasks, "the other task" becoming "any other"; every label of a detection task has negatives
    of its own; so has every class (whoever is not of it), but where a favourable class is named,
    that class alone. A task marks rows as positive by a label that is present, its favourable
    class, or the second of two classes; one of more classes without a favourable one marks none.
    Several groups and attributes, and the unbiased distance. Regression tasks have no negatives and
    train on their plain loss. Several processes each compare the rows of their own. With one task
    no negative is exclusive, and all is done in the trunk.

    Costs two further passes through the heads, and kernels between all pairs of negatives in
    a batch for every class and label.

    Parameters
    ----------
    strength : float
        λ.
    head_share : float in [0, 1]
        r; 0 leaves all to the trunk.
    """

    name: ClassVar[str] = "mta_f"
    summary: ClassVar[str] = "score gaps among negatives, mended in trunk or head by where they lie"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "detection")
    claims: ClassVar[tuple[str, ...]] = ("equalized_odds",)
    source: ClassVar[str] = "Wang, Wang, Beutel, Prost, Chen and Chi (KDD 2021), arXiv 2106.02705"
    limits: ClassVar[str] = "false alarms only, for labels and favourable classes"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        head_share: float = 0.5,
    ) -> None:
        if not 0 <= head_share <= 1:
            raise ValueError(f"head_share must lie in [0, 1]. Found {head_share}.")
        self.strength, self.head_share = strength, head_share
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._compared = [_compared(self.layout, t) for t in self.layout.tasks]
        self._marking = [_marking(self.layout, t) for t in self.layout.tasks]

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        heads = self.model.heads
        fixed = {name: p.detach() for name, p in heads.named_parameters()}
        trunk = probabilities(self.layout, precise(functional_call(heads, fixed, (z,))))
        head = probabilities(self.layout, precise(heads(z.detach())))
        negative, exclusive = self.negatives(batch)
        member = self.groups.membership(batch.attributes, trunk.dtype)[:, 1:]
        if batch.weights is not None:
            member = member * batch.weights.to(trunk).unsqueeze(1)

        def distance(scores: Tensor, rows: Tensor) -> Tensor:
            return kernel_distance(scores[rows], member[rows], self.groups, (WIDTH,))

        r, total = self.head_share, outputs.new_zeros(())
        for outcomes, weight in zip(self._compared, self._task_weights.tolist(), strict=True):
            for k in outcomes:
                apart, shared = exclusive[:, k], negative[:, k] & ~exclusive[:, k]
                e = apart.sum() / negative[:, k].sum().clamp(min=1)
                in_trunk, in_head = distance(trunk[:, k], apart), distance(head[:, k], apart)
                own = (1 - e) * distance(trunk[:, k], shared)
                own = own + e * ((1 - r) * in_trunk + r * in_head)
                total = total + weight / len(outcomes) * own
        return total

    def negatives(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows known to be negative for each output, and those exclusive to its task,
        (B, n_outputs) of bool.
        """
        observed, actual = truths(self.layout, batch.labels)
        present = (observed * actual) > 0
        marked = torch.stack([present[:, columns].any(1) for columns in self._marking], 1)
        elsewhere = marked.sum(1, keepdim=True) - marked.long() > 0
        owner = self.layout.task_of_output().to(marked.device)
        negative = (observed > 0) & ~present
        return negative, negative & elsewhere[:, owner]


def _compared(layout: Layout, task: Task) -> list[int]:
    """Outputs whose negatives are compared between groups."""
    span = layout.outputs[task.name]
    if task.kind == "regression":
        return []
    if isinstance(task, Classification) and task.favourable is not None:
        return [span.start + task.outputs.index(task.favourable)]
    return list(range(span.start, span.stop))


def _marking(layout: Layout, task: Task) -> list[int]:
    """Outputs that make a row positive for the task."""
    found = _compared(layout, task)
    if isinstance(task, Classification) and task.favourable is None:
        return found[1:] if task.n_outputs == 2 else []
    return found
