"""Parquet files that need not fit into memory, cut into parts.

Row groups are read a few thousand rows at a time. Which part a row belongs to follows from a hash
of its unit, so that no list of rows is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fairmt.data.split import PARTS, check_fractions
from fairmt.data.table import as_text, refuse_duplicates, require_column

if TYPE_CHECKING:
    import pyarrow as pa

READ = 16_384
"""Rows that are decoded at once."""
_BITS = 16
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file.

    Attributes
    ----------
    number : its place in the file.
    first, first_in_file : number of its first row, over all files and within its own.
    constants : columns that stand in the names of folders ('state=HI'), and their values.
    """

    file: Path
    number: int
    rows: int
    first: int
    first_in_file: int
    constants: Mapping[str, Any]


class ParquetTable:
    """A Parquet file, or a folder of them, cut into parts and never read as a whole.

    Parameters
    ----------
    path : file, or folder; folders named 'column=value' add a column.
    split_by : str, optional
        Column of the unit (household, patient) whose rows stay in one part. A row without one is
        a unit of its own.
    fractions : shares of train, calibration, validation and test; they sum to 1.
    held_out : int
        The most rows of each part but train, which are to fit into memory; what is over goes to
        train.
    buffer_rows : int
        Training rows among which the order is drawn. An epoch visits the row groups in an order
        of its own and shuffles within the buffer; a file sorted by something that matters should
        have row groups much smaller than that.
    lanes : int
        Row groups that are read side by side into the buffer. More of them mix rows from more
        places; each takes about a megabyte a column.
    seed : int
        Of the split.

    Attributes
    ----------
    rows : mapping from part to its number of rows.
    row_groups, train_rows : the row groups, and how many training rows each has.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no Parquet file in the folder.
    ValueError
        Naming the file that cannot be read, the column it lacks, or the part that stays empty.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split_by: str | None = None,
        fractions: Sequence[float] = (0.6, 0.1, 0.1, 0.2),
        held_out: int = 50_000,
        buffer_rows: int = 65_536,
        lanes: int = 2,
        seed: int = 0,
    ) -> None:
        if held_out < 1:
            raise ValueError(f"held_out must be at least 1. Found {held_out}.")
        if not 1 <= lanes <= buffer_rows:
            raise ValueError(
                f"lanes must lie between 1 and buffer_rows, {buffer_rows}. Found {lanes}."
            )
        shares = check_fractions(fractions)
        self.path, self.split_by, self.seed = Path(path), split_by, seed
        self.buffer_rows, self.lanes = buffer_rows, lanes
        self.row_groups, self._schema = _discover(self.path)
        if split_by is not None:
            require_column(self.like(), split_by)
        counts = np.zeros(1 << _BITS, dtype=np.int64)
        for group in self.row_groups:
            for table, rows in self._read(group, []):
                counts += np.bincount(self._bins(table, rows), minlength=len(counts))
        self._bounds, self.rows = _bounds(counts, shares, held_out)
        self.train_rows = np.array([self._count_train(g) for g in self.row_groups])

    @property
    def columns(self) -> list[str]:
        """Names of the columns; a stored pandas index without a name is none."""
        return [c for c in self._schema.names if not _INDEX.fullmatch(c)]

    def like(self) -> pd.DataFrame:
        """A frame without rows that has the table's columns and types."""
        frame = self._schema.empty_table().to_pandas(ignore_metadata=True)
        return frame[self.columns]

    def pieces(
        self, columns: Sequence[str], groups: Sequence[RowGroup] | None = None
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """Rows a few thousand at a time, in order, and the position in `PARTS` of each (N,).

        Frames are indexed by the row's number in its file, and by the file if there are several.
        """
        import pyarrow as pa

        like = self.like()
        for column in columns:
            require_column(like, column)
        try:
            for group in self.row_groups if groups is None else groups:
                for table, rows in self._read(group, columns):
                    frame = table.select(list(columns)).to_pandas(ignore_metadata=True)
                    frame.index = self._index(group, rows)
                    yield frame, self._part_codes(table, rows)
        finally:
            # The pool would keep what it was given, while the model is evaluated, say.
            pa.default_memory_pool().release_unused()

    def frame(self, part: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows of one part, in memory: those of the test part, say, to audit a model on."""
        if part not in PARTS:
            raise ValueError(f"Unknown part '{part}'; expected one of {list(PARTS)}.")
        code = PARTS.index(part)
        chosen = self.columns if columns is None else list(columns)
        found = [frame[parts == code] for frame, parts in self.pieces(chosen)]
        return pd.concat(found)

    # -- reading ----------------------------------------------------------------------------

    def _read(
        self, group: RowGroup, columns: Sequence[str]
    ) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Some columns and the unit, with the number of every row over all files (N,)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = list(dict.fromkeys([*columns, *([self.split_by] if self.split_by else [])]))
        stored = [c for c in wanted if c not in group.constants]
        types = pa.schema([(c, self._schema.field(c).type) for c in stored])
        at, end = group.first, group.first + group.rows
        try:
            # Without a buffer of its own the reader would fetch whole column chunks.
            with pq.ParquetFile(group.file, buffer_size=1 << 16, pre_buffer=False) as file:
                batches = file.iter_batches(READ, row_groups=[group.number], columns=stored)
                while at < end:
                    found = {}
                    rows = np.arange(at, min(at + READ, end))
                    if stored:
                        batch = next(batches, None)
                        if batch is None:
                            raise pa.ArrowInvalid(
                                "it has changed since it was opened; open it anew"
                            )
                        table = pa.Table.from_batches([batch]).select(stored).cast(types)
                        found = dict(zip(stored, table.columns, strict=True))
                        rows = rows[: len(table)]
                    for name in wanted:
                        if name in group.constants:
                            kind = self._schema.field(name).type
                            value = pa.scalar(group.constants[name], kind)
                            found[name] = pa.repeat(value, len(rows))
                    at += len(rows)
                    yield pa.table(found), rows
        except (OSError, IndexError, pa.ArrowException) as error:
            raise ValueError(f"Cannot read '{group.file}': {error}") from error

    def _index(self, group: RowGroup, rows: np.ndarray) -> pd.Index:
        rows = rows - group.first + group.first_in_file
        if self.path.is_file():
            return pd.Index(rows)
        name = str(group.file.relative_to(self.path))
        return pd.MultiIndex.from_product([[name], rows], names=["file", "row"])

    # -- parts ------------------------------------------------------------------------------

    def _count_train(self, group: RowGroup) -> int:
        parts = (self._part_codes(table, rows) for table, rows in self._read(group, []))
        return sum(int((codes == 0).sum()) for codes in parts)

    def _part_codes(self, table: pa.Table, rows: np.ndarray) -> np.ndarray:
        """Positions in `PARTS`; the held-out parts come first among the bins, test foremost."""
        codes: np.ndarray = 3 - np.searchsorted(self._bounds, self._bins(table, rows), side="right")
        return codes

    def _bins(self, table: pa.Table, rows: np.ndarray) -> np.ndarray:
        """A number below 2^16 for every row (N,), the same for all rows of a unit."""
        keys = scrambled(rows.astype(np.uint64), 2 * self.seed + 1)
        if self.split_by is not None:
            unit = as_text(table.column(self.split_by).to_pandas())
            known = unit.notna().to_numpy()
            hashed = pd.util.hash_array(unit.to_numpy(dtype=object)[known])
            keys[known] = scrambled(hashed, 2 * self.seed)
        return (keys >> np.uint64(64 - _BITS)).astype(np.int64)


def scrambled(keys: np.ndarray, seed: int) -> np.ndarray:
    """Evenly spread 64-bit numbers from distinct ones (the finaliser of SplitMix64)."""
    golden = 0x9E3779B97F4A7C15
    keys = keys + np.uint64((seed + 1) * golden % 2**64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _bounds(
    counts: np.ndarray, shares: np.ndarray, held_out: int
) -> tuple[np.ndarray, dict[str, int]]:
    """The bins where validation, calibration and train begin, and the rows of every part.

    Test has the first bins. A part takes as many as stay within its share and within `held_out`.
    """
    n, below = int(counts.sum()), np.concatenate([[0], counts.cumsum()])
    bounds, rows = [0], {}
    for part in reversed(range(1, 4)):
        wanted = min(int(shares[part] * n), held_out)
        begin = bounds[-1]
        end = int(np.searchsorted(below, below[begin] + wanted, side="right")) - 1
        bounds.append(end)
        rows[PARTS[part]] = int(below[end] - below[begin])
    rows[PARTS[0]] = int(n - below[bounds[-1]])
    empty = [part for k, part in enumerate(PARTS) if shares[k] > 0 and rows[part] == 0]
    if empty:
        raise ValueError(
            f"{n} rows cannot fill the parts {empty}: there are too few units (split_by), or some "
            "have too many rows."
        )
    return np.array(bounds[1:]), {part: rows[part] for part in PARTS}


def _discover(path: Path) -> tuple[list[RowGroup], pa.Schema]:
    """The row groups of all files, by name, and the columns and their types."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not path.exists():
        raise FileNotFoundError(f"No table at '{path}'.")
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in (".parquet", ".pq"))
    if not files:
        raise FileNotFoundError(f"No file in '{path}' ends in .parquet or .pq.")
    file = files[0]
    folders = {"partitioning": "hive", "partition_base_dir": str(path)} if path.is_dir() else {}
    groups: list[RowGroup] = []
    first = 0
    try:
        found = ds.dataset([str(f) for f in files], format="parquet", **folders)
        for fragment in found.get_fragments():
            file = Path(fragment.path)
            constants = ds.get_partition_keys(fragment.partition_expression)
            missing = {*found.schema.names} - {*fragment.physical_schema.names, *constants}
            if missing:
                raise ValueError(f"no column {sorted(missing)}, which the first file has")
            start = first
            for i, group in enumerate(fragment.row_groups):
                groups.append(RowGroup(file, i, group.num_rows, first, first - start, constants))
                first += group.num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"Cannot read '{file}': {error}") from error
    refuse_duplicates(found.schema.names)
    if first == 0:
        raise ValueError(f"'{path}' has no rows.")
    return groups, found.schema
