"""What must be known of a table before its rows are summed.

A first few rows tell which classes there are and which numeric attributes must be cut into bands.
Where the rest of the table has more, its sums show it, and are asked for again (`revise`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.engine.source import Source
from fairmt.auditing.naming import class_order, truth_names
from fairmt.auditing.reading import has_units, round_scale
from fairmt.data.attributes import BAND_FROM, fit_groups
from fairmt.data.table import as_text
from fairmt.groups import MAX_CATEGORIES
from fairmt.tasks import Classification, Regression, Task

_LOOK = 20_000
"""First rows that are looked at."""
_SPREAD = 2_000_000
"""Values that stand for a numeric attribute when it is cut into bands."""


def prepare(source: Source) -> None:
    """Fill in classes, centres and scales, and bands of numeric attributes.

    Raises
    ------
    ValueError
        For attributes and classes that are too many or too few, truths that are missing
        everywhere, and identifiers that are not distinct.
    """
    _check_identifier(source)
    columns = list(source.sensitive)
    for task in source.tasks:
        columns += truth_names(task, False)
        if task.name in source.names:
            columns.append(task.name)
    few = source.table.select(*dict.fromkeys(columns)).head(_LOOK).to_pandas()
    if len(few) == 0:
        raise ValueError("The table has no rows.")
    for name in source.sensitive:
        n = few[name].nunique()
        if source.is_number(name):
            if name not in source.edges and n > BAND_FROM:
                source.edges[name] = _quarters(source, name)
        elif n > MAX_CATEGORIES:
            raise ValueError(
                f"Sensitive attribute '{name}' has more than {MAX_CATEGORIES} groups; cut it "
                "into bands, pool its categories, or leave it out."
            )
    source.tasks = [_with_classes(source, t, few) for t in source.tasks]
    source.tasks = _with_scales(source, few)


def revise(source: Source, tables: Mapping[str, pd.DataFrame], sums: pd.DataFrame) -> bool:
    """Whether the answers show classes or values that the first rows did not have.

    If so, the source knows them now, and the queries must be run again.
    """
    revised = False
    for i, name in enumerate(source.sensitive):
        many = sums[f"attribute{i}"].nunique() > BAND_FROM
        if many and source.is_number(name) and name not in source.edges:
            source.edges[name] = _quarters(source, name)
            revised = True
    tasks = list(source.tasks)
    for i, task in enumerate(tasks):
        if not isinstance(task, Classification) or task.name not in source.guessed:
            continue
        frame = tables[task.name]
        seen = set(as_text(frame[f"truth{i}"]).dropna())
        if task.name in source.names:
            seen |= set(as_text(frame[f"decision{i}"]).dropna())
        if not seen <= set(task.outputs):
            tasks[i] = _named(task, seen | set(task.outputs))
            revised = True
    source.tasks = tasks
    return revised


def _check_identifier(source: Source) -> None:
    if source.identifier is None:
        return
    column = source.table[source.identifier]
    ask = source.table.aggregate(rows=source.table.count(), distinct=column.nunique())
    found = ask.to_pandas().iloc[0]
    if found["rows"] != found["distinct"]:
        raise ValueError(
            f"Identifier '{source.identifier}' is not unique: {found['rows']:.0f} rows have "
            f"{found['distinct']:.0f} values. Drop the repeated rows, or name the column as the "
            "cluster."
        )


def _with_classes(source: Source, task: Task, few: pd.DataFrame) -> Task:
    if not isinstance(task, Classification) or task.outputs:
        return task
    columns = [c for c in (*truth_names(task, False), task.name) if c in source.names]
    seen = {v for c in columns for v in as_text(few[c]).dropna()}
    if len(seen) < 2:
        for column in columns:
            distinct = source.table.select(column).distinct().head(MAX_CATEGORIES + 2)
            seen |= set(as_text(distinct.to_pandas()[column]).dropna())
    source.guessed.add(task.name)
    return _named(task, seen)


def _named(task: Classification, classes: set[str]) -> Classification:
    if len(classes) > MAX_CATEGORIES:
        raise ValueError(
            f"Task '{task.name}' has more than {MAX_CATEGORIES} classes; is it a regression task?"
        )
    if len(classes) < 2:
        raise ValueError(
            f"Task '{task.name}' has the classes {sorted(classes)}; an audit needs two."
        )
    return replace(task, outputs=tuple(sorted(classes, key=class_order)))


def _with_scales(source: Source, few: pd.DataFrame) -> list[Task]:
    """Regression tasks with mean and spread of their targets, summed around a rough mean."""
    targets = {
        t.name: truth_names(t, False)
        for t in source.tasks
        if isinstance(t, Regression) and not has_units(t)
    }
    columns = list(dict.fromkeys(c for names in targets.values() for c in names))
    if not columns:
        return list(source.tasks)
    rough = []
    for column in columns:
        values = pd.to_numeric(few[column], errors="coerce").to_numpy(dtype=np.float64)
        known = values[np.isfinite(values)]
        rough.append(float(known.mean()) if len(known) else 0.0)
    found = _spreads(source, columns, rough)
    if not np.isfinite(found.to_numpy(dtype=np.float64)).all():
        source.careful = True
        found = _spreads(source, columns, rough)
    scale: dict[str, tuple[float, float]] = {}
    for i, column in enumerate(columns):
        n = float(found[f"n{i}"])
        if source.careful and found[f"i{i}"]:
            raise ValueError(
                f"Target '{column}' is infinite in {found[f'i{i}']:,.0f} rows; mend or drop them."
            )
        if n == 0:
            raise ValueError(f"The truth '{column}' is missing in every row.")
        away = float(found[f"a{i}"]) / n
        spread = float(found[f"aa{i}"]) / n - away**2
        scale[column] = (rough[i] + away, float(np.sqrt(max(spread, 0.0))))
    tasks: list[Task] = []
    for task in source.tasks:
        if isinstance(task, Regression) and task.name in targets:
            own = [scale[c] for c in targets[task.name]]
            task = round_scale(task, [c for c, _ in own], [s for _, s in own])
        tasks.append(task)
    return tasks


def _spreads(source: Source, columns: Sequence[str], rough: Sequence[float]) -> pd.Series:
    """Number, sum and sum of squares of columns around rough means."""
    import ibis

    away = {}
    for i, (column, centre) in enumerate(zip(columns, rough, strict=True)):
        value = source.table[column].cast("float64") - centre
        if source.careful:
            # One by infinity is 0; one by NaN is not.
            away[f"i{i}"] = ((1 / source.table[column].cast("float64")) == 0).cast("int8")
            value = ibis.cases((source.known(source.table[column]), value), else_=None)
        away[f"v{i}"] = value
    rows = source.table.select(**away)
    ask: dict[str, Any] = {}
    for i in range(len(columns)):
        value = rows[f"v{i}"]
        ask |= {f"n{i}": value.count(), f"a{i}": value.sum(), f"aa{i}": (value * value).sum()}
        if source.careful:
            ask[f"i{i}"] = rows[f"i{i}"].sum()
    return rows.aggregate(**ask).to_pandas().iloc[0]


def _quarters(source: Source, name: str) -> tuple[float, ...]:
    """Edges near the quartiles, from how often each value occurs."""
    column = source.table[name]
    counts = (
        source.table.filter(source.known(column, careful=True))
        .group_by(value=column.cast("float64"))
        .aggregate(n=lambda t: t.count())
        .to_pandas()
        .sort_values("value")
    )
    n = counts["n"].to_numpy(dtype=np.float64)
    share = max(1.0, n.sum() / _SPREAD)
    values = np.repeat(counts["value"].to_numpy(), np.ceil(n / share).astype(np.int64))
    return fit_groups(pd.DataFrame({name: values}), [name]).attributes[0].edges
