"""Replicate sums: the bootstrap without reading rows again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairmt.groups import Groups
from fairmt.moments import group_sums
from fairmt.utility import poisson_weights

_CELLS = 4_000_000
"""Numbers held at once while replicates are summed."""


def replicate_sums(
    membership: Tensor,
    columns: Tensor,
    replicates: int,
    seed: int,
    weights: Tensor | None = None,
    clusters: np.ndarray | None = None,
) -> Tensor:
    """Sums under Poisson(1) weights, one draw per cluster and replicate: (R, 1 + G, P)."""
    n, n_groups = membership.shape
    width = columns.shape[1]
    units = None
    if clusters is not None:
        units = torch.from_numpy(np.unique(clusters, return_inverse=True)[1])
    draws = poisson_weights(n, replicates, seed, units).to(columns.dtype)
    if weights is not None:
        draws = draws * weights
    sums = torch.zeros(replicates, n_groups * width, dtype=columns.dtype)
    step = max(1, _CELLS // (n_groups * width))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        cells = (membership[rows, :, None] * columns[rows, None, :]).flatten(1)
        sums += draws[:, rows] @ cells
    return sums.view(replicates, n_groups, width)


def permuted_sums(
    groups: Groups,
    codes: Tensor,
    columns: Tensor,
    permutations: int,
    seed: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Sums with group labels exchanged at random, (R, 1 + G, P): what noise alone shows."""
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for _ in range(permutations):
        order = torch.randperm(len(codes), generator=generator)
        member = groups.membership(codes[order], columns.dtype)
        sums.append(group_sums(member, columns, weights))
    return torch.stack(sums)
