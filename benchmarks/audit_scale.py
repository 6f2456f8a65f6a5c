"""An audit of Parquet, out of core, against one hand-written DuckDB query for the same sums.

    python benchmarks/audit_scale.py [rows] [folder]

Four attributes and ten statistics, twice: of decisions about three classes, which are counts; and
of a label and a number (whose units are given, so that the sums are those of the query, and not
sought in a query of their own). Each work runs in a process of its own on two threads; the ratio of
wall-clock times and the peak memory of the audit are printed.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from fairmt.tasks import Detection, Regression

THREADS = 2
ATTRIBUTES = ["sex", "race", "age", "region"]
BY = ", ".join(ATTRIBUTES)
CASES: dict[str, dict[str, Any]] = {
    "decisions about three classes": {
        "tasks": ["job:classification"],
        "notions": ["equalized_odds", "predictive_parity", "accuracy_parity"],
        "query": f'select {BY}, "job.true", job, count(*) from people group by all',
    },
    "a label and a number": {
        "tasks": [Detection("hired", ("hired",)), Regression("pay", centre=(5.0,), scale=(3.0,))],
        "notions": {
            "hired": [
                "equalized_odds", "predictive_parity", "accuracy_parity", "demographic_parity",
            ],
            "pay": [
                "error_parity", "absolute_error_parity", "concordance_parity", "bias_parity",
                "demographic_parity",
            ],
        },
        "query": f"""
            select {BY}, count(*), count("hired.true"),
              sum("hired.true"), sum("hired.decision"),
              sum(("hired.true" is not null)::int * "hired.decision"),
              sum(coalesce("hired.true", 0) * "hired.decision"),
              count("pay.true"), sum("pay.true"), sum(p), sum(p * p),
              sum("pay.true" * "pay.true"), sum(p * "pay.true"), sum(abs(p - "pay.true")),
              sum((p - "pay.true") * (p - "pay.true")), sum(p - "pay.true"), sum(pay)
            from (select *, case when "pay.true" is not null then pay end as p from people)
            group by all""",
    },
}  # fmt: skip


def write(path: Path, rows: int) -> None:
    """People with answers of a model, in row groups of a million."""
    connection = duckdb.connect()
    connection.execute(f"set threads = {THREADS}; set enable_progress_bar = false")
    connection.execute(
        f"""copy (select
          ['men', 'women'][1 + (i % 2)::int] as sex,
          ['a', 'b', 'c', 'd', 'e'][1 + floor(random() * 5)::int] as race,
          ['below 30', '30 to 60', '60 and above'][1 + floor(random() * 3)::int] as age,
          ['north', 'south', 'east', 'west'][1 + floor(random() * 4)::int] as region,
          case when random() < .1 then null else floor(random() * 3)::tinyint end as "job.true",
          floor(random() * 3)::tinyint as job,
          case when random() < .2 then null else (random() < .3)::tinyint end as "hired.true",
          (random() < .3)::tinyint as "hired.decision",
          case when random() < .1 then null else random() * 10 end as "pay.true",
          random() * 10 as pay
        from range({rows}) t(i)) to '{path}' (format parquet, row_group_size 1000000)"""
    )


def by_hand(path: Path, case: dict[str, Any]) -> None:
    connection = duckdb.connect()
    connection.execute(f"set threads = {THREADS}; set enable_progress_bar = false")
    connection.execute(f"create view people as select * from read_parquet('{path}')")
    connection.execute(case["query"]).fetchdf()


def audit(path: Path, case: dict[str, Any]) -> None:
    import ibis

    import fairmt

    connection = ibis.duckdb.connect()
    connection.con.execute(f"set threads = {THREADS}; set enable_progress_bar = false")
    result = fairmt.audit(
        connection.read_parquet(path),
        tasks=case["tasks"],
        sensitive=ATTRIBUTES,
        notions=case["notions"],
        n_boot=0,
    )
    assert result.gaps["statistic"].count() == 10 * len(ATTRIBUTES), len(result.gaps)


def measured(work: str, path: Path, name: str, answers: Any) -> None:
    """Best of two runs after a first one on a few rows that loads every library."""
    case = CASES[name]
    run = {"by hand": by_hand, "audit": audit}[work]
    run(path.with_name("few.parquet"), case)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run(path, case)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answers.put((min(times), peak))


def main() -> None:
    rows = int(float(sys.argv[1])) if len(sys.argv) > 1 else 100_000_000
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        path = folder / f"people-{rows}.parquet"
        write(folder / "few.parquet", 10_000)
        if not path.exists():
            write(path, rows)
        for name in CASES:
            found: dict[str, tuple[float, float]] = {}
            for work in ("by hand", "audit"):
                answers = processes.Queue()
                process = processes.Process(target=measured, args=(work, path, name, answers))
                process.start()
                found[work] = answers.get()
                process.join()
            print(
                json.dumps(
                    {
                        "case": name,
                        "rows": rows,
                        "by_hand_seconds": round(found["by hand"][0], 2),
                        "audit_seconds": round(found["audit"][0], 2),
                        "ratio": round(found["audit"][0] / found["by hand"][0], 2),
                        "audit_peak_gib": round(found["audit"][1], 2),
                    }
                )
            )


if __name__ == "__main__":
    main()
