"""The audit as one self-contained page: nothing is loaded from anywhere."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fairmt.auditing import charts
from fairmt.notions import MEASURES, NOTIONS

if TYPE_CHECKING:
    from fairmt.auditing.result import AuditResult


def render(result: AuditResult) -> str:
    """HTML of an audit; every name from the data is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(
        files("fairmt.auditing").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    gaps = result.gaps
    live = gaps[(gaps["status"] == "live") & gaps["measure"].map(lambda m: MEASURES[m].bounded)]
    shown = live.sort_values("gap", ascending=False)
    headline = shown[shown["measure"].isin(("recall", "true negative rate", "false alarm rate"))]
    worst = headline if len(headline) else shown
    bars = [
        {
            "title": f"{r['task']}: {r['statistic']} by {r['attribute']}",
            "svg": charts.group_bars(_groups_of(result, r)),
        }
        for _, r in worst.head(6).iterrows()
    ]
    used = sorted(set(gaps["measure"]))
    return template.render(
        title=result.title,
        findings=result.findings,
        settings=result.settings,
        tasks=result.tasks,
        attributes=result.attributes,
        heat=charts.heat_map(worst, result.settings["tolerance"]),
        forest=charts.forest(worst.head(18), result.settings["tolerance"]),
        bars=bars,
        utilities=_utilities(result),
        metrics=_metric_names(result),
        gaps=[_row(r) for _, r in gaps[gaps["status"] != "unknown"].iterrows()],
        has_verdict="verdict" in gaps,
        path=result.extra.get("path"),
        path_chart=charts.path(result.extra["path"]) if result.extra.get("path") else None,
        comparison=result.extra.get("comparison"),
        model=result.extra.get("model"),
        definitions={m: MEASURES[m].sentence for m in used},
        notions={n: NOTIONS[n].sentence for n in result.settings["notions"]},
        number=_number,
    )


def _groups_of(result: AuditResult, gap: Any) -> list[dict[str, Any]]:
    own = result.rates[
        (result.rates["task"] == gap["task"])
        & (result.rates["statistic"] == gap["statistic"])
        & (result.rates["attribute"] == gap["attribute"])
    ]
    return own[["group", "n", "value", "low", "high"]].to_dict("records")


def _utilities(result: AuditResult) -> list[dict[str, Any]]:
    rows = []
    for spec in result.tasks:
        own = result.utilities[result.utilities["task"] == spec["name"]]
        values = dict(zip(own["metric"], own["value"], strict=True))
        rows.append({"task": spec["name"], "kind": spec["kind"], "values": values})
    return rows


def _metric_names(result: AuditResult) -> list[str]:
    return list(dict.fromkeys(result.utilities["metric"]))


def _row(r: Any) -> dict[str, Any]:
    keys = ("task", "statistic", "attribute", "gap", "low", "high", "corrected", "noise_floor")
    row = {k: r[k] for k in keys}
    row |= {k: r.get(k, "") for k in ("worst_group", "best_group", "status", "verdict")}
    return row


def _number(value: Any, digits: int = 3) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}"
