"""Made-up people: the bias that was planted is there, and what is true is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

from fairmt.data import Bundle, generate
from fairmt.data.generator import ORIGINS

N = 120_000
FAVOURED = ("north", "east")


@cache
def _draw(bias: float, missing: float) -> Bundle:
    return generate(N, seed=11, bias=bias, missing=missing)


def _truth(bundle: Bundle) -> pd.DataFrame:
    """The true probabilities and mean of every person, beside the groups."""
    frame = bundle.frame[["sex", "origin"]].copy()
    for k, name in enumerate(bundle.tasks[0].outputs):
        frame[name] = bundle.truth["job"][:, k]
    for k, name in enumerate(bundle.tasks[1].outputs):
        frame[name] = bundle.truth["benefits"][:, k]
    frame["income"] = bundle.truth["income"][:, 0]
    return frame


def test_without_bias_truths_have_the_same_distribution_in_every_group() -> None:
    truth = _truth(_draw(0.0, 0.0))
    for attribute in ("sex", "origin"):
        for column in truth.columns.drop(["sex", "origin"]):
            groups = truth.groupby(attribute)[column]
            spread = groups.mean().max() - groups.mean().min()
            # A household shares its origin, so 5 % of the rows are some 2,400 households.
            assert spread < 0.05 * truth[column].std(), (attribute, column)
            quartile = groups.quantile(0.75)
            assert quartile.max() - quartile.min() < 0.1 * truth[column].std()


def test_without_bias_features_do_not_tell_groups_apart() -> None:
    frame = _draw(0.0, 0.0).frame
    for column in [f"x{k}" for k in range(12)]:
        for attribute in ("sex", "origin"):
            means = frame.groupby(attribute)[column].mean()
            assert means.max() - means.min() < 0.05


def test_with_bias_good_outcomes_are_rarer_in_the_groups_behind() -> None:
    truth = _truth(_draw(1.0, 0.0))
    for column in ("lead", "housing", "health", "transport"):
        by_sex = truth.groupby("sex")[column].mean()
        assert by_sex["women"] < by_sex["men"] - 0.02, column
        by_origin = truth.groupby("origin")[column].mean()
        assert by_origin[["south", "west"]].max() < by_origin[list(FAVOURED)].min() - 0.03, column
    income = truth.groupby("origin")["income"].mean()
    assert income[["south", "west"]].max() < income[list(FAVOURED)].min() - 1


def test_what_tells_groups_apart_has_no_say_in_the_outcomes() -> None:
    """Given sex, origin and merit, the two telling features are noise."""
    bundle = _draw(1.0, 0.0)
    frame = bundle.frame
    rows = (frame["sex"] == "women") & (frame["origin"] == "south")
    x = frame.loc[rows, [f"x{k}" for k in range(12)]].to_numpy()
    x = np.column_stack([x, np.ones(len(x))])
    score = np.log(bundle.truth["benefits"][rows] / (1 - bundle.truth["benefits"][rows]))
    slopes = np.linalg.lstsq(x, score, rcond=None)[0]
    np.testing.assert_allclose(slopes[10:12], 0, atol=1e-9)
    assert np.abs(slopes[:10]).max() > 0.1


def test_more_bias_makes_larger_gaps() -> None:
    gaps = []
    for bias in (0.0, 0.5, 1.0):
        means = _truth(_draw(bias, 0.0)).groupby("origin")["health"].mean()
        gaps.append(means.max() - means.min())
    assert gaps[0] < 0.01
    assert gaps[1] > gaps[0] + 0.05
    assert gaps[2] > gaps[1] + 0.05


def test_with_bias_the_best_rule_overlooks_more_of_the_groups_behind() -> None:
    """The stated right answer: who deserves it is found less often in the groups behind."""
    bundle = _draw(1.0, 0.0)
    truth, actual = bundle.truth["benefits"], bundle.frame[["housing", "health", "transport"]]
    for k, label in enumerate(actual):
        deserving = actual[label].to_numpy() == 1
        found = truth[:, k] > 0.5
        people = bundle.frame[deserving]
        behind = people["origin"].isin(FAVOURED).map({True: "ahead", False: "behind"})
        for groups, low, high in ((people["sex"], "women", "men"), (behind, "behind", "ahead")):
            recall = pd.Series(found[deserving]).groupby(groups.to_numpy()).mean()
            assert recall[low] < recall[high] - (0.0 if label == "housing" else 0.05), label


def test_drawn_labels_follow_the_true_probabilities() -> None:
    bundle = _draw(1.0, 0.0)
    job = bundle.frame["job"].to_numpy()
    for k, name in enumerate(bundle.tasks[0].outputs):
        p = bundle.truth["job"][:, k]
        for low in (0.0, 0.2, 0.4, 0.6):
            rows = (p >= low) & (p < low + 0.2)
            assert (job[rows] == name).mean() == pytest.approx(p[rows].mean(), abs=0.015)
    error = bundle.frame["income"] - bundle.truth["income"][:, 0]
    assert error.mean() == pytest.approx(0, abs=0.1)
    assert error.std() == pytest.approx(6, rel=0.02)


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.5])
def test_without_bias_labels_are_missing_at_the_stated_rate_in_every_group(missing: float) -> None:
    frame = _draw(0.0, missing).frame
    for column in ("job", "housing", "health", "transport", "income"):
        gone = frame[column].isna()
        assert gone.mean() == pytest.approx(missing, abs=0.01), column
        by_origin = gone.groupby(frame["origin"]).mean()
        assert by_origin.max() - by_origin.min() < 0.03, column


def test_with_bias_labels_of_the_groups_behind_are_missing_half_as_often_again() -> None:
    frame = _draw(1.0, 0.2).frame
    behind = ~frame["origin"].isin(FAVOURED)
    for column in ("job", "housing", "income"):
        gone = frame[column].isna()
        assert gone[~behind].mean() == pytest.approx(0.2, abs=0.01)
        assert gone[behind].mean() == pytest.approx(0.3, abs=0.01)


def test_labels_are_missing_entry_by_entry() -> None:
    frame = _draw(0.0, 0.5).frame
    both = (frame["housing"].isna() & frame["health"].isna()).mean()
    assert both == pytest.approx(0.25, abs=0.01)


def test_groups_have_the_stated_sizes() -> None:
    shares = _draw(0.0, 0.0).frame["origin"].value_counts(normalize=True)
    for origin, share in zip(ORIGINS, (0.55, 0.25, 0.15, 0.05), strict=True):
        assert shares[origin] == pytest.approx(share, abs=0.01)


def test_households_share_their_origin_and_have_up_to_four_members() -> None:
    frame = _draw(1.0, 0.0).frame
    homes = frame.groupby("household")["origin"]
    assert homes.nunique().max() == 1
    assert set(homes.size()) == {1, 2, 3, 4}


def test_the_same_seed_gives_the_same_people() -> None:
    pd.testing.assert_frame_equal(generate(300, seed=4).frame, generate(300, seed=4).frame)
    assert not generate(300, seed=4).frame.equals(generate(300, seed=5).frame)


def test_truth_depends_on_features_and_group_alone() -> None:
    bundle = _draw(1.0, 0.0)
    for name, p in bundle.truth.items():
        assert len(p) == N, name
        assert np.isfinite(p).all()
    np.testing.assert_allclose(bundle.truth["job"].sum(1), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be at least 1. Found 0"),
        ({"n": 10, "bias": -1.0}, "bias must not be negative. Found -1"),
        ({"n": 10, "missing": 1.0}, r"missing must lie in \[0, 1\). Found 1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**settings)  # type: ignore[arg-type]


def test_one_person_can_be_made() -> None:
    assert len(generate(1).frame) == 1
