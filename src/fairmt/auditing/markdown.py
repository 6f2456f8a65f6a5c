"""Audits as Markdown: a report, and a model card in the order of the Hugging Face Hub."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fairmt.auditing.findings import headline, ordered
from fairmt.measures import MEASURES
from fairmt.notions import NOTIONS

if TYPE_CHECKING:
    from fairmt.auditing.result import AuditResult

_SPECIAL = "\\`*_{}[]()#+!|~"


def report(result: AuditResult) -> str:
    """Findings, utilities, gaps and definitions."""
    lines = [f"# {plain(result.title)}", "", *_findings(result), ""]
    lines += ["## Utility", "", *_utilities(result), ""]
    lines += ["## Gaps", "", *_gaps(result, None), ""]
    if result.subgroups is not None and len(result.subgroups):
        lines += ["## Worst-served subgroups", "", *_subgroups(result), ""]
    lines += ["## What the words mean", "", *_definitions(result)]
    return "\n".join(lines) + "\n"


def model_card(result: AuditResult) -> str:
    """The sections of the Hub's template that an audit can fill, in their order."""
    settings = result.settings
    factors = [
        f"- {plain(name)}: {', '.join(plain(c) for c in groups)}"
        for name, groups in result.attributes.items()
    ]
    tasks = [f"- {plain(t['name'])}: {t['kind']}" for t in result.tasks]
    interval = f"{settings['confidence']:.0%} intervals"
    lines = [
        f"# Model Card for {plain(result.title)}",
        "",
        "## Model Details",
        "",
        plain(str(result.extra.get("model", "To be stated by whoever publishes the model."))),
        "",
        "## Uses",
        "",
        "To be stated by whoever uses the model. What it predicts:",
        "",
        *tasks,
        "",
        "## Bias, Risks, and Limitations",
        "",
        *_findings(result),
        "",
        "Labels are taken as they are: where they carry a bias of their own, equal rates keep it.",
        "",
        "## Evaluation",
        "",
        "### Testing Data, Factors & Metrics",
        "",
        "#### Testing Data",
        "",
        f"{settings['rows']:,} rows.",
        "",
        "#### Factors",
        "",
        *factors,
        "",
        "#### Metrics",
        "",
        *_definitions(result),
        "",
        "### Results",
        "",
        *_utilities(result),
        "",
        f"The largest gaps, with {interval}:",
        "",
        *_gaps(result, 12),
        "",
        "#### Summary",
        "",
        result.findings[0] if result.findings else "No gap could be judged.",
    ]
    return "\n".join(lines) + "\n"


def _findings(result: AuditResult) -> list[str]:
    return [f"- {plain(f)}" for f in result.findings]


def _utilities(result: AuditResult) -> list[str]:
    lines = ["| task | metric | value |", "|---|---|---:|"]
    lines += [
        f"| {plain(r['task'])} | {plain(r['metric'].replace('_', ' '))} | "
        f"{_number(r['value'], 4)} |"
        for r in result.utilities.to_dict("records")
    ]
    return lines


def _gaps(result: AuditResult, most: int | None) -> list[str]:
    verdict = "verdict" if "verdict" in result.gaps else "status"
    lines = [
        f"| task | statistic | attribute | worst | best | gap | interval | by chance | {verdict} |",
        "|---|---|---|---|---|---:|---|---:|---|",
    ]
    gaps = result.gaps[result.gaps["status"] != "unknown"]
    shown = ordered(gaps if most is None else headline(gaps))
    for r in shown.head(most if most is not None else len(shown)).to_dict("records"):
        names = (r["task"], r["statistic"], r["attribute"], r["worst_group"], r["best_group"])
        interval = f"{_number(r['low'])} to {_number(r['high'])}"
        if math.isnan(r["low"]):
            interval = "–"
        lines.append(
            f"| {' | '.join(plain(n) for n in names)} | {_number(r['gap'])} | {interval} | "
            f"{_number(r['noise_floor'])} | {r[verdict]} |"
        )
    return lines


def _subgroups(result: AuditResult) -> list[str]:
    assert result.subgroups is not None
    lines = [
        "| task | statistic | subgroup | n | value | outside it | worse by | at least |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in result.subgroups.head(20).to_dict("records"):
        numbers = [r[c] for c in ("value", "rest_value", "loss", "low")]
        lines.append(
            f"| {plain(r['task'])} | {plain(r['statistic'])} | {plain(r['subgroup'])} | "
            f"{r['n']:,.0f} | " + " | ".join(_number(v) for v in numbers) + " |"
        )
    return lines


def _definitions(result: AuditResult) -> list[str]:
    measures = dict.fromkeys(result.gaps["measure"])
    lines = [f"- **{m}**: {MEASURES[m].sentence}" for m in measures]
    return lines + [
        f"- **{n.replace('_', ' ')}**: {NOTIONS[n].sentence}" for n in result.settings["notions"]
    ]


def plain(text: object) -> str:
    """Text that stays text: it breaks no table, makes no markup and no link."""
    escaped = "".join(f"\\{c}" if c in _SPECIAL else c for c in str(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.split())


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
