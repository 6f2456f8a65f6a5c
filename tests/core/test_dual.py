"""Controllers of the strength: bounded, reversible, and honest about what cannot be reached."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairmt.dual import Dual, Ramp


def test_one_update_by_hand() -> None:
    dual = Dual(bound=4.0, rate=2.0, start=2.0)
    assert dual.strength == 2.0
    assert dual.update(0.5 * math.log(3.0)) == pytest.approx(3.0)
    assert dual.update(-math.log(3.0)) == pytest.approx(1.0)


@given(st.lists(st.floats(-1, 1), max_size=40), st.floats(0.1, 50), st.floats(0.01, 100))
def test_the_strength_is_positive_and_bounded_whatever_comes(
    slacks: list[float], bound: float, rate: float
) -> None:
    dual = Dual(bound, rate, start=bound / 20)
    for slack in slacks:
        before = dual.strength
        after = dual.update(slack)
        assert 0 < after < bound
        assert (after - before) * slack >= 0


def test_the_strength_falls_again_once_the_tolerance_is_met() -> None:
    dual = Dual(bound=4.0, rate=10.0)
    for _ in range(1000):
        dual.update(1.0)
    assert dual.strength > 3.99
    for _ in range(10):
        dual.update(-0.5)
    assert dual.strength < 0.01


def test_an_evaluation_that_says_nothing_changes_nothing() -> None:
    dual = Dual()
    before = dual.state_dict()
    for slack in (-math.inf, math.inf, math.nan):
        dual.update(slack)
    assert dual.state_dict() == before


def settle(needed: float, bound: float, rounds: int = 400) -> tuple[float, float, Dual]:
    """A model whose worst slack falls in proportion to the strength, to 0 at `needed`."""
    dual = Dual(bound, rate=5.0)
    slack = 0.3
    for _ in range(rounds):
        slack = 0.3 * (1 - dual.update(slack) / needed)
    return slack, dual.strength, dual


@pytest.mark.parametrize("needed", [0.1, 1.0, 3.0])
def test_a_feasible_tolerance_is_reached_exactly(needed: float) -> None:
    slack, strength, dual = settle(needed, bound=4.0)
    assert slack == pytest.approx(0.0, abs=1e-6)
    assert strength == pytest.approx(needed, rel=1e-4)
    assert not dual.infeasible


def test_an_infeasible_tolerance_is_said_and_costs_no_more_than_the_bound() -> None:
    slack, strength, dual = settle(8.0, bound=4.0)
    assert slack > 0.14
    assert 3.99 < strength < 4.0
    assert dual.infeasible


def test_infeasible_takes_several_evaluations_near_the_bound() -> None:
    dual = Dual(bound=1.0, rate=10.0, start=0.99, patience=3)
    said = []
    for slack in (0.1, 0.1, 0.1, -0.01, 0.1, 0.1, 0.1):
        dual.update(slack)
        said.append(dual.infeasible)
    assert said == [False, False, True, False, False, False, True]


def test_a_state_goes_on_where_it_was_saved() -> None:
    first = Dual(bound=1.0, start=0.99)
    first.update(0.1)
    first.update(0.2)
    second = Dual(bound=1.0)
    second.load_state_dict(first.state_dict())
    assert first.update(0.1) == second.update(0.1)
    assert first.infeasible
    assert second.infeasible


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bound": 0.0}, "bound must be positive. Found 0.0"),
        ({"bound": 1.0, "start": 1.0}, r"start must lie in \(0, 1.0\). Found 1.0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dual(**settings)  # type: ignore[arg-type]


def test_the_path_waits_and_then_rises_by_the_same_factor_every_epoch() -> None:
    ramp = Ramp(warmup=5, epochs=10, low=0.02, high=2.0)
    assert [ramp.strength(e) for e in (0, 3, 4.99)] == [0.0] * 3
    assert ramp.strength(5) == pytest.approx(0.02)
    assert ramp.strength(10) == pytest.approx(0.2)
    assert ramp.strength(15) == ramp.strength(99) == pytest.approx(2.0)
    factors = [ramp.strength(e + 1) / ramp.strength(e) for e in range(5, 15)]
    assert factors == pytest.approx([100**0.1] * 10)
    assert Ramp(warmup=0, epochs=0).strength(3) == 0.0
