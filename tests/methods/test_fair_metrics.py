"""Fair metrics: planted sensitive directions are found, and Σ is what the equations say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairmt.fair_metrics import (
    FairMetric,
    explore_metric,
    likelihood,
    likelihood_gradient,
    logistic_metric,
    nearest_psd,
    orthonormal,
    svd_metric,
)
from fairmt.groups import Attribute, Groups

D = 6
SEX = Groups((Attribute("sex", ("m", "w")),))
ORIGIN = Groups((Attribute("origin", ("a", "b", "c")),))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projector(metric: FairMetric) -> Tensor:
    return metric.directions @ metric.directions.T


def axes(*positions: int) -> Tensor:
    found = torch.zeros(D, D, dtype=torch.float64)
    found[list(positions), list(positions)] = 1.0
    return found


def logistic_sample(x: Tensor, direction: Tensor, seed: int = 1) -> Tensor:
    p = torch.sigmoid(x @ direction)
    u = torch.rand(len(x), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (u < p).long()


def test_the_direction_that_tells_two_groups_apart_costs_nothing() -> None:
    x = noise(8000, D)
    planted = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    metric = logistic_metric(x, logistic_sample(x, planted)[:, None], SEX)
    assert metric.directions.shape == (D, 1)
    assert float((metric.directions[:, 0] @ planted).abs()) / 5 == pytest.approx(1, abs=3e-3)
    assert float(metric(x[:1], x[:1] + 7 * metric.directions.T)) == pytest.approx(0, abs=1e-9)
    half = logistic_metric(x.bfloat16(), logistic_sample(x, planted)[:, None], SEX)
    assert float((half.directions[:, 0] @ planted).abs()) / 5 == pytest.approx(1, abs=3e-3)
    # Across it the distance is Euclid's.
    across = torch.tensor([[4.0, 0.0, 3.0, 0.0, 0.0, 0.0]], dtype=torch.float64) / 5
    across = across - across @ projector(metric)
    assert float(metric(x[:1], x[:1] + across)) == pytest.approx(float(across.square().sum()))


def test_the_matrix_need_not_be_written_out() -> None:
    directions = orthonormal(noise(D, 2, seed=2))
    x, other = noise(50, D, seed=3), noise(50, D, seed=4)
    short = FairMetric.without(directions, x)
    sigma = torch.eye(D, dtype=torch.float64) - directions @ directions.T
    written = FairMetric(sigma, directions, short.low, short.high)
    torch.testing.assert_close(short(x, other), written(x, other))
    assert short.like(torch.zeros(1)).sigma is None
    assert short.like(torch.zeros(1)).low.dtype == torch.float32


def test_three_groups_have_a_plane_and_numbers_a_line() -> None:
    codes = torch.arange(9000) % 3
    centres = torch.zeros(3, D, dtype=torch.float64)
    centres[1, 0], centres[2, 3] = 4.0, 4.0
    x = noise(9000, D) + centres[codes]
    metric = logistic_metric(x, codes[:, None], ORIGIN)
    # Three coefficient vectors, of which two groups' lie in the plane and so does the third.
    torch.testing.assert_close(projector(metric)[[0, 3]], axes(0, 3)[[0, 3]], atol=0.05, rtol=0)

    # Who has no number differs from the others.
    values = 5.0 + 2.0 * x[:, 1:2] + 0.1 * noise(9000, 1, seed=3)
    values[x[:, 2] > 0.5] = torch.nan
    line = logistic_metric(x, torch.zeros(9000, 1, dtype=torch.int64), ORIGIN, values=values)
    torch.testing.assert_close(projector(line), axes(1), atol=0.01, rtol=0)


def test_several_attributes_are_stacked_and_each_looks_at_its_own_rows() -> None:
    groups = Groups((*SEX.attributes, Attribute("old", ("n", "y"))))
    x = noise(8000, D)
    codes = torch.stack(
        [logistic_sample(x, 6 * axes(0)[0]), logistic_sample(x, 6 * axes(5)[5], seed=2)], 1
    )
    codes[:1000, 0], codes[500:2000, 1] = -1, -1
    metric = logistic_metric(x, codes, groups)
    torch.testing.assert_close(projector(metric), axes(0, 5), atol=0.05, rtol=0)
    # Rows whose attribute is missing tell nothing about it.
    only_sex = logistic_metric(x, codes[:, :1], SEX)
    elsewhere = torch.where(codes[:, :1] < 0, 100 * noise(8000, D, seed=5), x)
    assert torch.equal(
        only_sex.directions, logistic_metric(elsewhere, codes[:, :1], SEX).directions
    )


def test_weights_of_zero_leave_rows_out() -> None:
    x = noise(2000, D)
    codes = logistic_sample(x, 3 * axes(2)[2])[:, None]
    weights = (torch.arange(2000) < 1200).double()
    weighted = logistic_metric(x, codes, SEX, weights=weights)
    fewer = logistic_metric(x[:1200], codes[:1200], SEX)
    torch.testing.assert_close(projector(weighted), projector(fewer), atol=1e-3, rtol=0)
    unweighted = logistic_metric(x, codes, SEX)
    assert float((projector(unweighted) - projector(fewer)).abs().max()) > 5e-3


def test_columns_may_be_sensitive_themselves() -> None:
    x = noise(4000, D)
    codes = logistic_sample(x, 6 * axes(0)[0])[:, None]
    metric = logistic_metric(x, codes, SEX, columns=[4])
    torch.testing.assert_close(projector(metric), axes(0, 4), atol=0.05, rtol=0)
    assert float((projector(metric) @ axes(4)[4] - axes(4)[4]).abs().max()) < 1e-9
    with pytest.raises(ValueError, match=r"Sensitive columns \[6\] do not exist"):
        logistic_metric(x, codes, SEX, columns=[6])
    with pytest.raises(ValueError, match="span all 6 features"):
        logistic_metric(x, codes, SEX, columns=range(6))


def test_the_range_is_where_people_lie() -> None:
    x = noise(5000, D)
    x[:, 4] = torch.linspace(-2, 3, 5000)
    x[0, 4] = 1e6
    metric = logistic_metric(x, torch.zeros(5000, 1, dtype=torch.int64), SEX, columns=[4])
    sign = float(metric.directions[4, 0])
    ends = sorted([float(metric.low) * sign, float(metric.high) * sign])
    assert ends == pytest.approx([-2, 3], abs=0.02)


def test_a_basis_depends_on_no_order_and_no_sign_and_drops_what_is_almost_zero() -> None:
    columns = noise(D, 3)
    columns = torch.cat([columns, 1e-4 * noise(D, 1, seed=2), columns[:, :1] + columns[:, 1:2]], 1)
    one = orthonormal(columns)
    assert one.shape == (D, 3)
    torch.testing.assert_close(one.T @ one, torch.eye(3, dtype=torch.float64))
    other = orthonormal(columns[:, [4, 2, 0, 3, 1]] * torch.tensor([-1.0, 1, -1, 1, 1]))
    torch.testing.assert_close(other.abs(), one.abs())
    assert orthonormal(torch.zeros(D, 2)).shape == (D, 0)
    assert orthonormal(torch.zeros(D, 0)).shape == (D, 0)


def test_what_varies_within_comparable_sets_costs_nothing() -> None:
    planted = orthonormal(noise(D, 2))
    sets = [
        10 * noise(1, D, seed=i) + noise(5, 2, seed=100 + i) @ planted.T + 0.01 * noise(5, D)
        for i in range(40)
    ]
    metric = svd_metric(sets, 2)
    torch.testing.assert_close(projector(metric), planted @ planted.T, atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="Nobody differs within any set"):
        svd_metric([torch.ones(3, D), torch.zeros(2, D)], 2)
    with pytest.raises(ValueError, match="between 1 and 5"):
        svd_metric(sets, D)


# -- EXPLORE ---------------------------------------------------------------------------------


def pairs(sigma: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Differences of pairs, and verdicts drawn from the model itself."""
    moves = 1.5 * noise(n, len(sigma), seed=4)
    d = ((moves @ sigma) * moves).sum(1)
    u = torch.rand(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return moves, (u < 2 * torch.sigmoid(-d)).double()


def test_the_likelihood_is_that_of_the_model_and_its_gradient_is_right() -> None:
    root = noise(4, 4) / 2
    sigma = root @ root.T
    moves, verdict = pairs(sigma, 200)
    d = torch.einsum("ni,ij,nj->n", moves, sigma, moves)
    p = 2 / (1 + d.exp())
    expected = torch.distributions.Bernoulli(p).log_prob(verdict).mean()
    assert float(likelihood(sigma, moves, verdict)) == pytest.approx(float(expected))
    gradient, h = likelihood_gradient(sigma, moves, verdict), 1e-6
    for i in range(4):
        for j in range(4):
            step = torch.zeros_like(sigma)
            step[i, j] = h
            up, down = (likelihood(sigma + s * step, moves, verdict) for s in (1, -1))
            assert float(gradient[i, j]) == pytest.approx(float(up - down) / (2 * h), rel=1e-5)


def test_negative_eigenvalues_become_zero() -> None:
    vectors = torch.linalg.qr(noise(3, 3)).Q
    matrix = vectors @ torch.diag(torch.tensor([2.0, -1.0, 0.5]).double()) @ vectors.T
    nearest = vectors @ torch.diag(torch.tensor([2.0, 0.0, 0.5]).double()) @ vectors.T
    torch.testing.assert_close(nearest_psd(matrix), nearest)


def test_a_planted_metric_is_found_in_any_unit() -> None:
    unit = 100.0
    sigma = torch.diag(torch.tensor([1.0, 0.3, 0.0]).double())
    moves, verdict = pairs(sigma, 20_000)
    start = unit * noise(20_000, 3, seed=9)
    metric = explore_metric(start, start + unit * moves, verdict)
    torch.testing.assert_close(metric.sigma * unit**2, sigma, atol=0.06, rtol=0)
    torch.testing.assert_close(metric.sigma @ metric.directions, torch.zeros(3, 1).double())
    assert float(metric.directions[2].abs()) > 0.99
    best = likelihood(metric.sigma * unit**2, moves, verdict)
    assert float(best) >= float(likelihood(sigma, moves, verdict)) - 1e-4


def test_a_direction_in_which_all_comparable_pairs_differ_is_free() -> None:
    generator = torch.Generator().manual_seed(0)
    verdict = (torch.rand(4000, generator=generator) < 0.5).double()
    moves = noise(4000, 3)
    moves[:, 0] *= torch.where(verdict > 0, 3.0, 0.1)
    moves[:, 1:] *= torch.where(verdict > 0, 0.1, 3.0)[:, None]
    metric = explore_metric(torch.zeros(4000, 3), moves, verdict)
    assert metric.directions.shape == (3, 1)
    assert float(metric.directions[0].abs()) > 0.99
    with pytest.raises(ValueError, match=r"must hold both 1 \(comparable\) and 0"):
        explore_metric(torch.zeros(5, 3), torch.ones(5, 3), torch.ones(5))
