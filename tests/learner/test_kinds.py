"""Methods before and after the step, in the learner."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from fairmt import FairMTLearner
from fairmt.data import Bundle
from fairmt.methods import GroupThresholds
from fairmt.path import predict_outputs
from fairmt.store import StoreError, save_state

QUICK: dict[str, Any] = {"epochs": 2, "path_epochs": 2, "widths": (16, 8)}
BLOCKS = {"first": ["x0", "x1", "x2", "x3", "x4", "x5"],
          "second": ["x6", "x7", "x8", "x9", "x10", "x11", "region"]}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "before plain training": {
        "method": "dualfair",
        "options": {"steps": 20, "generator_steps": 20},
    },
    "before the path": {"pretraining": {"name": "pmrl", "blocks": BLOCKS, "steps": 20}},
    "after": {"method": "barycentre"},
    "after, by thresholds": {"method": "group_thresholds"},
    "after the path": {"postprocessing": {"name": "group_thresholds", "prior": 10.0}},
}


def fit(people: Bundle, **settings: Any) -> FairMTLearner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = FairMTLearner(**people.learner_settings(), **QUICK | settings)
        return learner.fit(people.frame.head(2000))


@pytest.mark.parametrize("name", SETTINGS)
def test_what_comes_before_and_after_is_saved_with_the_learner(
    people: Bundle, name: str, tmp_path: Path
) -> None:
    learner = fit(people, **SETTINGS[name])
    rows = people.frame.tail(300)
    learner.save(tmp_path / "m")
    again = FairMTLearner.load(tmp_path / "m")
    pd.testing.assert_frame_equal(learner.predict_table(rows), again.predict_table(rows))
    strengths = [
        p.candidate.strength for p in learner.path_.points if p.candidate.segment == "path"
    ]
    if learner.method == "dualfair":
        assert strengths == []
    else:
        assert len(strengths) >= 10


@pytest.mark.parametrize(
    ("kind", "message"),
    [("fairmt.learner/1", "of the format fairmt.learner/1"), ("other/1", "no saved learner")],
)
def test_what_another_version_saved_is_told_from_what_is_no_learner(
    tmp_path: Path, kind: str, message: str
) -> None:
    save_state(tmp_path / "m", {"kind": kind})
    with pytest.raises(StoreError, match=message):
        FairMTLearner.load(tmp_path / "m")


def test_a_frozen_encoder_stays_what_pre_training_made_it(people: Bundle) -> None:
    learner = fit(people, **SETTINGS["before plain training"])
    first, *_, last = [c.weights for c in learner.path_.candidates]
    encoder = [k for k in first if k.startswith("encoder.")]
    assert encoder
    for key in encoder:
        assert (first[key] == last[key]).all()
    assert any((first[k] != last[k]).any() for k in first if k.startswith("heads."))


def test_a_repair_needs_the_attributes_and_grows_with_its_strength(people: Bundle) -> None:
    learner = fit(people, method="barycentre", strength=1.0)
    rows = people.frame.tail(500)
    with pytest.raises(ValueError, match="has no column 'sex'"):
        learner.predict(rows.drop(columns=["sex"]))
    whole = learner.predict(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.choose(strength=0.1)
    part = learner.predict(rows)
    learner.choose(strength=0)
    plain = learner.predict(rows.drop(columns=["sex"]))
    moved = [np.abs(p["income"] - plain["income"]).mean() for p in (part, whole)]
    assert 0 < moved[0] < 0.5 * moved[1]


def test_a_repair_of_its_own_follows_every_candidate_of_the_path(people: Bundle) -> None:
    parts = {
        part: np.arange(*span)
        for part, span in (
            ("train", (0, 1200)), ("calibration", (1200, 1700)), ("validation", (1700, 2000))
        )
    }  # fmt: skip
    settings = {**people.learner_settings(), **QUICK, "postprocessing": "group_thresholds"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = FairMTLearner(**settings).fit(people.frame.head(2000), parts=parts)
    own = [p for p in learner.path_.points if p.candidate.segment == "path"]
    # Two epochs of five batches, a look after each; each half and wholly repaired as well.
    alone, half, whole = own[:10], own[10::2], own[11::2]
    for points, repair in ((alone, 0.0), (half, 0.5), (whole, 1.0)):
        assert [p.candidate.repair for p in points] == [repair] * 10
        assert [p.candidate.strength for p in points] == [p.candidate.strength for p in alone]
    assert not any(c.repair for c in learner.path_.candidates if c.segment != "path")
    third = learner.path_.choose(strength=alone[3].candidate.strength).point
    assert third.index == whole[3].index

    # By hand, for a candidate in the middle: fitted on its own outputs on calibration rows alone.
    point = half[5]
    learner.model_.load_state_dict(point.candidate.weights)
    tables = {k: learner.schema_.encode(people.frame.iloc[rows]) for k, rows in parts.items()}
    outputs = {k: predict_outputs(learner.model_, t.features) for k, t in tables.items()}
    repair, t = GroupThresholds(), tables["calibration"]
    repair.fit(
        learner.ledger_.layout, learner.schema_.groups, outputs["calibration"], t.labels,
        t.attributes, t.weights, point.candidate.offsets,
    )  # fmt: skip
    expected = repair.apply(
        outputs["validation"], tables["validation"].attributes, point.candidate.repair
    )
    found, _ = learner.outputs_of(point.index, tables["validation"])
    assert torch.equal(found, expected)
    assert not torch.equal(found, outputs["validation"])


def test_a_repair_follows_recalibrated_probabilities_and_networks_are_kept_once(
    people: Bundle, tmp_path: Path
) -> None:
    parts = {
        part: np.arange(*span)
        for part, span in (
            ("train", (0, 1200)), ("calibration", (1200, 1700)), ("validation", (1700, 2000))
        )
    }  # fmt: skip
    settings = {**people.learner_settings(), **QUICK, "recalibration": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = FairMTLearner(**settings, postprocessing="group_thresholds").fit(
            people.frame.head(2000), parts=parts
        )
    path = [p for p in learner.path_.points if p.candidate.segment == "path"]
    raw, half = path[6], path[10 + 2 * 6]
    assert half.candidate.repair == 0.5
    assert raw.candidate.recalibration is not None
    # What was judged is what is predicted.
    found = learner.moments(people.frame.iloc[parts["validation"]], half.index)
    torch.testing.assert_close(found.sums, half.candidate.moments.sums)
    # By hand.
    table = learner.schema_.encode(people.frame.tail(300))
    learner.model_.load_state_dict(raw.candidate.weights)
    rescaled = raw.candidate.recalibration.apply(predict_outputs(learner.model_, table.features))
    expected = learner.repairs_[half.candidate.fitted].apply(rescaled, table.attributes, 0.5)
    outputs, rule = learner.outputs_of(half.index, table)
    assert torch.equal(outputs, expected)
    assert torch.equal(rule, raw.candidate.recalibration.carry(raw.candidate.offsets))

    learner.save(tmp_path / "m")
    with safe_open(tmp_path / "m" / "tensors.safetensors", "pt") as file:
        kept = [k for k in file.keys() if "/weights/" in k]  # noqa: SIM118 - it is no mapping
    networks = len(learner.path_.candidates) - 2 * len(learner.repairs_)
    assert len(kept) == networks * len(learner.model_.state_dict())
    again = FairMTLearner.load(tmp_path / "m")
    for a, b in zip(again.outputs_of(half.index, table), (outputs, rule), strict=True):
        assert torch.equal(a, b)


def test_kinds_that_do_not_fit_are_refused(people: Bundle) -> None:
    with pytest.raises(ValueError, match="not both"):
        fit(people, method="dualfair", pretraining="dualfair")
    with pytest.raises(ValueError, match="it cannot pre-train"):
        fit(people, pretraining="fairmt")
    with pytest.raises(ValueError, match="Give method='barycentre' or postprocessing="):
        fit(people, method="barycentre", postprocessing="group_thresholds")
    with pytest.raises(ValueError, match="it cannot post-process"):
        fit(people, postprocessing="dualfair")
    with pytest.raises(ValueError, match="postprocessing must be a name, or have one"):
        fit(people, postprocessing={"prior": 5.0})
    with pytest.raises(ValueError, match=r"use fairmt\.boosting\.MMMFair"):
        fit(people, method="mmm_fair")
    regression = people.learner_settings() | {"tasks": [people.tasks[-1]]}
    with pytest.raises(ValueError, match="is defined for none of the tasks"):
        FairMTLearner(
            **regression, method="group_thresholds", options={"notion": "equalized_odds"}
        ).fit(people.frame.head(500))
    with pytest.raises(ValueError, match="needs two or more"):
        fit(people, method="pmrl", options={"blocks": {"one": ["x0", "x1"]}})
    with pytest.raises(ValueError, match="continuous names 'sex'"):
        fit(people, method="group_dro", continuous=["sex"])
