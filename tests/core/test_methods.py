"""Step methods: which gradients a step leaves, what it remembers, and what calibration says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmt.geometry import Proxy
from fairmt.groups import Attribute, Groups
from fairmt.history import DecayedMoments
from fairmt.ledger import atoms_of
from fairmt.losses import Losses
from fairmt.methods import STEPS, Batch, FairMT, Plain, StepMethod, Symmetric, method
from fairmt.models import MLP, LinearHeads, MultiTask, TaskHeads
from fairmt.tasks import Classification, Detection, Layout, Regression

from . import test_tasks
from .hand_cases import CELLS, NAN

LAYOUT = Layout(
    (
        Regression("pay", ("u", "v"), loss="huber", weight=0.5),
        Classification("job", ("a", "b", "c"), weight=2.0),
        Detection("ill", ("x", "y")),
        Classification("school", ("a", "b", "c")),
        Regression("stay"),
    )
)
PEOPLE = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
OWN = ("fairmt", "symmetric", "balanced", "plain", "single", "group_dro")
"""What stands beside the core; `tests/methods` asks every method."""
OWNER = LAYOUT.task_of_output()
N_TASKS = len(LAYOUT.tasks)
Data = dict[str, Any]


def batch(seed: int = 0, n: int = 60, weighted: bool = True) -> Data:
    g = torch.Generator().manual_seed(seed)
    labels = {}
    for task in LAYOUT.tasks:
        if isinstance(task, Classification):
            labels[task.name] = torch.randint(3, (n,), generator=g).double()
        elif isinstance(task, Detection):
            labels[task.name] = torch.randint(2, (n, 2), generator=g).double()
        else:
            labels[task.name] = torch.randn(n, task.n_outputs, generator=g, dtype=torch.float64)
        labels[task.name][torch.rand(labels[task.name].shape, generator=g) < 0.2] = NAN
    data: Data = {
        "features": torch.randn(n, 6, generator=g, dtype=torch.float64),
        "labels": labels,
        "attributes": {
            "sex": torch.randint(-1, 2, (n,), generator=g),
            "race": torch.randint(-1, 3, (n,), generator=g),
        },
    }
    if weighted:
        data["weights"] = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return data


def model(kind: str = "linear", seed: int = 0) -> MultiTask:
    torch.manual_seed(seed)
    encoder = MLP(6, (16, 8))
    heads: nn.Module
    if kind == "linear":
        heads = LinearHeads(8, LAYOUT)
    elif kind == "one matrix each":
        heads = TaskHeads({t.name: nn.Linear(8, t.n_outputs) for t in LAYOUT.tasks}, LAYOUT)
    else:
        heads = TaskHeads(
            {
                t.name: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, t.n_outputs))
                for t in LAYOUT.tasks
            },
            LAYOUT,
        )
    return MultiTask(encoder, heads, LAYOUT).double()


SETTINGS: dict[str, Any] = {
    "strength": 1.5,
    "min_evidence": 3.0,
    "tolerance": 0.01,
    "refresh": 1,
}


def fair(m: MultiTask, **settings: Any) -> FairMT:
    found = FairMT(**SETTINGS | settings)
    found.setup(m, PEOPLE)
    return found


def gradients(m: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in m.parameters()]


def lagrangian(f: FairMT, outputs: Tensor, b: Batch) -> Tensor:
    """``Σ_t w_t L_t + λ C`` as it is defined, by autograd from the losses and the moments on.

    The memory is that of `f` before the step, which is left as it is.
    """
    losses = Losses(LAYOUT)(outputs, b.labels, b.weights)
    total = (losses * torch.tensor([t.weight for t in LAYOUT.tasks]).double()).sum()
    atoms = atoms_of(f.ledger, outputs, b.labels, f.offsets.double(), f.temperature)
    moments = f.ledger.moments(PEOPLE.membership(b.attributes, torch.float64), atoms, b.weights)
    history = DecayedMoments(f.ledger, PEOPLE)
    history.load_state_dict(f.history.state_dict())
    # The worst case sharpens with the price.
    kappa = f.sharpness * math.sqrt(f.strength or 1.0)
    worst = f.constraint.aggregate(history.update(moments), kappa).value
    return total + (f.strength or 0.0) * worst


def lagrangian_gradients(f: FairMT, data: Data, rho: float) -> tuple[list[list[Tensor]], Tensor]:
    """∂ℓ_t of all parameters for every task, and their Gramian.

    ℓ_t sees only the outputs of task t; those of the others are constants.
    """
    m, b = f.model, f.unpack(data)
    parameters = list(m.parameters())
    n_encoder = len(list(m.encoder.parameters()))
    found, at_z, at_heads = [], [], []
    for t in range(N_TASKS):
        z = m.encoder(b.features)
        outputs = m.heads(z)
        total = lagrangian(f, torch.where(OWNER.eq(t), outputs, outputs.detach()), b)
        dz, *grads = torch.autograd.grad(total, [z, *parameters], allow_unused=True)
        own = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
        ]
        found.append(own)
        at_z.append(dz.flatten())
        at_heads.append(sum(float((g**2).sum()) for g in own[n_encoder:]))
    rows = torch.stack(at_z)
    k = len(data["features"]) * rows @ rows.T
    return found, k + rho * torch.diag(torch.tensor(at_heads).double())


@pytest.mark.parametrize("kind", ["linear", "one matrix each", "small networks"])
@pytest.mark.parametrize("proxy", ["balance", None])
def test_a_step_is_the_weighted_sum_of_the_gradients_of_the_task_lagrangians(
    kind: str, proxy: str | None
) -> None:
    rho = 0.7
    f = fair(model(kind), proxy=proxy, rho=rho, smoothing=0.9)
    last: Tensor | None = None
    for step in range(3):
        data = batch(step)
        by_task, k = lagrangian_gradients(f, data, rho)
        weights = torch.ones(N_TASKS, dtype=torch.float64)
        if proxy is not None:
            weights = 1 / k.diagonal().sqrt()
            weights = weights / weights.mean()
            if last is not None:
                weights = 0.9 * last + 0.1 * weights
            last = weights
        f.model.zero_grad()
        f.step(data, scale=0.5)
        for i, found in enumerate(gradients(f.model)):
            expected = 0.5 * sum(w * own[i] for w, own in zip(weights, by_task, strict=True))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("kind", "notion"), CELLS, ids=lambda name: name)
def test_the_constraint_of_a_step_is_that_of_soft_decisions_under_the_rule_in_force(
    kind: str, notion: str
) -> None:
    f = fair(model(), notion={kind: notion}, max_decay=0.0, temperature=0.4)
    g = torch.Generator().manual_seed(3)
    f.set_offsets(torch.randn(LAYOUT.n_outputs, generator=g, dtype=torch.float64))
    b = f.unpack(batch(2))
    outputs = torch.randn(60, LAYOUT.n_outputs, generator=g, dtype=torch.float64).requires_grad_()
    found = f.aggregate(outputs, b)
    (gradient,) = torch.autograd.grad(3.0 * found.value, outputs)
    atoms = atoms_of(f.ledger, outputs, b.labels, f.offsets, 0.4)
    moments = f.ledger.moments(PEOPLE.membership(b.attributes, torch.float64), atoms, b.weights)
    kappa = f.sharpness * math.sqrt(f.strength or 1.0)
    expected = f.constraint.aggregate(moments, kappa)
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(found.violations, expected.violations)
    (wanted,) = torch.autograd.grad(3.0 * expected.value, outputs)
    assert float(wanted.abs().max()) > 1e-4
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("unlabelled", [None, *(t.name for t in test_tasks.TASKS)])
@pytest.mark.parametrize("weighted", [True, False])
def test_every_kind_and_setting_of_a_loss_reaches_the_step(
    unlabelled: str | None, weighted: bool
) -> None:
    layout = test_tasks.LAYOUT
    outputs, labels, weights = test_tasks.batch()
    if unlabelled is not None:
        labels[:, layout.labels[unlabelled]] = NAN
    # One feature for each row: the gradient of a weight of the heads is that of an output.
    heads = LinearHeads(len(outputs), layout).double()
    with torch.no_grad():
        heads.weight.copy_(outputs.T)
        heads.bias.zero_()
    data: Data = {
        "features": torch.eye(len(outputs), dtype=torch.float64),
        "labels": labels,
        "attributes": torch.full((len(outputs), 2), -1),
    }
    if weighted:
        data["weights"] = weights
    f = FairMT(strength=0.0, proxy=None)
    f.setup(MultiTask(Fixed(), heads, layout), PEOPLE)
    log = f.step(data)
    free = outputs.clone().requires_grad_()
    losses = Losses(layout)(free, labels, weights if weighted else None)
    total = (losses * torch.tensor([t.weight for t in layout.tasks]).double()).sum()
    total.backward()
    assert float(log["loss"]) == pytest.approx(total.item(), rel=1e-6)
    assert heads.weight.grad is not None
    torch.testing.assert_close(heads.weight.grad.T, free.grad, rtol=1e-6, atol=1e-10)


def test_objectives_touch_the_representation_and_their_own_head_only() -> None:
    f = fair(model("small networks"))
    by_task, _ = lagrangian_gradients(f, batch(), 1.0)
    names = [name for name, _ in f.model.named_parameters()]
    assert isinstance(f.model.heads, TaskHeads)
    for t, own in enumerate(by_task):
        position = f.model.heads.names.index(LAYOUT.tasks[t].name)
        for name, gradient in zip(names, own, strict=True):
            mine = name.startswith(("encoder", f"heads.heads.{position}."))
            assert (float(gradient.abs().max()) > 0) == mine, (t, name)


def test_one_matrix_of_heads_steps_like_a_matrix_for_each_task() -> None:
    fused, apart = model("linear"), model("one matrix each")
    apart.encoder.load_state_dict(fused.encoder.state_dict())
    matrix: Any = fused.heads
    heads: Any = apart.heads
    for name, head in zip(heads.names, heads.heads, strict=True):
        with torch.no_grad():
            head.weight.copy_(matrix.weight[LAYOUT.outputs[name]])
            head.bias.copy_(matrix.bias[LAYOUT.outputs[name]])
    a, b = fair(fused), fair(apart)
    for step in range(3):
        for f in (a, b):
            f.model.zero_grad()
            f.step(batch(step))
        for p, q in zip(fused.encoder.parameters(), apart.encoder.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-10)
        for name, head in zip(heads.names, heads.heads, strict=True):
            rows = LAYOUT.outputs[name]
            torch.testing.assert_close(matrix.weight.grad[rows], head.weight.grad)
            torch.testing.assert_close(matrix.bias.grad[rows], head.bias.grad)


@pytest.mark.parametrize("kind", ["linear", "small networks"])
def test_the_encoder_is_traversed_once(kind: str) -> None:
    m = model(kind)
    visits: list[int] = []
    first = next(m.encoder.children())
    first.register_full_backward_hook(lambda *_: visits.append(1))
    data = batch()
    data["features"].requires_grad_()
    fair(m).step(data)
    assert visits == [1]


def test_plain_training_is_the_gradient_of_the_weighted_sum_of_losses() -> None:
    plain, m = Plain(), model()
    plain.setup(m, PEOPLE)
    data = batch()
    log = plain.step(data)
    found = gradients(m)
    b = plain.unpack(data)
    losses = Losses(LAYOUT)(m(b.features), b.labels, b.weights)
    total = (losses * torch.tensor([t.weight for t in LAYOUT.tasks])).sum()
    assert float(log["loss"]) == pytest.approx(total.item(), rel=1e-6)
    for a, e in zip(found, torch.autograd.grad(total, list(m.parameters())), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-8)


def test_without_strength_or_proxy_fairmt_is_plain_training() -> None:
    plain = Plain()
    plain.setup(model(), PEOPLE)
    f = fair(model(), strength=0.0, proxy=None)
    for step in (plain, f):
        step.step(batch())
    for a, b in zip(gradients(plain.model), gradients(f.model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["plain", "fairmt"])
def test_gradients_of_batches_add_up(name: str) -> None:
    # Without memory of earlier batches, that is.
    settings: Data = {"max_decay": 0.0, "proxy": None, "strength": 1.0} if name == "fairmt" else {}

    def run(*batches: Data, scale: float) -> list[Tensor]:
        step = STEPS[name](**settings)
        step.setup(model(), PEOPLE)
        for data in batches:
            step.step(data, scale=scale)
        return gradients(step.model)

    both = run(batch(0), batch(1), scale=0.5)
    for a, b, c in zip(both, run(batch(0), scale=1.0), run(batch(1), scale=1.0), strict=True):
        torch.testing.assert_close(a, (b + c) / 2, rtol=1e-5, atol=1e-9)


def test_the_symmetric_variant_differs_from_fairmt_in_direction_alone() -> None:
    without = fair(model(), directionality=0.0)
    symmetric = Symmetric(**SETTINGS)
    symmetric.setup(model(), PEOPLE)
    directed = fair(model())
    for f in (without, symmetric, directed):
        f.step(batch())
    for a, b in zip(gradients(without.model), gradients(symmetric.model), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(gradients(directed.model)[0], gradients(symmetric.model)[0])


@pytest.mark.parametrize("name", OWN)
def test_a_saved_method_goes_on_with_the_same_gradients(name: str) -> None:
    first = STEPS[name]()
    first.setup(model(), PEOPLE)
    first.set_offsets(torch.linspace(-1, 1, LAYOUT.n_outputs).double())
    for seed in range(3):
        first.step(batch(seed))
    if isinstance(first, FairMT):
        first.calibrate([batch(7, n=400)])
        first.set_floors([batch(8, n=400)])
    second = STEPS[name]()
    second.setup(model(), PEOPLE)
    second.load_state_dict(first.state_dict())
    second.model.load_state_dict(first.model.state_dict())
    assert first.strength == second.strength
    for step in (first, second):
        step.model.zero_grad()
        step.step(batch(3))
    for a, b in zip(gradients(first.model), gradients(second.model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_labels_and_weights_may_be_of_any_precision(name: str, dtype: torch.dtype) -> None:
    data = batch()
    data["features"] = data["features"].float()
    data["weights"] = (4 * data["weights"]).to(dtype)
    step = STEPS[name]()
    step.setup(model().float(), PEOPLE)
    step.step(data)
    found = gradients(step.model)
    data["weights"] = data["weights"].float()
    data["labels"] = {name: label.float() for name, label in data["labels"].items()}
    step = STEPS[name]()
    step.setup(model().float(), PEOPLE)
    step.step(data)
    for a, b in zip(found, gradients(step.model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_task_and_a_group_without_rows_leave_the_step_finite() -> None:
    for kind in ("linear", "small networks"):
        f = fair(model(kind), notion=["default", "concordance_parity"])
        data = batch()
        data["labels"]["ill"][:] = NAN
        data["attributes"]["race"][:] = 0
        for _ in range(2):
            f.step(data)
        assert all(bool(g.isfinite().all()) for g in gradients(f.model))


# -- calibration -------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Gives its features back as outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def fixed_model(layout: Layout) -> MultiTask:
    heads = LinearHeads(layout.n_outputs, layout)
    with torch.no_grad():
        heads.weight.copy_(torch.eye(layout.n_outputs))
        heads.bias.zero_()
    return MultiTask(Fixed(), heads, layout)


TWO = Layout((Detection("ill", ("x", "y")), Detection("old", ("z",))))
SEX = Groups((Attribute("sex", ("m", "w")),))


def wrong_for_women_about_y(n: int = 400) -> Data:
    """Everything is right, but that label y is wrong for women, who stand on odd rows."""
    rows = torch.arange(n)
    labels = torch.stack([(rows // 2) % 2, (rows // 4) % 2, (rows // 8) % 2], 1).float()
    outputs = 2 * labels - 1
    outputs[rows % 2 == 1, 1] *= -1
    return {"features": outputs, "labels": labels, "attributes": (rows % 2)[:, None]}


def test_calibration_measures_hard_decisions_on_all_batches_together() -> None:
    f = FairMT(tolerance=0.25, dual_standard_errors=0.0)
    f.setup(fixed_model(TWO), SEX)
    whole = wrong_for_women_about_y()
    parts = [
        {key: value[rows] for key, value in whole.items()} for rows in torch.arange(400).split(90)
    ]
    log = f.calibrate(parts)
    assert log["slack"] == 0.75
    assert f.calibrate([whole])["slack"] == 0.75
    # Offsets are part of the decision: say yes to everybody about y.
    f.set_offsets(torch.tensor([0.0, 9.0, 0.0]))
    assert f.calibrate([whole])["slack"] == -0.25
    with pytest.raises(ValueError, match="No batch to calibrate on"):
        f.calibrate([])


def test_the_dual_does_not_chase_the_noise_of_small_groups() -> None:
    f = FairMT(tolerance=0.25, dual_standard_errors=2.0)
    f.setup(fixed_model(TWO), SEX)
    # Of women's 100 rows with or without label y none is right; of men's all are.
    p = 2 / 104
    error = (2 * p * (1 - p) / 104) ** 0.5
    assert f.calibrate([wrong_for_women_about_y()])["slack"] == pytest.approx(0.75 - 2 * error)
    # A group with fewer than 30 rows behind a rate is not known to the dual.
    assert f.calibrate([wrong_for_women_about_y(100)])["slack"] == -float("inf")


def test_what_cannot_be_reached_is_named_and_nothing_else() -> None:
    f = FairMT(tolerance=0.1, max_strength=4.0)
    f.setup(fixed_model(TWO), SEX)
    data = wrong_for_women_about_y()
    strengths = []
    for _ in range(8):
        log = f.calibrate([data])
        strengths.append(log["strength"])
    assert strengths == sorted(strengths)
    assert 3.9 < strengths[-1] < 4.0
    assert f.infeasible
    assert log["infeasible"] == 1.0
    assert {str(entry) for entry in f.binding} == {
        "ill: recall of y for sex=w",
        "ill: true negative rate of y for sex=w",
    }
    # Once the women's label is right too, the strength falls and nothing binds.
    data["features"] = 2 * data["labels"] - 1
    for _ in range(30):
        f.calibrate([data])
    assert not f.infeasible
    assert f.binding == []
    assert (f.strength or 0) < 0.4


def test_a_strength_that_is_set_is_no_longer_moved_by_calibration() -> None:
    f = FairMT()
    f.setup(fixed_model(TWO), SEX)
    f.strength = 0.75
    f.calibrate([wrong_for_women_about_y()])
    assert f.strength == 0.75
    assert not f.infeasible


def test_floors_hold_the_present_benefits() -> None:
    f = FairMT(strength=1.0, tolerance=5.0, floor_slack=0.125, max_decay=0.0, temperature=1e-3)
    f.setup(fixed_model(TWO), SEX)
    good = wrong_for_women_about_y()
    good["features"] = 2 * good["labels"] - 1
    f.set_floors([good])
    floors = f.constraint.floors
    assert floors is not None
    assert floors.tolist() == [[1.0] * 6] * 2
    b = f.unpack(wrong_for_women_about_y())
    aggregate = f.aggregate(b.features, b)
    assert float(aggregate.violations[:2].max()) == 0
    assert float(aggregate.violations[2:].max()) == pytest.approx(0.875)
    assert int((aggregate.violations > 0).sum()) == 2


# -- the interface -----------------------------------------------------------------------------


def test_methods_are_found_by_name() -> None:
    for name, found in STEPS.items():
        assert method(name) is found
        assert issubclass(found, StepMethod)
        assert found.name == name
        assert found.summary
    with pytest.raises(ValueError, match=r"Unknown method 'fair'; expected one of \['adversarial'"):
        method("fair")


def test_a_method_may_be_given_its_parts_or_set_up_later() -> None:
    m = model()
    given = FairMT(m.encoder, m.heads, LAYOUT, PEOPLE, **SETTINGS)
    later = fair(model())
    for f in (given, later):
        f.step(batch())
    for a, b in zip(gradients(given.model), gradients(later.model), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="Give encoder, heads, tasks and groups together"):
        FairMT(m.encoder)


def test_packed_and_named_batches_are_the_same() -> None:
    named, packed = batch(), batch()
    packed["labels"] = LAYOUT.pack(packed["labels"])
    packed["attributes"] = PEOPLE.pack(packed["attributes"])
    found = []
    for data in (named, packed):
        f = fair(model())
        f.step(data)
        found.append(gradients(f.model))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FairMT(temperature=0.0), "temperature must be positive. Found 0.0"),
        (
            lambda: fair(model(), notion="none"),
            r"'none' judges none of the tasks .*; there is nothing to constrain",
        ),
        (
            lambda: fair(model()).step({"features": torch.zeros(1, 6)}),
            r"The batch lacks \['attributes', 'labels'\]; found \['features'\]",
        ),
        (
            lambda: MultiTask(nn.Identity(), {"pay": nn.Linear(1, 2)}, LAYOUT),
            "Heads must be given for the tasks",
        ),
    ],
)
def test_what_cannot_be_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_the_proxy_of_a_step_is_the_one_that_was_asked_for() -> None:
    seen: list[Tensor] = []

    def record(k: Tensor) -> Tensor:
        seen.append(k)
        return torch.ones(len(k), dtype=k.dtype)

    f = fair(model(), proxy=record)
    assert isinstance(f.proxy, Proxy)
    f.step(batch())
    assert seen[0].shape == (N_TASKS, N_TASKS)
    assert float(seen[0].diagonal().mean()) == pytest.approx(1.0)
    torch.testing.assert_close(seen[0], seen[0].T)
