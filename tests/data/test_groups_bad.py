"""Sensitive attributes as people hand them in: one group, thousands, none, numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairmt import FairMTLearner, generate
from fairmt.data.attributes import BAND_FROM, encode_groups, fit_groups
from fairmt.groups import MAX_CATEGORIES


def _frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_one_group_is_an_error_that_names_attribute_and_group() -> None:
    with pytest.raises(ValueError, match=r"'sex' has 1 group\(s\) \['women'\].*Leave the attri"):
        fit_groups(_frame(sex=["women"] * 10), ["sex"])


def test_thousands_of_groups_are_an_error_that_says_what_to_do() -> None:
    frame = _frame(id=[f"p{k}" for k in range(3000)])
    with pytest.raises(ValueError, match=r"'id' has 3000 groups, more than 100.*pool"):
        fit_groups(frame, ["id"])


def test_as_many_groups_as_allowed_are_allowed() -> None:
    frame = _frame(place=[f"p{k}" for k in range(MAX_CATEGORIES)])
    assert fit_groups(frame, ["place"]).n_groups == MAX_CATEGORIES


@pytest.mark.parametrize("bins", [None, {"age": (30.0,)}])
@pytest.mark.parametrize("value", [None, np.nan])
def test_an_attribute_that_is_missing_everywhere_is_an_error(
    value: float | None, bins: dict[str, tuple[float, ...]] | None
) -> None:
    with pytest.raises(ValueError, match="'age' is missing in every training row"):
        fit_groups(_frame(age=[value] * 10), ["age"], bins)


def test_an_unknown_attribute_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"no column 'rase'. Did you mean \['race'\]"):
        fit_groups(_frame(race=["a", "b"]), ["rase"])


def test_the_same_attribute_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be distinct"):
        fit_groups(_frame(sex=["a", "b"]), ["sex", "sex"])


def test_missing_values_belong_to_no_group() -> None:
    frame = _frame(sex=["men", None, "women", np.nan])
    groups = fit_groups(frame, ["sex"])
    codes = encode_groups(frame, groups)
    assert codes[:, 0].tolist() == [0, -1, 1, -1]
    assert groups.membership(codes)[1, 1:].sum() == 0


def test_the_word_none_is_a_group() -> None:
    assert fit_groups(_frame(faith=["None", "any"]), ["faith"]).names == (
        "faith=None",
        "faith=any",
    )


def test_groups_that_training_did_not_have_are_named_and_belong_nowhere() -> None:
    groups = fit_groups(_frame(sex=["men", "women"]), ["sex"])
    with pytest.warns(UserWarning, match=r"'sex' holds groups that training did not.*\['other'\]"):
        codes = encode_groups(_frame(sex=["men", "other"]), groups)
    assert codes[:, 0].tolist() == [0, -1]


def test_a_number_with_few_values_is_a_category_in_the_order_of_size() -> None:
    frame = _frame(rooms=[*range(BAND_FROM), None])
    (attribute,) = fit_groups(frame, ["rooms"]).attributes
    assert attribute.categories == tuple(str(k) for k in range(BAND_FROM))
    assert encode_groups(frame, fit_groups(frame, ["rooms"]))[:, 0].tolist() == [
        *range(BAND_FROM),
        -1,
    ]


def test_codes_have_the_same_names_as_integers_and_as_floats() -> None:
    whole = fit_groups(_frame(sex=[1, 2]), ["sex"])
    parts = fit_groups(_frame(sex=[1.0, 2.0, np.nan]), ["sex"])
    assert whole == parts


def test_a_number_with_many_values_is_cut_into_quarters() -> None:
    age = np.random.default_rng(0).integers(16, 90, 4000)
    groups = fit_groups(_frame(age=age), ["age"])
    codes = encode_groups(_frame(age=age), groups)[:, 0].numpy()
    assert groups.n_groups == 4
    assert np.bincount(codes) / 4000 == pytest.approx([0.25] * 4, abs=0.03)


def test_years_are_not_rounded_to_decades() -> None:
    born = np.random.default_rng(0).integers(1950, 1990, 4000)
    (attribute,) = fit_groups(_frame(born=born), ["born"]).attributes
    assert attribute.edges == (1960.0, 1970.0, 1980.0) or all(
        edge == pytest.approx(1960 + 10 * k, abs=1) for k, edge in enumerate(attribute.edges)
    )
    near = np.random.default_rng(0).integers(1001, 1021, 4000)
    codes = encode_groups(_frame(near=near), fit_groups(_frame(near=near), ["near"]))[:, 0]
    assert np.bincount(codes.numpy()).min() > 500


def test_a_spike_at_zero_is_a_band_of_its_own() -> None:
    gain = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])
    groups = fit_groups(_frame(gain=gain), ["gain"])
    codes = encode_groups(_frame(gain=gain), groups)[:, 0].numpy()
    assert np.bincount(codes).tolist() == [900, 100]


@given(
    st.lists(
        st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3)), min_size=14, max_size=80
    )
)
@settings(max_examples=80, deadline=None)
def test_every_band_that_is_made_has_members(values: list[float]) -> None:
    assume(len(set(values)) > BAND_FROM)
    frame = _frame(x=values)
    groups = fit_groups(frame, ["x"])
    counts = np.bincount(encode_groups(frame, groups)[:, 0].numpy(), minlength=groups.n_groups)
    assert 2 <= groups.n_groups <= 4
    assert counts[0] > 0
    assert counts[-1] > 0


def test_bins_are_inner_edges_and_a_value_at_an_edge_is_above_it() -> None:
    frame = _frame(age=[29.9, 30.0, 49.0, 50.0, None])
    groups = fit_groups(frame, ["age"], {"age": (30, 50)})
    assert groups.attributes[0].categories == ("below 30", "30 to 50", "50 and above")
    assert encode_groups(frame, groups)[:, 0].tolist() == [0, 1, 1, 2, -1]


def test_bands_of_large_numbers_have_names_of_their_own() -> None:
    edges = (1_234_567.0, 1_234_568.0, 1_234_569.0)
    (attribute,) = fit_groups(_frame(x=[1.0, 2.0]), ["x"], {"x": edges}).attributes
    assert attribute.categories[1] == "1234567 to 1234568"


@pytest.mark.parametrize("edges", [(), (3, 3), (5, 3), (1, np.inf), (np.nan,)])
def test_bins_must_rise(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="bins of 'age' must be finite and rise strictly"):
        fit_groups(_frame(age=[1.0, 2.0]), ["age"], {"age": edges})


def test_bins_of_a_column_of_words_name_the_word_and_its_row() -> None:
    frame = _frame(age=["young", "old"])
    groups = fit_groups(frame, ["age"], {"age": (30,)})
    with pytest.raises(ValueError, match="'age' holds 'young' in row 0; expected a number"):
        encode_groups(frame, groups)


@pytest.mark.parametrize("number", [float(k) for k in range(20)])
def test_an_infinite_attribute_is_named_with_its_row(number: float) -> None:
    values = [float(k) for k in range(20)]
    values[int(number)] = np.inf
    with pytest.raises(ValueError, match=f"'age' is infinite in row {int(number)}"):
        fit_groups(_frame(age=values), ["age"])


def test_intersections_have_every_combination_and_a_missing_part_has_none() -> None:
    frame = _frame(
        sex=["men", "women", "men", None],
        race=["a", "b", None, "a"],
        age=[20.0, 40.0, 60.0, 20.0],
    )
    groups = fit_groups(frame, ["sex", "race", "age"], {"age": (30, 50)}, depth=2)
    assert groups.n_groups == 2 + 2 + 3 + 4 + 6 + 6
    assert "sex=women & race=b" in groups.names
    member = groups.membership(encode_groups(frame, groups))[:, 1:]
    names = np.array(groups.names)
    assert names[member[1].bool().numpy()].tolist() == [
        "sex=women",
        "race=b",
        "age=30 to 50",
        "sex=women & race=b",
        "sex=women & age=30 to 50",
        "race=b & age=30 to 50",
    ]
    assert names[member[2].bool().numpy()].tolist() == [
        "sex=men",
        "age=50 and above",
        "sex=men & age=50 and above",
    ]


def test_intersections_deeper_than_there_are_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="depth must lie between 1 and the number of attributes"):
        fit_groups(_frame(sex=["a", "b"]), ["sex"], depth=2)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["x"] * 400, r"'race' has 1 group\(s\)"),
        ([f"p{k}" for k in range(400)], r"'race' has \d+ groups, more than 100"),
        ([None] * 400, "'race' is missing in every training row"),
    ],
)
def test_the_learner_refuses_an_unusable_attribute_before_it_trains(
    column: list[object], message: str
) -> None:
    bundle = generate(400, seed=0)
    learner = FairMTLearner(bundle.tasks, ["race"], features=bundle.features, split_by="household")
    with pytest.raises(ValueError, match=message):
        learner.fit(bundle.frame.assign(race=column))
    assert not hasattr(learner, "model_")
