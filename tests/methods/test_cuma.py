"""CUMA: its curvature against the exact Hessian, its distance against a double loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmt.groups import Attribute, Groups
from fairmt.kernel_distance import kernel_distance
from fairmt.methods import CUMA, Adversarial
from fairmt.methods.cuma import loss_curvature
from fairmt.models import LinearHeads, MultiTask
from fairmt.row_losses import RowLosses
from fairmt.tasks import Detection, Layout

from .test_adversarial import GROUPS, LAYOUT, NAN, people


def bound(kind: type[Adversarial] = CUMA, layout: Layout = LAYOUT, **settings: Any) -> Any:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Dropout(0.5))
    method = kind(**settings)
    method.setup(MultiTask(encoder, LinearHeads(6, layout), layout).double(), GROUPS)
    return method


@pytest.mark.parametrize("task", range(3))
def test_curvature_is_that_of_the_exact_hessian(task: int) -> None:
    """Against the full Hessian row by row, and against finite differences of the gradient."""
    method, data = bound(), people(8)
    model = method.model.eval()
    labels = method.unpack(data).labels
    rows = RowLosses(LAYOUT)
    found = loss_curvature(lambda x: rows(model(x), labels)[:, task], data["features"])
    for i, x in enumerate(data["features"]):

        def loss(x: Tensor, i: int = i) -> Tensor:
            return rows(model(x[None]), labels[i : i + 1])[0, task]

        def gradient(x: Tensor, loss: Any = loss) -> Tensor:
            return torch.autograd.functional.jacobian(loss, x)  # type: ignore[no-any-return]

        v = gradient(x) / gradient(x).norm()
        exact = torch.autograd.functional.hessian(loss, x) @ v
        torch.testing.assert_close(found[i], exact.norm())
        h = 1e-5
        finite = (gradient(x + h * v) - gradient(x - h * v)).norm() / (2 * h)
        torch.testing.assert_close(found[i], finite, rtol=1e-6, atol=1e-9)


def test_it_is_the_largest_curvature_of_one_output_of_a_relu_network() -> None:
    torch.manual_seed(0)
    layout = Layout((Detection("ill", ("x",)),))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    x, y = torch.randn(6, 4).double(), torch.tensor([[0.0], [1.0]] * 3).double()
    rows = RowLosses(layout)
    found = loss_curvature(lambda x: rows(net(x), y)[:, 0], x)
    for i in range(6):
        hessian = torch.autograd.functional.hessian(
            lambda x, i=i: rows(net(x[None]), y[i : i + 1])[0, 0], x[i]
        )
        torch.testing.assert_close(found[i], torch.linalg.matrix_norm(hessian, 2))


def test_a_row_without_gradient_does_not_curve() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    found = loss_curvature(lambda x: (x**2).sum(1), x)
    assert torch.equal(found, torch.zeros(2).double())


def by_loops(u: Tensor, w: Tensor, own: list[int], rest: list[int], width: float) -> float:
    """Unbiased squared MMD with weights, pair by pair."""

    def kernel(i: int, j: int) -> float:
        return float(torch.exp(-((u[i] - u[j]) ** 2) / (2 * width**2)))

    def mean(a: list[int], b: list[int]) -> float:
        pairs = [(i, j) for i in a for j in b if i != j]
        total = sum(float(w[i] * w[j]) for i, j in pairs)
        return sum(float(w[i] * w[j]) * kernel(i, j) for i, j in pairs) / total

    return mean(own, own) + mean(rest, rest) - 2 * mean(own, rest)


def test_the_kernel_distance_against_a_double_loop() -> None:
    """Three groups, one row without a group, one group of a single row, which is left out."""
    g = torch.Generator().manual_seed(0)
    groups = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
    n = 12
    u, w = torch.randn(n, generator=g).double(), torch.rand(n, generator=g).double() + 0.5
    sex = torch.tensor([0, 1] * 6)
    race = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 2, -1, 0])
    member = groups.membership(torch.stack([sex, race], 1), torch.float64)[:, 1:] * w[:, None]
    found = kernel_distance(u, member, groups, (0.5, 2.0))

    def rows(codes: Tensor, code: int) -> tuple[list[int], list[int]]:
        own = [i for i in range(n) if codes[i] == code]
        return own, [i for i in range(n) if codes[i] >= 0 and codes[i] != code]

    def distance(codes: Tensor, code: int) -> float:
        return sum(by_loops(u, w, *rows(codes, code), width) for width in (0.5, 2.0)) / 2

    # A group's share is that of its attribute; race r has one row only.
    shares = {("sex", 0): 1 / 2, ("sex", 1): 1 / 2, ("race", 0): 1 / 3, ("race", 1): 1 / 3}
    codes = {"sex": sex, "race": race}
    expected = sum(s * distance(codes[name], c) for (name, c), s in shares.items())
    assert float(found) == pytest.approx(expected / sum(shares.values()), rel=1e-10)


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    """The biased estimate would be about (1/5 + 1/25)(1 - E k) > .1 here."""
    g = torch.Generator().manual_seed(0)
    groups = Groups((Attribute("sex", ("m", "w")),))
    member = groups.membership((torch.arange(30) >= 5).long()[:, None], torch.float64)[:, 1:]
    found = [
        kernel_distance(torch.randn(30, generator=g).double(), member, groups, (1.0,))
        for _ in range(400)
    ]
    mean, error = torch.stack(found).mean(), torch.stack(found).std() / 20
    assert abs(float(mean)) < 3 * float(error)
    assert float(error) < 0.01


def test_without_two_groups_there_is_no_distance() -> None:
    groups = Groups((Attribute("sex", ("m", "w")),))
    u = torch.randn(4, requires_grad=True)
    for codes in ([0, 0, 0, 0], [-1, -1, -1, -1], [0, 0, 0, 1]):
        member = groups.membership(torch.tensor(codes)[:, None])[:, 1:]
        found = kernel_distance(u, member, groups, (1.0,))
        assert torch.equal(found.detach(), torch.tensor(0.0))
        assert torch.equal(torch.autograd.grad(found, u)[0], torch.zeros(4))
    assert not kernel_distance(u[:0], member[:0], groups, (1.0,)).any()


def test_without_its_term_it_is_the_adversary() -> None:
    data = people()
    methods = [bound(CUMA, curvature=0.0), bound(Adversarial)]
    for method in methods:
        torch.manual_seed(1)
        method.step(data)
    for p, q in zip(methods[0].parameters(), methods[1].parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)


def test_tasks_take_turns_and_unlabelled_rows_stay_out() -> None:
    data = people()
    short = {
        "features": data["features"][10:],
        "labels": {k: v[10:] for k, v in data["labels"].items()},
        "attributes": {k: v[10:] for k, v in data["attributes"].items()},
        "weights": data["weights"][10:],
    }
    data["labels"]["ill"][:10] = NAN
    method = bound()
    found = [float(method.mismatch(method.unpack(data)).detach()) for _ in range(4)]
    assert found[0] == found[3]
    assert len(set(found)) == 3
    method.load_state_dict(method.state_dict() | {"turn": 1})
    assert float(method.mismatch(method.unpack(short)).detach()) == pytest.approx(
        found[1], rel=1e-10
    )


def test_the_mismatch_is_blind_to_the_scale_of_all_curvatures() -> None:
    """Flattening everybody alike gains nothing."""
    method, batch = bound(), bound().unpack(people())
    found, own = [], LAYOUT.outputs["pay"]
    outputs = method.model.eval()(batch.features)[:, own].detach()
    labels = batch.labels.clone()
    for factor in (1.0, 0.1):
        with torch.no_grad():
            method.model.heads.weight[own] *= factor
            method.model.heads.bias[own] *= factor
        # Errors scale as the outputs do, and curvatures of squared errors with their square.
        labels[:, LAYOUT.labels["pay"]] = factor * (outputs + 1.0)
        method._turn = 2
        found.append(float(method.mismatch(batch._replace(labels=labels)).detach()))
    assert found[0] == pytest.approx(found[1], rel=1e-8)


def test_features_that_are_not_numbers_are_refused() -> None:
    method, data = bound(), people()
    for features in ({"text": data["features"]}, torch.zeros(40, 4, dtype=torch.long)):
        with pytest.raises(ValueError, match="adversarial"):
            method.mismatch(method.unpack(data | {"features": features}))
    with pytest.raises(ValueError, match="curvature"):
        CUMA(curvature=-1.0)
