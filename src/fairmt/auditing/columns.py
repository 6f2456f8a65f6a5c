"""Columns of a table as an audit reads them: as categories, by their distinct values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from fairmt.data.attributes import BAND_FROM, encode_groups, fit_groups
from fairmt.data.table import as_text, check_finite, is_number, read_table
from fairmt.groups import Attribute, Groups

_SPAN = 4096
"""Integers within such a span are counted instead of sorted."""
_FEW = 24


@dataclass(frozen=True)
class Table:
    """Columns by name, of equal length: arrays, or those of a data frame."""

    columns: Mapping[str, Any]
    n: int

    @staticmethod
    def of(source: Any, what: str = "table") -> Table:
        """Columns of a mapping of arrays, a frame, an Arrow or polars table, or a path.

        Raises
        ------
        ValueError
            For empty tables, and for columns of different lengths or more than one dimension.
        """
        if isinstance(source, Table):
            return source
        if isinstance(source, Mapping):
            columns = {}
            for name, values in source.items():
                array = values if isinstance(values, pd.Series) else np.asarray(values)
                if array.ndim != 1:
                    raise ValueError(
                        f"Column '{name}' of the {what} must have one dimension. Found shape "
                        f"{array.shape}."
                    )
                columns[str(name)] = array
            if not columns:
                raise ValueError(f"The {what} has no columns.")
            lengths = {name: len(c) for name, c in columns.items()}
            n = next(iter(lengths.values()))
            for name, length in lengths.items():
                if length != n:
                    first = next(iter(lengths))
                    raise ValueError(
                        f"Column '{name}' of the {what} has {length} rows, but '{first}' has {n}."
                    )
            if n == 0:
                raise ValueError(f"The {what} has no rows.")
            return Table(columns, n)
        frame = read_table(source)
        return Table({str(c): frame[c].reset_index(drop=True) for c in frame.columns}, len(frame))

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def names(self) -> Iterable[str]:
        return self.columns.keys()

    def series(self, name: str) -> pd.Series:
        """A column as a series.

        Raises
        ------
        ValueError
            With the nearest names, if there is no such column.
        """
        values = self._find(name)
        return values if isinstance(values, pd.Series) else pd.Series(values, name=name)

    def values(self, name: str) -> np.ndarray | pd.Series:
        """A column as an array where it is one of numbers or truth values, else as a series."""
        values = self._find(name)
        if isinstance(values, pd.Series):
            if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
                return values.to_numpy()
            return values
        if values.dtype.kind in "biuf":
            return np.asarray(values)
        return pd.Series(values, name=name)

    def numbers(self, name: str, role: str) -> np.ndarray:
        """A column as finite floats, NaN where missing."""
        return np.asarray(check_finite(self.series(name), role).to_numpy(), dtype=np.float64)

    def _find(self, name: str) -> Any:
        require(self.columns.keys(), name)
        return self.columns[name]


def require(names: Iterable[str], name: str) -> None:
    """Raise ValueError, with the nearest names, if `name` is not among `names`."""
    known = list(names)
    if name not in known:
        near = get_close_matches(name, known, 3)
        hint = f" Did you mean {near}?" if near else f" Its columns are {known[:12]}."
        raise ValueError(f"The table has no column '{name}'.{hint}")


@dataclass(frozen=True)
class Categories:
    """A column as codes of its distinct values.

    Attributes
    ----------
    codes : (N,) small integers, -1 where missing.
    names : text of every distinct value.
    """

    codes: np.ndarray
    names: tuple[str, ...]

    def recode(self, names: tuple[str, ...]) -> np.ndarray:
        """Codes by position in `names`; -1 where missing, -2 where not among them."""
        place = {name: i for i, name in enumerate(names)}
        target = [place.get(name, -2) for name in self.names]
        if target == list(range(len(target))):
            return self.codes
        kind = np.int8 if len(names) < 127 else np.int32
        table = np.array([*target, -1], dtype=kind)
        found: np.ndarray = table[self.codes]
        return found


def categories(values: np.ndarray | pd.Series) -> Categories:
    """Distinct values of a column as text: 1.0 and 1 are both '1', True is 'True'."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "b":
        return Categories(values.view(np.int8), ("False", "True"))
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and len(values):
        low, high = int(values.min()), int(values.max())
        if high - low < _SPAN:
            return _integers(values, low, high)
    codes, distinct = pd.factorize(values, use_na_sentinel=True)
    text = as_text(pd.Series(distinct))
    names = tuple(dict.fromkeys(text))
    small = np.asarray(codes, dtype=np.int16 if len(distinct) < 32_000 else np.int32)
    if len(names) == len(text):
        return Categories(small, names)
    merged = np.array([*(names.index(t) for t in text), -1], dtype=small.dtype)
    return Categories(merged[small], names)


def _integers(values: np.ndarray, low: int, high: int) -> Categories:
    kind: type = np.int8 if high - low < 127 else np.int16
    if low >= -128 and high < 128:
        codes: np.ndarray = values.astype(np.int8)
        if low:
            codes = codes.astype(kind)
            codes -= kind(low)
    else:
        codes = (values.astype(np.int64) - low).astype(kind)
    if high - low < _FEW:
        # Comparing small codes with each value is faster than counting them.
        present = np.array([bool((codes == v).any()) for v in range(high - low + 1)])
    else:
        present = np.bincount(codes, minlength=high - low + 1) > 0
    if present.all():
        return Categories(codes, tuple(str(v) for v in range(low, high + 1)))
    place = np.cumsum(present) - 1
    return Categories(
        place.astype(kind)[codes], tuple(str(low + int(v)) for v in np.flatnonzero(present))
    )


def attribute_codes(table: Table, name: str, edges: Any | None) -> tuple[Attribute, np.ndarray]:
    """A sensitive attribute and its codes: categories in the order of the numbers, or of the
    alphabet, or bands."""
    values = table.values(name)
    number = is_number(values.dtype)
    found = None if edges is not None else categories(values)
    if found is None or (number and len(found.names) > BAND_FROM):
        frame = pd.DataFrame({name: table.series(name)})
        groups = fit_groups(frame, [name], None if edges is None else {name: edges})
        return groups.attributes[0], encode_groups(frame, groups)[:, 0].numpy()
    if not found.names:
        raise ValueError(f"Sensitive attribute '{name}' is missing in every row.")
    present = tuple(sorted(found.names, key=float if number else None))
    return Attribute(name, present), found.recode(present)


def attributes_of(
    table: Table, names: Iterable[str], bins: Mapping[str, Any] | None, depth: int
) -> tuple[Groups, list[np.ndarray]]:
    """Groups of the sensitive attributes and, per attribute, the code of every row."""
    names = list(names)
    for name in bins or {}:
        if name not in names:
            raise ValueError(f"bins names '{name}', which is no sensitive attribute {names}.")
    found = [attribute_codes(table, name, (bins or {}).get(name)) for name in names]
    return Groups(tuple(a for a, _ in found), depth), [codes for _, codes in found]
