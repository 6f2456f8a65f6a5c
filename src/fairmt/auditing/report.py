"""Audits and comparisons as self-contained pages: nothing is loaded from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmt.auditing import charts
from fairmt.auditing.findings import amount, findings, headline, ordered
from fairmt.measures import MEASURES
from fairmt.notions import NOTIONS

if TYPE_CHECKING:
    from fairmt.auditing.compare import Comparison
    from fairmt.auditing.result import AuditResult

DRAWN = 18
_CURVES = 6
_FIGURES = {
    "gap": "the largest minus the smallest rate among the groups that are large enough to judge",
    "interval of a gap": "from below, by how much some two groups differ at least; from above, by "
    "how much the two that truly differ most do at most (Tukey and Kramer)",
    "corrected": "the gap less its upward bias, which largest minus smallest always has; the bias "
    "is estimated by the bootstrap",
    "by chance": "the mean gap when group labels are exchanged at random",
    "outside your tolerance": "a test of 'no two groups differ by more than the tolerance' "
    "rejects, after correction for the number of gaps; where it does not, a gap above the "
    "tolerance is not surely outside",
    "dead": "all groups lie below 2 % or above 98 %, so that no gap can show",
}


def render(result: AuditResult) -> str:
    """HTML of an audit; every name from the data is escaped."""
    settings = result.settings
    judged = ordered(headline(result.gaps))
    pairs = judged.drop_duplicates(["task", "attribute"])
    curves = _curves(result)
    sections = [("findings", "Findings")]
    if result.extra.get("comparison"):
        sections.append(("comparison", "Comparison"))
    if result.extra.get("path"):
        sections.append(("path", "The path"))
    sections += [("map", "Map"), ("gaps", "Gaps"), ("groups", "Groups")]
    if curves:
        sections.append(("reliability", "Reliability"))
    if result.subgroups is not None:
        sections.append(("subgroups", "Subgroups"))
    sections += [
        ("utility", "Utility"), ("observed", "Observed"), ("all", "All gaps"),
        ("words", "Words"), ("card", "Model card"),
    ]  # fmt: skip
    methods = {
        "auto": f"{settings['confidence']:.0%} interval, which holds for all pairs of groups",
        "percentile": f"{settings['confidence']:.0%} bootstrap interval",
        "bias-corrected": f"{settings['confidence']:.0%} bias-corrected bootstrap interval",
    }
    return _page(
        "report.html.jinja",
        title=result.title,
        subtitle=_subtitle(settings),
        sections=[{"id": i, "title": t} for i, t in sections],
        findings=findings(result.gaps, settings["tolerance"], settings["confidence"]),
        flags=result.flags,
        tolerance=settings["tolerance"],
        rows=f"{settings['rows']:,}",
        interval=methods[settings["interval"]],
        attributes=result.attributes,
        task_list=", ".join(f"{t['name']} ({t['kind']})" for t in result.tasks),
        map=_map(result, pairs),
        forest=charts.forest(judged.head(DRAWN), settings["tolerance"]),
        n_shown=min(DRAWN, len(judged)),
        n_more=len(judged) if len(judged) > DRAWN else 0,
        bars=[_bars(result, row) for row in pairs.to_dict("records")],
        curves=curves,
        subgroups=None if result.subgroups is None else _subgroups(result.subgroups),
        utilities=_utilities(result),
        observation=_observation(result.observation),
        gaps=_gaps(result.gaps),
        rates=_rates(result.rates),
        path_chart=charts.path(result.extra["path"]) if result.extra.get("path") else None,
        comparison=result.extra.get("comparison"),
        model=result.extra.get("model"),
        definitions={m: MEASURES[m].sentence for m in sorted(set(result.gaps["measure"]))},
        notions={n: NOTIONS[n].sentence for n in settings["notions"]},
        figures=_FIGURES,
        number=number,
    )


def render_comparison(comparison: Comparison) -> str:
    """HTML of a comparison."""
    others = [m for m in comparison.models if m != comparison.baseline]
    drawn = []
    for model in others:
        own = comparison.groups[
            (comparison.groups["model"] == model)
            & (comparison.groups["group"] != "everybody")
            & comparison.groups["outcome"].isin(["gained", "paid"])
        ]
        top = own.reindex(own["change"].abs().sort_values(ascending=False).index).head(DRAWN)
        svg = charts.changes(top.sort_values("change"), f"Changes of {model}") if len(top) else ""
        drawn.append({"model": model, "svg": svg})
    entries = int(comparison.summary["entries"].max())
    names = {
        "gap": "best minus worst group",
        "largest gap": "the largest of these",
        "shortfall": "how far the worst-served group stays below the level that the best-served "
        "one had under the baseline, less 0.02",
        "worst, best": "benefit of the worst- and of the best-served group",
        "level down": "how much the group that the baseline served best has lost",
        "gained, paid": "served better or worse than by the baseline, beyond sampling error and "
        "after correction for the number of comparisons",
    }
    sections = (
        ("findings", "Findings"), ("summary", "Side by side"), ("tasks", "Tasks"),
        ("who", "Who gained, who paid"), ("gaps", "Gaps"), ("words", "Words"),
    )  # fmt: skip
    return _page(
        "comparison.html.jinja",
        title=comparison.title,
        subtitle=f"{', '.join(others)} against {comparison.baseline}. "
        + _subtitle(comparison.settings),
        sections=[{"id": i, "title": t} for i, t in sections],
        findings=comparison.findings,
        entries=entries,
        summary=_table(
            comparison.summary[comparison.summary["model"] != comparison.baseline].drop(
                columns="entries"
            )
        ),
        tasks=_table(comparison.tasks),
        charts=drawn,
        groups=_table(comparison.groups.drop(columns=["measure", "p_value"])),
        gaps=_table(comparison.gaps.drop(columns="measure")),
        definitions=names,
    )


def snippet(title: str, sentences: Sequence[str], table: pd.DataFrame) -> str:
    """A few lines of HTML for notebooks."""
    items = "".join(f"<li>{escape(s)}</li>" for s in sentences)
    rows = table.to_html(index=False, escape=True, float_format=lambda v: f"{v:.3f}", na_rep="–")
    return f"<h3>{escape(title)}</h3><ul>{items}</ul>{rows}"


def number(value: Any, digits: int = 3) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}"


def _page(template: str, **content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fairmt.auditing", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    here = files("fairmt.auditing") / "templates"
    return environment.get_template(template).render(
        css=here.joinpath("page.css").read_text(encoding="utf-8"),
        js=here.joinpath("page.js").read_text(encoding="utf-8"),
        **content,
    )


def _subtitle(settings: dict[str, Any]) -> str:
    parts = [f"{settings['rows']:,} rows, {settings['confidence']:.0%} intervals"]
    if settings["weighted"]:
        parts.append("rows weighted")
    if settings["clustered"]:
        parts.append("households or other units resampled together")
    return ", ".join(parts) + "."


# -- charts -------------------------------------------------------------------------------------


def _place(result: AuditResult, task: str, attribute: str) -> str:
    """An id that no name from the data can break."""
    tasks = [t["name"] for t in result.tasks]
    attributes = list(dict.fromkeys(result.gaps["attribute"]))
    return f"entry-{tasks.index(task)}-{attributes.index(attribute)}"


def _map(result: AuditResult, pairs: pd.DataFrame) -> dict[str, Any]:
    columns = list(dict.fromkeys(result.gaps["attribute"]))
    found = {(r["task"], r["attribute"]): r for r in pairs.to_dict("records")}
    rows = []
    for task in [t["name"] for t in result.tasks]:
        cells: list[dict[str, Any] | None] = []
        for attribute in columns:
            row = found.get((task, attribute))
            if row is None:
                cells.append(None)
                continue
            verdict = row.get("verdict", "")
            cells.append(
                {
                    "attribute": attribute,
                    "gap": f"{row['gap']:.2f}",
                    "shade": charts.shade(row["gap"]),
                    "mark": charts.MARKS.get(verdict, ""),
                    "verdict": verdict,
                    "statistic": row["statistic"],
                    "id": _place(result, task, attribute),
                }
            )
        if any(cells):
            rows.append({"task": task, "cells": cells})
    return {"columns": columns, "rows": rows}


def _bars(result: AuditResult, gap: Mapping[Any, Any]) -> dict[str, Any]:
    rates = result.rates
    own = rates[(rates["task"] == gap["task"]) & (rates["statistic"] == gap["statistic"])]
    here = own[own["attribute"].isin([gap["attribute"], "everybody"])]
    groups = here[["group", "n", "value", "low", "high"]].to_dict("records")
    title = f"{gap['task']}: {gap['statistic']} by {gap['attribute']}, gap {gap['gap']:.2f}"
    measure = MEASURES[gap["measure"]]
    return {
        "id": _place(result, gap["task"], gap["attribute"]),
        "title": title,
        "sentence": f"{gap['measure']}: {measure.sentence}",
        "svg": charts.group_bars(
            groups, measure.bounded, title, lambda value: amount(value, gap["measure"])
        ),
    }


def _curves(result: AuditResult) -> list[dict[str, Any]]:
    """Reliability of the labels and classes whose calibration error differs most."""
    scores = result.scores
    if not len(scores):
        return []
    gaps = result.gaps[result.gaps["measure"] == "calibration error"]
    ranked = [
        (r["task"], r["statistic"].partition(" of ")[2] or r["task"])
        for r in ordered(gaps).to_dict("records")
    ]
    known = list(dict.fromkeys(zip(scores["task"], scores["output"], strict=True)))
    chosen = [p for p in dict.fromkeys(ranked) if p in known] or known
    found = []
    for task, output in chosen[:_CURVES]:
        own = scores[(scores["task"] == task) & (scores["output"] == output)]
        figures = []
        for group, bins in own.groupby("group", sort=False):
            figures.append(
                {
                    "group": group,
                    "n": f"{bins['n'].sum():,.0f}",
                    "curve": charts.reliability(bins, f"Reliability of {output} for {group}"),
                    "distribution": charts.distribution(bins, f"Scores of {output}, {group}"),
                }
            )
        title = task if task == output else f"{task}: {output}"
        found.append({"title": title, "figures": figures})
    return found


# -- tables -------------------------------------------------------------------------------------


def _table(frame: pd.DataFrame, digits: int = 3) -> dict[str, Any]:
    """Columns and cells of a sortable table; numbers keep their full value for sorting."""
    columns = []
    for name in frame:
        numeric = pd.api.types.is_numeric_dtype(frame[name].dtype)
        numeric = numeric and not pd.api.types.is_bool_dtype(frame[name].dtype)
        columns.append({"title": str(name).replace("_", " "), "number": numeric})
    rows = []
    for values in frame.itertuples(index=False):
        cells = []
        for column, value in zip(columns, values, strict=True):
            if not column["number"]:
                text = "" if value is None or value != value else str(value)
                cells.append({"number": False, "text": text, "value": ""})
                continue
            missing = value != value
            whole = not missing and column["title"] in ("n", "rows", "smallest n", "depth")
            text = "–" if missing else f"{value:,.0f}" if whole else f"{value:.{digits}f}"
            cells.append(
                {"number": True, "text": text, "value": "" if missing else repr(float(value))}
            )
        rows.append(cells)
    return {"columns": columns, "rows": rows}


def _gaps(gaps: pd.DataFrame) -> dict[str, Any]:
    columns = [
        "task", "statistic", "attribute", "gap", "low", "high", "corrected", "noise_floor",
        "worst_group", "best_group", "smallest_n", "verdict" if "verdict" in gaps else "status",
    ]  # fmt: skip
    shown = ordered(gaps)[columns].rename(columns={"noise_floor": "by chance"})
    return _table(shown)


def _rates(rates: pd.DataFrame) -> dict[str, Any]:
    return _table(rates[["task", "statistic", "group", "n", "value", "low", "high"]])


def _observation(observation: pd.DataFrame) -> dict[str, Any]:
    columns = ["task", "output", "group", "rows", "observed", "base_rate", "predicted_rate", "r2"]
    return _table(observation[[c for c in columns if c in observation]].dropna(axis=1, how="all"))


def _utilities(result: AuditResult) -> dict[str, Any]:
    order = [t["name"] for t in result.tasks]
    wide = result.utilities.pivot(index="task", columns="metric", values="value")
    names = list(dict.fromkeys(result.utilities["metric"]))
    return _table(wide.reindex(order)[names].reset_index())


def _subgroups(subgroups: pd.DataFrame) -> dict[str, Any]:
    columns = [
        "task",
        "statistic",
        "subgroup",
        "n",
        "value",
        "rest_value",
        "loss",
        "low",
        "p_adjusted",
    ]
    shown = subgroups[columns].rename(
        columns={"rest_value": "outside it", "loss": "worse by", "low": "at least"}
    )
    return _table(shown)
