"""All task losses at once, from fused outputs and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.tasks import Detection, Family, Layout, Regression

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor of batch sums over processes; the identity in one process."""


def identity(sums: Tensor) -> Tensor:
    return sums


class Losses:
    """All task losses at once, from fused outputs and labels.

    ``losses(outputs, labels, weights)`` gives (T,): for every task the weighted mean over its
    observed entries, 0 for a task without any in the batch. With `reduce`, numerators and
    denominators are summed over processes first, so that R processes see the loss that one
    process would see on their joint batch.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._constants: dict[tuple[int, str, torch.device, torch.dtype], Tensor] = {}
        order = [i for family in layout.families for i in family.task_index]
        self._restore = torch.tensor([order.index(i) for i in range(len(order))])
        self._in_order = order == list(range(len(order)))

    def __call__(
        self,
        outputs: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        reduce: Reduce = identity,
    ) -> Tensor:
        parts = [
            getattr(self, f"_{family.kind}")(
                i,
                family,
                outputs[:, family.outputs],
                labels[:, family.labels],
                weights,
                reduce,
            )
            for i, family in enumerate(self.layout.families)
        ]
        losses = parts[0] if len(parts) == 1 else torch.cat(parts)
        return losses if self._in_order else losses[self._restore.to(losses.device)]

    def _constant(self, i: int, name: str, like: Tensor, value: Sequence[float]) -> Tensor:
        key = (i, name, like.device, like.dtype)
        if key not in self._constants:
            self._constants[key] = torch.tensor(list(value), device=like.device, dtype=like.dtype)
        return self._constants[key]

    def _output_weights(self, i: int, family: Family, like: Tensor) -> Tensor | None:
        if not any(task.output_weights for task in family.tasks):
            return None
        return self._constant(
            i,
            "output_weights",
            like,
            [w for t in family.tasks for w in (t.output_weights or (1.0,) * t.n_outputs)],
        )

    def _classification(
        self, i: int, family: Family, o: Tensor, y: Tensor, w: Tensor | None, reduce: Reduce
    ) -> Tensor:
        n_tasks, k = len(family.tasks), family.tasks[0].n_outputs
        observed = ~y.isnan()
        index = torch.nan_to_num(y).long()
        log_p = F.log_softmax(o.view(-1, n_tasks, k), -1)
        loss = -log_p.gather(2, index.unsqueeze(2)).squeeze(2)
        entry = observed.to(o.dtype)
        if w is not None:
            entry = entry * w.unsqueeze(1)
        per_class = self._output_weights(i, family, o)
        if per_class is not None:
            entry = entry * per_class.view(n_tasks, k).T.gather(0, index)
        sums = reduce(torch.stack([(entry * loss).sum(0), entry.sum(0)]))
        return _mean(sums[0], sums[1])

    def _detection(
        self, i: int, family: Family, o: Tensor, y: Tensor, w: Tensor | None, reduce: Reduce
    ) -> Tensor:
        entry = (~y.isnan()).to(o.dtype)
        positive = None
        if any(t.positive_weights for t in family.tasks if isinstance(t, Detection)):
            positive = self._constant(
                i,
                "positive_weights",
                o,
                [
                    p
                    for t in family.tasks
                    if isinstance(t, Detection)
                    for p in (t.positive_weights or (1.0,) * t.n_outputs)
                ],
            )
        loss = F.binary_cross_entropy_with_logits(
            o, torch.nan_to_num(y).to(o.dtype), reduction="none", pos_weight=positive
        )
        return self._entry_mean(i, family, loss, entry, w, reduce)

    def _regression(
        self, i: int, family: Family, o: Tensor, y: Tensor, w: Tensor | None, reduce: Reduce
    ) -> Tensor:
        tasks = [t for t in family.tasks if isinstance(t, Regression)]
        centre = self._constant(i, "centre", o, [c for t in tasks for c in t.centre])
        scale = self._constant(i, "scale", o, [s for t in tasks for s in t.scale])
        entry = (~y.isnan()).to(o.dtype)
        target = torch.nan_to_num((y.to(o.dtype) - centre) / scale)
        if tasks[0].loss == "ccc":
            e = entry if w is None else entry * w.unsqueeze(1)
            sums = reduce(
                torch.stack(
                    [
                        e.sum(0),
                        (e * o).sum(0),
                        (e * target).sum(0),
                        (e * o * o).sum(0),
                        (e * target * target).sum(0),
                        (e * o * target).sum(0),
                    ]
                )
            )
            ccc = concordance(*sums).unsqueeze(0)
            defined = ~ccc.isnan()
            loss = torch.where(defined, 1.0 - ccc, 0.0)
            return self._entry_mean(i, family, loss, defined.to(o.dtype), None, identity)
        error = o - target
        loss = (
            error * error if tasks[0].loss == "mse" else F.huber_loss(o, target, reduction="none")
        )
        return self._entry_mean(i, family, loss, entry, w, reduce)

    def _entry_mean(
        self,
        i: int,
        family: Family,
        loss: Tensor,
        entry: Tensor,
        w: Tensor | None,
        reduce: Reduce,
    ) -> Tensor:
        if w is not None:
            entry = entry * w.unsqueeze(1)
        per_output = self._output_weights(i, family, loss)
        if per_output is not None:
            entry = entry * per_output
        sums = torch.stack([(entry * loss).sum(0), entry.sum(0)])
        if len(family.tasks) != sums.shape[1]:
            owner = self._constant(
                i, "owner", loss, [j for j, t in enumerate(family.tasks) for _ in t.outputs]
            ).long()
            sums = sums.new_zeros(2, len(family.tasks)).index_add(1, owner, sums)
        sums = reduce(sums)
        return _mean(sums[0], sums[1])


def _mean(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator / torch.where(denominator > 0, denominator, torch.ones_like(denominator))


def concordance(n: Tensor, a: Tensor, b: Tensor, aa: Tensor, bb: Tensor, ab: Tensor) -> Tensor:
    """Lin's concordance correlation from the sums of 1, a, b, a², b², ab (elementwise).

    NaN where nothing was summed or both variances and the difference of means are 0.
    """
    one = torch.ones_like(n)
    # 0/0 would poison gradients even where the value is masked later.
    n = torch.where(n > 0, n, one)
    mean_a, mean_b = a / n, b / n
    covariance = ab / n - mean_a * mean_b
    spread = aa / n - mean_a**2 + bb / n - mean_b**2 + (mean_a - mean_b) ** 2
    ccc = 2 * covariance / torch.where(spread > 0, spread, one)
    return torch.where(spread > 0, ccc, torch.nan)
