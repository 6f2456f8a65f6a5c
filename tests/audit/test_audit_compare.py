"""Models side by side: changes, who gained and who paid, transfer."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import fairmt
from fairmt.auditing import compare
from fairmt.auditing.paired import OPPOSITE
from fairmt.auditing.reading import read_rows
from fairmt.disparity import Yardstick
from fairmt.ledger import Ledger
from fairmt.moments import Moments

TASKS = ["job:classification", "benefits:detection", "income:regression"]


def truth_of(people: pd.DataFrame) -> dict[str, pd.Series]:
    return {c: people[c] for c in people if c.endswith(".true") or c in ("sex", "region")}


def worse_for(people: pd.DataFrame, region: str, share: float = 0.5) -> pd.DataFrame:
    """Half of a region's positive decisions about housing are taken back."""
    frame = people.copy()
    r = np.random.default_rng(1)
    hit = (frame["region"] == region) & (r.random(len(frame)) < share)
    frame.loc[hit, "benefits.housing.decision"] = 0
    return frame


def test_values_and_changes_are_those_of_two_audits(people: pd.DataFrame) -> None:
    models = {"old": people, "new": worse_for(people, "south")}
    found = compare(models, tasks=TASKS, sensitive=["sex", "region"], n_boot=20)
    keys = ["task", "statistic", "group"]
    for name, column in (("old", "baseline"), ("new", "value")):
        rates = fairmt.audit(models[name], tasks=TASKS, sensitive=["sex", "region"], n_boot=0).rates
        both = found.groups.merge(rates, on=keys, suffixes=("", "_audit"))
        assert len(both) == len(rates)
        np.testing.assert_allclose(both[column], both["value_audit"], atol=1e-12)
        gaps = fairmt.audit(models[name], tasks=TASKS, sensitive=["sex", "region"], n_boot=0).gaps
        wide = found.gaps.merge(gaps, on=["task", "statistic", "attribute"])
        own = wide["gap_x"] if name == "new" else wide["baseline"]
        np.testing.assert_allclose(own, wide["gap_y"], atol=1e-12)


def test_who_paid_is_named_and_nobody_else(people: pd.DataFrame) -> None:
    models = {"old": people, "new": worse_for(people, "south")}
    found = compare(models, tasks=TASKS, sensitive=["region"])
    paid = found.groups.query("outcome == 'paid' and group != 'everybody'")
    assert set(paid["group"]) == {"region=south"}
    assert "recall of housing" in set(paid["statistic"])
    row = paid.set_index("statistic").loc["recall of housing"]
    assert row["high"] < 0
    assert row["change"] == pytest.approx(-0.5 * row["baseline"], abs=0.06)
    unchanged = found.groups.query("task == 'job'")
    assert (unchanged["change"] == 0).all()
    assert not unchanged["outcome"].isin(["gained", "paid"]).any()
    assert any("region=south paid most" in f for f in found.findings)


def test_paired_intervals_are_narrower_than_those_of_two_audits(people: pd.DataFrame) -> None:
    models = {"old": people, "new": worse_for(people, "south", 0.1)}
    found = compare(models, tasks=["benefits:detection"], sensitive=["region"])
    row = found.groups.query("group == 'region=south' and statistic == 'recall of housing'").iloc[0]
    audit = fairmt.audit(people, tasks=["benefits:detection"], sensitive=["region"]).rates
    own = audit.query("group == 'region=south' and statistic == 'recall of housing'").iloc[0]
    assert row["high"] - row["low"] < 0.7 * (own["high"] - own["low"])


def test_summary_is_that_of_the_yardstick(people: pd.DataFrame) -> None:
    models = {"old": people, "new": worse_for(people, "south")}
    found = compare(models, tasks=["benefits:detection"], sensitive=["sex", "region"], n_boot=10)
    rows = {n: read_rows(t, ["benefits:detection"], ["sex", "region"]) for n, t in models.items()}
    first = rows["old"]
    ledger = Ledger(first.layout, {"benefits": ["equalized_odds"]})
    assert {s.measure for s in ledger.statistics} == set(OPPOSITE)
    codes = torch.from_numpy(np.stack(first.codes, 1).astype(np.int64))
    member = first.groups.membership(codes, torch.float64)
    moments = {}
    for name, own in rows.items():
        atoms = own.atoms(slice(None))
        moments[name] = Moments.of(member, ledger.columns(atoms), ledger.evidence(atoms))
    yardstick = Yardstick(ledger, first.groups, moments["old"], member[:, 1:].sum(0))
    summary = found.summary.set_index(["model", "figure"])
    for name in models:
        expected = yardstick.measure(moments[name])
        assert summary.loc[(name, "gap"), "entries"] == expected.entries
        for figure in ("gap", "largest gap", "shortfall", "worst", "best", "level down"):
            value = getattr(expected, figure.replace(" ", "_"))
            assert summary.loc[(name, figure), "value"] == pytest.approx(value, abs=1e-9)
    assert summary.loc[("new", "level down"), "value"] > 0
    assert summary.loc[("old", "level down"), "value"] == 0


def test_transfer_is_named_only_where_it_is_sure(people: pd.DataFrame) -> None:
    worse = people.copy()
    r = np.random.default_rng(0)
    worse["income"] += 3 * r.normal(size=len(worse))
    worse["job"] = np.where(people["region"] == "south", "lead", people["job"])
    found = compare(
        {"single tasks": people, "together": worse}, tasks=TASKS, sensitive=["region"]
    ).tasks.set_index("task")
    assert found.loc["income", "transfer"].startswith("negative transfer: utility fell")
    assert "bias transfer: gaps grew" in found.loc["job", "transfer"]
    assert found.loc["benefits", "transfer"] == "no clear change"
    assert found.loc["benefits", "relative_change"] == 0


def test_utilities_are_those_of_an_audit(people: pd.DataFrame) -> None:
    found = compare({"a": people, "b": people}, tasks=TASKS, sensitive=["sex"], n_boot=5).tasks
    audit = fairmt.audit(people, tasks=TASKS, sensitive=["sex"], n_boot=0).utilities
    expected = audit.set_index(["task", "metric"])["value"]
    values = found.set_index("task")["value"]
    assert values["job"] == pytest.approx(expected["job", "macro_f1"], abs=1e-6)
    assert values["benefits"] == pytest.approx(expected["benefits", "average_precision"], abs=1e-6)
    sd = people["income.true"].std(ddof=0)
    assert values["income"] == pytest.approx(expected["income", "rmse"] / sd, abs=1e-6)


def test_identical_models_show_no_change_and_no_uncertainty(people: pd.DataFrame) -> None:
    found = compare(
        {"a": people, "b": people}, tasks=TASKS, sensitive=["sex"], cluster="household", n_boot=20
    )
    assert (found.groups["change"].dropna() == 0).all()
    assert (found.groups["high"].dropna() == 0).all()
    assert not found.groups["outcome"].isin(["gained", "paid", "higher", "lower"]).any()
    assert found.settings["clustered"]


def test_truth_and_attributes_may_stand_in_a_table_of_their_own(people: pd.DataFrame) -> None:
    answers = [c for c in people if not c.endswith(".true") and c not in ("sex", "region")]
    truth = people[["sex", "region"]].assign(
        job=people["job.true"], income=people["income.true"],
        health=people["benefits.health.true"], housing=people["benefits.housing.true"],
    )  # fmt: skip
    tasks = ["job:classification", "benefits:detection:health,housing", "income:regression"]
    models = {"a": people[answers], "b": worse_for(people, "south")[answers]}
    apart = compare(models, tasks=tasks, truth=truth, sensitive=["region"], n_boot=10)
    joint = compare(
        {"a": people, "b": worse_for(people, "south")}, tasks=tasks, sensitive=["region"], n_boot=10
    )
    np.testing.assert_allclose(apart.groups["change"], joint.groups["change"], atol=1e-12)


def test_a_class_that_only_one_model_predicts_counts_for_both(people: pd.DataFrame) -> None:
    frame = people.drop(columns=[c for c in people if c.startswith("job.") and c != "job.true"])
    other = frame.assign(job=frame["job"].where(frame.index > 40, "pilot"))
    found = compare({"a": frame, "b": other}, tasks=["job:classification"], sensitive=["sex"])
    assert "precision of pilot" in set(found.groups["statistic"])


def test_faces_of_a_comparison(people: pd.DataFrame, tmp_path) -> None:
    hostile = "<script>alert(1)</script>"
    models = {"old": people, hostile: worse_for(people, "south")}
    found = compare(models, tasks=TASKS, sensitive=["region"], n_boot=20, title="A & B")
    stored = json.loads(found.to_json(tmp_path / "comparison.json"))
    assert stored["schema"] == "fairmt.comparison/1"
    assert stored["models"] == ["old", hostile]
    assert len(stored["groups"]) == len(found.to_frame())
    page = found.to_html(tmp_path / "comparison.html")
    assert hostile not in page
    assert hostile not in found._repr_html_()
    assert "A &amp; B" in page


def test_faults_are_told(people: pd.DataFrame) -> None:
    common = {"tasks": TASKS, "sensitive": ["sex"]}
    with pytest.raises(ValueError, match="needs two models"):
        compare({"a": people}, **common)
    with pytest.raises(ValueError, match="'b' has 2999 rows, but 'a' has 3000"):
        compare({"a": people, "b": people.iloc[1:]}, **common)
    with pytest.raises(ValueError, match="sort both alike"):
        compare({"a": people, "b": people.iloc[::-1]}, identifier="person", **common)
    with pytest.raises(ValueError, match="baseline 'c' is none of the models"):
        compare({"a": people, "b": people}, baseline="c", **common)
    with pytest.raises(ValueError, match="needs bootstrap replicates"):
        compare({"a": people, "b": people}, n_boot=0, **common)
