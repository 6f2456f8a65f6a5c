"""Prediction consistency: does a decision change when only what is sensitive does?

Columns of a table are set to other values, everybody's at once, and the model is asked again. No
outcome is needed, and the model itself is: an audit of predictions cannot tell this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.intervals import percentile, wilson
from fairmt.data.schema import row_weights
from fairmt.data.split import unit_codes
from fairmt.data.table import as_text, is_number, read_table, require_column
from fairmt.decoding import target_name
from fairmt.tasks import Regression

SAME, CHANGE = "same decision", "change in sd"


@dataclass(frozen=True)
class Consistency:
    """How far predictions stay the same.

    Attributes
    ----------
    settings : what columns were set to; the i-th values together, one setting after the other.
    table : a row per predicted column: output, statistic, n, value, low, high. Of decisions, the
        value is the share of rows with the same one under all settings; of numbers, the mean
        distance between the largest and the smallest prediction, in standard deviations.
    """

    settings: dict[str, tuple[Any, ...]]
    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()


def prediction_consistency(
    model: Any,
    data: Any,
    settings: Mapping[str, Sequence[Any] | None],
    *,
    scale: Mapping[str, float] | None = None,
    weight: str | None = None,
    cluster: str | None = None,
    confidence: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> Consistency:
    """Ask a model again with columns set to other values.

    Parameters
    ----------
    model : a fitted learner, anything with ``predict``, or a function from a frame to predictions:
        a frame, a mapping from name to array, or an array (N,).
    data : frame, Arrow or polars table, or path; see `fairmt.data.read_table`.
    settings : mapping from column to the values that it is set to; None for every value it has.
        Several columns are set together, the i-th values of all of them at once: ``{"sex":
        ["men", "women"], "relationship": ["Husband", "Wife"]}`` asks twice.
    scale : standard deviation of every output that is a number. A learner knows those of its
        targets. All other outputs are decisions.
    weight, cluster : columns with sample weights, and with the unit (household, patient) whose
        rows belong together in the bootstrap.

    Raises
    ------
    ValueError
        Naming the column, value or output.

    Notes
    -----
    Intervals are percentiles of a bootstrap over clusters, by default rows. Where no cluster
    differs (all decisions stay, or none), they are Wilson's with the number of clusters.
    """
    frame = read_table(data)
    chosen = _settings(model, frame, settings)
    n_settings = len(next(iter(chosen.values())))
    answers = [
        _answers(model, frame.assign(**{c: values[i] for c, values in chosen.items()}))
        for i in range(n_settings)
    ]
    scales = _scales(model) | dict(scale or {})
    weights = np.ones(len(frame))
    if weight is not None:
        require_column(frame, weight)
        weights = row_weights(frame[weight])
    units = np.arange(len(frame))
    if cluster is not None:
        require_column(frame, cluster)
        units = unit_codes(frame[cluster])
    rows = np.stack([_by_row(name, answers, scales) for name in answers[0]], 1)
    mass = np.bincount(units, weights)
    sums = np.stack([np.bincount(units, weights * rows[:, k]) for k in range(rows.shape[1])], 1)
    value = sums.sum(0) / mass.sum()
    low, high = percentile(_bootstrap(sums, mass, n_boot, seed), confidence)
    table = pd.DataFrame(
        {
            "output": list(answers[0]),
            "statistic": [CHANGE if name in scales else SAME for name in answers[0]],
            "n": weights.sum() ** 2 / (weights**2).sum(),
            "value": value,
            "low": low,
            "high": high,
        }
    )
    unanimous = (table["statistic"] == SAME) & np.isin(value, (0.0, 1.0))
    ends = wilson(value, np.full(len(value), float((mass > 0).sum())), confidence)
    table["low"], table["high"] = (
        table[side].where(~unanimous, end) for side, end in zip(("low", "high"), ends, strict=True)
    )
    return Consistency(chosen, table)


def _settings(
    model: Any, frame: pd.DataFrame, settings: Mapping[str, Sequence[Any] | None]
) -> dict[str, tuple[Any, ...]]:
    if not settings:
        raise ValueError("Name a column and the values that it is set to.")
    chosen: dict[str, tuple[Any, ...]] = {}
    for column, values in settings.items():
        require_column(frame, column)
        if isinstance(values, str):
            raise ValueError(f"Column '{column}': give a list of values, not {values!r}.")
        if values is None:
            values = sorted(frame[column].dropna().unique().tolist(), key=str)
        if len(values) < 2:
            raise ValueError(f"Column '{column}' needs two values or more. Found {list(values)}.")
        chosen[column] = tuple(values)
    counts = {column: len(values) for column, values in chosen.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"Columns are set together and need equally many values. Found {counts}; ask for one "
            "column at a time, or name all combinations."
        )
    schema = getattr(model, "schema_", None)
    if schema is not None:
        _check_inputs(schema, frame, chosen)
    return chosen


def _check_inputs(schema: Any, frame: pd.DataFrame, chosen: Mapping[str, tuple[Any, ...]]) -> None:
    """Warn if nothing that the model sees is set; refuse values that nobody has."""
    inputs = set(schema.feature_names)
    known = {f.name: set(f.categories) for f in schema.categorical}
    if schema.attributes_as_inputs:
        inputs |= {a.name for a in schema.groups.attributes}
        known |= {a.name: set(a.categories) for a in schema.groups.attributes if not a.edges}
    if not inputs & set(chosen):
        warnings.warn(
            f"The model does not see {list(chosen)}, so that its predictions cannot depend on "
            "them; set the columns that stand for them.",
            stacklevel=4,
        )
    for column in set(chosen) & set(known):
        here = known[column] | set(as_text(frame[column]).dropna())
        strange = [
            v
            for v, t in zip(chosen[column], as_text(pd.Series(chosen[column])), strict=True)
            if t not in here
        ]
        if strange:
            raise ValueError(
                f"Column '{column}' never holds {strange}; expected some of {sorted(here)[:20]}."
            )


def _answers(model: Any, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Predictions (N,) by output."""
    predict: Callable[[Any], Any] = getattr(model, "predict", model)
    found = predict(frame)
    if isinstance(found, pd.DataFrame | Mapping):
        answers = {str(name): np.asarray(found[name]) for name in found}
    else:
        schema = getattr(model, "schema_", None)
        name = "prediction" if schema is None else schema.tasks[0].name
        answers = {name: np.asarray(found)}
    for name, values in answers.items():
        if values.shape != (len(frame),):
            raise ValueError(
                f"Output '{name}' must be ({len(frame)},), one value a row. Found {values.shape}."
            )
        if pd.isna(values).any():
            raise ValueError(f"Output '{name}' is missing for some rows; predict all of them.")
    return answers


def _scales(model: Any) -> dict[str, float]:
    """Standard deviations of a learner's targets, by output."""
    schema = getattr(model, "schema_", None)
    return {
        target_name(task, output): spread
        for task in (() if schema is None else schema.tasks)
        if isinstance(task, Regression)
        for output, spread in zip(task.outputs, task.scale, strict=True)
    }


def _by_row(
    name: str, answers: Sequence[Mapping[str, np.ndarray]], scales: Mapping[str, float]
) -> np.ndarray:
    """(N,): 1 where the decision is always the same, or the range of the numbers in sd."""
    columns = [a[name] for a in answers]
    if name in scales:
        if not scales[name] > 0:
            raise ValueError(f"scale of '{name}' must be positive. Found {scales[name]}.")
        return np.ptp(np.stack(columns).astype(np.float64), axis=0) / scales[name]
    stacked = np.concatenate(columns)
    if is_number(stacked.dtype) and (stacked != np.round(stacked)).any():
        raise ValueError(
            f"Output '{name}' holds numbers, no decisions: give the standard deviation of its "
            f"target, scale={{'{name}': ...}}, or predict decisions."
        )
    codes = pd.factorize(stacked)[0].reshape(len(columns), -1)
    return (codes == codes[0]).all(0).astype(np.float64)


def _bootstrap(sums: np.ndarray, mass: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Weighted means (R, O), clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(mass)
    found = np.empty((replicates, sums.shape[1]))
    for r in range(replicates):
        times = np.bincount(rng.integers(n, size=n), minlength=n)
        found[r] = times @ sums / (times @ mass)
    return found
