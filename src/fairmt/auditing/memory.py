"""The cube of rows that are in memory."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import sparse

from fairmt.auditing.cube import (
    SCORE_BINS,
    Buckets,
    Cube,
    empty_cube,
    one_against_rest,
    scores_fit,
)
from fairmt.auditing.plan import OUTCOMES, Plan
from fairmt.auditing.rows import Rows
from fairmt.tasks import Classification, Regression

CHUNK = 65_536
"""Rows whose moment columns exist at once."""
BUCKETS = 1024
"""Rows or clusters beyond this number share buckets at random, and are resampled together. That
leaves the variance of sums as it is on average, with a relative error of √(2 / BUCKETS)."""
_HELD = 40_000_000
"""Numbers that bucket sums may take; fewer buckets where there are many groups."""
_DENSE = 4_000_000


def cube_of_rows(rows: Rows, plan: Plan, *, resample: bool = True, seed: int = 0) -> Cube:
    """Sum rows into a cube.

    Parameters
    ----------
    resample : whether sums by bucket are kept for the statistics that counts do not suffice for.
    """
    cell, codes, counts = cells_of(rows)
    cube = empty_cube(plan, codes, rows.weights is not None)
    cube.rows = counts
    _count(rows, plan, cube, cell)
    _targets(rows, plan, cube, cell)
    if plan.summed is not None:
        _sum(rows, plan, cube, cell, resample, seed)
    if rows.scored and scores_fit(len(codes), plan.layout.n_outputs):
        cube.scores = _scores(rows, cell, len(codes))
    return cube


def cells_of(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell of every row, and the codes (C, A) and numbers of rows (C,) of the cells that occur."""
    sizes = [len(a.categories) for a in rows.groups.attributes]
    # Missing takes one more category, the last, where it occurs.
    gaps = [bool((code < 0).any()) for code in rows.codes]
    sizes = [size + gap for size, gap in zip(sizes, gaps, strict=True)]
    total = math.prod(sizes)
    if total >= _DENSE:
        stacked = np.stack(rows.codes, 1)
        found, cell, counts = np.unique(stacked, axis=0, return_inverse=True, return_counts=True)
        return cell.reshape(-1).astype(np.int32), found.astype(np.int64), counts.astype(float)
    kind: type = np.int32 if total > 255 else np.uint8
    joint: np.ndarray | None = None
    for size, gap, code in zip(sizes, gaps, rows.codes, strict=True):
        own: np.ndarray = (np.where(code < 0, size - 1, code) if gap else code).astype(kind)
        if joint is None:
            joint = own
        else:
            joint *= kind(size)
            joint += own
    assert joint is not None
    counts = np.bincount(joint, minlength=total)
    occupied = np.flatnonzero(counts)
    if len(occupied) < total:
        place: np.ndarray = np.zeros(total, dtype=kind)
        place[occupied] = np.arange(len(occupied))
        joint = place[joint]
    digits = np.unravel_index(occupied, sizes)
    codes = np.stack(
        [
            np.where(d == s - 1, -1, d) if gap else d
            for d, s, gap in zip(digits, sizes, gaps, strict=True)
        ],
        1,
    )
    return joint, codes.astype(np.int64), counts[occupied].astype(float)


def _count(rows: Rows, plan: Plan, cube: Cube, cell: np.ndarray) -> None:
    at = 0
    for task in plan.layout.tasks:
        if task.kind == "regression":
            continue
        own = rows.answers[task.name]
        for target, weights in ((cube.counts, None), (cube.masses, rows.weights)):
            if target is None:
                continue
            if isinstance(task, Classification):
                k = task.n_outputs
                table = _tally(cell, own.truth, own.decision, k, len(cube.rows), weights)
                target[:, :, at : at + k + 1] = one_against_rest(table)
                continue
            for j in range(task.n_outputs):
                outcome = 2 * (own.truth[:, j].astype(np.int8) + 1) + own.decision[:, j]
                table = _joint(cell, outcome, len(OUTCOMES), len(cube.rows), weights)
                target[:, :, at + j] = table
        at += task.n_outputs + isinstance(task, Classification)


def _tally(
    cell: np.ndarray,
    truth: np.ndarray,
    decision: np.ndarray,
    k: int,
    n_cells: int,
    weights: np.ndarray | None,
) -> np.ndarray:
    """(C, K + 1, K) rows by truth (the last is 'missing') and decision."""
    kind: type = np.int8 if (k + 1) * k < 128 else np.int32
    outcome: np.ndarray = truth.astype(kind)
    outcome[outcome < 0] = k
    outcome *= kind(k)
    outcome += decision.astype(kind, copy=False)
    return _joint(cell, outcome, (k + 1) * k, n_cells, weights).reshape(n_cells, k + 1, k)


def _joint(
    cell: np.ndarray,
    outcome: np.ndarray,
    n_outcomes: int,
    n_cells: int,
    weights: np.ndarray | None,
) -> np.ndarray:
    total = n_cells * n_outcomes
    kind: type = np.uint8 if total <= 255 else np.uint16 if total <= 65_535 else np.int64
    joint: np.ndarray = cell.astype(kind)
    joint *= kind(n_outcomes)
    joint += outcome.astype(kind, copy=False)
    table = np.bincount(joint, weights, minlength=total)
    return table.reshape(n_cells, n_outcomes).astype(np.float64, copy=False)


def _targets(rows: Rows, plan: Plan, cube: Cube, cell: np.ndarray) -> None:
    at = 0
    for task in plan.layout.tasks:
        if not isinstance(task, Regression):
            continue
        own = rows.answers[task.name]
        for k in range(task.n_outputs):
            a = (own.truth[:, k] - task.centre[k]) / task.scale[k]
            p = (own.decision[:, k] - task.centre[k]) / task.scale[k]
            seen = ~np.isnan(a)
            a, p, c = a[seen], p[seen], cell[seen]
            w = np.ones(len(a)) if rows.weights is None else rows.weights[seen]
            for i, x in enumerate((w, w * p, w * a, w * p * p, w * a * a, w * p * a)):
                cube.targets[:, i, at] = np.bincount(c, x, minlength=len(cube.rows))
            cube.targets[:, 6, at] = np.bincount(c, w * abs(p - a), minlength=len(cube.rows))
            cube.seen[:, at] = np.bincount(c, minlength=len(cube.rows))
            at += 1


def _sum(rows: Rows, plan: Plan, cube: Cube, cell: np.ndarray, resample: bool, seed: int) -> None:
    assert plan.summed is not None
    ledger, n = plan.summed, len(rows)
    first, last = ratio_columns(plan)
    order: np.ndarray | None = None
    if resample:
        bucket, n_buckets = bucket_of(rows, plan, seed)
        order = np.argsort(bucket, kind="stable")
        starts = np.searchsorted(bucket[order], np.arange(n_buckets + 1))
        index = _partition_index(rows, plan)
        cube.buckets = Buckets(
            np.diff(starts).astype(np.float64),
            np.zeros((n_buckets, ledger.n_columns)),
            [
                np.zeros((n_buckets, p.groups.stop - p.groups.start + 1, ledger.n_columns))
                for p in plan.groups.partitions
            ],
        )
    for start, stop, buckets in _chunks(n, None if order is None else starts):
        take: slice | np.ndarray = slice(start, stop) if order is None else order[start:stop]
        atoms = rows.atoms(take)
        columns, evidence = ledger.columns(atoms).numpy(), ledger.evidence(atoms).numpy()
        squares = evidence
        if rows.weights is not None:
            w = rows.weights[take][:, None]
            columns, evidence, squares = w * columns, w * evidence, w * w * evidence
        member = _sums_by(cell[take], len(cube.rows))
        cube.sums += member @ columns
        cube.mass += member @ evidence
        cube.mass2 += member @ squares
        a, b = columns[:, first], columns[:, last]
        usable = first != last
        for i, product in enumerate((a * a, a * b, b * b)):
            cube.second[:, usable, i] += (member @ product)[:, usable]
        if cube.buckets is not None and order is not None and buckets is not None:
            low, high = buckets
            local = bucket[take] - low
            cube.buckets.everybody[low:high] = _sums_by(local, high - low) @ columns
            for own, by_partition in zip(index, cube.buckets.by_partition, strict=True):
                width = by_partition.shape[1]
                found = _sums_by(local * width + own[take], (high - low) * width) @ columns
                by_partition[low:high] = found.reshape(high - low, width, -1)


def ratio_columns(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Columns of numerator and denominator of every summed statistic; equal if it is no ratio."""
    assert plan.summed is not None
    owner = plan.summed.statistic_of_column.numpy()
    first, last = [], []
    for j in range(len(plan.summed)):
        own = np.flatnonzero(owner == j)
        first.append(own[0])
        last.append(own[1] if len(own) == 2 else own[0])
    return np.array(first), np.array(last)


def bucket_of(rows: Rows, plan: Plan, seed: int) -> tuple[np.ndarray, int]:
    """Bucket of every row: its own, its cluster's, or one drawn at random."""
    assert plan.summed is not None
    width = (plan.groups.n_groups + len(plan.groups.partitions) + 1) * plan.summed.n_columns
    most = max(64, min(BUCKETS, _HELD // width))
    units = np.arange(len(rows)) if rows.clusters is None else rows.clusters
    n_units = int(units.max()) + 1
    if n_units <= most:
        return units, n_units
    drawn = np.random.default_rng(seed).integers(0, most, n_units)
    return drawn[units], most


def _partition_index(rows: Rows, plan: Plan) -> list[np.ndarray]:
    """For every partition the group of every row, counted from 0; the last is 'unknown'."""
    codes = torch.from_numpy(np.stack(rows.codes, 1).astype(np.int64))
    found = plan.groups.index(codes).numpy()
    index = []
    for position, partition in enumerate(plan.groups.partitions):
        own = found[:, position] - partition.groups.start
        size = partition.groups.stop - partition.groups.start
        index.append(np.where(found[:, position] < 0, size, own))
    return index


def _chunks(n: int, starts: np.ndarray | None) -> list[tuple[int, int, tuple[int, int] | None]]:
    """Slices of rows; with buckets, of whole buckets, and which."""
    if starts is None:
        return [(s, min(s + CHUNK, n), None) for s in range(0, n, CHUNK)]
    chunks: list[tuple[int, int, tuple[int, int] | None]] = []
    low, n_buckets = 0, len(starts) - 1
    while low < n_buckets:
        high = int(np.searchsorted(starts, starts[low] + CHUNK, side="right")) - 1
        high = min(max(high, low + 1), n_buckets)
        chunks.append((int(starts[low]), int(starts[high]), (low, high)))
        low = high
    return chunks


def _sums_by(index: np.ndarray, size: int) -> sparse.csr_array:
    """(size, n): multiplied with columns (n, P) it sums the rows of every index."""
    n = len(index)
    return sparse.csc_array((np.ones(n), index.astype(np.int64), np.arange(n + 1)), shape=(size, n))


def _scores(rows: Rows, cell: np.ndarray, n_cells: int) -> np.ndarray:
    layout = rows.layout
    found = np.zeros((n_cells, SCORE_BINS, 4, layout.n_outputs))
    for task in layout.tasks:
        own, start = rows.answers[task.name], layout.outputs[task.name].start
        if own.probability is None:
            continue
        for k in range(task.n_outputs):
            p = own.probability[:, k]
            truth = own.truth if own.truth.ndim == 1 else own.truth[:, k]
            seen = truth >= 0
            actual = truth == (k if own.truth.ndim == 1 else 1)
            weight = seen.astype(np.float64) if rows.weights is None else seen * rows.weights
            bins = np.minimum((p * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
            index = cell * np.int64(SCORE_BINS) + bins
            for i, w in enumerate((None, weight, weight * p, weight * actual)):
                sums = np.bincount(index, w, minlength=n_cells * SCORE_BINS)
                found[:, :, i, start + k] = sums.reshape(n_cells, SCORE_BINS)
    return found
