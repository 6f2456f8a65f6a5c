"""Sums taken by query engines are those taken in memory."""

from __future__ import annotations

import os
import sqlite3
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fairmt
from fairmt.tasks import Classification, Detection, Regression

ibis = pytest.importorskip("ibis")

TASKS = ["job:classification", "benefits:detection", "income:regression"]
SNAPSHOTS = Path(__file__).parent / "sql"
DIALECTS = ("bigquery", "clickhouse", "databricks", "duckdb", "postgres", "snowflake", "trino")


def same(memory: fairmt.auditing.AuditResult, engine: fairmt.auditing.AuditResult) -> None:
    """Everything but resampling agrees."""
    for table, columns in {
        "rates": ["n", "value"],
        "gaps": ["gap", "worst_value", "best_value", "smallest_n"],
        "observation": ["rows", "observed", "base_rate", "r2"],
        "scores": ["n", "observed", "mean", "share"],
    }.items():
        a, b = getattr(memory, table), getattr(engine, table)
        assert len(a) == len(b), table
        names = [c for c in ("task", "statistic", "output", "attribute", "group") if c in a]
        assert (a[names] == b[names]).all(axis=None), table
        for column in columns:
            x, y = a[column].to_numpy(dtype=float), b[column].to_numpy(dtype=float)
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9, err_msg=f"{table} {column}")
    both = memory.utilities.merge(engine.utilities, on=["task", "metric"])
    exact = both[~both["metric"].isin(["auc", "average_precision", "calibration_error"])]
    assert len(exact) >= 3
    np.testing.assert_allclose(exact["value_x"], exact["value_y"], rtol=1e-9, atol=1e-9)


def in_duckdb(frame: pd.DataFrame, folder: Path) -> object:
    frame.to_parquet(folder / "people.parquet")
    return ibis.duckdb.connect().read_parquet(folder / "people.parquet")


def in_sqlite(frame: pd.DataFrame, folder: Path) -> object:
    path = folder / "people.db"
    with sqlite3.connect(path) as connection:
        frame.to_sql("people", connection, index=False)
    return ibis.sqlite.connect(path).table("people")


def in_polars(frame: pd.DataFrame, folder: Path) -> object:
    pytest.importorskip("polars")
    return ibis.polars.connect().create_table("people", frame)


HOMES = {"duckdb": in_duckdb, "sqlite": in_sqlite, "polars": in_polars}


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"weight": "weight"}, {"cluster": "household"}, {"depth": 2, "bins": {"age": [30, 60]}}],
    ids=["plain", "weights", "clusters", "intersections"],
)
def test_every_home_has_the_same_sums(
    people: pd.DataFrame, tmp_path: Path, home: str, settings: dict
) -> None:
    frame = people.assign(age=np.random.default_rng(0).integers(18, 90, len(people)))
    common = {"tasks": TASKS, "sensitive": ["sex", "region", "age"], "tolerance": 0.05}
    common |= {"n_boot": 0} | settings
    engine = fairmt.audit(HOMES[home](frame, tmp_path), **common)
    same(fairmt.audit(frame, **common), engine)


def test_tests_and_analytic_intervals_are_the_same(people: pd.DataFrame) -> None:
    common = {"tasks": TASKS, "sensitive": ["sex", "region"], "n_boot": 0, "tolerance": 0.05}
    memory = fairmt.audit(people, **common).gaps
    engine = fairmt.audit(people, engine="duckdb", **common).gaps
    for column in ("low", "high", "p_value", "p_adjusted"):
        np.testing.assert_allclose(memory[column], engine[column], rtol=1e-6, atol=1e-9)
    assert memory["low"].notna().mean() > 0.75


@pytest.mark.parametrize("home", HOMES)
def test_bootstrap_intervals_agree_within_their_error(people, tmp_path, home) -> None:
    common = {
        "tasks": ["income:regression"], "sensitive": ["region"], "cluster": "household",
        "n_boot": 1000, "interval": "percentile", "notions": ["error_parity", "bias_parity"],
    }  # fmt: skip
    memory = fairmt.audit(people, **common).rates
    engine = fairmt.audit(HOMES[home](people, tmp_path), **common).rates
    width = memory["high"] - memory["low"]
    assert (abs(engine["low"] - memory["low"]) < 0.25 * width).all()
    assert (abs(engine["high"] - memory["high"]) < 0.25 * width).all()


def test_buckets_by_cluster_or_identifier_do_not_depend_on_chance(people: pd.DataFrame) -> None:
    for key in ({"cluster": "household"}, {"identifier": "person"}):
        common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 20, "engine": "duckdb"} | key
        one, two = fairmt.audit(people, **common), fairmt.audit(people, **common)
        np.testing.assert_allclose(one.gaps["high"], two.gaps["high"], rtol=1e-9)


def test_areas_from_bins_lie_within_the_error_they_state(people: pd.DataFrame) -> None:
    common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0}
    exact = fairmt.audit(people, **common).utilities.set_index(["task", "metric"])["value"]
    engine = fairmt.audit(people, engine="duckdb", **common).utilities
    binned = engine.set_index(["task", "metric"])["value"]
    for task, metric in (("benefits", "auc"), ("benefits", "average_precision"), ("job", "auc")):
        error = binned[task, f"{metric}_error"]
        assert error < 0.02
        assert abs(binned[task, metric] - exact[task, metric]) <= error


def test_a_folder_of_parquet_files_and_a_csv_are_read_where_they_are(people, tmp_path) -> None:
    folder = tmp_path / "parts" / "year=2020"
    folder.mkdir(parents=True)
    people.iloc[:1000].to_parquet(folder / "a.parquet")
    people.iloc[1000:].to_parquet(folder / "b.parquet")
    common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0}
    expected = fairmt.audit(people, **common)
    same(expected, fairmt.audit(tmp_path / "parts", engine="duckdb", **common))
    people.to_csv(tmp_path / "people.csv", index=False)
    same(expected, fairmt.audit(tmp_path / "people.csv", engine="duckdb", **common))


def test_large_parquet_goes_to_the_engine_by_itself(people, tmp_path, monkeypatch) -> None:
    people.to_parquet(tmp_path / "people.parquet")
    common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0}
    small = fairmt.audit(tmp_path / "people.parquet", **common)
    assert "auc_error" not in set(small.utilities["metric"])
    monkeypatch.setattr("fairmt.auditing.predictions._LARGE", 1000)
    large = fairmt.audit(tmp_path / "people.parquet", **common)
    assert "auc_error" in set(large.utilities["metric"])


def test_probabilities_alone_are_decided_in_the_query(people: pd.DataFrame) -> None:
    frame = people.drop(columns=["job", "benefits.health.decision", "benefits.housing.decision"])
    common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0}
    same(fairmt.audit(frame, **common), fairmt.audit(frame, engine="duckdb", **common))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benefits.health": 1.5}, r"Probability 'benefits.health' is outside \[0, 1\] in 3,000"),
        ({"benefits.health.decision": 2}, "Decision of 'benefits.health' is not 0 or 1"),
        ({"benefits.health.true": 3.0}, "neither 0 or 1 nor yes or no"),
        ({"income": np.nan}, "Prediction 'income' is missing"),
        ({"income": np.inf}, "Prediction 'income' is missing"),
        ({"job": None}, "Column 'job' is missing in every row"),
        ({"job.true": None}, "Column 'job.true' is missing in every row"),
        ({"benefits.housing.true": np.nan}, "the truth is missing in every row"),
        ({"income.true": np.nan}, "The truth 'income.true' is missing in every row"),
        ({"sex": None}, "Column 'sex' is missing in every row"),
        ({"sex": "everyone"}, "a comparison needs two"),
    ],
)
def test_what_cannot_be_counted_is_refused(people, change, message) -> None:
    tasks = [Classification("job", ("lead", "manual", "office")), *TASKS[1:]]
    with pytest.raises(ValueError, match=message):
        fairmt.audit(
            people.assign(**change), tasks=tasks, sensitive=["sex"], n_boot=0, engine="duckdb"
        )


def test_faults_of_names_and_keys_are_told(people: pd.DataFrame, tmp_path: Path) -> None:
    common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0, "engine": "duckdb"}
    with pytest.raises(ValueError, match=r"no column 'sexx'\. Did you mean"):
        fairmt.audit(people, **common | {"sensitive": ["sexx"]})
    named = people.assign(name=people["person"].map("p{}".format))
    with pytest.raises(ValueError, match="more than 100 groups"):
        fairmt.audit(named, **common | {"sensitive": ["name"]})
    with pytest.raises(ValueError, match="Identifier 'household' is not unique"):
        fairmt.audit(people, identifier="household", **common)
    with pytest.raises(ValueError, match="Task 'job': predictions are missing in some rows"):
        fairmt.audit(people.assign(job=people["job"].where(people["person"] > 9)), **common)
    tasks = [Classification("job", ("lead", "manual"))]
    with pytest.raises(ValueError, match="is none of the classes"):
        fairmt.audit(people, **common | {"tasks": tasks})
    with pytest.raises(ValueError, match="same table"):
        fairmt.audit(people, truth=people, **common)
    rich = people["income.true"].where(people["person"] != 7, np.inf)
    with pytest.raises(ValueError, match=r"Target 'income\.true' is infinite in 1 rows"):
        fairmt.audit(people.assign(**{"income.true": rich}), **common)
    light = people.assign(weight=people["weight"].where(people["person"] != 7, -1))
    with pytest.raises(ValueError, match="Weight 'weight' is missing or negative in 1 rows"):
        fairmt.audit(light, weight="weight", **common)
    with pytest.raises(FileNotFoundError, match="No table at"):
        fairmt.audit(tmp_path / "nowhere.parquet", **common)
    path = tmp_path / "people.parquet"
    people.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match="Cannot read"):
        fairmt.audit(path, **common)


def test_backends_without_hashes_say_what_to_name(people: pd.DataFrame, tmp_path: Path) -> None:
    table = in_sqlite(people.assign(flat=people["household"].map("h{}".format)), tmp_path)
    with pytest.raises(ValueError, match="cannot hash 'flat'"):
        fairmt.audit(table, tasks=TASKS, sensitive=["sex"], cluster="flat")
    with pytest.raises(ValueError, match="no random numbers"):
        fairmt.audit(in_polars(people, tmp_path), tasks=TASKS, sensitive=["sex"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_queries_for_other_engines_are_those_on_record(dialect: str) -> None:
    from fairmt.auditing.engine import audit_sql

    table = ibis.table(
        {
            "sex": "string", "age": "int64", "job": "string", "job.true": "string",
            "sick": "float64", "sick.true": "int64", "pay": "float64", "pay.true": "float64",
            "household": "int64", "weight": "float64",
        },
        name="predictions",
    )  # fmt: skip
    queries = audit_sql(
        table,
        dialect=dialect,
        tasks=[
            Classification("job", ("clerk", "nurse")),
            Detection("sick", ("sick",)),
            Regression("pay", centre=(30.0,), scale=(8.0,)),
        ],
        sensitive=["sex", "age"],
        bins={"age": [30, 60]},
        notions=["equalized_odds", "bias_parity", "error_parity"],
        cluster=None if dialect == "trino" else "household",
        resample=True,
    )
    head = f"-- Ibis {version('ibis-framework').split('.')[0]}"
    text = head + "".join(f"\n\n-- {name}\n{sql}" for name, sql in queries.items()) + "\n"
    path = SNAPSHOTS / f"{dialect}.sql"
    if os.environ.get("FAIRMT_WRITE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    recorded = path.read_text(encoding="utf-8")
    if not recorded.startswith(head + "\n"):
        pytest.skip("recorded with another major version of Ibis, which words queries otherwise")
    assert text == recorded


def test_nan_that_is_not_null_is_missing_all_the_same(people: pd.DataFrame, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = people.assign(age=np.random.default_rng(0).normal(40, 9, len(people)))
    frame.loc[3:40, "age"] = np.nan
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name in ("income.true", "benefits.health.true", "age"):
        values = pa.array(frame[name].to_numpy(dtype=float), from_pandas=False)
        assert values.null_count == 0
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, tmp_path / "people.parquet")
    common = {"tasks": TASKS, "sensitive": ["sex", "age"], "n_boot": 0, "bins": {"age": [30, 50]}}
    same(
        fairmt.audit(frame, **common),
        fairmt.audit(tmp_path / "people.parquet", engine="duckdb", **common),
    )


def test_what_the_first_rows_do_not_show_is_found_all_the_same(people, monkeypatch) -> None:
    monkeypatch.setattr("fairmt.auditing.engine.preparation._LOOK", 50)
    years = np.r_[np.full(60, 1), np.arange(len(people) - 60) % 40].astype(int)
    frame = people.sort_values("job.true", na_position="first").assign(age=years)
    common = {"tasks": TASKS, "sensitive": ["sex", "age"], "n_boot": 0}
    for dropped in ([], [c for c in frame if c.startswith("job.") and c != "job.true"]):
        own = frame.drop(columns=dropped).reset_index(drop=True)
        same(fairmt.audit(own, **common), fairmt.audit(own, engine="duckdb", **common))


def test_groups_without_any_label_are_no_fault(people: pd.DataFrame) -> None:
    frame = people.copy()
    labels = ["benefits.health.true", "benefits.housing.true", "income.true", "job.true"]
    frame.loc[frame["region"] == "west", labels] = None
    common = {"tasks": TASKS, "sensitive": ["region"], "n_boot": 0}
    same(fairmt.audit(frame, **common), fairmt.audit(frame, engine="duckdb", **common))


@pytest.mark.parametrize("value", [-1, 100])
def test_decisions_of_any_size_are_refused_in_plain_words(people, value: int) -> None:
    frame = people.assign(**{"benefits.housing.decision": np.int8(value)})
    with pytest.raises(ValueError, match=r"Decision of 'benefits\.housing' is not 0 or 1"):
        fairmt.audit(frame, tasks=TASKS, sensitive=["sex"], n_boot=0, engine="duckdb")


def test_text_labels_and_truth_values_are_read_in_the_query(people: pd.DataFrame) -> None:
    frame = people.copy()
    words = frame["benefits.health.true"].map({1.0: "yes", 0.0: "no"})
    frame["benefits.health.true"] = words
    frame["benefits.housing.true"] = frame["benefits.housing.true"] == 1
    frame["benefits.housing.decision"] = frame["benefits.housing.decision"] == 1
    common = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0}
    same(fairmt.audit(people, **common), fairmt.audit(frame, engine="duckdb", **common))
    frame.loc[5, "benefits.health.true"] = "perhaps"
    with pytest.raises(ValueError, match="neither 0 or 1 nor yes or no in 1 rows"):
        fairmt.audit(frame, engine="duckdb", **common)
