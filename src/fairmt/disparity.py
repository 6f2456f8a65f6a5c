"""Figures that judge a model against the plain one: gap, shortfall, level-down, utility.

All disparities are means over *entries*, pairs of attribute and statistic. Which entries count is
fixed from the plain model: live (some group between .02 and .98), among groups thick enough (100
rows) with evidence enough (30 rows that the statistic is about).
"""

from __future__ import annotations

from copy import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.moments import Moments

SHORTFALL_SLACK = 0.02
DEAD = 0.02
THICK_ROWS = 100
MIN_EVIDENCE = 30


@dataclass(frozen=True)
class Disparity:
    """Means over the counted entries.

    Attributes
    ----------
    gap, largest_gap : best minus worst group; for distances the worst group's.
    shortfall : ``[b^plain_best - b_worst - .02]₊``: how far the worst group stays below the level
        that the best-served group had under the plain model.
    worst, best : benefit of the worst and of the best group.
    level_down : ``[b^plain_g* - b_g*]₊``, g* the group best served under the plain model.
    entries : how many entries were counted.
    """

    gap: float
    largest_gap: float
    shortfall: float
    worst: float
    best: float
    level_down: float
    entries: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class Yardstick:
    """The plain model's rates on a part of the data, and the entries that count.

    Parameters
    ----------
    plain : Moments
        Of hard decisions of the plain model.
    rows : Tensor (G,)
        Rows of every group in the part.
    statistics : Tensor (J,) of bool, optional
        Which statistics the headline figures take; default: those in [0, 1] with an orientation.
    """

    def __init__(
        self,
        ledger: Ledger,
        groups: Groups,
        plain: Moments,
        rows: Tensor,
        statistics: Tensor | None = None,
        min_evidence: float = MIN_EVIDENCE,
        thick_rows: float = THICK_ROWS,
    ) -> None:
        self.ledger, self.groups = ledger, groups
        self._partition = groups.partition_of_group()
        self._n = len(groups.partitions)
        self._orientation = ledger.orientation.double()
        # A group with few rows leaves the comparison, and does not take its attribute with it.
        self.thin = rows < thick_rows
        self.known = (plain.evidence[1:] >= min_evidence) & ~self.thin[:, None]
        self._set_reference(ledger.rates(plain.sums))
        q = torch.where(self.known, self.rates[1:], torch.nan)
        top = self._reduce(torch.nan_to_num(q, nan=-torch.inf), "amax")
        low = self._reduce(torch.nan_to_num(q, nan=torch.inf), "amin")
        self.dead = ledger.bounded & ((top < DEAD) | (low > 1 - DEAD))
        compared = self._reduce(self.known.double(), "sum") >= 2
        if statistics is None:
            statistics = ledger.bounded & (ledger.orientation != 0)
        self.counted = compared & ~self.dead & statistics
        """(partitions, J): the entries that headline figures are means of."""

    def _set_reference(self, rates: Tensor) -> None:
        self.rates = rates
        benefits = self._benefits(rates)
        self._best = self._by_partition(benefits, "amax")
        known = torch.where(self.known, benefits, -torch.inf)
        self._best_group = [
            known[p.groups].argmax(0) + p.groups.start for p in self.groups.partitions
        ]

    def reweighted(self, rates: Tensor) -> Yardstick:
        """The same entries, with the plain model's rates under other weights of the rows."""
        other = copy(self)
        other._set_reference(rates)
        return other

    def gaps(self, rates: Tensor) -> Tensor:
        """Gap of every entry, (partitions, J); NaN where fewer than two groups are known."""
        q = rates[1:]
        top = self._reduce(torch.where(self.known, q, -torch.inf), "amax")
        low = self._reduce(torch.where(self.known, q, torch.inf), "amin")
        low = torch.where(self.ledger.distance, 0.0, low)
        compared = self._reduce(self.known.double(), "sum") >= 2
        return torch.where(compared, top - low, torch.nan)

    def shortfalls(self, rates: Tensor) -> Tensor:
        """Shortfall of every entry, (partitions, J)."""
        worst = self._by_partition(self._benefits(rates), "amin")
        return torch.relu(self._best - worst - SHORTFALL_SLACK)

    def measure(self, moments: Moments, counted: Tensor | None = None) -> Disparity:
        """Figures of a model on the same rows."""
        counted = self.counted if counted is None else counted
        n = int(counted.sum())
        if n == 0:
            nan = float("nan")
            return Disparity(nan, nan, nan, nan, nan, nan, 0)
        rates = self.ledger.rates(moments.sums)
        benefits = self._benefits(rates)
        gaps = self.gaps(rates)[counted]
        fall = torch.stack(
            [
                torch.relu(
                    self._benefits(self.rates).gather(0, g[None])[0]
                    - benefits.gather(0, g[None])[0]
                )
                for g in self._best_group
            ]
        )
        return Disparity(
            float(gaps.mean()),
            float(gaps.max()),
            float(self.shortfalls(rates)[counted].mean()),
            float(self._by_partition(benefits, "amin")[counted].mean()),
            float(self._by_partition(benefits, "amax")[counted].mean()),
            float(fall[counted].mean()),
            n,
        )

    def _benefits(self, rates: Tensor) -> Tensor:
        return self._orientation * rates[1:]

    def _by_partition(self, benefits: Tensor, how: str) -> Tensor:
        empty = -torch.inf if how == "amax" else torch.inf
        return self._reduce(torch.where(self.known, benefits, empty), how)

    def _reduce(self, x: Tensor, how: str) -> Tensor:
        start = {"amax": -torch.inf, "amin": torch.inf, "sum": 0.0}[how]
        return torch.full((self._n, x.shape[1]), start, dtype=x.dtype).scatter_reduce(
            0, self._partition[:, None].expand_as(x), x, how
        )
