"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def write_text(path: str | Path, text: str) -> None:
    """Write a text file."""
    _write(Path(path), lambda work: work.write_text(text, encoding="utf-8"))


def write_table(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a Parquet or CSV file, by its name.

    Raises
    ------
    ValueError
        For another ending.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        _write(path, lambda work: frame.to_parquet(work, index=False))
    elif suffix == ".csv":
        _write(path, lambda work: frame.to_csv(work, index=False))
    else:
        raise ValueError(f"A table is written as .parquet or .csv. Found '{path}'.")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file's place, and move it there when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    work = Path(name)
    try:
        write(work)
        work.chmod(0o644)
        os.replace(work, path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise
