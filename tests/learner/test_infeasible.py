"""A tolerance that can be kept for one label and not for the other."""

import warnings

import numpy as np
import pandas as pd
import pytest

from fairmt import FairMTLearner


@pytest.fixture(scope="module")
def learner() -> FairMTLearner:
    """`open` follows from the features for everybody; `closed` for group a, a coin for group b."""
    rng = np.random.default_rng(0)
    n = 6000
    x = rng.normal(size=(n, 4))
    group = rng.integers(0, 2, n)
    coin = rng.random(n) < 0.5
    frame = pd.DataFrame(x, columns=list("wxyz"))
    frame["open"] = (x[:, 0] + 0.3 * rng.normal(size=n) > 0).astype(int)
    frame["closed"] = np.where(group == 0, x[:, 1] + 0.3 * rng.normal(size=n) > 0, coin).astype(int)
    frame["group"] = np.array(["a", "b"])[group]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fitted = FairMTLearner(
            ["labels:detection:open,closed"],
            ["group"],
            controller="dual",
            tolerance=0.1,
            epochs=6,
            path_epochs=15,
            options={"dual_rate": 30.0},
        ).fit(frame)
    fitted.told = [str(w.message) for w in told]  # type: ignore[attr-defined]
    return fitted


def test_what_cannot_be_reached_is_named_and_nothing_else(learner: FairMTLearner) -> None:
    assert learner.binding_
    assert {e.statistic.split(" of ")[1] for e in learner.binding_} == {"closed"}
    assert {e.group for e in learner.binding_} == {"group=b"}
    (message,) = [m for m in learner.told if "out of reach" in m]  # type: ignore[attr-defined]
    assert "closed" in message
    assert "of open" not in message


def test_what_can_be_learned_survives_the_infeasible_tolerance(learner: FairMTLearner) -> None:
    for candidate in learner.path_.candidates:
        if candidate.segment == "path":
            assert 0 < candidate.strength < 4.0
    rates = learner.path_.gaps(learner.path_.points[-1])
    gaps = {r["statistic"]: r["gap"] for r in rates}
    assert max(g for s, g in gaps.items() if s.endswith("of open")) < 0.1
    assert max(g for s, g in gaps.items() if s.endswith("of closed")) > 0.2
