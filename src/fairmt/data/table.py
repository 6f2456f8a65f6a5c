"""Tables in, tensors out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

MISSING = ("", "NA", "NaN", "nan", "N/A", "NULL", "null")
"""What counts as missing in a CSV file. 'None' does not: it is a real category in many tables."""


@dataclass
class TensorTable:
    """Encoded rows.

    Attributes
    ----------
    features : Tensor (N, D) float32.
    labels : Tensor (N, L) float32, packed in the layout's order, in the user's units, NaN where
        missing.
    attributes : Tensor (N, A) int64, -1 where missing.
    weights : Tensor (N,) or None.
    units : array (N,) or None; the household, patient or writer of every row.
    values : Tensor (N, A) float32 or None; sensitive attributes as numbers, standardised by the
        training rows, NaN where missing or where the attribute is not used as one.
    """

    features: Tensor
    labels: Tensor
    attributes: Tensor
    weights: Tensor | None = None
    units: np.ndarray | None = None
    values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Any) -> TensorTable:
        weights = None if self.weights is None else self.weights[rows]
        values = None if self.values is None else self.values[rows]
        units = None
        if self.units is not None:
            units = self.units[rows if isinstance(rows, slice) else np.asarray(rows)]
        return TensorTable(
            self.features[rows], self.labels[rows], self.attributes[rows], weights, units, values
        )

    def join(self, other: TensorTable) -> TensorTable:
        """The rows of both tables; units are kept only if both name them."""
        return TensorTable.joined([self, other])

    @staticmethod
    def joined(tables: Sequence[TensorTable]) -> TensorTable:
        """The rows of several tables; weights, units and values are kept only if all have them."""
        weights = [t.weights for t in tables if t.weights is not None]
        values = [t.values for t in tables if t.values is not None]
        units, taken = [], 0
        for table in tables:
            if table.units is not None:
                # Units were numbered in each table apart, and a split leaves none in two.
                units.append(table.units + taken)
                taken += int(table.units.max(initial=-1)) + 1
        return TensorTable(
            torch.cat([t.features for t in tables]),
            torch.cat([t.labels for t in tables]),
            torch.cat([t.attributes for t in tables]),
            torch.cat(weights) if len(weights) == len(tables) else None,
            np.concatenate(units) if len(units) == len(tables) else None,
            torch.cat(values) if len(values) == len(tables) else None,
        )

    def batch(self, rows: Any) -> dict[str, Any]:
        """Rows as the mapping that step methods take."""
        batch: dict[str, Any] = {
            "features": self.features[rows],
            "labels": self.labels[rows],
            "attributes": self.attributes[rows],
        }
        if self.weights is not None:
            batch["weights"] = self.weights[rows]
        if self.values is not None:
            batch["values"] = self.values[rows]
        return batch

    def batches(self, rows: int = 8192) -> Iterator[dict[str, Any]]:
        """All rows in order, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self.batch(slice(start, start + rows))


def read_table(source: Any) -> pd.DataFrame:
    """A pandas frame from pandas, polars, Arrow, or a CSV or Parquet path (or folder of Parquet).

    In CSV files the cells of `MISSING` are missing; 'None' is a category. Column names come out
    as strings.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        For an unknown kind of source, an unreadable file, an empty table or duplicate columns.
    """
    if isinstance(source, str | Path):
        frame = _read_path(Path(source))
    elif isinstance(source, pd.DataFrame):
        frame = source
    elif hasattr(source, "to_pandas"):
        frame = source.to_pandas()
    else:
        raise ValueError(
            f"Cannot read a table from {type(source).__name__}; expected pandas, polars, Arrow, or "
            "the path of a CSV or Parquet file."
        )
    if any(not isinstance(c, str) for c in frame.columns):
        frame = frame.set_axis([str(c) for c in frame.columns], axis=1)
    refuse_duplicates(list(frame.columns))
    if len(frame) == 0:
        raise ValueError("The table has no rows.")
    return frame


def refuse_duplicates(names: Sequence[str]) -> None:
    """Raise ValueError if a column name occurs more than once."""
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise ValueError(f"Columns {duplicates} occur more than once; rename or drop them.")


def _read_path(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"No table at '{path}'.")
    suffixes = "".join(path.suffixes[-2:]).lower()
    try:
        if path.is_dir() or suffixes.endswith((".parquet", ".pq")):
            return pd.read_parquet(path)
        for suffix, separator in ((".csv", ","), (".tsv", "\t")):
            if suffix in suffixes:
                return _read_text(path, separator)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"Cannot read '{path}': {error}") from error
    raise ValueError(
        f"'{path}' is neither CSV nor Parquet by its name; expected .csv, .tsv or .parquet."
    )


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    # pandas would rename a repeated column without a word.
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str)
    refuse_duplicates(header.iloc[0].dropna().tolist())
    return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=list(MISSING))


def require_column(frame: pd.DataFrame, column: str) -> None:
    """Raise ValueError with the nearest names if the table lacks a column."""
    if column not in frame.columns:
        near = get_close_matches(column, [str(c) for c in frame.columns], 3)
        hint = f" Did you mean {near}?" if near else ""
        raise ValueError(f"The table has no column '{column}'.{hint}")


def is_number(dtype: Any) -> bool:
    """Whether a column of this type holds numbers; yes and no are not numbers."""
    numeric = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    return bool(numeric)


def as_text(column: pd.Series) -> pd.Series:
    """Values as category names: 1.0 and 1 are both '1', True is 'True'; missing stays missing."""
    if column.dtype == object:
        return column.map(_one_text, na_action="ignore")
    # Each distinct value is written once. (An object column may hold 1 and True, which are equal.)
    codes, values = pd.factorize(column)
    names = np.array([*(_one_text(v) for v in pd.Series(values).tolist()), None], dtype=object)
    return pd.Series(names[codes], index=column.index, name=column.name, dtype=object)


def _one_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def row_name(column: pd.Series, at: int) -> str:
    """What a message calls the row at a position: by the index, with the file if that has one."""
    name = column.index[at]
    return f"{name[1]} of '{name[0]}'" if isinstance(name, tuple) else str(name)


def check_finite(column: pd.Series, role: str) -> pd.Series:
    """The column as floats.

    Raises
    ------
    ValueError
        Naming column and row (by the frame's index), where a value is infinite or no number.
    """
    if column.dtype == np.float64:
        numbers = column
    else:
        numbers = pd.to_numeric(column, errors="coerce").astype(float)
        wrong = numbers.isna() & column.notna()
        if wrong.any():
            at = int(np.flatnonzero(wrong.to_numpy())[0])
            raise ValueError(
                f"{role} '{column.name}' holds {column.iloc[at]!r} in row {row_name(column, at)}; "
                "expected a number. Declare the column categorical, or mend the value."
            )
    infinite = np.isinf(numbers.to_numpy())
    if infinite.any():
        row = row_name(column, int(np.flatnonzero(infinite)[0]))
        raise ValueError(f"{role} '{column.name}' is infinite in row {row}; mend or drop the row.")
    return numbers


def to_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
