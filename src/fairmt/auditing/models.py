"""Audit an estimator: scikit-learn, fairlearn, or anything with `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.naming import find_outputs
from fairmt.auditing.predictions import audit
from fairmt.auditing.result import AuditResult
from fairmt.data.table import as_text
from fairmt.frames import infer_task
from fairmt.tasks import Classification, Regression, Task


def audit_model(
    model: Any,
    X: Any,
    y: Any,
    *,
    sensitive: Any,
    tasks: Sequence[Task] | None = None,
    predict: dict[str, Any] | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit a fitted model on rows with known outcomes.

    Parameters
    ----------
    model : has ``predict(X)`` giving one column per outcome, and for probabilities
        ``predict_proba(X)`` and ``classes_``.
    y : series, array or frame; a column per outcome, missing entries allowed.
    sensitive : table, series or array of attributes, row by row.
    tasks : one task per column of `y`; default: classes or numbers, as the model's own kind or
        the values say.
    predict : further arguments of ``predict``, such as fairlearn's ``sensitive_features``.
    settings : see `fairmt.audit`.
    """
    truth = _as_frame(y)
    predicted = _as_frame(model.predict(X, **(predict or {})))
    if predicted.shape != truth.shape:
        raise ValueError(
            f"The model predicts {predicted.shape[1]} columns for {len(predicted)} rows; y has "
            f"{truth.shape[1]} columns and {len(truth)} rows."
        )
    chosen = list(tasks) if tasks is not None else [_task(model, truth[c]) for c in truth]
    if len(chosen) != truth.shape[1]:
        raise ValueError(f"{len(chosen)} tasks for {truth.shape[1]} columns of y; name one each.")
    columns: dict[str, Any] = {}
    for position, task in enumerate(chosen):
        if task.kind == "detection":
            task = find_outputs(task, [])
            columns[f"{task.name}.decision"] = predicted.iloc[:, position]
        else:
            columns[task.name] = predicted.iloc[:, position]
        columns[f"{task.name}.true"] = truth.iloc[:, position].reset_index(drop=True)
        chosen[position] = task
    if len(chosen) == 1 and isinstance(chosen[0], Classification):
        columns |= _probabilities(model, X, chosen[0], columns)
    return audit(columns, tasks=chosen, sensitive=sensitive, **settings)


def _as_frame(values: Any) -> pd.DataFrame:
    if isinstance(values, pd.DataFrame):
        return values.rename(columns=str).reset_index(drop=True)
    if isinstance(values, pd.Series):
        return values.rename(str(values.name or "outcome")).reset_index(drop=True).to_frame()
    array = np.asarray(values)
    if array.ndim == 1:
        return pd.DataFrame({"outcome": array})
    return pd.DataFrame({f"outcome{i}": array[:, i] for i in range(array.shape[1])})


def _task(model: Any, column: pd.Series) -> Task:
    from sklearn.base import is_classifier, is_regressor

    if is_classifier(model):
        return Classification(str(column.name))
    if is_regressor(model):
        return Regression(str(column.name))
    return infer_task(column)


def _probabilities(
    model: Any, X: Any, task: Classification, columns: dict[str, Any]
) -> dict[str, Any]:
    """Probabilities by class; none where the model has none, or not for every class."""
    if not (hasattr(model, "predict_proba") and hasattr(model, "classes_")):
        return {}
    p = np.asarray(model.predict_proba(X), dtype=np.float64)
    names = list(as_text(pd.Series(np.asarray(model.classes_))))
    seen = as_text(pd.Series(columns[f"{task.name}.true"])).dropna()
    if not set(seen) <= set(names):
        return {}
    return {f"{task.name}.{name}": p[:, k] for k, name in enumerate(names)}
