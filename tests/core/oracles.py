"""The rates of groups by other people's code: fairlearn, scikit-learn, SciPy and NumPy.

Nothing here goes through membership matrices, moment columns or sums. Hard decisions are judged
by libraries, group by group; soft ones by weighted averages over the rows that a rate is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fairlearn import metrics as fl
from scipy.special import expit
from scipy.stats import wasserstein_distance
from sklearn import metrics as sk

from fairmt.tasks import Task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """One output of one task for the rows of one group; `actual` is NaN where missing.

    `predicted` is a decision or its soft counterpart (for regression the value), `probability`
    comes before any decision, `decided` and `label` are the classes of a classification task.
    """

    actual: Array
    predicted: Array
    probability: Array
    weight: Array
    decided: Array
    label: Array

    def of(self, mask: Array) -> Rows:
        return Rows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def labelled(self) -> Rows:
        return self.of(~np.isnan(self.actual))


Oracle = Callable[[Rows], float]


def _average(values: Array, weight: Array) -> float:
    return float(np.average(values, weights=weight))


def _library(metric: Callable[..., Any], **settings: Any) -> Oracle:
    def oracle(rows: Rows) -> float:
        r = rows.labelled()
        return float(metric(r.actual, r.predicted, sample_weight=r.weight, **settings))

    return oracle


def _whatever_the_truth(metric: Callable[..., Any]) -> Oracle:
    def oracle(rows: Rows) -> float:
        ignored = np.zeros(len(rows.predicted))
        return float(metric(ignored, rows.predicted, sample_weight=rows.weight))

    return oracle


def _class_accuracy(rows: Rows) -> float:
    r = rows.labelled()
    return float(sk.accuracy_score(r.label, r.decided, sample_weight=r.weight))


def _residual(rows: Rows) -> float:
    r = rows.labelled()
    return _average(r.predicted, r.weight) - _average(r.actual, r.weight)


def _bias(rows: Rows) -> float:
    r = rows.labelled()
    return _average(r.probability, r.weight) - _average(r.actual, r.weight)


def _concordance(rows: Rows) -> float:
    r = rows.labelled()
    c = np.cov(r.predicted, r.actual, aweights=r.weight, ddof=0)
    shift = _average(r.predicted, r.weight) - _average(r.actual, r.weight)
    return float(2 * c[0, 1] / (c[0, 0] + c[1, 1] + shift**2))


def _calibration_error(rows: Rows) -> float:
    r = rows.labelled()
    edges = np.linspace(0, 1, 11)
    off, _ = np.histogram(r.probability, edges, weights=r.weight * (r.probability - r.actual))
    return float(np.abs(off).sum() / r.weight.sum())


HARD: dict[str, Oracle] = {
    "recall": _library(fl.true_positive_rate, pos_label=1),
    "false alarm rate": _library(fl.false_positive_rate, pos_label=1),
    "true negative rate": _library(fl.true_negative_rate, pos_label=1),
    "precision": _library(sk.precision_score),
    "label accuracy": _library(sk.accuracy_score),
    "accuracy": _class_accuracy,
    "predicted rate": _whatever_the_truth(fl.selection_rate),
    "mean prediction": _whatever_the_truth(fl.mean_prediction),
    "mean squared error": _library(sk.mean_squared_error),
    "mean absolute error": _library(sk.mean_absolute_error),
    "concordance": _concordance,
    "mean residual": _residual,
    "calibration in the large": _bias,
    "calibration error": _calibration_error,
}


def _soft_recall(rows: Rows) -> float:
    r = rows.of(rows.actual == 1)
    return _average(r.predicted, r.weight)


def _soft_false_alarms(rows: Rows) -> float:
    r = rows.of(rows.actual == 0)
    return _average(r.predicted, r.weight)


def _soft_precision(rows: Rows) -> float:
    r = rows.labelled()
    return _average(r.actual, r.weight * r.predicted)


def _soft_label_accuracy(rows: Rows) -> float:
    r = rows.labelled()
    return _average(np.where(r.actual == 1, r.predicted, 1 - r.predicted), r.weight)


def _soft_class_accuracy(rows: Rows) -> float:
    r = rows.labelled()
    return _average(r.predicted, r.weight)


def _soft_rate(rows: Rows) -> float:
    return _average(rows.predicted, rows.weight)


SOFT: dict[str, Oracle] = HARD | {
    "recall": _soft_recall,
    "false alarm rate": _soft_false_alarms,
    "true negative rate": lambda rows: 1 - _soft_false_alarms(rows),
    "precision": _soft_precision,
    "label accuracy": _soft_label_accuracy,
    "accuracy": _soft_class_accuracy,
    "predicted rate": _soft_rate,
}

EDGES = np.arange(-2, 2.01, 0.25)

Distance = Callable[[Rows, Rows], float]


def _cdf(rows: Rows) -> Array:
    return np.array([_average(rows.predicted <= edge, rows.weight) for edge in EDGES])


def _soft_cdf(rows: Rows) -> Array:
    return np.array([_average(expit(16 * (edge - rows.predicted)), rows.weight) for edge in EDGES])


def _snapped(values: Array) -> Array:
    """Values moved up to the next shared edge; those above the last one to one step beyond."""
    return np.append(EDGES, EDGES[-1] + 0.25)[np.searchsorted(EDGES, values)]


def _wasserstein(rows: Rows, everybody: Rows) -> float:
    return float(
        wasserstein_distance(
            _snapped(rows.predicted),
            _snapped(everybody.predicted),
            rows.weight,
            everybody.weight,
        )
    )


HARD_DISTANCES: dict[str, Distance] = {
    "score distance (KS)": lambda r, all_: float(np.abs(_cdf(r) - _cdf(all_)).max()),
    "score distance (Wasserstein)": _wasserstein,
}
SOFT_DISTANCES: dict[str, Distance] = {
    "score distance (KS)": lambda r, all_: float(np.abs(_soft_cdf(r) - _soft_cdf(all_)).max()),
    "score distance (Wasserstein)": lambda r, all_: float(
        np.abs(_soft_cdf(r) - _soft_cdf(all_)).sum() * 0.25
    ),
}


def rows_of(
    task: Task,
    output: int | None,
    outputs: Array,
    labels: Array,
    weight: Array,
    offsets: Array,
    temperature: float | None,
) -> Rows:
    """One output of a task, from the task's outputs (N, K) and labels (N, label width).

    Without an output, the class task as a whole: `predicted` is the decision for the true class.
    """
    shifted = outputs + offsets
    if task.kind == "regression":
        centre, scale = np.array(task.centre), np.array(task.scale)  # type: ignore[attr-defined]
        value = outputs[:, output]
        actual = ((labels - centre) / scale)[:, output]
        return Rows(actual, value, value, weight, value, actual)
    if task.kind == "detection":
        probability = expit(outputs[:, output])
        decided = shifted[:, output] > 0
        soft = decided if temperature is None else expit(shifted[:, output] / temperature)
        actual = labels[:, output]
        return Rows(actual, soft.astype(float), probability, weight, decided, actual)
    label = labels[:, 0]
    decided = shifted.argmax(1)
    soft = np.eye(task.n_outputs)[decided]
    if temperature is not None:
        soft = _softmax(shifted / temperature)
    if output is None:
        seen = np.nan_to_num(label).astype(int)
        soft_hit = soft[np.arange(len(soft)), seen]
        return Rows(label, soft_hit, soft_hit, weight, decided, label)
    actual = np.where(np.isnan(label), np.nan, label == output)
    return Rows(actual, soft[:, output], _softmax(outputs)[:, output], weight, decided, label)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))
