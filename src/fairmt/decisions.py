"""Decision rules: offsets tuned on held-out data, blind to groups, and recalibration.

A rule adds one offset per output before deciding: the class with the largest shifted output wins,
and a label is given when its shifted output is positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.ledger import probabilities
from fairmt.tasks import Layout


def tune_offsets(
    layout: Layout, outputs: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Offsets (n_outputs,) that maximise the expected F1 of labels and macro-F1 of class tasks.

    The expectation takes probabilities recalibrated on the same rows in place of their labels:
    the best threshold for a rare class is then an average over many rows, and not the place of a
    few lucky ones (decision-theoretic tuning; Ye, Chai, Lee and Chieu 2012). Exact search over
    all thresholds for labels and two classes, coordinate ascent over more classes. Regression
    outputs get 0. Groups play no part.

    Parameters
    ----------
    outputs : Tensor (N, n_outputs), fused.
    labels : Tensor (N, n_labels), fused, NaN where missing.
    weights : Tensor (N,), optional.
    """
    calibrated = recalibrate(layout, outputs, labels, weights)
    outputs = calibrated.apply(outputs.double())
    p = probabilities(layout, outputs)
    offsets = torch.zeros(layout.n_outputs, dtype=torch.float64)
    for task in layout.tasks:
        span = layout.outputs[task.name]
        seen = ~labels[:, layout.labels[task.name]].isnan()
        if task.kind == "regression":
            continue
        for k in range(task.n_outputs if task.kind == "detection" else 1):
            rows = seen[:, k]
            if not bool(rows.any()):
                continue
            w = torch.ones(int(rows.sum()), dtype=torch.float64)
            if weights is not None:
                w = weights[rows].double()
            if task.kind == "detection":
                column = span.start + k
                offsets[column] = -_best_threshold(outputs[rows, column], p[rows, column], w)
            else:
                offsets[span] = _best_class_offsets(outputs[rows, span], p[rows, span], w)
    return calibrated.uncarry(offsets).to(labels.dtype)


def _between(scores: Tensor, position: Tensor) -> Tensor:
    """The threshold that puts the first `position` of the descending scores above it."""
    i = int(position)
    if i == 0:
        return scores[0] + 1.0
    if i == len(scores):
        return scores[-1] - 1.0
    return (scores[i - 1] + scores[i]) / 2


def _best_threshold(scores: Tensor, p: Tensor, w: Tensor) -> Tensor:
    """The threshold of the highest expected F1 of a label."""
    scores, order = scores.sort(descending=True)
    hits = F.pad((w * p)[order].cumsum(0), (1, 0))
    given = F.pad(w[order].cumsum(0), (1, 0))
    return _between(scores, (2 * hits / (given + hits[-1]).clamp(min=1e-12)).argmax())


def _best_class_offsets(o: Tensor, p: Tensor, w: Tensor, rounds: int = 4) -> Tensor:
    """Class offsets (K,) of the highest expected macro-F1, by coordinate ascent."""
    k = o.shape[1]
    offsets = torch.zeros(k, dtype=o.dtype)
    support = w @ p
    best = -1.0
    for _ in range(rounds):
        before = best
        for c in range(1 if k == 2 else 0, k):
            shifted = o + offsets
            shifted[:, c] = -torch.inf
            rival, other = shifted.max(1)
            margin, order = (o[:, c] - rival).sort(descending=True)
            # Left of the cut rows are given class c, right of it their best other class.
            given = F.one_hot(other[order], k).to(o.dtype) * w[order, None]
            hits = given * p[order]
            given_right = given.sum(0) - F.pad(given.cumsum(0), (0, 0, 1, 0))
            hits_right = hits.sum(0) - F.pad(hits.cumsum(0), (0, 0, 1, 0))
            given_right[:, c] = F.pad(w[order].cumsum(0), (1, 0))
            hits_right[:, c] = F.pad((w * p[:, c])[order].cumsum(0), (1, 0))
            macro = (2 * hits_right / (given_right + support).clamp(min=1e-12)).mean(1)
            at = macro.argmax()
            if float(macro[at]) > best + 1e-9:
                best = float(macro[at])
                offsets[c] = -_between(margin, at)
        if best <= before + 1e-6:
            break
    return offsets - offsets[0]


@dataclass(frozen=True)
class Recalibration:
    """``outputs · scale + shift``: probabilities that mean what they say, groups unseen.

    Constraint training bends probabilities. The map is monotone per label, and one temperature
    per class task, so decisions stay as they are when `offsets` are carried over.
    """

    scale: Tensor
    shift: Tensor

    def apply(self, outputs: Tensor) -> Tensor:
        return outputs * self.scale.to(outputs) + self.shift.to(outputs)

    def carry(self, offsets: Tensor) -> Tensor:
        """Offsets for recalibrated outputs that decide as `offsets` did before."""
        return offsets * self.scale.to(offsets) - self.shift.to(offsets)

    def uncarry(self, offsets: Tensor) -> Tensor:
        """Offsets for the outputs before recalibration; the inverse of `carry`."""
        return (offsets + self.shift.to(offsets)) / self.scale.to(offsets)


def recalibrate(
    layout: Layout, outputs: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Recalibration:
    """Fit scale and shift by likelihood on held-out rows (Platt 1999; Guo et al. 2017).

    Labels get their own scale and shift, class tasks a temperature and a shift per class.
    Regression outputs are left alone.
    """
    scale = torch.ones(layout.n_outputs, dtype=torch.float64)
    shift = torch.zeros(layout.n_outputs, dtype=torch.float64)
    for task in layout.tasks:
        span = layout.outputs[task.name]
        o = outputs[:, span].double()
        y = labels[:, layout.labels[task.name]].double()
        if task.kind == "regression" or not (~y.isnan()).any():
            continue
        width = task.n_outputs if task.kind == "detection" else 1
        log_scale = torch.zeros(width, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(task.n_outputs, dtype=torch.float64, requires_grad=True)
        entry = (~y.isnan()).double()
        if weights is not None:
            entry = entry * weights.double()[:, None]
        optimiser = torch.optim.LBFGS([log_scale, bias], max_iter=50, line_search_fn="strong_wolfe")

        def closure(
            o: Tensor = o,
            y: Tensor = y,
            entry: Tensor = entry,
            kind: str = task.kind,
            log_scale: Tensor = log_scale,
            bias: Tensor = bias,
            optimiser: torch.optim.LBFGS = optimiser,
        ) -> Tensor:
            optimiser.zero_grad()
            moved = o * log_scale.exp() + bias
            target = torch.nan_to_num(y)
            if kind == "detection":
                loss = F.binary_cross_entropy_with_logits(moved, target, reduction="none")
            else:
                loss = F.cross_entropy(moved, target[:, 0].long(), reduction="none")[:, None]
            # A whisper of ridge keeps separable labels finite.
            total = (entry * loss).sum() / entry.sum() + 1e-4 * (
                (log_scale**2).sum() + (bias**2).sum()
            )
            total.backward()
            return total

        optimiser.step(closure)
        scale[span] = log_scale.detach().exp().expand(task.n_outputs)
        shift[span] = bias.detach()
    return Recalibration(scale, shift)
