"""What every method that is a model of its own must do, whatever its idea."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairmt.boosting import MMMFair
from fairmt.data import Bundle, generate
from fairmt.graphs import IFairNMTF
from fairmt.methods import METHODS
from fairmt.tasks import Detection

from .steps import mean_gap, utility_change

TABLES: dict[str, Any] = {"mmm_fair": functools.partial(MMMFair, rounds=40, tree_depth=2)}
"""Those that take tables: tasks, sensitive attributes, seed."""
WISHES: dict[str, dict[str, Any]] = {
    "mmm_fair": {"preference": {"accuracy": 1.0, "balance": 1.0, "fairness": 1.0}}
}
"""How each chooses where it shall be fair; by default they are careful."""
GRAPHS: dict[str, Any] = {"ifairnmtf": functools.partial(IFairNMTF, 2, random_state=0)}
FEATURES = [f"x{i}" for i in range(12)]


@functools.cache
def people(bias: float, seed: int) -> Bundle:
    """The generator's people, with two outcomes that are classes."""
    bundle = generate(4000, seed=seed, bias=bias)
    housing = Detection("benefits", ("housing",), ("housing",))
    return replace(bundle, tasks=(bundle.tasks[0], housing))


@functools.cache
def parts(n: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng(0).permutation(n)
    cuts = (round(0.7 * n), round(0.8 * n))
    return dict(zip(("train", "calibration", "validation"), np.split(order, cuts), strict=True))


def fit(name: str, bundle: Bundle, frame: pd.DataFrame | None = None, **settings: Any) -> Any:
    """An estimator on a frame, by default the bundle's own, split as `parts` says."""
    frame = bundle.frame if frame is None else frame
    features = settings.pop("features", bundle.features)
    rows = settings.pop("parts", None) or parts(len(frame))
    learner = TABLES[name](bundle.tasks, bundle.sensitive, features=features, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return learner.fit(frame, parts=rows)


@functools.cache
def fitted(name: str, bias: float) -> Any:
    return fit(name, people(bias, 0))


def outputs(learner: Any, bias: float, index: int) -> tuple[torch.Tensor, Any]:
    """A candidate's outputs on fresh people, and these."""
    table = learner.schema_.encode(people(bias, 1).frame)
    return learner.outputs_of(index, table)[0], table


def test_every_estimator_is_among_those_tested() -> None:
    estimators = {name for name, m in METHODS.items() if m.kind == "estimator"}
    assert estimators == set(TABLES) | set(GRAPHS)


@pytest.mark.parametrize("name", TABLES)
def test_missing_labels_contribute_nothing(name: str) -> None:
    """Rows without labels, whatever their attributes, change no prediction in any bit."""
    bundle = people(2.0, 0)
    frame = bundle.frame.copy()
    # Categories, because the scale of a number may use rows without labels.
    frame[FEATURES] = (
        frame[FEATURES].apply(lambda x: pd.qcut(x, 4, labels=list("abcd"))).astype(str)
    )
    bare = frame.assign(job=None, housing=np.nan)
    bare["sex"] = bare["sex"].iloc[::-1].to_numpy()
    bare["origin"] = "west"
    longer = pd.concat([frame, bare], ignore_index=True)
    rows = parts(len(frame))
    more = rows | {"train": np.concatenate([rows["train"], len(frame) + rows["train"]])}
    a = fit(name, bundle, frame, features=FEATURES)
    b = fit(name, bundle, longer, features=FEATURES, parts=more)
    assert a.choice_.point.index == b.choice_.point.index
    for task, p in a.predict_proba(frame).items():
        pd.testing.assert_frame_equal(p, b.predict_proba(frame)[task], check_exact=True)


@pytest.mark.parametrize("name", TABLES)
def test_groups_may_be_relabelled(name: str) -> None:
    bundle = people(2.0, 0)
    names = {"men": "z", "women": "a", "north": "4", "south": "3", "east": "2", "west": "1"}
    other = bundle.frame.replace({"sex": names, "origin": names})
    a, b = fitted(name, 2.0), fit(name, bundle, other)
    assert a.schema_.groups.names != b.schema_.groups.names
    assert a.choice_.point.index == b.choice_.point.index
    pd.testing.assert_frame_equal(a.predict(bundle.frame), b.predict(other))


@pytest.mark.parametrize("name", TABLES)
def test_save_and_load_are_exact(name: str, tmp_path: Path) -> None:
    learner, frame = fitted(name, 2.0), people(2.0, 1).frame
    learner.save(tmp_path / "model")
    assert {p.suffix for p in (tmp_path / "model").iterdir()} == {".safetensors", ".json"}
    again = type(learner).load(tmp_path / "model")
    assert again.choice_.reason == learner.choice_.reason
    table = learner.schema_.encode(frame)
    for point in learner.path_.points:
        a, b = learner.outputs_of(point.index, table), again.outputs_of(point.index, table)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for wish in ({"tolerance": 0.3}, {"utility_budget": 0.05}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert learner.choose(**wish).point.index == again.choose(**wish).point.index
    learner.choose()
    again.choose()
    pd.testing.assert_frame_equal(learner.predict(frame), again.predict(frame))


@pytest.mark.parametrize("name", TABLES)
def test_a_planted_bias_goes_down(name: str) -> None:
    learner, gaps = fitted(name, 2.0), {}
    own = learner.choose(**WISHES[name]).point.index
    learner.choose()
    for which, index in (("own", own), ("plain", learner.path_.plain)):
        found, table = outputs(learner, 2.0, index)
        gaps[which] = mean_gap(found, table, learner.schema_, METHODS[name].claims)
    assert gaps["own"] < 0.85 * gaps["plain"]


@pytest.mark.parametrize("name", TABLES)
def test_a_fair_population_is_left_alone(name: str) -> None:
    learner = fitted(name, 0.0)
    own, table = outputs(learner, 0.0, learner.choice_.point.index)
    plain, _ = outputs(learner, 0.0, learner.path_.plain)
    assert utility_change(own, plain, table, learner.schema_) > -0.02


@pytest.mark.parametrize("name", GRAPHS)
def test_groups_of_a_graph_may_be_relabelled(name: str) -> None:
    r = np.random.default_rng(1)
    group = np.arange(60) % 3
    upper = np.triu(r.random((60, 60)) < 0.1 + 0.3 * (group[:, None] == group), 1)
    ties = (upper | upper.T).astype(float)
    a = GRAPHS[name]().fit(ties, sensitive_features=group)
    b = GRAPHS[name]().fit(ties, sensitive_features=np.array(["c", "a", "b"])[group])
    for p, q in zip(a.path_, b.path_, strict=True):
        np.testing.assert_array_equal(p.labels, q.labels)
        np.testing.assert_allclose(p.memberships, q.memberships, atol=1e-8)
