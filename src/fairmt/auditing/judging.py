"""Settings of an audit, and the rates of all groups from a cube."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fairmt.auditing.cube import Cube
from fairmt.auditing.intervals import ADJUSTMENTS, INTERVALS, binomial_variance
from fairmt.auditing.plan import Plan
from fairmt.auditing.resampling import ratio_variance
from fairmt.disparity import MIN_EVIDENCE

EVERYBODY = "everybody"


@dataclass(frozen=True)
class Settings:
    """How an audit judges.

    Attributes
    ----------
    tolerance : gap that is accepted; adds a test and a verdict to every gap.
    n_boot : bootstrap replicates; 0 leaves out what needs them.
    confidence : of the intervals.
    interval : 'auto' (Wilson for shares of rows, Tukey-Kramer over all pairs of groups for gaps,
        permutations for gaps of distances, percentile bootstrap for the rest), 'percentile' or
        'bias-corrected' (bootstrap throughout).
    adjust : 'holm', 'benjamini-hochberg' or 'none', over all gaps tested.
    min_evidence : groups with fewer rows that a rate is about are too small to judge.
    """

    tolerance: float | None = None
    n_boot: int = 200
    confidence: float = 0.95
    interval: str = "auto"
    adjust: str = "holm"
    min_evidence: float = MIN_EVIDENCE
    seed: int = 0
    title: str = "Audit"

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be 0 or more. Found {self.tolerance}.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1. Found {self.confidence}.")
        if self.n_boot < 0 or int(self.n_boot) != self.n_boot:
            raise ValueError(f"n_boot must be a whole number, 0 or more. Found {self.n_boot}.")
        if self.interval not in INTERVALS:
            raise ValueError(f"interval must be one of {list(INTERVALS)}. Found {self.interval!r}.")
        if self.interval != "auto" and self.n_boot < 2:
            raise ValueError(f"interval={self.interval!r} needs bootstrap replicates: set n_boot.")
        if self.adjust not in ADJUSTMENTS:
            raise ValueError(f"adjust must be one of {list(ADJUSTMENTS)}. Found {self.adjust!r}.")
        if not self.min_evidence >= 1:
            raise ValueError(f"min_evidence must be 1 or more. Found {self.min_evidence}.")


@dataclass(frozen=True)
class Judged:
    """Rates and evidence of every group and statistic, (1 + G, S), everybody first.

    `variance` is that of the rate, NaN where only a bootstrap could tell it; `exact` (S,) says
    which rates are shares of rows that count one by one.
    """

    rates: np.ndarray
    evidence: np.ndarray
    variance: np.ndarray
    exact: np.ndarray
    rows: np.ndarray

    def known(self, min_evidence: float) -> np.ndarray:
        return self.evidence >= min_evidence


def judge(plan: Plan, cube: Cube) -> Judged:
    """Rates of every group from a cube.

    Raises
    ------
    ValueError
        If a share comes out below 0 or above 1; the statistic is named.
    """
    counts = cube.by_group(plan.groups, cube.counts)
    counted, sizes = plan.counted.rates(counts), plan.counted.sizes(counts)
    summed = plan.rates_of_sums(cube.by_group(plan.groups, cube.sums))
    mass = cube.by_group(plan.groups, cube.mass)
    mass2 = cube.by_group(plan.groups, cube.mass2)
    kish = mass**2 / np.where(mass2 > 0, mass2, 1.0)
    second = cube.by_group(plan.groups, cube.second)
    variance = np.full(summed.shape, np.nan)
    ratio = (second[0] != 0).any(-1)
    if ratio.any():
        linear = ratio_variance(second, summed, np.where(mass > 0, mass, 0.0))
        variance = np.where(ratio, linear, np.nan)
    everything = Judged(
        plan.join(counted, summed),
        plan.join(sizes, kish),
        plan.join(binomial_variance(counted, sizes), variance),
        plan.join(np.ones(counted.shape[-1]), np.zeros(summed.shape[-1])) > 0,
        cube.by_group(plan.groups, cube.rows),
    )
    _check_range(plan, everything)
    return _floor_variance(plan, everything)


def _floor_variance(plan: Plan, judged: Judged) -> Judged:
    """A share of 0 or 1 among weighted rows is not certain either."""
    certain = plan.bounded & ~judged.exact & (judged.variance < 1e-15)
    if not certain.any():
        return judged
    floor = binomial_variance(np.clip(judged.rates, 0, 1), judged.evidence)
    variance = np.where(certain, floor, judged.variance)
    return Judged(judged.rates, judged.evidence, variance, judged.exact, judged.rows)


def _check_range(plan: Plan, judged: Judged) -> None:
    bad = (judged.evidence > 0) & ~np.isfinite(judged.rates)
    bad |= plan.bounded & ((judged.rates < -1e-9) | (judged.rates > 1 + 1e-9))
    if bad.any():
        g, j = np.argwhere(bad)[0]
        statistic = plan.statistics[j]
        name = EVERYBODY if g == 0 else plan.groups.names[g - 1]
        raise ValueError(
            f"'{statistic.name}' of task '{statistic.task}' is {judged.rates[g, j]:g} for {name}, "
            "outside its range; probabilities, decisions or weights are not what they should be."
        )
