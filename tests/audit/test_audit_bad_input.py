"""What cannot be audited is refused, and the refusal says where and what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import fairmt
from fairmt.auditing.tensors import audit_decisions
from fairmt.tasks import Classification, Detection, Layout

TASKS = ["job:classification", "benefits:detection", "income:regression"]


def refused(data, message: str, **changes) -> None:
    settings = {"tasks": TASKS, "sensitive": ["sex"], "n_boot": 0} | changes
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        fairmt.audit(data, **settings)


def test_different_lengths(people: pd.DataFrame) -> None:
    refused(people, "Predictions have 3000 rows, the truth has 2999", truth=people.iloc[1:])
    arrays = {"y": np.zeros(5), "y.true": np.zeros(4)}
    refused(
        arrays, "'y.true' of the table of predictions has 4 rows, but 'y' has 5",
        tasks=["y:classification"],
    )  # fmt: skip
    refused(people, "3000 rows, the sensitive attributes have 7", sensitive={"sex": ["m"] * 7})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["work:classification"], "no column 'work.true'"),
        (["job:classificaton"], "kind must be one of"),
        (["job"], "expected NAME:KIND"),
        ([], "Name at least one task"),
        (["job:classification", "job:classification"], "Task names must be unique"),
        ([Detection("benefits", ("health", "wealth"))], "no column 'benefits.wealth.true'"),
    ],
)
def test_unknown_tasks(people: pd.DataFrame, tasks: list, message: str) -> None:
    refused(people, message, tasks=tasks)


def test_near_names_are_offered(people: pd.DataFrame) -> None:
    refused(people, r"no column 'regoin'. Did you mean \['region'", sensitive=["regoin"])
    refused(people, r"no column 'wieght'. Did you mean \['weight'", weight="wieght")


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_probabilities_outside_zero_and_one(people: pd.DataFrame, value: float) -> None:
    frame = people.copy()
    frame.loc[17, "benefits.health"] = value
    refused(frame, "'benefits.health' is .* in row 17")


def test_probabilities_of_classes_must_sum_to_one(people: pd.DataFrame) -> None:
    frame = people.copy()
    frame.loc[3, "job.lead"] = 0.0
    frame.loc[3, ["job.manual", "job.office"]] = 0.2
    refused(frame, "the probabilities of row 3 sum to 0.4")
    refused(people.drop(columns="job.lead"), r"some classes only; \['job.lead'\] are missing")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("job.true", "the truth 'job.true' is missing in every row"),
        ("benefits.health.true", "the truth 'benefits.health.true' is missing in every row"),
        ("income.true", "the truth 'income.true' is missing in every row"),
        ("sex", "Sensitive attribute 'sex' is missing in every row"),
    ],
)
def test_columns_without_any_value(people: pd.DataFrame, column: str, message: str) -> None:
    refused(people.assign(**{column: None}), message)


def test_values_never_seen_and_missing_predictions(people: pd.DataFrame) -> None:
    frame = people.copy()
    frame["job"] = frame["job"].astype(object)
    frame.loc[5, "job"] = "pilot"
    tasks = [Classification("job", ("lead", "manual", "office"))]
    refused(frame, "row 5 predicts 'pilot'; expected one of", tasks=tasks)
    refused(people.assign(job=people["job"].where(people.index != 9)), "row 9 predicts nothing")
    truth = people.assign(**{"job.true": people["job.true"].fillna("pilot")})
    refused(truth, r"row \d+ has the truth 'pilot'", tasks=tasks)
    refused(
        people.assign(**{"benefits.health.true": people["benefits.health.true"].replace(1.0, 2.0)}),
        "label 'benefits.health.true' holds '2' in row",
    )
    refused(
        people.assign(**{"benefits.health.decision": 7}), "'benefits.health.decision' is '7' in row"
    )
    refused(people.assign(income=people["income"].where(people.index != 4)), "missing in row 4")
    refused(people.assign(income=np.inf), "'income' is infinite in row 0")
    refused(people.assign(income="much"), "holds 'much' in row 0; expected a number")


def test_one_class_and_too_many_classes(people: pd.DataFrame) -> None:
    refused(people.assign(**{"job": "lead", "job.true": "lead"}), "one class only, 'lead'")
    names = people["person"].map("p{}".format)
    refused(people.assign(**{"job": names, "job.true": names}), "3000 classes, more than 100")


def test_attributes_that_are_no_attributes(people: pd.DataFrame) -> None:
    refused(people.assign(sex="all"), "comparison needs two")
    names = people["person"].map("p{}".format)
    refused(people.assign(sex=names), "3000 groups, more than 100")
    refused(people, "Name at least one sensitive attribute", sensitive=[])
    refused(people, r"Write \['sex'\]", sensitive="sex")
    refused(people, "bins names 'age'", bins={"age": [30]})
    refused(people, "depth must lie between 1 and", depth=3)


def test_duplicated_ids_and_columns(people: pd.DataFrame) -> None:
    frame = people.assign(person=people["person"].where(people["person"] != 8, 3))
    refused(
        frame, "Identifier 'person' is not unique: '3' occurs more than once", identifier="person"
    )
    doubled = pd.concat([people, people[["income"]]], axis=1)
    refused(doubled, "occur more than once")


def test_weights_and_clusters_that_cannot_be(people: pd.DataFrame) -> None:
    for value in (-1.0, np.nan):
        weights = people["weight"].where(people.index != 6, value)
        refused(people.assign(weight=weights), "weight of row 6", weight="weight")
    refused(people.assign(weight=0.0), "All weights are 0", weight="weight")
    homes = people["household"].where(people.index != 6)
    refused(people.assign(household=homes), "'household' is missing in row 6", cluster="household")


def test_files_that_cannot_be_read(people: pd.DataFrame, tmp_path) -> None:
    refused(tmp_path / "nowhere.parquet", "No table at")
    path = tmp_path / "people.parquet"
    people.to_parquet(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "Cannot read '.*people.parquet'")
    (tmp_path / "people.txt").write_text("a,b\n1,2\n")
    refused(tmp_path / "people.txt", "neither CSV nor Parquet")
    (tmp_path / "empty.csv").write_text("sex,job\n")
    refused(tmp_path / "empty.csv", "no rows")
    refused(people.iloc[:0], "no rows")
    refused({}, "no columns")
    refused(7, "Cannot read a table from int")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -0.1}, "tolerance must be 0 or more"),
        ({"tolerance": np.nan}, "tolerance must be 0 or more"),
        ({"confidence": 95}, "confidence must lie between 0 and 1"),
        ({"n_boot": -1}, "n_boot must be a whole number"),
        ({"n_boot": 1.5}, "n_boot must be a whole number"),
        ({"interval": "wald"}, "interval must be one of"),
        ({"interval": "percentile", "n_boot": 0}, "needs bootstrap replicates"),
        ({"adjust": "bonferroni"}, "adjust must be one of"),
        ({"min_evidence": 0}, "min_evidence must be 1 or more"),
        ({"notions": ["equal_odds"]}, r"Unknown notions \['equal_odds'\]"),
        ({"notions": {"work": "calibration"}}, r"notions names \['work'\]"),
        ({"notions": {"job": "error_parity"}}, "No statistic is left to judge"),
        ({"engine": "spark"}, "engine must be"),
    ],
)
def test_settings_out_of_range(people: pd.DataFrame, settings: dict, message: str) -> None:
    refused(people, message, **settings)


def test_a_rate_outside_its_range_stops_the_audit_with_its_name() -> None:
    layout = Layout((Detection("sick", ("sick",)),))
    groups = fairmt.Groups((fairmt.Attribute("sex", ("m", "w")),))
    ones = torch.ones(80, 1)
    labels = torch.tensor([[0.0], [1.0]]).repeat(40, 1)
    codes = torch.tensor([[0], [1]]).repeat_interleave(40, 0)
    with pytest.raises(ValueError, match=r"'calibration error' of task 'sick' is .* for everybody"):
        audit_decisions(layout, groups, ones, 5 * ones, labels, codes)


def test_codes_outside_their_attribute_are_refused() -> None:
    layout = Layout((Detection("sick", ("sick",)),))
    groups = fairmt.Groups((fairmt.Attribute("sex", ("m", "w")),))
    ones = torch.ones(4, 1)
    with pytest.raises(ValueError, match="'sex' has codes from 0 to 2"):
        audit_decisions(layout, groups, ones, None, ones, torch.tensor([[0], [1], [2], [0]]))
