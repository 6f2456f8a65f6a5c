"""Dependence of two variables of any kind: normalised cross-covariance of their features.

With features φ of each variable, covariances C of the features and a ridge ε,

    I(X, Y) = ‖ (C_YY + ε)^-1/2 C_YX (C_XX + ε)^-1/2 ‖²,

and given Z, with X and Y extended by Z, ``C_YX - C_YZ (C_ZZ + ε)^-1 C_ZX`` in the place of C_YX
(Fukumizu, Gretton, Sun and Schölkopf, 2007). The score divides by √(I(X, X) · I(Y, Y)) and lies
in [0, 1] (Liu, Chan, van Breugel and van der Schaar, 2022).

Features are explicit: one per category, and waves for numbers (Rahimi and Recht, 2007), so that
everything comes from sums over rows and costs no more than a multiple of their number.
`gram_dependence` is the form of the papers, whose cost is cubic in it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.constants import Constant

RIDGE = 1e-3
"""ε, relative to the mean square of a variable's features."""
FEATURES = 16
"""Features of a number."""
_FEWEST = 8
_CONSTANT = 1e-8
"""The least I(X, X) · I(Y, Y): below it a variable is constant, and the score 0 instead of 0/0."""


class Variable(NamedTuple):
    """A variable: categories, numbers, or both at once.

    Its kernel is equality of the categories times a Gaussian of width 1 in the numbers.

    Attributes
    ----------
    codes : Tensor (N, ...) int64 from 0 to `cells` - 1, or None.
    numbers : Tensor (N, ..., d), divided by their bandwidth, or None.
    """

    codes: Tensor | None = None
    cells: int = 1
    numbers: Tensor | None = None

    def join(self, other: Variable) -> Variable:
        """Both as one variable, whose kernel is the product of the two."""
        codes, numbers = other.codes, other.numbers
        if self.codes is not None:
            codes = self.codes if codes is None else self.codes * other.cells + codes
        if self.numbers is not None:
            numbers = self.numbers if numbers is None else _side_by_side(self.numbers, numbers)
        return Variable(codes, self.cells * other.cells, numbers)

    def features(self, dtype: torch.dtype, per_number: int = FEATURES) -> Tensor:
        """A one, and p features whose inner products are about in proportion to the kernel.

        Several numbers have at most four times the features of one. Beside categories, each
        category has its share of them, but at least 8.

        Returns
        -------
        Tensor (N, ..., 1 + p)
        """
        if self.numbers is None:
            assert self.codes is not None
            return F.pad(F.one_hot(self.codes, self.cells).to(dtype), (1, 0), value=1.0)
        numbers = self.numbers.to(dtype)
        d = numbers.shape[-1]
        n_features = max(_FEWEST, per_number * min(d, 4) // self.cells)
        frequency, phase = (c.like(numbers) for c in _waves(d, n_features // 2))
        found = (numbers @ frequency + phase).cos()
        if self.codes is None:
            return found
        member = F.one_hot(self.codes, self.cells).to(dtype)
        found = (member.unsqueeze(-1) * found[..., 1:].unsqueeze(-2)).flatten(-2)
        return F.pad(found, (1, 0), value=1.0)

    def gram(self) -> Tensor:
        """The kernel between all rows, (N, N), exactly."""
        same: Tensor | float = 1.0
        if self.codes is not None:
            same = (self.codes[:, None] == self.codes).double()
        if self.numbers is None:
            assert isinstance(same, Tensor)
            return same
        return same * (-((self.numbers[:, None] - self.numbers) ** 2).sum(-1) / 2).exp()


@cache
def _waves(d: int, n: int) -> tuple[Constant, Constant]:
    """Frequencies (d, 1 + 2n) and phases (1 + 2n,) of cosines: a one, then n cosines and n sines.

    The frequencies are normal points spread evenly, which beat random ones for few numbers.
    """
    points = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(n, dtype=torch.float64)
    points = torch.special.ndtri(points).T
    none = torch.zeros(n + 1, dtype=torch.float64)
    frequency = torch.cat([none[:1].expand(d, 1), points, points], 1)
    return Constant(frequency), Constant(torch.cat([none, none[1:] - math.pi / 2]))


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], -1)


def median_distance(numbers: Tensor, most: int = 1000) -> float:
    """Median distance between rows (N, d), of at most `most` of them; 1 where there is none."""
    distances = torch.pdist(numbers[:: 1 + len(numbers) // most].double())
    return float(distances.median()) or 1.0 if len(distances) else 1.0


Sums = tuple[Tensor, ...]
"""Sums over rows of products of features, (..., 1 + p, 1 + q) each, the first entry the mass: of
x with x, x with y, y with y, and given z of x with z, y with z, z with z."""


def sums_of(x: Tensor, y: Tensor, weights: Tensor, z: Tensor | None = None) -> Sums:
    """Sums of features (N, ..., 1 + p) under weights (N, ...).

    With z, the features of x and y are those of the variables joined with it.
    """
    w = weights.unsqueeze(-1)
    wx = w * x
    found = (_Squares.apply(x, w), _products(wx, y), _Squares.apply(y, w))
    if z is None:
        return found
    return (*found, _products(wx, z), _products(y, w * z), _Squares.apply(z, w))


def _products(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("n...p,n...q->...pq", a, b)


class _Squares(torch.autograd.Function):
    """Sums of w a aᵀ over rows; being symmetric, they need one product backwards instead of two."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor) -> Tensor:
        wa = w * a
        ctx.save_for_backward(wa)
        return _products(a, wa)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (wa,), (gradient,) = ctx.saved_tensors, gradients
        return torch.einsum("n...p,...pq->n...q", wa, gradient + gradient.mT), None


class Dependence(NamedTuple):
    """What two variables share, from their sums or Gram matrices; one value a pair.

    Attributes
    ----------
    shared : I(X, Y), or given Z.
    of_x, of_y : I(X, X) and I(Y, Y), or given Z.
    """

    shared: Tensor
    of_x: Tensor
    of_y: Tensor

    @property
    def score(self) -> Tensor:
        """In [0, 1]; 0 where a variable is constant."""
        return self.shared / (self.of_x * self.of_y).clamp(min=_CONSTANT).sqrt()


def dependence(sums: Sums, ridge: float = RIDGE) -> Dependence:
    """Dependence of x and y, given z if it is among the sums."""
    xx, xy, yy, *given = (_covariance(s) for s in sums)
    own_x, both, own_y = xx, xy, yy
    if given:
        xz, yz, zz = given
        root_z = _root(zz, ridge * _mean_square(sums[5]))
        x_by_z, y_by_z = _solve(root_z, xz.mT), _solve(root_z, yz.mT)
        own_x, both, own_y = xx - xz @ x_by_z, xy - xz @ y_by_z, yy - yz @ y_by_z
    root_x, root_y = (
        _root(xx, ridge * _mean_square(sums[0])),
        _root(yy, ridge * _mean_square(sums[2])),
    )
    return Dependence(
        _trace(_solve(root_x, both), _solve(root_y, both.mT)),
        *(_trace(p, p) for p in (_solve(root_x, own_x), _solve(root_y, own_y))),
    )


def gram_dependence(
    x: Tensor, y: Tensor, z: Tensor | None = None, ridge: float = RIDGE
) -> Dependence:
    """The same from Gram matrices (N, N); with z, those of x and y are products with z's.

    ``Tr[R_Y R_X]`` with ``R = G (G + N ε)^-1`` and G the centred Gram matrix; given Z,
    ``Tr[R_Y R_X - 2 R_Y R_X R_Z + R_Y R_Z R_X R_Z]``. Cubic in N: for checks.
    """
    r_x, r_y = _smoother(x, ridge), _smoother(y, ridge)
    rest = torch.eye(len(x), dtype=x.dtype, device=x.device)
    if z is not None:
        rest = rest - _smoother(z, ridge)
    left, right = r_x @ rest, r_y @ rest
    return Dependence(_trace(left, right), _trace(left, left), _trace(right, right))


def _smoother(gram: Tensor, ridge: float) -> Tensor:
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    return _solve(_root(centred, ridge * gram.trace()), centred)


def _covariance(sums: Tensor) -> Tensor:
    """(..., p, q), centred; 0 where there is no row."""
    mass = sums[..., :1, :1]
    mean = sums / torch.where(mass > 0, mass, 1.0)
    return mean[..., 1:, 1:] - mean[..., 1:, :1] * mean[..., :1, 1:]


def _mean_square(sums: Tensor) -> Tensor:
    """Mean over rows of the squared length of the features, (..., 1, 1)."""
    mass = sums[..., :1, :1].detach()
    total = sums.detach().diagonal(0, -2, -1)[..., 1:].sum(-1)[..., None, None]
    return torch.where(mass > 0, total / torch.where(mass > 0, mass, 1.0), 1.0)


def _root(matrix: Tensor, ridge: Tensor) -> Tensor:
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky(matrix + ridge * eye)


def _solve(root: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right, root)


def _trace(a: Tensor, b: Tensor) -> Tensor:
    """Tr[a b]."""
    return (a * b.mT).sum((-2, -1))
