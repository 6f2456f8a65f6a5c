"""Figures over seeds: paired intervals, ranks and the critical difference, level-down ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairmt.bench.frontier import closed

Places = Sequence[Mapping[str, float]]
DRAWS = 4000
MARGIN = 0.02
"""A method is not behind another if the lower bound of the difference exceeds minus this."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % bounds."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def percent(self) -> str:
        return f"{self.mean:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


def interval(values: np.ndarray) -> Interval:
    """Mean over seeds, and bounds by drawing seeds and, in each, rows.

    Parameters
    ----------
    values : array (S, 1 + R), per seed the figure on the test rows as they are, and under R
        bootstrap weightings of them (by household, patient). Differences are paired by giving the
        differences.
    """
    values = np.asarray(values, dtype=float)
    low, high = np.quantile(_drawn_means(values), [0.025, 0.975])
    return Interval(float(values[:, 0].mean()), float(low), float(high))


def mean_of_means(strata: Sequence[np.ndarray]) -> Interval:
    """Mean over problems of means over their seeds, with bounds by drawing seeds in each.

    Parameters
    ----------
    strata : arrays (S, 1 + R), one per problem, see `interval`.
    """
    means = np.mean([_drawn_means(np.asarray(values, float)) for values in strata], 0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean([v[:, 0].mean() for v in strata])), float(low), float(high))


def ratio(values: np.ndarray, base: np.ndarray) -> Interval:
    """One mean over another, with bounds from the same draws of seeds and rows for both.

    Parameters
    ----------
    values, base : array (S, 1 + R), see `interval`.
    """
    means = _drawn_means(np.asarray(values, float)) / _drawn_means(np.asarray(base, float))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values[:, 0].mean() / base[:, 0].mean()), float(low), float(high))


def _drawn_means(values: np.ndarray) -> np.ndarray:
    """Means over drawn seeds and weightings, (DRAWS,); alike for arrays of one shape."""
    rng = np.random.default_rng(0)
    seeds, weightings = values.shape
    # Replicates centred on their own mean: weighting rows shifts the level of a volume.
    centred = values[:, 1:] - values[:, 1:].mean(1, keepdims=True) + values[:, :1]
    drawn = rng.integers(seeds, size=(DRAWS, seeds))
    weighting = rng.integers(weightings - 1, size=(DRAWS, seeds))
    means: np.ndarray = centred[drawn, weighting].mean(1)
    return means


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of contestants over problems and seeds (1 is best).

    Attributes
    ----------
    critical_difference : of two mean ranks at 5 % (Nemenyi; Demšar 2006, section 3.2.2).
    n : problems times seeds on which all of them stand.
    """

    mean: Mapping[str, float]
    critical_difference: float
    n: int


def ranks(figures: Mapping[str, Mapping[Any, float]]) -> Ranks:
    """Ranks by a figure of which more is better, contestant -> (problem, seed) -> value."""
    from scipy.stats import rankdata, studentized_range

    names = list(figures)
    shared = sorted(set.intersection(*(set(f) for f in figures.values()))) if names else []
    if len(names) < 2 or not shared:
        return Ranks({}, math.nan, 0)
    values = np.array([[figures[name][key] for name in names] for key in shared])
    mean = rankdata(-values, axis=1).mean(0)
    k, n = len(names), len(shared)
    q = studentized_range.ppf(0.95, k, np.inf) / math.sqrt(2)
    difference = q * math.sqrt(k * (k + 1) / (6 * n))
    order = np.argsort(mean)
    return Ranks({names[i]: float(mean[i]) for i in order}, float(difference), n)


def level_down_ratio(
    own: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]
) -> float:
    """How much the best-served groups lose on one path for every loss on another, at equal gaps.

    Paths are sequences of places with 'gap' and 'level_down'; the ratio is of the mean indices
    over the gaps that both paths reach. NaN where they share none.
    """
    low = max(min(p["gap"] for p in path) for path in (own, other))
    high = min(max(p["gap"] for p in path) for path in (own, other))
    if not high > low:
        return math.nan
    gaps = np.linspace(low, high, 20)
    mine, theirs = (_along(path, gaps).mean() for path in (own, other))
    return float(mine / theirs) if theirs > 0 else math.nan


def closed_at_price(price: float, places: Places, plain: Mapping[str, float], figure: str) -> float:
    """The closed share of a figure where a path has cost a given utility on the same rows.

    Which candidate a budget picks, validation rows say, and they are few: this leaves that out,
    and tells what the path itself offers. The loss is made to rise along the path (isotonic
    regression), and places are joined by lines. NaN where the path never costs so much.

    Parameters
    ----------
    price : float
        Of utility, as a share.
    places : of the path, by rising strength, each with 'delta_m' and the figure.
    plain : the place of the plain model.
    """
    from sklearn.isotonic import isotonic_regression

    loss = isotonic_regression([0.0, *(-p["delta_m"] for p in places)])
    share = [0.0, *(closed(p[figure], plain[figure]) for p in places)]
    if loss[-1] < price:
        return math.nan
    after = int(np.searchsorted(loss, price))
    ends = slice(after - 1, after + 1)
    return float(np.interp(price, loss[ends], share[ends]))


def _along(path: Places, gaps: np.ndarray) -> np.ndarray:
    ordered = sorted(path, key=lambda p: p["gap"])
    return np.interp(gaps, [p["gap"] for p in ordered], [p["level_down"] for p in ordered])
