"""Models side by side on the same people: who gained, and who paid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fairmt.auditing.columns import Table
from fairmt.auditing.judging import Settings
from fairmt.auditing.memory import cube_of_rows
from fairmt.auditing.naming import class_order
from fairmt.auditing.paired import Paired, utility_replicates
from fairmt.auditing.plan import NotionChoice, make_plan
from fairmt.auditing.reading import read_rows
from fairmt.auditing.resampling import poisson_draws
from fairmt.auditing.rows import Rows
from fairmt.files import write_text
from fairmt.frames import parse_task
from fairmt.tasks import Classification, Task

SCHEMA = "fairmt.comparison/1"


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
    summary : model, figure (those of `fairmt.disparity.Disparity`), value, baseline, change, low,
        high, entries that it is a mean of.
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
        if (
            identifier is not None
            and not (
                table.series(identifier).to_numpy() == first.series(identifier).to_numpy()
            ).all()
        ):
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
    paired = Paired(plan, cubes, draws, chosen, baseline)
    others = [n for n in models if n != baseline]
    utilities = utility_replicates(models, plan, draws, chosen)
    return Comparison(
        baseline=baseline,
        models=list(models),
        groups=pd.concat([paired.groups(n) for n in others], ignore_index=True),
        gaps=pd.concat([paired.gaps(n) for n in others], ignore_index=True),
        tasks=pd.concat([paired.tasks(n, utilities) for n in others], ignore_index=True),
        summary=paired.summary(),
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
