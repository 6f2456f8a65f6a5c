"""The noise floor: what is left of a gap when chance draws the groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fairmt.bench.configuration import Configuration
from fairmt.bench.noise_floor import permuted
from fairmt.bench.run import execute
from fairmt.data import TensorTable
from fairmt.disparity import Yardstick
from fairmt.groups import Attribute, Groups
from fairmt.ledger import Ledger
from fairmt.notions import resolve_notions
from fairmt.path import judge
from fairmt.tasks import Detection, Layout

LAYOUT = Layout([Detection("x", ("a",))])
LEDGER = Ledger(LAYOUT, resolve_notions(LAYOUT.tasks, "default"))
GROUPS = Groups((Attribute("sex", ("m", "w")),))
NONE = torch.zeros(1)


def people(n: int) -> TensorTable:
    """Half of each group has the label."""
    row = torch.arange(n)
    labels = (row % 4 < 2).float()[:, None]
    return TensorTable(torch.zeros(n, 1), labels, (row % 2)[:, None])


def test_a_model_right_for_one_group_and_wrong_for_the_other_owes_little_of_it_to_chance() -> None:
    test = people(800)
    sign = 1.0 - 2.0 * test.attributes.float()
    outputs = sign * (2 * test.labels - 1)
    moments = judge(LEDGER, GROUPS, outputs, test, NONE)
    rows = GROUPS.membership(test.attributes)[:, 1:].sum(0)
    own = Yardstick(LEDGER, GROUPS, moments, rows).measure(moments)
    drawn = permuted(LEDGER, GROUPS, outputs, test, NONE, draws=200)
    # Recognised and false alarms: 1 in the one group, 0 in the other.
    assert own.gap == pytest.approx(1.0)
    # Of 400 people with (and 400 without) the label half are right, whichever group they fall to:
    # the difference of two rates of 200 has a standard deviation of .05, and E|Z| = √(2/π).
    assert np.mean([d.gap for d in drawn]) == pytest.approx(0.05 * np.sqrt(2 / np.pi), rel=0.15)
    assert {d.entries for d in drawn} == {own.entries}


def test_a_model_alike_for_all_is_its_own_noise_floor() -> None:
    test = people(800)
    random = torch.Generator().manual_seed(0)
    gaps, floors = [], []
    for seed in range(40):
        outputs = torch.randn(800, 1, generator=random)
        moments = judge(LEDGER, GROUPS, outputs, test, NONE)
        rows = GROUPS.membership(test.attributes)[:, 1:].sum(0)
        gaps.append(Yardstick(LEDGER, GROUPS, moments, rows).measure(moments).gap)
        drawn = permuted(LEDGER, GROUPS, outputs, test, NONE, seed=seed, draws=10)
        floors.append(np.mean([d.gap for d in drawn]))
    assert np.mean(floors) == pytest.approx(np.mean(gaps), rel=0.2)


def test_it_is_a_run_of_its_own(tmp_path: Path) -> None:
    config = Configuration("made_up", "noise_floor", epochs=1, path_epochs=1)
    found = execute(config, tmp_path)["noise_floor"]
    plain = execute(Configuration("made_up", "reference", epochs=1, path_epochs=1), tmp_path)
    assert 0 < found["gap"] < plain["plain"]["gap"]
    assert 0 < found["shortfall"] < plain["plain"]["shortfall"]
