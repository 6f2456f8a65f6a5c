"""Measures: the rates of a group that fairness is judged by, each written once for training, audit
and out-of-core sums.

A `Measure` is one rate: the moment columns a row contributes (its *terms*), the function from
their sums to the rate, and an orientation. `fairmt.notions` says which measures judge a kind of
task; `fairmt.ledger` compiles both into one matrix of moment columns.

Terms are plain arithmetic on `Atoms`, elementwise in the output, so that the same definition
runs on tensors with gradients, on arrays of decisions, and on the columns of a query engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairmt.constants import Constant
from fairmt.losses import concordance

CALIBRATION_BINS = 10
SCORE_EDGES = tuple(i / 4 for i in range(-8, 9))
"""Shared bin edges of score distributions, in standard deviations of the target."""


@dataclass(frozen=True)
class Atoms:
    """What a row says about every output, in fused order: tensors (B, n_outputs), or SQL columns.

    Attributes
    ----------
    observed : 1 where the label is known, else 0.
    actual : the label, 0 where it is missing. Classes and labels: 1 if it holds. Regression: the
        target in standard units.
    predicted : the decision, hard (0 or 1) or soft (between). Regression: the prediction in
        standard units.
    probability : probability of the class or label, before any decision; None if not needed.
    decided : the hard decision behind a soft `predicted`; None where `predicted` is hard.
    """

    observed: Any
    actual: Any
    predicted: Any
    probability: Any = None
    decided: Any = None

    @cached_property
    def negative(self) -> Any:
        """1 where the label is known not to hold, else 0."""
        return self.observed - self.actual

    @cached_property
    def everyone(self) -> Any:
        """1 for every row and output."""
        if isinstance(self.predicted, Tensor):
            return torch.ones_like(self.predicted)
        return self.predicted * 0 + 1

    def select(self, index: Tensor | slice) -> Atoms:
        """Atoms of some outputs, (B, K)."""

        def take(x: Any) -> Any:
            return None if x is None else x[:, index]

        return Atoms(
            take(self.observed),
            take(self.actual),
            take(self.predicted),
            take(self.probability),
            take(self.decided),
        )


Terms = tuple[Any, ...]

ONE = Constant(torch.ones(()))


def safe(denominator: Tensor) -> Tensor:
    """1 where a denominator is not positive."""
    # 0/0 would poison gradients even where the entry is masked later.
    return torch.where(denominator > 0, denominator, ONE.like(denominator))


def ratio(sums: tuple[Tensor, ...]) -> Tensor:
    """The rate of most measures: the first sum over the second."""
    n, d = sums
    return n / safe(d)


@dataclass(frozen=True)
class Measure:
    """One rate per output, from sums over the rows of a group.

    Attributes
    ----------
    name, sentence : how reports call and define it.
    terms : atoms -> moment columns, elementwise in the output.
    evidence : atoms -> 1 where the row counts for this rate, else 0 (never soft, never weighted).
    rate : sums of the terms (..., 1 + G, K) -> rate (..., 1 + G, K); row 0 is everybody.
    orientation : +1 more is better, -1 less is better, 0 neither.
    centre : for orientation 0, what deviations are measured from: 'pooled' (the rate of
        everybody), or 'zero'.
    distance : the rate is itself a distance, so the worst group's value is the gap.
    slope : where the first term is linear in `predicted` and no other depends on it: atoms -> the
        derivative of the first term. Training then needs no graph through the rows.
    per_task : terms are summed over the outputs of a task first (multi-class accuracy).
    bounded : the rate lies in [0, 1].
    """

    name: str
    sentence: str
    terms: Callable[[Atoms], Terms]
    evidence: Callable[[Atoms], Any]
    orientation: int
    rate: Callable[[tuple[Tensor, ...]], Tensor] = ratio
    centre: str = "pooled"
    distance: bool = False
    per_task: bool = False
    bounded: bool = True
    uses_probability: bool = False
    uses_decided: bool = False
    slope: Callable[[Atoms], Any] | None = None

    def __reduce__(self) -> tuple[Callable[[str], Measure], tuple[str]]:
        # Copies between processes refer to the table; functions are not carried along.
        return _measure, (self.name,)


def _measure(name: str) -> Measure:
    return MEASURES[name]


def _observed(a: Atoms) -> Any:
    return a.observed


def _everyone(a: Atoms) -> Any:
    return a.everyone


def _hard(a: Atoms) -> Any:
    return a.predicted if a.decided is None else a.decided


def _concordance_terms(a: Atoms) -> Terms:
    p = a.predicted * a.observed
    return (a.observed, p, a.actual, p * a.predicted, a.actual * a.actual, p * a.actual)


def _concordance_rate(sums: tuple[Tensor, ...]) -> Tensor:
    return torch.nan_to_num(concordance(*sums))


def _calibration_terms(a: Atoms) -> Terms:
    """Per bin of the probability: sum of (probability - label), and in the end the rows.

    A bin's share of the calibration error is |sum of (probability - label)| / rows.
    """
    terms = []
    for b in range(CALIBRATION_BINS):
        low, high = b / CALIBRATION_BINS, (b + 1) / CALIBRATION_BINS
        inside = a.probability >= low
        if b + 1 < CALIBRATION_BINS:
            inside = inside & (a.probability < high)
        terms.append(_indicator(inside) * (a.probability - a.actual) * a.observed)
    return (*terms, a.observed)


def _calibration_rate(sums: tuple[Tensor, ...]) -> Tensor:
    *bins, n = sums
    total = torch.stack([b.abs() for b in bins]).sum(0)
    return total / torch.where(n > 0, n, torch.ones_like(n))


def _cdf_terms(a: Atoms) -> Terms:
    """The distribution function of the score at the shared edges, and the rows.

    Soft scores carry gradients through a logistic step as wide as half a bin.
    """
    width = (SCORE_EDGES[1] - SCORE_EDGES[0]) / 4
    below = []
    for edge in SCORE_EDGES:
        if isinstance(a.predicted, Tensor) and a.predicted.requires_grad:
            below.append(torch.sigmoid((edge - a.predicted) / width))
        else:
            below.append(_indicator(a.predicted <= edge))
    return (*below, _everyone(a))


def _cdf_difference(sums: tuple[Tensor, ...]) -> Tensor:
    *below, n = sums
    safe = torch.where(n > 0, n, torch.ones_like(n))
    cdf = torch.stack(below) / safe
    return (cdf - cdf[..., :1, :]).abs()


def _kolmogorov_smirnov(sums: tuple[Tensor, ...]) -> Tensor:
    return _cdf_difference(sums).amax(0)


def _wasserstein(sums: tuple[Tensor, ...]) -> Tensor:
    return _cdf_difference(sums).sum(0) * (SCORE_EDGES[1] - SCORE_EDGES[0])


def _indicator(condition: Any) -> Any:
    """A condition as 0/1: tensors become the default float type, SQL booleans integers."""
    if isinstance(condition, Tensor):
        return condition.to(torch.get_default_dtype())
    return condition.cast("int8")


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "recall",
            "of the people in the class, the share that is recognised",
            lambda a: (a.actual * a.predicted, a.actual),
            lambda a: a.actual,
            +1,
            slope=lambda a: a.actual,
        ),
        Measure(
            "false alarm rate",
            "of the people outside the class, the share that is put into it",
            lambda a: (a.negative * a.predicted, a.negative),
            lambda a: a.negative,
            -1,
            slope=lambda a: a.negative,
        ),
        Measure(
            "true negative rate",
            "of the people without the label, the share that is left without it",
            lambda a: (a.negative * (1 - a.predicted), a.negative),
            lambda a: a.negative,
            +1,
            slope=lambda a: -a.negative,
        ),
        Measure(
            "precision",
            "of the people put into the class, the share that belongs there",
            lambda a: (a.actual * a.predicted, a.observed * a.predicted),
            lambda a: a.observed * _hard(a),
            +1,
            uses_decided=True,
        ),
        Measure(
            "label accuracy",
            "share of correct decisions about the label",
            lambda a: (
                a.actual * a.predicted + a.negative * (1 - a.predicted),
                a.observed,
            ),
            _observed,
            +1,
            slope=lambda a: a.actual - a.negative,
        ),
        Measure(
            "accuracy",
            "share of people whose class is recognised",
            lambda a: (a.actual * a.predicted, a.actual),
            lambda a: a.actual,
            +1,
            per_task=True,
            slope=lambda a: a.actual,
        ),
        Measure(
            "predicted rate",
            "share of people put into the class, whatever the truth",
            lambda a: (a.predicted, _everyone(a)),
            _everyone,
            0,
            slope=_everyone,
        ),
        Measure(
            "mean prediction",
            "average predicted value, in standard deviations of the target",
            lambda a: (a.predicted, _everyone(a)),
            _everyone,
            0,
            bounded=False,
            slope=_everyone,
        ),
        Measure(
            "score distance (KS)",
            "largest difference between the group's distribution of predictions and everybody's",
            _cdf_terms,
            _everyone,
            0,
            rate=_kolmogorov_smirnov,
            centre="zero",
            distance=True,
        ),
        Measure(
            "score distance (Wasserstein)",
            "average shift between the group's distribution of predictions and everybody's",
            _cdf_terms,
            _everyone,
            0,
            rate=_wasserstein,
            centre="zero",
            distance=True,
            bounded=False,
        ),
        Measure(
            "mean squared error",
            "average squared error, in variances of the target",
            lambda a: (
                a.observed * (a.predicted - a.actual) * (a.predicted - a.actual),
                a.observed,
            ),
            _observed,
            -1,
            bounded=False,
        ),
        Measure(
            "mean absolute error",
            "average absolute error, in standard deviations of the target",
            lambda a: (a.observed * abs(a.predicted - a.actual), a.observed),
            _observed,
            -1,
            bounded=False,
        ),
        Measure(
            "concordance",
            "Lin's concordance correlation between prediction and truth",
            _concordance_terms,
            _observed,
            +1,
            rate=_concordance_rate,
            bounded=False,
        ),
        Measure(
            "mean residual",
            "average of prediction minus truth, in standard deviations of the target",
            lambda a: (a.observed * (a.predicted - a.actual), a.observed),
            _observed,
            0,
            centre="zero",
            bounded=False,
            slope=_observed,
        ),
        Measure(
            "calibration in the large",
            "average of predicted probability minus truth",
            lambda a: (a.observed * (a.probability - a.actual), a.observed),
            _observed,
            0,
            centre="zero",
            bounded=False,
            uses_probability=True,
        ),
        Measure(
            "calibration error",
            "average distance between predicted probability and observed share, over ten bins",
            _calibration_terms,
            _observed,
            -1,
            rate=_calibration_rate,
            uses_probability=True,
        ),
    )
}

COMPLEMENTARY = ("predicted rate", "calibration in the large", "calibration error")
"""Measures of one class of two that say nothing new about the other class."""
