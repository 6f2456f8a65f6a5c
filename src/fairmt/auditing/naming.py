"""Names of the columns that a table of predictions has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fairmt.tasks import Classification, Detection, Regression, Task

THRESHOLD = 0.5
"""A probability above it is a yes, where decisions are not given."""
YES = ("1", "yes", "true", "True", "y", "Y", "Yes", "t")
NO = ("0", "no", "false", "False", "n", "N", "No", "f")


def find_outputs(task: Task, names: Sequence[str]) -> Task:
    """A detection task whose labels were not named, with those that the columns name."""
    if not isinstance(task, Detection) or task.outputs not in ((), (task.name,)):
        return task
    found = []
    for name in names:
        for suffix in (".decision", ".true"):
            inner = name[len(task.name) + 1 : -len(suffix)]
            if name.startswith(f"{task.name}.") and name.endswith(suffix) and inner:
                found.append(inner)
    labels = tuple(dict.fromkeys(found))
    if not labels or labels == ("decision",):
        return replace(task, outputs=(task.name,))
    return replace(task, outputs=labels, columns=labels)


def is_single(task: Task) -> bool:
    """Whether the task's own name is that of its only prediction column."""
    if isinstance(task, Regression):
        return task.n_outputs == 1
    return task.outputs == (task.name,)


def prediction_name(task: Task, k: int) -> str:
    """Column of the probability, or of the value, of output k."""
    if not isinstance(task, Classification) and is_single(task):
        return task.name
    return f"{task.name}.{task.outputs[k]}"


def truth_names(task: Task, separate: bool) -> tuple[str, ...]:
    """Columns of the truth, in the table of truths or beside the predictions."""
    if separate:
        return task.columns
    if isinstance(task, Classification) or is_single(task):
        return (f"{task.name}.true",)
    return tuple(f"{task.name}.{o}.true" for o in task.outputs)


def class_order(name: str) -> tuple[int, float, str]:
    """Numbers by size, then text."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
