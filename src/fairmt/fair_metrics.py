"""Fair metrics: distances for which people who differ only in what is sensitive are alike.

``d(x, x') = (x - x')ᵀ Σ (x - x')`` with Σ positive semi-definite, so that moves along some
directions cost nothing. Three ways to learn Σ (Mukherjee, Yurochkin, Banerjee and Sun, ICML 2020):
from attributes (`logistic_metric`), from sets of comparable people (`svd_metric`), and from pairs
that were judged comparable or not (`explore_metric`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairmt.groups import Groups

NEAR_ZERO = 0.01
"""What is below this share of the largest singular value or eigenvalue counts as zero."""
_TAIL = 0.001
"""Share of rows, at either end, that the range along a direction leaves out."""


@dataclass(frozen=True)
class FairMetric:
    """``d(x, x') = (x - x')ᵀ Σ (x - x')``.

    Attributes
    ----------
    sigma : Tensor (D, D), Σ, symmetric and positive semi-definite; None for ``I - AAᵀ``, the
        Euclidean distance less its part along the directions A. Of a picture's thousands of inputs
        the matrix would cost more than the model.
    directions : Tensor (D, r), orthonormal: moves along them cost nothing. r may be 0.
    low, high : Tensor (r,), where people lie along the directions.
    """

    sigma: Tensor | None
    directions: Tensor
    low: Tensor
    high: Tensor

    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """Distances (N,) between rows (N, D)."""
        move = other - x
        if self.sigma is None:
            return (move - (move @ self.directions) @ self.directions.T).square().sum(1)
        return ((move @ self.sigma) * move).sum(1)

    def like(self, other: Tensor) -> FairMetric:
        """On the device and in the precision of a tensor."""
        sigma = None if self.sigma is None else self.sigma.to(other)
        return FairMetric(sigma, self.directions.to(other), self.low.to(other), self.high.to(other))

    def parts(self) -> dict[str, Any]:
        """The four tensors by name."""
        return {
            "sigma": self.sigma,
            "directions": self.directions,
            "low": self.low,
            "high": self.high,
        }

    @staticmethod
    def without(directions: Tensor, features: Tensor) -> FairMetric:
        """The Euclidean distance less its part along orthonormal directions, ``Σ = I - AAᵀ``.

        Parameters
        ----------
        directions : Tensor (D, r).
        features : Tensor (N, D), rows that show how far people are apart along the directions.
        """
        return FairMetric(None, directions, *_range(features.double() @ directions))


def logistic_metric(
    features: Tensor,
    codes: Tensor,
    groups: Groups,
    *,
    values: Tensor | None = None,
    weights: Tensor | None = None,
    columns: Sequence[int] = (),
) -> FairMetric:
    """What tells the groups apart costs nothing.

    The sensitive directions are the coefficients of logistic regressions, one group against the
    rest, for every group of every attribute (of two groups, one regression serves both), and of
    ridge regressions for attributes that are used as numbers. All are stacked and orthonormalised.

    Ours: any number of groups (the published recipe takes binary attributes alone), numbers, rows
    without an attribute left out of its regressions, and an L2 instead of an L1 penalty, which
    never leaves a regression without any coefficient.

    Parameters
    ----------
    features : Tensor (N, D), on comparable scales.
    codes : Tensor (N, A), -1 where missing.
    values : Tensor (N, A), attributes as numbers; a column of NaN is not to be used as one.
    weights : Tensor (N,).
    columns : positions of features that are sensitive themselves; their axes cost nothing either.

    Raises
    ------
    ValueError
        If a position does not exist, or every direction would cost nothing.
    """
    n_features = features.shape[1]
    wrong = [c for c in columns if not 0 <= c < n_features]
    if wrong:
        raise ValueError(
            f"Sensitive columns {wrong} do not exist; expected positions from 0 to "
            f"{n_features - 1} among the {n_features} input columns."
        )
    x = (features if features.dtype == torch.float64 else features.float()).cpu().numpy()
    w = None if weights is None else weights.double().cpu().numpy()
    found = list(np.eye(n_features)[list(columns)])
    for position, attribute in enumerate(groups.attributes):
        numbers = None if values is None else values[:, position].double().cpu().numpy()
        if numbers is not None and not np.isnan(numbers).all():
            found += _ridge(x, numbers, w)
        else:
            own = codes[:, position].cpu().numpy()
            found += _one_versus_rest(x, own, len(attribute.categories), w)
    directions = orthonormal(torch.tensor(np.array(found, float).reshape(-1, n_features).T))
    if directions.shape[1] == n_features:
        raise ValueError(
            f"The sensitive directions span all {n_features} features, so that everybody would be "
            "alike. Name fewer attributes or sensitive columns."
        )
    return FairMetric.without(directions, features.cpu())


def svd_metric(sets: Sequence[Tensor], n_directions: int) -> FairMetric:
    """What varies within sets of comparable people costs nothing.

    The sensitive directions are the leading singular vectors of the sets, each less its own mean.

    Parameters
    ----------
    sets : Tensors (n_i, D) of people that shall be treated alike within each set, such as the
        embeddings of one text with different names.
    n_directions : at most so many.

    Raises
    ------
    ValueError
        If nobody differs within any set, or n_directions does not lie between 1 and D - 1.
    """
    stacked = torch.cat([s.double().cpu() for s in sets])
    n_features = stacked.shape[1]
    if not 1 <= n_directions < n_features:
        raise ValueError(
            f"n_directions must lie between 1 and {n_features - 1}, one fewer than the features. "
            f"Found {n_directions}."
        )
    centred = torch.cat([s.double().cpu() - s.double().cpu().mean(0) for s in sets])
    directions = orthonormal(centred.T)[:, :n_directions]
    if not directions.shape[1]:
        raise ValueError("Nobody differs within any set; a set needs two unequal rows.")
    return FairMetric.without(directions, stacked)


def explore_metric(
    x: Tensor,
    other: Tensor,
    comparable: Tensor,
    *,
    steps: int = 2000,
    batch_size: int = 512,
    rate: float = 1.0,
    seed: int = 0,
) -> FairMetric:
    """Σ that makes the verdicts on pairs most likely, ``P(comparable) = 2 / (1 + exp(d))``.

    The likelihood is concave in Σ. It is ascended by projected stochastic gradients: step ``rate /
    √(1 + t // 100)``, gradients of norm 1 at most (that of an incomparable pair has no bound as d
    goes to 0), negative eigenvalues set to 0 after every step, and the second half of the steps
    averaged. Differences are scaled to a mean square of 1, so that no setting depends on units.
    Directions that cost less than a hundredth of the dearest are free.

    Parameters
    ----------
    x, other : Tensor (N, D), the two of every pair.
    comparable : Tensor (N,), 1 for pairs that shall be treated alike, 0 for those that need not.

    Raises
    ------
    ValueError
        If verdicts are not 0 and 1, or all the same.
    """
    moves, verdict = (other - x).double().cpu(), comparable.double().cpu()
    if sorted(verdict.unique().tolist()) != [0.0, 1.0]:
        raise ValueError(
            "comparable must hold both 1 (comparable) and 0 (not). "
            f"Found {sorted(verdict.unique().tolist())[:5]}."
        )
    scale = moves.square().sum(1).mean().sqrt()
    moves = moves / scale
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.eye(moves.shape[1], dtype=torch.float64)
    average, averaged = torch.zeros_like(sigma), 0
    for t in range(steps):
        rows = torch.randint(len(moves), (min(batch_size, len(moves)),), generator=generator)
        gradient = likelihood_gradient(sigma, moves[rows], verdict[rows])
        gradient /= gradient.norm().clamp(min=1.0)
        sigma = nearest_psd(sigma + rate / (1 + t // 100) ** 0.5 * gradient)
        if 2 * t >= steps:
            average, averaged = average + sigma, averaged + 1
    eigenvalues, vectors = torch.linalg.eigh(average / averaged / scale**2)
    free = eigenvalues <= NEAR_ZERO * eigenvalues[-1]
    dear, directions = vectors[:, ~free], vectors[:, free]
    sigma = (dear * eigenvalues[~free]) @ dear.T
    people = torch.cat([x, other]).double().cpu()
    return FairMetric(sigma, directions, *_range(people @ directions))


def likelihood(sigma: Tensor, moves: Tensor, comparable: Tensor) -> Tensor:
    """Mean log-likelihood of the verdicts (N,) on pairs with differences (N, D)."""
    d = _distance(sigma, moves)
    alike = math.log(2.0) - torch.nn.functional.softplus(d)
    return torch.where(comparable > 0, alike, torch.tanh(d / 2).log()).mean()


def likelihood_gradient(sigma: Tensor, moves: Tensor, comparable: Tensor) -> Tensor:
    """Derivative (D, D) of `likelihood` by Σ.

    By d it is -1 / (1 + exp(-d)) for comparable pairs and 1 / sinh(d) for the others.
    """
    d = _distance(sigma, moves)
    by_distance = torch.where(comparable > 0, -torch.sigmoid(d), 1 / torch.sinh(d))
    return (moves * by_distance[:, None]).T @ moves / len(moves)


def _distance(sigma: Tensor, moves: Tensor) -> Tensor:
    # Between 0, where an incomparable pair is impossible, and where sinh overflows.
    return ((moves @ sigma) * moves).sum(1).clamp(1e-6, 500.0)


def nearest_psd(matrix: Tensor) -> Tensor:
    """The nearest positive semi-definite matrix: negative eigenvalues become 0."""
    eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * eigenvalues.clamp(min=0.0)) @ vectors.T


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis (D, r) of what the columns (D, k) span, the largest first.

    Singular vectors instead of a QR factorisation: they do not depend on the order of the columns
    or on their signs (but for their own), and near-zero directions show by their singular values.
    """
    vectors, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    if not sizes.numel() or not sizes[0] > 0:
        return columns[:, :0]
    return vectors[:, sizes > NEAR_ZERO * sizes[0]]


def _range(coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """Ends (r,) of where coordinates (N, r) lie, without the outermost rows."""
    ends = np.quantile(coordinates.numpy(), [_TAIL, 1 - _TAIL], axis=0)
    return torch.from_numpy(ends[0]), torch.from_numpy(ends[1])


def _one_versus_rest(
    x: np.ndarray, codes: np.ndarray, n_groups: int, weights: np.ndarray | None
) -> list[np.ndarray]:
    """Coefficients (D,) of every group against the rest; groups without rows have none."""
    from sklearn.linear_model import LogisticRegression

    known = codes >= 0
    found = []
    for g in range(n_groups if n_groups > 2 else 1):
        member = codes[known] == g
        if member.any() and not member.all():
            model = LogisticRegression(max_iter=1000)
            model.fit(x[known], member, None if weights is None else weights[known])
            found.append(model.coef_[0])
    return found


def _ridge(x: np.ndarray, values: np.ndarray, weights: np.ndarray | None) -> list[np.ndarray]:
    """Coefficients (D,) of a regression of the standardised values; none if they do not vary."""
    from sklearn.linear_model import Ridge

    known = ~np.isnan(values)
    spread = values[known].std()
    if not spread > 0:
        return []
    model = Ridge().fit(
        x[known].astype(np.float64),
        values[known] / spread,
        None if weights is None else weights[known],
    )
    return [model.coef_]
