"""f-FERM against D_f as it is defined, other libraries' statistics, and brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from sklearn.metrics import mutual_info_score
from torch import Tensor, nn

from fairmt.data import TensorTable
from fairmt.groups import Attribute, Groups
from fairmt.methods import FFERM
from fairmt.methods.base import Batch
from fairmt.methods.divergences import DIVERGENCES, LARGEST_RATIO, Divergence, dual_exponent
from fairmt.methods.f_ferm import KNOWN_NOTIONS, SoftBins
from fairmt.models import LinearHeads, MultiTask
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

NAN = math.nan
SEX = Groups((Attribute("sex", ("m", "w")),))
ORIGIN = Groups((Attribute("origin", ("n", "e", "s", "w")),))
BOTH = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
INCOME = Classification("income", ("low", "high"))
MIXED: tuple[Task, ...] = (
    Classification("job", ("a", "b", "c"), weight=2.0),
    Detection("ill", ("x", "y")),
    Regression("wage"),
)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def rows(layout: Layout, groups: Groups, n: int, seed: int = 0) -> tuple[Tensor, TensorTable]:
    """Outputs, and a table with missing labels and attributes, and weights."""
    g = torch.Generator().manual_seed(seed)
    columns = []
    for family in layout.families:
        for task in family.tasks:
            width = task.label_width
            if task.kind == "classification":
                columns.append(torch.randint(task.n_outputs, (n, 1), generator=g).double())
            elif task.kind == "detection":
                columns.append(torch.randint(2, (n, width), generator=g).double())
            else:
                columns.append(torch.randn(n, width, generator=g))
    labels = torch.cat(columns, 1)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = NAN
    codes = torch.stack(
        [torch.randint(-1, len(a.categories), (n,), generator=g) for a in groups.attributes], 1
    )
    weights = 0.5 + torch.rand(n, generator=g)
    outputs = torch.randn(n, layout.n_outputs, generator=g)
    outputs[:, ::2] += 0.5 * codes.sum(1, keepdim=True)
    return outputs, TensorTable(torch.zeros(n, 1), labels, codes, weights)


def method(tasks: tuple[Task, ...], groups: Groups, data: Any = None, **settings: Any) -> FFERM:
    layout = Layout(tasks)
    found = FFERM(**settings)
    found.setup(MultiTask(nn.Identity(), LinearHeads(1, layout), layout), groups, data)
    return found


def packed(table: TensorTable, index: Any = slice(None)) -> Batch:
    part = table[index]
    return Batch(part.features, part.labels, part.attributes, part.weights)


def certain(decisions: list[int]) -> Tensor:
    """Outputs of the binary classification that leave no doubt."""
    p = torch.tensor(decisions).double()
    return torch.stack([-400 * p, 400 * (p - 1)], 1)


def plain_rows(labels: list[float], codes: list[int]) -> TensorTable:
    return TensorTable(
        torch.zeros(len(labels), 1), torch.tensor(labels)[:, None], torch.tensor(codes)[:, None]
    )


def exact(d: Divergence, p: Tensor, q: Tensor) -> Tensor:
    return (q * d.f(p / q)).sum()


def best(d: Divergence, p: Tensor, q: Tensor) -> Tensor:
    return d.slope(p / q).detach()


# -- the divergences ---------------------------------------------------------------------------


@pytest.mark.parametrize("d", DIVERGENCES.values(), ids=lambda d: d.name)
def test_the_largest_bound_is_the_divergence(d: Divergence) -> None:
    g = torch.Generator().manual_seed(1)
    p = torch.rand(3, 4, generator=g) + 0.1
    p = p / p.sum()
    q = torch.outer(p.sum(1), p.sum(0))
    value = exact(d, p, q)
    assert value > 0.01
    torch.testing.assert_close(d.bound(best(d, p, q), p, q).sum(), value)
    for _ in range(200):
        other = d.low + (d.high - d.low) * torch.rand(3, 4, generator=g)
        assert d.bound(other, p, q).sum() <= value
        assert torch.equal(d.project(other), other)
    climbed = torch.full((3, 4), d.neutral)
    for _ in range(1000):
        climbed = d.project(climbed + d.ascent(climbed, p, q))
    torch.testing.assert_close(d.bound(climbed, p, q).sum(), value)


@pytest.mark.parametrize("d", DIVERGENCES.values(), ids=lambda d: d.name)
def test_conjugates_are_suprema_and_their_slopes_derivatives(d: Divergence) -> None:
    t = torch.linspace(1e-4, 60, 200_001)
    a = torch.linspace(d.low, d.high, 7)
    supremum = (a[:, None] * t - d.f(t)).amax(1)
    torch.testing.assert_close(d.conjugate(a), supremum, rtol=1e-4, atol=1e-4)
    inside = a[1:-1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(d.conjugate(inside).sum(), inside)
    torch.testing.assert_close(slope, d.conjugate_slope(a[1:-1]))
    assert float(d.f(torch.ones(()))) == pytest.approx(0.0)
    assert float(d.conjugate(torch.tensor(d.neutral))) == pytest.approx(d.neutral)


def test_tables_stay_where_the_conjugate_is_finite() -> None:
    for d in DIVERGENCES.values():
        far = d.project(torch.tensor([-1e6, 1e6]))
        assert far.tolist() == [d.low, d.high]
        assert d.conjugate(far).isfinite().all()
        assert d.low < d.neutral < d.high


# -- value and gradient ------------------------------------------------------------------------


@pytest.mark.parametrize("notion", KNOWN_NOTIONS)
@pytest.mark.parametrize("name", ["kl", "reverse_kl", "chi2", "jensen_shannon"])
@pytest.mark.filterwarnings("ignore:Notion")
def test_at_the_best_table_value_and_gradient_are_those_of_the_divergence(
    name: str, notion: str
) -> None:
    layout = Layout(MIXED)
    outputs, table = rows(layout, BOTH, 400)
    outputs.requires_grad_()
    f = method(MIXED, BOTH, table, divergence=name, notion=notion)
    batch = packed(table)
    p, q, *_ = f.tables(outputs, batch)
    f.table = best(f.divergence, p, q)
    value = f.penalty(outputs, outputs, batch)
    assert value is not None
    (gradient,) = torch.autograd.grad(value, outputs)
    total = direct(layout, BOTH, outputs, batch, f, notion)
    torch.testing.assert_close(value, total)
    (expected,) = torch.autograd.grad(total, outputs)
    torch.testing.assert_close(gradient, expected)


def direct(
    layout: Layout, groups: Groups, outputs: Tensor, batch: Batch, f: FFERM, notion: str
) -> Tensor:
    """Σ D_f, table by table and row by row, as it is written down."""
    total = torch.zeros(())
    assert batch.weights is not None
    for task in layout.tasks:
        o, y = outputs[:, layout.outputs[task.name]], batch.labels[:, layout.labels[task.name]]
        cases = []  # events, rows that count, weight
        everybody = torch.ones(len(o), dtype=torch.bool)
        if task.kind == "classification":
            p = o.softmax(1)
            if notion == "demographic_parity":
                cases.append((p, everybody, 1.0))
            for c in range(task.n_outputs):
                if notion == "equalized_odds":
                    cases.append((p, y[:, 0] == c, 1.0))
                if notion == "equal_opportunity":
                    cases.append((torch.stack([p[:, c], 1 - p[:, c]], 1), y[:, 0] == c, 1.0))
        elif task.kind == "detection":
            for k in range(task.n_outputs):
                p = torch.stack([o[:, k].sigmoid(), 1 - o[:, k].sigmoid()], 1)
                share = 1 / task.n_outputs
                if notion == "demographic_parity":
                    cases.append((p, everybody, share))
                else:
                    cases.append((p, y[:, k] == 1, share))
                if notion == "equalized_odds":
                    cases.append((p, y[:, k] == 0, share))
        elif notion == "demographic_parity":
            cases.append((f._bins(outputs), everybody, 1.0))
        for p, counts, share in cases:
            for position, attribute in enumerate(groups.attributes):
                code = batch.attributes[:, position]
                inside = counts & (code >= 0)
                w = batch.weights[inside] / batch.weights[inside].sum()
                joint = torch.stack(
                    [
                        (w * (code[inside] == k)) @ p[inside]
                        for k in range(len(attribute.categories))
                    ],
                    1,
                )
                product = torch.outer(joint.sum(1), joint.detach().sum(0))
                total = total + task.weight * share * exact(f.divergence, joint, product)
    return total


def test_chi2_and_kl_are_the_statistics_of_the_contingency_table() -> None:
    r = np.random.default_rng(0)
    codes = r.choice(4, 300, p=(0.5, 0.3, 0.15, 0.05))
    decisions = (r.random(300) < 0.2 + 0.15 * codes).astype(int)
    table = plain_rows([0.0] * 300, codes.tolist())
    counts = np.zeros((2, 4))
    np.add.at(counts, (decisions, codes), 1)
    statistic = chi2_contingency(counts, correction=False).statistic / 300
    for name, expected in (("chi2", statistic), ("kl", mutual_info_score(decisions, codes))):
        f = method((INCOME,), ORIGIN, table, divergence=name)
        outputs = certain(decisions.tolist())
        f.table = best(f.divergence, *f.tables(outputs, packed(table))[:2])
        value = f.penalty(outputs, outputs, packed(table))
        assert float(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("notion", KNOWN_NOTIONS)
@pytest.mark.filterwarnings("ignore:Notion")
def test_the_gradient_is_unbiased_in_batches_of_one_or_two(notion: str, size: int) -> None:
    layout = Layout(MIXED)
    outputs, table = rows(layout, BOTH, 12, seed=3)
    outputs.requires_grad_()
    f = method(MIXED, BOTH, table, notion=notion)
    weighing = f.divergence.neutral + torch.randn(f.table.shape)

    def gradient(index: list[int]) -> Tensor:
        f.table = weighing.clone()
        value = f.penalty(outputs, outputs[index], packed(table, index))
        assert value is not None
        return torch.autograd.grad(value, outputs)[0]

    whole = gradient(list(range(12)))
    assert whole.abs().max() > 0.01
    parts = [gradient(list(index)) for index in combinations(range(12), size)]
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)


def test_total_dependence_is_seen_at_any_batch_size() -> None:
    """An outer product of predictions and groups would leave 1/B of it."""
    for n in (2, 8, 64):
        codes = [0, 1] * (n // 2)
        table = plain_rows([0.0] * n, codes)
        f = method((INCOME,), SEX, table)
        p, q, *_ = f.tables(certain(codes), packed(table))
        torch.testing.assert_close(p, torch.eye(2) / 2)
        torch.testing.assert_close(q, torch.full((2, 2), 0.25))
        f.table = f.divergence.project(best(f.divergence, p, q))
        value = f.penalty(p, certain(codes), packed(table))
        # Empty cells may count as a twentieth of their product.
        assert float(value) == pytest.approx(math.log(2) - 0.5 / LARGEST_RATIO)


def test_every_group_has_its_own_share() -> None:
    codes = [0] * 5 + [1] * 3 + [2] * 2 + [-1] * 4
    table = plain_rows([0.0] * 14, codes)
    f = method((INCOME,), ORIGIN, table)
    outputs = torch.randn(1, 2).expand(14, 2)
    p, q, *_ = f.tables(outputs, packed(table))
    expected = torch.outer(outputs[0].softmax(0), torch.tensor([0.5, 0.3, 0.2, 0.0]))
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(p, expected)


def test_perfect_for_one_group_and_wrong_for_the_other() -> None:
    labels, codes = [1.0, 1, 0, 0] * 2, [0] * 4 + [1] * 4
    outputs = certain([1, 1, 0, 0, 0, 0, 1, 1])
    table = plain_rows(labels, codes)
    for notion, expected in {
        # Rates agree; recalls are 1 and 0, so that P is diagonal in both classes: Σ (P − Q)² / Q.
        "demographic_parity": 0.0,
        "equal_opportunity": 1.0,
        "equalized_odds": 2.0,
    }.items():
        task = Classification("income", ("low", "high"), favourable="high")
        f = method((task,), SEX, table, divergence="chi2", notion=notion)
        p, q, *_ = f.tables(outputs, packed(table))
        f.table = f.divergence.slope(p / q)
        assert float(f.penalty(p, outputs, packed(table))) == pytest.approx(expected)


# -- the table A -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 512])
@pytest.mark.parametrize("name", ["kl", "squared_hellinger"])
def test_the_table_finds_the_maximum_from_batches(name: str, size: int) -> None:
    outputs, table = rows(Layout((INCOME,)), SEX, 2000)
    f = method((INCOME,), SEX, table, divergence=name)
    value = exact(f.divergence, *f.tables(outputs, packed(table))[:2])
    g = torch.Generator().manual_seed(0)
    recent = []
    for i in range(16_000 // size):
        index = torch.randint(2000, (size,), generator=g)
        f.penalty(outputs, outputs[index], packed(table, index))
        if i > 8_000 // size:
            recent.append(f.table)
    found = f.divergence.bound(torch.stack(recent).mean(0), *f.tables(outputs, packed(table))[:2])
    assert float(found.sum()) == pytest.approx(float(value), rel=0.1)
    assert float(value) > 0.0015


def test_the_table_that_weighs_a_batch_has_not_seen_it() -> None:
    outputs, table = rows(Layout((INCOME,)), SEX, 50)
    f = method((INCOME,), SEX, table)
    first = f.penalty(outputs, outputs, packed(table))
    assert float(first) == pytest.approx(0.0, abs=1e-12)
    assert float(f.penalty(outputs, outputs, packed(table))) > 1e-4


def test_without_strength_the_table_rests() -> None:
    _, table = rows(Layout((INCOME,)), SEX, 50)
    f = method((INCOME,), SEX, table, strength=0.0)
    f.step(table.batch(slice(0, 50)) | {"features": torch.ones(50, 1)})
    assert (f.table == f.divergence.neutral).all()


def test_shares_may_be_counted_as_the_rows_come() -> None:
    outputs, table = rows(Layout(MIXED), BOTH, 90)
    known = method(MIXED, BOTH, table)
    running = method(MIXED, BOTH)
    for start in range(0, 90, 30):
        index = slice(start, start + 30)
        running.penalty(outputs, outputs[index], packed(table, index))
    torch.testing.assert_close(running.counts, known.counts)
    torch.testing.assert_close(running.totals, known.totals)
    assert table.weights is not None
    torch.testing.assert_close(known.totals, torch.stack([torch.tensor(90.0), table.weights.sum()]))


def test_the_scale_of_the_weights_changes_nothing() -> None:
    outputs, table = rows(Layout(MIXED), BOTH, 90)
    assert table.weights is not None
    found = []
    for scale in (1.0, 100.0):
        scaled = replace(table, weights=scale * table.weights)
        f = method(MIXED, BOTH, scaled)
        for _ in range(5):
            value = f.penalty(outputs, outputs, packed(scaled))
        found.append((value, f.table))
    torch.testing.assert_close(found[0], found[1])


def test_rows_without_the_attribute_or_the_label_are_in_no_table() -> None:
    outputs, table = rows(Layout((INCOME,)), SEX, 60)
    f = method((INCOME,), SEX, table, notion="equalized_odds")
    outputs.requires_grad_()
    f.table = f.table + torch.randn(f.table.shape)
    value = f.penalty(outputs, outputs, packed(table))
    assert value is not None
    (gradient,) = torch.autograd.grad(value, outputs)
    absent = (table.attributes[:, 0] < 0) | table.labels[:, 0].isnan()
    assert 0 < int(absent.sum()) < 60
    assert (gradient[absent] == 0).all()
    assert (gradient[~absent] != 0).all()


# -- shifts ------------------------------------------------------------------------------------


def worst_in_balls(d: Divergence, p: Tensor, q: Tensor, delta: float, norm: float) -> float:
    """Brute force: D_f is convex, so full Frank-Wolfe steps to the balls' border climb."""

    def value(p: Tensor, q: Tensor) -> Tensor:
        return exact(d, p, q) - d.neutral * (p - q).sum()

    def furthest(g: Tensor) -> Tensor:
        if math.isinf(norm):
            return delta * g.sign()
        return delta * g / torch.linalg.vector_norm(g)

    u, v = torch.zeros_like(p), torch.zeros_like(q)
    for _ in range(300):
        a, b = (p + u).requires_grad_(), (q + v).requires_grad_()
        u, v = (furthest(g) for g in torch.autograd.grad(value(a, b), (a, b)))
    return float(value(p + u, q + v))


def surrogate(
    d: Divergence, table: Tensor, p: Tensor, q: Tensor, delta: float, norm: float
) -> float:
    excess = [table - d.neutral, d.conjugate(table) - d.neutral]
    norms = [torch.linalg.vector_norm(e.flatten(), dual_exponent(norm)) for e in excess]
    return float(d.bound(table, p, q).sum() + delta * sum(norms))


@pytest.mark.parametrize(("name", "norm"), [("kl", 2.0), ("chi2", math.inf)])
def test_small_shifts_give_the_worst_case_in_the_balls(name: str, norm: float) -> None:
    groups = Groups((Attribute("a", ("u", "v", "w")),))
    outputs, table = rows(Layout((INCOME,)), groups, 60, seed=2)
    for delta in (0.001, 0.01):
        f = method(
            (INCOME,),
            groups,
            table,
            divergence=name,
            robust="small",
            shift=delta,
            norm=norm,
            memory=1,
        )
        d = f.divergence
        p, q, *_ = f.tables(outputs, packed(table))
        for _ in range(200):
            f.penalty(outputs, outputs, packed(table))
        worst = worst_in_balls(d, p, q, delta, norm)
        assert surrogate(d, f.table, p, q, delta, norm) == pytest.approx(worst, rel=1e-3)
        # The first-order surrogate at the best A of the unshifted tables, to second order in δ.
        assert surrogate(d, best(d, p, q), p, q, delta, norm) == pytest.approx(
            worst, abs=200 * delta**2
        )
        assert worst > 1.01 * float(exact(d, p, q))


def test_large_shifts_move_every_cell() -> None:
    outputs, table = rows(Layout((INCOME,)), SEX, 200)
    f = method((INCOME,), SEX, table, robust="large", shift=0.05)
    p, q, *_ = f.tables(outputs, packed(table))
    moved_p, moved_q = (p + 0.05).clamp(max=1), (q - 0.05).clamp(min=0)
    for _ in range(200):
        value = f.penalty(outputs, outputs, packed(table))
    torch.testing.assert_close(f.table, best(f.divergence, moved_p, moved_q))
    torch.testing.assert_close(value, exact(f.divergence, moved_p, moved_q))
    assert float(value) > 1.1 * float(exact(f.divergence, p, q))


def test_a_cell_smaller_than_the_shift_leaves_the_product() -> None:
    codes = [0] * 190 + [1] * 10
    outputs = torch.randn(200, 2)
    table = plain_rows([0.0] * 200, codes)
    f = method((INCOME,), SEX, table, robust="large", shift=0.04)
    for _ in range(300):
        f.penalty(outputs, outputs, packed(table))
    outputs.requires_grad_()
    p, q, *_ = f.tables(outputs, packed(table))
    assert bool((q[:, 1] < 0.04).all())
    assert (f.table[:, 1] == f.divergence.high).all()
    value = f.penalty(outputs, outputs, packed(table))
    # Only A P is left of the small group, and all of its A are alike: nothing to move it.
    kept = f.table[:, 0] * (p[:, 0] + 0.04) - f.divergence.conjugate(f.table[:, 0]) * (
        q[:, 0] - 0.04
    )
    expected = torch.autograd.grad(kept.sum(), outputs, retain_graph=True)[0]
    assert value is not None
    torch.testing.assert_close(
        torch.autograd.grad(value, outputs)[0][:190], expected[:190], rtol=1e-3, atol=1e-6
    )


def test_dual_exponents() -> None:
    assert dual_exponent(1) == math.inf
    assert dual_exponent(math.inf) == 1
    assert dual_exponent(2) == 2
    assert dual_exponent(3) == pytest.approx(1.5)


# -- regression --------------------------------------------------------------------------------


def test_soft_bins_hold_about_equally_many_people() -> None:
    task = Regression("wage", centre=(30.0,), scale=(10.0,))
    layout = Layout((task,))
    y = 30 + 10 * torch.randn(5000, 1).exp()
    bins = SoftBins(layout, 8, y)
    levels = (np.arange(8) + 0.5) / 8
    torch.testing.assert_close(
        bins.centres[0].double(),
        torch.tensor(np.quantile(((y - 30) / 10).numpy(), levels)),
        rtol=1e-5,
        atol=1e-5,
    )
    shares = bins((y - 30) / 10)
    torch.testing.assert_close(shares.sum(1), torch.ones(5000))
    assert shares.mean(0).min() > 0.5 / 8
    assert shares.argmax(1)[y[:, 0] < np.quantile(y, 0.1)].max() == 0


def test_bins_of_a_target_that_is_mostly_one_value_are_those_of_a_normal_one() -> None:
    layout = Layout((Regression("wage"),))
    one_value = torch.tensor([[0.0]] * 99 + [[NAN]])
    assert torch.equal(SoftBins(layout, 4, one_value).centres, SoftBins(layout, 4, None).centres)


def test_a_shift_of_a_groups_predictions_is_seen_and_pulled_back() -> None:
    outputs = torch.randn(400, 1)
    codes = [0, 1] * 200
    outputs = (outputs + torch.tensor(codes)[:, None]).requires_grad_()
    table = TensorTable(torch.zeros(400, 1), torch.randn(400, 1), torch.tensor(codes)[:, None])
    f = method((Regression("wage"),), SEX, table)
    for _ in range(200):
        value = f.penalty(outputs, outputs, packed(table))
    (gradient,) = torch.autograd.grad(value, outputs)
    means = [float(gradient[table.attributes[:, 0] == k].mean()) for k in (0, 1)]
    assert value is not None
    assert value.item() > 0.05
    assert means[0] < 0 < means[1]


# -- what is refused ---------------------------------------------------------------------------


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, words in (
        ({"divergence": "js"}, "Unknown divergence 'js'; expected one of"),
        ({"notion": "calibration"}, "notion must be one of"),
        ({"robust": "medium"}, "robust must be one of"),
        ({"memory": 0.0}, "memory must be positive"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"shift": -0.1}, "shift must not be negative"),
        ({"norm": 0.5}, "p must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            FFERM(**settings)


def test_regression_has_no_true_classes_to_condition_on() -> None:
    with pytest.raises(ValueError, match=r"not defined for the tasks \['wage'\]"):
        method((Regression("wage"),), SEX, notion="equalized_odds")
    with pytest.warns(UserWarning, match=r"tasks \['wage'\].*demographic_parity"):
        method(MIXED, BOTH, notion="equalized_odds")
