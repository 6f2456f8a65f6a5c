"""The audit itself, on tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairmt.auditing.bootstrap import permuted_sums, replicate_sums
from fairmt.auditing.result import AuditResult
from fairmt.disparity import DEAD, MIN_EVIDENCE, THICK_ROWS
from fairmt.groups import Groups
from fairmt.ledger import Ledger, decide, probabilities, truths
from fairmt.metrics import utilities_of
from fairmt.moments import Moments
from fairmt.notions import MEASURES, NOTIONS, Atoms
from fairmt.tasks import Layout

PERMUTATIONS = 20


def from_tensors(
    layout: Layout,
    groups: Groups,
    outputs: Tensor,
    labels: Tensor,
    codes: Tensor,
    *,
    offsets: Tensor | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit a model from its fused outputs (N, n_outputs) and packed labels (N, n_labels).

    Further settings are those of `audit_decisions`.
    """
    outputs = outputs.double()
    shift = None if offsets is None else offsets.double()
    decisions = decide(layout, outputs, shift)
    return audit_decisions(
        layout, groups, decisions, probabilities(layout, outputs), labels, codes, **settings
    )


def audit_decisions(
    layout: Layout,
    groups: Groups,
    decisions: Tensor,
    p: Tensor,
    labels: Tensor,
    codes: Tensor,
    *,
    notions: str | Sequence[str] = "all",
    weights: Tensor | None = None,
    clusters: np.ndarray | None = None,
    tolerance: float | None = None,
    n_boot: int = 200,
    confidence: float = 0.95,
    min_evidence: float = MIN_EVIDENCE,
    seed: int = 0,
    title: str = "Audit",
    extra: Mapping[str, Any] | None = None,
) -> AuditResult:
    """Audit decisions and probabilities.

    Parameters
    ----------
    decisions, p : Tensor (N, n_outputs): 0/1 and probabilities; in the columns of regression
        tasks both hold the prediction in standard units.
    labels : Tensor (N, n_labels), NaN where missing; codes : Tensor (N, A), -1 where missing.
    notions : names, or 'all'.
    weights : Tensor (N,); clusters : array (N,), resampled together (households, patients).
    tolerance : gap that is accepted; adds a verdict to every gap.
    n_boot : bootstrap replicates; 0 leaves intervals out.
    """
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more. Found {tolerance}.")
    groups.check(codes)
    chosen = (
        list(NOTIONS) if notions == "all" else [notions] if isinstance(notions, str) else notions
    )
    unknown = [n for n in chosen if n not in NOTIONS]
    if unknown:
        raise ValueError(f"Unknown notions {unknown}; expected some of {sorted(NOTIONS)}.")
    ledger = Ledger(
        layout, {t.name: [n for n in chosen if NOTIONS[n].judges(t)] for t in layout.tasks}
    )
    observed, actual = truths(layout, labels.double())
    atoms = Atoms(observed, actual, decisions.double(), p.double())
    w = None if weights is None else weights.double()
    member = groups.membership(codes, torch.float64)
    columns = ledger.columns(atoms)
    moments = Moments.of(member, columns, ledger.evidence(atoms), w)
    rates = ledger.rates(moments.sums)
    _check_range(ledger, rates, moments.evidence)
    known = moments.evidence[1:] >= min_evidence
    replicates = None
    if n_boot:
        sums = replicate_sums(member, columns, n_boot, seed, w, clusters)
        replicates = ledger.rates(sums)
    noise = None
    if n_boot:
        noise = ledger.rates(permuted_sums(groups, codes, columns, PERMUTATIONS, seed, w))
    rows = member[:, 1:].sum(0)
    tail = (1 - confidence) / 2
    rate_table = _rate_table(ledger, groups, rates, moments, known, rows, replicates, tail)
    gap_table = _gap_table(ledger, groups, rates, known, rows, replicates, noise, tail, tolerance)
    utilities = utilities_of(layout, decisions, p, labels, weights)
    utility_table = pd.DataFrame(
        [
            {"task": task, "metric": metric, "value": value}
            for task, metrics in utilities.items()
            for metric, value in metrics.items()
        ]
    )
    return AuditResult(
        title=title,
        rates=rate_table,
        gaps=gap_table,
        utilities=utility_table,
        observation=_observation(layout, groups, observed, actual, member),
        settings={
            "rows": len(codes),
            "tolerance": tolerance,
            "confidence": confidence,
            "n_boot": n_boot,
            "min_evidence": min_evidence,
            "seed": seed,
            "weighted": weights is not None,
            "clustered": clusters is not None,
            "notions": chosen,
        },
        tasks=[t.to_dict() for t in layout.tasks],
        attributes={a.name: list(a.categories) for a in groups.attributes},
        extra=dict(extra or {}),
    )


def _check_range(ledger: Ledger, rates: Tensor, evidence: Tensor) -> None:
    """A rate outside [0, 1] is a fault of ours or of the input, and must not be reported."""
    bad = ledger.bounded & ((rates < -1e-9) | (rates > 1 + 1e-9)) & (evidence > 0)
    if bool(bad.any()):
        j = int(bad.any(0).nonzero()[0])
        statistic = ledger.statistics[j]
        raise ValueError(
            f"'{statistic.name}' of task '{statistic.task}' is outside [0, 1]; probabilities or "
            "decisions are not what they should be."
        )


def _rate_table(
    ledger: Ledger,
    groups: Groups,
    rates: Tensor,
    moments: Moments,
    known: Tensor,
    rows: Tensor,
    replicates: Tensor | None,
    tail: float,
) -> pd.DataFrame:
    low = high = torch.full_like(rates, torch.nan)
    if replicates is not None:
        low = torch.quantile(replicates, tail, dim=0)
        high = torch.quantile(replicates, 1 - tail, dim=0)
    evidence = moments.evidence
    table = []
    for j, statistic in enumerate(ledger.statistics):
        everybody = [("everybody", "everybody", 0)]
        own = [
            (p.name, groups.names[g], g + 1)
            for p in groups.partitions
            for g in range(p.groups.start, p.groups.stop)
        ]
        for attribute, group, i in everybody + own:
            seen = i == 0 or bool(known[i - 1, j])
            table.append(
                {
                    "task": statistic.task,
                    "statistic": statistic.name,
                    "measure": statistic.measure,
                    "attribute": attribute,
                    "group": group,
                    "n": float(evidence[i, j]),
                    "value": float(rates[i, j]) if seen else math.nan,
                    "low": float(low[i, j]) if seen else math.nan,
                    "high": float(high[i, j]) if seen else math.nan,
                    "status": "known" if seen else "unknown",
                }
            )
    return pd.DataFrame(table)


def _gaps(q: Tensor, known: Tensor, distance: Tensor) -> Tensor:
    """Largest minus smallest known rate over the groups (dim -2)."""
    top = torch.where(known, q, -torch.inf).amax(-2)
    low = torch.where(known, q, torch.inf).amin(-2)
    return top - torch.where(distance, 0.0, low)


def _gap_table(
    ledger: Ledger,
    groups: Groups,
    rates: Tensor,
    known: Tensor,
    rows: Tensor,
    replicates: Tensor | None,
    noise: Tensor | None,
    tail: float,
    tolerance: float | None,
) -> pd.DataFrame:
    table = []
    for partition in groups.partitions:
        q, seen = rates[1:][partition.groups], known[partition.groups]
        gap = _gaps(q, seen, ledger.distance)
        boot = floor = None
        if replicates is not None:
            boot = _gaps(replicates[:, 1:][:, partition.groups], seen, ledger.distance)
        if noise is not None:
            floor = _gaps(noise[:, 1:][:, partition.groups], seen, ledger.distance).mean(0)
        for j, statistic in enumerate(ledger.statistics):
            names = groups.names[partition.groups]
            row: dict[str, Any] = {
                "task": statistic.task,
                "statistic": statistic.name,
                "measure": statistic.measure,
                "attribute": partition.name,
                "status": _status(ledger, q[:, j], seen[:, j], j),
                "thin_groups": int((rows[partition.groups] < THICK_ROWS).sum()),
                "unknown_groups": int((~seen[:, j]).sum()),
            }
            if row["status"] != "unknown":
                values = torch.where(seen[:, j], q[:, j], torch.nan)
                order = np.argsort(values.numpy() * (ledger.orientation[j].item() or 1.0))
                order = order[: int(seen[:, j].sum())]
                worst, best = names[order[0]], names[order[-1]]
                if ledger.distance[j]:
                    worst, best = best, worst
                row |= {"gap": float(gap[j]), "worst_group": worst, "best_group": best}
                if boot is not None:
                    row |= _interval(gap[j], boot[:, j], tail, tolerance)
                if floor is not None:
                    row["noise_floor"] = float(floor[j])
            table.append(row)
    frame = pd.DataFrame(table)
    for column in ("gap", "low", "high", "corrected", "noise_floor", "p_value"):
        if column not in frame:
            frame[column] = math.nan
    for column in ("worst_group", "best_group"):
        frame[column] = frame.get(column, pd.Series(dtype=object))
    return _verdicts(frame, tolerance)


def _status(ledger: Ledger, q: Tensor, seen: Tensor, j: int) -> str:
    if int(seen.sum()) < 2:
        return "unknown"
    values = q[seen]
    dead = bool((values < DEAD).all()) or bool((values > 1 - DEAD).all())
    return "dead" if bool(ledger.bounded[j]) and dead else "live"


def _interval(gap: Tensor, boot: Tensor, tail: float, tolerance: float | None) -> dict[str, float]:
    """Interval of a gap, its upward bias taken off, and the test against the tolerance.

    The largest minus the smallest of noisy rates is too large on average, and the bootstrap's
    gaps are too large once more, by about as much: the interval is reflected at the estimate.
    """
    spread = boot - boot.mean()
    corrected = (2 * gap - boot.mean()).clamp(min=0.0)
    found = {
        "corrected": float(corrected),
        "low": float((corrected + torch.quantile(spread, tail)).clamp(min=0.0)),
        "high": float(corrected + torch.quantile(spread, 1 - tail)),
    }
    if tolerance is not None:
        # One-sided, normal: replicates are too few for the small values that Holm asks for.
        z = float((corrected - tolerance) / boot.std().clamp(min=1e-12))
        found["p_value"] = 0.5 * math.erfc(z / math.sqrt(2))
    return found


def _verdicts(frame: pd.DataFrame, tolerance: float | None) -> pd.DataFrame:
    """Holm's adjustment over all known gaps, and a verdict in neutral words."""
    if tolerance is None:
        return frame
    tested = frame.index[frame["p_value"].notna()]
    order = frame.loc[tested, "p_value"].sort_values()
    running, m = 0.0, len(order)
    for i, (index, p_value) in enumerate(order.items()):
        running = max(running, min(1.0, (m - i) * float(p_value)))
        frame.loc[index, "p_holm"] = running
    verdict = []
    for _, row in frame.iterrows():
        if row["status"] == "unknown":
            verdict.append("too few people to tell")
        elif row["gap"] <= tolerance:
            verdict.append("within your tolerance")
        elif row.get("p_holm", 1.0) < 0.05:
            verdict.append("outside your tolerance")
        else:
            verdict.append("above your tolerance, within sampling error")
    frame["verdict"] = verdict
    return frame


def _observation(
    layout: Layout, groups: Groups, observed: Tensor, actual: Tensor, member: Tensor
) -> pd.DataFrame:
    """How often labels are observed in every group, and how often they hold."""
    rows = member.sum(0).clamp(min=1)
    seen, holds = member.T @ observed, member.T @ actual
    table = []
    names = ["everybody", *groups.names]
    owner = ["everybody"] + [
        p.name for p in groups.partitions for _ in range(p.groups.start, p.groups.stop)
    ]
    for task in layout.tasks:
        start = layout.outputs[task.name].start
        for k, output in enumerate(task.outputs):
            for i, name in enumerate(names):
                n = float(seen[i, start + k])
                mean = float(holds[i, start + k]) / n if n else math.nan
                table.append(
                    {
                        "task": task.name,
                        "output": output,
                        "attribute": owner[i],
                        "group": name,
                        "rows": float(member.sum(0)[i]),
                        "observed": n / float(rows[i]),
                        "base_rate": mean if task.kind != "regression" else math.nan,
                    }
                )
    return pd.DataFrame(table)


def definitions(measures: Sequence[str]) -> dict[str, str]:
    """One sentence for each measure."""
    return {m: MEASURES[m].sentence for m in measures}
