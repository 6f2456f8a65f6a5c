"""The cube: what a table says about every combination of sensitive attributes, and nothing else.

Everything an audit reports is computed from it. It is the same whether it was summed in memory or
by a query engine, and it does not grow with the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse

from fairmt.auditing.plan import OUTCOMES, Plan
from fairmt.groups import Groups

SCORE_BINS = 100
"""Bins of probabilities, from which reliability, distributions and areas under curves come."""
TARGET_SUMS = ("n", "p", "a", "pp", "aa", "pa", "absolute")
"""Sums kept of every regression output, over rows whose target is known, in standard units."""


_HELD = 100_000_000


@dataclass
class Buckets:
    """Sums by bucket, for resampling: every row (or cluster of rows) is in one bucket.

    Attributes
    ----------
    rows : (B,) rows of every bucket.
    everybody : (B, P) sums of the moment columns.
    by_partition : for every partition (B, G + 1, P), the last group being 'unknown'.
    """

    rows: np.ndarray
    everybody: np.ndarray
    by_partition: list[np.ndarray]


@dataclass
class Cube:
    """Sums over the rows of every occupied cell, a combination of the attributes' categories.

    Attributes
    ----------
    codes : (C, A) int64, -1 where the attribute is missing.
    rows : (C,) number of rows.
    counts : (C, 6, K) rows by outcome, for every counted output of the plan.
    masses : the same with weights; None where rows count alike.
    targets : (C, 7, T) see `TARGET_SUMS`, weighted.
    seen : (C, T) rows whose target is known, unweighted.
    sums : (C, P) weighted sums of the moment columns of the summed statistics.
    mass, mass2 : (C, J) weight, and squared weight, of the rows that are evidence for them.
    second : (C, J, 3) sums of n², n·d and d² of ratio statistics, for their standard errors.
    scores : (C, SCORE_BINS, 4, n_outputs): rows, weight of rows with known label, and their
        weighted sums of probability and label, by bin of the probability; None without any.
    buckets : sums for resampling; None where counts suffice.
    """

    codes: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    masses: np.ndarray | None
    targets: np.ndarray
    seen: np.ndarray
    sums: np.ndarray
    mass: np.ndarray
    mass2: np.ndarray
    second: np.ndarray
    scores: np.ndarray | None = None
    buckets: Buckets | None = None
    _membership: sparse.csr_array | None = field(default=None, repr=False)

    @property
    def n_rows(self) -> int:
        return int(self.rows.sum())

    def by_group(self, groups: Groups, values: np.ndarray) -> np.ndarray:
        """Values (C, ...) summed over the cells of every group: (1 + G, ...), everybody first."""
        if self._membership is None:
            self._membership = membership(groups, self.codes)
        shape = (groups.n_groups + 1, *values.shape[1:])
        if not values.size:
            return np.zeros(shape)
        flat = self._membership @ values.reshape(len(values), -1)
        return np.asarray(flat, dtype=np.float64).reshape(shape)


def scores_fit(n_cells: int, n_outputs: int) -> bool:
    """Whether bins of probabilities are kept; with very many combinations of attributes not."""
    return n_cells * n_outputs * SCORE_BINS * 4 <= _HELD


def membership(groups: Groups, codes: np.ndarray) -> sparse.csr_array:
    """(1 + G, C): 1 where the cell belongs to the group; everybody first."""
    index = groups.index(torch.from_numpy(codes)).numpy()
    cells = np.arange(len(codes))
    row, column = [np.zeros(len(codes), dtype=np.int64)], [cells]
    for position in range(index.shape[1]):
        known = index[:, position] >= 0
        row.append(index[known, position] + 1)
        column.append(cells[known])
    at, of = np.concatenate(row), np.concatenate(column)
    shape = (groups.n_groups + 1, len(codes))
    return sparse.csr_array((np.ones(len(at)), (at, of)), shape=shape)


def empty_cube(plan: Plan, codes: np.ndarray, weighted: bool) -> Cube:
    """A cube of zeros over these cells."""
    c, k, t = len(codes), len(plan.counted_outputs), len(plan.targets)
    width = 0 if plan.summed is None else plan.summed.n_columns
    counts = np.zeros((c, len(OUTCOMES), k))
    return Cube(
        codes=codes,
        rows=np.zeros(c),
        counts=counts,
        masses=counts.copy() if weighted else None,
        targets=np.zeros((c, len(TARGET_SUMS), t)),
        seen=np.zeros((c, t)),
        sums=np.zeros((c, width)),
        mass=np.zeros((c, plan.n_summed)),
        mass2=np.zeros((c, plan.n_summed)),
        second=np.zeros((c, plan.n_summed, 3)),
    )


def one_against_rest(table: np.ndarray) -> np.ndarray:
    """Outcomes of every class, and of the task as a whole, from a table of truth by decision.

    Parameters
    ----------
    table : (C, K + 1, K), the last truth being 'missing'.

    Returns
    -------
    (C, 6, K + 1), the last one being the task as a whole: unobserved, wrong or right.
    """
    k = table.shape[2]
    known, unknown = table[:, :k], table[:, k]
    right = np.einsum("ckk->ck", known)
    actual, given = known.sum(2), known.sum(1)
    observed, missing = known.sum((1, 2)), unknown.sum(1)
    found = np.zeros((len(table), len(OUTCOMES), k + 1))
    found[:, 0, :k] = missing[:, None] - unknown
    found[:, 1, :k] = unknown
    found[:, 2, :k] = observed[:, None] - actual - given + right
    found[:, 3, :k] = given - right
    found[:, 4, :k] = actual - right
    found[:, 5, :k] = right
    found[:, 0, k] = missing
    found[:, 4, k] = observed - right.sum(1)
    found[:, 5, k] = right.sum(1)
    return found
