"""From a cube to the tables of an audit: rates, gaps, labels observed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.cube import Cube
from fairmt.auditing.intervals import (
    ADJUSTMENTS,
    INTERVALS,
    adjust,
    bias_corrected,
    binomial_variance,
    gap_interval,
    gap_p_value,
    percentile,
    wilson,
)
from fairmt.auditing.plan import Plan
from fairmt.auditing.resampling import Replicates, ratio_variance, resample
from fairmt.auditing.result import AuditResult
from fairmt.auditing.scores import score_table
from fairmt.disparity import DEAD, MIN_EVIDENCE, THICK_ROWS

SIGNIFICANT = 0.05
EVERYBODY = "everybody"


@dataclass(frozen=True)
class Settings:
    """How an audit judges.

    Attributes
    ----------
    tolerance : gap that is accepted; adds a test and a verdict to every gap.
    n_boot : bootstrap replicates; 0 leaves out what needs them.
    confidence : of the intervals.
    interval : 'auto' (Wilson for shares of rows, simultaneous Tukey-Kramer for gaps, percentile
        bootstrap for the rest), 'percentile' or 'bias-corrected' (bootstrap throughout).
    adjust : 'holm', 'benjamini-hochberg' or 'none', over all gaps tested.
    min_evidence : groups with fewer rows that a rate is about are too small to judge.
    """

    tolerance: float | None = None
    n_boot: int = 200
    confidence: float = 0.95
    interval: str = "auto"
    adjust: str = "holm"
    min_evidence: float = MIN_EVIDENCE
    seed: int = 0
    title: str = "Audit"

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be 0 or more. Found {self.tolerance}.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1. Found {self.confidence}.")
        if self.n_boot < 0 or int(self.n_boot) != self.n_boot:
            raise ValueError(f"n_boot must be a whole number, 0 or more. Found {self.n_boot}.")
        if self.interval not in INTERVALS:
            raise ValueError(f"interval must be one of {list(INTERVALS)}. Found {self.interval!r}.")
        if self.interval != "auto" and self.n_boot < 2:
            raise ValueError(f"interval={self.interval!r} needs bootstrap replicates: set n_boot.")
        if self.adjust not in ADJUSTMENTS:
            raise ValueError(f"adjust must be one of {list(ADJUSTMENTS)}. Found {self.adjust!r}.")
        if not self.min_evidence >= 1:
            raise ValueError(f"min_evidence must be 1 or more. Found {self.min_evidence}.")


@dataclass(frozen=True)
class Judged:
    """Rates and evidence of every group and statistic, (1 + G, S), everybody first.

    `variance` is that of the rate, NaN where only a bootstrap could tell it; `exact` (S,) says
    which rates are shares of rows that count one by one.
    """

    rates: np.ndarray
    evidence: np.ndarray
    variance: np.ndarray
    exact: np.ndarray
    rows: np.ndarray

    def known(self, min_evidence: float) -> np.ndarray:
        return self.evidence >= min_evidence


def judge(plan: Plan, cube: Cube) -> Judged:
    """Rates of every group from a cube.

    Raises
    ------
    ValueError
        If a share comes out below 0 or above 1; the statistic is named.
    """
    counts = cube.by_group(plan.groups, cube.counts)
    counted, sizes = plan.counted.rates(counts), plan.counted.sizes(counts)
    summed = plan.rates_of_sums(cube.by_group(plan.groups, cube.sums))
    mass = cube.by_group(plan.groups, cube.mass)
    mass2 = cube.by_group(plan.groups, cube.mass2)
    kish = mass**2 / np.where(mass2 > 0, mass2, 1.0)
    second = cube.by_group(plan.groups, cube.second)
    variance = np.full(summed.shape, np.nan)
    ratio = (second[0] != 0).any(-1)
    if ratio.any():
        linear = ratio_variance(second, summed, np.where(mass > 0, mass, 0.0))
        variance = np.where(ratio, linear, np.nan)
    everything = Judged(
        plan.join(counted, summed),
        plan.join(sizes, kish),
        plan.join(binomial_variance(counted, sizes), variance),
        plan.join(np.ones(counted.shape[-1]), np.zeros(summed.shape[-1])) > 0,
        cube.by_group(plan.groups, cube.rows),
    )
    _check_range(plan, everything)
    return _floor_variance(plan, everything)


def _floor_variance(plan: Plan, judged: Judged) -> Judged:
    """A share of 0 or 1 among weighted rows is not certain either."""
    certain = plan.bounded & ~judged.exact & (judged.variance < 1e-15)
    if not certain.any():
        return judged
    floor = binomial_variance(np.clip(judged.rates, 0, 1), judged.evidence)
    variance = np.where(certain, floor, judged.variance)
    return Judged(judged.rates, judged.evidence, variance, judged.exact, judged.rows)


def _check_range(plan: Plan, judged: Judged) -> None:
    bad = (judged.evidence > 0) & ~np.isfinite(judged.rates)
    bad |= plan.bounded & ((judged.rates < -1e-9) | (judged.rates > 1 + 1e-9))
    if bad.any():
        g, j = np.argwhere(bad)[0]
        statistic = plan.statistics[j]
        name = EVERYBODY if g == 0 else plan.groups.names[g - 1]
        raise ValueError(
            f"'{statistic.name}' of task '{statistic.task}' is {judged.rates[g, j]:g} for {name}, "
            "outside its range; probabilities, decisions or weights are not what they should be."
        )


def assemble(
    plan: Plan,
    cube: Cube,
    settings: Settings,
    utilities: pd.DataFrame,
    *,
    clustered: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> AuditResult:
    """The result of an audit."""
    judged = judge(plan, cube)
    known = judged.known(settings.min_evidence)
    low, high = _rate_limits(plan, judged, settings)
    gaps: list[dict[str, Any]] = []
    for position, partition in enumerate(plan.groups.partitions):
        drawn = resample(plan, cube, position, settings.n_boot, settings.seed)
        rows = np.arange(partition.groups.start, partition.groups.stop) + 1
        if drawn.boot is not None:
            _fill_from_boot(judged, drawn.boot, rows, low, high, settings, first=position == 0)
        gaps += _gap_rows(plan, judged, known, position, drawn, settings, clustered)
    return AuditResult(
        title=settings.title,
        rates=_rate_table(plan, judged, known, low, high),
        gaps=_gap_table(gaps, settings),
        utilities=utilities,
        observation=observation_table(plan, cube),
        scores=score_table(plan, cube),
        settings={k: v for k, v in asdict(settings).items() if k != "title"}
        | {
            "rows": cube.n_rows,
            "weighted": cube.masses is not None,
            "clustered": clustered,
            "notions": sorted({n for names in plan.notions.values() for n in names}),
        },
        tasks=[t.to_dict() for t in plan.layout.tasks],
        attributes={a.name: list(a.categories) for a in plan.groups.attributes},
        extra=dict(extra or {}),
    )


# -- rates --------------------------------------------------------------------------------------


def _rate_limits(plan: Plan, judged: Judged, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Limits that need no bootstrap; NaN elsewhere."""
    low = np.full(judged.rates.shape, np.nan)
    high = low.copy()
    if settings.interval == "auto" and judged.exact.any():
        a, b = wilson(judged.rates, judged.evidence, settings.confidence)
        low, high = np.where(judged.exact, a, low), np.where(judged.exact, b, high)
    return low, high


def _fill_from_boot(
    judged: Judged,
    boot: np.ndarray,
    rows: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    settings: Settings,
    first: bool,
) -> None:
    """Bootstrap limits of the groups of a partition and, with the first one, of everybody."""
    exact = judged.exact if settings.interval == "auto" else np.zeros_like(judged.exact)
    if exact.all():
        return
    at = np.append(0, rows) if first else rows
    replicates = (boot if first else boot[:, 1:])[..., ~exact]
    place = np.ix_(at, ~exact)
    if settings.interval == "bias-corrected":
        limits = bias_corrected(replicates, judged.rates[place], settings.confidence)
    else:
        limits = percentile(replicates, settings.confidence)
    low[place], high[place] = limits


def _rate_table(
    plan: Plan, judged: Judged, known: np.ndarray, low: np.ndarray, high: np.ndarray
) -> pd.DataFrame:
    owner = [EVERYBODY] + [
        p.name for p in plan.groups.partitions for _ in range(p.groups.start, p.groups.stop)
    ]
    names = [EVERYBODY, *plan.groups.names]
    seen = known.copy()
    seen[0] = judged.evidence[0] > 0
    n_groups, n_statistics = judged.rates.shape

    def column(values: np.ndarray) -> np.ndarray:
        return np.where(seen, values, np.nan).T.ravel()

    def repeated(values: list[str]) -> np.ndarray:
        return np.repeat(np.array(values, dtype=object), n_groups)

    def tiled(values: list[str]) -> np.ndarray:
        return np.tile(np.array(values, dtype=object), n_statistics)

    return pd.DataFrame(
        {
            "task": repeated([s.task for s in plan.statistics]),
            "statistic": repeated([s.name for s in plan.statistics]),
            "measure": repeated([s.measure for s in plan.statistics]),
            "attribute": tiled(owner),
            "group": tiled(names),
            "n": judged.evidence.T.ravel(),
            "value": column(judged.rates),
            "low": column(low),
            "high": column(high),
            "status": np.where(seen, "known", "unknown").T.ravel().astype(object),
        }
    )


# -- gaps ---------------------------------------------------------------------------------------


def largest_gaps(rates: np.ndarray, known: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Largest minus smallest known rate over the groups, the axis before the last."""
    top = np.where(known, rates, -np.inf).max(-2)
    low = np.where(known, rates, np.inf).min(-2)
    return top - np.where(distance, 0.0, low)


def _gap_rows(
    plan: Plan,
    judged: Judged,
    known: np.ndarray,
    position: int,
    drawn: Replicates,
    settings: Settings,
    clustered: bool,
) -> list[dict[str, Any]]:
    partition = plan.groups.partitions[position]
    names = plan.groups.names[partition.groups]
    q, seen = judged.rates[1:][partition.groups], known[1:][partition.groups]
    gap = largest_gaps(q, seen, plan.distance)
    boot = floor = None
    if drawn.boot is not None and drawn.noise is not None:
        boot = largest_gaps(drawn.boot[:, 1:], seen, plan.distance)
        floor = largest_gaps(drawn.noise[:, 1:], seen, plan.distance).mean(0)
    thin = int((judged.rows[1:][partition.groups] < THICK_ROWS).sum())
    table = []
    for j, statistic in enumerate(plan.statistics):
        own = np.flatnonzero(seen[:, j])
        row: dict[str, Any] = {
            "task": statistic.task,
            "statistic": statistic.name,
            "measure": statistic.measure,
            "attribute": partition.name,
            "status": _status(plan, q[own, j], j),
            "thin_groups": thin,
            "unknown_groups": int((~seen[:, j]).sum()),
        }
        table.append(row)
        if row["status"] == "unknown":
            continue
        worst, best = _extremes(plan, q[:, j], own, j)
        size = judged.evidence[1:][partition.groups][:, j]
        row |= {
            "gap": float(gap[j]),
            "worst_group": names[worst],
            "best_group": names[best],
            "worst_value": float(q[worst, j]),
            "best_value": float(q[best, j]),
            "smallest_n": float(min(size[worst], size[best])),
        }
        if boot is not None and floor is not None:
            row["corrected"] = max(0.0, float(2 * gap[j] - boot[:, j].mean()))
            row["noise_floor"] = float(floor[j])
        centre, variance = q[own, j], judged.variance[1:][partition.groups][own, j]
        covariance = np.diag(variance)
        if drawn.boot is not None and (clustered or np.isnan(variance).any()):
            replicates = drawn.boot[:, 1:][:, own, j]
            covariance = np.cov(replicates.T)
            if np.isnan(variance).any():
                # What is no ratio can be biased where a group is small (calibration error is).
                centre = 2 * centre - replicates.mean(0)
        column = None if boot is None else boot[:, j]
        row |= _uncertainty(plan, centre, covariance, float(gap[j]), column, j, settings)
    return table


def _extremes(plan: Plan, q: np.ndarray, own: np.ndarray, j: int) -> tuple[int, int]:
    """Positions of the worst and of the best group; lowest and highest where neither is better."""
    sign = -1.0 if plan.distance[j] else (plan.orientation[j] or 1.0)
    order = own[np.argsort(sign * q[own], kind="stable")]
    return int(order[0]), int(order[-1])


def _status(plan: Plan, values: np.ndarray, j: int) -> str:
    if len(values) < 2:
        return "unknown"
    dead = bool((values < DEAD).all() or (values > 1 - DEAD).all())
    return "dead" if plan.bounded[j] and dead and not plan.distance[j] else "live"


def _uncertainty(
    plan: Plan,
    rates: np.ndarray,
    covariance: np.ndarray,
    gap: float,
    boot: np.ndarray | None,
    j: int,
    settings: Settings,
) -> dict[str, float]:
    """Interval of a gap, and its test against the tolerance."""
    found: dict[str, float] = {}
    distance, usable = bool(plan.distance[j]), not np.isnan(covariance).any()
    if distance and boot is not None:
        # A distance has no pairs to compare: the bootstrap, centred at the corrected distance.
        centre, spread = max(0.0, 2 * gap - boot.mean()), boot - boot.mean()
        a, b = percentile(spread, settings.confidence)
        found = {"low": max(0.0, centre + float(a)), "high": centre + float(b)}
        if settings.tolerance is not None:
            z = (centre - settings.tolerance) / max(float(boot.std()), 1e-12)
            p = 0.5 * math.erfc(z / math.sqrt(2))
            found["p_value"] = min(1.0, len(rates) * p)
    elif not distance and usable:
        low, high = gap_interval(rates, covariance, settings.confidence)
        found = {"low": low, "high": high}
        if settings.tolerance is not None:
            found["p_value"] = gap_p_value(rates, covariance, settings.tolerance)
    if boot is not None and settings.interval != "auto":
        if settings.interval == "percentile":
            a, b = percentile(boot, settings.confidence)
        else:
            a, b = bias_corrected(boot, np.array(gap), settings.confidence)
        found |= {"low": float(a), "high": float(b)}
    return found


_GAP_NUMBERS = (
    "gap", "low", "high", "corrected", "noise_floor", "worst_value", "best_value", "smallest_n",
)  # fmt: skip


def _gap_table(rows: list[dict[str, Any]], settings: Settings) -> pd.DataFrame:
    """All gaps, with adjusted p-values and verdicts in neutral words."""
    texts = ("task", "statistic", "measure", "attribute", "status", "worst_group", "best_group")
    columns: dict[str, Any] = {c: np.array([r.get(c) for r in rows], dtype=object) for c in texts}
    for c in ("thin_groups", "unknown_groups"):
        columns[c] = [r[c] for r in rows]
    for c in _GAP_NUMBERS:
        columns[c] = np.array([r.get(c, np.nan) for r in rows])
    if settings.tolerance is not None:
        p = np.array([r.get("p_value", np.nan) for r in rows])
        columns["p_value"] = p
        columns["p_adjusted"] = adjust(p, settings.adjust)
        columns["verdict"] = np.array(
            [
                _verdict(s, g, q, settings.tolerance)
                for s, g, q in zip(
                    columns["status"], columns["gap"], columns["p_adjusted"], strict=True
                )
            ],
            dtype=object,
        )
    return pd.DataFrame(columns)


def _verdict(status: str, gap: float, p_adjusted: float, tolerance: float) -> str:
    if status == "unknown":
        return "too few people to tell"
    if gap <= tolerance:
        return "within your tolerance"
    if p_adjusted < SIGNIFICANT:
        return "outside your tolerance"
    return "above your tolerance, within sampling error"


# -- what is observed ---------------------------------------------------------------------------


def observation_table(plan: Plan, cube: Cube) -> pd.DataFrame:
    """How often labels are observed in every group, how often they hold, and R² of targets."""
    counts = cube.by_group(plan.groups, cube.counts)
    seen = cube.by_group(plan.groups, cube.seen)
    sums = cube.by_group(plan.groups, cube.targets)
    rows = cube.by_group(plan.groups, cube.rows)
    names = [EVERYBODY, *plan.groups.names]
    owner = [EVERYBODY] + [
        p.name for p in plan.groups.partitions for _ in range(p.groups.start, p.groups.stop)
    ]
    parts = []
    for task in plan.layout.tasks:
        for k, output in enumerate(task.outputs):
            fused = plan.layout.outputs[task.name].start + k
            base = r2 = np.full(len(names), np.nan)
            if task.kind == "regression":
                at = plan.targets.index(fused)
                n, r2 = seen[:, at], determination(sums[:, :, at])
            else:
                own = counts[:, :, plan.counted_outputs.index((task.name, fused))]
                n = own[:, 2:].sum(1)
                base = np.where(n > 0, own[:, 4:].sum(1) / np.maximum(n, 1), np.nan)
            parts.append(
                pd.DataFrame(
                    {
                        "task": task.name,
                        "output": output,
                        "attribute": owner,
                        "group": names,
                        "rows": rows,
                        "observed": n / np.maximum(rows, 1),
                        "base_rate": base,
                        "r2": r2,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def determination(sums: np.ndarray) -> np.ndarray:
    """R² (...) from the sums (..., 7) of `TARGET_SUMS`; NaN without spread of the target."""
    n, _, a, pp, aa, pa = (sums[..., i] for i in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = aa - a * a / n
        squared = pp - 2 * pa + aa
        return np.where((n > 0) & (spread > 1e-9 * n), 1 - squared / spread, np.nan)
