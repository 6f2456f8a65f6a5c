"""The dependence of predictions on attributes: score, interval, chance, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats.contingency import association

from fairmt.auditing import DependenceScore, dependence_score

FAST: dict[str, Any] = {"n_boot": 60, "permutations": 39}


def table(n: int = 400, effect: float = 1.0, seed: int = 0) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    age, member = r.normal(40, 10, n), r.integers(0, 2, n)
    label = r.normal(size=n)
    return pd.DataFrame(
        {
            "age": age,
            "sex": np.array(["m", "w"])[member],
            "pay": effect * (age - 40) / 10 + effect * member + r.normal(size=n),
            "pay.true": label,
            "job": np.where(r.random(n) < 0.5 + 0.2 * effect * member, "yes", "no"),
            "home": np.repeat(np.arange(n // 4), 4),
        }
    )


def test_dependence_is_above_chance_and_independence_is_not() -> None:
    frame = table()
    found = dependence_score(frame["pay"], frame[["age", "sex"]], **FAST)
    assert found.low < found.score < found.high
    assert found.low > found.chance
    assert found.p_value == 1 / 40
    none = dependence_score(frame["pay.true"], frame[["age", "sex"]], **FAST)
    assert none.p_value > 0.05
    assert abs(none.excess) < 0.5 * none.chance


def test_p_values_are_small_as_often_as_they_should_be() -> None:
    r = np.random.default_rng(0)
    p = [
        dependence_score(r.normal(size=60), r.normal(size=60), n_boot=0, permutations=19).p_value
        for _ in range(100)
    ]
    assert 0.01 <= np.mean(np.array(p) <= 0.1) <= 0.2


def test_the_interval_covers_the_mean_score_of_samples() -> None:
    def score(seed: int, n_boot: int) -> DependenceScore:
        frame = table(200, 0.5, seed)
        return dependence_score(frame["pay"], frame["age"], n_boot=n_boot, permutations=0)

    mean = np.mean([score(1000 + s, 0).score for s in range(60)])
    covered = [s.low <= mean <= s.high for s in (score(s, 60) for s in range(40))]
    assert np.mean(covered) >= 0.8


def test_categories_give_tschuprows_t_squared() -> None:
    frame = table()
    found = dependence_score(frame["job"], frame["sex"], n_boot=0, permutations=0, ridge=1e-8)
    counts = pd.crosstab(frame["job"], frame["sex"]).to_numpy()
    assert found.score == pytest.approx(association(counts, method="tschuprow") ** 2, rel=1e-4)
    assert np.isnan([found.low, found.high, found.chance, found.p_value]).all()


def test_given_the_group_what_the_group_explains_is_gone() -> None:
    frame = table(1200)
    r = np.random.default_rng(1)
    member = (frame["sex"] == "w").astype(float)
    a, y = 2 * member + r.normal(size=1200), 2 * member + r.normal(size=1200)
    assert dependence_score(y, a, **FAST).p_value < 0.05
    given = dependence_score(y, a, frame["sex"], **FAST)
    assert given.p_value > 0.05
    assert given.given == "sex"


def test_given_a_number_attributes_are_exchanged_among_rows_of_nearly_the_same_one() -> None:
    """A score above 0 that is not more than chance."""
    r = np.random.default_rng(0)
    z = r.normal(size=1500)
    a, y = z + 0.5 * r.normal(size=1500), z + 0.5 * r.normal(size=1500)
    found = dependence_score(y, a, z, n_boot=0, permutations=39)
    assert found.score > 0.01
    assert found.chance == pytest.approx(found.score, rel=0.3)
    assert found.p_value > 0.025


def test_clusters_widen_the_interval_and_chance() -> None:
    """Households of ten alike people: rows by themselves would make noise look like more."""
    r = np.random.default_rng(0)
    home = np.repeat(np.arange(60), 10)
    a, y = r.normal(size=60)[home], r.normal(size=60)[home]
    a, y = a + 0.1 * r.normal(size=600), y + 0.1 * r.normal(size=600)
    rows, clusters = (dependence_score(y, a, clusters=c, **FAST) for c in (None, home))
    assert rows.score == pytest.approx(clusters.score)
    assert clusters.high - clusters.low > 1.5 * (rows.high - rows.low)
    assert clusters.chance > 5 * rows.chance
    assert rows.p_value < 0.05 < clusters.p_value


def test_a_weight_of_two_is_a_row_that_occurs_twice() -> None:
    frame = table(100)[["pay", "job"]]
    twice = pd.concat([frame, frame[:30]])
    weights = np.where(np.arange(100) < 30, 2.0, 1.0)
    settings: dict[str, Any] = {"n_boot": 0, "permutations": 0}
    a = dependence_score(frame["job"], frame["pay"] > 0, weights=weights, **settings)
    b = dependence_score(twice["job"], twice["pay"] > 0, **settings)
    assert a.score == pytest.approx(b.score)


def test_rows_with_a_missing_value_are_left_out() -> None:
    frame = table()
    gaps = frame.copy()
    gaps.loc[:19, "age"] = np.nan
    gaps.loc[20:39, "sex"] = None
    a = dependence_score(gaps["pay"], gaps[["age", "sex"]], **FAST)
    b = dependence_score(frame["pay"][40:], frame[["age", "sex"]][40:], **FAST)
    assert a.n == b.n == 360
    assert a.score == pytest.approx(b.score)


def test_many_rows_share_buckets_and_spread_as_rows_do() -> None:
    frame = table(6000, 0.5)
    found = dependence_score(frame["pay"], frame["age"], n_boot=100, permutations=0)
    part = dependence_score(frame["pay"][:1000], frame["age"][:1000], n_boot=100, permutations=0)
    ratio = (part.high - part.low) / (found.high - found.low)
    assert ratio == pytest.approx(6**0.5, rel=0.5)


def test_what_it_says() -> None:
    frame = table()
    found = dependence_score(frame["pay"], frame[["age", "sex"]], frame["job"], **FAST)
    assert str(found).startswith(f"pay on age × sex given job: {found.score:.3f} [")
    assert f"(p = 0.025, n = {found.n})" in str(found)
    row = found.to_frame().iloc[0]
    assert row["excess"] == pytest.approx(found.score - found.chance)
    assert row["attributes"] == "age × sex"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": table()["age"][:50]}, "age has 50 rows; pay has 400"),
        ({"weights": np.ones(3)}, r"weights must be \(400,\). Found shape \(3,\)"),
        ({"clusters": np.ones(3)}, r"clusters must be \(400,\)"),
        ({"weights": -np.ones(400)}, "The weight of row 0 is -1"),
        ({"predictions": table()["pay"].where(lambda p: p != p.iloc[5], np.inf)}, "infinite"),
        ({"attributes": pd.Series([None] * 400, dtype=object)}, "Only 0 of 400 rows"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    frame = table()
    given: dict[str, Any] = {"predictions": frame["pay"], "attributes": frame["age"]} | change
    with pytest.raises(ValueError, match=message):
        dependence_score(**given, n_boot=0, permutations=0)


def test_an_identifier_is_no_attribute() -> None:
    names = np.array([f"p{i}" for i in range(600)])
    with pytest.raises(ValueError, match="who has 600 combinations of categories, more than 512"):
        dependence_score(np.arange(600.0), {"who": names}, n_boot=0, permutations=0)
