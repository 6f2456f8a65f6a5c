"""Violations and their smooth worst case: by hand, by formula, and by differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fairmt.constraint import Aggregate, Constraint
from fairmt.groups import Attribute, Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.moments import Moments
from fairmt.notions import NotionSpec, resolve_notions
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

from .hand_cases import CELLS

THREE = Groups((Attribute("race", ("p", "q", "r")),))
TWO_BY_THREE = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
EPSILON = 0.0625  # exact in binary


def ledger_of(notion: NotionSpec, *tasks: Task) -> Ledger:
    return Ledger(Layout(tasks), resolve_notions(tasks, notion))


RECALL = ledger_of("equal_opportunity", Detection("ill", ("x",)))
TWO_RECALLS = ledger_of("equal_opportunity", Detection("ill", ("x", "y")))


def moments_with(
    ledger: Ledger, rates: Tensor, rows: Tensor | float = 100.0, pooled: Tensor | None = None
) -> Moments:
    """Moments of a ledger of plain ratios, with these rates (G, J) and rows (G, J) of evidence."""
    n = torch.as_tensor(rows, dtype=rates.dtype).expand_as(rates)
    everybody = (rates * n).sum(0) / n.sum(0) if pooled is None else pooled
    q, n = torch.cat([everybody[None], rates]), torch.cat([n.sum(0)[None], n])
    return Moments(torch.cat([q * n, n], 1), n, n)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def violations(
    ledger: Ledger, groups: Groups, moments: Moments, epsilon: float = EPSILON
) -> list[Any]:
    """By statistic, ready to be compared with numbers worked out by hand."""
    v, _ = Constraint(ledger, groups, tolerance=epsilon).violations(moments)
    return [pytest.approx(x, abs=1e-12) for x in v.T.tolist()]


# -- violations by hand ------------------------------------------------------------------------


def test_with_a_direction_violations_count_from_the_best_served_group() -> None:
    moments = moments_with(RECALL, column(0.5, 0.875, 0.84375))
    # .875 - .5 - .0625; the best; .03125 is within the tolerance.
    assert violations(RECALL, THREE, moments) == [[0.3125, 0.0, 0.0]]


def test_where_less_is_better_the_best_served_group_has_the_least() -> None:
    ledger = ledger_of("error_parity", Regression("pay"))
    moments = moments_with(ledger, column(0.5, 1.5, 0.25))
    assert violations(ledger, THREE, moments) == [[0.1875, 1.1875, 0.0]]


def test_without_a_side_violations_are_distances_from_everybody() -> None:
    ledger = ledger_of("demographic_parity", Detection("ill", ("x",)))
    moments = moments_with(ledger, column(0.25, 0.75, 0.5), pooled=torch.tensor([0.5]).double())
    assert violations(ledger, THREE, moments) == [[0.1875, 0.1875, 0.0]]


def test_residuals_are_measured_from_zero() -> None:
    ledger = ledger_of("bias_parity", Regression("pay"))
    moments = moments_with(ledger, column(0.25, -0.75, 0.03125))
    assert violations(ledger, THREE, moments) == [[0.1875, 0.6875, 0.0]]


def test_every_attribute_has_its_own_best_group() -> None:
    moments = moments_with(RECALL, column(0.5, 0.75, 0.875, 0.375, 0.9375))
    assert violations(RECALL, TWO_BY_THREE, moments, 0.0) == [[0.25, 0.0, 0.0625, 0.5625, 0.0]]


def test_a_favourable_class_makes_parity_one_sided() -> None:
    task = Classification("loan", ("no", "yes"), favourable="yes")
    ledger = ledger_of("demographic_parity", task)
    moments = moments_with(ledger, column(0.25, 0.75, 0.5))
    assert violations(ledger, THREE, moments) == [[0.4375, 0.0, 0.1875]]


def test_sides_are_kept_apart_where_both_kinds_are_judged() -> None:
    ledger = ledger_of(
        ["bias_parity", "equal_opportunity"], Detection("ill", ("x",)), Regression("pay")
    )
    names = [s.name for s in ledger.statistics]
    assert names == ["calibration in the large", "recall", "mean residual"]
    # Each statistic has two columns of its own, numerator before denominator.
    q = torch.tensor([[0.25, 0.5, -0.5], [-0.125, 0.75, 0.0], [0.0, 0.875, 0.25]]).double()
    rows = torch.cat([q.mean(0)[None], q])
    sums = torch.stack([100 * rows, torch.full_like(rows, 100)], 2)
    order = torch.argsort(ledger.statistic_of_column, stable=True)
    by_column = torch.empty(4, 6, dtype=torch.float64)
    by_column[:, order] = sums.flatten(1)
    mass = torch.full((4, 3), 100.0, dtype=torch.float64)
    assert violations(ledger, THREE, Moments(by_column, mass, mass), 0.0) == [
        [0.25, 0.125, 0.0],
        [0.375, 0.125, 0.0],
        [0.5, 0.0, 0.25],
    ]


def test_a_tolerance_may_be_given_per_task() -> None:
    ledger = ledger_of("equal_opportunity", Detection("ill", ("x",)), Detection("old", ("y",)))
    rates = column(0.5, 0.875, 0.875).expand(3, 2)
    constraint = Constraint(ledger, THREE, tolerance={"ill": 0.125, "old": 0.25})
    v, _ = constraint.violations(moments_with(ledger, rates))
    assert v[0].tolist() == [0.25, 0.125]


# -- what is not known -------------------------------------------------------------------------


def test_a_group_with_little_evidence_is_unknown_and_not_zero() -> None:
    moments = moments_with(RECALL, column(0.5, 1.0, 0.0), rows=column(10, 9.9, 9.9))
    for rates, rows, expected in (
        # The group at 1 is not known, so it is nobody's reference, and the one at 0 no worst case.
        (column(0.5, 1.0, 0.75, 0.0), column(10, 9.9, 10, 9.9), [0.25, 0.0, 0.0, 0.0]),
        (column(0.5, 1.0, 0.75, 0.0), column(10, 10, 10, 10), [0.5, 0.0, 0.25, 1.0]),
    ):
        four = Groups((Attribute("race", ("p", "q", "r", "s")),))
        constraint = Constraint(RECALL, four, tolerance=0.0, min_evidence=10)
        moments = moments_with(RECALL, rates, rows)
        v, known = constraint.violations(moments)
        assert v[:, 0].tolist() == expected
        assert known[:, 0].tolist() == (rows[:, 0] >= 10).tolist()
        shares = constraint.aggregate(moments).shares
        assert float(shares[~known].sum()) == 0


def test_one_known_group_alone_cannot_be_compared_but_has_a_distance_from_everybody() -> None:
    rows = column(50, 3, 3)
    constraint = Constraint(RECALL, THREE, tolerance=0.0)
    moments = moments_with(RECALL, column(0.5, 0.9, 0.1), rows)
    aggregate = constraint.aggregate(moments)
    assert not bool(aggregate.known.any())
    assert float(aggregate.value) == 0
    assert float(aggregate.shares.sum()) == 0
    assert constraint.worst_slack(moments) == -math.inf
    parity = ledger_of("demographic_parity", Detection("ill", ("x",)))
    moments = moments_with(parity, column(0.5, 0.9, 0.1), rows, torch.tensor([0.75]).double())
    aggregate = Constraint(parity, THREE, tolerance=0.0).aggregate(moments)
    assert aggregate.known[:, 0].tolist() == [True, False, False]
    assert float(aggregate.value) == pytest.approx(0.25)


def test_nothing_known_has_a_gradient_of_zero() -> None:
    rates = column(0.5, 0.9, 0.1).requires_grad_()
    Constraint(RECALL, THREE).aggregate(moments_with(RECALL, rates, 3.0)).value.backward()
    assert rates.grad is not None
    assert rates.grad.tolist() == [[0.0]] * 3


def test_an_attribute_without_evidence_leaves_the_gradient_of_the_others_finite() -> None:
    rates = torch.rand(5, 1, dtype=torch.float64).requires_grad_()
    rows = column(50, 50, 0, 0, 0)
    aggregate = Constraint(RECALL, TWO_BY_THREE).aggregate(moments_with(RECALL, rates, rows))
    aggregate.value.backward()
    assert rates.grad is not None
    assert bool(rates.grad.isfinite().all())
    assert float(rates.grad[:2].abs().sum()) > 0


# -- the smooth worst case ---------------------------------------------------------------------

MIXED = ledger_of(
    {"ill": "equal_opportunity", "job": "equal_opportunity"},
    Detection("ill", ("x", "y"), weight=3.0),
    Classification("job", ("a", "b", "c")),
)


def random_moments(seed: int = 0) -> Moments:
    g = torch.Generator().manual_seed(seed)
    rates = torch.rand(5, 5, generator=g, dtype=torch.float64)
    rows = torch.randint(10, 100, (5, 5), generator=g).double()
    # Two of three races are left for two statistics, and one of two sexes, which is none, for one.
    rows[3, 2] = rows[4, 4] = rows[0, 1] = 3.0
    order = torch.argsort(MIXED.statistic_of_column, stable=True)
    q = torch.cat([rates.mean(0)[None], rates])
    n = torch.cat([rows.sum(0)[None], rows])
    sums = torch.empty(6, 10, dtype=torch.float64)
    sums[:, order] = torch.stack([q * n, n], 2).flatten(1)
    return Moments(sums, n, n)


def weights_by_formula() -> Tensor:
    """Task weight over attributes and groups, before normalisation."""
    omega = torch.empty(5, 5, dtype=torch.float64)
    for j, statistic in enumerate(MIXED.statistics):
        per_task = {"ill": 3.0, "job": 1.0}[statistic.task]
        omega[:2, j], omega[2:, j] = per_task / 2 / 2, per_task / 2 / 3
    return omega


@pytest.mark.parametrize("kappa", [0.5, 4.0, 25.0])
def test_value_and_shares_follow_the_formula(kappa: float) -> None:
    moments = random_moments()
    constraint = Constraint(MIXED, TWO_BY_THREE, sharpness=kappa, tolerance=EPSILON)
    aggregate = constraint.aggregate(moments)
    v, known = constraint.violations(moments)
    assert int((~known).sum()) == 4
    omega = torch.where(known, weights_by_formula(), 0.0)
    omega = omega / omega.sum()
    mean = (omega * (kappa * v).exp()).sum()
    assert float(aggregate.value) == pytest.approx(float(mean.log() / kappa), rel=1e-6)
    torch.testing.assert_close(
        aggregate.shares, omega * (kappa * v).exp() / mean, rtol=1e-5, atol=1e-12
    )
    assert float(aggregate.value) <= float(v.max())
    bound = aggregate.value + (1 / omega).log() / kappa
    assert bool((v[known] <= bound[known] + 1e-6).all())


@pytest.mark.parametrize("kappa", [0.0, 4.0])
def test_an_entry_short_of_evidence_weighs_by_the_square_of_what_it_has(kappa: float) -> None:
    # The same violation everywhere; rows of a quarter, a half and one and a half of what is full.
    rates = column(0.9, 0.5, 0.5, 0.5).repeat(1, 2)
    rows = torch.tensor([300.0, 50.0, 100.0, 300.0], dtype=torch.float64)[:, None].expand(4, 2)
    groups = Groups((Attribute("race", ("p", "q", "r", "s")),))
    moments = moments_with(TWO_RECALLS, rates, rows)
    constraint = Constraint(TWO_RECALLS, groups, sharpness=kappa, full_evidence=200.0)
    shares = constraint.aggregate(moments).shares
    ratio = (shares / shares[3]).tolist()
    assert ratio[1] == pytest.approx([1 / 16] * 2)
    assert ratio[2] == pytest.approx([1 / 4] * 2)
    assert float(shares.sum()) == pytest.approx(1.0)
    alike = Constraint(TWO_RECALLS, groups, sharpness=kappa).aggregate(moments).shares
    assert alike[1].tolist() == pytest.approx(alike[3].tolist())


def test_evidence_that_is_short_alike_changes_nothing() -> None:
    moments = moments_with(RECALL, column(0.9, 0.5, 0.7), 40.0)
    short = Constraint(RECALL, THREE, full_evidence=200.0).aggregate(moments)
    alike = Constraint(RECALL, THREE).aggregate(moments)
    assert float(short.value) == pytest.approx(float(alike.value))
    assert short.shares.tolist() == [pytest.approx(x) for x in alike.shares.tolist()]


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 4.0, 1e3, math.inf])
def test_shares_sum_to_one_over_what_is_known(kappa: float) -> None:
    for moments in (random_moments(), random_moments(1)):
        for tolerance in (EPSILON, 2.0):
            aggregate = Constraint(
                MIXED, TWO_BY_THREE, sharpness=kappa, tolerance=tolerance
            ).aggregate(moments)
            assert float(aggregate.shares.sum()) == pytest.approx(1.0, abs=1e-6)
            assert float(aggregate.shares[~aggregate.known].sum()) == 0
            assert float(aggregate.shares.min()) >= 0


def test_little_sharpness_is_the_mean_and_much_is_the_maximum() -> None:
    moments = random_moments()

    def value(kappa: float) -> float:
        constraint = Constraint(MIXED, TWO_BY_THREE, sharpness=kappa, tolerance=EPSILON)
        return float(constraint.aggregate(moments).value)

    v, known = Constraint(MIXED, TWO_BY_THREE, tolerance=EPSILON).violations(moments)
    omega = torch.where(known, weights_by_formula(), 0.0)
    mean = float((omega * v).sum() / omega.sum())
    assert value(0.0) == pytest.approx(mean, rel=1e-6)
    assert value(1e-4) == pytest.approx(mean, rel=1e-3)
    assert value(math.inf) == float(v.max())
    assert value(1e4) == pytest.approx(float(v.max()), rel=1e-2)
    rising = [value(kappa) for kappa in (0.0, 0.5, 2.0, 8.0, 64.0, math.inf)]
    assert rising == sorted(rising)
    assert rising[0] < 0.6 * rising[-1]


def test_within_the_tolerance_the_value_is_zero_and_nothing_is_pulled() -> None:
    for kappa in (0.0, 4.0, math.inf):
        rates = column(0.5, 0.53125, 0.55).requires_grad_()
        constraint = Constraint(RECALL, THREE, tolerance=EPSILON, sharpness=kappa)
        aggregate = constraint.aggregate(moments_with(RECALL, rates))
        assert aggregate.value.item() == pytest.approx(0.0, abs=1e-7)
        aggregate.value.backward()
        assert rates.grad is not None
        assert float(rates.grad.abs().max()) == 0


# -- direction ---------------------------------------------------------------------------------


def pull(alpha: float, kappa: float = 4.0) -> list[float]:
    rates = column(0.9, 0.5, 0.7).requires_grad_()
    constraint = Constraint(RECALL, THREE, tolerance=EPSILON, directionality=alpha, sharpness=kappa)
    constraint.aggregate(
        moments_with(RECALL, rates, pooled=torch.tensor([0.7]).double())
    ).value.backward()
    assert rates.grad is not None
    return rates.grad[:, 0].tolist()


def test_direction_one_never_touches_the_best_served_group() -> None:
    best, worst, middle = pull(1.0)
    assert best == 0
    assert worst < middle < 0


def test_direction_zero_pulls_the_best_group_down_as_hard_as_it_lifts_the_others() -> None:
    best, worst, middle = pull(0.0)
    assert best == pytest.approx(-(worst + middle))
    assert [worst, middle] == pytest.approx(pull(1.0)[1:])


def test_direction_scales_the_pull_on_the_best_group_alone() -> None:
    assert pull(0.75)[0] == pytest.approx(0.25 * pull(0.0)[0])
    assert pull(0.75)[1:] == pytest.approx(pull(0.0)[1:])


def test_violations_carry_the_direction_too() -> None:
    for alpha in (0.0, 0.75, 1.0):
        rates = column(0.9, 0.5, 0.7).requires_grad_()
        constraint = Constraint(RECALL, THREE, tolerance=EPSILON, directionality=alpha)
        v, _ = constraint.violations(moments_with(RECALL, rates))
        v.sum().backward()
        assert rates.grad is not None
        assert rates.grad[:, 0].tolist() == pytest.approx([2 * (1 - alpha), -1.0, -1.0])


def test_groups_that_are_best_together_share_the_pull_and_unknown_ones_feel_nothing() -> None:
    four = Groups((Attribute("race", ("p", "q", "r", "s")),))
    rates = column(0.875, 0.875, 0.875, 0.5).requires_grad_()
    constraint = Constraint(RECALL, four, tolerance=EPSILON, directionality=0.0)
    moments = moments_with(RECALL, rates, column(50, 50, 5, 50), torch.tensor([0.7]).double())
    constraint.aggregate(moments).value.backward()
    assert rates.grad is not None
    first, second, unknown, worst = rates.grad[:, 0].tolist()
    assert worst < 0
    assert first == second == pytest.approx(-worst / 2)
    assert unknown == 0


def test_the_pull_on_a_group_is_its_share() -> None:
    constraint = Constraint(RECALL, THREE, tolerance=EPSILON)
    shares = constraint.aggregate(moments_with(RECALL, column(0.9, 0.5, 0.7))).shares[:, 0]
    assert pull(1.0)[1:] == pytest.approx([-x for x in shares[1:].tolist()])


ONE_OF_EACH: dict[str, Task] = {
    "classification": Classification("job", ("a", "b", "c")),
    "detection": Detection("finding", ("x", "y")),
    "regression": Regression("score", ("u", "v"), centre=(1.0, 2.0), scale=(2.0, 3.0)),
}


class Differences:
    """The constraint on a small batch, once with its own gradient and once with frozen references.

    ``frozen`` is the same scalar written out again, entry by entry; r₀ and the centres c are those
    at the point where the gradient is taken.
    """

    def __init__(self, kind: str, notion: str, alpha: float, kappa: float) -> None:
        self.task = ONE_OF_EACH[kind]
        self.ledger = ledger_of({kind: notion}, self.task)
        self.constraint = Constraint(
            self.ledger,
            TWO_BY_THREE,
            tolerance=EPSILON,
            directionality=alpha,
            sharpness=kappa,
            min_evidence=4.0,
        )
        self.alpha, self.kappa = alpha, kappa
        g = torch.Generator().manual_seed(5)
        n = 48
        self.at = torch.randn(n, self.task.n_outputs, generator=g, dtype=torch.float64)
        if isinstance(self.task, Classification):
            self.labels = torch.randint(3, (n, 1), generator=g).double()
        else:
            self.labels = torch.randint(2, (n, 2), generator=g).double()
        self.codes = torch.stack(
            [torch.randint(-1, 2, (n,), generator=g), torch.randint(-1, 3, (n,), generator=g)], 1
        )
        self.best: dict[tuple[int, int], float] = {}
        rates = self.rates(self.at)
        self.centre = torch.where(self.ledger.centred_at_zero, 0.0, rates[0]).detach()

    def moments(self, outputs: Tensor) -> Moments:
        outputs = outputs if outputs.requires_grad else outputs.clone().requires_grad_()
        atoms = atoms_of(self.ledger, outputs, self.labels, None, 0.5)
        return self.ledger.moments(TWO_BY_THREE.membership(self.codes, torch.float64), atoms)

    def rates(self, outputs: Tensor) -> Tensor:
        return self.ledger.rates(self.moments(outputs).sums)

    def aggregate(self, outputs: Tensor) -> Aggregate:
        return self.constraint.aggregate(self.moments(outputs))

    def frozen(self, outputs: Tensor) -> float:
        moments = self.moments(outputs)
        q, evidence = self.ledger.rates(moments.sums)[1:].tolist(), moments.evidence[1:]
        values, weights = [], []
        for j, o in enumerate(self.ledger.orientation.tolist()):
            for p, partition in enumerate(TWO_BY_THREE.partitions):
                members = range(*partition.groups.indices(5))
                known = [g for g in members if float(evidence[g, j]) >= 4]
                if o and len(known) < 2:
                    continue
                for g in known:
                    if o:
                        r = max(o * q[h][j] for h in known)
                        r0 = self.best.setdefault((p, j), r)
                        v = (1 - self.alpha) * r + self.alpha * r0 - o * q[g][j] - EPSILON
                    else:
                        v = abs(q[g][j] - float(self.centre[j])) - EPSILON
                    values.append(max(v, 0.0))
                    weights.append(1 / len(members))
        total = sum(weights)
        if self.kappa == 0:
            return sum(w * v for w, v in zip(weights, values, strict=True)) / total
        return (
            math.log(
                sum(
                    w / total * math.exp(self.kappa * v)
                    for w, v in zip(weights, values, strict=True)
                )
            )
            / self.kappa
        )


@pytest.mark.parametrize(("kind", "notion"), CELLS, ids=lambda name: name)
@pytest.mark.parametrize(("alpha", "kappa"), [(0.0, 4.0), (0.8, 4.0), (1.0, 4.0), (0.8, 0.0)])
def test_the_gradient_is_that_of_differences_with_the_reference_frozen(
    kind: str, notion: str, alpha: float, kappa: float
) -> None:
    case = Differences(kind, notion, alpha, kappa)
    outputs = case.at.clone().requires_grad_()
    aggregate = case.aggregate(outputs)
    assert aggregate.value.item() == pytest.approx(case.frozen(case.at), abs=1e-7)
    (gradient,) = torch.autograd.grad(aggregate.value, outputs)
    assert float(gradient.abs().max()) > 1e-4
    g = torch.Generator().manual_seed(6)
    for _ in range(4):
        direction = torch.randn(gradient.shape, generator=g, dtype=torch.float64)
        step = 1e-6 * direction
        slope = (case.frozen(case.at + step) - case.frozen(case.at - step)) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_with_a_direction_the_step_is_not_the_gradient_of_the_value() -> None:
    case = Differences("detection", "equal_opportunity", 0.8, 4.0)
    outputs = case.at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.aggregate(outputs).value, outputs)
    step = 1e-6 * gradient / gradient.norm()
    moving = (
        float(case.aggregate(case.at + step).value.detach())
        - float(case.aggregate(case.at - step).value.detach())
    ) / 2e-6
    assert abs(moving - float(gradient.norm())) > 0.02 * float(gradient.norm())


# -- floors ------------------------------------------------------------------------------------


def test_floors_are_violated_by_what_falls_below_them() -> None:
    nan = math.nan
    floors = torch.tensor([[0.875], [0.875], [nan]])
    constraint = Constraint(
        RECALL, THREE, tolerance=1.0, floors=floors, floor_slack=0.0625, sharpness=math.inf
    )
    moments = moments_with(RECALL, column(0.75, 0.84375, 0.1))
    v, known = constraint.violations(moments)
    assert v[:, 0].tolist() == [0, 0, 0, 0.0625, 0, 0]
    assert known[3:, 0].tolist() == [True, True, False]
    aggregate = constraint.aggregate(moments)
    assert float(aggregate.value) == 0.0625
    assert aggregate.shares[:, 0].tolist() == [0, 0, 0, 1, 0, 0]
    few = moments_with(RECALL, column(0.75, 0.84375, 0.1), column(5, 50, 50))
    assert constraint.violations(few)[1][3:, 0].tolist() == [False, True, False]
    constraint.set_floors(None)
    assert float(constraint.aggregate(moments).value) == 0


def test_floors_are_benefits_so_errors_have_negative_ones() -> None:
    ledger = ledger_of("error_parity", Regression("pay"))
    floors = torch.tensor([[-1.0], [-1.0], [-1.0]])
    constraint = Constraint(ledger, THREE, tolerance=9.0, floors=floors)
    v, _ = constraint.violations(moments_with(ledger, column(1.5, 0.5, 1.0)))
    assert v[3:, 0].tolist() == [0.5, 0, 0]


def test_a_floor_pulls_its_group_up_and_shares_the_pressure_with_the_gaps() -> None:
    rates = column(0.75, 0.5, 0.75).requires_grad_()
    floors = torch.full((3, 1), 0.8)
    constraint = Constraint(RECALL, THREE, tolerance=0.125, floors=floors, directionality=1.0)
    aggregate = constraint.aggregate(moments_with(RECALL, rates))
    assert float(aggregate.shares.sum()) == pytest.approx(1.0)
    aggregate.value.backward()
    assert rates.grad is not None
    assert float(rates.grad.max()) < 0
    expected = aggregate.shares[3:, 0] + torch.tensor([0, 1, 0]) * aggregate.shares[:3, 0]
    assert (-rates.grad[:, 0]).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_what_takes_no_side_has_no_floor() -> None:
    ledger = ledger_of("bias_parity", Regression("pay"))
    constraint = Constraint(ledger, THREE, floors=torch.ones(3, 1))
    _, known = constraint.violations(moments_with(ledger, column(0.0, 0.0, 0.0)))
    assert not bool(known[3:].any())


# -- noise -------------------------------------------------------------------------------------


def test_standard_errors_of_the_difference_are_taken_off() -> None:
    moments = moments_with(RECALL, column(0.5, 0.75, 0.75), column(96, 196, 46))

    def error(rate: float, n: int) -> float:
        p = (rate * n + 2) / (n + 4)
        return p * (1 - p) / (n + 4)

    constraint = Constraint(RECALL, THREE, tolerance=EPSILON, standard_errors=2.0)
    rates, known = RECALL.rates(moments.sums), torch.ones(3, 1, dtype=torch.bool)
    slack = constraint.slack(rates, known, moments.evidence)[:, 0].tolist()
    # The group at .5 stands against those at .75, of which the one with fewer rows is less sure.
    noise = 2 * math.sqrt(error(0.5, 96) + error(0.75, 46))
    assert slack == pytest.approx([0.25 - EPSILON - noise, -EPSILON, -EPSILON])


def test_without_a_side_the_error_is_that_of_the_group_and_of_everybody() -> None:
    ledger = ledger_of("demographic_parity", Detection("ill", ("x",)))
    moments = moments_with(
        ledger, column(0.25, 0.5, 0.75), column(96, 96, 96), torch.tensor([0.5]).double()
    )
    constraint = Constraint(ledger, THREE, tolerance=0.0, standard_errors=1.0)
    rates, known = ledger.rates(moments.sums), torch.ones(3, 1, dtype=torch.bool)
    slack = constraint.slack(rates, known, moments.evidence)[:, 0].tolist()
    own, all_ = 0.26 * 0.74 / 100, 0.25 / 292
    assert slack[0] == pytest.approx(0.25 - math.sqrt(own + all_))
    assert slack[1] < 0


def test_unbounded_statistics_have_no_standard_error() -> None:
    ledger = ledger_of("error_parity", Regression("pay"))
    moments = moments_with(ledger, column(0.5, 1.5, 0.25))
    sure = Constraint(ledger, THREE).violations(moments)[0]
    unsure = Constraint(ledger, THREE, standard_errors=3.0).violations(moments)[0]
    assert torch.equal(sure, unsure)


def test_a_fair_predictor_is_rarely_accused_once_errors_are_taken_off() -> None:
    g = torch.Generator().manual_seed(0)
    accused = {0.0: 0, 2.0: 0}
    for _ in range(200):
        hits = torch.binomial(torch.full((3, 1), 40.0), torch.tensor(0.5), generator=g)
        moments = moments_with(RECALL, hits / 40, 40.0)
        for errors in accused:
            constraint = Constraint(RECALL, THREE, tolerance=0.0, standard_errors=errors)
            accused[errors] += constraint.worst_slack(moments) > 0
    assert accused[0.0] > 180
    assert accused[2.0] < 40


# -- the worst slack and what binds ------------------------------------------------------------


def test_the_worst_slack_is_signed() -> None:
    constraint = Constraint(RECALL, THREE, tolerance=0.25)
    assert constraint.worst_slack(moments_with(RECALL, column(0.5, 0.875, 0.75))) == 0.125
    assert constraint.worst_slack(moments_with(RECALL, column(0.75, 0.875, 0.875))) == -0.125
    # Below the tolerance by all of it: everybody is the best-served group.
    assert constraint.worst_slack(moments_with(RECALL, column(0.5, 0.5, 0.5))) == -0.25


def test_a_planted_entry_is_named_and_no_other() -> None:
    rates = torch.full((5, 2), 0.75, dtype=torch.float64)
    rates[4, 1] = 0.25  # label y, race r
    rates[0, 0] = 0.71875  # within the tolerance
    constraint = Constraint(TWO_RECALLS, TWO_BY_THREE, tolerance=EPSILON)
    (entry,) = constraint.binding(moments_with(TWO_RECALLS, rates))
    assert (entry.task, entry.statistic) == ("ill", "recall of y")
    assert (entry.attribute, entry.group) == ("race", "race=r")
    assert entry.violation == pytest.approx(0.5 - EPSILON)
    assert 0.1 < entry.share < 1
    assert str(entry) == "ill: recall of y for race=r"
    rates[4, 1] = 0.75
    assert constraint.binding(moments_with(TWO_RECALLS, rates)) == []


def test_what_binds_comes_worst_first_and_not_more_than_asked() -> None:
    rates = torch.tensor([[0.9, 0.9], [0.3, 0.9], [0.9, 0.9], [0.6, 0.1], [0.9, 0.8]]).double()
    constraint = Constraint(TWO_RECALLS, TWO_BY_THREE, tolerance=0.0)
    entries = constraint.binding(moments_with(TWO_RECALLS, rates), most=3)
    assert [(e.statistic, e.group) for e in entries] == [
        ("recall of y", "race=q"),
        ("recall of x", "sex=w"),
        ("recall of x", "race=q"),
    ]
    assert [e.violation for e in entries] == pytest.approx([0.8, 0.6, 0.3])


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directionality": 1.5}, r"directionality must lie in \[0, 1\]. Found 1.5"),
        ({"sharpness": -1.0}, "sharpness must not be negative. Found -1.0"),
        ({"full_evidence": -1.0}, "full_evidence must not be negative. Found -1.0"),
        ({"tolerance": -0.1}, "tolerance must be a number, 0 or more. Found -0.1"),
        ({"tolerance": math.nan}, "tolerance must be a number, 0 or more. Found nan"),
        ({"tolerance": {"il": 0.1}}, r"unknown tasks \['il'\]; tasks are \['ill'\]"),
        ({"tolerance": {}}, r"tolerance is missing for tasks \['ill'\]"),
        ({"floors": torch.zeros(2, 1)}, r"floors must be \(3, 1\)"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Constraint(RECALL, THREE, **settings)  # type: ignore[arg-type]
