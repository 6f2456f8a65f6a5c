"""Audit a table of predictions, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairmt.auditing.reading import read_rows
from fairmt.auditing.result import AuditResult
from fairmt.auditing.tensors import audit_rows
from fairmt.frames import parse_task
from fairmt.tasks import Task

_LARGE = 1 << 30
"""A Parquet table of more bytes than this is read by the query engine, not into memory."""


def audit(
    data: Any,
    *,
    tasks: Sequence[Task | str],
    sensitive: Any,
    truth: Any = None,
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
    weight: str | None = None,
    cluster: str | None = None,
    identifier: str | None = None,
    engine: str | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit predictions.

    The table holds, for classification, the predicted class in ``task`` or probabilities in
    ``task.CLASS``, or both; for detection probabilities in ``task.LABEL`` and decisions in
    ``task.LABEL.decision`` (one of the two suffices); for regression the prediction in ``task``,
    or ``task.COLUMN``. Truths stand in the same table with ``.true`` behind those names, or in
    the tasks' own columns of a second table.

    Parameters
    ----------
    data : frame, Arrow or polars table, mapping from name to array, path of a CSV or Parquet file
        or of a folder of Parquet files, or an Ibis table of any backend.
    truth : a second table of equal length and order, if the truth is not in `data`.
    tasks : tasks, or 'name:kind' or 'name:kind:column,column'. Targets are judged in units of
        their mean and spread in these rows, unless a `Regression` comes with centre and scale.
    sensitive : names of columns of `truth`, or of `data`; or a table of them.
    bins : inner edges of the bands of numeric attributes.
    depth : intersections of up to so many attributes are groups too.
    weight, cluster : columns with sample weights, and with units to be resampled together.
    identifier : column whose values must be distinct.
    engine : None, 'memory', or 'duckdb': sum the rows in DuckDB, out of core. Ibis tables are
        summed where they are, and Parquet tables of more than 1 GiB in DuckDB.
    settings : notions, tolerance, n_boot, confidence, interval, adjust, min_evidence, seed, title;
        see `fairmt.auditing.judging.Settings`.

    Raises
    ------
    ValueError
        For missing columns, different lengths, probabilities outside [0, 1], labels never seen,
        duplicated identifiers.
    """
    if engine not in (None, "memory", "duckdb"):
        raise ValueError(f"engine must be 'memory' or 'duckdb', or left out. Found {engine!r}.")
    specs = [parse_task(t) for t in tasks]
    if not specs:
        raise ValueError("Name at least one task.")
    if _belongs_to_engine(data, engine):
        from fairmt.auditing.engine import audit_table

        if truth is not None:
            raise ValueError(
                "Out of core the truth must stand in the same table as the predictions; join the "
                "two first."
            )
        return audit_table(
            data, tasks=specs, sensitive=_names(sensitive), bins=bins, depth=depth, weight=weight,
            cluster=cluster, identifier=identifier, **settings,
        )  # fmt: skip
    rows = read_rows(
        data, specs, sensitive, truth=truth, bins=bins, depth=depth, weight=weight,
        cluster=cluster, identifier=identifier,
    )  # fmt: skip
    return audit_rows(rows, **settings)


def _names(sensitive: Any) -> list[str]:
    if isinstance(sensitive, str) or not isinstance(sensitive, Sequence):
        raise ValueError("Out of core, sensitive must be a list of columns.")
    return list(sensitive)


def _belongs_to_engine(data: Any, engine: str | None) -> bool:
    if type(data).__module__.startswith("ibis."):
        return True
    if engine is not None:
        return engine == "duckdb"
    if not isinstance(data, str | Path):
        return False
    path = Path(data)
    files = path.rglob("*.parquet") if path.is_dir() else [path]
    return (
        path.suffix.lower() not in (".csv", ".tsv")
        and path.exists()
        and (sum(f.stat().st_size for f in files if f.is_file()) > _LARGE)
    )
