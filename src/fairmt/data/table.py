"""Tables in, tensors out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    """

    features: Tensor
    labels: Tensor
    attributes: Tensor
    weights: Tensor | None = None
    units: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Any) -> TensorTable:
        weights = None if self.weights is None else self.weights[rows]
        units = None if self.units is None else self.units[np.asarray(rows)]
        return TensorTable(
            self.features[rows], self.labels[rows], self.attributes[rows], weights, units
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
        return batch

    def batches(self, rows: int = 8192) -> Iterator[dict[str, Any]]:
        """All rows in order, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self.batch(slice(start, start + rows))


def read_table(source: Any) -> pd.DataFrame:
    """A pandas frame from pandas, polars, Arrow, or a CSV or Parquet path (or folder of Parquet).

    In CSV files the cells of `MISSING` are missing; 'None' is a category.

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
    names = [str(c) for c in frame.columns]
    duplicates = sorted({n for n in names if names.count(n) > 1})
    if duplicates:
        raise ValueError(f"Columns {duplicates} occur more than once; rename or drop them.")
    if len(frame) == 0:
        raise ValueError("The table has no rows.")
    return frame


def _read_path(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"No table at '{path}'.")
    suffixes = "".join(path.suffixes[-2:]).lower()
    try:
        if path.is_dir() or suffixes.endswith((".parquet", ".pq")):
            return pd.read_parquet(path)
        if ".csv" in suffixes:
            return pd.read_csv(path, keep_default_na=False, na_values=list(MISSING))
        if ".tsv" in suffixes:
            return pd.read_csv(path, sep="\t", keep_default_na=False, na_values=list(MISSING))
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"Cannot read '{path}': {error}") from error
    raise ValueError(f"'{path}' is neither CSV nor Parquet by its name.")


def as_text(column: pd.Series) -> pd.Series:
    """Values as category names: 1.0 and 1 are both '1', True is 'True'; missing stays missing."""
    if pd.api.types.is_bool_dtype(column.dtype):
        text = column.astype(object).where(column.notna())
        return text.map(lambda v: str(bool(v)), na_action="ignore")
    if pd.api.types.is_numeric_dtype(column.dtype):
        values = column.astype(float)
        return values.astype(object).map(
            lambda v: str(int(v)) if float(v).is_integer() else str(v), na_action="ignore"
        )
    return column.astype(object).map(_one_text, na_action="ignore")


def _one_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def check_finite(column: pd.Series, role: str) -> pd.Series:
    """The column as floats.

    Raises
    ------
    ValueError
        Naming column and row, where a value is infinite or no number.
    """
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = numbers.isna() & column.notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong.to_numpy())[0])
        raise ValueError(
            f"{role} '{column.name}' holds {column.iloc[row]!r} in row {row}; expected a number. "
            "Declare the column categorical, or mend the value."
        )
    infinite = np.isinf(numbers.to_numpy())
    if infinite.any():
        row = int(np.flatnonzero(infinite)[0])
        raise ValueError(f"{role} '{column.name}' is infinite in row {row}; mend or drop the row.")
    return numbers


def to_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
