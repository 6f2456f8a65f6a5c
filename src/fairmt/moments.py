"""The sums: one matrix product gives every statistic of every task for every group.

``sums = Mᵀ (w ∘ columns)`` with the membership matrix M (B, 1 + G). Sums of batches, files or
processes add, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def group_sums(membership: Tensor, columns: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of `columns` (B, P) over the rows of every group: (1 + G, P)."""
    if weights is not None:
        membership = membership * weights.unsqueeze(1)
    return membership.T @ columns


@dataclass
class Moments:
    """Mergeable sums of a set of statistics (see `fairmt.ledger.Ledger`).

    Attributes
    ----------
    sums : Tensor, (1 + G, P)
        Weighted sums of the moment columns; row 0 is everybody.
    mass, mass2 : Tensor, (1 + G, J)
        Sums of the weights, and of their squares, of the rows that are evidence for statistic j.
    """

    sums: Tensor
    mass: Tensor
    mass2: Tensor

    @property
    def evidence(self) -> Tensor:
        """Kish's effective number of rows, (1 + G, J); a plain count without weights."""
        if self.mass2 is self.mass:
            return self.mass
        return self.mass**2 / torch.where(self.mass2 > 0, self.mass2, torch.ones_like(self.mass2))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.sums + other.sums, self.mass + other.mass, self.mass2 + other.mass2)

    @staticmethod
    def of(
        membership: Tensor, columns: Tensor, evidence: Tensor, weights: Tensor | None = None
    ) -> Moments:
        """Moments of one batch; `evidence` (B, J) is 1 where a row counts for statistic j."""
        sums = group_sums(membership, columns, weights)
        with torch.no_grad():
            mass = group_sums(membership, evidence, weights)
            mass2 = mass if weights is None else group_sums(membership, evidence, weights**2)
        return Moments(sums, mass, mass2)
