"""Models side by side on the same people: who gained, and who paid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairmt.auditing.assemble import Settings, judge, largest_gaps
from fairmt.auditing.columns import Table
from fairmt.auditing.cube import Cube
from fairmt.auditing.intervals import adjust, percentile
from fairmt.auditing.memory import bucket_of, cube_of_rows
from fairmt.auditing.plan import NotionChoice, Plan, make_plan
from fairmt.auditing.predictions import class_order, read_rows
from fairmt.auditing.resampling import poisson_draws, summed_replicates
from fairmt.auditing.rows import Rows
from fairmt.disparity import Disparity, Yardstick
from fairmt.files import write_text
from fairmt.frames import parse_task
from fairmt.moments import Moments
from fairmt.tasks import Classification, Task
from fairmt.utility import headline_replicates

SCHEMA = "fairmt.comparison/1"
OPPOSITE = ("recall", "true negative rate")
"""Measures that the summary is a mean of: every class, and every label with its opposite."""
_SIGNIFICANT = 0.05
_HELD = 40_000_000


@dataclass
class Comparison:
    """Models compared with a baseline, paired row by row.

    Attributes
    ----------
    groups : model, task, statistic, measure, attribute, group, n, value, baseline, change (of the
        benefit: above 0 is better), low, high, p_value, p_adjusted, outcome: 'gained', 'paid' or
        'no clear change'; for rates without a better side 'higher' or 'lower'.
    gaps : model, task, statistic, measure, attribute, gap, baseline, change (below 0 is
        narrower), low, high.
    tasks : model, task, utility (its name), value, baseline, relative_change with interval, the
        mean change of the task's gaps with interval, and `transfer` in words.
    summary : model, and per figure of `fairmt.disparity.Disparity` its value with interval.
    """

    baseline: str
    models: list[str]
    groups: pd.DataFrame
    gaps: pd.DataFrame
    tasks: pd.DataFrame
    summary: pd.DataFrame
    settings: dict[str, Any]
    title: str = "Comparison"

    @property
    def findings(self) -> list[str]:
        """Plain sentences, model by model."""
        from fairmt.auditing.findings import comparison_findings

        return comparison_findings(self)

    def to_frame(self) -> pd.DataFrame:
        """Group by group."""
        return self.groups.copy()

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        from fairmt.auditing.result import records

        return {
            "schema": SCHEMA,
            "title": self.title,
            "baseline": self.baseline,
            "models": self.models,
            "settings": self.settings,
            "findings": self.findings,
            **{t: records(getattr(self, t)) for t in ("summary", "tasks", "gaps", "groups")},
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON text, written to a file if a path is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        if path is not None:
            write_text(path, text)
        return text

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page."""
        from fairmt.auditing.report import render_comparison

        page = render_comparison(self)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        from fairmt.auditing.report import snippet

        return snippet(self.title, self.findings, self.summary)


def compare(
    models: Mapping[str, Any],
    *,
    tasks: Sequence[Task | str],
    sensitive: Any,
    truth: Any = None,
    baseline: str | None = None,
    bins: Mapping[str, Sequence[float]] | None = None,
    depth: int = 1,
    weight: str | None = None,
    cluster: str | None = None,
    identifier: str | None = None,
    **settings: Any,
) -> Comparison:
    """Compare predictions of two or more models for the same rows.

    Parameters
    ----------
    models : name -> table of predictions, as in `fairmt.audit`; rows in the same order. Columns
        that only the first table has (truths, attributes) are taken from there.
    baseline : what the others are compared with; default: the first. Name the single-task models
        here to see negative transfer and bias transfer.
    identifier : column that must be the same in every table, row by row.
    tasks, sensitive, truth, bins, depth, weight, cluster : as in `fairmt.audit`.
    settings : notions, n_boot, confidence, adjust, min_evidence, seed, title.

    Raises
    ------
    ValueError
        For fewer than two models, tables of different lengths or order, and everything that
        `fairmt.audit` refuses.
    """
    if len(models) < 2:
        raise ValueError(f"A comparison needs two models. Found {list(models)}.")
    tables = {name: Table.of(data, f"predictions of '{name}'") for name, data in models.items()}
    names = list(tables)
    first = tables[names[0]]
    for name, table in tables.items():
        if table.n != first.n:
            raise ValueError(
                f"'{name}' has {table.n} rows, but '{names[0]}' has {first.n}; models are compared "
                "row by row."
            )
        if identifier is not None and not (
            table.series(identifier).to_numpy() == first.series(identifier).to_numpy()
        ).all():
            raise ValueError(
                f"'{name}' has other values of '{identifier}' than '{names[0]}', or another "
                "order; sort both alike."
            )
        tables[name] = Table({**first.columns, **table.columns}, table.n)
    specs = [parse_task(t) for t in tasks]
    common = {
        "truth": truth, "bins": bins, "depth": depth, "weight": weight, "cluster": cluster,
    }  # fmt: skip
    read = {n: read_rows(t, specs, sensitive, **common) for n, t in tables.items()}
    specs = _same_classes(specs, list(read.values()))
    read = {n: read_rows(t, specs, sensitive, **common) for n, t in tables.items()}
    return compare_rows(read, baseline=baseline, **settings)


def _same_classes(specs: Sequence[Task], read: Sequence[Rows]) -> list[Task]:
    """Classes that any of the models knows."""
    found = []
    for spec in specs:
        if isinstance(spec, Classification) and not spec.outputs:
            seen = {o for rows in read for o in rows.layout[spec.name].outputs}
            spec = replace(spec, outputs=tuple(sorted(seen, key=class_order)))
        found.append(spec)
    return found


def compare_rows(
    models: Mapping[str, Rows],
    *,
    baseline: str | None = None,
    notions: NotionChoice = "all",
    **settings: Any,
) -> Comparison:
    """Compare models from rows in memory; see `compare`."""
    chosen = Settings(**({"title": "Comparison"} | settings))
    baseline = next(iter(models)) if baseline is None else baseline
    if baseline not in models:
        raise ValueError(f"baseline '{baseline}' is none of the models {list(models)}.")
    if chosen.n_boot < 2:
        raise ValueError("A comparison needs bootstrap replicates; set n_boot to 2 or more.")
    rows = models[baseline]
    scored = [t for t in rows.scored if all(t in r.scored for r in models.values())]
    plan = make_plan(rows.layout, rows.groups, notions, scored=scored, one_by_one=False)
    # Rows share buckets in the same way in every cube, so that replicates are paired.
    cubes = {n: cube_of_rows(r, plan, seed=chosen.seed) for n, r in models.items()}
    buckets = cubes[baseline].buckets
    assert buckets is not None
    draws = poisson_draws(len(buckets.rows), chosen.n_boot, chosen.seed)
    paired = _Paired(plan, cubes, draws, chosen, baseline)
    others = [n for n in models if n != baseline]
    utilities = _utilities(models, plan, draws, chosen)
    return Comparison(
        baseline=baseline,
        models=list(models),
        groups=pd.concat([paired.groups(n) for n in others], ignore_index=True),
        gaps=pd.concat([paired.gaps(n) for n in others], ignore_index=True),
        tasks=pd.concat([paired.tasks(n, utilities) for n in others], ignore_index=True),
        summary=pd.DataFrame([paired.summary(n) for n in models]),
        settings={
            k: v
            for k, v in asdict(chosen).items()
            if k in ("n_boot", "confidence", "adjust", "min_evidence", "seed", "tolerance")
        }
        | {
            "rows": len(rows),
            "weighted": rows.weights is not None,
            "clustered": rows.clusters is not None,
        },
        title=chosen.title,
    )


class _Paired:
    """Rates of all models, and their replicates under the same weights."""

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
        p = np.where(abs(change) < 1e-12, 1.0, 2 * _upper_tail(z))
        p = np.where(self.known, p, np.nan)
        adjusted = adjust(p.ravel(), self.settings.adjust).reshape(p.shape)
        names = ["everybody", *plan.groups.names]
        owner = ["everybody"] + [
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

    def tasks(self, model: str, utilities: _Utilities) -> pd.DataFrame:
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
            own = np.array([s.task == task.name for s in self.plan.statistics]) & entries
            own &= ~np.isnan(before)
            value, plain = utilities.value[model][t], utilities.value[self.baseline][t]
            drawn = utilities.replicates[model][:, t] - utilities.replicates[self.baseline][:, t]
            low, high = self._interval(drawn / abs(plain))
            row = {
                "model": model,
                "task": task.name,
                "utility": _UTILITY[task.kind],
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

    def summary(self, model: str) -> dict[str, Any]:
        """Gap, shortfall, level-down and so on of one model, with intervals."""
        plan, ledger = self.plan, self.plan.summed
        assert ledger is not None
        measures = [s.measure in OPPOSITE for s in ledger.statistics]
        chosen = torch.tensor(measures) if any(measures) else None
        moments = {n: self._moments(c) for n, c in self.cubes.items()}
        sizes = self.cubes[model].by_group(plan.groups, self.cubes[model].rows)
        yardstick = Yardstick(
            ledger,
            plan.groups,
            moments[self.baseline],
            torch.from_numpy(sizes[1:]),
            chosen,
            min_evidence=self.settings.min_evidence,
        )
        found = asdict(yardstick.measure(moments[model]))
        drawn = [
            asdict(self._drawn(yardstick, model, r)) for r in range(min(len(self.draws), 200))
        ]
        row: dict[str, Any] = {"model": model}
        for name, value in found.items():
            row[name] = value
            if name != "entries":
                low, high = self._interval(np.array([d[name] for d in drawn]))
                row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
        return row

    def _drawn(self, yardstick: Yardstick, model: str, replicate: int) -> Disparity:
        """Figures under one replicate's weights, the baseline's level included."""
        plain = self._sums(self.cubes[self.baseline], replicate)
        ledger = self.plan.summed
        assert ledger is not None
        other = yardstick.reweighted(ledger.rates(plain))
        sums = self._sums(self.cubes[model], replicate)
        empty = torch.zeros(0)
        return other.measure(Moments(sums, empty, empty))

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


_UTILITY = {
    "classification": "macro-F1",
    "detection": "macro average precision",
    "regression": "root mean squared error (standard units)",
}


@dataclass(frozen=True)
class _Utilities:
    """Headline utility of every model: (T,), and replicates (R, T). Errors are negative."""

    value: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]


def _utilities(
    models: Mapping[str, Rows], plan: Plan, draws: np.ndarray, settings: Settings
) -> _Utilities:
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
    return _Utilities(value, replicates)


def _upper_tail(z: np.ndarray) -> np.ndarray:
    from scipy import special

    tail: np.ndarray = special.ndtr(-z)
    return tail


def _outcome(known: bool, change: float, p_adjusted: float, orientation: int) -> str:
    if not known:
        return "too few people to tell"
    if not p_adjusted < _SIGNIFICANT:
        return "no clear change"
    if orientation == 0:
        return "higher" if change > 0 else "lower"
    return "gained" if change > 0 else "paid"


def _transfer(row: Mapping[str, float]) -> str:
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


