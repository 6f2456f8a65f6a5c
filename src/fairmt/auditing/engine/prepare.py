"""What must be known of a table before its rows are summed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.engine.source import Source
from fairmt.auditing.naming import class_order, truth_names
from fairmt.auditing.reading import round_scale
from fairmt.data.attributes import BAND_FROM, fit_groups
from fairmt.data.table import as_text
from fairmt.groups import MAX_CATEGORIES
from fairmt.tasks import Classification, Regression, Task

_LOOK = 100_000
"""Rows in which an attribute with too many groups is noticed before everything is grouped by it."""
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
    _look(source)
    source.tasks = [_with_classes(source, t) for t in source.tasks]
    ask: dict[str, Any] = {}
    for task in source.tasks:
        if isinstance(task, Regression):
            for k, column in enumerate(truth_names(task, False)):
                known = source.known(source.table[column])
                value = source.table[column].cast("float64")
                ask[f"mean {task.name} {k}"] = value.mean(where=known)
                ask[f"sd {task.name} {k}"] = value.std(where=known, how="pop")
    for name in source.sensitive:
        if name not in source.edges and source.is_number(name):
            ask[f"distinct {name}"] = source.table[name].nunique()
    if source.identifier is not None:
        ask["rows"] = source.table.count()
        ask["identifiers"] = source.table[source.identifier].nunique()
    found = source.table.aggregate(**ask).to_pandas().iloc[0] if ask else pd.Series()
    if source.identifier is not None and found["identifiers"] != found["rows"]:
        raise ValueError(
            f"Identifier '{source.identifier}' is not unique: {found['rows']:.0f} rows have "
            f"{found['identifiers']:.0f} values. Drop the repeated rows, or name the column as "
            "the cluster."
        )
    for name in source.sensitive:
        if f"distinct {name}" in ask and found[f"distinct {name}"] > BAND_FROM:
            source.edges[name] = _quarters(source, name)
    source.tasks = [_with_scale(t, found) for t in source.tasks]


def _look(source: Source) -> None:
    few = source.table.select(*source.sensitive).head(_LOOK)
    names = {f"c{i}": few[c].nunique() for i, c in enumerate(source.sensitive)}
    found = few.aggregate(**names).to_pandas().iloc[0]
    for i, name in enumerate(source.sensitive):
        if found[f"c{i}"] > MAX_CATEGORIES and not source.is_number(name):
            raise ValueError(
                f"Sensitive attribute '{name}' has more than {MAX_CATEGORIES} groups; cut it "
                "into bands, pool its categories, or leave it out."
            )


def _with_classes(source: Source, task: Task) -> Task:
    if not isinstance(task, Classification) or task.outputs:
        return task
    seen: set[str] = set()
    columns = [truth_names(task, False)[0]]
    if task.name in source.names:
        columns.append(task.name)
    for column in columns:
        values = source.table.select(column).distinct().head(MAX_CATEGORIES + 2).to_pandas()
        seen |= set(as_text(values[column]).dropna())
    if len(seen) > MAX_CATEGORIES:
        raise ValueError(
            f"Task '{task.name}' has more than {MAX_CATEGORIES} classes; is it a regression task?"
        )
    if len(seen) < 2:
        raise ValueError(f"Task '{task.name}' has the classes {sorted(seen)}; an audit needs two.")
    return replace(task, outputs=tuple(sorted(seen, key=class_order)))


def _with_scale(task: Task, found: pd.Series) -> Task:
    if not isinstance(task, Regression):
        return task
    centre, scale = [], []
    for k, column in enumerate(truth_names(task, False)):
        mean, sd = found[f"mean {task.name} {k}"], found[f"sd {task.name} {k}"]
        if mean is None or np.isnan(mean):
            raise ValueError(f"Task '{task.name}': the truth '{column}' is missing in every row.")
        centre.append(float(mean))
        scale.append(float(sd))
    return round_scale(task, centre, scale)


def _quarters(source: Source, name: str) -> tuple[float, ...]:
    """Edges near the quartiles, from how often each value occurs."""
    column = source.table[name]
    counts = (
        source.table.filter(source.known(column))
        .group_by(value=column.cast("float64"))
        .aggregate(n=lambda t: t.count())
        .to_pandas()
        .sort_values("value")
    )
    n = counts["n"].to_numpy(dtype=np.float64)
    share = max(1.0, n.sum() / _SPREAD)
    values = np.repeat(counts["value"].to_numpy(), np.ceil(n / share).astype(np.int64))
    return fit_groups(pd.DataFrame({name: values}), [name]).attributes[0].edges
