"""f-divergences in Legendre form: ``D_f(P‖Q) = Σ Q f(P/Q) = max_A Σ A P − f*(A) Q``.

The maximum is at ``A = f'(P/Q)``. At any fixed A the right-hand side is linear in P and Q, so a
mini-batch's tables give unbiased gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

LARGEST_RATIO = 20.0
"""Ratios P/Q are told apart between its inverse and this; beyond, A stays at its bound."""

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Divergence:
    """A convex f with f(1) = 0, elementwise, and what its Legendre form needs.

    Attributes
    ----------
    f : of the ratio t > 0.
    slope : f'(t), the best A at ratio t.
    conjugate : f*(a) = sup_t (a t − f(t)).
    conjugate_slope : its derivative: the ratio at which `a` is best.
    low, high : where A is kept: f' at the smallest and at the largest ratio, inside the domain
        of f* and away from where it is infinite.
    neutral : f'(1), the best A where P = Q.
    """

    name: str
    f: Function
    slope: Function
    conjugate: Function
    conjugate_slope: Function
    low: float = field(init=False)
    high: float = field(init=False)
    neutral: float = field(init=False)

    def __post_init__(self) -> None:
        ratios = torch.tensor([1 / LARGEST_RATIO, LARGEST_RATIO, 1.0], dtype=torch.float64)
        for name, value in zip(("low", "high", "neutral"), self.slope(ratios), strict=True):
            object.__setattr__(self, name, float(value))

    def project(self, table: Tensor) -> Tensor:
        """The nearest table that may serve as A."""
        return table.clamp(self.low, self.high)

    def bound(self, table: Tensor, p: Tensor, q: Tensor) -> Tensor:
        """``A P − f*(A) Q``, elementwise; its sum is D_f at the best A, and less elsewhere."""
        return table * p - self.conjugate(table) * q

    def ascent(self, table: Tensor, p: Tensor, q: Tensor) -> Tensor:
        """Derivative of `bound` by A."""
        return p - self.conjugate_slope(table) * q


DIVERGENCES: dict[str, Divergence] = {
    d.name: d
    for d in (
        Divergence(
            "kl",
            lambda t: torch.xlogy(t, t),
            lambda t: 1 + t.log(),
            lambda a: (a - 1).exp(),
            lambda a: (a - 1).exp(),
        ),
        Divergence(
            "reverse_kl",
            lambda t: -t.log(),
            lambda t: -1 / t,
            lambda a: -1 - (-a).log(),
            lambda a: -1 / a,
        ),
        Divergence(
            "chi2",
            lambda t: (t - 1) ** 2,
            lambda t: 2 * (t - 1),
            lambda a: a + a * a / 4,
            lambda a: 1 + a / 2,
        ),
        # Twice the Jensen-Shannon divergence.
        Divergence(
            "jensen_shannon",
            lambda t: torch.xlogy(t, t) - (t + 1) * ((t + 1) / 2).log(),
            lambda t: (2 * t / (t + 1)).log(),
            lambda a: -(2 - a.exp()).log(),
            lambda a: a.exp() / (2 - a.exp()),
        ),
        Divergence(
            "squared_hellinger",
            lambda t: (t.sqrt() - 1) ** 2,
            lambda t: 1 - t.rsqrt(),
            lambda a: a / (1 - a),
            lambda a: (1 - a) ** -2,
        ),
        Divergence(
            "total_variation",
            lambda t: (t - 1).abs() / 2,
            lambda t: (t - 1).sign() / 2,
            lambda a: a,
            torch.ones_like,
        ),
    )
}


def find_divergence(name: str) -> Divergence:
    """The divergence of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in DIVERGENCES:
        raise ValueError(f"Unknown divergence '{name}'; expected one of {sorted(DIVERGENCES)}.")
    return DIVERGENCES[name]


def dual_exponent(p: float) -> float:
    """q with 1/p + 1/q = 1.

    Raises
    ------
    ValueError
        If p is below 1.
    """
    if not p >= 1:
        raise ValueError(f"The norm's p must be at least 1. Found {p}.")
    if p == 1:
        return math.inf
    return 1.0 if math.isinf(p) else p / (p - 1)
