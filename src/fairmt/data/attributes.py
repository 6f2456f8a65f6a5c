"""Sensitive attributes: from the columns of a table to groups and codes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from fairmt.data.summaries import Sample, Texts
from fairmt.data.table import as_text, check_finite, is_number, require_column, to_tensor
from fairmt.groups import MAX_CATEGORIES, Attribute, Groups

BAND_FROM = 12
"""A numeric sensitive attribute with more distinct values than this is cut into bands."""


class AttributeFit:
    """Finds the groups of a sensitive attribute from rows that come in pieces.

    Parameters
    ----------
    number : whether the column holds numbers.
    edges : inner edges of bands; without them a number with more than `BAND_FROM` values is cut
        into quarters.
    """

    def __init__(self, name: str, number: bool, edges: Sequence[float] | None = None) -> None:
        self.name = name
        self._edges = None if edges is None else _checked(name, edges)
        self._sample = Sample() if number and edges is None else None
        self._distinct = np.empty(0)
        self._texts = Texts()
        self._seen = 0

    def add(self, column: pd.Series) -> None:
        """Look at training rows."""
        self._seen += int(column.notna().sum())
        if self._sample is not None:
            values = check_finite(column, "Sensitive attribute").dropna().to_numpy()
            self._sample.add(values)
            if len(self._distinct) <= BAND_FROM:
                self._distinct = np.union1d(self._distinct, values)
        elif self._edges is None:
            self._texts.add(as_text(column))

    def finish(self) -> Attribute:
        """The attribute.

        Raises
        ------
        ValueError
            If there are no groups to compare, or too many.
        """
        if self._seen == 0:
            raise ValueError(f"Sensitive attribute '{self.name}' is missing in every training row.")
        edges = self._edges
        if self._sample is not None and len(self._distinct) > BAND_FROM:
            edges = _quarters(self._sample.values)
        if edges is not None:
            names = [f"below {edges[0]:.15g}"]
            names += [f"{a:.15g} to {b:.15g}" for a, b in pairwise(edges)]
            names += [f"{edges[-1]:.15g} and above"]
            return Attribute(self.name, tuple(names), tuple(edges))
        if self._sample is not None:
            categories = as_text(pd.Series(self._distinct)).tolist()
        else:
            categories = sorted(self._texts.counts)
        if len(categories) > MAX_CATEGORIES:
            raise ValueError(
                f"Sensitive attribute '{self.name}' has {len(categories)} groups, more than "
                f"{MAX_CATEGORIES}; cut it into bands, pool its categories, or leave it out."
            )
        return Attribute(self.name, tuple(categories))


def _checked(name: str, edges: Sequence[float]) -> list[float]:
    edges = [float(e) for e in edges]
    if not edges or edges != sorted(set(edges)) or not all(map(math.isfinite, edges)):
        raise ValueError(f"bins of '{name}' must be finite and rise strictly. Found {edges}.")
    return edges


def _quarters(values: np.ndarray) -> list[float]:
    """Edges near the quartiles, rounded, with values on both sides of each."""
    low, high = float(values.min()), float(values.max())
    quartiles = np.quantile(values, [0.25, 0.5, 0.75])
    spread = float(quartiles[2] - quartiles[0]) or high - low
    # Two digits of the spread: ages become whole years, and years do not become decades.
    digits = 1 - math.floor(math.log10(spread))
    edges = sorted({round(float(q), digits) for q in quartiles})
    edges = [e for e in edges if low < e <= high]
    # With a spike at the least value (zero, mostly) there is that, and everything above it.
    return edges or [float(values[values > low].min())]


def fit_groups(
    frame: pd.DataFrame,
    sensitive: Sequence[str],
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
) -> Groups:
    """Groups of the sensitive attributes, as these rows have them."""
    attributes = []
    for name in sensitive:
        require_column(frame, name)
        fit = AttributeFit(name, is_number(frame[name].dtype), (bins or {}).get(name))
        fit.add(frame[name])
        attributes.append(fit.finish())
    return Groups(tuple(attributes), depth)


def encode_groups(frame: pd.DataFrame, groups: Groups) -> torch.Tensor:
    """Attribute codes (N, A), -1 where missing or unseen (with a warning)."""
    columns = [_codes(frame[a.name], a) for a in groups.attributes]
    if not columns:
        return torch.zeros(len(frame), 0, dtype=torch.int64)
    return to_tensor(np.stack(columns, 1))


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
