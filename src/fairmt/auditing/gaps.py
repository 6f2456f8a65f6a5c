"""Gaps between groups: their intervals, their tests, and verdicts in neutral words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.intervals import (
    adjust,
    bias_corrected,
    gap_interval,
    gap_p_value,
    gumbel,
    gumbel_tail,
    percentile,
    smoothed,
)
from fairmt.auditing.judging import Judged, Settings
from fairmt.auditing.plan import Plan
from fairmt.auditing.resampling import Replicates
from fairmt.disparity import DEAD, THICK_ROWS

SIGNIFICANT = 0.05


def largest_gaps(rates: np.ndarray, known: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Largest minus smallest known rate over the groups, the axis before the last."""
    top = np.where(known, rates, -np.inf).max(-2)
    low = np.where(known, rates, np.inf).min(-2)
    return top - np.where(distance, 0.0, low)


def gap_rows(
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
    boot = noise = None
    if drawn.boot is not None and drawn.noise is not None:
        boot = largest_gaps(drawn.boot[:, 1:], seen, plan.distance)
        noise = largest_gaps(drawn.noise[:, 1:], seen, plan.distance)
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
        if boot is not None and noise is not None:
            row["corrected"] = max(0.0, float(2 * gap[j] - boot[:, j].mean()))
            row["noise_floor"] = float(noise[:, j].mean())
        centre, variance = q[own, j], judged.variance[1:][partition.groups][own, j]
        if judged.exact[j]:
            centre = smoothed(centre, size[own])
        covariance = np.diag(variance)
        if drawn.boot is not None and (clustered or np.isnan(variance).any()):
            covariance = np.cov(drawn.boot[:, 1:][:, own, j].T)
        if plan.norm[j]:
            if noise is not None:
                row |= _beyond_noise(float(gap[j]), noise[:, j], settings)
        elif not np.isnan(covariance).any():
            row |= _beyond_pairs(centre, covariance, settings)
        if boot is not None and settings.interval != "auto":
            row["low"], row["high"] = _bootstrapped(float(gap[j]), boot[:, j], settings)
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


def _beyond_pairs(
    rates: np.ndarray, covariance: np.ndarray, settings: Settings
) -> dict[str, float]:
    """Interval of a gap, and its test against the tolerance, over all pairs of groups."""
    low, high = gap_interval(rates, covariance, settings.confidence)
    found = {"low": low, "high": high}
    if settings.tolerance is not None:
        found["p_value"] = gap_p_value(rates, covariance, settings.tolerance)
    return found


def _beyond_noise(gap: float, noise: np.ndarray, settings: Settings) -> dict[str, float]:
    """The same for distances: the true one is off by the noise's own distance at most."""
    reach = gumbel(noise, (1 + settings.confidence) / 2)
    found = {"low": max(0.0, gap - reach), "high": gap + reach}
    if settings.tolerance is not None:
        found["p_value"] = gumbel_tail(gap - settings.tolerance, noise)
    return found


def _bootstrapped(gap: float, boot: np.ndarray, settings: Settings) -> tuple[float, float]:
    if settings.interval == "percentile":
        low, high = percentile(boot, settings.confidence)
    else:
        low, high = bias_corrected(boot, np.array(gap), settings.confidence)
    return float(low), float(high)


_GAP_NUMBERS = (
    "gap", "low", "high", "corrected", "noise_floor", "worst_value", "best_value", "smallest_n",
)  # fmt: skip


def gap_table(rows: list[dict[str, Any]], settings: Settings) -> pd.DataFrame:
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
    return "above your tolerance, but not surely"
