"""Audit a table of predictions, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairmt.auditing.result import AuditResult
from fairmt.auditing.tensors import audit_decisions
from fairmt.data.schema import (
    complete_task,
    encode_groups,
    fit_groups,
    label_values,
    require_column,
)
from fairmt.data.table import as_text, check_finite, read_table
from fairmt.frames import parse_task
from fairmt.tasks import Classification, Detection, Layout, Regression, Task


def audit(
    data: Any,
    *,
    tasks: Sequence[Task | str],
    sensitive: Sequence[str],
    truth: Any = None,
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
    weight: str | None = None,
    cluster: str | None = None,
    identifier: str | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit predictions.

    The table holds, for classification, the predicted class in ``task`` and, if there are any,
    probabilities in ``task.CLASS``; for detection probabilities in ``task.LABEL`` and decisions in
    ``task.LABEL.decision`` (one of the two suffices); for regression the prediction in ``task``,
    or ``task.COLUMN``. Truths stand in the same table with ``.true`` behind those names, or in
    the tasks' own columns of a second table.

    Parameters
    ----------
    data, truth : frame, Arrow or polars table, or path; of equal length and order.
    tasks : tasks, or 'name:kind' or 'name:kind:column,column'.
    sensitive : columns of `truth`, or of `data`.
    weight, cluster : columns with sample weights, and with units to be resampled together.
    identifier : column whose values must be distinct.
    settings : tolerance, n_boot, notions, …; see `fairmt.auditing.tensors.audit_decisions`.

    Raises
    ------
    ValueError
        For missing columns, different lengths, probabilities outside [0, 1], labels never seen,
        duplicated identifiers.
    """
    frame = read_table(data).rename(columns=str).reset_index(drop=True)
    other = frame if truth is None else read_table(truth).rename(columns=str).reset_index(drop=True)
    if len(other) != len(frame):
        raise ValueError(f"Predictions have {len(frame)} rows, the truth has {len(other)}.")
    if identifier is not None:
        require_column(frame, identifier)
        repeated = frame[identifier][frame[identifier].duplicated()]
        if len(repeated):
            raise ValueError(
                f"Identifier '{identifier}' is not unique: {repeated.iloc[0]!r} occurs more than "
                "once. Drop the repeated rows, or name the column as the cluster."
            )
    specs = [parse_task(t) for t in tasks]
    if not specs:
        raise ValueError("Name at least one task.")
    labels = [_with_truth(t, frame, other, truth is not None) for t in specs]
    if not sensitive:
        raise ValueError("Name at least one sensitive attribute.")
    groups = fit_groups(other, sensitive, bins, depth)
    codes = encode_groups(other, groups)
    layout = Layout(tuple(t for t, _ in labels))
    packed = torch.full((len(frame), layout.n_labels), torch.nan, dtype=torch.float64)
    decisions = torch.zeros(len(frame), layout.n_outputs, dtype=torch.float64)
    p = torch.zeros_like(decisions)
    for task, values in labels:
        span = layout.outputs[task.name]
        packed[:, layout.labels[task.name]] = torch.from_numpy(values)
        d, q = _READERS[task.kind](task, frame)
        decisions[:, span], p[:, span] = torch.from_numpy(d), torch.from_numpy(q)
    weights = clusters = None
    if weight is not None:
        require_column(other, weight)
        weights = torch.from_numpy(check_finite(other[weight], "Weight column").to_numpy())
    if cluster is not None:
        require_column(other, cluster)
        clusters = other[cluster].astype(str).to_numpy()
    return audit_decisions(
        layout, groups, decisions, p, packed, codes,
        weights=weights, clusters=clusters, **settings,
    )  # fmt: skip


def _with_truth(
    task: Task, frame: pd.DataFrame, other: pd.DataFrame, separate: bool
) -> tuple[Task, np.ndarray]:
    """The task with its outputs filled in, and its labels (N, width)."""
    if isinstance(task, Detection) and len(task.outputs) == 1 and task.outputs == (task.name,):
        found = [
            c[len(task.name) + 1 : -len(".decision")]
            for c in map(str, frame.columns)
            if c.startswith(f"{task.name}.") and c.endswith(".decision")
        ]
        if found:
            task = Detection(task.name, tuple(found))
    if separate:
        columns = task.columns
    elif isinstance(task, Classification) or (
        len(task.outputs) == 1 and task.outputs[0] == task.name
    ):
        columns = (f"{task.name}.true",)
    else:
        columns = tuple(f"{task.name}.{o}.true" for o in task.outputs)
    for column in columns:
        require_column(other, column)
    task = replace(task, columns=columns)
    if isinstance(task, Classification) and not task.outputs:
        require_column(frame, task.name)
        seen = set(as_text(other[columns[0]]).dropna()) | set(as_text(frame[task.name]).dropna())
        task = replace(task, outputs=tuple(sorted(seen)))
    task = complete_task(task, other)
    return task, label_values(task, other)


def _classification(task: Task, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    require_column(frame, task.name)
    text = as_text(frame[task.name])
    codes = pd.Index(task.outputs).get_indexer(pd.Index(text))
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"Task '{task.name}': row {row} predicts {text.iloc[row]!r}; expected one of "
            f"{list(task.outputs)[:10]}."
        )
    decisions = np.eye(task.n_outputs)[codes]
    columns = [f"{task.name}.{o}" for o in task.outputs]
    if all(c in frame for c in columns):
        p = np.stack([_probability(frame, c) for c in columns], 1)
        return decisions, p
    return decisions, decisions


def _detection(task: Task, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    decisions, p = [], []
    for output in task.outputs:
        name = task.name if task.outputs == (task.name,) else f"{task.name}.{output}"
        if f"{name}.decision" in frame:
            d = check_finite(frame[f"{name}.decision"], "Decision").to_numpy()
            if not np.isin(d, (0, 1)).all():
                raise ValueError(f"Decisions in '{name}.decision' must be 0 or 1.")
            q = _probability(frame, name) if name in frame else d
        else:
            require_column(frame, name)
            q = _probability(frame, name)
            d = (q > 0.5).astype(float)
        decisions.append(d)
        p.append(q)
    return np.stack(decisions, 1), np.stack(p, 1)


def _regression(task: Task, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(task, Regression)
    columns = []
    for k, output in enumerate(task.outputs):
        name = task.name if task.n_outputs == 1 else f"{task.name}.{output}"
        require_column(frame, name)
        values = check_finite(frame[name], "Prediction").to_numpy()
        if np.isnan(values).any():
            row = int(np.flatnonzero(np.isnan(values))[0])
            raise ValueError(f"Prediction '{name}' is missing in row {row}.")
        columns.append((values - task.centre[k]) / task.scale[k])
    standard = np.stack(columns, 1)
    return standard, standard


def _probability(frame: pd.DataFrame, column: str) -> np.ndarray:
    values = check_finite(frame[column], "Probability").to_numpy()
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Probability '{column}' is {values[row]:g} in row {row}; expected a number from 0 to "
            "1. Give decisions in '.decision' columns if these are scores."
        )
    return values


_READERS = {
    "classification": _classification,
    "detection": _detection,
    "regression": _regression,
}
