"""Dependence: sums against Gram matrices, operators, contingency tables and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats.contingency import association
from torch import Tensor

from fairmt.dependence import (
    RIDGE,
    Dependence,
    Variable,
    dependence,
    gram_dependence,
    median_distance,
    sums_of,
)

N = 60


def normal(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def codes(n: int, cells: int, seed: int = 0) -> Tensor:
    return torch.randint(cells, (n,), generator=torch.Generator().manual_seed(seed))


def features(variable: Variable) -> Tensor:
    return variable.features(torch.float64)


def measured(
    x: Variable,
    y: Variable,
    z: Variable | None = None,
    weights: Tensor | None = None,
    ridge: float = RIDGE,
    features: Callable[[Variable], Tensor] = features,
) -> Dependence:
    """From sums; x and y are joined with z here."""
    if z is not None:
        x, y = x.join(z), y.join(z)
    fx, fy = features(x), features(y)
    w = torch.ones(len(fx), dtype=torch.float64) if weights is None else weights
    return dependence(sums_of(fx, fy, w, None if z is None else features(z)), ridge)


def linear(f: Tensor) -> Tensor:
    """The Gram matrix of features, of mean square 1."""
    gram = f[:, 1:] @ f[:, 1:].T
    return gram / gram.diagonal().mean()


def kinds() -> dict[str, Variable]:
    a = normal(N, 3, seed=1)
    return {
        "numbers": Variable(numbers=a),
        "categories": Variable((a[:, 0] > 0).long() + 2 * codes(N, 2), 4),
        "both": Variable(codes(N, 3, seed=2), 3, a[:, :1]),
    }


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("given", [None, "numbers", "categories"])
def test_sums_give_what_gram_matrices_of_the_same_features_give(
    kind: str, given: str | None
) -> None:
    x = kinds()[kind]
    y = Variable(numbers=normal(N, 3, seed=1)[:, :1] + normal(N, 1, seed=3))
    z = None if given is None else kinds()[given]
    own = measured(x, y, z)
    if z is not None:
        x, y = x.join(z), y.join(z)
    gram = gram_dependence(
        linear(features(x)), linear(features(y)), None if z is None else linear(features(z))
    )
    for a, b in zip(own, gram, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def inverse_root(c: Tensor, ridge: float) -> Tensor:
    values, vectors = torch.linalg.eigh(c)
    return vectors @ torch.diag((values + ridge) ** -0.5) @ vectors.T


def test_traces_are_squared_norms_of_the_operators() -> None:
    """V_YX, and V_YX - V_YZ V_ZX, built as matrices from the definition."""
    ridge = 1e-3
    x, y, z = normal(N, 4, seed=1), normal(N, 3, seed=2), normal(N, 2, seed=3)
    y[:, 0] += x[:, 0]
    x[:, 1] += z[:, 1]
    y[:, 1] += z[:, 1]
    sets = [f / (f**2).sum(1).mean().sqrt() for f in (x, y, z)]
    grams = [f @ f.T for f in sets]
    centred = [f - f.mean(0) for f in sets]
    c = [[a.T @ b / N for b in centred] for a in centred]
    root = [inverse_root(c[i][i], ridge) for i in range(3)]

    def operator(i: int, j: int) -> Tensor:
        return root[i] @ c[i][j] @ root[j]

    marginal, partial = operator(1, 0), operator(1, 0) - operator(1, 2) @ operator(2, 0)
    found = gram_dependence(grams[0], grams[1], ridge=ridge).shared
    torch.testing.assert_close(found, (marginal**2).sum())
    found = gram_dependence(*grams, ridge=ridge).shared
    torch.testing.assert_close(found, (partial**2).sum())


def test_categories_give_the_chi_squared_mutual_information() -> None:
    """At vanishing ridge: Σ (P(y,a) - P(y) P(a))² / (P(y) P(a)), and Tschuprow's T² as score."""
    y, a = codes(300, 3, seed=1), codes(300, 4, seed=2)
    y = torch.where(codes(300, 2, seed=3) > 0, y, a % 3)
    table = torch.zeros(3, 4, dtype=torch.float64)
    for i, j in zip(y.tolist(), a.tolist(), strict=True):
        table[i, j] += 1
    p = table / 300
    product = p.sum(1, keepdim=True) * p.sum(0)
    own = measured(Variable(a, 4), Variable(y, 3), ridge=1e-9)
    assert own.shared.item() == pytest.approx(((p - product) ** 2 / product).sum().item(), rel=1e-6)
    tschuprow = association(table.numpy().astype(int), method="tschuprow")
    assert own.score.item() == pytest.approx(tschuprow**2, rel=1e-6)


def test_the_kernel_is_that_of_the_features() -> None:
    """Many features come close to the Gaussian kernel, and to the score with it."""
    x = Variable(numbers=normal(200, 2))
    y = Variable(codes(200, 2), 2, (normal(200, 2) ** 2)[:, :1] + normal(200, 1, seed=1))

    def error(per_number: int) -> float:
        return float((linear(x.features(torch.float64, per_number)) - x.gram()).abs().max())

    # Evenly spread frequencies: the error falls nearly with their number, not with its root.
    assert error(512) < min(error(64) / 4, 0.025)

    def many(v: Variable) -> Tensor:
        return v.features(torch.float64, 256)

    exact = gram_dependence(x.gram(), y.gram()).score.item()
    assert measured(x, y, features=many).score.item() == pytest.approx(exact, rel=0.05)


def test_features_of_a_variable_that_is_both_are_those_of_each_category() -> None:
    numbers, member = normal(6, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    f = Variable(member, 3, numbers).features(torch.float64, 24)
    waves = Variable(numbers=numbers).features(torch.float64, 8)
    assert f.shape == (6, 1 + 3 * 8)
    for row, cell in enumerate(member.tolist()):
        expected = torch.zeros(3, 8, dtype=torch.float64)
        expected[cell] = waves[row, 1:]
        assert torch.equal(f[row, 1:], expected.flatten())


# -- zero, one, and what changes nothing --------------------------------------------------


def test_zero_where_independent() -> None:
    """Every number once with every category: independent to the last row."""
    levels = torch.linspace(-2, 2, 7, dtype=torch.float64)
    numbers = levels.repeat(3)[:, None]
    member = torch.arange(3).repeat_interleave(7)
    score = measured(Variable(numbers=numbers), Variable(member, 3)).score
    assert score.abs().item() < 1e-12


def test_zero_given_what_explains_the_dependence() -> None:
    """Within each value of z every x meets every y, but both move with z."""
    x = torch.tensor([-1.0, 1.0] * 4, dtype=torch.float64)
    y = torch.tensor([-1.0, -1.0, 1.0, 1.0] * 2, dtype=torch.float64)
    member = torch.arange(2).repeat_interleave(4)
    moved = Variable(numbers=(x + 3 * member)[:, None]), Variable(numbers=(y + 3 * member)[:, None])
    assert measured(*moved).score.item() > 0.1
    assert measured(*moved, Variable(member, 2), ridge=1e-8).score.item() < 1e-8


def test_opposite_dependence_in_two_groups_shows_only_given_the_group() -> None:
    x = normal(400, 1)
    member = codes(400, 2)
    y = torch.where(member[:, None] > 0, x, -x)
    given = Variable(member, 2)
    linear_x, linear_y = Variable(numbers=0.05 * x), Variable(numbers=0.05 * y)
    assert measured(linear_x, linear_y, ridge=1e-2).score.item() < 0.1
    assert measured(linear_x, linear_y, given, ridge=1e-2).score.item() > 0.3


def test_a_variable_depends_wholly_on_itself() -> None:
    for variable in kinds().values():
        assert measured(variable, variable).score.item() == pytest.approx(1.0)


def test_only_what_two_attributes_do_together_is_seen_jointly() -> None:
    """The sign of a product depends on neither factor alone."""
    a = normal(600, 2)
    y = Variable((a.prod(1) > 0).long(), 2)
    joint = measured(Variable(numbers=a), y).score
    alone = [measured(Variable(numbers=a[:, [i]]), y).score for i in (0, 1)]
    assert joint > 5 * max(alone)


@pytest.mark.parametrize("kind", kinds())
def test_names_order_and_origin_change_nothing(kind: str) -> None:
    x, y = kinds()[kind], Variable(numbers=normal(N, 3, seed=1)[:, 1:])
    reference = measured(x, y).score
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    renamed = None if x.codes is None else x.cells - 1 - x.codes[order]
    numbers = None if x.numbers is None else x.numbers[order] + 2.5
    assert y.numbers is not None
    moved = measured(Variable(renamed, x.cells, numbers), Variable(numbers=y.numbers[order])).score
    torch.testing.assert_close(moved, reference)
    torch.testing.assert_close(measured(y, x).score, reference)


def test_a_weight_of_two_is_a_row_that_occurs_twice() -> None:
    x, y = kinds()["numbers"], Variable(numbers=normal(N, 1))
    twice = torch.cat([torch.arange(N), torch.arange(20)])
    weights = torch.ones(N, dtype=torch.float64)
    weights[:20] = 2
    assert x.numbers is not None
    assert y.numbers is not None
    repeated = Variable(numbers=x.numbers[twice]), Variable(numbers=y.numbers[twice])
    torch.testing.assert_close(measured(x, y, weights=weights).score, measured(*repeated).score)


def test_every_leading_dimension_is_a_pair_of_its_own() -> None:
    x = Variable(codes(N, 3)[:, None], 3)
    y = normal(N, 4, 1)
    given = torch.stack([codes(N, 2, seed=i) for i in range(4)], 1)
    weights = normal(N, 4, seed=5).abs()
    z = Variable(given, 2)
    together = measured(x, Variable(numbers=y), z, weights).score
    assert x.codes is not None
    for i in range(4):
        alone = measured(
            Variable(x.codes[:, 0], 3),
            Variable(numbers=y[:, i]),
            Variable(given[:, i], 2),
            weights[:, i],
        )
        torch.testing.assert_close(together[i], alone.score)


@pytest.mark.parametrize("constant", [torch.zeros(N, 1), torch.full((N, 1), 3.0)])
def test_a_constant_depends_on_nothing(constant: Tensor) -> None:
    y = constant.double().requires_grad_()
    score = measured(kinds()["numbers"], Variable(numbers=y)).score
    score.backward()
    assert score.item() == pytest.approx(0.0, abs=1e-8)
    assert y.grad is not None
    assert bool(y.grad.isfinite().all())


def test_without_rows_the_score_is_zero() -> None:
    x, y = kinds()["numbers"], kinds()["categories"]
    weights = torch.zeros(N, dtype=torch.float64)
    assert measured(x, y, weights=weights).score.item() == 0.0
    assert measured(x, y, kinds()["both"], weights=weights).score.item() == 0.0


# -- gradients and noise ------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "numbers", "categories"])
def test_gradients_are_finite_differences(given: str | None) -> None:
    rows = torch.arange(12)
    x = Variable(codes(12, 2), 2)
    z = None
    if given == "numbers":
        z = Variable(numbers=normal(12, 1, seed=4))
    elif given == "categories":
        z = Variable(rows % 2, 2)
    weights = normal(12, seed=5).abs()

    def score(y: Tensor) -> Tensor:
        return measured(x, Variable(numbers=y), z, weights).score

    assert torch.autograd.gradcheck(score, normal(12, 2, seed=6).requires_grad_())


def test_noise_falls_as_the_number_of_rows_grows() -> None:
    """Independent pairs: the mean score of random pairings is Tr R_X Tr R_Y / (n - 1), scaled."""
    means = []
    for n in (64, 256, 1024):
        scores = []
        for seed in range(20):
            x, y = normal(n, 2, seed=seed), normal(n, 1, seed=1000 + seed)
            scores.append(measured(Variable(numbers=x), Variable(numbers=y)).score.item())
        means.append(float(np.mean(scores)))
    assert means[0] > 3 * means[1] > 9 * means[2] > 0


def test_the_mean_over_pairings_is_known() -> None:
    n = 80
    x, y = Variable(numbers=normal(n, 2)), Variable(codes(n, 3), 3)
    gx, gy = linear(features(x)), linear(features(y))

    def trace(gram: Tensor) -> float:
        centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
        eye = torch.eye(n, dtype=torch.float64)
        return float((centred @ torch.linalg.inv(centred + n * RIDGE * eye)).trace())

    expected = trace(gx) * trace(gy) / (n - 1)
    g = torch.Generator().manual_seed(0)
    assert y.codes is not None
    drawn = [
        measured(x, Variable(y.codes[torch.randperm(n, generator=g)], 3)).shared.item()
        for _ in range(300)
    ]
    assert np.mean(drawn) == pytest.approx(expected, rel=0.05)


def test_the_median_distance_is_that_of_pairs() -> None:
    assert median_distance(torch.tensor([[0.0], [1.0], [5.0]])) == 4.0
    assert median_distance(torch.zeros(5, 2)) == 1.0
    assert median_distance(torch.zeros(0, 2)) == 1.0
    sample = median_distance(normal(20_000, 1))
    assert sample == pytest.approx(0.954, rel=0.05)
