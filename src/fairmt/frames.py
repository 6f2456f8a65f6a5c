"""The many forms of X, y and sensitive features, as one frame with named roles."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_array, check_is_fitted

from fairmt.data.attributes import BAND_FROM
from fairmt.data.labels import complete_task, label_values
from fairmt.data.table import as_text, read_table, require_column
from fairmt.tasks import KINDS, Classification, Detection, Layout, Regression, Task

if TYPE_CHECKING:
    from fairmt.estimator import FairMTLearner


@dataclass
class Table:
    """A frame and the roles of its columns.

    Attributes
    ----------
    single : `y` was a plain array (N,): predictions are one too.
    names_in : columns of X if it was a frame; None for an array.
    """

    frame: pd.DataFrame
    tasks: tuple[Task, ...]
    sensitive: tuple[str, ...]
    features: Sequence[str] | Mapping[str, str] | None
    weight: str | None
    split_by: str | None
    single: bool
    n_features: int
    names_in: list[str] | None


def assemble(
    learner: FairMTLearner,
    X: Any,
    y: Any,
    sensitive_features: Any,
    sample_weight: Any,
    groups: Any,
) -> Table:
    """Put everything that was given to `fit` into one frame.

    Raises
    ------
    ValueError
        For inputs of different lengths, or names that clash.
    """
    tasks = parse_tasks(learner)
    if y is None and sensitive_features is None and is_table(X):
        if tasks is None:
            raise ValueError("Name the tasks: FairMTLearner(tasks=[...]), or give y.")
        return _from_one_frame(learner, read_table(X), tasks, sample_weight, groups)
    if y is None:
        raise ValueError(
            "requires y to be passed, but the target y is None; or give one frame that holds the "
            "labels, and name them in tasks."
        )
    frame, names = _features(X)
    n_features = frame.shape[1]
    labels, single = _labels(y, tasks or ())
    attributes = _attributes(learner, sensitive_features, frame)
    _check_lengths(frame, y=labels, sensitive_features=attributes)
    if tasks is None:
        tasks = tuple(infer_task(labels[c]) for c in labels)
    features = learner.features
    if features is None:
        outside = {*attributes.columns, *learner.drop, learner.weight, learner.split_by}
        features = [str(c) for c in frame if c not in outside]
    elif names is None:
        raise ValueError("features names columns, but X is an array without names.")
    frame = frame.reset_index(drop=True)
    for column in labels:
        if column in frame:
            raise ValueError(f"Column '{column}' stands in both X and y.")
        frame[column] = labels[column].to_numpy()
    for column in attributes:
        own = attributes[column].reset_index(drop=True)
        if column in features and not _same(own, frame[column]):
            raise ValueError(
                f"Column '{column}' stands in X and in sensitive_features with different values; "
                "rename one of them."
            )
        frame[column] = own
    weight, split_by = _with_roles(learner, frame, sample_weight, groups)
    return Table(
        frame,
        tuple(_with_classes(t, frame) for t in tasks),
        tuple(attributes.columns),
        features,
        weight,
        split_by,
        single,
        n_features,
        names,
    )


def _from_one_frame(
    learner: FairMTLearner,
    frame: pd.DataFrame,
    tasks: tuple[Task, ...],
    sample_weight: Any,
    groups: Any,
) -> Table:
    frame = frame.reset_index(drop=True)
    features = features_of(learner, frame, tasks)
    names = list(features)
    weight, split_by = _with_roles(learner, frame, sample_weight, groups)
    tasks = tuple(_with_classes(t, frame) for t in tasks)
    return Table(
        frame, tasks, tuple(learner.sensitive), features, weight, split_by, False, len(names), names
    )


def checked_parts(parts: Mapping[str, Any], names: Sequence[str], n: int) -> dict[str, np.ndarray]:
    """Row positions (or masks) of parts that a user made, as positions; the first one trains.

    Raises
    ------
    ValueError
        If a part is absent or empty, holds no rows of the table, or shares some with training.
    """
    found: dict[str, np.ndarray] = {}
    for name in names:
        if name not in parts:
            raise ValueError(f"parts lacks '{name}'; found {sorted(parts)}.")
        rows = np.asarray(parts[name])
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == 0 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n:
            raise ValueError(f"parts['{name}'] must hold row positions from 0 to {n - 1}.")
        shared = np.intersect1d(rows, found.get(names[0], []))
        if len(shared):
            raise ValueError(f"Row {int(shared[0])} stands in '{names[0]}' and in '{name}'.")
        found[name] = rows
    return found


def is_table(X: Any) -> bool:
    """Whether X is a frame or the path of one, and no bare array."""
    return isinstance(X, pd.DataFrame | str | Path) or hasattr(X, "to_pandas")


def features_of(
    learner: FairMTLearner, frame: pd.DataFrame, tasks: Sequence[Task]
) -> Sequence[str] | Mapping[str, str]:
    """The learner's features; by default every column of one frame that has no other role."""
    if learner.features is not None:
        return learner.features
    taken = {c for t in tasks for c in t.columns} | {*learner.sensitive, *learner.drop}
    taken |= {c for c in (learner.weight, learner.split_by) if c is not None}
    return [str(c) for c in frame if c not in taken]


def _with_roles(
    learner: FairMTLearner, frame: pd.DataFrame, sample_weight: Any, groups: Any
) -> tuple[str | None, str | None]:
    """The columns of weights and units; arrays that were passed are added under a free name."""
    names = []
    for own, given, name in (
        (learner.weight, sample_weight, "sample_weight"),
        (learner.split_by, groups, "groups"),
    ):
        if given is not None:
            array = np.asarray(given)
            if array.shape != (len(frame),):
                raise ValueError(f"{name} must be ({len(frame)},). Found shape {array.shape}.")
            own = name
            while own in frame:
                own += "_"
            frame[own] = array
        elif own is not None:
            require_column(frame, own)
        names.append(own)
    return names[0], names[1]


def _with_classes(task: Task, frame: pd.DataFrame) -> Task:
    """Name the classes that all rows have, so that a rare one may be absent from training rows."""
    if task.outputs:
        return task
    for column in task.columns:
        require_column(frame, column)
    return complete_task(task, frame)


def parse_tasks(learner: FairMTLearner) -> tuple[Task, ...] | None:
    """The learner's tasks, and a check of its lists of names."""
    for name in ("tasks", "sensitive", "drop", "continuous"):
        value = getattr(learner, name)
        if isinstance(value, str | Task):
            raise ValueError(f"{name} must be a list; write {name}=[{value!r}].")
    return None if learner.tasks is None else tuple(parse_task(t) for t in learner.tasks)


def parse_task(spec: Task | str) -> Task:
    """'name:kind' or 'name:kind:column,column' to a task.

    Double quotes protect names that hold ``:``, ``,`` or quotes (doubled inside).

    Raises
    ------
    ValueError
        If the kind is unknown or the form is not this.
    """
    if isinstance(spec, Task):
        return spec
    parts = split_quoted(spec, ":")
    if len(parts) not in (2, 3):
        raise ValueError(f"Task {spec!r}: expected NAME:KIND or NAME:KIND:COLUMN,COLUMN.")
    name, kind = unquote(parts[0]), parts[1].strip().lower()
    if kind not in KINDS:
        raise ValueError(f"Task {spec!r}: kind must be one of {sorted(KINDS)}. Found {kind!r}.")
    columns = tuple(unquote(c) for c in split_quoted(parts[2], ",")) if len(parts) == 3 else ()
    if "" in columns:
        raise ValueError(f"Task {spec!r}: a column without a name.")
    if kind == "classification" and len(columns) > 1:
        raise ValueError(f"Task {spec!r}: a classification has one column. Found {list(columns)}.")
    if kind == "classification":
        return Classification(name, columns=columns)
    if kind == "detection":
        return Detection(name, outputs=columns or (name,), columns=columns or (name,))
    return Regression(name, outputs=columns or (name,), columns=columns or (name,))


def split_quoted(text: str, separator: str) -> list[str]:
    """Split at a separator outside double quotes."""
    parts, current, quoted = [], "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        if character == separator and not quoted:
            parts.append(current)
            current = ""
        else:
            current += character
    if quoted:
        raise ValueError(f"Unbalanced double quote in {text!r}.")
    return [*parts, current]


def unquote(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def infer_task(column: pd.Series) -> Task:
    """Numbers with many values are a regression target, everything else is a class."""
    name = str(column.name)
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    whole = numeric and bool((column.dropna() % 1 == 0).all())
    many = not whole or column.nunique() > BAND_FROM
    if numeric and not pd.api.types.is_bool_dtype(column.dtype) and many:
        return Regression(name)
    return Classification(name)


def _features(X: Any) -> tuple[pd.DataFrame, list[str] | None]:
    if hasattr(X, "to_pandas") and not isinstance(X, pd.DataFrame):
        X = X.to_pandas()
    if isinstance(X, pd.DataFrame):
        frame = read_table(X)
        return frame.rename(columns=str), [str(c) for c in frame]
    array = check_array(X, dtype="numeric", ensure_all_finite="allow-nan", ensure_min_samples=2)
    return pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])]), None


def _labels(y: Any, tasks: Sequence[Task]) -> tuple[pd.DataFrame, bool]:
    """The columns of y, and whether it was one plain array."""
    if hasattr(y, "to_pandas") and not isinstance(y, pd.DataFrame | pd.Series):
        y = y.to_pandas()
    if isinstance(y, pd.DataFrame):
        return y.rename(columns=str), False
    if isinstance(y, pd.Series):
        return y.to_frame(str(y.name) if y.name is not None else "y"), True
    if isinstance(y, Mapping):
        own = {t.name: t.columns for t in tasks}
        columns: dict[str, np.ndarray] = {}
        for name, values in y.items():
            array = np.asarray(values)
            if array.ndim not in (1, 2):
                raise ValueError(f"y[{name!r}] must be (N,) or (N, K). Found shape {array.shape}.")
            array = array.reshape(len(array), -1)
            given = tuple(f"{name}.{k}" for k in range(array.shape[1]))
            names = own.get(str(name), (str(name),) if array.shape[1] == 1 else given)
            if len(names) != array.shape[1]:
                raise ValueError(
                    f"y[{name!r}] has {array.shape[1]} columns; task '{name}' has "
                    f"{len(names)}, {list(names)}."
                )
            columns |= {c: array[:, k] for k, c in enumerate(names)}
        return _equally_long(columns, "y"), False
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        from sklearn.exceptions import DataConversionWarning

        warnings.warn(
            "A column-vector y was passed when a 1d array was expected.",
            DataConversionWarning,
            stacklevel=4,
        )
        array = array.ravel()
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise ValueError("Input y contains infinity.")
    if array.ndim == 1:
        return pd.DataFrame({"y": array}), True
    if array.ndim != 2:
        raise ValueError(f"y must be (N,) or (N, K). Found shape {array.shape}.")
    return pd.DataFrame({f"y{k}": array[:, k] for k in range(array.shape[1])}), False


def _attributes(learner: FairMTLearner, given: Any, frame: pd.DataFrame) -> pd.DataFrame:
    if given is None:
        missing = [c for c in learner.sensitive if c not in frame]
        if missing:
            raise ValueError(f"Sensitive attributes {missing} are neither in X nor passed.")
        return frame[list(learner.sensitive)].copy()
    if isinstance(given, Mapping):
        columns = {str(k): np.asarray(v) for k, v in given.items()}
        return _equally_long(columns, "sensitive_features")
    if isinstance(given, pd.DataFrame):
        return given.rename(columns=str)
    if isinstance(given, pd.Series):
        return given.to_frame(str(given.name) if given.name is not None else "group")
    array = np.asarray(given)
    names = list(learner.sensitive)
    if array.ndim == 1:
        return pd.DataFrame({(names or ["group"])[0]: array})
    names = names or [f"attribute{i}" for i in range(array.shape[1])]
    if len(names) != array.shape[1]:
        raise ValueError(f"sensitive names {names}, but {array.shape[1]} columns were passed.")
    return pd.DataFrame(dict(zip(names, array.T, strict=True)))


def _same(a: pd.Series, b: pd.Series) -> bool:
    a, b = as_text(a), as_text(b)
    return bool(((a == b) | (a.isna() & b.isna())).all())


def _check_lengths(frame: pd.DataFrame, **others: pd.DataFrame) -> None:
    for name, other in others.items():
        if other.shape[1] and len(other) != len(frame):
            raise ValueError(
                f"inconsistent numbers of samples: X has {len(frame)} rows, {name} {len(other)}."
            )


def _equally_long(columns: Mapping[str, np.ndarray], what: str) -> pd.DataFrame:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"inconsistent numbers of samples in {what}: {lengths}.")
    return pd.DataFrame(columns)


def as_features(learner: FairMTLearner, X: Any) -> pd.DataFrame:
    """X at prediction, as a frame with the names of `fit`."""
    check_is_fitted(learner, "model_")
    names = getattr(learner, "feature_names_in_", None)
    if is_table(X):
        frame = read_table(X)
        if names is not None:
            return frame
        # Fitted on a bare array: columns count by their place.
        X = frame.to_numpy()
    array = check_array(X, dtype="numeric", ensure_all_finite="allow-nan")
    if array.shape[1] != learner.n_features_in_:
        raise ValueError(
            f"X has {array.shape[1]} features, but {type(learner).__name__} is expecting "
            f"{learner.n_features_in_} features as input."
        )
    if names is None:
        names = [f"x{i}" for i in range(array.shape[1])]
    return pd.DataFrame(array, columns=list(names))


def row_index(X: Any) -> pd.Index | None:
    """The index that predictions for X carry."""
    return X.index if isinstance(X, pd.DataFrame) else None


def labels_of(learner: FairMTLearner, X: Any, y: Any) -> torch.Tensor:
    """Packed labels (N, L) from `y`, or from the frame that holds everything."""
    tasks = learner.schema_.tasks
    layout = Layout(tasks)
    if y is None:
        frame = read_table(X)
    else:
        frame, single = _labels(y, tasks)
        if single and len(tasks) == 1 and len(tasks[0].columns) == 1:
            frame.columns = list(tasks[0].columns)
    packed = torch.full((len(frame), layout.n_labels), torch.nan)
    for task in layout.tasks:
        for column in task.columns:
            require_column(frame, column)
        packed[:, layout.labels[task.name]] = torch.from_numpy(label_values(task, frame)).float()
    return packed
