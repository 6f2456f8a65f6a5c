"""Models on the same rows, resampled alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import special

from fairmt.auditing.cube import Cube
from fairmt.auditing.gaps import largest_gaps
from fairmt.auditing.intervals import adjust, percentile
from fairmt.auditing.judging import EVERYBODY, Settings, judge
from fairmt.auditing.memory import bucket_of
from fairmt.auditing.plan import Plan
from fairmt.auditing.resampling import summed_replicates
from fairmt.auditing.rows import Rows
from fairmt.disparity import Disparity, Yardstick
from fairmt.moments import Moments
from fairmt.utility import headline_replicates

OPPOSITE = ("recall", "true negative rate")
"""Measures that the summary is a mean of: every class, and every label with its opposite."""
UTILITY = {
    "classification": "macro-F1",
    "detection": "macro average precision",
    "regression": "root mean squared error (standard units)",
}
_SIGNIFICANT = 0.05
_HELD = 40_000_000
_SUMMARY_REPLICATES = 200


class Paired:
    """Rates of all models, and their replicates under the same weights (R, B) of buckets."""

    def __init__(
        self,
        plan: Plan,
        cubes: Mapping[str, Cube],
        draws: np.ndarray,
        settings: Settings,
        baseline: str,
    ) -> None:
        self.plan, self.cubes, self.settings, self.baseline = plan, cubes, settings, baseline
        self.draws = draws
        self.judged = {n: judge(plan, c) for n, c in cubes.items()}
        evidence = np.min([j.evidence for j in self.judged.values()], axis=0)
        self.known = evidence >= settings.min_evidence
        self.evidence = evidence
        self.replicates = {n: self._replicates(c) for n, c in cubes.items()}

    def _replicates(self, cube: Cube) -> np.ndarray:
        """(R, 1 + G, S) in the plan's order of statistics."""
        parts = [
            summed_replicates(self.plan, cube, position, self.draws)
            for position in range(len(self.plan.groups.partitions))
        ]
        both = np.concatenate([parts[0][:, :1], *(p[:, 1:] for p in parts)], 1)
        return both[..., self.plan.order]

    def _interval(self, replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return percentile(replicates, self.settings.confidence)

    def groups(self, model: str) -> pd.DataFrame:
        """Every group and statistic: who gained, and who paid."""
        plan = self.plan
        before, after = self.judged[self.baseline].rates, self.judged[model].rates
        sign = np.where(plan.orientation == 0, 1.0, plan.orientation)
        change = sign * (after - before)
        drawn = sign * (self.replicates[model] - self.replicates[self.baseline])
        low, high = self._interval(drawn)
        error = drawn.std(0, ddof=1)
        # The same decisions for everybody in a group are no change, and certainly none.
        z = abs(change) / np.maximum(error, 1e-12)
        p = np.where(abs(change) < 1e-12, 1.0, 2 * special.ndtr(-z))
        p = np.where(self.known, p, np.nan)
        adjusted = adjust(p.ravel(), self.settings.adjust).reshape(p.shape)
        names = [EVERYBODY, *plan.groups.names]
        owner = [EVERYBODY] + [
            q.name for q in plan.groups.partitions for _ in range(q.groups.start, q.groups.stop)
        ]
        rows = []
        for j, s in enumerate(plan.statistics):
            for g, name in enumerate(names):
                known = bool(self.known[g, j])
                row = {
                    "model": model,
                    "task": s.task,
                    "statistic": s.name,
                    "measure": s.measure,
                    "attribute": owner[g],
                    "group": name,
                    "n": float(self.evidence[g, j]),
                }
                values = (after, before, change, low, high, p, adjusted)
                keys = ("value", "baseline", "change", "low", "high", "p_value", "p_adjusted")
                row |= {
                    k: float(v[g, j]) if known else np.nan
                    for k, v in zip(keys, values, strict=True)
                }
                row["outcome"] = _outcome(
                    known, float(change[g, j]), float(adjusted[g, j]), int(plan.orientation[j])
                )
                rows.append(row)
        return pd.DataFrame(rows)

    def _gaps_of(self, rates: np.ndarray) -> list[np.ndarray]:
        """Gaps (..., S) of every partition."""
        found = []
        for partition in self.plan.groups.partitions:
            seen = self.known[1:][partition.groups]
            own = rates[..., 1:, :][..., partition.groups, :]
            gap = largest_gaps(own, seen, self.plan.distance)
            found.append(np.where(seen.sum(0) >= 2, gap, np.nan))
        return found

    def gaps(self, model: str) -> pd.DataFrame:
        """Every gap before and after."""
        before, after = (self._gaps_of(self.judged[n].rates) for n in (self.baseline, model))
        drawn = zip(
            self._gaps_of(self.replicates[self.baseline]),
            self._gaps_of(self.replicates[model]),
            strict=True,
        )
        rows = []
        for position, (old, new) in enumerate(drawn):
            low, high = self._interval(new - old)
            for j, s in enumerate(self.plan.statistics):
                rows.append(
                    {
                        "model": model,
                        "task": s.task,
                        "statistic": s.name,
                        "measure": s.measure,
                        "attribute": self.plan.groups.partitions[position].name,
                        "gap": float(after[position][j]),
                        "baseline": float(before[position][j]),
                        "change": float(after[position][j] - before[position][j]),
                        "low": float(low[j]),
                        "high": float(high[j]),
                    }
                )
        return pd.DataFrame(rows)

    def tasks(self, model: str, utilities: Utilities) -> pd.DataFrame:
        """Utility and gaps of every task: negative transfer, and bias transfer."""
        entries = self._headline_entries()
        old, new = (
            np.concatenate([g[..., None, :] for g in self._gaps_of(r)], -2)
            for r in (self.replicates[self.baseline], self.replicates[model])
        )
        before, after = (
            np.stack(self._gaps_of(self.judged[n].rates)) for n in (self.baseline, model)
        )
        rows = []
        for t, task in enumerate(self.plan.layout.tasks):
            belongs = np.array([s.task == task.name for s in self.plan.statistics])
            own = (belongs & entries) & ~np.isnan(before)
            value, plain = utilities.value[model][t], utilities.value[self.baseline][t]
            drawn = utilities.replicates[model][:, t] - utilities.replicates[self.baseline][:, t]
            low, high = self._interval(drawn / abs(plain))
            row = {
                "model": model,
                "task": task.name,
                "utility": UTILITY[task.kind],
                "value": abs(float(value)),
                "baseline": abs(float(plain)),
                "relative_change": float((value - plain) / abs(plain)),
                "low": float(low),
                "high": float(high),
                "gap_change": np.nan,
                "gap_low": np.nan,
                "gap_high": np.nan,
            }
            if own.any():
                changes = (new - old)[:, own].mean(1)
                gap_low, gap_high = self._interval(changes)
                row |= {
                    "gap_change": float((after - before)[own].mean()),
                    "gap_low": float(gap_low),
                    "gap_high": float(gap_high),
                }
            row["transfer"] = _transfer(row)
            rows.append(row)
        return pd.DataFrame(rows)

    def _headline_entries(self) -> np.ndarray:
        """Statistics whose gaps a task is judged by, (S,)."""
        measures = np.array([s.measure for s in self.plan.statistics])
        chosen = np.isin(measures, (*OPPOSITE, "mean residual", "mean squared error"))
        return chosen if chosen.any() else np.ones(len(measures), dtype=bool)

    def summary(self) -> pd.DataFrame:
        """Gap, shortfall, level-down and so on of every model, and their paired changes."""
        plan, ledger = self.plan, self.plan.summed
        assert ledger is not None
        measures = [s.measure in OPPOSITE for s in ledger.statistics]
        moments = {n: self._moments(c) for n, c in self.cubes.items()}
        sizes = self.cubes[self.baseline].by_group(plan.groups, self.cubes[self.baseline].rows)
        yardstick = Yardstick(
            ledger,
            plan.groups,
            moments[self.baseline],
            torch.from_numpy(sizes[1:]),
            torch.tensor(measures) if any(measures) else None,
            min_evidence=self.settings.min_evidence,
        )
        found = {n: asdict(yardstick.measure(m)) for n, m in moments.items()}
        drawn: dict[str, list[Disparity]] = {n: [] for n in self.cubes}
        for replicate in range(min(len(self.draws), _SUMMARY_REPLICATES)):
            plain = self._sums(self.cubes[self.baseline], replicate)
            other = yardstick.reweighted(ledger.rates(plain))
            for name, cube in self.cubes.items():
                sums = self._sums(cube, replicate)
                empty = torch.zeros(0)
                drawn[name].append(other.measure(Moments(sums, empty, empty)))
        rows = []
        for name, figures in found.items():
            for figure, value in figures.items():
                if figure == "entries":
                    continue
                own = np.array([getattr(d, figure) for d in drawn[name]])
                before_drawn = np.array([getattr(d, figure) for d in drawn[self.baseline]])
                low, high = self._interval(own - before_drawn)
                before = found[self.baseline][figure]
                rows.append(
                    {
                        "model": name,
                        "figure": figure.replace("_", " "),
                        "value": value,
                        "baseline": before,
                        "change": value - before,
                        "low": float(low),
                        "high": float(high),
                        "entries": figures["entries"],
                    }
                )
        return pd.DataFrame(rows)

    def _sums(self, cube: Cube, replicate: int) -> torch.Tensor:
        assert cube.buckets is not None
        w = self.draws[replicate]
        parts = [(w @ cube.buckets.everybody)[None]]
        for own in cube.buckets.by_partition:
            kept = own[:, :-1]
            parts.append((w @ kept.reshape(len(kept), -1)).reshape(kept.shape[1:]))
        return torch.from_numpy(np.concatenate(parts))

    def _moments(self, cube: Cube) -> Moments:
        groups = self.plan.groups
        return Moments(
            *(
                torch.from_numpy(cube.by_group(groups, x))
                for x in (cube.sums, cube.mass, cube.mass2)
            )
        )


@dataclass(frozen=True)
class Utilities:
    """Headline utility of every model: (T,), and replicates (R, T). Errors are negative."""

    value: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]


def utility_replicates(
    models: Mapping[str, Rows], plan: Plan, draws: np.ndarray, settings: Settings
) -> Utilities:
    rows = next(iter(models.values()))
    bucket, _ = bucket_of(rows, plan, settings.seed)
    w = np.ones(len(rows)) if rows.weights is None else rows.weights
    ones = torch.from_numpy(w.astype(np.float32))[None]
    step = max(1, _HELD // len(rows))
    value, replicates = {}, {}
    for name, own in models.items():
        atoms = own.atoms(slice(None))
        outputs = atoms.predicted.clone()
        for task in own.layout.tasks:
            span = own.layout.outputs[task.name]
            if task.kind == "detection":
                # Ranked by probability; the sign, by which decisions are made, plays no part.
                outputs[:, span] = atoms.probability[:, span]
        labels = torch.from_numpy(own.labels(slice(None)))
        zero = torch.zeros(own.layout.n_outputs)
        settle = (own.layout, outputs, labels, zero)
        value[name] = headline_replicates(*settle, ones)[0].numpy()
        parts = []
        for start in range(0, len(draws), step):
            drawn = draws[start : start + step][:, bucket] * w
            parts.append(headline_replicates(*settle, torch.from_numpy(drawn)).numpy())
        replicates[name] = np.concatenate(parts)
    return Utilities(value, replicates)


def _outcome(known: bool, change: float, p_adjusted: float, orientation: int) -> str:
    if not known:
        return "too few people to tell"
    if not p_adjusted < _SIGNIFICANT:
        return "no clear change"
    if orientation == 0:
        return "higher" if change > 0 else "lower"
    return "gained" if change > 0 else "paid"


def _transfer(row: Mapping[str, Any]) -> str:
    """What learning together did to a task, where the interval allows to say so."""
    found = []
    if row["high"] < 0:
        found.append("negative transfer: utility fell")
    elif row["low"] > 0:
        found.append("utility rose")
    if row["gap_low"] > 0:
        found.append("bias transfer: gaps grew")
    elif row["gap_high"] < 0:
        found.append("gaps narrowed")
    return "; ".join(found) or "no clear change"
