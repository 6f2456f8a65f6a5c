"""Labels: from the columns of a table to numbers, and what a task learns from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from fairmt.data.summaries import Numbers, Texts
from fairmt.data.table import as_text, check_finite, row_name
from fairmt.groups import MAX_CATEGORIES
from fairmt.tasks import Classification, Detection, Regression, Task

_YES = {"1", "yes", "true", "True", "y", "Y", "Yes", "t"}
_NO = {"0", "no", "false", "False", "n", "N", "No", "f"}


def label_values(task: Task, frame: pd.DataFrame) -> np.ndarray:
    """Labels (N, width), NaN where missing.

    Raises
    ------
    ValueError
        Naming task, column and row (by the frame's index), for labels of the wrong kind.
    """
    if isinstance(task, Classification):
        text = as_text(frame[task.columns[0]])
        codes = pd.Index(task.outputs).get_indexer(pd.Index(text)).astype(float)
        unknown = (codes < 0) & text.notna().to_numpy()
        if unknown.any():
            at = int(np.flatnonzero(unknown)[0])
            raise ValueError(
                f"Task '{task.name}': row {row_name(text, at)} has the class {text.iloc[at]!r}, "
                f"expected one of {list(task.outputs)[:10]}. Drop the row, or name all classes "
                "in the task's outputs."
            )
        return np.where(codes < 0, np.nan, codes)[:, None]
    columns = []
    for column in task.columns:
        if isinstance(task, Regression):
            columns.append(check_finite(frame[column], f"Task '{task.name}': target").to_numpy())
            continue
        text = as_text(frame[column])
        yes, no = text.isin(_YES).to_numpy(), text.isin(_NO).to_numpy()
        wrong = ~(yes | no) & text.notna().to_numpy()
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"Task '{task.name}': label '{column}' holds {text.iloc[at]!r} in row "
                f"{row_name(text, at)}; detection labels are 0 or 1, yes or no."
            )
        columns.append(np.where(yes, 1.0, np.where(no, 0.0, np.nan)))
    return np.stack(columns, 1)


class TaskFit:
    """Fills in a task's classes, labels, centre and scale from rows that come in pieces."""

    def __init__(self, task: Task) -> None:
        if isinstance(task, Detection) and not task.outputs:
            task = replace(task, outputs=task.columns)
        self.task = task
        self._classes = Texts()
        self._numbers = [Numbers() for _ in range(task.label_width)]

    def add(self, frame: pd.DataFrame) -> None:
        """Look at training rows."""
        self.add_classes(frame)
        if self.task.outputs:
            values = label_values(self.task, frame)
            for k, numbers in enumerate(self._numbers):
                numbers.add(values[:, k])

    def add_classes(self, frame: pd.DataFrame) -> None:
        """Look at any rows, for the names of classes that are not given."""
        if self.task.outputs:
            return
        self._classes.add(as_text(frame[self.task.columns[0]]))
        if len(self._classes.counts) > MAX_CATEGORIES:
            raise ValueError(
                f"Task '{self.task.name}' has {len(self._classes.counts)} classes, more than "
                f"{MAX_CATEGORIES}; is it a regression task?"
            )

    def finish(self) -> Task:
        """The completed task.

        Raises
        ------
        ValueError
            If an output has no observed label, or only one value: nothing could be learnt.
        """
        task = self.task
        if not task.outputs:
            classes = sorted(self._classes.counts, key=_class_order)
            if not classes:
                raise ValueError(f"Task '{task.name}' has no observed label in the training rows.")
            if len(classes) == 1:
                raise ValueError(
                    f"Task '{task.name}' has one class only, {classes[0]!r}, in the training rows."
                )
            return replace(task, outputs=tuple(classes))
        for k, numbers in enumerate(self._numbers):
            what = f"Task '{task.name}'"
            if len(self._numbers) > 1:
                what += f", output '{task.outputs[k]}',"
            if numbers.n == 0:
                raise ValueError(f"{what} has no observed label in the training rows.")
            if numbers.low == numbers.high:
                raise ValueError(
                    f"{what} has one value only in the training rows; there is nothing to learn."
                )
        if isinstance(task, Regression):
            centre = tuple(n.mean for n in self._numbers)
            task = replace(task, centre=centre, scale=tuple(n.sd for n in self._numbers))
        return task


def complete_task(task: Task, frame: pd.DataFrame) -> Task:
    """Fill in classes, labels, centre and scale, and check the labels."""
    fit = TaskFit(task)
    fit.add(frame)
    return fit.finish()


def _class_order(name: str) -> tuple[int, float, str]:
    """Numbers by size, then names by the alphabet."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
