"""What is remembered of a column grows row by row, and not with the number of rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairmt.data.summaries import Numbers, Sample, Texts

VALUES = st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(float("nan"))), min_size=1, max_size=60)


@given(VALUES, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_numbers_in_pieces_are_those_of_the_whole(values: list[float], size: int) -> None:
    column = np.array(values)
    found = Numbers()
    for start in range(0, len(column), size):
        found.add(column[start : start + size])
    known = column[~np.isnan(column)]
    assert (found.n, found.missing) == (len(known), len(column) - len(known))
    if len(known):
        scale = max(1.0, float(np.abs(known).max()))
        assert found.mean == pytest.approx(known.mean(), rel=1e-9, abs=1e-12 * scale)
        assert found.sd == pytest.approx(known.std(), rel=1e-6, abs=1e-7 * scale)
        assert (found.low, found.high) == (known.min(), known.max())


def test_nothing_but_missing_values_has_no_spread() -> None:
    found = Numbers()
    found.add(np.array([np.nan, np.nan]))
    assert (found.n, found.missing, found.mean, found.sd) == (0, 2, 0.0, 0.0)


def test_texts_are_counted_over_pieces() -> None:
    found = Texts()
    for piece in (["a", "b", None], ["a", "None"]):
        found.add(pd.Series(piece, dtype=object))
    assert dict(found.counts) == {"a": 2, "b": 1, "None": 1}
    assert found.missing == 1


def test_of_too_many_texts_the_frequent_ones_are_kept() -> None:
    found = Texts(limit=100)
    for piece in range(50):
        names = [f"p{piece}-{k}" for k in range(20)]
        found.add(pd.Series([*names, *["often"] * 5], dtype=object))
    assert len(found.counts) <= 100
    assert found.counts["often"] == 250


def test_a_sample_holds_everything_that_fits_in_order() -> None:
    found = Sample(size=10)
    found.add(np.arange(4.0))
    found.add(np.arange(4.0, 10.0))
    assert found.values.tolist() == list(range(10))


def test_a_sample_does_not_depend_on_the_pieces_and_stays_small() -> None:
    values = np.arange(5000.0)
    kept = []
    for size in (1, 7, 5000):
        found = Sample(size=300)
        for start in range(0, len(values), size):
            found.add(values[start : start + size])
        kept.append(found.values)
    assert 100 < len(kept[0]) <= 300
    assert np.array_equal(kept[0], kept[1])
    assert np.array_equal(kept[0], kept[2])
    assert np.quantile(kept[0], 0.5) == pytest.approx(2500, abs=400)
