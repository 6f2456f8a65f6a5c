"""Tables of predictions become rows; what cannot be read is refused by column and row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.columns import Table, attributes_of, categories
from fairmt.auditing.naming import (
    NO,
    THRESHOLD,
    YES,
    class_order,
    find_outputs,
    prediction_name,
    truth_names,
)
from fairmt.auditing.rows import Answers, Rows, check_weights
from fairmt.frames import parse_task
from fairmt.groups import MAX_CATEGORIES
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

_STEADY = 1e-10


def read_rows(
    data: Any,
    tasks: Sequence[Task | str],
    sensitive: Any,
    *,
    truth: Any = None,
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
    weight: str | None = None,
    cluster: str | None = None,
    identifier: str | None = None,
) -> Rows:
    """Rows of a table of predictions; see `audit`."""
    table = Table.of(data, "table of predictions")
    other = table if truth is None else Table.of(truth, "table of truths")
    if other.n != table.n:
        raise ValueError(f"Predictions have {table.n} rows, the truth has {other.n}.")
    if identifier is not None:
        _check_distinct(table if identifier in table else other, identifier)
    if isinstance(sensitive, str) or not (
        isinstance(sensitive, Sequence) and all(isinstance(s, str) for s in sensitive)
    ):
        described = _sensitive_table(sensitive)
        if described.n != table.n:
            raise ValueError(
                f"Predictions have {table.n} rows, the sensitive attributes have {described.n}."
            )
        names: list[str] = list(described.names())
    else:
        described, names = other, list(sensitive)
    if not names:
        raise ValueError("Name at least one sensitive attribute.")
    groups, codes = attributes_of(described, names, bins, depth)
    read = [_read(parse_task(t), table, other, truth is not None) for t in tasks]
    layout = Layout(tuple(t for t, _ in read))
    weights = clusters = None
    if weight is not None:
        weights = (other if weight in other else table).numbers(weight, "Weight column")
        check_weights(weights)
    if cluster is not None:
        column = (other if cluster in other else table).series(cluster)
        if column.isna().any():
            row = int(np.flatnonzero(column.isna())[0])
            raise ValueError(f"Cluster column '{cluster}' is missing in row {row}.")
        clusters = pd.factorize(column)[0].astype(np.int64)
    return Rows(layout, groups, codes, {t.name: a for t, a in read}, weights, clusters)


def _sensitive_table(sensitive: Any) -> Table:
    if isinstance(sensitive, str):
        raise ValueError(f"sensitive must be a list of columns. Write ['{sensitive}'].")
    if isinstance(sensitive, pd.Series):
        sensitive = {str(sensitive.name or "group"): sensitive.reset_index(drop=True)}
    elif isinstance(sensitive, np.ndarray):
        if sensitive.ndim == 1:
            sensitive = {"group": sensitive}
        else:
            sensitive = {f"attribute{i}": c for i, c in enumerate(sensitive.T)}
    return Table.of(sensitive, "table of sensitive attributes")


def _check_distinct(table: Table, identifier: str) -> None:
    column = table.series(identifier)
    repeated = column[column.duplicated()]
    if len(repeated):
        raise ValueError(
            f"Identifier '{identifier}' is not unique: '{repeated.iloc[0]}' occurs more than once. "
            "Drop the repeated rows, or name the column as the cluster."
        )


def _read(task: Task, table: Table, other: Table, separate: bool) -> tuple[Task, Answers]:
    task = find_outputs(task, list(table.names()))
    if isinstance(task, Classification):
        return _classification(task, table, other, separate)
    if isinstance(task, Detection):
        return _detection(task, table, other, separate)
    assert isinstance(task, Regression)
    return _regression(task, table, other, separate)


def _classification(
    task: Classification, table: Table, other: Table, separate: bool
) -> tuple[Task, Answers]:
    column = truth_names(task, separate)[0]
    truth = categories(other.values(column))
    decided = categories(table.values(task.name)) if task.name in table else None
    if not truth.names:
        raise ValueError(f"Task '{task.name}': the truth '{column}' is missing in every row.")
    if not task.outputs:
        seen = set(truth.names) | set(() if decided is None else decided.names)
        if len(seen) > MAX_CATEGORIES:
            raise ValueError(
                f"Task '{task.name}' has {len(seen)} classes, more than {MAX_CATEGORIES}; is it a "
                "regression task?"
            )
        if len(seen) == 1:
            raise ValueError(
                f"Task '{task.name}' has one class only, {next(iter(seen))!r}; there is nothing "
                "to audit."
            )
        task = replace(task, outputs=tuple(sorted(seen, key=class_order)))
    y = truth.recode(task.outputs)
    if truth.names != task.outputs:
        _check_known(task, y, other.series(column), "has the truth")
    names = [f"{task.name}.{o}" for o in task.outputs]
    given = [n for n in names if n in table]
    if given and len(given) < len(names):
        missing = [n for n in names if n not in table]
        raise ValueError(
            f"Task '{task.name}': probabilities are given for some classes only; {missing} are "
            "missing."
        )
    p = _probabilities(table, names) if given else None
    if p is not None and abs(p.sum(1) - 1).max() > 0.02:
        row = int(abs(p.sum(1) - 1).argmax())
        raise ValueError(
            f"Task '{task.name}': the probabilities of row {row} sum to {p[row].sum():.3g}; "
            "expected 1."
        )
    if decided is None:
        if p is None:
            table.series(task.name)  # names the nearest columns
        assert p is not None
        return task, Answers(y, p.argmax(1).astype(np.int8), p)
    d = decided.recode(task.outputs)
    if decided.names != task.outputs or int(d.min()) < 0:
        _check_known(task, np.where(d < 0, -2, d), table.series(task.name), "predicts")
    return task, Answers(y, d, p)


def _check_known(task: Task, codes: np.ndarray, column: pd.Series, verb: str) -> None:
    wrong = codes == -2
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = column.iloc[row]
        found = "nothing" if pd.isna(value) else repr(str(value))
        raise ValueError(
            f"Task '{task.name}': row {row} {verb} {found}; expected one of "
            f"{list(task.outputs)[:10]}."
        )


def _detection(task: Detection, table: Table, other: Table, separate: bool) -> tuple[Task, Answers]:
    truths, decisions, scores = [], [], []
    for k, column in enumerate(truth_names(task, separate)):
        truths.append(_yes_or_no(other, column, task))
        name = prediction_name(task, k)
        p = _probability(table, name) if name in table else None
        if f"{name}.decision" in table:
            decisions.append(_decision(table, f"{name}.decision"))
        else:
            if p is None:
                table.series(name)  # names the nearest columns
            assert p is not None
            decisions.append((p > THRESHOLD).astype(np.int8))
        scores.append(p)
    known = [p for p in scores if p is not None]
    if known and len(known) < len(scores):
        raise ValueError(
            f"Task '{task.name}': probabilities are given for some labels only; give all or none."
        )
    probability = np.stack(known, 1) if known else None
    return task, Answers(np.stack(truths, 1), np.stack(decisions, 1), probability)


def _yes_or_no(table: Table, column: str, task: Task) -> np.ndarray:
    """0, 1, or -1 where missing."""
    found = categories(table.values(column))
    if not found.names:
        raise ValueError(f"Task '{task.name}': the truth '{column}' is missing in every row.")
    for code, name in enumerate(found.names):
        if name not in YES and name not in NO:
            row = int(np.flatnonzero(found.codes == code)[0])
            raise ValueError(
                f"Task '{task.name}': label '{column}' holds {name!r} in row {row}; detection "
                "labels are 0 or 1, yes or no."
            )
    if found.names in (("0", "1"), ("False", "True")):
        return found.codes
    table_ = np.array([*(int(n in YES) for n in found.names), -1], dtype=np.int8)
    values: np.ndarray = table_[found.codes]
    return values


def _decision(table: Table, column: str) -> np.ndarray:
    found = categories(table.values(column))
    bad = [n for n in found.names if n not in ("0", "1", "True", "False")]
    if bad or int(found.codes.min()) < 0:
        value = repr(bad[0]) if bad else "nothing"
        code = found.names.index(bad[0]) if bad else -1
        row = int(np.flatnonzero(found.codes == code)[0])
        raise ValueError(f"Decision '{column}' is {value} in row {row}; expected 0 or 1.")
    lookup = np.array([int(n in ("1", "True")) for n in found.names], dtype=np.int8)
    values: np.ndarray = lookup[found.codes]
    return values


def _regression(
    task: Regression, table: Table, other: Table, separate: bool
) -> tuple[Task, Answers]:
    truths, decisions = [], []
    for k, column in enumerate(truth_names(task, separate)):
        truth = other.numbers(column, f"Target of task '{task.name}'")
        if np.isnan(truth).all():
            raise ValueError(f"Task '{task.name}': the truth '{column}' is missing in every row.")
        name = prediction_name(task, k)
        values = table.numbers(name, "Prediction")
        if np.isnan(values).any():
            row = int(np.flatnonzero(np.isnan(values))[0])
            raise ValueError(f"Prediction '{name}' is missing in row {row}.")
        truths.append(truth)
        decisions.append(values)
    y = np.stack(truths, 1)
    if not has_units(task):
        task = round_scale(task, np.nanmean(y, 0).tolist(), np.nanstd(y, 0).tolist())
    return task, Answers(y, np.stack(decisions, 1))


def has_units(task: Regression) -> bool:
    """Whether centre and scale were given with the task; then they stay."""
    return any(c != 0.0 for c in task.centre) or any(s != 1.0 for s in task.scale)


def round_scale(task: Regression, centre: Sequence[float], scale: Sequence[float]) -> Regression:
    """The task in standard units of the audited rows.

    Rounded, so that sums taken in another order do not put a prediction that equals the mean on
    the other side of it. A target that is steady but for rounding keeps its own units.
    """
    return replace(
        task,
        centre=tuple(float(f"{c:.12g}") for c in centre),
        scale=tuple(
            float(f"{s:.12g}") if s > _STEADY * abs(c) else 1.0
            for c, s in zip(centre, scale, strict=True)
        ),
    )


def _probabilities(table: Table, names: Sequence[str]) -> np.ndarray:
    return np.stack([_probability(table, n) for n in names], 1)


def _probability(table: Table, column: str) -> np.ndarray:
    values = table.numbers(column, "Probability")
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Probability '{column}' is {values[row]:g} in row {row}; expected a number from 0 to "
            "1. Give decisions in '.decision' columns if these are scores."
        )
    return values
