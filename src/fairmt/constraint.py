"""Asymmetric heterogeneous constraint aggregation: the disparities of all tasks as one scalar.

FairMT (arXiv 2512.00469) as formulated in this library: the paper's abstract names the idea; the
violation, its directional reference and the smooth worst case below are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.moments import Moments


@dataclass(frozen=True)
class Entry:
    """One entry of the constraint, and its share of the pressure."""

    task: str
    statistic: str
    attribute: str
    group: str
    violation: float
    share: float

    def __str__(self) -> str:
        return f"{self.task}: {self.statistic} for {self.group}"


@dataclass
class Aggregate:
    """The constraint on one batch.

    Attributes
    ----------
    value : Tensor, scalar, the smooth worst case C.
    violations, shares : Tensor (G, J); shares sum to 1 over the known entries.
    known : Tensor (G, J) of bool.
    """

    value: Tensor
    violations: Tensor
    shares: Tensor
    known: Tensor


class Constraint:
    """From moments to violations to one scalar.

    For an oriented statistic *j* and an attribute with known groups, with benefits ``b = o·q`` and
    the best-served group's ``r = max_g b``,

        r̃ = (1 - α)·r + α·stopgrad(r),    v = [r̃ - b - ε]₊

    and for a statistic without orientation ``v = [|q - c| - ε]₊`` around its centre c, which
    carries no gradient. With floors, ``[floor - b - η]₊`` joins as further entries. All known
    entries become ``C = (1/κ) log Σ ω exp(κ v)``, Σω = 1, ω ∝ task weight / (statistics of the
    task · attributes · groups).

    Parameters
    ----------
    tolerance : float or mapping from task name to float
        ε: the gap that is accepted, a difference of rates; for regression in standard deviations
        of the target (variances, for squared errors).
    directionality : float in [0, 1]
        α: 0 pulls the best-served group down as hard as it lifts the others; 1 never touches it.
    sharpness : float
        κ: 0 is the mean, inf the maximum.
    min_evidence : float
        Rows a group needs before its rate is known; below, its entries leave the constraint.
    standard_errors : float
        This many standard errors of the difference are subtracted inside ``[·]₊`` (rates in
        [0, 1] only); an alternative to memory against noise.
    floors : Tensor (G, J), optional
        Do no harm: benefits (orientation times rate) below which no group shall fall; NaN where
        there is no floor.
    floor_slack : float
        η.
    """

    def __init__(
        self,
        ledger: Ledger,
        groups: Groups,
        *,
        tolerance: float | Mapping[str, float] = 0.02,
        directionality: float = 0.8,
        sharpness: float = 4.0,
        min_evidence: float = 10.0,
        standard_errors: float = 0.0,
        floors: Tensor | None = None,
        floor_slack: float = 0.0,
    ) -> None:
        if not 0 <= directionality <= 1:
            raise ValueError(f"directionality must lie in [0, 1]. Found {directionality}.")
        if sharpness < 0:
            raise ValueError(f"sharpness must not be negative. Found {sharpness}.")
        self.ledger, self.groups = ledger, groups
        self.directionality, self.sharpness = directionality, sharpness
        self.min_evidence, self.standard_errors = min_evidence, standard_errors
        self.floor_slack = floor_slack
        self.epsilon = _tolerances(ledger, tolerance)
        self._orientation = ledger.orientation
        self._oriented = ledger.orientation != 0
        self._mixed = bool(self._oriented.any()) and not bool(self._oriented.all())
        self._pooled_centre = ~ledger.centred_at_zero
        self._partition = groups.partition_of_group()
        self._n_partitions = len(groups.partitions)
        self._log_weight = _weights(ledger, groups).log()
        self._bounded = ledger.bounded
        self.set_floors(floors)

    def set_floors(self, floors: Tensor | None) -> None:
        """Fix the do-no-harm floors, benefits (G, J); None removes them."""
        shape = (self.groups.n_groups, len(self.ledger))
        if floors is not None and tuple(floors.shape) != shape:
            raise ValueError(f"floors must be {shape} (groups, statistics). Got {floors.shape}.")
        self.floors = floors

    def known(self, evidence: Tensor) -> Tensor:
        """(G, J): entries with evidence enough whose attribute has two such groups.

        A statistic without orientation is compared with everybody, so one group suffices.
        """
        enough = evidence[1:] >= self.min_evidence
        per_partition = enough.new_zeros(
            (self._n_partitions, enough.shape[1]), dtype=torch.int64
        ).index_add(0, self._partition, enough.long())
        return enough & ((per_partition[self._partition] >= 2) | ~self._oriented)

    def reference(self, benefits: Tensor, known: Tensor) -> Tensor:
        """r of every group's attribute: the best known benefit, (G, J)."""
        masked = torch.where(known, benefits, -torch.inf)
        best = torch.full(
            (self._n_partitions, benefits.shape[1]),
            -torch.inf,
            device=benefits.device,
            dtype=benefits.dtype,
        ).scatter_reduce(0, self._partition[:, None].expand_as(masked), masked, "amax")
        return best[self._partition]

    def slack(self, rates: Tensor, known: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Signed violation before ``[·]₊``, (G, J); -inf where unknown.

        Parameters
        ----------
        rates : Tensor (1 + G, J), row 0 everybody.
        known : Tensor (G, J) of bool.
        evidence : Tensor (1 + G, J), needed with `standard_errors`.
        """
        q = rates[1:]
        parts = None
        if bool(self._oriented.any()):
            benefits = self._orientation * q
            best = self.reference(benefits, known)
            if self.directionality == 1:
                best = best.detach()
            elif self.directionality > 0:
                a = self.directionality
                best = (1 - a) * best + a * best.detach()
            parts = best - benefits
        if self._mixed or parts is None:
            centre = torch.where(self._pooled_centre, rates[0], 0.0).detach()
            deviation = (q - centre).abs()
            parts = deviation if parts is None else torch.where(self._oriented, parts, deviation)
        slack = parts - self.epsilon
        if self.standard_errors > 0 and evidence is not None:
            slack = slack - self.standard_errors * self._error_of_gap(rates.detach(), evidence)
        return torch.where(known, slack, -torch.inf)

    def _error_of_gap(self, rates: Tensor, evidence: Tensor) -> Tensor:
        """Standard error of the difference to the reference, 0 for unbounded statistics."""
        # Two successes and two failures are added so that a rate of 0 or 1 has an error too.
        n = evidence + 4.0
        p = (rates.clamp(0, 1) * evidence + 2.0) / n
        variance = torch.where(self._bounded, p * (1 - p) / n, 0.0)
        own = variance[1:]
        benefits = torch.where(
            evidence[1:] >= self.min_evidence, self._orientation * rates[1:], -1e9
        )
        best = self.reference(benefits, torch.ones_like(benefits, dtype=torch.bool))
        is_best = (benefits == best).to(own.dtype)
        of_best = torch.zeros(
            (self._n_partitions, own.shape[1]), device=own.device, dtype=own.dtype
        ).scatter_reduce(0, self._partition[:, None].expand_as(own), own * is_best, "amax")
        other = torch.where(self._oriented, of_best[self._partition], variance[0])
        return torch.where(is_best.bool() & self._oriented, 0.0, (own + other).sqrt())

    def violations(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Violations and which are known; with floors, their entries stand below: (G or 2G, J)."""
        rates, evidence = self.ledger.rates(moments.sums), moments.evidence
        known = self.known(evidence)
        v = torch.relu(self.slack(rates, known, evidence))
        if self.floors is None:
            return v, known
        has_floor = ~self.floors.isnan() & self._oriented & (evidence[1:] >= self.min_evidence)
        fall = self.floors - self._orientation * rates[1:] - self.floor_slack
        return (
            torch.cat([v, torch.relu(torch.where(has_floor, fall, 0.0))]),
            torch.cat([known, has_floor]),
        )

    def aggregate(self, moments: Moments) -> Aggregate:
        """The smooth worst case over the known entries; 0 where nothing is known."""
        v, known = self.violations(moments)
        log_w = self._log_weight
        if len(v) != len(log_w):
            log_w = torch.cat([log_w, log_w])
        log_w = torch.where(known, log_w, -torch.inf)
        total = torch.logsumexp(log_w.flatten(), 0)
        if not bool(total > -torch.inf):
            zero = moments.sums.sum() * 0.0
            return Aggregate(zero, v.detach(), torch.zeros_like(v), known)
        log_w = log_w - total
        kappa = self.sharpness
        if math.isinf(kappa):
            value = v.max()
            shares = (v == value).to(v.dtype) / (v == value).sum()
        elif kappa == 0:
            shares = log_w.exp()
            value = (shares * v).sum()
        else:
            scaled = (kappa * v + log_w).flatten()
            value = torch.logsumexp(scaled, 0) / kappa
            shares = torch.softmax(scaled.detach(), 0).view_as(v)
        return Aggregate(value, v.detach(), shares.detach(), known)

    def worst_slack(self, moments: Moments) -> float:
        """``S = max (r - b - ε)`` over the known entries: negative inside the tolerance."""
        rates = self.ledger.rates(moments.sums)
        known = self.known(moments.evidence)
        slack = self.slack(rates, known, moments.evidence)
        return float(slack.max()) if bool(known.any()) else -math.inf

    def binding(self, moments: Moments, most: int = 5) -> list[Entry]:
        """The entries that carry the most pressure, largest share first."""
        aggregate = self.aggregate(moments)
        n = self.groups.n_groups
        v, shares = aggregate.violations[:n], aggregate.shares[:n]
        pressing = (v > 0) & aggregate.known[:n]
        order = torch.where(pressing, v * 1e3 + shares, -1.0).flatten().argsort(descending=True)
        entries = []
        for flat in order[:most].tolist():
            g, j = divmod(flat, v.shape[1])
            if not pressing[g, j]:
                break
            statistic = self.ledger.statistics[j]
            entries.append(
                Entry(
                    statistic.task,
                    statistic.name,
                    self.groups.partitions[int(self._partition[g])].name,
                    self.groups.names[g],
                    float(v[g, j]),
                    float(shares[g, j]),
                )
            )
        return entries

    def to(self, device: torch.device | str) -> Constraint:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self


def _tolerances(ledger: Ledger, tolerance: float | Mapping[str, float]) -> Tensor:
    if isinstance(tolerance, Mapping):
        names = {t.name for t in ledger.layout.tasks}
        unknown = set(tolerance) - names
        if unknown:
            raise ValueError(
                f"tolerance names unknown tasks {sorted(unknown)}; tasks are {sorted(names)}."
            )
        missing = {s.task for s in ledger.statistics} - set(tolerance)
        if missing:
            raise ValueError(f"tolerance is missing for tasks {sorted(missing)}.")
        values: Sequence[float] = [tolerance[s.task] for s in ledger.statistics]
    else:
        values = [tolerance] * len(ledger)
    for value in values:
        if not value >= 0 or math.isinf(value):
            raise ValueError(f"tolerance must be a number, 0 or more. Found {value}.")
    return torch.tensor(values, dtype=torch.float32)


def _weights(ledger: Ledger, groups: Groups) -> Tensor:
    """ω (G, J), summing to 1 if every entry is known."""
    n_statistics = torch.bincount(ledger.task_index, minlength=len(ledger.layout.tasks))
    task_weight = torch.tensor([t.weight for t in ledger.layout.tasks])
    per_statistic = (task_weight / n_statistics.clamp(min=1))[ledger.task_index]
    sizes = torch.tensor([p.groups.stop - p.groups.start for p in groups.partitions])
    per_group = 1.0 / (len(groups.partitions) * sizes[groups.partition_of_group()])
    omega = per_group[:, None] * per_statistic[None, :]
    return (omega / omega.sum()).float()
