"""The Gramian of the per-task Lagrangians, and the programs that weight them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from fairmt.constraint import Constraint
from fairmt.geometry import (
    PROGRAMS,
    Proxy,
    balance,
    equal,
    gramian,
    linear_gramian,
    program,
)
from fairmt.groups import Attribute, Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.losses import Losses
from fairmt.models import LinearHeads
from fairmt.notions import resolve_notions
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

GROUPS = Groups((Attribute("sex", ("m", "w")),))

LAYOUTS: dict[str, tuple[Task, ...]] = {
    "several outputs": (
        Regression("pay", ("u", "v"), loss="huber"),
        Classification("job", ("a", "b", "c"), weight=2.0),
        Detection("ill", ("x", "y")),
        Classification("school", ("a", "b", "c")),
    ),
    "one output each, another order": (
        Regression("pay"),
        Detection("ill", ("x",)),
        Regression("age"),
        Detection("old", ("y",)),
    ),
    "one output each, same order": (Regression("pay"), Regression("age"), Detection("ill", ("x",))),
}


@pytest.mark.parametrize("tasks", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_linear_gramian_is_that_of_the_task_lagrangians(tasks: tuple[Task, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    layout, n, d = Layout(tasks), 40, 7
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    heads = LinearHeads(d, layout).double()
    labels = {}
    for task in tasks:
        if isinstance(task, Classification):
            labels[task.name] = torch.randint(3, (n,), generator=g).double()
        else:
            labels[task.name] = torch.randint(2, (n, task.n_outputs), generator=g).double()
    y, owner = layout.pack(labels), layout.task_of_output()
    member = GROUPS.membership(torch.randint(2, (n, 1), generator=g), torch.float64)
    ledger = Ledger(layout, resolve_notions(tasks, "default"))
    constraint = Constraint(ledger, GROUPS, tolerance=0.0, min_evidence=3.0)

    def lagrangian(outputs: Tensor) -> Tensor:
        losses = Losses(layout)(outputs, y) * torch.tensor([t.weight for t in tasks]).double()
        moments = ledger.moments(member, atoms_of(ledger, outputs, y, None, 0.5))
        return losses.sum() + 1.5 * constraint.aggregate(moments).value

    gradients = []
    for t in range(len(tasks)):
        # Only the outputs of task t are free, so what moves is its own Lagrangian.
        rows = z.clone().requires_grad_()
        outputs = heads(rows)
        total = lagrangian(torch.where(owner.eq(t), outputs, outputs.detach()))
        gradients.append(torch.autograd.grad(total, rows)[0])
    flat = torch.stack([x.flatten() for x in gradients])
    assert float(flat.norm(dim=1).min()) > 1e-3
    expected = n * flat @ flat.T
    leaf = heads(z).detach().requires_grad_()
    (delta,) = torch.autograd.grad(lagrangian(leaf), leaf)
    indicator = torch.nn.functional.one_hot(owner, len(tasks)).to(delta)
    found = linear_gramian(delta, heads.weight.detach(), indicator)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gramian(gradients), expected, rtol=1e-10, atol=1e-12)


def test_the_gramian_of_mean_losses_does_not_depend_on_the_batch_size() -> None:
    g = torch.Generator().manual_seed(0)
    delta = torch.randn(10, 3, generator=g, dtype=torch.float64) / 10
    weight, owner = torch.randn(3, 5, generator=g, dtype=torch.float64), torch.tensor([0, 1, 1])
    indicator = torch.nn.functional.one_hot(owner, 2).to(delta)
    once = linear_gramian(delta, weight, indicator)
    torch.testing.assert_close(linear_gramian(delta.repeat(4, 1) / 4, weight, indicator), once)


def random_gramian(n: int = 5, seed: int = 0) -> Tensor:
    a = torch.randn(n, 3 * n, generator=torch.Generator().manual_seed(seed)).double()
    return a @ a.T


# -- programs ----------------------------------------------------------------------------------


def test_balancing_gives_every_objective_the_same_force() -> None:
    k = random_gramian()
    w = balance(k)
    force = w * k.diagonal().sqrt()
    torch.testing.assert_close(force, torch.ones_like(force))
    # Scaled to mean 1: (1/√K_tt) / mean(1/√K_tt).
    found = Proxy("balance").weights(torch.diag(torch.tensor([1.0, 4.0, 16.0])))
    assert found.tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7])


def test_an_objective_without_gradient_gets_no_boundless_weight() -> None:
    found = Proxy("balance").weights(torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    assert bool(found.isfinite().all())
    assert found[0].item() == pytest.approx(found[1].item())
    nothing = Proxy("balance").weights(torch.zeros(3, 3))
    assert nothing.tolist() == [1, 1, 1]


def test_the_plain_sum_weighs_all_alike() -> None:
    assert equal(random_gramian()).tolist() == [1] * 5
    assert Proxy("equal").weights(random_gramian()).tolist() == pytest.approx([1] * 5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_gives_finite_weights_of_mean_one(name: str) -> None:
    if name not in ("equal", "balance"):
        pytest.importorskip("torchjd")
    if name == "cagrad" and find_spec("cvxpy") is None:
        with pytest.raises(ImportError, match=r"pip install .torchjd\[cagrad\]"):
            Proxy(name)
        return
    for dtype in (torch.float32, torch.float64):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Proxy(name).weights(random_gramian().to(dtype))
        assert found.dtype == dtype
        assert bool(found.isfinite().all())
        assert float(found.mean()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Objectives at right angles with squared norms 1 and 4.
        ("mgda", [8 / 5, 2 / 5]),
        ("imtl_g", [4 / 3, 2 / 3]),
        ("aligned", [4 / 3, 2 / 3]),
        ("balance", [4 / 3, 2 / 3]),
        ("dualproj", [1.0, 1.0]),
        ("upgrad", [1.0, 1.0]),
        ("equal", [1.0, 1.0]),
    ],
)
def test_programs_have_their_known_answer_at_right_angles(name: str, expected: list[float]) -> None:
    pytest.importorskip("torchjd")
    found = Proxy(name).weights(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["dualproj", "upgrad"])
def test_guards_let_no_objective_ascend(name: str) -> None:
    pytest.importorskip("torchjd")
    k = torch.tensor([[1.0, -2.0], [-2.0, 9.0]], dtype=torch.float64)
    assert bool((k @ torch.ones(2).double() < 0).any())
    # TorchJD regularises its projection a little.
    assert bool((k @ Proxy(name).weights(k) > -5e-3).all())


def test_a_weighting_of_torchjd_fits_the_socket() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    k = random_gramian()
    found = Proxy(aggregation.MGDAWeighting()).weights(k)
    torch.testing.assert_close(found, Proxy("mgda").weights(k))


def test_a_program_sees_the_gramian_as_weighted_so_far() -> None:
    seen: list[Tensor] = []

    def guard(k: Tensor) -> Tensor:
        seen.append(k)
        return torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0], dtype=k.dtype)

    k = random_gramian()
    found = Proxy(("balance", guard)).weights(k)
    first = Proxy("balance").weights(k)
    scaled = torch.outer(first, first) * k / k.diagonal().mean()
    torch.testing.assert_close(seen[0], scaled)
    assert float(seen[0].diagonal().std()) == pytest.approx(0.0, abs=1e-12)
    expected = first * seen[0].new_tensor([3, 1, 1, 1, 1])
    torch.testing.assert_close(found, expected / expected.mean())


def test_weights_do_not_depend_on_the_scale_of_the_gramian() -> None:
    for name in ("balance", "equal"):
        torch.testing.assert_close(
            Proxy(name).weights(1e-12 * random_gramian()), Proxy(name).weights(random_gramian())
        )


def test_weights_are_smoothed_over_steps_and_saved() -> None:
    proxy = Proxy("balance", smoothing=0.75)
    first = proxy.weights(random_gramian(seed=1))
    state = proxy.state_dict()
    fresh = Proxy("balance").weights(random_gramian(seed=2))
    second = proxy.weights(random_gramian(seed=2))
    torch.testing.assert_close(second, 0.75 * first + 0.25 * fresh)
    other = Proxy("balance", smoothing=0.75)
    other.load_state_dict(state)
    assert torch.equal(other.weights(random_gramian(seed=2)), second)
    other.load_state_dict(Proxy("balance").state_dict())
    assert torch.equal(other.weights(random_gramian(seed=1)), first)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: program("balanse"), r"Unknown proxy program 'balanse'; expected one of \['equal'"),
        (lambda: Proxy("balance", rho=-1.0), "rho must not be negative. Found -1.0"),
        (lambda: Proxy("balance", refresh=0), "refresh must be at least 1. Found 0"),
        (lambda: Proxy("balance", smoothing=1.0), r"smoothing must lie in \[0, 1\). Found 1.0"),
    ],
)
def test_settings_that_cannot_be_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
