"""Fused outputs as the columns that people read: decisions, probabilities, values, the rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairmt.ledger import decide, probabilities
from fairmt.tasks import Layout, Task


def target_name(task: Task, output: str) -> str:
    """Column of a regression target: the task's name, with the target's behind it if several."""
    return task.name if task.n_outputs == 1 else f"{task.name}.{output}"


def label_types(frame: pd.DataFrame, tasks: Sequence[Task]) -> dict[str, str]:
    """'int', 'float' or 'bool' for class tasks whose labels are no text."""
    kinds = {"i": "int", "u": "int", "f": "float", "b": "bool"}
    found = {}
    for task in tasks:
        if task.kind == "classification":
            column = frame[task.columns[0]]
            kind = kinds.get(getattr(column.dtype, "kind", "O"))
            if kind == "float" and all(float(o).is_integer() for o in task.outputs):
                # Whole numbers with gaps are floats in pandas.
                kind = "int" if column.isna().any() else "float"
            if kind is not None:
                found[task.name] = kind
    return found


def _classes(task: Task, kind: str | None) -> np.ndarray:
    """The classes as they stood in the training table."""
    if kind == "bool":
        return np.array([o == "True" for o in task.outputs])
    if kind == "int":
        return np.array([int(o) for o in task.outputs])
    if kind == "float":
        return np.array([float(o) for o in task.outputs])
    return np.asarray(task.outputs, dtype=object)


def decision_columns(
    layout: Layout, outputs: Tensor, offsets: Tensor, types: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """``task`` the class, ``task.LABEL`` 0 or 1, ``task`` or ``task.COLUMN`` the value.

    `types` are those of `label_types`: classes come back as what they were.
    """
    decisions = decide(layout, outputs, offsets)
    columns: dict[str, np.ndarray] = {}
    for task in layout.tasks:
        own = decisions[:, layout.outputs[task.name]]
        if task.kind == "classification":
            columns[task.name] = _classes(task, types.get(task.name))[own.argmax(1).numpy()]
        elif task.kind == "detection":
            for k, label in enumerate(task.outputs):
                columns[f"{task.name}.{label}"] = own[:, k].numpy().astype(int)
        else:
            values = task.to_labels(own.double()).numpy()
            for k, name in enumerate(task.outputs):
                columns[target_name(task, name)] = values[:, k]
    return columns


def prediction_columns(
    layout: Layout, outputs: Tensor, offsets: Tensor, types: Mapping[str, str]
) -> dict[str, Any]:
    """Everything about every row, in the columns that `fairmt.audit` reads.

    Classification: ``task`` and ``task.CLASS``; detection: ``task.LABEL`` and
    ``task.LABEL.decision``; regression: ``task`` or ``task.COLUMN``.
    """
    decisions = decision_columns(layout, outputs, offsets, types)
    p = probabilities(layout, outputs.double()).numpy()
    columns: dict[str, Any] = {}
    for task in layout.tasks:
        start = layout.outputs[task.name].start
        if task.kind == "regression":
            names = [target_name(task, name) for name in task.outputs]
            columns |= {name: decisions[name] for name in names}
            continue
        if task.kind == "classification":
            columns[task.name] = decisions[task.name]
        for k, name in enumerate(task.outputs):
            columns[f"{task.name}.{name}"] = p[:, start + k]
            if task.kind == "detection":
                columns[f"{task.name}.{name}.decision"] = decisions[f"{task.name}.{name}"]
    return columns


def probability_frames(layout: Layout, outputs: Tensor, index: Any) -> dict[str, pd.DataFrame]:
    """Probabilities of classes and labels, a frame per task (N, K)."""
    p = probabilities(layout, outputs.double()).numpy()
    return {
        t.name: pd.DataFrame(p[:, layout.outputs[t.name]], columns=list(t.outputs), index=index)
        for t in layout.tasks
        if t.kind != "regression"
    }


def rule_in_numbers(layout: Layout, offsets: Tensor) -> dict[str, dict[str, float]]:
    """Labels: the probability from which on the answer is yes. Classes: the factor by which each
    probability is multiplied before the largest wins."""
    rule: dict[str, dict[str, float]] = {}
    for task in layout.tasks:
        own = offsets[layout.outputs[task.name]].double()
        if task.kind == "regression":
            continue
        values = torch.sigmoid(-own) if task.kind == "detection" else torch.exp(own)
        rule[task.name] = dict(zip(task.outputs, values.tolist(), strict=True))
    return rule
