"""The encoding of a table: which columns are what, fitted on training rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairmt.data.table import TensorTable, as_text, check_finite, read_table, to_tensor
from fairmt.groups import MAX_CATEGORIES, Attribute, Groups
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

RARE = 20
"""Feature categories with fewer training rows are pooled; unseen ones join them at prediction."""
BAND_FROM = 12
"""A numeric sensitive attribute with more distinct values than this is cut into bands."""
_YES = {"1", "yes", "true", "True", "y", "Y", "Yes", "t"}
_NO = {"0", "no", "false", "False", "n", "N", "No", "f"}


@dataclass(frozen=True)
class NumericFeature:
    """Standardised by the training rows; missing becomes the mean, and a flag if that occurs."""

    name: str
    mean: float
    sd: float
    flag: bool


@dataclass(frozen=True)
class CategoricalFeature:
    """One column per category, one for missing if that occurs, one for rare and unseen ones."""

    name: str
    categories: tuple[str, ...]
    flag: bool


@dataclass(frozen=True)
class Schema:
    """How a table becomes tensors. Build it with `Schema.infer`."""

    tasks: tuple[Task, ...]
    groups: Groups
    numeric: tuple[NumericFeature, ...]
    categorical: tuple[CategoricalFeature, ...]
    attributes_as_inputs: bool = False
    weight: str | None = None
    split_by: str | None = None

    @staticmethod
    def infer(
        frame: pd.DataFrame,
        tasks: Sequence[Task],
        sensitive: Sequence[str],
        *,
        features: Sequence[str] | Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        weight: str | None = None,
        split_by: str | None = None,
        bins: Mapping[str, Sequence[float]] | None = None,
        depth: int = 1,
        attributes_as_inputs: bool = False,
    ) -> Schema:
        """Fit the encoding on training rows.

        Parameters
        ----------
        tasks : outputs that are left empty are taken from the rows, and so are the centre and
            scale of regression targets.
        sensitive : columns; numeric ones with more than `BAND_FROM` values are cut at `bins`, or
            into quarters.
        features : columns, or a mapping from column to 'numeric' or 'categorical'. Default: every
            column that has no other role. Numbers are numeric, everything else is categorical.

        Raises
        ------
        ValueError
            Naming the column, task or attribute.
        """
        frame = read_table(frame)
        sensitive = list(sensitive)
        roles = [c for t in tasks for c in t.columns] + sensitive
        roles += [c for c in (weight, split_by) if c is not None]
        chosen = list(features) if features is not None else None
        for column in [*roles, *(chosen or []), *drop]:
            require_column(frame, column)
        if len(frame) < 2:
            raise ValueError("Training needs at least two rows; there is one.")
        if chosen is None:
            taken = {*roles, *drop}
            chosen = [str(c) for c in frame.columns if c not in taken]
        labels = {c for t in tasks for c in t.columns}
        both = [c for c in chosen if c in labels]
        if both:
            raise ValueError(f"Columns {both} are labels and features at once; drop one role.")
        clash = [c for c in chosen if c in sensitive and (bins is None or c not in bins)]
        clash = [c for c in clash if not pd.api.types.is_numeric_dtype(frame[c].dtype)]
        if clash and not attributes_as_inputs:
            raise ValueError(
                f"Columns {clash} are sensitive attributes and features at once; say so with "
                "attributes_as_inputs=True, or leave them out of the features."
            )
        chosen = [c for c in chosen if c not in drop]
        if not chosen and not attributes_as_inputs:
            raise ValueError("No feature is left after labels, attributes and dropped columns.")
        kinds = dict(features) if isinstance(features, Mapping) else {}
        numeric, categorical = [], []
        for column in chosen:
            kind = kinds.get(column) or (
                "numeric" if pd.api.types.is_numeric_dtype(frame[column].dtype) else "categorical"
            )
            if kind == "numeric":
                numeric.append(_numeric(frame[column]))
            elif kind == "categorical":
                categorical.append(_categorical(frame[column]))
            else:
                raise ValueError(
                    f"Feature '{column}': kind must be 'numeric' or 'categorical'. Found {kind!r}."
                )
        return Schema(
            tuple(complete_task(task, frame) for task in tasks),
            fit_groups(frame, sensitive, bins, depth),
            tuple(numeric),
            tuple(categorical),
            attributes_as_inputs,
            weight,
            split_by,
        )

    # -- encoding ---------------------------------------------------------------------------

    @property
    def feature_names(self) -> list[str]:
        """The table's columns that the model sees, without sensitive attributes as inputs."""
        return [f.name for f in self.numeric] + [f.name for f in self.categorical]

    @property
    def input_names(self) -> list[str]:
        """What every input column of the model is."""
        names = []
        for n in self.numeric:
            names += [n.name] + ([f"{n.name} is missing"] if n.flag else [])
        for c in self.categorical:
            names += [f"{c.name}={v}" for v in c.categories]
            names += ([f"{c.name} is missing"] if c.flag else []) + [f"{c.name}=(other)"]
        if self.attributes_as_inputs:
            for a in self.groups.attributes:
                names += [f"{a.name}={v}" for v in a.categories]
        return names

    @property
    def n_inputs(self) -> int:
        return len(self.input_names)

    def encode(
        self, frame: pd.DataFrame, *, labels: bool = True, attributes: bool = True
    ) -> TensorTable:
        """Encode rows, in their order.

        Parameters
        ----------
        labels, attributes : whether the table has them; if not, they come out as missing.

        Raises
        ------
        ValueError
            For absent columns, infinite values, and labels of the wrong kind.
        """
        frame = read_table(frame)
        needed = self.feature_names
        if attributes or self.attributes_as_inputs:
            needed = needed + [a.name for a in self.groups.attributes]
        if labels:
            needed = needed + [c for t in self.tasks for c in t.columns]
        for column in needed:
            require_column(frame, column)
        n = len(frame)
        codes = torch.full((n, len(self.groups.attributes)), -1, dtype=torch.int64)
        if attributes or self.attributes_as_inputs:
            codes = encode_groups(frame, self.groups)
        layout = Layout(self.tasks)
        packed = torch.full((n, layout.n_labels), torch.nan)
        if labels:
            for task in self.tasks:
                packed[:, layout.labels[task.name]] = to_tensor(label_values(task, frame)).float()
        weights = None
        if labels and self.weight is not None and self.weight in frame:
            values = check_finite(frame[self.weight], "Weight column")
            if values.isna().any() or (values < 0).any():
                raise ValueError(f"Weight column '{self.weight}' has missing or negative values.")
            weights = to_tensor(values.to_numpy()).float()
            weights = weights / weights.mean()
        units = None
        if self.split_by is not None and self.split_by in frame:
            units = pd.factorize(frame[self.split_by])[0]
        return TensorTable(to_tensor(self._features(frame, codes)), packed, codes, weights, units)

    def _features(self, frame: pd.DataFrame, codes: torch.Tensor) -> np.ndarray:
        x = np.zeros((len(frame), self.n_inputs), dtype=np.float32)
        at = 0
        for f in self.numeric:
            values = check_finite(frame[f.name], "Feature").to_numpy()
            missing = np.isnan(values)
            x[:, at] = np.where(missing, 0.0, (values - f.mean) / f.sd)
            at += 1
            if f.flag:
                x[:, at] = missing
                at += 1
        for c in self.categorical:
            text = as_text(frame[c.name])
            width = len(c.categories) + 1
            index = pd.Index(c.categories).get_indexer(pd.Index(text))
            missing = text.isna().to_numpy()
            index = np.where(index < 0, len(c.categories) + int(c.flag), index)
            if c.flag:
                index = np.where(missing, len(c.categories), index)
                width += 1
            x[np.arange(len(frame)), at + index] = 1.0
            at += width
        if self.attributes_as_inputs:
            for i, attribute in enumerate(self.groups.attributes):
                known = codes[:, i].numpy() >= 0
                x[np.flatnonzero(known), at + codes[known, i].numpy()] = 1.0
                at += len(attribute.categories)
        return x

    # -- memory -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return {
            "tasks": [t.to_dict() for t in self.tasks],
            "groups": self.groups.to_dict(),
            "numeric": [asdict(f) for f in self.numeric],
            "categorical": [asdict(f) for f in self.categorical],
            "attributes_as_inputs": self.attributes_as_inputs,
            "weight": self.weight,
            "split_by": self.split_by,
        }

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> Schema:
        return Schema(
            tuple(Task.from_dict(t) for t in config["tasks"]),
            Groups.from_dict(config["groups"]),
            tuple(NumericFeature(**f) for f in config["numeric"]),
            tuple(
                CategoricalFeature(f["name"], tuple(f["categories"]), f["flag"])
                for f in config["categorical"]
            ),
            config["attributes_as_inputs"],
            config["weight"],
            config["split_by"],
        )


def require_column(frame: pd.DataFrame, column: str) -> None:
    """Raise ValueError with the nearest names if the table lacks a column."""
    if column not in frame.columns:
        near = get_close_matches(column, [str(c) for c in frame.columns], 3)
        hint = f" Did you mean {near}?" if near else ""
        raise ValueError(f"The table has no column '{column}'.{hint}")


def _numeric(column: pd.Series) -> NumericFeature:
    values = check_finite(column, "Feature")
    sd = float(values.std(ddof=0))
    mean = float(values.mean())
    if not np.isfinite(mean):
        mean = 0.0
    sd = sd if np.isfinite(sd) and sd > 0 else 1.0
    return NumericFeature(str(column.name), mean, sd, bool(values.isna().any()))


def _categorical(column: pd.Series) -> CategoricalFeature:
    text = as_text(column)
    counts = text.value_counts()
    kept = sorted(str(c) for c in counts.index[counts >= min(RARE, max(1, len(column) // 20))])
    return CategoricalFeature(str(column.name), tuple(kept), bool(text.isna().any()))


def fit_groups(
    frame: pd.DataFrame,
    sensitive: Sequence[str],
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
) -> Groups:
    """Groups of the sensitive attributes, as these rows have them."""
    for column in sensitive:
        require_column(frame, column)
    attributes = tuple(_attribute(frame[c], (bins or {}).get(c)) for c in sensitive)
    return Groups(attributes, depth)


def encode_groups(frame: pd.DataFrame, groups: Groups) -> torch.Tensor:
    """Attribute codes (N, A), -1 where missing or unseen (with a warning)."""
    columns = [_codes(frame[a.name], a) for a in groups.attributes]
    if not columns:
        return torch.zeros(len(frame), 0, dtype=torch.int64)
    return to_tensor(np.stack(columns, 1))


def _attribute(column: pd.Series, edges: Sequence[float] | None) -> Attribute:
    name = str(column.name)
    if column.notna().sum() == 0:
        raise ValueError(f"Sensitive attribute '{name}' is missing in every training row.")
    number = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(
        column.dtype
    )
    if edges is None and number and column.nunique() > BAND_FROM:
        values = check_finite(column, "Sensitive attribute")
        edges = sorted({float(f"{q:.3g}") for q in values.quantile([0.25, 0.5, 0.75])})
    if edges is not None:
        edges = [float(e) for e in edges]
        if edges != sorted(set(edges)) or not edges:
            raise ValueError(f"bins of '{name}' must rise strictly. Found {edges}.")
        names = [f"below {edges[0]:g}"]
        names += [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
        names += [f"{edges[-1]:g} and above"]
        return Attribute(name, tuple(names), tuple(edges))
    categories = sorted(as_text(column).dropna().unique())
    if len(categories) > MAX_CATEGORIES:
        raise ValueError(
            f"Sensitive attribute '{name}' has {len(categories)} groups, more than "
            f"{MAX_CATEGORIES}; cut it into bands, pool its categories, or leave it out."
        )
    return Attribute(name, tuple(categories))


def _codes(column: pd.Series, attribute: Attribute) -> np.ndarray:
    if attribute.edges:
        values = check_finite(column, "Sensitive attribute").to_numpy()
        band = np.digitize(values, attribute.edges)
        return np.where(np.isnan(values), -1, band).astype(np.int64)
    text = as_text(column)
    codes = pd.Index(attribute.categories).get_indexer(pd.Index(text)).astype(np.int64)
    unseen = sorted(text[(codes < 0) & text.notna().to_numpy()].unique())
    if unseen:
        warnings.warn(
            f"Sensitive attribute '{attribute.name}' holds groups that training did not have: "
            f"{unseen[:5]}. Their rows are predicted, and judged in no group of this attribute.",
            stacklevel=3,
        )
    return codes


def complete_task(task: Task, frame: pd.DataFrame) -> Task:
    """Fill in classes, labels, centre and scale, and check the labels."""
    if isinstance(task, Classification) and not task.outputs:
        classes = as_text(frame[task.columns[0]]).dropna().unique()
        if len(classes) == 0:
            raise ValueError(f"Task '{task.name}' has no observed label in the training rows.")
        if len(classes) == 1:
            raise ValueError(
                f"Task '{task.name}' has one class only, {classes[0]!r}, in the training rows."
            )
        if len(classes) > MAX_CATEGORIES:
            raise ValueError(
                f"Task '{task.name}' has {len(classes)} classes; is it a regression task?"
            )
        task = replace(task, outputs=tuple(sorted(classes, key=_class_order)))
    elif isinstance(task, Detection) and not task.outputs:
        task = replace(task, outputs=task.columns)
    labels = label_values(task, frame)
    for k in range(labels.shape[1]):
        own = labels[:, k]
        known = own[~np.isnan(own)]
        what = f"Task '{task.name}'"
        if labels.shape[1] > 1:
            what += f", output '{task.outputs[k]}',"
        if len(known) == 0:
            raise ValueError(f"{what} has no observed label in the training rows.")
        if len(np.unique(known)) == 1:
            raise ValueError(
                f"{what} has one value only in the training rows; there is nothing to learn."
            )
    if isinstance(task, Regression):
        centre, scale = np.nanmean(labels, 0), np.nanstd(labels, 0)
        task = replace(task, centre=tuple(centre.tolist()), scale=tuple(scale.tolist()))
    return task


def _class_order(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def label_values(task: Task, frame: pd.DataFrame) -> np.ndarray:
    """Labels (N, width), NaN where missing."""
    if isinstance(task, Classification):
        text = as_text(frame[task.columns[0]])
        codes = pd.Index(task.outputs).get_indexer(pd.Index(text)).astype(float)
        unknown = (codes < 0) & text.notna().to_numpy()
        if unknown.any():
            row = int(np.flatnonzero(unknown)[0])
            raise ValueError(
                f"Task '{task.name}': row {row} has the class {text.iloc[row]!r}, which training "
                f"did not have; expected one of {list(task.outputs)[:10]}."
            )
        return np.where(codes < 0, np.nan, codes)[:, None]
    columns = []
    for column in task.columns:
        if isinstance(task, Regression):
            columns.append(check_finite(frame[column], f"Target of task '{task.name}'").to_numpy())
            continue
        text = as_text(frame[column])
        yes, no = text.isin(_YES).to_numpy(), text.isin(_NO).to_numpy()
        wrong = ~(yes | no) & text.notna().to_numpy()
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"Task '{task.name}': label '{column}' holds {text.iloc[row]!r} in row {row}; "
                "detection labels are 0 or 1, yes or no."
            )
        columns.append(np.where(yes, 1.0, np.where(no, 0.0, np.nan)))
    return np.stack(columns, 1)
