"""Minimax: the weights of the game, and the solution of one that is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fairmt.groups import Attribute, Groups
from fairmt.losses import Losses
from fairmt.methods import Minimax
from fairmt.models import LinearHeads, MultiTask
from fairmt.tasks import Layout, Regression

from .test_adversarial import GROUPS, LAYOUT, people

NUMBER = Layout((Regression("pay"),))
SEX = Groups((Attribute("sex", ("m", "w")),))


def bound(**settings: Any) -> Minimax:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    method = Minimax(**settings)
    method.setup(MultiTask(encoder, LinearHeads(6, LAYOUT), LAYOUT).double(), GROUPS)
    return method


def test_the_penalty_is_the_mean_of_group_losses_at_first() -> None:
    method, data = bound(), people()
    batch = method.unpack(data)
    outputs = method.model(batch.features)
    parts = []
    for name, k in (("sex", 2), ("race", 3)):
        for g in range(k):
            own = data["attributes"][name] == g
            loss = Losses(LAYOUT)(outputs[own], batch.labels[own], data["weights"][own])
            parts.append(loss.sum() / k / 2)
    penalty = method.penalty(outputs, outputs, batch)
    assert penalty is not None
    torch.testing.assert_close(penalty, torch.stack(parts).sum())


def test_q_moves_once_a_round_by_the_losses_of_the_round() -> None:
    """Two batches of 20 rows make a round: weighted means over both, the largest one 1."""
    method, data = bound(rows=40, rate=2.0), people()
    batch = method.unpack(data)
    outputs = method.model(batch.features)
    for half in (slice(0, 20), slice(20, 40)):
        assert torch.equal(method.q, torch.tensor([[0.5]] * 2 + [[1 / 3]] * 3).expand(5, 3))
        part = type(batch)(*(None if x is None else x[half] for x in batch))
        method.penalty(outputs[half], outputs[half], part)
    assert method.rounds == 1
    w = data["weights"]

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return Losses(LAYOUT)(outputs[rows], batch.labels[rows], w[rows])

    losses = torch.stack([loss(data["attributes"]["race"] == g) for g in range(3)])
    relative = losses / losses.amax(0)
    expected = relative.mul(2.0).softmax(0)
    torch.testing.assert_close(method.q[2:], expected)
    method.penalty(outputs, outputs, batch)
    second = relative.mul(2.0 + 2.0 / math.sqrt(2)).softmax(0)
    torch.testing.assert_close(method.q[2:], second)


def test_the_worst_group_gets_the_best_that_can_be_had() -> None:
    """One number for everybody; nine in ten want 0, one wants 1.

    Plain: .1, the worst loss .81. The smallest worst loss is that of one half, .25.
    """
    torch.manual_seed(0)
    women = (torch.arange(100) % 10 == 0).long()
    data = {
        "features": torch.ones(100, 1),
        "labels": {"pay": women[:, None].float()},
        "attributes": {"sex": women},
    }

    def answer(strength: float) -> float:
        torch.manual_seed(0)
        model = MultiTask(nn.Linear(1, 1), LinearHeads(1, NUMBER), NUMBER)
        method = Minimax(strength=strength, rows=100, rate=0.5)
        method.setup(model, SEX)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(400):
            optimiser.zero_grad()
            method.step(data)
            optimiser.step()
        return float(model(torch.ones(1, 1)).detach())

    assert answer(0.0) == pytest.approx(0.1, abs=0.01)
    assert answer(50.0) == pytest.approx(0.5, abs=0.03)


def test_a_group_without_rows_keeps_its_standing() -> None:
    method, data = bound(rows=40), people()
    data["attributes"]["race"][data["attributes"]["race"] == 2] = -1
    batch = method.unpack(data)
    outputs = method.model(batch.features).detach()
    method.penalty(outputs, outputs, batch)
    # As if its loss were the mean of the others'.
    torch.testing.assert_close(method.log_q[4], method.log_q[2:4].mean(0))


def test_a_round_is_a_pass_over_the_training_rows() -> None:
    method = Minimax()
    model = MultiTask(nn.Linear(4, 6), LinearHeads(6, LAYOUT), LAYOUT).double()
    method.setup(model, GROUPS, [0] * 20)
    batch = method.unpack(people())
    outputs = model(batch.features).detach()
    method.penalty(outputs, outputs, batch)
    assert method.rounds == 1
    method.setup(model, GROUPS)
    method.penalty(outputs, outputs, batch)
    assert method.rounds == 0


@pytest.mark.parametrize(("settings", "word"), [({"rate": 0.0}, "rate"), ({"rows": 0}, "rows")])
def test_wrong_settings_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Minimax(**settings)
