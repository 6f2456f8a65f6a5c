"""Weightings of task gradients and scalarisations of task losses, against TorchJD used by hand."""

from __future__ import annotations

import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd import aggregation, scalarization

from fairmt.groups import Groups
from fairmt.losses import Losses
from fairmt.methods import StepMethod
from fairmt.methods.gramian import SETTINGS as GRAMIAN_SETTINGS
from fairmt.methods.gramian import Gramian, weightings
from fairmt.methods.scalarised import SETTINGS, Scalarised, scalarizations
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.store import load_state, save_state
from fairmt.tasks import Classification, Detection, Layout, Regression

LAYOUT = Layout(
    (
        Classification("job", ("low", "mid", "high")),
        Regression("pay"),
        Detection("aid", ("food", "rent")),
        Regression("rent"),
    )
)
ABSENT = {"CAGrad"} if find_spec("clarabel") is None or find_spec("cvxpy") is None else set()
WEIGHTINGS = sorted(set(weightings()) - ABSENT)
STATEFUL = [n for n in WEIGHTINGS if hasattr(weightings()[n], "reset")]


def bound(method: StepMethod) -> StepMethod:
    torch.manual_seed(0)
    method.setup(MultiTask(MLP(5, (6, 4)), LinearHeads(4, LAYOUT), LAYOUT), Groups(()))
    return method


def rows(seed: int = 0, without: str | None = None) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = 40
    labels = {
        "job": torch.randint(0, 3, (n,), generator=g).float(),
        "pay": torch.randn(n, 1, generator=g),
        "aid": torch.randint(0, 2, (n, 2), generator=g).float(),
        "rent": torch.randn(n, 1, generator=g) * 3,
    }
    if without is not None:
        labels[without] = torch.full_like(labels[without], torch.nan)
    return {
        "features": torch.randn(n, 5, generator=g),
        "labels": LAYOUT.pack(labels),
        "attributes": torch.zeros(n, 0, dtype=torch.int64),
    }


def losses(model: MultiTask, batch: dict[str, Tensor]) -> Tensor:
    return Losses(LAYOUT)(model(batch["features"]), batch["labels"])


def jacobian(model: MultiTask, batch: dict[str, Tensor]) -> Tensor:
    """Task gradients on the encoder, (T, n)."""
    parameters = list(model.encoder.parameters())
    return torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        loss, parameters, retain_graph=True, materialize_grads=True
                    )
                ]
            )
            for loss in losses(model, batch)
        ]
    )


def gradient(method: StepMethod, batch: dict[str, Tensor], seed: int = 5) -> Tensor:
    """The step's gradient on the encoder, flat."""
    for p in method.parameters():
        p.grad = None
    torch.manual_seed(seed)
    method.step(batch)
    grads = [p.grad for p in method.model.encoder.parameters()]
    return torch.cat([g.flatten() for g in grads if g is not None])


def goes_on_exactly(make: Any, tmp_path: Path) -> None:
    """A saved run, restored in a new method, takes the steps that it would have taken."""

    def run(method: StepMethod, optimiser: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            optimiser.zero_grad()
            method.step(rows(seed, without="aid" if seed % 3 == 1 else None))
            optimiser.step()

    def prepared() -> tuple[StepMethod, torch.optim.Optimizer]:
        method = bound(make())
        return method, torch.optim.Adam(method.parameters(), 0.05)

    whole, optimiser = prepared()
    run(whole, optimiser, range(5))
    state = {
        "parameters": [p.detach().clone() for p in whole.parameters()],
        "method": whole.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    save_state(tmp_path / "s", state)
    run(whole, optimiser, range(5, 9))
    other, optimiser = prepared()
    state = load_state(tmp_path / "s")
    with torch.no_grad():
        for p, saved in zip(other.parameters(), state["parameters"], strict=True):
            p.copy_(saved)
    other.load_state_dict(state["method"])
    optimiser.load_state_dict(state["optimiser"])
    run(other, optimiser, range(5, 9))
    for p, q in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


# -- weightings ---------------------------------------------------------------------------------


def test_every_weighting_of_a_gramian_is_offered() -> None:
    assert set(weightings()) == {
        "AlignedMTL", "CAGrad", "DualProj", "FairGrad", "GradVac", "IMTLG", "Krum", "MGDA", "PCD",
        "PCGrad", "UPGrad",
    }  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_encoder_follows_torchjds_aggregation(name: str) -> None:
    method, batch = bound(Gramian(weighting=name)), rows()
    aggregator = getattr(aggregation, name)(**GRAMIAN_SETTINGS.get(name, {}))
    torch.manual_seed(5)
    expected = aggregator(jacobian(method.model, batch))
    torch.testing.assert_close(gradient(method, batch), expected, rtol=1e-3, atol=1e-5)
    plain = jacobian(method.model, batch).sum(0)
    assert not torch.allclose(expected, plain, rtol=1e-3) or name in ("PCGrad", "GradVac")


def test_heads_follow_their_own_losses() -> None:
    method, batch = bound(Gramian(weighting="MGDA")), rows()
    gradient(method, batch)
    weight = method.model.heads.weight
    (expected,) = torch.autograd.grad(losses(method.model, batch).sum(), weight)
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_an_absent_task_leaves_the_others_to_themselves(name: str) -> None:
    method, batch = bound(Gramian(weighting=name)), rows(without="aid")
    aggregator = getattr(aggregation, name)(**GRAMIAN_SETTINGS.get(name, {}))
    # What the weighting remembers of whole batches must come out of this one as it went in.
    method.step(rows(1))
    before = deepcopy(method.state_dict()["weighting"])
    torch.manual_seed(5)
    expected = aggregator(jacobian(method.model, batch)[[0, 1, 3]])
    torch.testing.assert_close(gradient(method, batch), expected, rtol=1e-3, atol=1e-5)
    after = method.state_dict()["weighting"]
    assert all(torch.equal(before[k], after[k]) for k in before)
    for other in ("job", "pay", "rent"):
        index = LAYOUT.labels[other]
        batch["labels"][:, index] = torch.nan
    assert float(gradient(method, batch).abs().sum()) == 0


def test_too_few_tasks_for_a_weighting_are_summed() -> None:
    method, batch = bound(Gramian(weighting="Krum")), rows(without="aid")
    batch["labels"][:, LAYOUT.labels["pay"]] = torch.nan
    expected = jacobian(method.model, batch).sum(0)
    torch.testing.assert_close(gradient(method, batch), expected)
    layout = Layout(LAYOUT.tasks[:2])
    with pytest.raises(ValueError, match=r"Krum.*cannot weight 2 tasks"):
        Gramian(MLP(5, (4,)), LinearHeads(4, layout), layout, Groups(()), weighting="Krum")


def test_a_frozen_encoder_leaves_nothing_to_weight() -> None:
    method, batch = bound(Gramian()), rows()
    method.model.encoder.requires_grad_(False)
    method.step(batch)
    weight = method.model.heads.weight
    (expected,) = torch.autograd.grad(losses(method.model, batch).sum(), weight)
    torch.testing.assert_close(weight.grad, expected)


def test_scale_and_accumulation() -> None:
    one, two, batch = bound(Gramian()), bound(Gramian()), rows()
    whole = gradient(one, batch)
    two.step(batch, 0.5)
    two.step(batch, 0.5)
    both = torch.cat([p.grad.flatten() for p in two.model.encoder.parameters()])  # type: ignore
    torch.testing.assert_close(both, whole)


@pytest.mark.parametrize("name", ["UPGrad", *STATEFUL])
def test_a_weighted_run_goes_on_exactly(name: str, tmp_path: Path) -> None:
    goes_on_exactly(lambda: Gramian(weighting=name), tmp_path)


def test_what_is_missing_is_said_with_the_line_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ABSENT:
        with pytest.raises(ImportError, match=r'pip install "torchjd\[cagrad\]"'):
            Gramian(weighting=name)
    with pytest.raises(ValueError, match=r"Unknown weighting 'UpGrad'.*'UPGrad'"):
        Gramian(weighting="UpGrad")
    with pytest.raises(ValueError, match=r"Unknown scalarization 'Famo'.*'FAMO'"):
        Scalarised(scalarization="Famo")
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    monkeypatch.setitem(sys.modules, "torchjd.scalarization", None)
    for make in (Gramian, Scalarised):
        with pytest.raises(ImportError, match=r"pip install 'fairmt\[torchjd\]'"):
            make()


# -- scalarisations -----------------------------------------------------------------------------


def by_hand(name: str) -> Any:
    uniform = torch.full((4,), 0.25)
    needed: dict[str, dict[str, Any]] = {
        "Constant": {"weights": uniform},
        "COSMOS": {"weights": uniform},
        "PBI": {"weights": uniform},
        "FAMO": {"shape": 4},
        "UW": {"shape": 4},
        "IMTLL": {"shape": 4},
    }
    return getattr(scalarization, name)(**needed.get(name, {}) | SETTINGS.get(name, {}))


def test_every_scalarisation_is_offered() -> None:
    assert set(scalarizations()) == {
        "COSMOS", "Constant", "DWA", "FAMO", "GeometricMean", "IMTLL", "Mean", "PBI", "Random",
        "STCH", "Sum", "UW",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(scalarizations()))
def test_training_is_that_of_torchjd_by_hand(name: str) -> None:
    """Six steps beside TorchJD's own loop, as its documentation has it."""
    method = bound(Scalarised(scalarization=name, period=2))
    model, rule = deepcopy(method.model), by_hand(name)
    own = [] if name == "FAMO" else list(rule.parameters())
    optimisers = [
        torch.optim.SGD(method.parameters(), 0.05),
        torch.optim.SGD([*model.parameters(), *own], 0.05),
    ]
    for i in range(6):
        for o in optimisers:
            o.zero_grad()
        torch.manual_seed(i)
        method.step(rows(i))
        torch.manual_seed(i)
        rule(losses(model, rows(i))).backward()
        for o in optimisers:
            o.step()
        if name == "FAMO":
            rule.update(losses(model, rows(i)).detach())
        if name == "DWA" and i % 2:
            rule.step()
    for p, q in zip(method.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    for p, q in zip(method.scalariser.parameters(), rule.parameters(), strict=True):
        # FAMO looks back at the next step.
        if name != "FAMO":
            torch.testing.assert_close(p, q)
    if name == "FAMO":
        assert float(rule._w.detach().abs().max()) > 1e-3
        method._look_back()
        torch.testing.assert_close(method.scalariser._w, rule._w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(scalarizations()))
def test_an_absent_task_stands_with_its_last_loss(name: str) -> None:
    method = bound(Scalarised(scalarization=name))
    gradient(method, rows(0))
    last = losses(method.model, rows(0))[2].detach()
    batch = rows(1, without="aid")
    rule = deepcopy(method.scalariser)
    values = losses(method.model, batch)
    values = torch.where(torch.arange(4) == 2, last, values)
    torch.manual_seed(5)
    expected = torch.autograd.grad(rule(values), list(method.model.encoder.parameters()))
    found = gradient(method, batch)
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]))
    assert float(found.abs().max()) > 1e-5


def test_famos_weight_of_an_absent_task_stays() -> None:
    """And the others move as if there were none but them."""
    method = bound(Scalarised())
    optimiser = torch.optim.SGD(method.parameters(), 0.1)
    for seed in range(4):
        optimiser.zero_grad()
        method.step(rows(seed, without="aid"))
        optimiser.step()
    logits = method.scalariser._w.detach()
    assert float(logits[2]) == 0
    assert float(logits[[0, 1, 3]].abs().min()) > 1e-2


def test_settings_reach_the_rule() -> None:
    method = bound(Scalarised(scalarization="Constant", settings={"weights": [1.0, 2.0, 0.0, 3.0]}))
    batch = rows()
    expected = torch.tensor([1.0, 2.0, 0.0, 3.0]) @ jacobian(method.model, batch)
    torch.testing.assert_close(gradient(method, batch), expected)
    with pytest.raises(ValueError, match=r"FAMO has no settings \['temperature'\]"):
        bound(Scalarised(settings={"temperature": 2.0}))
    with pytest.raises(ValueError, match="period"):
        Scalarised(period=0)


@pytest.mark.parametrize("name", ["FAMO", "DWA", "UW", "IMTLL", "Random", "STCH"])
def test_a_scalarised_run_goes_on_exactly(name: str, tmp_path: Path) -> None:
    goes_on_exactly(lambda: Scalarised(scalarization=name, period=2), tmp_path)
