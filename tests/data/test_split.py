"""Four parts: whole units on one side, every stratum everywhere, the same every time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairmt.data import split
from fairmt.data.split import PARTS, unit_codes

FRACTIONS = (0.6, 0.1, 0.1, 0.2)


def test_the_parts_are_four_and_cover_every_row_once() -> None:
    parts = split(1000)
    assert tuple(parts) == PARTS
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))


def test_the_parts_have_the_shares_that_were_asked_for() -> None:
    parts = split(1000, fractions=FRACTIONS)
    assert [len(parts[p]) for p in PARTS] == [600, 100, 100, 200]


def test_a_frame_counts_for_its_rows() -> None:
    a, b = split(pd.DataFrame({"x": range(50)}), seed=3), split(50, seed=3)
    assert all(np.array_equal(a[p], b[p]) for p in PARTS)


def test_the_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    unit = np.arange(600) // 3
    a, b, c = (split(600, unit=unit, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(a[p], b[p]) for p in PARTS)
    assert not np.array_equal(a["test"], c["test"])


@given(
    n=st.integers(20, 200),
    n_units=st.integers(4, 20),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_no_unit_is_torn_apart_and_no_part_is_empty(n: int, n_units: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unit = np.concatenate([np.arange(n_units), rng.integers(0, n_units, n - n_units)])
    parts = split(n, unit=unit, stratify=rng.integers(0, 3, n), seed=seed)
    assert all(len(rows) for rows in parts.values())
    owners = [set(unit[rows].tolist()) for rows in parts.values()]
    assert sum(len(o) for o in owners) == len(set().union(*owners)) == n_units


def test_units_may_be_names() -> None:
    unit = [f"home {k // 4}" for k in range(400)]
    parts = split(400, unit=unit)
    owners = [{unit[i] for i in rows} for rows in parts.values()]
    assert sum(map(len, owners)) == 100


def test_rows_without_a_unit_do_not_stay_together() -> None:
    unit = np.array([None] * 500 + [f"h{k}" for k in range(500)], dtype=object)
    parts = split(1000, unit=unit)
    alone = {p: int((rows < 500).sum()) for p, rows in parts.items()}
    assert all(count > 0.05 * 500 for count in alone.values()), alone


def test_missing_units_are_numbered_one_by_one() -> None:
    codes = unit_codes(pd.Series(["a", None, "a", None, "b"]))
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 4


@pytest.mark.parametrize("units", [False, True])
def test_every_part_gets_its_share_of_every_stratum(units: bool) -> None:
    rng = np.random.default_rng(0)
    stratum = rng.choice(["a", "b", "c"], 4000, p=[0.8, 0.15, 0.05])
    unit = np.arange(4000) // 2 if units else None
    if units:
        stratum = np.repeat(stratum[:2000], 2)
    total = Counter(stratum.tolist())
    parts = split(4000, fractions=FRACTIONS, stratify=stratum, unit=unit)
    for part, share in zip(PARTS, FRACTIONS, strict=True):
        found = Counter(stratum[parts[part]].tolist())
        for value, count in total.items():
            assert found[value] == pytest.approx(share * count, abs=4), (part, value)


def test_many_small_strata_do_not_all_fall_into_one_part() -> None:
    stratum = np.arange(300) // 3
    parts = split(300, stratify=stratum)
    sizes = [len(parts[p]) for p in PARTS]
    assert sizes == pytest.approx([180, 30, 30, 60], abs=25)


def test_a_unit_counts_for_its_rarest_stratum() -> None:
    """Ten households with one rare member each must not end up in one part."""
    unit = np.arange(400) // 4
    stratum = np.zeros(400)
    stratum[np.arange(0, 40, 4)] = 1
    parts = split(400, fractions=(0.5, 0.0, 0.0, 0.5), unit=unit, stratify=stratum)
    assert int(stratum[parts["test"]].sum()) == 5


def test_a_part_that_is_not_wanted_stays_empty() -> None:
    parts = split(1000, fractions=(0.75, 0.10, 0.15, 0.0))
    assert len(parts["test"]) == 0


def test_one_part_may_have_everything() -> None:
    assert len(split(5, fractions=(1, 0, 0, 0))["train"]) == 5


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_rows_are_an_error(n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} rows cannot fill 4 parts"):
        split(n)


def test_too_few_units_are_an_error_that_names_the_cause() -> None:
    with pytest.raises(ValueError, match=r"3 units \(split_by\) cannot fill 4 parts"):
        split(300, unit=np.arange(300) % 3)


def test_four_rows_fill_four_parts() -> None:
    assert [len(rows) for rows in split(4).values()] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "fractions",
    [(0.5, 0.5), (0.6, 0.1, 0.1, 0.1), (1.2, -0.2, 0, 0), (np.nan, 0.5, 0.25, 0.25)],
)
def test_fractions_must_be_four_shares_of_one(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fractions must be four shares that sum to 1"):
        split(100, fractions=fractions)


@pytest.mark.parametrize("name", ["unit", "stratify"])
def test_arrays_of_another_length_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must have 100 values, one a row. Found 99"):
        split(100, **{name: np.zeros(99)})  # type: ignore[arg-type]
