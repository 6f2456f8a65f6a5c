"""Labels hidden among the features, and attributes that the features give away.

A feature leaks when it is a label or its near copy, when its values settle a label for a large
share of the rows, or when it is another model's prediction of one. These are checks of data, not
of causes: a feature can be unusable in practice and pass them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fairmt.data.labels import complete_task, label_values
from fairmt.data.table import as_text
from fairmt.groups import Groups
from fairmt.tasks import Task

SAMPLE = 40_000
LEVELS = 50
EXPLAINED = 0.92
"""Share of a target's variance that one feature may explain before it counts as a copy."""
SUSPICIOUS = 0.6
SETTLED = 0.10
"""Share of rows for which a feature's values may settle a label."""
GIVEN_AWAY = 0.8
"""Area under the curve from which on an attribute counts as given away by the features."""
FEW = 30
"""Rows of a class below which a perfect fit may be chance."""
_PREDICTION = re.compile(r"(^|_)(pred|predicted|prediction|predictions|yhat|proba|prob)($|_)", re.I)


class LeakageError(ValueError):
    """A label, or its near copy, stands among the features."""


@dataclass(frozen=True)
class Finding:
    """One feature that gives a label away."""

    column: str
    label: str
    reason: str
    severe: bool

    def __str__(self) -> str:
        return f"'{self.column}' {self.reason} ({self.label})"


def find_leakage(
    frame: pd.DataFrame, tasks: Sequence[Task], features: Sequence[str], seed: int = 0
) -> list[Finding]:
    """All findings, severe ones first."""
    tasks = [t if t.outputs else complete_task(t, frame) for t in tasks]
    if len(frame) > SAMPLE:
        frame = frame.sample(SAMPLE, random_state=seed)
    labels = _label_columns(frame, tasks)
    findings = []
    for column in features:
        codings = [_levels(frame[column])]
        missing = frame[column].isna().to_numpy()
        if missing.any() and not missing.all():
            # Who has a value at all may tell more than any single value does.
            codings.append(missing.astype(np.int64))
        own = [_compare(str(column), codes, *label) for codes in codings for label in labels]
        found = sorted((f for f in own if f is not None), key=lambda f: not f.severe)
        findings += found[:1]
    return sorted(findings, key=lambda f: not f.severe)


def check_leakage(frame: pd.DataFrame, tasks: Sequence[Task], features: Sequence[str]) -> None:
    """Raise for severe findings, warn for the others.

    Raises
    ------
    LeakageError
        Naming the columns, what they give away, and how to leave them out.
    """
    findings = find_leakage(frame, tasks, features)
    severe = [f for f in findings if f.severe]
    if severe:
        columns = ",".join(f.column for f in severe)
        raise LeakageError(
            "Features give labels away: "
            + "; ".join(str(f) for f in severe)
            + f". Leave them out (drop={columns})."
        )
    for finding in findings:
        warnings.warn(f"Feature {finding}. Is it known when the model predicts?", stacklevel=3)


def _label_columns(
    frame: pd.DataFrame, tasks: Sequence[Task]
) -> list[tuple[str, np.ndarray, bool]]:
    """Name, values and whether they are numbers: every label, and 'any label' of detection."""
    columns = []
    for task in tasks:
        values = label_values(task, frame)
        for k in range(values.shape[1]):
            name = task.name if values.shape[1] == 1 else f"{task.name}.{task.outputs[k]}"
            columns.append((f"label '{name}'", values[:, k], task.kind == "regression"))
        if task.kind == "detection" and values.shape[1] > 1:
            some = np.where(np.isnan(values).any(1), np.nan, np.nanmax(values, 1, initial=0))
            columns.append((f"whether any label of '{task.name}' holds", some, False))
    return columns


def _levels(column: pd.Series) -> np.ndarray:
    """Codes of a feature's values, at most `LEVELS` bins for numbers; missing is a value too."""
    if pd.api.types.is_numeric_dtype(column.dtype) and column.nunique() > LEVELS:
        # Ties (a spike at zero, say) keep a bin of their own.
        ranks = column.rank(pct=True, method="average")
        codes = pd.factorize(np.ceil(ranks * LEVELS), use_na_sentinel=False)[0]
    else:
        codes = pd.factorize(as_text(column), use_na_sentinel=False)[0]
    return codes


def _compare(
    column: str, codes: np.ndarray, label: str, values: np.ndarray, numeric: bool
) -> Finding | None:
    known = ~np.isnan(values)
    codes, values = codes[known], values[known]
    n = len(values)
    n_codes = int(codes.max()) + 1 if n else 0
    # A feature with a value per row (a name, an identifier) would settle anything.
    if n < 50 or n_codes > n / 5:
        return None
    if numeric:
        return _explains(column, codes, label, values)
    return _settles(column, codes, label, values)


def _explains(column: str, codes: np.ndarray, label: str, values: np.ndarray) -> Finding | None:
    count = np.bincount(codes)
    mean = np.bincount(codes, values) / np.maximum(count, 1)
    total = values.var()
    if total == 0:
        return None
    # Adjusted for the number of levels, so that many small ones explain nothing by chance.
    residual = ((values - mean[codes]) ** 2).sum() / max(1, len(values) - (count > 0).sum())
    share = 1 - residual / total
    if share < SUSPICIOUS:
        return None
    reason = f"explains {share:.0%} of the variance"
    return Finding(column, label, reason, share >= EXPLAINED)


def _settles(column: str, codes: np.ndarray, label: str, values: np.ndarray) -> Finding | None:
    index = np.unique(values, return_inverse=True)[1]
    k = int(index.max()) + 1
    if k < 2:
        return None
    table = np.bincount(codes * k + index, minlength=(int(codes.max()) + 1) * k).reshape(-1, k)
    n, per_code = table.sum(), table.sum(1)
    base = table.sum(0).max() / n
    right = table.max(1).sum() / n
    if 1 - right <= 0.02 * (1 - base) or right >= 0.999 > base:
        return Finding(column, label, f"settles it for {right:.1%} of the rows", True)
    share = table.sum(0) / n
    missed = np.minimum(table, per_code[:, None] - table).sum(0) / n
    rarer = np.minimum(share, 1 - share)
    if ((missed <= 0.02 * rarer) & (rarer * n >= FEW)).any():
        return Finding(column, label, "settles whether one of its classes holds", True)
    pure = (table.max(1) >= 0.9995 * per_code) & (per_code >= 50)
    # By chance alone a pure value of that size would be next to impossible.
    pure &= per_code * (1 - base) >= 25
    # Without an exception in 500 rows there are at most 6 in 1,000 (95 %); fewer rows may be
    # those of a feature that is merely strong.
    surely, likely = (per_code[pure & (per_code >= rows)].sum() / n for rows in (500, 50))
    if surely >= SETTLED and base <= 0.9:
        return Finding(column, label, f"settles it for {surely:.0%} of the rows", True)
    if _PREDICTION.search(column) and _explained(table) > 0.03:
        return Finding(column, label, "is called a prediction, and predicts", True)
    if likely >= SETTLED and base <= 0.9:
        return Finding(column, label, f"settles it for {likely:.0%} of the rows, it seems", False)
    if 1 - right < 0.2 * (1 - base):
        return Finding(column, label, f"predicts it for {right:.1%} of the rows", False)
    return None


def _explained(table: np.ndarray) -> float:
    """Largest share of the variance of a class's indicator that the feature explains.

    Adjusted for the number of levels, as in `_explains`.
    """
    n, levels = table.sum(), (table.sum(1) > 0).sum()
    per_code = np.maximum(table.sum(1), 1)
    share = table.sum(0) / n
    between = (per_code[:, None] * (table / per_code[:, None] - share) ** 2).sum(0) / n
    explained = (between / np.maximum(share * (1 - share), 1e-12)).max()
    return float(1 - (1 - explained) * (n - 1) / max(1, n - levels))


def proxy_strength(features: object, codes: object, groups: Groups) -> dict[str, float]:
    """How well the inputs give each attribute away, from .5 (not at all) to 1 (wholly).

    Mean area under the ROC curve, one group against the rest, of a ridge regression on half of
    the rows, measured on the other half.

    Parameters
    ----------
    features : Tensor (N, D); codes : Tensor (N, A).
    """
    from sklearn.linear_model import Ridge
    from sklearn.metrics import roc_auc_score

    # Neighbouring pixels are nearly alike: in single precision their equations cannot be solved.
    x, a = np.asarray(features)[:10_000].astype(float), np.asarray(codes)[:10_000]
    strength = {}
    for i, attribute in enumerate(groups.attributes):
        known = np.flatnonzero(a[:, i] >= 0)
        fit, look = known[::2], known[1::2]
        one_hot = np.eye(len(attribute.categories))[a[:, i]]
        areas = []
        if len(fit) > 20:
            found = Ridge(alpha=1.0).fit(x[fit], one_hot[fit]).predict(x[look])
            for g in range(len(attribute.categories)):
                truth = one_hot[look, g]
                if 5 <= truth.sum() <= len(look) - 5:
                    areas.append(float(roc_auc_score(truth, found[:, g])))
        if areas:
            strength[attribute.name] = float(np.mean(areas))
    return strength


def warn_of_proxies(strength: Mapping[str, float], as_inputs: bool) -> None:
    """Say which attributes the features give away; silent where the model sees them anyway."""
    told = {a: s for a, s in strength.items() if s >= GIVEN_AWAY}
    if told and not as_inputs:
        listed = ", ".join(f"{a} ({s:.2f})" for a, s in told.items())
        warnings.warn(
            f"The features give sensitive attributes away: {listed}; .5 would be not at all, 1 "
            "wholly. The model can act on them without being shown them.",
            stacklevel=5,
        )
