"""Every step method gives the same gradients wherever it runs, and a learner trains there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fairmt import FairMTLearner
from fairmt.data import generate
from fairmt.methods import STEPS, StepMethod

from .steps import build, case, people

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def on(device: str, batch: Mapping[str, Any]) -> dict[str, Any]:
    """In double precision, so that nothing but a mistake tells devices apart."""
    return {
        k: v.to(device, torch.float64 if v.is_floating_point() else v.dtype)
        for k, v in batch.items()
    }


def three_steps(name: str, device: str) -> tuple[StepMethod, list[torch.Tensor]]:
    """A method after two steps of an optimiser, and the gradients of the third, on the CPU."""
    schema, table = people(1.0, 0)
    step = build(name, schema, table)
    step.model.to(device, torch.float64)
    for p in step.parameters():
        p.data = p.data.to(device, torch.float64)
    if step.strength is not None:
        step.strength = case(name).strength
    optimiser = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    for i in range(3):
        optimiser.zero_grad()
        step.step(on(device, table.batch(slice(200 * i, 200 * (i + 1)))))
        if i < 2:
            optimiser.step()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in step.parameters()]
    return step, [g.cpu() for g in found]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STEPS)
def test_gradients_do_not_depend_on_the_device(name: str, device: str) -> None:
    """On the CPU: a second run of the same steps gives the same numbers, digit for digit."""
    _, expected = three_steps(name, "cpu")
    step, found = three_steps(name, device)
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert {p.device.type for p in step.parameters()} == {device}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("controller", ["path", "dual"])
def test_a_learner_trains_and_predicts(device: str, controller: str) -> None:
    bundle = generate(1500, seed=0)
    settings = {**bundle.learner_settings(), "accelerator": device, "controller": controller}
    if controller == "dual":
        settings["tolerance"] = 0.2
    model = FairMTLearner(**settings, epochs=1, path_epochs=2).fit(bundle.frame)
    found = model.predict(bundle.frame)
    assert len(found) == 1500
    assert model.path_.points[-1].candidate.strength > 0
    # A model may be trained in one place and used in another.
    model.model_.to("cpu")
    again = model.predict(bundle.frame)
    for column in found:
        if found[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column], again[column], rtol=1e-4, atol=1e-4)
        else:
            assert (found[column] == again[column]).mean() > 0.999
