"""Utility of every task: from rows where they are in memory, from the cube otherwise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch

from fairmt.auditing.cube import SCORE_BINS, Cube
from fairmt.auditing.plan import Plan
from fairmt.auditing.rows import Rows
from fairmt.metrics import utilities_of
from fairmt.tasks import Classification, Layout, Regression, Task

Metrics = dict[str, float]


def utilities_of_rows(rows: Rows, plan: Plan, cube: Cube) -> pd.DataFrame:
    """Exact utilities. Tasks without probabilities have none that need them."""
    found: dict[str, Metrics] = {}
    for task in rows.layout.tasks:
        own = rows.answers[task.name]
        if own.probability is None and not isinstance(task, Regression):
            found[task.name] = _decision_metrics(plan, cube, task)
            continue
        alone = Layout((task,))
        labels = own.truth.astype(np.float64).reshape(len(rows), -1)
        decisions = torch.from_numpy(np.ascontiguousarray(own.decision))
        if isinstance(task, Regression):
            decisions = task.standardise(decisions.double())
            p = decisions
        else:
            labels = np.where(labels < 0, np.nan, labels)
            p = torch.from_numpy(np.ascontiguousarray(own.probability))
            if isinstance(task, Classification):
                decisions = torch.nn.functional.one_hot(decisions.long(), task.n_outputs)
        weights = None if rows.weights is None else torch.tensor(rows.weights)
        metrics = utilities_of(alone, decisions, p, torch.from_numpy(labels), weights)
        found[task.name] = metrics[task.name]
    return _table(found)


def utilities_of_cube(plan: Plan, cube: Cube, scored: list[str]) -> pd.DataFrame:
    """Utilities from sums. Areas and average precision come from bins of the probability; their
    ``…_error`` says how far from the truth they can be at most."""
    found: dict[str, Metrics] = {}
    for task in plan.layout.tasks:
        if isinstance(task, Regression):
            found[task.name] = _target_metrics(plan, cube, task)
            continue
        found[task.name] = _decision_metrics(plan, cube, task)
        if task.name in scored and cube.scores is not None:
            start = plan.layout.outputs[task.name].start
            bins = cube.scores.sum(0)[:, :, start : start + task.n_outputs]
            metrics = _score_metrics(bins)
            if isinstance(task, Classification):
                metrics = {m: v for m, v in metrics.items() if m in ("auc", "auc_error")}
            found[task.name] |= metrics
    return _table(found)


def _table(found: dict[str, Metrics]) -> pd.DataFrame:
    rows = [(t, m, v) for t, metrics in found.items() for m, v in metrics.items()]
    return pd.DataFrame(rows, columns=["task", "metric", "value"])


def _decision_metrics(plan: Plan, cube: Cube, task: Task) -> Metrics:
    counts = (cube.counts if cube.masses is None else cube.masses).sum(0)
    start = plan.layout.outputs[task.name].start
    outputs = [plan.counted_outputs.index((task.name, start + k)) for k in range(task.n_outputs)]
    own = counts[:, outputs]
    actual, given, right = own[4] + own[5], own[3] + own[5], own[5]
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = 2 * right / np.maximum(actual + given, 1e-300)
        recall = right / actual
    if isinstance(task, Classification):
        whole = counts[:, plan.counted_outputs.index((task.name, None))]
        present = actual > 0
        if not present.any():
            return dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1"), math.nan)
        return {
            "accuracy": float(whole[5] / (whole[4] + whole[5])),
            "balanced_accuracy": float(recall[present].mean()),
            "macro_f1": float(f1[present].mean()),
        }
    seen = own[2:].sum(0)
    labelled = seen > 0
    if not labelled.any():
        return {"f1": math.nan, "accuracy": math.nan}
    accuracy = (own[2] + own[5])[labelled] / seen[labelled]
    return {"f1": float(f1[labelled].mean()), "accuracy": float(accuracy.mean())}


def _target_metrics(plan: Plan, cube: Cube, task: Regression) -> Metrics:
    columns: list[Metrics] = []
    start = plan.layout.outputs[task.name].start
    for k in range(task.n_outputs):
        n, p, a, pp, aa, pa, absolute = cube.targets.sum(0)[:, plan.targets.index(start + k)]
        scale = task.scale[k]
        squared, spread = pp - 2 * pa + aa, aa - a * a / n
        both = pp / n - (p / n) ** 2 + aa / n - (a / n) ** 2 + (p / n - a / n) ** 2
        columns.append(
            {
                "rmse": math.sqrt(max(squared, 0.0) / n) * scale,
                "mae": absolute / n * scale,
                "r2": 1 - squared / spread if spread > 0 else math.nan,
                "ccc": 2 * (pa / n - p / n * a / n) / both if both > 0 else math.nan,
            }
        )
    return {m: float(np.nanmean([c[m] for c in columns])) for m in columns[0]}


def _score_metrics(bins: np.ndarray) -> Metrics:
    """From (SCORE_BINS, 4, K): areas and precision, means over outputs, with their bounds."""
    found: dict[str, list[float]] = {}
    for k in range(bins.shape[2]):
        _, seen, probability, actual = bins[:, :, k].T
        positive, negative = actual[::-1], (seen - actual)[::-1]
        if positive.sum() <= 0:
            continue
        if negative.sum() > 0:
            total = positive.sum() * negative.sum()
            above = np.cumsum(positive) - positive
            sure, ties = (above * negative).sum() / total, (positive * negative).sum() / total
            found.setdefault("auc", []).append(float(sure + ties / 2))
            found.setdefault("auc_error", []).append(float(ties / 2))
        low, high = _precision_bounds(positive, negative)
        found.setdefault("average_precision", []).append((low + high) / 2)
        found.setdefault("average_precision_error", []).append((high - low) / 2)
        tenths = (probability - actual).reshape(10, SCORE_BINS // 10).sum(1)
        found.setdefault("calibration_error", []).append(float(abs(tenths).sum() / seen.sum()))
    return {m: float(np.mean(v)) for m, v in found.items()}


def _precision_bounds(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Average precision if, within every bin, negatives come first, and if positives do."""
    hits, misses = np.cumsum(positive), np.cumsum(negative)
    before_hits, before_misses = hits - positive, misses - negative
    low = _mean_precision(before_hits, hits, misses)
    # The sum over rows exceeds the integral by less than one row.
    high = _mean_precision(before_hits + 1, hits + 1, before_misses)
    return low, min(1.0, high)


def _mean_precision(first: np.ndarray, last: np.ndarray, misses: np.ndarray) -> float:
    """∫ h / (h + misses) dh over the hits of every bin, divided by all hits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (last - first) - misses * np.log((last + misses) / (first + misses))
    gain = np.where(misses > 0, gain, last - first)
    return float(np.nansum(gain) / (last[-1] - first[0]))
