"""Queries are run, and their answers become a cube."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from fairmt.auditing.cube import (
    SCORE_BINS,
    Buckets,
    Cube,
    empty_cube,
    one_against_rest,
    scores_fit,
)
from fairmt.auditing.engine.preparation import revise
from fairmt.auditing.engine.queries import build
from fairmt.auditing.engine.source import BUCKETS, Source
from fairmt.auditing.engine.terms import Places
from fairmt.auditing.plan import NotionChoice, Plan
from fairmt.data.table import as_text
from fairmt.groups import Attribute, Groups
from fairmt.tasks import Classification

_TRIES = 4
"""A table may have classes, values of an attribute and NaN that its first rows do not show."""


def ask(
    source: Source, notions: NotionChoice, *, resample: bool, scores: bool
) -> tuple[Plan, Cube]:
    """Run the queries of an audit.

    Raises
    ------
    ValueError
        If rows hold what an audit cannot count; the column is named.
    """
    for _ in range(_TRIES):
        queries = build(source, source.plan(notions), resample=resample, scores=scores)
        tables = {name: q.to_pandas() for name, q in queries.tables.items()}
        # Where the sums stand: in a table of their own, or in the first count.
        sums = next(iter(tables.values())) if tables else pd.DataFrame()
        if queries.everything is not None:
            sums = queries.everything.to_pandas()
        sound = queries.faults is None or _sound(sums, queries.asked, queries.checks)
        if revise(source, tables, sums):
            continue
        if sound or source.careful:
            break
        source.careful = True
    if not sound:
        for sentence, n in queries.faults.to_pandas().iloc[0].items():
            if n:
                raise ValueError(f"{sentence} in {n:,.0f} rows; mend or drop them.")
    groups = _groups(source, sums)
    plan = source.plan(notions, groups)
    stacked = [_codes(frame, groups) for frame in (sums, *tables.values())]
    cells, codes = _cells(stacked)
    cube = empty_cube(plan, codes, source.weight is not None)
    np.add.at(cube.rows, cells[0], sums["n"].to_numpy(dtype=np.float64))
    for cell, (name, frame) in zip(cells[1:], tables.items(), strict=True):
        _fill_table(source, plan, cube, name, frame, cell)
    queries.places.fill(plan, cube, sums, cells[0])
    if "bucket" in sums:
        cube.buckets = _buckets(plan, cube, queries.places, sums, cells[0])
    if queries.histograms and scores_fit(len(codes), plan.layout.n_outputs):
        _fill_scores(plan, cube, {i: q.to_pandas() for i, q in queries.histograms.items()})
    for j, (name, _) in enumerate(plan.counted_outputs):
        if not cube.counts[:, 2:, j].any():
            raise ValueError(f"Task '{name}': the truth is missing in every row.")
    return plan, cube


def _sound(sums: pd.DataFrame, asked: Sequence[str], checks: Sequence[tuple[str, str]]) -> bool:
    """Whether every row could be counted."""
    if not np.isfinite(sums[list(asked)].to_numpy(dtype=np.float64)).all():
        return False
    names = list(dict.fromkeys(name for pair in checks for name in pair))
    whole = sums[names].astype(np.float64).sum()
    return all(whole[a] == whole[b] for a, b in checks)


def _groups(source: Source, frame: pd.DataFrame) -> Groups:
    attributes = []
    for i, name in enumerate(source.sensitive):
        if name in source.edges:
            attributes.append(source.bands(name, source.edges[name]))
            continue
        column = frame[f"attribute{i}"]
        if column.notna().sum() == 0:
            raise ValueError(f"Sensitive attribute '{name}' is missing in every row.")
        number = source.is_number(name)
        found = sorted(set(as_text(column).dropna()), key=float if number else None)
        attributes.append(Attribute(name, tuple(found)))
    return Groups(tuple(attributes), source.depth)


def _codes(frame: pd.DataFrame, groups: Groups) -> np.ndarray:
    columns = []
    for i, attribute in enumerate(groups.attributes):
        column = frame[f"attribute{i}"]
        if attribute.edges:
            columns.append(column.fillna(-1).to_numpy(dtype=np.int64))
        else:
            text = pd.Index(as_text(column))
            columns.append(pd.Index(attribute.categories).get_indexer(text))
    return np.stack(columns, 1).astype(np.int64)


def _cells(codes: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Cell of every row of several tables, and the codes of the cells."""
    found, index = np.unique(np.concatenate(codes), axis=0, return_inverse=True)
    ends = np.cumsum([len(c) for c in codes])[:-1]
    return np.split(index.reshape(-1), ends), found


def _fill_table(
    source: Source, plan: Plan, cube: Cube, name: str, frame: pd.DataFrame, cell: np.ndarray
) -> None:
    """Counts of truth by decision of a classification task."""
    task = plan.layout[name]
    assert isinstance(task, Classification)
    i, k = plan.layout.tasks.index(task), task.n_outputs
    truth = _class_codes(frame[f"truth{i}"], task, "truth")
    truth = np.where(truth < 0, k, truth)
    if name in source.names:
        decision = _class_codes(frame[f"decision{i}"], task, "prediction")
    else:
        decision = frame[f"decision{i}"].fillna(-1).to_numpy(dtype=np.int64)
    if (decision < 0).any():
        raise ValueError(f"Task '{name}': predictions are missing in some rows.")
    at = plan.counted_outputs.index((name, plan.layout.outputs[name].start))
    for column, target in (("n", cube.counts), ("mass", cube.masses)):
        if target is None:
            continue
        table = np.zeros((len(cube.rows), k + 1, k))
        np.add.at(table, (cell, truth, decision), frame[column].to_numpy(dtype=np.float64))
        target[:, :, at : at + k + 1] = one_against_rest(table)


def _class_codes(column: pd.Series, task: Classification, what: str) -> np.ndarray:
    text = as_text(column)
    codes = pd.Index(task.outputs).get_indexer(pd.Index(text)).astype(np.int64)
    strange = sorted(set(text[(codes < 0) & text.notna().to_numpy()]))
    if strange:
        raise ValueError(
            f"Task '{task.name}': the {what} {strange[0]!r} is none of the classes; expected one "
            f"of {list(task.outputs)[:10]}."
        )
    return codes


def _fill_scores(plan: Plan, cube: Cube, frames: Mapping[int, pd.DataFrame]) -> None:
    place = {tuple(row): i for i, row in enumerate(cube.codes.tolist())}
    cube.scores = np.zeros((len(cube.rows), SCORE_BINS, 4, plan.layout.n_outputs))
    for i, frame in frames.items():
        cell = np.array([place[tuple(row)] for row in _codes(frame, plan.groups).tolist()])
        values = frame[["n", "seen", "probability", "actual"]].to_numpy(dtype=np.float64)
        where = (cell, frame["bin"].to_numpy(dtype=np.int64))
        np.add.at(cube.scores[..., i], where, values)


def _buckets(
    plan: Plan, cube: Cube, places: Places, frame: pd.DataFrame, cell: np.ndarray
) -> Buckets:
    """Sums by bucket from rows of cell and bucket."""
    bucket = frame["bucket"].to_numpy(dtype=np.int64)
    columns = frame[places.columns].to_numpy(dtype=np.float64, na_value=0.0)
    rows, everybody = np.zeros(BUCKETS), np.zeros((BUCKETS, columns.shape[1]))
    np.add.at(rows, bucket, frame["n"].to_numpy(dtype=np.float64))
    np.add.at(everybody, bucket, columns)
    index = plan.groups.index(torch.from_numpy(cube.codes)).numpy()[cell]
    by_partition = []
    for position, partition in enumerate(plan.groups.partitions):
        size = partition.groups.stop - partition.groups.start
        own = index[:, position]
        group = np.where(own < 0, size, own - partition.groups.start)
        found = np.zeros((BUCKETS, size + 1, columns.shape[1]))
        np.add.at(found, (bucket, group), columns)
        by_partition.append(found)
    filled = rows > 0
    return Buckets(rows[filled], everybody[filled], [p[filled] for p in by_partition])
