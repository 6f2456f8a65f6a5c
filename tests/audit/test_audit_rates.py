"""Point values: by hand, against fairlearn, and against the ledger's moments over rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import fairmt
from fairmt.auditing.memory import cube_of_rows
from fairmt.auditing.plan import make_plan
from fairmt.auditing.reading import read_rows
from fairmt.ledger import Ledger
from fairmt.moments import Moments

HAND = pd.DataFrame(
    {
        "sex": ["m"] * 4 + ["w"] * 4 + [None],
        "hired": ["yes", "yes", "no", "no", "yes", "no", "no", "no", "yes"],
        "hired.true": ["yes", "yes", "yes", "no", "yes", "yes", "no", None, "yes"],
    }
)


def rate(result: fairmt.auditing.AuditResult, statistic: str, group: str) -> pd.Series:
    rows = result.rates.query("statistic == @statistic and group == @group")
    assert len(rows) == 1
    return rows.iloc[0]


def test_rates_of_nine_people_are_those_counted_by_hand() -> None:
    result = fairmt.audit(
        HAND, tasks=["hired:classification"], sensitive=["sex"], min_evidence=1, n_boot=0
    )
    expected = {
        ("recall of yes", "sex=m"): (3, 2 / 3),
        ("recall of yes", "sex=w"): (2, 1 / 2),
        ("recall of yes", "everybody"): (6, 4 / 6),
        ("recall of no", "sex=m"): (1, 1.0),
        ("recall of no", "sex=w"): (1, 1.0),
        ("precision of yes", "sex=m"): (2, 1.0),
        ("precision of no", "sex=m"): (2, 1 / 2),
        ("precision of no", "sex=w"): (2, 1 / 2),
        ("accuracy", "sex=m"): (4, 3 / 4),
        ("accuracy", "sex=w"): (3, 2 / 3),
        ("predicted rate of yes", "sex=m"): (4, 1 / 2),
        ("predicted rate of yes", "sex=w"): (4, 1 / 4),
        ("predicted rate of yes", "everybody"): (9, 4 / 9),
    }
    for (statistic, group), (n, value) in expected.items():
        found = rate(result, statistic, group)
        assert found["n"] == n, (statistic, group)
        assert found["value"] == pytest.approx(value, abs=1e-15), (statistic, group)
    gap = result.gaps.set_index("statistic").loc["recall of yes"]
    assert gap["gap"] == pytest.approx(1 / 6)
    assert (gap["worst_group"], gap["best_group"]) == ("sex=w", "sex=m")


def test_weights_count_as_repeated_rows() -> None:
    copies = np.array([1, 3, 2, 1, 4, 1, 2, 2, 5])
    weighted = fairmt.audit(
        HAND.assign(w=copies), tasks=["hired:classification"], sensitive=["sex"], weight="w",
        min_evidence=1, n_boot=0,
    )  # fmt: skip
    repeated = fairmt.audit(
        HAND.loc[HAND.index.repeat(copies)], tasks=["hired:classification"], sensitive=["sex"],
        min_evidence=1, n_boot=0,
    )  # fmt: skip
    both = weighted.rates.merge(repeated.rates, on=["statistic", "group"])
    assert len(both) == len(weighted.rates)
    np.testing.assert_allclose(both["value_x"], both["value_y"], atol=1e-14)
    # Evidence is Kish's number of rows, fewer than the copies.
    assert (both["n_x"] <= both["n_y"]).all()
    found = weighted.utilities.set_index("metric")["value"]
    assert found["accuracy"] == pytest.approx(
        repeated.utilities.set_index("metric").loc["accuracy", "value"]
    )


def test_point_values_equal_those_of_fairlearn(people: pd.DataFrame) -> None:
    fairlearn = pytest.importorskip("fairlearn.metrics")
    metrics = pytest.importorskip("sklearn.metrics")
    result = fairmt.audit(people, tasks=["job:classification"], sensitive=["region"], n_boot=0)
    known = people.dropna(subset=["job.true", "region"])
    for name in ("lead", "manual", "office"):
        frame = fairlearn.MetricFrame(
            metrics={
                "recall": metrics.recall_score,
                "precision": metrics.precision_score,
                "false alarm rate": fairlearn.false_positive_rate,
            },
            y_true=(known["job.true"] == name).astype(int),
            y_pred=(known["job"] == name).astype(int),
            sensitive_features=known["region"],
        )
        for measure in frame.by_group.columns:
            for group, value in frame.by_group[measure].items():
                found = rate(result, f"{measure} of {name}", f"region={group}")
                assert found["value"] == pytest.approx(value, abs=1e-12)
    every = people.dropna(subset=["region"])
    selected = fairlearn.MetricFrame(
        metrics=fairlearn.selection_rate,
        y_true=every["job"] == "lead",
        y_pred=every["job"] == "lead",
        sensitive_features=every["region"],
    )
    for group, value in selected.by_group.items():
        found = rate(result, "predicted rate of lead", f"region={group}")
        assert found["value"] == pytest.approx(value, abs=1e-12)
    gap = result.gaps.set_index("statistic").loc["predicted rate of lead", "gap"]
    assert gap == pytest.approx(selected.difference(), abs=1e-12)


def test_regression_equals_scikit_learn_in_the_targets_units(people: pd.DataFrame) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    result = fairmt.audit(people, tasks=["income:regression"], sensitive=["sex"], n_boot=0)
    known = people.dropna(subset=["income.true"])
    scale = known["income.true"].std(ddof=0)
    for sex, own in known.groupby("sex"):
        group = f"sex={sex}"
        truth, guess = own["income.true"], own["income"]
        expected = {
            "mean squared error": metrics.mean_squared_error(truth, guess) / scale**2,
            "mean absolute error": metrics.mean_absolute_error(truth, guess) / scale,
            "mean residual": (guess - truth).mean() / scale,
        }
        for statistic, value in expected.items():
            assert rate(result, statistic, group)["value"] == pytest.approx(value, abs=1e-10)
        r2 = result.observation.query("group == @group")["r2"].item()
        assert r2 == pytest.approx(metrics.r2_score(truth, guess), abs=1e-10)
    found = result.utilities.set_index("metric")["value"]
    assert found["rmse"] == pytest.approx(
        metrics.root_mean_squared_error(known["income.true"], known["income"])
    )


@pytest.mark.parametrize("settings", [{}, {"weight": "weight"}, {"cluster": "household"}])
def test_sums_of_the_cube_are_the_ledgers_moments_over_rows(
    people: pd.DataFrame, tasks: list[str], settings: dict[str, str]
) -> None:
    rows = read_rows(people, tasks, ["sex", "region"], depth=2, **settings)
    plan = make_plan(rows.layout, rows.groups, scored=rows.scored, one_by_one=not settings)
    cube = cube_of_rows(rows, plan, resample=False)
    ledger = Ledger(rows.layout, plan.notions)
    atoms = rows.atoms(slice(None))
    codes = torch.from_numpy(np.stack(rows.codes, 1).astype(np.int64))
    w = None if rows.weights is None else torch.from_numpy(rows.weights)
    moments = Moments.of(
        rows.groups.membership(codes, torch.float64),
        ledger.columns(atoms),
        ledger.evidence(atoms),
        w,
    )
    expected = ledger.rates(moments.sums).numpy()
    result = fairmt.audit(
        people, tasks=tasks, sensitive=["sex", "region"], depth=2, n_boot=0, min_evidence=1,
        **settings,
    )  # fmt: skip
    place = {(s.task, s.name): j for j, s in enumerate(ledger.statistics)}
    groups = ["everybody", *rows.groups.names]
    assert len(plan.statistics) == len(ledger)
    assert cube.n_rows == len(people)
    for found in result.rates.itertuples():
        j, g = place[found.task, found.statistic], groups.index(found.group)
        assert found.n == pytest.approx(float(moments.evidence[g, j]), rel=1e-9)
        if found.n >= 1:
            assert found.value == pytest.approx(expected[g, j], abs=1e-12)


def test_tensors_and_tables_give_the_same_audit(people: pd.DataFrame, tasks: list[str]) -> None:
    rows = read_rows(people, tasks, ["sex", "region"])
    atoms = rows.atoms(slice(None))
    labels = torch.full((len(rows), rows.layout.n_labels), torch.nan, dtype=torch.float64)
    for task in rows.layout.tasks:
        truth = torch.from_numpy(rows.answers[task.name].truth.astype(float))
        if task.kind != "regression":
            truth[truth < 0] = torch.nan
        labels[:, rows.layout.labels[task.name]] = truth.reshape(len(rows), -1)
    from fairmt.auditing.tensors import audit_decisions

    other = audit_decisions(
        rows.layout,
        rows.groups,
        atoms.predicted,
        atoms.probability,
        labels,
        torch.from_numpy(np.stack(rows.codes, 1).astype(np.int64)),
        n_boot=20,
    )
    first = fairmt.audit(people, tasks=tasks, sensitive=["sex", "region"], n_boot=20)
    np.testing.assert_allclose(first.rates["value"], other.rates["value"], atol=1e-12)
    np.testing.assert_allclose(first.gaps["low"], other.gaps["low"], atol=1e-9)
    np.testing.assert_allclose(first.utilities["value"], other.utilities["value"], atol=1e-9)


def test_missing_labels_and_attributes_leave_rates_and_not_rows() -> None:
    result = fairmt.audit(
        HAND, tasks=["hired:classification"], sensitive=["sex"], min_evidence=1, n_boot=0
    )
    seen = result.observation.query("output == 'yes'").set_index("group")
    assert seen.loc["everybody", "rows"] == 9
    assert seen.loc["sex=m", "rows"] == 4
    assert seen.loc["sex=w", "observed"] == pytest.approx(3 / 4)
    assert seen.loc["sex=w", "base_rate"] == pytest.approx(2 / 3)


def test_small_groups_are_unknown_and_leave_the_gap(people: pd.DataFrame) -> None:
    frame = people.copy()
    frame.loc[:9, "region"] = "tiny"
    result = fairmt.audit(frame, tasks=["job:classification"], sensitive=["region"])
    tiny = result.rates.query("group == 'region=tiny'")
    assert (tiny["status"] == "unknown").all()
    assert tiny["value"].isna().all()
    assert (result.gaps["unknown_groups"] >= 1).all()
    assert not (result.gaps["worst_group"] == "region=tiny").any()


def test_without_probabilities_only_decisions_are_judged(make) -> None:
    frame = make.predictions(500, scores=False)
    result = fairmt.audit(frame, tasks=make.tasks, sensitive=["sex"], n_boot=0)
    assert not result.gaps["measure"].str.contains("calibration").any()
    assert set(result.utilities["metric"]).isdisjoint({"auc", "log_loss"})
    assert result.scores.empty


def test_probabilities_alone_are_decided_by_the_largest_and_by_one_half(make) -> None:
    frame = make.predictions(500)
    decided = fairmt.audit(frame, tasks=make.tasks, sensitive=["sex"], n_boot=0)
    alone = fairmt.audit(
        frame.drop(columns=["job", "benefits.health.decision", "benefits.housing.decision"]),
        tasks=make.tasks, sensitive=["sex"], n_boot=0,
    )  # fmt: skip
    np.testing.assert_array_equal(decided.rates["value"], alone.rates["value"])


def test_arrays_frames_files_and_numbers_as_names_are_all_the_same(tmp_path, make) -> None:
    frame = make.predictions(400)[["sex", "job", "job.true"]].dropna()
    path = tmp_path / "predictions.csv"
    frame.to_csv(path, index=False)
    folder = tmp_path / "parts"
    folder.mkdir()
    frame.iloc[:100].to_parquet(folder / "a.parquet")
    frame.iloc[100:].to_parquet(folder / "b.parquet")
    settings = {"tasks": ["job:classification"], "n_boot": 0}
    expected = fairmt.audit(frame, sensitive=["sex"], **settings).rates
    arrays = {c: frame[c].to_numpy(dtype=object) for c in ("job", "job.true")}
    for data, sensitive in (
        (path, ["sex"]),
        (str(folder), ["sex"]),
        (arrays, {"sex": frame["sex"].to_numpy(dtype=object)}),
        (arrays, frame[["sex"]]),
        (arrays, frame["sex"]),
    ):
        found = fairmt.audit(data, sensitive=sensitive, **settings).rates
        np.testing.assert_array_equal(found["value"], expected["value"])
        assert list(found["group"]) == list(expected["group"])


@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, float, bool, str, "category", "Int64"])
def test_two_classes_are_the_same_in_every_type_of_column(kind) -> None:
    r = np.random.default_rng(0)
    truth, guess = r.integers(0, 2, 200), r.integers(0, 2, 200)
    group = r.choice(["a", "b"], 200)
    frame = pd.DataFrame({"group": group, "y": guess, "y.true": truth})
    expected = fairmt.audit(frame, tasks=["y:classification"], sensitive=["group"], n_boot=0)
    other = frame.astype({"y": kind, "y.true": kind})
    found = fairmt.audit(other, tasks=["y:classification"], sensitive=["group"], n_boot=0)
    np.testing.assert_array_equal(found.rates["value"], expected.rates["value"])


def test_numbers_with_many_values_are_cut_into_bands_and_few_keep_their_order() -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": r.integers(18, 90, 400),
            "children": r.integers(0, 12, 400),
            "y": r.integers(0, 2, 400),
            "y.true": r.integers(0, 2, 400),
        }
    )
    settings = {"tasks": ["y:classification"], "sensitive": ["age", "children"], "n_boot": 0}
    result = fairmt.audit(frame, bins={"age": [30, 60]}, **settings)
    assert result.attributes["age"] == ["below 30", "30 to 60", "60 and above"]
    assert result.attributes["children"] == [str(i) for i in range(12)]
    young = result.rates.query("group == 'age=below 30' and measure == 'predicted rate'")
    assert young["n"].item() == (frame["age"] < 30).sum()
    assert len(fairmt.audit(frame, **settings).attributes["age"]) == 4


def test_notions_can_be_chosen_per_task_and_per_kind(people: pd.DataFrame, tasks) -> None:
    result = fairmt.audit(
        people, tasks=tasks, sensitive=["sex"], n_boot=0,
        notions={"job": "accuracy_parity", "regression": ["bias_parity", "error_parity"]},
    )  # fmt: skip
    found = result.gaps.groupby("task")["measure"].apply(set).to_dict()
    assert found == {"job": {"accuracy"}, "income": {"mean residual", "mean squared error"}}


def test_utilities_from_counts_are_those_from_rows(people: pd.DataFrame) -> None:
    with_scores = fairmt.audit(
        people, tasks=["job:classification", "benefits:detection"], sensitive=["sex"], n_boot=0
    )
    without = fairmt.audit(
        people.drop(columns=[c for c in people if c.startswith("job.") and c != "job.true"]),
        tasks=["job:classification"], sensitive=["sex"], n_boot=0,
    )  # fmt: skip
    expected = with_scores.utilities.query("task == 'job'").set_index("metric")["value"]
    for row in without.utilities.itertuples():
        assert row.value == pytest.approx(expected[row.metric], abs=1e-12)


def test_units_that_come_with_a_task_stay(people: pd.DataFrame) -> None:
    from fairmt.tasks import Regression

    task = Regression("income", centre=(30.0,), scale=(2.0,))
    common = {"sensitive": ["sex"], "n_boot": 0, "notions": ["bias_parity"]}
    given = fairmt.audit(people, tasks=[task], **common).rates
    fitted = fairmt.audit(people, tasks=["income:regression"], **common).rates
    spread = people["income.true"].std(ddof=0)
    np.testing.assert_allclose(given["value"] * 2.0, fitted["value"] * spread, rtol=1e-9)
    engine = fairmt.audit(people, tasks=[task], engine="duckdb", **common).rates
    np.testing.assert_allclose(engine["value"], given["value"], rtol=1e-9)
