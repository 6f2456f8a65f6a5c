"""The symmetric penalties against hand cases, other libraries and finite differences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from fairmt.groups import Attribute, Groups
from fairmt.methods import MMD, Correlation, GapPenalty, StepMethod, Wasserstein
from fairmt.methods.base import Batch
from fairmt.methods.scores import mean_by_partition
from fairmt.models import LinearHeads, MultiTask
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

NAN = math.nan
SEX = Groups((Attribute("sex", ("m", "w")),))
BOTH = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
WAGE = Regression("wage")
ILL = Detection("ill", ("x", "y"))
MIXED: tuple[Task, ...] = (Classification("job", ("a", "b", "c"), weight=2.0), ILL, WAGE)
ALL = (GapPenalty, MMD, Wasserstein, Correlation)
ON_SCORES = (MMD, Wasserstein, Correlation)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def bound(method: StepMethod, tasks: tuple[Task, ...], groups: Groups) -> StepMethod:
    layout = Layout(tasks)
    method.setup(MultiTask(nn.Identity(), LinearHeads(1, layout), layout), groups)
    return method


def value(method: StepMethod, outputs: Tensor, batch: Batch) -> Tensor:
    found = method.penalty(outputs, outputs, batch)
    assert found is not None
    return found


def rows(n: int = 40, seed: int = 0) -> tuple[Tensor, Batch]:
    """Outputs of the mixed tasks, with missing labels and attributes, and weights."""
    g = torch.Generator().manual_seed(seed)
    layout = Layout(MIXED)
    labels = torch.cat(
        [
            torch.randint(3, (n, 1), generator=g).double(),
            torch.randint(2, (n, 2), generator=g).double(),
            torch.randn(n, 1, generator=g),
        ],
        1,
    )
    labels[torch.rand(labels.shape, generator=g) < 0.2] = NAN
    codes = torch.stack([torch.randint(-1, k, (n,), generator=g) for k in (2, 3)], 1)
    weights = 0.5 + torch.rand(n, generator=g)
    outputs = torch.randn(n, layout.n_outputs, generator=g) + 0.3 * codes[:, :1]
    return outputs, Batch(outputs, labels, codes, weights)


def one_number(scores: list[float], codes: list[int], weights: Any = None) -> tuple[Tensor, Batch]:
    outputs = torch.tensor(scores)[:, None]
    w = None if weights is None else torch.tensor(weights)
    return outputs, Batch(
        outputs, torch.full((len(scores), 1), NAN), torch.tensor(codes)[:, None], w
    )


# -- what all have in common -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_gradients_are_finite_differences(kind: type[StepMethod]) -> None:
    outputs, batch = rows(16)
    method = bound(kind(), MIXED, BOTH)
    torch.autograd.gradcheck(
        lambda o: value(method, o, batch), outputs.requires_grad_(), eps=1e-7, atol=1e-6
    )


@pytest.mark.parametrize("kind", ALL)
def test_only_proportions_of_weights_count_and_whole_ones_are_copies(
    kind: type[StepMethod],
) -> None:
    outputs, batch = rows()
    assert batch.weights is not None
    method = bound(kind(), MIXED, BOTH)
    if kind is not MMD:  # whose pairs of different rows become fewer
        whole = torch.randint(1, 4, (40,), generator=torch.Generator().manual_seed(1))
        index = torch.arange(40).repeat_interleave(whole)
        copies = Batch(outputs[index], batch.labels[index], batch.attributes[index], None)
        torch.testing.assert_close(
            value(method, outputs, batch._replace(weights=whole.double())),
            value(method, outputs[index], copies),
        )
    torch.testing.assert_close(
        value(method, outputs, batch._replace(weights=7 * batch.weights)),
        value(method, outputs, batch),
    )


@pytest.mark.parametrize("kind", ALL)
def test_rows_of_unknown_group_change_nothing(kind: type[StepMethod]) -> None:
    outputs, batch = rows()
    known = batch.attributes[:, 0] >= 0
    assert 0 < int(known.sum()) < 40
    sex = batch._replace(attributes=batch.attributes[:, :1])
    method = bound(kind(), MIXED, SEX)
    part = Batch(*(None if x is None else x[known] for x in sex))
    torch.testing.assert_close(value(method, outputs, sex), value(method, outputs[known], part))


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_of_one_group_has_nothing_to_compare(kind: type[StepMethod]) -> None:
    outputs, batch = rows()
    outputs.requires_grad_()
    method = bound(kind(), MIXED, BOTH)
    alone = batch._replace(attributes=torch.zeros_like(batch.attributes))
    found = value(method, outputs, alone)
    assert float(found.detach()) == 0.0
    (gradient,) = torch.autograd.grad(found, outputs)
    assert (gradient == 0).all()


@pytest.mark.parametrize("kind", ON_SCORES)
def test_groups_with_one_row_are_not_compared(kind: type[StepMethod]) -> None:
    method = bound(kind(), (WAGE,), BOTH)
    outputs, batch = one_number([0.0, 0.1, 1.0, 1.2, 9.0], [0] * 5)
    codes = torch.tensor([[-1, 0], [-1, 0], [-1, 1], [-1, 1], [-1, 2]])
    # Against the others, of whom the single row is one; sex is unknown and counts as half of 0.
    both = [
        method.distances(outputs, own, 1 - own, batch.labels)  # type: ignore[attr-defined]
        for own in (codes[:, 1:] == torch.tensor([0, 1])).double().split(1, 1)
    ]
    expected = torch.cat(both, 1).mean() / 2
    torch.testing.assert_close(value(method, outputs, batch._replace(attributes=codes)), expected)


@pytest.mark.parametrize("kind", ALL)
def test_task_weights_multiply(kind: type[StepMethod]) -> None:
    outputs, batch = rows()
    layout = Layout(MIXED)
    total = torch.zeros(())
    for task in MIXED:
        part = batch._replace(labels=batch.labels[:, layout.labels[task.name]])
        total = total + value(
            bound(kind(), (task,), BOTH), outputs[:, layout.outputs[task.name]], part
        )
    torch.testing.assert_close(total, value(bound(kind(), MIXED, BOTH), outputs, batch))


@pytest.mark.parametrize("kind", ON_SCORES)
def test_labels_are_not_looked_at(kind: type[StepMethod]) -> None:
    outputs, batch = rows()
    method = bound(kind(), MIXED, BOTH)
    bare = batch._replace(labels=torch.full_like(batch.labels, NAN))
    assert torch.equal(value(method, outputs, bare), value(method, outputs, batch))


def test_means_are_over_the_known_rows_of_a_partition() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 7.0], [10.0, 20.0]])
    known = torch.tensor([[True, True], [True, False], [False, False]])
    found = mean_by_partition(values, known, torch.tensor([0, 0, 1]), 2)
    assert found.tolist() == [[2.0, 5.0], [0.0, 0.0]]


# -- gap ---------------------------------------------------------------------------------------


def wrong_for_women() -> tuple[Tensor, Batch]:
    """Everybody is decided with probability .9: men rightly, women wrongly."""
    labels, codes = torch.tensor([1.0, 1, 0, 0] * 2), torch.tensor([0] * 4 + [1] * 4)
    right = torch.where(codes == 0, 1.0, -1.0) * (2 * labels - 1)
    outputs = (right * math.log(9))[:, None].expand(8, 2)
    return outputs, Batch(outputs, labels[:, None].expand(8, 2), codes[:, None], None)


@pytest.mark.parametrize(
    ("notion", "expected"),
    [("equalized_odds", 0.8), ("equal_opportunity", 0.8), ("demographic_parity", 0.0)],
)
def test_gap_of_a_predictor_right_for_one_group_and_wrong_for_the_other(
    notion: str, expected: float
) -> None:
    outputs, batch = wrong_for_women()
    for squared in (True, False):
        method = bound(GapPenalty(notion=notion, squared=squared), (ILL,), SEX)
        wanted = expected**2 if squared else expected
        assert float(value(method, outputs, batch)) == pytest.approx(wanted)


def test_gap_is_a_mean_over_pairs_of_groups() -> None:
    race = Groups((Attribute("race", ("p", "q", "r")),))
    outputs, batch = one_number([0.0, 2.0, 3.0, 3.0, 4.0, 6.0], [0, 0, 1, 1, 2, 2])
    method = bound(GapPenalty(notion="demographic_parity"), (WAGE,), race)
    assert float(value(method, outputs, batch)) == pytest.approx((4 + 16 + 4) / 3)
    absent = batch._replace(attributes=torch.tensor([0, 0, 1, 1, -1, -1])[:, None])
    assert float(value(method, outputs, absent)) == pytest.approx(4.0)


def test_gap_is_measured_at_the_decision_rule_in_force() -> None:
    outputs, batch = wrong_for_women()
    method = bound(GapPenalty(notion="equalized_odds"), (ILL,), SEX)
    method.set_offsets(torch.full((2,), math.log(9)))
    # Probabilities .9 and .1 become 81/82 and 1/2.
    assert float(value(method, outputs, batch)) == pytest.approx((81 / 82 - 0.5) ** 2)


def test_gap_refuses_distances_and_notions_of_nothing() -> None:
    with pytest.raises(ValueError, match="'wasserstein' or 'mmd'"):
        bound(GapPenalty(notion="distribution_parity"), (WAGE,), SEX)
    with pytest.raises(ValueError, match=r"judges none of the tasks \[\('wage', 'regression'\)\]"):
        bound(GapPenalty(notion="equalized_odds"), (WAGE,), SEX)


# -- Wasserstein -------------------------------------------------------------------------------


def test_wasserstein_is_scipys() -> None:
    r = np.random.default_rng(0)
    scores, codes = r.normal(size=60).round(1), r.integers(0, 2, 60)
    scores[codes == 1] = 2 * scores[codes == 1] + 0.5
    weights = r.random(60)
    outputs, batch = one_number(scores.tolist(), codes.tolist(), weights.tolist())
    expected = wasserstein_distance(
        scores[codes == 0], scores[codes == 1], weights[codes == 0], weights[codes == 1]
    )
    found = value(bound(Wasserstein(), (WAGE,), SEX), outputs, batch)
    assert float(found) == pytest.approx(expected**2)


def test_wasserstein_sees_what_means_do_not() -> None:
    outputs, batch = one_number([-1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0] * 4 + [1] * 4)
    assert float(value(bound(Wasserstein(), (WAGE,), SEX), outputs, batch)) == pytest.approx(1.0)
    assert float(value(bound(MMD(), (WAGE,), SEX), outputs, batch)) > 0.3
    assert float(value(bound(Correlation(), (WAGE,), SEX), outputs, batch)) == pytest.approx(0.0)


# -- MMD ---------------------------------------------------------------------------------------


def gaussian(x: Tensor, y: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    square = (x[:, None] - y[None]).square().sum(2)
    return torch.stack([(-square / (2 * h * h)).exp() for h in bandwidths]).mean(0)


def test_mmd_is_the_unbiased_statistic_of_the_gaussian_kernel() -> None:
    g = torch.Generator().manual_seed(0)
    logits, codes = 2 * torch.randn(30, 2, generator=g), torch.arange(30) % 2
    logits[codes == 1] += 1
    method = bound(MMD(bandwidths=(0.3, 1.0), n_frequencies=20_000), (ILL,), SEX)
    batch = Batch(logits, torch.full((30, 2), NAN), codes[:, None], None)
    # The root mean square over two labels is the distance over √2.
    p = logits.sigmoid() / 2**0.5
    k = gaussian(p, p, (0.3, 1.0))
    own = torch.where(codes[:, None] == codes, (1 - torch.eye(30)) / (15 * 14), -1 / 15**2)
    expected = (k * own).sum()
    assert float(value(method, logits, batch)) == pytest.approx(float(expected), abs=0.005)


def test_mmd_of_two_classes_counts_their_one_probability() -> None:
    one, two = Detection("y", ("y",)), Classification("y", ("no", "yes"))
    layout = Layout((one,))
    logit = torch.linspace(-2, 2, 20)[:, None]
    batch = Batch(logit, torch.full((20, 1), NAN), (torch.arange(20) // 10)[:, None], None)
    many = {"n_frequencies": 20_000}
    assert layout.n_outputs == 1
    a = value(bound(MMD(**many), (one,), SEX), logit, batch)
    b = value(bound(MMD(**many), (two,), SEX), torch.cat([-logit, logit], 1) / 2, batch)
    assert float(a) == pytest.approx(float(b), rel=0.03)


def test_mmd_is_zero_on_average_for_equal_distributions() -> None:
    """The kernel's own pairs are left out: the statistic has no bias at four rows."""
    g = torch.Generator().manual_seed(0)
    method = bound(MMD(), (WAGE,), SEX)
    found = []
    for _ in range(500):
        outputs = torch.randn(4, 1, generator=g)
        batch = Batch(outputs, outputs, torch.tensor([[0], [0], [1], [1]]), None)
        found.append(value(method, outputs, batch))
    mean, error = torch.stack(found).mean(), torch.stack(found).std() / 500**0.5
    assert abs(mean) < 3 * error
    assert error < 0.04


def test_mmd_refuses_bandwidths_that_are_none() -> None:
    with pytest.raises(ValueError, match="bandwidths must be positive"):
        MMD(bandwidths=(0.1, 0.0))
    with pytest.raises(ValueError, match="n_frequencies must be at least 1"):
        MMD(n_frequencies=0)


# -- correlation -------------------------------------------------------------------------------


def test_correlation_is_numpys() -> None:
    outputs, batch = rows()
    own = batch._replace(weights=None, attributes=batch.attributes[:, 1:])
    race = Groups((Attribute("race", ("p", "q", "r")),))
    found = value(bound(Correlation(), (WAGE,), race), outputs[:, 5:], own)
    known = own.attributes[:, 0] >= 0
    score, code = outputs[known, 5].numpy(), own.attributes[known, 0].numpy()
    expected = np.mean([np.corrcoef(score, code == k)[0, 1] ** 2 for k in range(3)])
    assert float(found) == pytest.approx(expected)


def test_partial_correlation_is_that_of_the_residuals() -> None:
    outputs, batch = rows(200)
    assert batch.weights is not None
    y, code = batch.labels[:, 3], batch.attributes[:, 0]
    part = Batch(outputs, y[:, None], code[:, None], batch.weights)
    outputs = outputs[:, 5:] + y.nan_to_num()[:, None] + code[:, None]
    found = value(bound(Correlation(partial=True), (WAGE,), SEX), outputs, part)
    known = (~y.isnan() & (code >= 0)).numpy()
    w = batch.weights.numpy()[known]
    basis = np.stack([np.ones(len(w)), y.numpy()[known]], 1) * np.sqrt(w)[:, None]

    def residual(column: Tensor) -> np.ndarray:
        target = column.numpy()[known] * np.sqrt(w)
        return target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]

    a, b = residual(outputs[:, 0]), residual(code.double())
    assert float(found) == pytest.approx((a @ b) ** 2 / ((a @ a) * (b @ b)))


def test_correlation_does_not_care_for_shift_and_scale_and_partial_for_the_truth() -> None:
    outputs, batch = rows()
    part = Batch(outputs, batch.labels[:, 3:], batch.attributes, batch.weights)
    plain, partial = (bound(Correlation(partial=p), (WAGE,), BOTH) for p in (False, True))
    score = outputs[:, 5:]
    for method in (plain, partial):
        torch.testing.assert_close(
            value(method, 1000 + 0.01 * score, part), value(method, score, part)
        )
    # Predictions that are the truth differ between groups as the truth does.
    truth = part.labels.nan_to_num()
    assert float(value(partial, truth, part)) == pytest.approx(0.0, abs=1e-12)
    assert float(value(plain, truth, part)) > 1e-3
    constant = torch.full_like(score, 0.3).requires_grad_()
    found = value(partial, constant, part)
    assert float(found.detach()) == pytest.approx(0.0, abs=1e-12)
    assert bool(torch.autograd.grad(found, constant)[0].isfinite().all())
