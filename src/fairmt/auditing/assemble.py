"""From a cube to the tables of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.cube import Cube
from fairmt.auditing.gaps import gap_rows, gap_table
from fairmt.auditing.intervals import bias_corrected, percentile, wilson
from fairmt.auditing.judging import EVERYBODY, Judged, Settings, judge
from fairmt.auditing.observation import observation_table
from fairmt.auditing.plan import Plan
from fairmt.auditing.resampling import resample
from fairmt.auditing.result import AuditResult
from fairmt.auditing.scores import score_table


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
        gaps += gap_rows(plan, judged, known, position, drawn, settings, clustered)
    return AuditResult(
        title=settings.title,
        rates=_rate_table(plan, judged, known, low, high),
        gaps=gap_table(gaps, settings),
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
