"""The ceiling: rules that know the group, and how far of the way to them a price allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairmt.bench.ceiling import _affordable, _best_rule
from fairmt.bench.configuration import Configuration
from fairmt.bench.run import execute
from fairmt.data import TensorTable
from fairmt.ledger import Ledger
from fairmt.notions import resolve_notions
from fairmt.tasks import Detection, Layout

LAYOUT = Layout([Detection("x", ("a",))])
LEDGER = Ledger(LAYOUT, resolve_notions(LAYOUT.tasks, "default"))
TRUTH = torch.tensor([[1.0], [1.0], [0.0], [0.0]]).repeat(10, 1)


def table(labels: torch.Tensor) -> TensorTable:
    n = len(labels)
    return TensorTable(torch.zeros(n, 1), labels, torch.zeros(n, 1, dtype=torch.int64))


def test_a_rule_shifts_a_group_to_where_it_is_served() -> None:
    # In the right order, all of them below the threshold; the best group's benefits are 1.
    outputs = 0.6 * TRUTH - 1.3
    useless = torch.full_like(outputs, -1.0)
    known, test = _best_rule(
        LEDGER,
        {"useless": (useless, useless[:4]), "own": (outputs, outputs[:4])},
        table(TRUTH),
        torch.ones(len(LEDGER)),
    )
    assert torch.equal(known > 0, TRUTH > 0)
    assert torch.equal(test > 0, TRUTH[:4] > 0)


def test_one_goes_towards_a_rule_as_far_as_the_budget_allows() -> None:
    # On the way from right to opposite answers the order of the rows turns at the middle.
    right, opposite = 2 * TRUTH - 1, 1 - 2 * TRUTH
    assert _affordable(LEDGER, right, opposite, table(TRUTH), 0.01) == pytest.approx(0.45)
    assert _affordable(LEDGER, right, opposite, table(TRUTH), 0.9) == 1.0
    assert _affordable(LEDGER, right, right, table(TRUTH), 0.0) == 1.0


def test_a_smaller_budget_loses_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairmt.bench.run.BUDGETS", (0.0, 0.01, 0.99))
    config = Configuration("made_up", "ceiling", epochs=2, path_epochs=1)
    found = execute(config, tmp_path)["ceiling"]
    within = found.pop("budget")
    # A budget that nothing exceeds goes all the way; the smaller it is, the less is lost.
    assert within["0.99"] == found
    assert within["0.0"]["delta_m"] > within["0.01"]["delta_m"] > found["delta_m"]
