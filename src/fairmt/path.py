"""The path: every epoch a candidate, and the choice among them in the user's own terms.

A run draws the trade-off once. `tolerance` and `utility_budget` then pick a candidate from figures
on validation data; nothing is trained again, and no choice sees test data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairmt.decisions import Recalibration
from fairmt.disparity import MIN_EVIDENCE, THICK_ROWS, Disparity, Yardstick
from fairmt.groups import Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.moments import Moments

Z_ONE_SIDED = 1.64
Z_TWO_TO_ONE = 0.43
MOST_MOVED = 1.0
"""Standard errors by which a gap is drawn to the others' mean, at the most."""
ROWS, VALUES = 8192, 1_200_000
"""Rows that are predicted at once at most, and values of features in them. Thousands of pictures
leave the processor's caches: a few hundred at a time take a third of the time."""
MOST_FOR_ONE_TASK = 3.0
"""A budget is a mean over tasks; this many times it is what a single one may lose."""
_NOTHING_TO_JUDGE = (
    "no group has enough labelled validation rows for a gap to be judged, so that no candidate can "
    "be told from another. More data, coarser groups, or a fixed strength may help"
)


@dataclass
class Candidate:
    """A model on the path, with what is known of it from validation data.

    Attributes
    ----------
    segment : 'warmup', 'plain' or 'path'.
    epoch : epochs trained.
    strength : λ at the end of the epoch.
    weights : the model's averaged state.
    offsets : the decision rule tuned on validation, groups unseen.
    utilities : Tensor (1 + R, T): signed headline utilities; row 0 on the rows as they are, then
        bootstrap replicates, drawn alike for all candidates.
    moments : of hard decisions.
    recalibration : of its probabilities, where that was asked for.
    repair : strength of the post-processing that follows the model; 0 is none.
    fitted : which of the post-processings that were fitted follows it.
    """

    segment: str
    epoch: float
    strength: float
    weights: dict[str, Tensor]
    offsets: Tensor
    utilities: Tensor
    moments: Moments
    recalibration: Recalibration | None = None
    repair: float = 0.0
    fitted: int = 0

    def state_dict(self) -> dict[str, Any]:
        scale_shift = None
        if self.recalibration is not None:
            scale_shift = [self.recalibration.scale, self.recalibration.shift]
        return {
            "segment": self.segment,
            "epoch": self.epoch,
            "strength": self.strength,
            "weights": self.weights,
            "offsets": self.offsets,
            "utilities": self.utilities,
            "moments": [self.moments.sums, self.moments.mass, self.moments.mass2],
            "recalibration": scale_shift,
            "repair": self.repair,
            "fitted": self.fitted,
        }

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Candidate:
        found = state["recalibration"]
        return Candidate(
            **{
                **state,
                "moments": Moments(*state["moments"]),
                "recalibration": None if found is None else Recalibration(*found),
            }
        )


@torch.no_grad()
def predict_outputs(model: torch.nn.Module, features: Tensor) -> Tensor:
    """Fused outputs (N, n_outputs) of features (N, D), on the CPU, in evaluation mode."""
    rows = max(1, min(ROWS, VALUES // max(1, features.shape[1])))
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = [
        model(features[i : i + rows].to(device)).float().cpu()
        for i in range(0, len(features), rows)
    ]
    model.train(was_training)
    return torch.cat(parts)


def judge(ledger: Ledger, groups: Groups, outputs: Tensor, table: Any, offsets: Tensor) -> Moments:
    """Moments of hard decisions on a table, in double precision."""
    atoms = atoms_of(ledger, outputs.double(), table.labels.double(), offsets.double())
    member = groups.membership(table.attributes, torch.float64)
    weights = None if table.weights is None else table.weights.double()
    return ledger.moments(member, atoms, weights)


@dataclass
class Point:
    """A candidate's place on the trade-off, measured on validation data against the plain model.

    Attributes
    ----------
    delta_m, delta_m_low : change of utility, and its lower one-sided bound.
    change : the change of every task.
    disparity : over the entries that count.
    worst_gap : the largest gap.
    """

    index: int
    candidate: Candidate
    delta_m: float
    delta_m_low: float
    change: dict[str, float]
    disparity: Disparity
    worst_gap: float


@dataclass
class Path:
    """All candidates of a run, the plain reference among them.

    Parameters
    ----------
    candidates : of the segments 'warmup', 'plain' and 'path'.
    rows : Tensor (G,), validation rows of every group.
    confidence : float
        Of the one-sided bound on Δm by which candidates are chosen.
    reference_optimism : float, optional
        For a reference that was chosen among more plain candidates than these: how much that
        flatters it.

    Attributes
    ----------
    plain : index of the reference, the plain candidate of the highest utility.
    optimism : by how much the reference's utility is flattered by that choice; Δm is given less it.
    """

    ledger: Ledger
    groups: Groups
    candidates: list[Candidate]
    rows: Tensor
    confidence: float = 0.6
    reference_optimism: float | None = None
    plain: int = field(init=False)
    optimism: float = field(init=False)
    points: list[Point] = field(init=False)

    def __post_init__(self) -> None:
        self.plain, self.optimism = self._best_plain()
        if self.reference_optimism is not None:
            self.optimism = self.reference_optimism
        reference = self.candidates[self.plain]
        for thick_rows in (THICK_ROWS, MIN_EVIDENCE):
            self.yardstick = Yardstick(
                self.ledger, self.groups, reference.moments, self.rows, thick_rows=thick_rows
            )
            if bool(self.yardstick.counted.any()):
                break
        self.points = [self._point(i, c, reference) for i, c in enumerate(self.candidates)]

    def _plain_candidates(self) -> list[int]:
        """The plain candidates; where training was not continued, those of the warm-up."""
        for segment in ("plain", "warmup"):
            indices = [i for i, c in enumerate(self.candidates) if c.segment == segment]
            if indices:
                return indices
        raise ValueError("The run holds no plain candidate to compare with.")

    def _best_plain(self) -> tuple[int, float]:
        """The plain candidate of the highest utility, and by how much that choice flatters it.

        The best of several looks better than it is. The excess is what a bootstrap sees when it
        repeats the choice on other weights of the rows: there minus here, relative to the mean of
        all (Efron 1983, the optimism of a choice).
        """
        indices = self._plain_candidates()
        u = torch.stack([self.candidates[i].utilities for i in indices])
        change = torch.nanmean((u - u[0, 0]) / u[0, 0].abs(), 2)
        ahead = change - change.mean(0)
        best = ahead.argmax(0)
        optimism = ahead[:, 1:].max(0).values - ahead[best[1:], 0]
        return indices[int(best[0])], max(0.0, float(optimism.mean()))

    def _point(self, i: int, c: Candidate, reference: Candidate) -> Point:
        change = (c.utilities - reference.utilities) / reference.utilities.abs()
        overall = torch.nanmean(change, 1) + (0.0 if i == self.plain else self.optimism)
        low = float(torch.quantile(overall[1:], 1 - self.confidence))
        names = [t.name for t in self.ledger.layout.tasks]
        gaps = self.yardstick.gaps(self.ledger.rates(c.moments.sums))
        counted = self.yardstick.counted & ~gaps.isnan()
        return Point(
            i,
            c,
            float(overall[0]),
            low,
            dict(zip(names, change[0].tolist(), strict=True)),
            self.yardstick.measure(c.moments),
            float(gaps[counted].max()) if bool(counted.any()) else math.nan,
        )

    def choose(
        self,
        *,
        tolerance: float | None = None,
        utility_budget: float | None = None,
        strength: float | None = None,
    ) -> Choice:
        """Pick a candidate.

        Parameters
        ----------
        tolerance : float in [0, 1]
            Every gap at most this: the candidate of the highest utility among those, the nearest
            where there is none. What counts is the gap that is likely behind what validation rows
            show, see `gaps`.
        utility_budget : float in [0, 1)
            The smallest shortfall whose relative loss of utility against the plain model stays
            within the budget, by the lower one-sided bound; no task may pay more than
            `MOST_FOR_ONE_TASK` times the budget.
        strength : float
            The candidate whose λ is nearest.

        Raises
        ------
        ValueError
            Unless exactly one of the three is given, in its range.
        """
        check_wish(tolerance, utility_budget, strength)
        if tolerance is not None:
            return self._within_tolerance(tolerance)
        if utility_budget is not None:
            return self._within_budget(utility_budget)
        assert strength is not None
        if strength == 0:
            return Choice(self.points[self.plain], "the plain model")
        own = [p for p in self.points if p.candidate.segment == "path"]
        # Of those of the same λ the wholly repaired one: whoever asked for a repair means it.
        best = min(
            own,
            key=lambda p: (
                abs(math.log(max(p.candidate.strength, 1e-9) / strength)),
                -p.candidate.repair,
            ),
        )
        return Choice(best, f"λ = {best.candidate.strength:.3g}, the nearest to {strength:g}")

    def _open(self) -> list[Point]:
        """Candidates to choose from: the path, and the plain model as its end."""
        return [self.points[self.plain]] + [p for p in self.points if p.candidate.segment == "path"]

    def _within_budget(self, budget: float) -> Choice:
        plain = self.points[self.plain]
        if not bool(self.yardstick.counted.any()):
            return Choice(plain, f"the plain model; {_NOTHING_TO_JUDGE}", reached=False)
        within = [
            p
            for p in self._open()
            if p.index == self.plain
            or (
                p.delta_m_low >= -budget
                and min(p.change.values()) + self.optimism >= -MOST_FOR_ONE_TASK * budget
            )
        ]
        best = min(within, key=lambda p: (p.disparity.shortfall, p.disparity.gap))
        if best.index != self.plain:
            note = (
                f"the smallest shortfall at a loss of utility of {budget:.1%} or less "
                f"(validation: Δm {best.delta_m:+.1%}, lower bound {best.delta_m_low:+.1%})"
            )
            # A mean over tasks hides that one of them pays for the others.
            task, change = min(best.change.items(), key=lambda item: item[1])
            if change < -budget:
                note += f"; most of it is paid by {task} ({change:+.1%})"
        elif len(self._open()) == 1:
            note = "the plain model, the only one that this method makes"
        else:
            note = f"no candidate improved on the plain model within a loss of {budget:.1%}"
        return Choice(best, note)

    def _within_tolerance(self, tolerance: float) -> Choice:
        if not bool(self.yardstick.counted.any()):
            return Choice(
                self.points[self.plain], f"the plain model; {_NOTHING_TO_JUDGE}", reached=False
            )
        open_ = self._open()
        outside = {p.index: self._outside(p, tolerance) for p in open_}
        within = [p for p in open_ if not outside[p.index]]
        if within:
            best = max(within, key=lambda p: p.delta_m)
            unclear = sum(e["unclear"] for e in self.gaps(best, tolerance))
            note = f"every gap that can be told is within {tolerance:g} on validation data"
            if unclear:
                note += f"; for {unclear} more there are too few people to tell"
            return Choice(best, note)
        best = min(open_, key=lambda p: max(e["over"] for e in outside[p.index]))
        pressing = [
            f"{e['task']}: {e['statistic']} by {e['attribute']} ({e['likely']:.3f})"
            for e in outside[best.index][:3]
        ]
        return Choice(
            best,
            f"tolerance {tolerance:g} was not reached by any candidate; this one comes nearest. "
            f"What stays outside: {'; '.join(pressing)}. "
            "A larger tolerance, other features, or a model for these outcomes apart may help.",
            reached=False,
        )

    def _outside(self, point: Point, tolerance: float) -> list[dict[str, Any]]:
        """Entries beyond the tolerance as far as sampling can tell, the worst first."""
        return sorted(
            (e for e in self.gaps(point, tolerance) if e["over"] > 0), key=lambda e: -e["over"]
        )

    def gaps(self, point: Point, tolerance: float = 0.0) -> list[dict[str, Any]]:
        """The counted gaps of a candidate, largest first.

        Each with `likely`, the gap that is behind what was seen (less its upward bias, and shrunk
        towards the mean of all gaps by as much as it is noisy); `unclear`, whether its sampling
        error is too large for this tolerance; and `over`, positive unless the odds are two to one
        that it is within.
        """
        counted = self.yardstick.counted
        gaps = self.yardstick.gaps(self.ledger.rates(point.candidate.moments.sums))[counted]
        errors = gap_errors(self.ledger, self.groups, point.candidate.moments)[counted]
        # A gap d between two rates with error s is seen as |d + s Z|, whose square is d² + s².
        likely, doubt = shrink((gaps**2 - errors**2).clamp(min=0.0).sqrt(), errors)
        rows = []
        for i, (p, j) in enumerate(counted.nonzero().tolist()):
            statistic = self.ledger.statistics[j]
            rows.append(
                {
                    "task": statistic.task,
                    "statistic": statistic.name,
                    "attribute": self.groups.partitions[p].name,
                    "gap": float(gaps[i]),
                    "likely": float(likely[i]),
                    "unclear": bool(Z_ONE_SIDED * errors[i] > tolerance),
                    "over": float(likely[i] + Z_TWO_TO_ONE * doubt[i]) - tolerance,
                }
            )
        return sorted(rows, key=lambda r: -r["gap"])


def shrink(values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy values drawn towards their common mean (empirical Bayes; DerSimonian and Laird 1986).

    The largest of many noisy values is mostly noise; shrunk, their maximum can be trusted. But one
    that truly stands out must not be hidden by the others: none is moved by more than
    `MOST_MOVED` of its errors (limited translation; Efron and Morris 1971).

    Parameters
    ----------
    values, errors : Tensor (N,), the errors positive.

    Returns
    -------
    The values behind them, (N,), and how uncertain these are, one standard deviation.
    """
    if len(values) < 3:
        return values, errors
    w = 1 / errors.clamp(min=1e-6) ** 2
    centre = (w * values).sum() / w.sum()
    spread = (w * (values - centre) ** 2).sum() - (len(values) - 1)
    between = (spread / (w.sum() - (w**2).sum() / w.sum())).clamp(min=0.0)
    total = 1 / (errors**2 + between).clamp(min=1e-12)
    mean = (total * values).sum() / total.sum()
    moved = (mean - values) * (1 - between * total)
    limit = MOST_MOVED * errors
    return values + moved.clamp(-limit, limit), errors * (between * total).sqrt()


def check_wish(
    tolerance: float | None, utility_budget: float | None, strength: float | None
) -> None:
    """Raise ValueError unless exactly one of the three is given, in its range."""
    if sum(x is not None for x in (tolerance, utility_budget, strength)) != 1:
        raise ValueError(
            "Give exactly one of tolerance, utility_budget and strength. "
            f"Found tolerance={tolerance}, utility_budget={utility_budget}, strength={strength}."
        )
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance must lie in [0, 1]. Found {tolerance}.")
    if utility_budget is not None and not 0 <= utility_budget < 1:
        raise ValueError(f"utility_budget must lie in [0, 1). Found {utility_budget}.")
    if strength is not None and not strength >= 0:
        raise ValueError(f"strength must not be negative. Found {strength}.")


@dataclass(frozen=True)
class Choice:
    """A chosen candidate and why; `reached` is False where a tolerance was out of reach."""

    point: Point
    reason: str
    reached: bool = True


def gap_errors(ledger: Ledger, groups: Groups, moments: Moments) -> Tensor:
    """Standard errors of the gaps (partitions, J): the two noisiest groups' rates, added in square.

    Rates in [0, 1] only, with two successes and two failures added; 0 for other statistics. A
    gap between a best and a worst group picks noise up from both ends; this bound is wide enough
    for that without a bootstrap.
    """
    rates, n = ledger.rates(moments.sums)[1:], moments.evidence[1:]
    p = (rates.clamp(0, 1) * n + 2) / (n + 4)
    variance = torch.where(ledger.bounded & (n > 0), p * (1 - p) / (n + 4), 0.0)
    errors = [variance.new_zeros(0, variance.shape[1])]
    for partition in groups.partitions:
        top = variance[partition.groups].topk(2, dim=0).values
        errors.append(top.sum(0).sqrt()[None])
    return torch.cat(errors)
