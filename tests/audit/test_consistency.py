"""Prediction consistency: hand cases, intervals, learners, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fairmt
from fairmt.auditing.consistency import prediction_consistency

PEOPLE = pd.DataFrame(
    {
        "sex": ["m", "w", "m", "w", "m"],
        "relationship": ["Husband", "Wife", "Single", "Single", "Husband"],
        "score": [1.0, 2.0, 3.0, 4.0, 5.0],
        "weight": [1.0, 1.0, 2.0, 2.0, 4.0],
        "household": [1, 1, 2, 2, 3],
    }
)


def wife_pays(frame: pd.DataFrame) -> dict[str, Any]:
    """Wives need more points, and are expected to earn less."""
    wife = frame["relationship"] == "Wife"
    return {
        "hired": np.where(frame["score"] >= np.where(wife, 3.5, 1.5), "yes", "no"),
        "pay": 10 * frame["score"] - np.where(wife, 4.0, 0.0),
        "tall": np.ones(len(frame), dtype=int),
    }


SPOUSE = {"relationship": ["Husband", "Wife"]}


def test_a_case_by_hand() -> None:
    found = prediction_consistency(wife_pays, PEOPLE, SPOUSE, scale={"pay": 8.0})
    table = found.to_frame().set_index("output")
    # Scores 2 and 3 are enough for husbands alone.
    assert table.loc["hired", ["statistic", "n", "value"]].tolist() == ["same decision", 5, 0.6]
    assert table.loc["pay", ["statistic", "value"]].tolist() == ["change in sd", 0.5]
    assert table.loc["tall", "value"] == 1.0
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert found.settings == {"relationship": ("Husband", "Wife")}
    # The rows themselves are not changed.
    assert PEOPLE["relationship"].nunique() == 3


def test_all_values_and_several_columns_at_once() -> None:
    every = prediction_consistency(wife_pays, PEOPLE, {"relationship": None}, scale={"pay": 8.0})
    assert every.settings["relationship"] == ("Husband", "Single", "Wife")

    def by_both(frame: pd.DataFrame) -> np.ndarray:
        # Only the combination of a man and a wife is strange.
        return ((frame["sex"] == "m") & (frame["relationship"] == "Wife")).to_numpy()

    together = {"sex": ["m", "w"], "relationship": ["Husband", "Wife"]}
    assert prediction_consistency(by_both, PEOPLE, together).table["value"].tolist() == [1.0]
    alone = prediction_consistency(by_both, PEOPLE, {"sex": ["m", "w"]}).table
    assert alone["output"].tolist() == ["prediction"]
    assert alone["value"].tolist() == [0.8]


def test_three_settings_count_once_and_numbers_by_their_range() -> None:
    def predict(frame: pd.DataFrame) -> dict[str, Any]:
        return {"level": frame["sex"].to_numpy(), "pay": frame["score"].to_numpy()}

    settings = {"sex": ["m", "w", "m"], "score": [1.0, 4.0, 2.0]}
    table = prediction_consistency(predict, PEOPLE, settings, scale={"pay": 2.0}).table
    assert table["value"].tolist() == [0.0, 1.5]


def test_weights_count_as_rows() -> None:
    scale = {"pay": 8.0}
    weighted = prediction_consistency(wife_pays, PEOPLE, SPOUSE, scale=scale, weight="weight")
    times = PEOPLE["weight"].astype(int)
    repeated = prediction_consistency(
        wife_pays, PEOPLE.loc[PEOPLE.index.repeat(times)], SPOUSE, scale=scale
    )
    np.testing.assert_allclose(weighted.table["value"], repeated.table["value"])
    # Kish's effective number: 10² / 26.
    assert weighted.table["n"].tolist() == pytest.approx([100 / 26] * 3)


def test_intervals_cover_and_clusters_widen_them() -> None:
    """A share of .7, in clusters of five that agree."""
    covered, widths = {"row": 0, "cluster": 0}, {"row": 0.0, "cluster": 0.0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        stays = np.repeat(rng.random(100) < 0.7, 5)
        frame = pd.DataFrame({"a": "x", "stays": stays, "cluster": np.repeat(np.arange(100), 5)})

        def predict(f: pd.DataFrame) -> np.ndarray:
            return np.where(f["stays"], 0, (f["a"] == "y").astype(int))

        for name, cluster in (("row", None), ("cluster", "cluster")):
            own = prediction_consistency(
                predict, frame, {"a": ["x", "y"]}, cluster=cluster, n_boot=100
            ).table.iloc[0]
            covered[name] += int(own["low"] <= 0.7 <= own["high"])
            widths[name] += own["high"] - own["low"]
    assert 0.88 <= covered["cluster"] / 100 <= 0.99
    assert covered["row"] / 100 < 0.75
    assert widths["cluster"] / widths["row"] == pytest.approx(np.sqrt(5), rel=0.1)


def test_shares_stay_shares_where_clusters_are_unequal() -> None:
    frame = pd.DataFrame({"a": "x", "unit": np.repeat(np.arange(10), np.arange(1, 11))})

    def predict(f: pd.DataFrame) -> np.ndarray:
        return ((f["a"] == "y") & (f["unit"] == 0)).to_numpy()

    own = prediction_consistency(predict, frame, {"a": ["x", "y"]}, cluster="unit").table.iloc[0]
    assert own["value"] == pytest.approx(54 / 55)
    assert 0.9 < own["low"] < own["high"] == 1.0


def test_unanimous_rows_are_not_certain() -> None:
    frame = pd.DataFrame({"a": ["x"] * 40, "unit": np.repeat(np.arange(10), 4)})

    def predict(f: pd.DataFrame) -> np.ndarray:
        return np.zeros(len(f), dtype=int)

    def low(cluster: str | None) -> float:
        found = prediction_consistency(predict, frame, {"a": ["x", "y"]}, cluster=cluster)
        return float(found.table["low"].iloc[0])

    # Wilson: n / (n + z²).
    assert low(None) == pytest.approx(40 / (40 + 1.959964**2), abs=1e-6)
    assert low("unit") == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)


def test_a_learner_is_asked_by_its_own_columns() -> None:
    people = fairmt.generate(1200, seed=2)
    learner = fairmt.FairMTLearner(
        **people.learner_settings(), method="plain", epochs=2, path_epochs=1, widths=(8,),
        attributes_as_inputs=True,
    ).fit(people.frame)  # fmt: skip
    table = prediction_consistency(
        learner, people.frame, {"sex": ["men", "women"]}, cluster="household", n_boot=50
    ).table.set_index("output")
    men, women = (learner.predict(people.frame.assign(sex=v)) for v in ("men", "women"))
    assert list(table.index) == list(men.columns)
    assert table.loc["job", "value"] == pytest.approx((men["job"] == women["job"]).mean())
    scale = next(t for t in learner.schema_.tasks if t.name == "income").scale[0]
    change = (men["income"] - women["income"]).abs().mean() / scale
    assert table.loc["income", "value"] == pytest.approx(change)
    assert table.loc["income", "statistic"] == "change in sd"

    with pytest.raises(ValueError, match=r"Column 'sex' never holds \['woman'\]"):
        prediction_consistency(learner, people.frame, {"sex": ["men", "woman"]})
    with pytest.warns(UserWarning, match=r"does not see \['household'\]"):
        blind = prediction_consistency(learner, people.frame, {"household": [1, 2]}, n_boot=10)
    assert blind.table.loc[blind.table["statistic"] == "same decision", "value"].eq(1).all()


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({}, {}, "Name a column"),
        ({"relation": ["a", "b"]}, {}, "no column 'relation'.*'relationship'"),
        ({"sex": "mw"}, {}, "'sex': give a list"),
        ({"sex": ["m"]}, {}, "'sex' needs two values"),
        ({"sex": ["m", "w"], "relationship": None}, {}, "equally many values"),
        (SPOUSE, {"scale": {"pay": 0.0}}, "scale of 'pay' must be positive"),
        (SPOUSE, {"cluster": "house"}, "no column 'house'"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    settings: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prediction_consistency(wife_pays, PEOPLE, settings, **{"scale": {"pay": 8.0}} | more)


def test_answers_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="'pay' holds numbers, no decisions"):
        prediction_consistency(lambda f: {"pay": f["score"] + 0.5}, PEOPLE, {"sex": ["m", "w"]})
    with pytest.raises(ValueError, match=r"'prediction' must be \(5,\).*Found \(5, 2\)"):
        prediction_consistency(lambda f: np.zeros((5, 2)), PEOPLE, {"sex": ["m", "w"]})
    with pytest.raises(ValueError, match="'prediction' is missing for some rows"):
        prediction_consistency(lambda f: f["score"].where(f["score"] > 1), PEOPLE, SPOUSE)


def test_the_snippet_of_the_docs_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "audit.md"
    section = page.read_text(encoding="utf-8").split("## Prediction consistency")[1]
    snippet = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {"print": lambda *_: None}
    exec(compile(snippet[1], str(page), "exec"), names)
    assert set(names["found"].to_frame()["statistic"]) == {"same decision", "change in sd"}
