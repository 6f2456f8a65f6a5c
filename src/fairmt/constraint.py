"""Asymmetric heterogeneous constraint aggregation: the disparities of all tasks as one scalar.

FairMT (arXiv 2512.00469) as formulated in this library: the paper's abstract names the idea; the
violation, its directional reference and the smooth worst case below are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fairmt.constants import Constant
from fairmt.gradients import with_gradients
from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.moments import Moments

UNKNOWN = Constant(torch.tensor(-torch.inf))
"""Benefit and slack of entries that nothing is known of."""


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


class _Gaps(NamedTuple):
    """Signed violations, and what they were computed from."""

    slack: Tensor
    benefits: Tensor | None
    best: Tensor | None
    deviation: Tensor | None


class Constraint:
    """From moments to violations to one scalar.

    For an oriented statistic *j* and an attribute with known groups, with benefits ``b = o·q`` and
    the best-served group's ``r = max_g b``,

        r̃ = (1 - α)·r + α·stopgrad(r),    v = [r̃ - b - ε]₊

    and for a statistic without orientation ``v = [|q - c| - ε]₊`` around its centre c, which
    carries no gradient. With floors, ``[floor - b - η]₊`` joins as further entries. All known
    entries become ``C = (1/κ) log Σ ω exp(κ v)``, Σω = 1, ω ∝ task weight / (attributes ·
    groups), and less where evidence is short.

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
    full_evidence : float
        Rows from which on an entry has its whole ω; with fewer, ω falls with the square of their
        share: the worst of many noisy rates is most often one of a few people, and its gradient
        is the noise of their rows. 0: all known entries count alike.
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
        full_evidence: float = 0.0,
        standard_errors: float = 0.0,
        floors: Tensor | None = None,
        floor_slack: float = 0.0,
    ) -> None:
        if not 0 <= directionality <= 1:
            raise ValueError(f"directionality must lie in [0, 1]. Found {directionality}.")
        if sharpness < 0:
            raise ValueError(f"sharpness must not be negative. Found {sharpness}.")
        if full_evidence < 0:
            raise ValueError(f"full_evidence must not be negative. Found {full_evidence}.")
        self.ledger, self.groups = ledger, groups
        self.directionality, self.sharpness = directionality, sharpness
        self.min_evidence, self.full_evidence = min_evidence, full_evidence
        self.standard_errors = standard_errors
        self.floor_slack = floor_slack
        oriented = ledger.orientation != 0
        self._any_oriented, self._all_oriented = bool(oriented.any()), bool(oriented.all())
        partition = groups.partition_of_group()
        self._tolerance = Constant(_tolerances(ledger, tolerance))
        self._orientation = Constant(ledger.orientation)
        self._unoriented = Constant(~oriented)
        self._pooled_centre = Constant(~ledger.centred_at_zero)
        self._bounded = Constant(ledger.bounded)
        self._weight = Constant(_weights(ledger, groups))
        self._partition = Constant(partition)
        self._members = Constant(groups.members_of_partitions())
        # One group suffices where the comparison is with a centre.
        self._n_needed = Constant(1.0 + oriented.double())
        # (G, G): 1 where two groups are compared; a product with it sums over partitions.
        self._compared = Constant((partition[:, None] == partition).double())
        self.set_floors(floors)

    @property
    def epsilon(self) -> Tensor:
        """Tolerance of every statistic, (J,)."""
        return self._tolerance.value

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
        own = evidence[1:]
        enough = torch.ge(own, self.min_evidence, out=torch.empty_like(own))
        n_compared = (self._compared.like(own) @ enough).mul_(enough)
        return n_compared >= self._n_needed.like(own)

    def reference(self, benefits: Tensor, known: Tensor) -> Tensor:
        """r of every group's attribute: the best known benefit, (G, J)."""
        masked = torch.where(known, benefits, UNKNOWN.like(benefits))
        members, partition = self._members.on(masked.device), self._partition.on(masked.device)
        best = masked.index_select(0, members.view(-1)).view(*members.shape, -1).amax(1)
        return best.index_select(0, partition)

    def slack(self, rates: Tensor, known: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Signed violation before ``[·]₊``, (G, J); -inf where unknown.

        Parameters
        ----------
        rates : Tensor (1 + G, J), row 0 everybody.
        known : Tensor (G, J) of bool.
        evidence : Tensor (1 + G, J), needed with `standard_errors`.
        """
        return self._gaps(rates, known, evidence).slack

    def _gaps(self, rates: Tensor, known: Tensor, evidence: Tensor | None) -> _Gaps:
        benefits = best = deviation = None
        if self._any_oriented:
            benefits = self._orientation.like(rates) * rates[1:]
            best = self.reference(benefits, known)
            # The direction shows in the gradient alone.
            reference = best
            if best.requires_grad:
                reference = torch.lerp(best, best.detach(), self.directionality)
            parts = reference - benefits
        if not self._all_oriented:
            centre = rates[0].detach() * self._pooled_centre.like(rates)
            deviation = rates[1:] - centre
            two_sided = deviation.abs()
            if self._any_oriented:
                two_sided = torch.where(self._unoriented.on(rates.device), two_sided, parts)
            parts = two_sided
        slack = parts - self._tolerance.like(rates)
        if self.standard_errors > 0 and evidence is not None:
            slack = slack - self.standard_errors * self._error_of_gap(rates.detach(), evidence)
        slack = torch.where(known, slack, UNKNOWN.like(rates))
        return _Gaps(slack, benefits, best, deviation)

    def _benefits(self, rates: Tensor) -> Tensor:
        return self._orientation.like(rates) * rates[1:]

    def _error_of_gap(self, rates: Tensor, evidence: Tensor) -> Tensor:
        """Standard error of the difference to the reference, 0 for unbounded statistics."""
        # Two successes and two failures are added so that a rate of 0 or 1 has an error too.
        n = evidence + 4.0
        p = (rates.clamp(0, 1) * evidence + 2.0) / n
        variance = torch.where(self._bounded.on(rates.device), p * (1 - p) / n, 0.0)
        own = variance[1:]
        oriented = ~self._unoriented.on(rates.device)
        benefits = torch.where(evidence[1:] >= self.min_evidence, self._benefits(rates), -1e9)
        everything = torch.ones_like(benefits, dtype=torch.bool)
        is_best = benefits == self.reference(benefits, everything)
        of_best = self.reference(own * is_best.to(own.dtype), everything)
        other = torch.where(oriented, of_best, variance[0])
        return torch.where(is_best & oriented, 0.0, (own + other).sqrt())

    def violations(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Violations and which are known; with floors, their entries stand below: (G or 2G, J)."""
        rates, evidence = self.ledger.rates(moments.sums), moments.evidence
        known = self.known(evidence)
        slack, known = self._with_floors(self.slack(rates, known, evidence), known, rates, evidence)
        return torch.relu(slack), known

    def _with_floors(
        self, slack: Tensor, known: Tensor, rates: Tensor, evidence: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.floors is None:
            return slack, known
        floors = self.floors.to(rates)
        oriented = ~self._unoriented.on(rates.device)
        has_floor = ~floors.isnan() & oriented & (evidence[1:] >= self.min_evidence)
        fall = floors - self._benefits(rates) - self.floor_slack
        return (
            torch.cat([slack, torch.where(has_floor, fall, -torch.inf)]),
            torch.cat([known, has_floor]),
        )

    def aggregate(self, moments: Moments, sharpness: float | None = None) -> Aggregate:
        """The smooth worst case over the known entries; 0 where nothing is known.

        `sharpness` stands in for the constraint's own.
        """
        rates = self.ledger.rates(moments.sums)
        found, gradient = self.judge(rates.detach(), moments.evidence, sharpness)
        if not rates.requires_grad:
            return found
        return replace(found, value=with_gradients(found.value, [rates], [gradient]))

    def judge(
        self, rates: Tensor, evidence: Tensor, sharpness: float | None = None
    ) -> tuple[Aggregate, Tensor]:
        """The aggregate, and its derivative by the rates (1 + G, J), which must have no graph."""
        compared = self.known(evidence)
        gaps = self._gaps(rates, compared, evidence)
        slack, known = self._with_floors(gaps.slack, compared, rates, evidence)
        v = torch.relu(slack)
        kappa = self.sharpness if sharpness is None else sharpness
        value, shares = self._worst_case(v, known, evidence, kappa)
        pull = shares * (slack > 0)
        return Aggregate(value, v, shares, known), self._gradient(gaps, compared, pull)

    def _worst_case(
        self, v: Tensor, known: Tensor, evidence: Tensor, kappa: float
    ) -> tuple[Tensor, Tensor]:
        """``(1/κ) log Σ ω exp(κ v)`` over the known entries, and its derivative, the shares.

        Both are 0 where nothing is known, since v then is 0 throughout.
        """
        largest, tiny = v.max(), torch.finfo(v.dtype).tiny
        if math.isinf(kappa):
            worst = ((v == largest) & known).to(v.dtype)
            return largest, worst / worst.sum().clamp(min=1)
        weight = self._weight.like(v)
        if self.full_evidence:
            weight = weight * (evidence[1:] / self.full_evidence).clamp_(max=1).square_()
        if len(v) != len(weight):
            weight = torch.cat([weight, weight])
        weight = weight * known
        total = weight.sum().clamp_(min=tiny)
        if kappa == 0:
            shares = weight / total
            return (shares * v).sum(), shares
        # The largest exponent is 0, so that nothing overflows.
        shares = (v - largest).mul_(kappa).exp_().mul_(weight)
        mass = shares.sum().clamp_(min=tiny)
        return largest + (mass / total).log_() / kappa, shares.div_(mass)

    def _gradient(self, gaps: _Gaps, known: Tensor, pull: Tensor) -> Tensor:
        """Derivative by the rates, given the derivative by every slack (`pull`)."""
        n = self.groups.n_groups
        of_gap = pull[:n]
        gradient = pull.new_zeros(1 + n, pull.shape[1])
        of_rates = gradient[1:]
        if gaps.benefits is not None and gaps.best is not None:
            if self.directionality < 1:
                # The best-served groups feel (1 - α) of the others' pull, and share it.
                is_best = torch.eq(gaps.benefits, gaps.best, out=torch.empty_like(gaps.best))
                is_best *= known
                compared = self._compared.like(pull)
                on_best = (compared @ of_gap).mul_(is_best)
                on_best.div_((compared @ is_best).clamp_(min=1))
                torch.sub((1 - self.directionality) * on_best, of_gap, out=of_rates)
            else:
                of_rates -= of_gap
            if self.floors is not None:
                of_rates -= pull[n:]
            of_rates *= self._orientation.like(pull)
        if gaps.deviation is not None:
            of_rates += of_gap * gaps.deviation.sign() * self._unoriented.like(pull)
        return gradient

    def worst_slack(self, moments: Moments) -> float:
        """``S = max (r - b - ε)`` over the known entries: negative inside the tolerance."""
        rates = self.ledger.rates(moments.sums)
        known = self.known(moments.evidence)
        slack = self.slack(rates, known, moments.evidence)
        return float(slack.max()) if bool(known.any()) else -math.inf

    def binding(self, moments: Moments, most: int = 5) -> list[Entry]:
        """The entries outside the tolerance, the most violated first."""
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
                    self.groups.partitions[int(self._partition.value[g])].name,
                    self.groups.names[g],
                    float(v[g, j]),
                    float(shares[g, j]),
                )
            )
        return entries


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
    return torch.tensor(values, dtype=torch.float64)


def _weights(ledger: Ledger, groups: Groups) -> Tensor:
    """ω (G, J), summing to 1 if every entry is known.

    Every pair of statistic and attribute counts alike, as in the figures that judge; a task's own
    weight says where that is not what is wanted.
    """
    task_weight = torch.tensor([t.weight for t in ledger.layout.tasks], dtype=torch.float64)
    per_statistic = task_weight[ledger.task_index]
    sizes = torch.tensor([p.groups.stop - p.groups.start for p in groups.partitions])
    per_group = 1.0 / (len(groups.partitions) * sizes[groups.partition_of_group()])
    omega = per_group[:, None] * per_statistic[None, :]
    return omega / omega.sum()
