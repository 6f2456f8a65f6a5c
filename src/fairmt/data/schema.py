"""The encoding of a table: which columns are what, fitted on training rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairmt.data.attributes import AttributeFit, encode_groups
from fairmt.data.labels import TaskFit, label_values
from fairmt.data.split import unit_codes
from fairmt.data.summaries import Numbers, Texts
from fairmt.data.table import (
    TensorTable,
    as_text,
    check_finite,
    is_number,
    read_table,
    require_column,
    row_name,
    to_tensor,
)
from fairmt.data.wide import KINDS as WIDE
from fairmt.data.wide import WideFeature, wide_from_dict, wide_to_dict
from fairmt.groups import Groups
from fairmt.tasks import Layout, Task

RARE = 20
"""Feature categories with fewer training rows are pooled; unseen ones join them at prediction."""
WIDEST = 1_000
"""The most categories of one feature that get an input each; the rest is pooled as rare."""


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
class ContinuousAttribute:
    """A sensitive attribute that methods may use as a number, standardised by the training rows."""

    name: str
    mean: float
    sd: float


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
    continuous: tuple[ContinuousAttribute, ...] = ()
    wide: tuple[WideFeature, ...] = ()

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
        continuous: Sequence[str] = (),
    ) -> Schema:
        """Fit the encoding on training rows.

        Parameters
        ----------
        tasks : outputs that are left empty are taken from the rows, and so are the centre and
            scale of regression targets.
        sensitive : columns; numeric ones with more than `BAND_FROM` values are cut at `bins`, or
            into quarters.
        features : columns, or a mapping from column to 'numeric', 'categorical', 'text', 'words'
            or 'image' (see `fairmt.data.wide`). Default: every column that has no other role.
            Numbers are numeric, everything else, yes and no included, is categorical.
        continuous : numeric sensitive attributes that methods shall use as numbers; to judge, they
            are cut into bands all the same.

        Raises
        ------
        ValueError
            Naming the column, task or attribute.
        """
        frame = read_table(frame)
        fit = SchemaFit(
            frame,
            tasks,
            sensitive,
            features=features,
            drop=drop,
            weight=weight,
            split_by=split_by,
            bins=bins,
            depth=depth,
            attributes_as_inputs=attributes_as_inputs,
            continuous=continuous,
        )
        fit.add(frame)
        return fit.finish()

    # -- encoding ---------------------------------------------------------------------------

    @property
    def feature_names(self) -> list[str]:
        """The table's columns that the model sees, without sensitive attributes as inputs."""
        return self.table_features + [w.name for w in self.wide]

    @property
    def table_features(self) -> list[str]:
        """Those of them that are numbers and categories, and no texts or pictures."""
        return [n.name for n in self.numeric] + [c.name for c in self.categorical]

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
        for w in self.wide:
            names += [f"{w.name}[{i}]" for i in range(math.prod(w.shape))]
        return names

    @property
    def n_inputs(self) -> int:
        return self.n_table_inputs + sum(math.prod(w.shape) for w in self.wide)

    @property
    def n_table_inputs(self) -> int:
        """Input columns before those of texts and pictures."""
        return sum(self.spans)

    @property
    def spans(self) -> list[int]:
        """Input columns of every feature of the table, in their order."""
        found = [1 + n.flag for n in self.numeric]
        found += [len(c.categories) + 1 + c.flag for c in self.categorical]
        if self.attributes_as_inputs:
            found += [len(a.categories) for a in self.groups.attributes]
        return found

    def encode(
        self,
        frame: pd.DataFrame,
        *,
        labels: bool = True,
        attributes: bool = True,
        mean_weight: float | None = None,
    ) -> TensorTable:
        """Encode rows, in their order.

        Parameters
        ----------
        labels, attributes : whether the table has them; if not, they come out as missing.
        mean_weight : what weights are divided by; default: their mean in these rows.

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
            values = row_weights(frame[self.weight])
            mean = values.mean() if mean_weight is None else mean_weight
            if not mean > 0:
                raise ValueError(f"Every weight in column '{self.weight}' is zero.")
            weights = to_tensor(values / mean).float()
        units = None
        if self.split_by is not None and self.split_by in frame:
            units = unit_codes(frame[self.split_by])
        numbers = self._values(frame) if self.continuous and attributes else None
        features = to_tensor(self._features(frame, codes))
        return TensorTable(features, packed, codes, weights, units, numbers)

    def _values(self, frame: pd.DataFrame) -> torch.Tensor:
        names = [a.name for a in self.groups.attributes]
        values = torch.full((len(frame), len(names)), torch.nan)
        for c in self.continuous:
            found = check_finite(frame[c.name], "Sensitive attribute").to_numpy()
            values[:, names.index(c.name)] = to_tensor((found - c.mean) / c.sd).float()
        return values

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
        for w in self.wide:
            width = math.prod(w.shape)
            x[:, at : at + width] = w.encode(frame[w.name])
            at += width
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
            "continuous": [asdict(c) for c in self.continuous],
            "wide": [wide_to_dict(w) for w in self.wide],
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
            # Absent from schemas that were saved before there were any.
            tuple(ContinuousAttribute(**c) for c in config.get("continuous", ())),
            tuple(wide_from_dict(w) for w in config.get("wide", ())),
        )


def row_weights(column: pd.Series) -> np.ndarray:
    """Sample weights (N,), as they stand in the table.

    Raises
    ------
    ValueError
        If one is missing or negative.
    """
    values = check_finite(column, "Weight column")
    wrong = values.isna() | (values < 0)
    if wrong.any():
        row = row_name(column, int(np.flatnonzero(wrong)[0]))
        raise ValueError(
            f"Weight column '{column.name}' is missing or negative in row {row}; expected 0 or "
            "more."
        )
    return values.to_numpy()


def _numeric(like: pd.DataFrame, continuous: Sequence[str], sensitive: Sequence[str]) -> list[str]:
    """The names in `continuous`, once each is known to be a sensitive attribute of numbers."""
    if isinstance(continuous, str):
        raise ValueError(f"continuous must be a list; write continuous=[{continuous!r}].")
    for name in continuous:
        if name not in sensitive:
            raise ValueError(
                f"continuous names '{name}', which is not among the sensitive attributes "
                f"{list(sensitive)}; add it to them."
            )
        if not is_number(like[name].dtype):
            raise ValueError(
                f"continuous names '{name}', whose column holds {like[name].dtype}; expected "
                "numbers. Convert the column, or leave it out of continuous."
            )
    return list(continuous)


class NumericFit:
    """Finds the encoding of a numeric feature from rows that come in pieces."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._numbers = Numbers()

    def add(self, column: pd.Series) -> None:
        self._numbers.add(check_finite(column, "Feature").to_numpy())

    def finish(self) -> NumericFeature:
        found = self._numbers
        # A constant column has a spread of rounding errors, by which nothing may be divided.
        varies = found.low < found.high and found.sd > 1e-12 * abs(found.mean)
        return NumericFeature(self.name, found.mean, found.sd if varies else 1.0, found.missing > 0)


class CategoricalFit:
    """Finds the categories of a feature from rows that come in pieces."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._texts = Texts()
        self._n = 0

    def add(self, column: pd.Series) -> None:
        self._n += len(column)
        self._texts.add(as_text(column))

    def finish(self) -> CategoricalFeature:
        least = min(RARE, max(1, self._n // 20))
        frequent = [v for v, count in self._texts.counts.most_common(WIDEST) if count >= least]
        return CategoricalFeature(self.name, tuple(sorted(frequent)), self._texts.missing > 0)


class SchemaFit:
    """Fits a `Schema` to training rows that come in one piece or in many.

    Parameters
    ----------
    like : a frame with the table's columns and types; its rows are not looked at.
    tasks, sensitive, … : see `Schema.infer`.
    """

    def __init__(
        self,
        like: pd.DataFrame,
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
        continuous: Sequence[str] = (),
    ) -> None:
        labels = {c for t in tasks for c in t.columns}
        roles = [*labels, *sensitive, *(c for c in (weight, split_by) if c is not None)]
        chosen = None if features is None else [str(f) for f in features]
        for column in [*roles, *(chosen or []), *drop]:
            require_column(like, column)
        if chosen is None:
            chosen = [str(c) for c in like.columns if c not in {*roles, *drop}]
        both = [c for c in chosen if c in labels]
        if both:
            raise ValueError(f"Columns {both} are labels and features at once; drop one role.")
        chosen = [c for c in chosen if c not in drop]
        if not chosen and not attributes_as_inputs:
            raise ValueError("No feature is left after labels, attributes and dropped columns.")
        kinds = dict(features) if isinstance(features, Mapping) else {}
        self._features: list[NumericFit | CategoricalFit] = []
        self._wide: list[WideFeature] = []
        for column in chosen:
            kind = kinds.get(column, "numeric" if is_number(like[column].dtype) else "categorical")
            if kind in WIDE:
                self._wide.append(WIDE[kind](column))
            elif kind in ("numeric", "categorical"):
                self._features.append((NumericFit if kind == "numeric" else CategoricalFit)(column))
            else:
                raise ValueError(
                    f"Feature '{column}': kind must be 'numeric', 'categorical', "
                    f"{', '.join(map(repr, WIDE))}. Found {kind!r}."
                )
        self._attributes = [
            AttributeFit(a, is_number(like[a].dtype), (bins or {}).get(a)) for a in sensitive
        ]
        self._continuous = [NumericFit(c) for c in _numeric(like, continuous, sensitive)]
        self._tasks = [TaskFit(t) for t in tasks]
        self._depth, self._as_inputs = depth, attributes_as_inputs
        self._weight, self._split_by = weight, split_by
        self._n = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Look at training rows."""
        self._n += len(frame)
        for feature in self._features:
            feature.add(frame[feature.name])
        for attribute in self._attributes:
            attribute.add(frame[attribute.name])
        for number in self._continuous:
            number.add(frame[number.name])
        for task in self._tasks:
            task.add(frame)

    def add_classes(self, frame: pd.DataFrame) -> None:
        """Look at rows that are not trained on, for the names of their classes alone."""
        for task in self._tasks:
            task.add_classes(frame)

    def finish(self) -> Schema:
        """The schema of everything that was added."""
        if self._n < 2:
            raise ValueError(f"Training needs at least two rows; there is {self._n or 'none'}.")
        groups = Groups(tuple(a.finish() for a in self._attributes), self._depth)
        features = [f.finish() for f in self._features]
        numbers = [c.finish() for c in self._continuous]
        # A number of which the model sees more than its bands, age mostly, is a feature in its
        # own right; a category in both roles would be the attribute itself.
        names = {f.name for f in features}
        clash = [a.name for a in groups.attributes if a.name in names and not a.edges]
        if clash and not self._as_inputs:
            raise ValueError(
                f"Columns {clash} are sensitive attributes and features at once; say so with "
                "attributes_as_inputs=True, or leave them out of the features."
            )
        return Schema(
            tuple(t.finish() for t in self._tasks),
            groups,
            tuple(f for f in features if isinstance(f, NumericFeature)),
            tuple(f for f in features if isinstance(f, CategoricalFeature)),
            self._as_inputs,
            self._weight,
            self._split_by,
            tuple(ContinuousAttribute(c.name, c.mean, c.sd) for c in numbers),
            tuple(self._wide),
        )
