"""Decision rules: offsets tuned on held-out data, blind to groups, and recalibration.

A rule adds one offset per output before deciding: the class with the largest shifted output wins,
and a label is given when its shifted output is positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.tasks import Layout


def tune_offsets(
    layout: Layout, outputs: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Offsets (n_outputs,) that maximise F1 of every label and macro-F1 of every class task.

    Exact search over all thresholds for labels and two classes; coordinate ascent over the
    classes otherwise. Regression outputs get 0. Groups play no part.

    Parameters
    ----------
    outputs : Tensor (N, n_outputs), fused.
    labels : Tensor (N, n_labels), fused, NaN where missing.
    weights : Tensor (N,), optional.
    """
    offsets = torch.zeros(layout.n_outputs, dtype=outputs.dtype)
    for task in layout.tasks:
        o, y = outputs[:, layout.outputs[task.name]], labels[:, layout.labels[task.name]]
        if task.kind == "detection":
            for k in range(task.n_outputs):
                seen = ~y[:, k].isnan()
                if seen.any():
                    w = None if weights is None else weights[seen]
                    offsets[layout.outputs[task.name].start + k] = -_best_f1_threshold(
                        o[seen, k], y[seen, k], w
                    )
        elif task.kind == "classification":
            seen = ~y[:, 0].isnan()
            if seen.any():
                w = None if weights is None else weights[seen]
                offsets[layout.outputs[task.name]] = _best_class_offsets(
                    o[seen], y[seen, 0].long(), w
                )
    return offsets


def _between(scores: Tensor, position: Tensor) -> Tensor:
    """The threshold that puts the first `position` of the descending scores above it."""
    i = int(position)
    if i == 0:
        return scores[0] + 1.0
    if i == len(scores):
        return scores[-1] - 1.0
    return (scores[i - 1] + scores[i]) / 2


def _cut_positions(scores: Tensor) -> Tensor:
    """True at position i of N + 1 if a threshold can fall before the i-th descending score."""
    ends = torch.ones(1, dtype=torch.bool)
    return torch.cat([ends, scores[1:] < scores[:-1], ends])


def _best_f1_threshold(scores: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    scores, order = scores.sort(descending=True)
    weight = torch.ones_like(scores) if w is None else w[order].to(scores.dtype)
    hits = F.pad((weight * y[order]).cumsum(0), (1, 0))
    predicted = F.pad(weight.cumsum(0), (1, 0))
    f1 = 2 * hits / (predicted + hits[-1]).clamp(min=1e-12)
    f1 = torch.where(_cut_positions(scores), f1, -1.0)
    return _between(scores, f1.argmax())


def _best_class_offsets(o: Tensor, y: Tensor, w: Tensor | None, rounds: int = 4) -> Tensor:
    n, k = o.shape
    offsets = torch.zeros(k, dtype=o.dtype)
    weight = torch.ones(n, dtype=o.dtype) if w is None else w.to(o.dtype)
    truth = F.one_hot(y, k).to(o.dtype) * weight[:, None]
    support = truth.sum(0)
    best = -1.0
    for _ in range(rounds):
        before = best
        for c in range(1 if k == 2 else 0, k):
            shifted = o + offsets
            shifted[:, c] = -torch.inf
            rival, other = shifted.max(1)
            margin, order = (o[:, c] - rival).sort(descending=True)
            w_sorted = weight[order]
            # Left of the cut rows are given class c, right of it their best other class.
            hits_c = F.pad(truth[order, c].cumsum(0), (1, 0))
            given_c = F.pad(w_sorted.cumsum(0), (1, 0))
            given = F.one_hot(other[order], k).to(o.dtype) * w_sorted[:, None]
            hits = given * (y[order] == other[order])[:, None]
            given_right = given.sum(0) - F.pad(given.cumsum(0), (0, 0, 1, 0))
            hits_right = hits.sum(0) - F.pad(hits.cumsum(0), (0, 0, 1, 0))
            given_right[:, c], hits_right[:, c] = given_c, hits_c
            f1 = (2 * hits_right / (given_right + support).clamp(min=1e-12))[:, support > 0]
            macro = torch.where(_cut_positions(margin), f1.mean(1), -1.0)
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
