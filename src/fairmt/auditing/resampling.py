"""Resampling a cube: rows are never read again.

Counts of outcomes are drawn anew from the multinomial distribution over the joint cells of group
and outcome; sums are drawn anew with Poisson(1) weights of their buckets. What chance alone shows
comes from group labels exchanged at random: exactly, by hypergeometric draws, for counts; by its
normal limit for sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairmt.auditing.cube import Cube
from fairmt.auditing.plan import Plan

PERMUTATIONS = 40
_EXACT = 1_000_000_000
"""From here on hypergeometric draws are not defined in NumPy; with so many rows drawing with
replacement is the same."""


@dataclass(frozen=True)
class Replicates:
    """Rates of one partition, resampled.

    Attributes
    ----------
    boot : (R, 1 + G, S) bootstrap replicates, or None.
    noise : (P, 1 + G, S) with group labels exchanged, or None.
    """

    boot: np.ndarray | None
    noise: np.ndarray | None


def poisson_draws(n_buckets: int, replicates: int, seed: int) -> np.ndarray:
    """Weights (R, B) of the buckets."""
    draws = np.random.default_rng(seed).poisson(1.0, (replicates, n_buckets))
    return draws.astype(np.float64)


def resample(plan: Plan, cube: Cube, position: int, replicates: int, seed: int) -> Replicates:
    """Replicates of the partition at `position`.

    Poisson weights of buckets are the same for every partition and for every model with the
    same seed; counts are drawn independently.
    """
    if not replicates:
        return Replicates(None, None)
    rng = np.random.default_rng([seed, position])
    counts = outcome_counts(plan, cube, position)
    boot = plan.counted.rates(_with_everybody(_multinomial(counts, replicates, rng)))
    noise = plan.counted.rates(_with_everybody(_exchanged(counts, PERMUTATIONS, rng)))
    n_groups = boot.shape[1]
    summed_boot = np.zeros((replicates, n_groups, 0))
    summed_noise = np.zeros((PERMUTATIONS, n_groups, 0))
    if plan.summed is not None:
        if cube.buckets is None:
            summed_boot = np.full((replicates, n_groups, plan.n_summed), np.nan)
            summed_noise = np.full((PERMUTATIONS, n_groups, plan.n_summed), np.nan)
        else:
            summed_boot = summed_replicates(
                plan, cube, position, poisson_draws(len(cube.buckets.rows), replicates, seed)
            )
            summed_noise = plan.rates_of_sums(_exchanged_sums(plan, cube, position, rng))
    return Replicates(plan.join(boot, summed_boot), plan.join(noise, summed_noise))


def summed_replicates(plan: Plan, cube: Cube, position: int, draws: np.ndarray) -> np.ndarray:
    """Rates (R, 1 + G, J) of the summed statistics under weights (R, B) of the buckets."""
    assert cube.buckets is not None
    own = cube.buckets.by_partition[position][:, :-1]
    sums = np.concatenate([cube.buckets.everybody[:, None], own], 1)
    flat = draws @ sums.reshape(len(sums), -1)
    return plan.rates_of_sums(flat.reshape(len(draws), *sums.shape[1:]))


def outcome_counts(plan: Plan, cube: Cube, position: int) -> np.ndarray:
    """Counts (G + 1, 6, K) of a partition's groups; the last group is 'unknown'."""
    partition = plan.groups.partitions[position]
    found = cube.by_group(plan.groups, cube.counts)
    own = found[1:][partition.groups]
    return np.concatenate([own, (found[0] - own.sum(0))[None]])


def _with_everybody(counts: np.ndarray) -> np.ndarray:
    """(R, G + 1, 6, K) with 'unknown' last, to (R, 1 + G, 6, K) with everybody first."""
    return np.concatenate([counts.sum(1, keepdims=True), counts[:, :-1]], 1)


def _multinomial(counts: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Tables (R, G + 1, 6, K) drawn with the cells' shares, for every counted output by itself."""
    n_groups, n_outcomes, k = counts.shape
    if k == 0:
        return np.zeros((replicates, *counts.shape))
    cells = counts.reshape(n_groups * n_outcomes, k).T
    total = cells.sum(1, keepdims=True)
    # Empty cells are left out: rounding must not give them rows.
    drawn = np.zeros((replicates, *cells.shape))
    for j in range(k):
        occupied = np.flatnonzero(cells[j])
        share = cells[j, occupied] / total[j]
        drawn[:, j, occupied] = rng.multinomial(int(total[j, 0]), share, size=replicates)
    return drawn.transpose(0, 2, 1).reshape(replicates, n_groups, n_outcomes, k)


def _exchanged(counts: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Tables (P, G + 1, 6, K) with the margins of `counts`, groups independent of outcomes."""
    n_outcomes, k = counts.shape[1:]
    drawn = np.zeros((permutations, *counts.shape), dtype=np.int64)
    if k == 0:
        return drawn
    left = np.repeat(counts.sum(0).astype(np.int64)[None], permutations, 0)
    sizes = counts[:, :, 0].sum(1).astype(np.int64)
    if counts[:, :, 0].sum() >= _EXACT:
        share = left[0] / left[0].sum(0)
        for g, size in enumerate(sizes):
            for j in range(k):
                drawn[:, g, :, j] = rng.multinomial(size, share[:, j], size=permutations)
        return drawn
    for g, size in enumerate(sizes[:-1]):
        missing = np.full((permutations, k), size)
        for c in range(n_outcomes - 1):
            rest = left[:, c + 1 :].sum(1)
            drawn[:, g, c] = rng.hypergeometric(left[:, c], rest, missing)
            missing = missing - drawn[:, g, c]
        drawn[:, g, n_outcomes - 1] = missing
        left = left - drawn[:, g]
    drawn[:, -1] = left
    return drawn


def _exchanged_sums(plan: Plan, cube: Cube, position: int, rng: np.random.Generator) -> np.ndarray:
    """Sums (P, 1 + G, P) of groups drawn at random without replacement, by their normal limit.

    A group of n of N rows has the mean n·c̄ and the covariance n (1 - n/N) Σ, and two groups have
    -n m / N Σ. Buckets' residuals E stand for rows: E'E / N estimates Σ, so that random
    combinations of residuals have it, and no covariance is ever built.
    """
    assert cube.buckets is not None
    partition = plan.groups.partitions[position]
    rows = cube.by_group(plan.groups, cube.rows)
    total, sizes = rows[0], rows[1:][partition.groups]
    sizes = np.append(sizes, total - sizes.sum())
    mean = cube.buckets.everybody.sum(0) / total
    residual = cube.buckets.everybody - cube.buckets.rows[:, None] * mean
    normal = rng.normal(size=(PERMUTATIONS * len(sizes), len(residual)))
    deviation = (normal @ residual / np.sqrt(total)).reshape(PERMUTATIONS, len(sizes), -1)
    deviation *= np.sqrt(sizes)[:, None]
    common = deviation.sum(1, keepdims=True) / total
    sums = sizes[:, None] * mean + deviation - sizes[:, None] * common
    everybody = np.broadcast_to(total * mean, (PERMUTATIONS, 1, len(mean)))
    return np.concatenate([everybody, sums[:, :-1]], 1)


def ratio_variance(second: np.ndarray, rates: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Variance of ratios N/D by linearisation, from sums of n², n·d, d²; NaN where D is 0."""
    nn, nd, dd = second[..., 0], second[..., 1], second[..., 2]
    spread = np.maximum(nn - 2 * rates * nd + rates**2 * dd, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, spread / weight**2, np.nan)
