"""Hypervolume of a set of points in the unit cube, reference 0, larger is better."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which points (N, D) no other point matches or beats in everything, (N,) of bool.

    Of equal points the first counts.
    """
    n = len(points)
    keep = np.ones(n, dtype=bool)
    for i in range(n):
        as_good = (points >= points[i]).all(1)
        better = as_good & (points > points[i]).any(1)
        twin = as_good & ~better
        keep[i] = not better.any() and not twin[:i].any()
    return keep


def hypervolume(points: np.ndarray) -> float:
    """Volume of the union of the boxes [0, p], points (N, D) clipped to [0, 1]."""
    points = np.clip(np.asarray(points, dtype=float), 0.0, 1.0)
    if points.size == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    # Slices along the last axis: between two levels the cross-section stays the same.
    levels = np.unique(np.concatenate([[0.0], points[:, -1]]))
    volume = 0.0
    for low, high in pairwise(levels):
        above = points[points[:, -1] >= high]
        volume += (high - low) * hypervolume(above[non_dominated(above[:, :-1]), :-1])
    return volume
