"""The choice among several losses: the Pareto front, and the place on it that is asked for."""

from __future__ import annotations

import numpy as np


def non_dominated(losses: np.ndarray) -> np.ndarray:
    """Which of N points (N, M) no other one beats: as good everywhere, and better somewhere."""
    no_worse = (losses[:, None] <= losses[None]).all(2)
    better = (losses[:, None] < losses[None]).any(2)
    return np.logical_not((no_worse & better).any(0))


def pseudo_weights(losses: np.ndarray) -> np.ndarray:
    """How much each point leans to each loss, (N, M), rows summing to 1 (Deb 2001, section 9.2).

    The distance from the worst value of a loss, as a share of its range, divided by the sum of
    these. A loss that does not vary is left to the others.
    """
    worst, best = losses.max(0), losses.min(0)
    span = np.where(worst > best, worst - best, np.inf)
    share = (worst - losses) / span
    total = share.sum(1, keepdims=True)
    even = np.full_like(share, 1 / losses.shape[1])
    return np.divide(share, total, out=even, where=total > 0)


def nearest(losses: np.ndarray, preference: np.ndarray) -> int:
    """Index of the non-dominated point whose pseudo-weights are nearest to a preference (M,)."""
    front = np.flatnonzero(non_dominated(losses))
    distance = np.abs(pseudo_weights(losses[front]) - preference).sum(1)
    return int(front[distance.argmin()])
