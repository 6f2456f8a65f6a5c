"""SenSeI: the distances, the auditor against closed forms and grids, and consistency after all."""

from __future__ import annotations

import copy
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from fairmt.fair_metrics import FairMetric, orthonormal
from fairmt.groups import Attribute, Groups
from fairmt.ledger import decide
from fairmt.methods.sensei import SenSeI, jensen_shannon
from fairmt.models import LinearHeads, MultiTask
from fairmt.store import load_state, save_state
from fairmt.tasks import Classification, Detection, Layout, Regression

from .steps import build, people, train, utility_change

SEX = Groups((Attribute("sex", ("m", "w")),))
PAY = Layout((Regression("pay", ("pay",)),))
MIXED = Layout(
    (
        Classification("job", ("a", "b", "c"), weight=2.0),
        Detection("ill", ("x", "y"), weight=3.0),
        Regression("pay", ("u", "v"), scale=(5.0, 7.0), centre=(1.0, 2.0)),
        Classification("school", ("a", "b", "c")),
    )
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def free(*axes: int, n: int = 4, reach: float = 2.0) -> FairMetric:
    """Moves along these axes are free, from -reach to reach."""
    directions = torch.eye(n, dtype=torch.float64)[:, list(axes)]
    ends = torch.full((len(axes),), reach, dtype=torch.float64)
    sigma = torch.eye(n, dtype=torch.float64) - directions @ directions.T
    return FairMetric(sigma, directions, -ends, ends)


def network(layout: Layout, n: int = 4, encoder: nn.Module | None = None) -> MultiTask:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(n, 16), nn.Tanh()) if encoder is None else encoder
    return MultiTask(inner, LinearHeads(16 if encoder is None else n, layout), layout).double()


def linear(w: Tensor) -> MultiTask:
    """One target, ``pay = wᵀx + 3``."""
    model = network(PAY, len(w), nn.Identity())
    with torch.no_grad():
        model.heads.weight.copy_(w[None])  # type: ignore[operator, union-attr]
        model.heads.bias.fill_(3.0)  # type: ignore[operator, union-attr]
    return model


def bound(model: MultiTask, metric: FairMetric, **settings: Any) -> SenSeI:
    method = SenSeI(metric=metric, **settings)
    method.setup(model, SEX)
    return method


def batch(layout: Layout, x: Tensor, **more: Any) -> dict[str, Any]:
    labels = torch.full((len(x), layout.n_labels), torch.nan, dtype=torch.float64)
    codes = torch.zeros(len(x), 1, dtype=torch.int64)
    return {"features": x, "labels": labels, "attributes": codes, **more}


def penalty(method: SenSeI, data: dict[str, Any]) -> Tensor:
    found = method.penalty(torch.empty(0), torch.empty(0), method.unpack(data))
    assert found is not None
    return found


# -- distances of outputs --------------------------------------------------------------------


def test_distances_of_outputs_are_those_of_their_definition() -> None:
    a, b = 2 * noise(20, MIXED.n_outputs), 2 * noise(20, MIXED.n_outputs, seed=1)
    found = bound(network(MIXED), free(0)).output_distance(a, b)
    one, two = MIXED.split(a), MIXED.split(b)
    expected = np.zeros(20)
    for name, weight in (("job", 2.0), ("school", 1.0)):
        p, q = (o[name].softmax(1).numpy() for o in (one, two))
        expected += weight * jensenshannon(p, q, axis=1) ** 2
    for k in range(2):
        p, q = (torch.sigmoid(o["ill"][:, k]).numpy() for o in (one, two))
        pair = [np.stack([x, 1 - x], 1) for x in (p, q)]
        expected += 3.0 / 2 * jensenshannon(*pair, axis=1) ** 2
    expected += ((one["pay"] - two["pay"]) ** 2).mean(1).numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_distances_of_logits() -> None:
    a, b = noise(20, MIXED.n_outputs), noise(20, MIXED.n_outputs, seed=1)
    method = bound(network(MIXED), free(0), divergence="logit")
    d = {name: (x - MIXED.split(b)[name]).numpy() for name, x in MIXED.split(a).items()}
    # The sum of squares about the mean.
    expected = 2 * 3 * d["job"].var(1) + 3 * d["school"].var(1)
    expected += 3 * (d["ill"] ** 2).mean(1) + (d["pay"] ** 2).mean(1)
    np.testing.assert_allclose(method.output_distance(a, b).numpy(), expected, rtol=1e-9)


def test_the_divergence_is_bounded_and_flat_where_nothing_differs() -> None:
    certain = torch.tensor([[200.0, 0.0], [0.0, 200.0]]).log_softmax(1)
    assert float(jensen_shannon(certain[0], certain[1])) == pytest.approx(math.log(2))
    p = noise(5, 3).log_softmax(1).requires_grad_()
    jensen_shannon(p, p.detach()).sum().backward()
    torch.testing.assert_close(p.grad, torch.zeros_like(p))


# -- the auditor -----------------------------------------------------------------------------


def test_free_moves_reach_the_best_corner_of_a_linear_model() -> None:
    w = noise(4, seed=3)
    x = 1.5 * noise(300, 4)
    directions = orthonormal(noise(4, 3, seed=5))
    ends = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    metric = FairMetric(torch.zeros(4, 4).double(), directions, -ends, ends)
    moved = bound(linear(w), metric, steps=0).attack(x)
    place = x @ directions
    low, high = torch.minimum(-ends, place), torch.maximum(ends, place)
    # The closed form: all eight corners.
    best = torch.zeros(300).double()
    for corner in itertools.product((True, False), repeat=3):
        target = torch.where(torch.tensor(corner), high, low)
        best = torch.maximum(best, (((target - place) @ directions.T) @ w) ** 2)
    torch.testing.assert_close(((moved - x) @ w) ** 2, best)
    # Nobody leaves the box, or moves across it.
    across = (moved - x) - (moved - x) @ directions @ directions.T
    assert float(across.abs().max()) < 1e-9
    assert bool((moved @ directions <= high + 1e-9).all())
    assert bool((moved @ directions >= low - 1e-9).all())


def test_the_transport_of_a_linear_model_reaches_its_bound() -> None:
    """``sup E[(wᵀδ)²] s.t. E[δᵀΣδ] <= ε`` is ``ε wᵀΣ⁻¹w``, and the multiplier ``wᵀΣ⁻¹w``."""
    w = torch.tensor([1.0, -0.5, 0.3, 0.0]).double()
    sigma = torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0]).double())
    nothing = torch.zeros(0).double()
    metric = FairMetric(sigma, torch.zeros(4, 0).double(), nothing, nothing)
    slope = float(w @ torch.linalg.inv(sigma) @ w)
    method = bound(linear(w), metric, epsilon=0.04, steps=10)
    costs, distances, multipliers = [], [], []
    for _ in range(200):
        x = noise(32, 4)
        moved = method.attack(x)
        costs.append(float(metric(x, moved).mean()))
        distances.append(penalty(method, batch(PAY, x)).item())
        # No transport does more for its cost.
        assert distances[-1] <= costs[-1] * slope * (1 + 1e-6)
        multipliers.append(method.multiplier)
    late = slice(80, None)
    assert np.mean(costs[late]) == pytest.approx(0.04, rel=0.1)
    assert np.mean(distances[late]) == pytest.approx(0.04 * slope, rel=0.1)
    assert np.mean(multipliers[late]) == pytest.approx(slope, rel=0.1)


def test_the_inner_maximum_comes_near_that_of_a_grid() -> None:
    layout = Layout((Classification("job", ("a", "b", "c")),))
    model = network(layout, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)
    metric = free(0, n=2)
    method = bound(model, metric, steps=20, epsilon=0.2)
    method.multiplier = 0.5
    x = noise(40, 2)
    moved = method.attack(x)
    first = torch.linspace(-1, 1, 81).double()
    second = torch.linspace(-2, 2, 161).double()
    grid = torch.cartesian_prod(first, second)
    with torch.no_grad():
        clean, attacked = model(x), model(moved)
        own = method.output_distance(clean, attacked) - 0.5 * metric(x, moved)
        best = torch.full((40,), -torch.inf).double()
        for i in range(40):
            low, high = min(-2.0, float(x[i, 0])), max(2.0, float(x[i, 0]))
            point = torch.stack(
                [low + (grid[:, 0] + 1) / 2 * (high - low), x[i, 1] + grid[:, 1]], 1
            )
            here = x[i].expand_as(point)
            value = method.output_distance(model(here), model(point)) - 0.5 * metric(here, point)
            best[i] = value.max()
    assert bool((own <= best + 0.01).all())
    assert float(own.mean()) > 0.95 * float(best.mean())


def test_the_attack_never_does_worse_than_standing_still() -> None:
    method = bound(network(MIXED), free(1), epsilon=10.0, steps=3)
    method.multiplier = 100.0
    x = noise(50, 4)
    moved = method.attack(x)
    with torch.no_grad():
        distance = method.output_distance(method.model(x), method.model(moved))
    assert bool((distance - 100 * method.metric(x, moved) >= -1e-12).all())


def test_the_attack_leaves_modes_statistics_and_parameters_as_they_are() -> None:
    layout = Layout((Classification("job", ("a", "b")),))
    frozen = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    encoder = nn.Sequential(frozen, nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model = network(layout, 4, encoder)
    model.train()
    frozen.eval()
    for p in frozen.parameters():
        p.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    method = bound(model, free(0, 2))
    method.attack(noise(30, 4))
    penalty(method, batch(layout, noise(30, 4))).backward()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not p.requires_grad and p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None for p in model.heads.parameters())


def test_weights_count_as_rows_and_rows_without_labels_take_part() -> None:
    x = noise(30, 4)
    weights = torch.ones(30).double()
    weights[:10] = 3.0
    again = torch.cat([x, x[:10], x[:10]])

    def gradients(data: dict[str, Any]) -> list[Tensor]:
        method = bound(network(MIXED), free(1), steps=0)
        penalty(method, data).backward()
        return [p.grad.clone() for p in method.model.parameters() if p.grad is not None]

    weighted, repeated = gradients(batch(MIXED, x, weights=weights)), gradients(batch(MIXED, again))
    for a, b in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(a, b)
    assert max(float(g.abs().max()) for g in gradients(batch(MIXED, x))) > 1e-3


def test_lambda_zero_is_plain_training() -> None:
    def gradients(strength: float) -> tuple[list[Tensor], SenSeI]:
        method = bound(network(MIXED), free(1), strength=strength)
        data = batch(MIXED, noise(30, 4))
        data["labels"] = torch.ones(30, MIXED.n_labels).double()
        log = method.step(data)
        assert ("penalty" in log) == (strength > 0)
        return [p.grad.clone() for p in method.model.parameters() if p.grad is not None], method

    plain, idle = gradients(0.0)
    fair, _ = gradients(2.0)
    assert idle.state_dict()["seen"] == 0
    assert any(not torch.allclose(a, b) for a, b in zip(plain, fair, strict=True))


# -- what it is for --------------------------------------------------------------------------


def test_decisions_become_consistent_at_little_cost() -> None:
    """Everybody is given the sensitive part of somebody else; who they are else stays."""
    schema, table = people(1.0, 0)
    _, fresh = people(1.0, 1)
    layout = Layout(schema.tasks)
    outputs, changes = {}, {}
    for strength in (0.0, 4.0):
        method = build("sensei", schema, table)
        method.strength = strength
        train(method, table[:1500], 8)
        assert isinstance(method, SenSeI)
        model = method.model.eval()
        directions = method.metric.directions.float()
        x = fresh.features
        other = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
        moved = x + (other - x) @ directions @ directions.T
        with torch.no_grad():
            outputs[strength] = model(x)
            rule = torch.zeros(layout.n_outputs)
            before, after = (layout.split(decide(layout, model(v), rule)) for v in (x, moved))
        changes[strength] = {
            "job": float((before["job"] != after["job"]).any(1).float().mean()),
            "benefits": float((before["benefits"] != after["benefits"]).float().mean()),
            "income": float((before["income"] - after["income"]).abs().mean()),
        }
    for task, change in changes[0.0].items():
        assert changes[4.0][task] < 0.25 * change, (task, changes)
    assert utility_change(outputs[4.0], outputs[0.0], fresh, schema) > -0.1


def test_columns_may_be_named_sensitive() -> None:
    schema, table = people(1.0, 0)
    region = [i for i, name in enumerate(schema.input_names) if name.startswith("region=")]
    assert len(region) > 2
    method = build("sensei", schema, table, sensitive_columns=region)
    assert isinstance(method, SenSeI)
    axes = torch.eye(schema.n_inputs, dtype=torch.float64)[region]
    torch.testing.assert_close(
        method.metric(torch.zeros_like(axes), axes), torch.zeros(len(axes)).double()
    )


def test_numbers_are_used_as_numbers() -> None:
    schema, table = people(1.0, 0)
    values = torch.full(table.attributes.shape, torch.nan)
    values[:, 0] = table.features[:, 3]
    method = build("sensei", schema, replace(table, values=values))
    assert isinstance(method, SenSeI)
    axis = torch.eye(schema.n_inputs, dtype=torch.float64)[3:4]
    assert float(method.metric(torch.zeros_like(axis), axis)) < 0.01


def test_a_run_goes_on_from_a_stored_state(tmp_path: Path) -> None:
    schema, table = people(1.0, 0)
    one = build("sensei", schema, table)
    train(one, table[:640], 1)
    save_state(tmp_path / "state", one.state_dict())
    # The metric comes from the state, even where the rows at hand would give another.
    two = build("sensei", schema, people(1.0, 1)[1])
    two.load_state_dict(load_state(tmp_path / "state"))
    two.model.load_state_dict(one.model.state_dict())
    assert isinstance(one, SenSeI)
    assert isinstance(two, SenSeI)
    assert one.multiplier != 1.0
    for start in (640, 768):
        x = table.features[start : start + 128]
        starts = []
        for seed, method in enumerate((one, two)):
            torch.manual_seed(seed)
            starts.append(method.attack(x))
        assert torch.equal(*starts)
        data = table.batch(slice(start, start + 128))
        assert torch.equal(penalty(one, data), penalty(two, data))


@pytest.mark.filterwarnings("ignore:The features give sensitive attributes away")
def test_the_snippets_of_the_docs_run() -> None:
    page = Path(__file__).parents[2] / "docs" / "methods" / "sensei.md"
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"print": lambda *_: None}
    for snippet in snippets:
        exec(compile(snippet, str(page), "exec"), names)
    # The learner's path, and a step in a loop of one's own.
    assert names["learner"].choice_.point.candidate.strength > 0
    assert names["step"].state_dict()["seen"] == 1


# -- what it refuses -------------------------------------------------------------------------


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="'sensei' needs a fair metric: pass metric="):
        SenSeI().setup(network(MIXED), SEX)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        SenSeI(epsilon=0.0)
    with pytest.raises(ValueError, match="steps must be 0 or more"):
        SenSeI(steps=-1)
    with pytest.raises(ValueError, match=r"divergence must be one of \['js', 'logit'\]"):
        SenSeI(divergence="kl")
    with pytest.raises(ValueError, match="sensitive_columns belong to the metric"):
        SenSeI(metric=free(0), sensitive_columns=[1])
    method = bound(network(MIXED), free(0))
    with pytest.raises(ValueError, match="for 4 inputs, the batch has 5"):
        penalty(method, batch(MIXED, noise(3, 5)))
    with pytest.raises(ValueError, match=r"one matrix of numbers \(B, 4\). Found \(3, 2, 2\)"):
        penalty(method, batch(MIXED, noise(3, 2, 2)))
