"""Notions of group fairness, each written once for training, audit and out-of-core sums.

A `Measure` is one rate: the moment columns a row contributes (its *terms*), the function from
their sums to the rate, and an orientation. A `Notion` says which measures judge a kind of task.
`fairmt.ledger` compiles tasks and notions into one matrix of moment columns.

Terms are plain arithmetic on `Atoms`, elementwise in the output, so that the same definition
runs on tensors with gradients, on arrays of decisions, and on the columns of a query engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairmt.constants import Constant
from fairmt.losses import concordance
from fairmt.tasks import Task

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


@dataclass(frozen=True)
class Notion:
    """Which measures judge a kind of task, and what the notion asks for, in one sentence."""

    name: str
    sentence: str
    measures: Mapping[str, tuple[str, ...]]
    needs_labels: bool = True

    def judges(self, task: Task) -> bool:
        return task.kind in self.measures


NOTIONS: dict[str, Notion] = {
    n.name: n
    for n in (
        Notion(
            "equal_opportunity",
            "People for whom an outcome holds are recognised equally often in every group.",
            {"classification": ("recall",), "detection": ("recall",)},
        ),
        Notion(
            "equalized_odds",
            "People for whom an outcome holds, and people for whom it does not, are decided "
            "correctly equally often in every group.",
            {
                "classification": ("recall", "false alarm rate"),
                "detection": ("recall", "true negative rate"),
            },
        ),
        Notion(
            "predictive_parity",
            "A positive decision is right equally often in every group.",
            {"classification": ("precision",), "detection": ("precision",)},
        ),
        Notion(
            "accuracy_parity",
            "Decisions are right equally often in every group.",
            {"classification": ("accuracy",), "detection": ("label accuracy",)},
        ),
        Notion(
            "demographic_parity",
            "Every group receives each decision equally often, whatever the truth.",
            {
                "classification": ("predicted rate",),
                "detection": ("predicted rate",),
                "regression": ("mean prediction",),
            },
            needs_labels=False,
        ),
        Notion(
            "distribution_parity",
            "Predictions are distributed alike in every group.",
            {"regression": ("score distance (KS)", "score distance (Wasserstein)")},
            needs_labels=False,
        ),
        Notion(
            "error_parity",
            "Errors are equally large in every group.",
            {"regression": ("mean squared error",)},
        ),
        Notion(
            "absolute_error_parity",
            "Absolute errors are equally large in every group.",
            {"regression": ("mean absolute error",)},
        ),
        Notion(
            "concordance_parity",
            "Predictions agree with the truth equally well in every group.",
            {"regression": ("concordance",)},
        ),
        Notion(
            "bias_parity",
            "No group is over- or underestimated on average.",
            {
                "classification": ("calibration in the large",),
                "detection": ("calibration in the large",),
                "regression": ("mean residual",),
            },
        ),
        Notion(
            "calibration",
            "A predicted probability means the same in every group.",
            {"classification": ("calibration error",), "detection": ("calibration error",)},
        ),
    )
}

DEFAULT_NOTIONS: dict[str, tuple[str, ...]] = {
    "classification": ("equal_opportunity",),
    "detection": ("equalized_odds",),
    "regression": ("bias_parity",),
}
"""What ``notion="default"`` asks of each kind of task: every class, and every label together with
its opposite, is recognised equally well; no group is over- or underestimated."""

CONTRADICTIONS: tuple[tuple[str, str], ...] = (
    ("equalized_odds", "predictive_parity"),
    ("equalized_odds", "demographic_parity"),
    ("predictive_parity", "demographic_parity"),
    ("equalized_odds", "calibration"),
)
"""Pairs that no useful predictor meets when base rates differ (Chouldechova 2017; Kleinberg,
Mullainathan and Raghavan 2016; Barocas, Hardt and Narayanan 2023, chapter 3)."""

COMPLEMENTARY = ("predicted rate", "calibration in the large", "calibration error")
"""Measures of one class of two that say nothing new about the other class."""

NotionSpec = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def resolve_notions(tasks: Sequence[Task], notion: NotionSpec) -> dict[str, tuple[str, ...]]:
    """Names of the notions that judge each task.

    Parameters
    ----------
    notion : str, sequence of str, or mapping
        One notion or several for all tasks, or a mapping from task name or task kind to them;
        'default' gives `DEFAULT_NOTIONS`, 'none' leaves tasks unconstrained. A notion that is not
        defined for a task's kind leaves the task alone.

    Raises
    ------
    ValueError
        For unknown names, notions that contradict each other on a task, or if no task is judged.
    """
    if isinstance(notion, Mapping):
        known = {t.name for t in tasks} | {t.kind for t in tasks}
        unknown = set(notion) - known
        if unknown:
            raise ValueError(
                f"notion names {sorted(unknown)}, which are neither tasks nor kinds of task; "
                f"expected among {sorted(known)}."
            )
    resolved = {}
    for task in tasks:
        spec: str | Sequence[str]
        if isinstance(notion, Mapping):
            spec = notion.get(task.name, notion.get(task.kind, "none"))
        else:
            spec = notion
        names: list[str] = []
        for name in (spec,) if isinstance(spec, str) else spec:
            if name == "none":
                continue
            if name == "default":
                names += DEFAULT_NOTIONS[task.kind]
            elif name not in NOTIONS:
                raise ValueError(f"Unknown notion '{name}'; expected one of {sorted(NOTIONS)}.")
            elif NOTIONS[name].judges(task):
                names.append(name)
            elif isinstance(notion, Mapping) and task.name in notion:
                raise ValueError(
                    f"Notion '{name}' is not defined for task '{task.name}' ({task.kind}); these "
                    f"are: {[n.name for n in NOTIONS.values() if n.judges(task)]}."
                )
        for a, b in CONTRADICTIONS:
            if a in names and b in names:
                raise ValueError(
                    f"Task '{task.name}': '{a}' and '{b}' contradict each other where base rates "
                    "differ. Train for one of them, and audit the other."
                )
        resolved[task.name] = tuple(dict.fromkeys(names))
    return resolved
