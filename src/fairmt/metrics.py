"""Utility metrics of every task, exact, from fused outputs; missing labels contribute nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairmt.ledger import decide, probabilities
from fairmt.losses import concordance
from fairmt.tasks import Classification, Detection, Layout, Regression
from fairmt.utility import average_precision

Metrics = dict[str, float]
CALIBRATION_BINS = 10


def utilities(
    layout: Layout,
    outputs: Tensor,
    labels: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
) -> dict[str, Metrics]:
    """All utility metrics of every task; NaN where a metric is not defined.

    Classification: accuracy, balanced_accuracy, macro_f1, auc (one class against the rest, mean),
    log_loss, calibration_error. Detection (means over labels): f1, average_precision, auc,
    accuracy, log_loss, calibration_error. Regression (targets' own units; means over targets):
    rmse, mae, r2, ccc.

    Parameters
    ----------
    outputs : Tensor (N, n_outputs); labels : Tensor (N, n_labels); offsets : Tensor (n_outputs,).
    """
    decisions = decide(layout, outputs, offsets.to(outputs))
    return utilities_of(layout, decisions, probabilities(layout, outputs), labels, weights)


def utilities_of(
    layout: Layout,
    decisions: Tensor,
    p: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
) -> dict[str, Metrics]:
    """As `utilities`, from decisions and probabilities (N, n_outputs) instead of outputs.

    In the columns of regression tasks both hold the prediction in standard units.
    """
    decisions, p = decisions.double(), p.double()
    w = torch.ones(len(decisions)) if weights is None else weights
    found: dict[str, Metrics] = {}
    for task in layout.tasks:
        y = labels[:, layout.labels[task.name]].double()
        span = layout.outputs[task.name]
        if isinstance(task, Classification):
            found[task.name] = _classification(decisions[:, span], p[:, span], y[:, 0], w.double())
        elif isinstance(task, Detection):
            columns = [
                _label(decisions[:, span.start + k], p[:, span.start + k], y[:, k], w.double())
                for k in range(task.n_outputs)
            ]
            found[task.name] = _means(columns)
        else:
            assert isinstance(task, Regression)
            values = task.to_labels(decisions[:, span])
            found[task.name] = _means(
                [_target(values[:, k], y[:, k], w.double()) for k in range(task.n_outputs)]
            )
    return found


def _means(columns: list[Metrics]) -> Metrics:
    means = {}
    for name in columns[0]:
        known = [c[name] for c in columns if not math.isnan(c[name])]
        means[name] = sum(known) / len(known) if known else math.nan
    return means


def _classification(d: Tensor, p: Tensor, y: Tensor, w: Tensor) -> Metrics:
    seen = ~y.isnan()
    if not bool(seen.any()):
        names = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss")
        return dict.fromkeys((*names, "calibration_error"), math.nan)
    d, p, w = d[seen], p[seen], w[seen]
    truth = torch.nn.functional.one_hot(y[seen].long(), d.shape[1]).double()
    hits, given, support = w @ (d * truth), w @ d, w @ truth
    present = support > 0
    f1 = 2 * hits / (given + support).clamp(min=1e-300)
    areas = [
        area_under_curve(p[:, k], truth[:, k], w) for k in range(d.shape[1]) if bool(present[k])
    ]
    areas = [a for a in areas if not math.isnan(a)]
    top = p.max(1)
    right = truth.gather(1, top.indices[:, None])[:, 0]
    return {
        "accuracy": float(hits.sum() / w.sum()),
        "balanced_accuracy": float((hits / support.clamp(min=1e-300))[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "auc": sum(areas) / len(areas) if areas else math.nan,
        "log_loss": float((w * -(p * truth).sum(1).clamp(min=1e-12).log()).sum() / w.sum()),
        "calibration_error": calibration_error(top.values, right, w),
    }


def _label(d: Tensor, p: Tensor, y: Tensor, w: Tensor) -> Metrics:
    seen = ~y.isnan()
    names = ("f1", "average_precision", "auc", "accuracy", "log_loss", "calibration_error")
    if not bool(seen.any()):
        return dict.fromkeys(names, math.nan)
    d, p, y, w = d[seen], p[seen], y[seen], w[seen]
    hits, given, support = (w * d * y).sum(), (w * d).sum(), (w * y).sum()
    ap = float(average_precision(p, y, w[None])[0]) if bool(support > 0) else math.nan
    q = p.clamp(1e-12, 1 - 1e-12)
    loss = -(y * q.log() + (1 - y) * (1 - q).log())
    return {
        "f1": float(2 * hits / (given + support).clamp(min=1e-300)),
        "average_precision": ap,
        "auc": area_under_curve(p, y, w),
        "accuracy": float((w * (d == y)).sum() / w.sum()),
        "log_loss": float((w * loss).sum() / w.sum()),
        "calibration_error": calibration_error(p, y, w),
    }


def _target(value: Tensor, y: Tensor, w: Tensor) -> Metrics:
    seen = ~y.isnan()
    if not bool(seen.any()):
        return dict.fromkeys(("rmse", "mae", "r2", "ccc"), math.nan)
    value, y, w = value[seen], y[seen], w[seen]
    total = w.sum()
    mean = (w * y).sum() / total
    squared = (w * (value - y) ** 2).sum()
    spread = (w * (y - mean) ** 2).sum()
    centred = value - mean, y - mean
    ccc = concordance(
        total,
        (w * centred[0]).sum(),
        (w * centred[1]).sum(),
        (w * centred[0] ** 2).sum(),
        (w * centred[1] ** 2).sum(),
        (w * centred[0] * centred[1]).sum(),
    )
    return {
        "rmse": float((squared / total).sqrt()),
        "mae": float((w * (value - y).abs()).sum() / total),
        "r2": float(1 - squared / spread) if bool(spread > 0) else math.nan,
        "ccc": float(ccc),
    }


def area_under_curve(scores: Tensor, y: Tensor, w: Tensor) -> float:
    """Area under the ROC curve, ties counted half; NaN with one class only."""
    positive, negative = (w * y).sum(), (w * (1 - y)).sum()
    if not (bool(positive > 0) and bool(negative > 0)):
        return math.nan
    scores, order = scores.sort(descending=True)
    ends = torch.ones_like(scores, dtype=torch.bool)
    ends[:-1] = scores[1:] < scores[:-1]
    zero = scores.new_zeros(1)
    tpr = torch.cat([zero, (w * y)[order].cumsum(0)[ends] / positive])
    fpr = torch.cat([zero, (w * (1 - y))[order].cumsum(0)[ends] / negative])
    return float(torch.trapezoid(tpr, fpr))


def calibration_error(p: Tensor, y: Tensor, w: Tensor) -> float:
    """Average distance between probability and observed share, over ten equal bins."""
    bins = (p * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)
    off = torch.zeros(CALIBRATION_BINS, dtype=p.dtype).index_add(0, bins, w * (p - y))
    return float(off.abs().sum() / w.sum())
