"""Figures over seeds, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fairmt.bench.frontier import closed
from fairmt.bench.pictures import cliques
from fairmt.bench.statistics import (
    closed_at_price,
    interval,
    level_down_ratio,
    mean_of_means,
    ranks,
    ratio,
)


def test_an_interval_over_equal_seeds_is_that_of_the_rows() -> None:
    rows = np.random.default_rng(0).normal(0.3, 0.1, 400)
    found = interval(np.concatenate([[0.25], rows])[None].repeat(3, 0))
    assert found.mean == pytest.approx(0.25)
    # Three seeds are drawn, each with a weighting of its own.
    half = 1.96 * rows.std() / math.sqrt(3)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_ranks_by_hand() -> None:
    figures = {
        "a": {("p", 0): 0.9, ("p", 1): 0.8},
        "b": {("p", 0): 0.5, ("p", 1): 0.9},
        "c": {("p", 0): 0.5, ("p", 1): 0.1, ("p", 2): 1.0},
    }
    found = ranks(figures)
    assert found.mean == {"a": 1.5, "b": 1.75, "c": 2.75}
    assert found.n == 2
    # q(.05, 3 treatments) = 2.343 in Demšar's table 5.
    assert found.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / 12), abs=2e-3)


def test_cliques_join_what_does_not_differ_and_hide_none_inside_another() -> None:
    assert cliques(np.array([1.0, 1.5, 2.2, 4.0]), 1.0) == [(1.0, 1.5), (1.5, 2.2)]
    assert cliques(np.array([1.0, 1.2, 1.3]), 1.0) == [(1.0, 1.3)]


def test_a_mean_over_problems_counts_each_once() -> None:
    few, many = np.full((2, 2), 1.0), np.array([[0.2, 0.2]] * 5 + [[0.6, 0.6]] * 5)
    found = mean_of_means([few, many])
    assert found.mean == pytest.approx(0.7)
    # All that varies is the mean of ten, half of it, with a standard deviation of .2 / √10 / 2.
    assert 0.045 < (found.high - found.low) / 2 < 0.075


def test_level_down_is_compared_at_equal_gaps() -> None:
    steep = [{"gap": g, "level_down": 0.2 * (1 - g)} for g in (1.0, 0.5, 0.2)]
    flat = [{"gap": g, "level_down": 0.1 * (1 - g)} for g in (1.0, 0.7)]
    assert level_down_ratio(flat, steep) == pytest.approx(0.5)
    assert math.isnan(level_down_ratio(flat, [{"gap": 0.1, "level_down": 0.3}] * 2))


def test_what_a_path_closes_is_read_where_it_has_cost_a_price() -> None:
    plain = {"gap": 0.4}
    losses, gaps = (0.002, 0.001, 0.006, 0.014), (0.4, 0.38, 0.32, 0.2)
    places = [{"delta_m": -x, "gap": g} for x, g in zip(losses, gaps, strict=True)]
    # Half-way from .6 % to 1.4 %: a gap of .26.
    assert closed_at_price(0.01, places, plain, "gap") == pytest.approx(1 - 0.26 / 0.4)
    # The first two cost .15 % in the mean, where the one of them that comes last is.
    assert closed_at_price(0.00375, places, plain, "gap") == pytest.approx(1 - 0.35 / 0.4)
    # From the plain model on, and a path that gets worse says so.
    assert closed_at_price(0.001, [{"delta_m": -0.002, "gap": 0.5}], plain, "gap") == -0.125
    assert math.isnan(closed_at_price(0.02, places, plain, "gap"))


def test_where_there_is_nothing_to_close_nothing_is_closed() -> None:
    assert closed(0.05, 0.2) == 0.75
    assert closed(0.3, 0.2) == pytest.approx(-0.5)
    assert closed(0.0, 0.0) == closed(0.1, 0.0) == 0.0


def test_a_ratio_of_means_draws_both_alike() -> None:
    base = np.random.default_rng(0).normal(0.3, 0.1, (3, 50))
    found = ratio(0.8 * base, base)
    assert [found.mean, found.low, found.high] == pytest.approx([0.8] * 3)
    level = np.array([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3]])
    assert ratio(level, np.full((2, 3), 0.4)).mean == pytest.approx(0.5)
