"""The many forms of X, y and sensitive features, as one frame with named roles."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_array, check_is_fitted

from fairmt.data.schema import BAND_FROM
from fairmt.data.table import read_table
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
    tasks = None if learner.tasks is None else tuple(parse_task(t) for t in learner.tasks)
    if y is None and sensitive_features is None and isinstance(X, pd.DataFrame | str):
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
    labels, single = _labels(y, len(frame))
    attributes = _attributes(learner, sensitive_features, frame)
    _check_lengths(frame, labels=labels, sensitive_features=attributes)
    if tasks is None:
        tasks = tuple(infer_task(labels[c]) for c in labels)
    frame = frame.reset_index(drop=True)
    features = learner.features
    if features is None:
        outside = {*attributes.columns, *(c for c in labels if names is None), *learner.drop}
        features = [str(c) for c in frame if c not in outside]
    elif names is None:
        raise ValueError("features names columns, but X is an array without names.")
    for other, what in ((labels, "y"), (attributes, "sensitive_features")):
        for column in other:
            if column in frame and what == "y":
                raise ValueError(f"Column '{column}' stands in both X and y.")
            frame[column] = other[column].to_numpy()
    weight, split_by = learner.weight, learner.split_by
    if sample_weight is not None:
        weight = "sample_weight"
        frame[weight] = _column(sample_weight, len(frame), "sample_weight")
    if groups is not None:
        split_by = "groups"
        frame[split_by] = _column(groups, len(frame), "groups")
    return Table(
        frame,
        tasks,
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
    weight, split_by = learner.weight, learner.split_by
    frame = frame.reset_index(drop=True)
    taken = {c for t in tasks for c in t.columns} | set(learner.sensitive) | set(learner.drop)
    taken |= {c for c in (weight, split_by) if c is not None}
    features = learner.features
    if features is None:
        features = [str(c) for c in frame if c not in taken]
    if sample_weight is not None:
        weight = "sample_weight"
        frame[weight] = _column(sample_weight, len(frame), weight)
    if groups is not None:
        split_by = "groups"
        frame[split_by] = _column(groups, len(frame), split_by)
    names = [str(f) for f in features]
    return Table(
        frame, tasks, tuple(learner.sensitive), features, weight, split_by, False, len(names), names
    )


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


def _labels(y: Any, n: int) -> tuple[pd.DataFrame, bool]:
    if hasattr(y, "to_pandas") and not isinstance(y, pd.DataFrame | pd.Series):
        y = y.to_pandas()
    if isinstance(y, pd.DataFrame):
        return y.rename(columns=str), False
    if isinstance(y, pd.Series):
        return y.to_frame(str(y.name) if y.name is not None else "y"), True
    if isinstance(y, Mapping):
        columns = {}
        for name, values in y.items():
            array = np.asarray(values)
            if array.ndim == 1:
                columns[str(name)] = array
            else:
                columns |= {f"{name}.{k}": array[:, k] for k in range(array.shape[1])}
        return pd.DataFrame(columns), False
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
        return pd.DataFrame({str(k): np.asarray(v) for k, v in given.items()})
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


def _check_lengths(frame: pd.DataFrame, **others: pd.DataFrame) -> None:
    for name, other in others.items():
        if other.shape[1] and len(other) != len(frame):
            raise ValueError(
                f"inconsistent numbers of samples: X has {len(frame)} rows, {name} {len(other)}."
            )


def _column(values: Any, n: int, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"{name} must be ({n},). Found shape {array.shape}.")
    return array


def as_features(learner: FairMTLearner, X: Any) -> pd.DataFrame:
    """X at prediction, as a frame with the names of `fit`."""
    check_is_fitted(learner, "model_")
    if isinstance(X, pd.DataFrame) or hasattr(X, "to_pandas"):
        return read_table(X).rename(columns=str)
    array = check_array(X, dtype="numeric", ensure_all_finite="allow-nan")
    if array.shape[1] != learner.n_features_in_:
        raise ValueError(
            f"X has {array.shape[1]} features, but {type(learner).__name__} is expecting "
            f"{learner.n_features_in_} features as input."
        )
    return pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])


def labels_of(learner: FairMTLearner, X: Any, y: Any) -> torch.Tensor:
    """Packed labels (N, L) from `y`, or from the frame that holds everything."""
    from fairmt.data.schema import label_values

    frame = read_table(X) if y is None else _labels(y, 0)[0]
    layout = Layout(learner.schema_.tasks)
    packed = torch.full((len(frame), layout.n_labels), torch.nan)
    for task in layout.tasks:
        packed[:, layout.labels[task.name]] = torch.from_numpy(label_values(task, frame)).float()
    return packed
