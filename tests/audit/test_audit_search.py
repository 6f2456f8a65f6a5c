"""The search for the worst-served subgroups."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

import fairmt


def planted(n: int = 20_000, seed: int = 0, clusters: bool = False) -> pd.DataFrame:
    """Everybody is recognised with 80 %, but for young women in the south, with 55 %."""
    r = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "sex": r.choice(["men", "women"], n),
            "age": r.choice(["young", "middle", "old"], n),
            "region": r.choice(["north", "south"], n),
            "origin": r.choice(["here", "there"], n),
        }
    )
    hit = (frame["sex"] == "women") & (frame["age"] == "young") & (frame["region"] == "south")
    truth = r.integers(0, 2, n)
    right = r.random(n) < np.where(hit, 0.55, 0.8)
    frame["y"] = np.where(right, truth, 1 - truth)
    frame["y.true"] = truth
    frame.loc[r.random(n) < 0.05, "age"] = None
    frame["z"] = r.normal(size=n)
    frame["z.true"] = frame["z"] + r.normal(size=n) * np.where(hit, 3.0, 1.0)
    frame["house"] = np.arange(n) // 4
    return frame


ATTRIBUTES = ["sex", "age", "region", "origin"]


def audited(frame: pd.DataFrame, task: str = "y:classification", **settings):
    return fairmt.audit(frame, tasks=[task], sensitive=ATTRIBUTES, n_boot=0, **settings)


def test_the_planted_subgroup_comes_first() -> None:
    for task, statistic in (("y:classification", "accuracy"), ("z:regression", None)):
        found = audited(planted(), task).search(3, statistics=statistic and [statistic])
        first = found.iloc[0]
        assert first["subgroup"] == "sex=women & age=young & region=south"
        assert first["found"]
        assert first["low"] > 0.1


def test_figures_are_those_counted_by_hand() -> None:
    frame = planted(4000)
    found = audited(frame).search(2, statistics=["accuracy"], prune=False, limit=None)
    frame["right"] = frame["y"] == frame["y.true"]
    for row in found.to_dict("records"):
        inside = pd.Series(True, index=frame.index)
        for part in row["subgroup"].split(" & "):
            attribute, value = part.split("=")
            inside &= frame[attribute] == value
        assert row["n"] == inside.sum()
        assert row["value"] == pytest.approx(frame.loc[inside, "right"].mean())
        assert row["rest_value"] == pytest.approx(frame.loc[~inside, "right"].mean())
        assert row["loss"] == pytest.approx(row["rest_value"] - row["value"])


def test_every_combination_with_support_is_tested() -> None:
    found = audited(planted(4000)).search(3, statistics=["accuracy"], min_support=50)
    sizes = {"sex": 2, "age": 3, "region": 2, "origin": 2}
    expected = sum(
        np.prod([sizes[a] for a in members])
        for d in (1, 2, 3)
        for members in combinations(ATTRIBUTES, d)
    )
    assert found.attrs["tested"] == expected


def test_where_nobody_is_served_worse_nothing_is_found() -> None:
    wrong = 0
    for seed in range(20):
        frame = planted(3000, seed)
        r = np.random.default_rng(100 + seed)
        frame["y"] = np.where(r.random(3000) < 0.8, frame["y.true"], 1 - frame["y.true"])
        table = audited(frame).search(3, adjust="holm", limit=None)
        wrong += bool(table["found"].any())
    # Holm: a false finding in at most 5 % of searches; 4 of 20 would happen once in 60 times.
    assert wrong <= 3


def test_pruning_leaves_out_what_its_parents_explain() -> None:
    result = audited(planted())
    every = result.search(3, statistics=["accuracy"], prune=False, limit=None)
    pruned = result.search(3, statistics=["accuracy"], limit=None)
    assert len(pruned) < len(every) / 2
    deep = pruned[pruned["depth"] > 1]
    assert (deep["beyond_parents"] > 0).all()


def test_small_subgroups_are_not_looked_at() -> None:
    found = audited(planted(2000)).search(3, min_support=150, limit=None, prune=False)
    assert (found["n"] >= 150).all()


def test_clusters_make_findings_harder() -> None:
    frame = planted(4000)
    for column in ("y", "y.true"):
        frame[column] = frame.groupby("house")[column].transform("first")
    common = {"tasks": ["y:classification"], "sensitive": ATTRIBUTES, "n_boot": 2}
    search = {"statistics": ["accuracy"], "limit": None, "prune": False}
    alone = fairmt.audit(frame, **common).search(2, **search)
    joint = fairmt.audit(frame, cluster="house", **common).search(2, **search)
    both = alone.merge(joint, on="subgroup")
    assert len(both) > 10
    assert (both["low_y"] < both["low_x"]).all()
    ratio = (both["loss_y"] - both["low_y"]) / (both["loss_x"] - both["low_x"])
    np.testing.assert_allclose(ratio, 2.0, rtol=0.25)


def test_weights_are_searched_too() -> None:
    frame = planted(6000).assign(w=np.random.default_rng(0).uniform(0.5, 2, 6000))
    found = audited(frame, weight="w").search(3, statistics=["accuracy"])
    assert found.iloc[0]["subgroup"] == "sex=women & age=young & region=south"


def test_a_search_shows_in_the_report_and_survives_a_file(tmp_path) -> None:
    result = audited(planted(3000))
    assert "Worst-served subgroups" not in result.to_html()
    result.search(2)
    assert "Worst-served subgroups" in result.to_html()
    assert "Worst-served subgroups" in result.to_markdown()
    result.to_json(tmp_path / "audit.json")
    again = fairmt.auditing.AuditResult.from_json(tmp_path / "audit.json")
    assert list(again.subgroups["subgroup"]) == list(result.subgroups["subgroup"])
    with pytest.raises(ValueError, match="holds results and no sums"):
        again.search()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 5}, "depth must lie between 1 and the number of attributes, 4"),
        ({"depth": 0}, "depth must lie between 1"),
        ({"min_support": 1}, "min_support must be 2 or more"),
        ({"statistics": ["acuracy"]}, r"\['acuracy'\] are no statistics"),
        ({"attributes": ["height"]}, r"\['height'\] are no attributes"),
        ({"adjust": "no"}, "adjust must be one of"),
    ],
)
def test_faults_are_told(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audited(planted(1000)).search(**settings)


def test_what_is_no_ratio_cannot_be_searched() -> None:
    result = audited(planted(1000), "z:regression", notions="concordance_parity")
    with pytest.raises(ValueError, match="cannot be searched"):
        result.search(2)
