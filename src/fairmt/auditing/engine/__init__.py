"""Audits of tables that stay where they are: summed by DuckDB, or by any Ibis backend.

One grouped query per classification task counts truth by decision; one more sums everything else.
Definitions of statistics are those of `fairmt.measures`, applied to columns of the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairmt.auditing.assemble import assemble
from fairmt.auditing.engine.answers import ask
from fairmt.auditing.engine.preparation import prepare
from fairmt.auditing.engine.queries import build
from fairmt.auditing.engine.source import Source
from fairmt.auditing.judging import Settings
from fairmt.auditing.plan import NotionChoice
from fairmt.auditing.result import AuditResult
from fairmt.auditing.utilities import utilities_of_cube
from fairmt.data.table import MISSING
from fairmt.frames import parse_task
from fairmt.tasks import Task

__all__ = ["as_table", "audit_sql", "audit_table"]


def audit_table(
    data: Any,
    *,
    tasks: Sequence[Task | str],
    sensitive: Sequence[str],
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
    weight: str | None = None,
    cluster: str | None = None,
    identifier: str | None = None,
    notions: NotionChoice = "all",
    scores: bool = True,
    extra: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit predictions where they are; see `fairmt.audit`, whose columns these are.

    Parameters
    ----------
    data : an Ibis table, or what DuckDB reads: a path of Parquet or CSV files, or a data frame.
    identifier : with bootstrap replicates, rows share buckets by its hash, so that intervals do
        not depend on chance; its values must be distinct.
    scores : whether bins of probabilities are counted (reliability, areas under curves); one more
        query per label or class.
    """
    chosen = Settings(**settings)
    source = Source(
        as_table(data),
        [parse_task(t) for t in tasks],
        sensitive,
        bins=bins,
        depth=depth,
        weight=weight,
        cluster=cluster,
        identifier=identifier,
    )
    prepare(source)
    plan, cube = ask(source, notions, resample=chosen.n_boot > 0, scores=scores)
    utilities = utilities_of_cube(plan, cube, source.scored)
    result = assemble(plan, cube, chosen, utilities, clustered=cluster is not None, extra=extra)
    result.cube, result.plan = cube, plan
    return result


def audit_sql(
    table: Any,
    *,
    dialect: str,
    tasks: Sequence[Task],
    sensitive: Sequence[str],
    bins: Mapping[str, Sequence[float]] | None = None,
    weight: str | None = None,
    cluster: str | None = None,
    notions: NotionChoice = "all",
    resample: bool = False,
    scores: bool = True,
) -> dict[str, str]:
    """The queries that an audit sends, for reading and for running elsewhere.

    Parameters
    ----------
    table : an Ibis table, unbound ones included: no query is run, so that tasks must be complete
        (classes named, centre and scale of targets given) and numeric attributes need `bins`.
    dialect : 'duckdb', 'bigquery', 'snowflake', 'databricks', …, as Ibis calls them.
    """
    import ibis

    source = Source(
        table, tasks, sensitive, bins=bins, weight=weight, cluster=cluster, dialect=dialect
    )
    for task in source.tasks:
        if not task.outputs:
            raise ValueError(f"Task '{task.name}': name its classes; no query is run to find them.")
    queries = build(source, source.plan(notions), resample=resample, scores=scores)
    found = {f"truth and decision of {name}": q for name, q in queries.tables.items()}
    if queries.everything is not None:
        found["sums"] = queries.everything
    found |= {f"probabilities of output {i}": q for i, q in queries.histograms.items()}
    return {name: str(ibis.to_sql(query, dialect=dialect)) for name, query in found.items()}


def as_table(data: Any) -> Any:
    """An Ibis table.

    Raises
    ------
    ImportError
        If Ibis is not installed; how to install it is said.
    ValueError
        For files that cannot be read.
    """
    try:
        import ibis
    except ImportError as error:
        raise ImportError(
            "Audits out of core need Ibis and DuckDB: pip install 'fairmt[audit]'."
        ) from error
    if isinstance(data, ibis.expr.types.Table):
        return data
    connection = ibis.duckdb.connect()
    connection.con.execute("set enable_progress_bar = false")
    if not isinstance(data, str | Path):
        frame = data if isinstance(data, pd.DataFrame) else data.to_pandas()
        if len(frame) == 0:
            raise ValueError("The table has no rows.")
        connection.con.register("predictions", frame)
        return connection.table("predictions")
    path = Path(data)
    if not path.exists():
        raise FileNotFoundError(f"No table at '{path}'.")
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            return connection.read_csv(str(path), nullstr=list(MISSING))
        pattern = str(path / "**" / "*.parquet") if path.is_dir() else str(path)
        return connection.read_parquet(pattern)
    except Exception as error:
        raise ValueError(f"Cannot read '{path}': {error}") from error
