"""Intervals and tests of rates and of gaps, and their correction for many comparisons."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special, stats

INTERVALS = ("auto", "percentile", "bias-corrected")
ADJUSTMENTS = ("holm", "benjamini-hochberg", "none")


def wilson(rate: np.ndarray, n: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share, NaN where n is 0."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
        spread = np.maximum(rate * (1 - rate) / n + z * z / (4 * n * n), 0.0)
        half = z * np.sqrt(spread) / (1 + z * z / n)
        low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def smoothed(rate: np.ndarray, n: np.ndarray) -> np.ndarray:
    """A share after one success and one failure were added (Agresti and Caffo 2000): differences
    of such shares keep the level of intervals and tests where groups are small."""
    return (rate * n + 1) / (n + 2)


def binomial_variance(rate: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Variance of a smoothed share; never 0, so that a group without a hit is not certain."""
    share = smoothed(rate, n)
    return share * (1 - share) / (n + 2)


def gumbel(noise: np.ndarray, confidence: float) -> float:
    """Quantile of the largest of several noisy distances, from a few draws of it."""
    scale = float(noise.std(ddof=1)) * np.sqrt(6) / np.pi
    place = float(noise.mean()) - np.euler_gamma * scale
    return place - scale * float(np.log(-np.log(confidence)))


def gumbel_tail(value: float, noise: np.ndarray) -> float:
    """P(largest distance > value), from a few draws of it."""
    scale = max(float(noise.std(ddof=1)) * np.sqrt(6) / np.pi, 1e-12)
    place = float(noise.mean()) - np.euler_gamma * scale
    return float(-np.expm1(-np.exp(-np.clip((value - place) / scale, -700, 700))))


def percentile(boot: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of replicates (R, ...)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(boot, [tail, 1 - tail], axis=0)
    return low, high


def bias_corrected(
    boot: np.ndarray, estimate: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Efron's bias-corrected percentiles (1981) of replicates (R, ...)."""
    r = len(boot)
    share = ((boot < estimate).sum(0) + 0.5 * (boot == estimate).sum(0)) / r
    shift = special.ndtri(np.clip(share, 0.5 / r, 1 - 0.5 / r))
    z = float(stats.norm.ppf((1 + confidence) / 2))
    ordered = np.sort(boot, axis=0)
    ends = []
    for side in (-z, z):
        place = special.ndtr(2 * shift + side) * (r - 1)
        under = np.floor(place).astype(int)[None]
        a = np.take_along_axis(ordered, under, 0)[0]
        b = np.take_along_axis(ordered, np.minimum(under + 1, r - 1), 0)[0]
        ends.append(a + (place - under[0]) * (b - a))
    return ends[0], ends[1]


def range_tail(t: np.ndarray, k: int) -> np.ndarray:
    """P(range of k independent standard normal variables > t)."""
    z, w = _nodes()
    density = k * w * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    t = np.asarray(t, dtype=np.float64)[..., None]
    inside = (special.ndtr(z) - special.ndtr(z - t)) ** (k - 1)
    return np.clip(1 - (density * inside).sum(-1), 0.0, 1.0)


@lru_cache(maxsize=256)
def critical_range(k: int, tail: float) -> float:
    """The value that the range of k standard normal variables exceeds with probability `tail`."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(range_tail(np.array(middle), k)) > tail:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1)
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    z, w = np.polynomial.legendre.leggauss(160)
    return 9 * z, 9 * w


def gap_interval(
    rates: np.ndarray, covariance: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Interval of max - min of K group means that holds however the groups truly lie.

    From below: some pair differs at least by so much (Tukey and Kramer, simultaneous over all
    pairs, hence free of the upward bias of max - min). From above: the pair that truly is the
    farthest apart, whichever it is, differs at most by so much.
    """
    tail = (1 - confidence) / 2
    difference, error = _pairs(rates, covariance)
    low = difference - critical_range(len(rates), tail) / np.sqrt(2) * error
    high = difference + float(stats.norm.ppf(1 - tail)) * error
    return max(0.0, float(low.max())), float(high.max())


def gap_p_value(rates: np.ndarray, covariance: np.ndarray, tolerance: float) -> float:
    """Test of 'no two groups differ by more than the tolerance', valid over all pairs."""
    difference, error = _pairs(rates, covariance)
    largest = float(((difference - tolerance) / error).max())
    return float(range_tail(np.array(max(largest, 0.0) * np.sqrt(2)), len(rates)))


def _pairs(rates: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of all ordered pairs of groups, and their standard errors."""
    own = np.diag(covariance)
    variance = own[:, None] + own[None] - 2 * covariance
    apart = ~np.eye(len(rates), dtype=bool)
    return (rates[:, None] - rates[None])[apart], np.sqrt(np.maximum(variance[apart], 1e-24))


def adjust(p_values: np.ndarray, method: str) -> np.ndarray:
    """p-values adjusted for their number; NaN stay and do not count.

    'holm' bounds the chance of a single false finding, 'benjamini-hochberg' the share of false
    ones among the findings.
    """
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    p = p_values[tested]
    m, order = len(p), np.argsort(p, kind="stable")
    if method == "none":
        adjusted[tested] = p
    elif method == "holm":
        steps = np.maximum.accumulate((m - np.arange(m)) * p[order])
        adjusted[tested[order]] = np.minimum(steps, 1.0)
    elif method == "benjamini-hochberg":
        steps = np.minimum.accumulate((m / np.arange(1, m + 1) * p[order])[::-1])[::-1]
        adjusted[tested[order]] = np.minimum(steps, 1.0)
    else:
        raise ValueError(f"adjust must be one of {list(ADJUSTMENTS)}. Found {method!r}.")
    return adjusted
