"""What an audit gives: tables by name, findings in words, JSON, Markdown and HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fairmt.auditing.cube import Cube
from fairmt.auditing.findings import findings
from fairmt.auditing.plan import Plan
from fairmt.files import write_text

SCHEMA = "fairmt.audit/1"


@dataclass
class AuditResult:
    """The result of an audit; every value stands by name, none by position.

    Attributes
    ----------
    rates : task, statistic, attribute, group, n, value, low, high, status.
    gaps : task, statistic, attribute, gap, low, high, corrected, worst_group, best_group,
        noise_floor, status, and, with a tolerance, p_value, p_adjusted and verdict. `corrected` is
        the gap less its upward bias, around which low and high lie.
    utilities : task, metric, value.
    observation : how often labels are observed, and hold, in every group.
    """

    title: str
    rates: pd.DataFrame
    gaps: pd.DataFrame
    utilities: pd.DataFrame
    observation: pd.DataFrame
    settings: dict[str, Any]
    tasks: list[dict[str, Any]]
    attributes: dict[str, list[str]]
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    extra: dict[str, Any] = field(default_factory=dict)
    cube: Cube | None = field(default=None, repr=False, compare=False)
    plan: Plan | None = field(default=None, repr=False, compare=False)

    @property
    def findings(self) -> list[str]:
        """Plain sentences, the most important first."""
        return findings(self.gaps, self.rates, self.observation, self.settings["tolerance"])

    def to_frame(self) -> pd.DataFrame:
        """The gaps."""
        return self.gaps.copy()

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: task -> statistic -> attribute -> gap and groups."""
        tasks: dict[str, Any] = {}
        for spec in self.tasks:
            name = spec["name"]
            own = self.utilities[self.utilities["task"] == name]
            tasks[name] = {
                "kind": spec["kind"],
                "outputs": list(spec["outputs"]),
                "utilities": {r.metric: _number(r.value) for r in own.itertuples()},
                "statistics": {},
            }
        columns = [
            "gap", "low", "high", "corrected", "noise_floor", "worst_group", "best_group",
            "status", "p_value", "p_adjusted", "verdict",
        ]  # fmt: skip
        for _, row in self.gaps.iterrows():
            place = tasks[row["task"]]["statistics"].setdefault(row["statistic"], {})
            place[row["attribute"]] = {
                c: _number(row[c]) for c in columns if c in row and _known(row[c])
            } | {"groups": {}}
        for _, row in self.rates.iterrows():
            statistics = tasks[row["task"]]["statistics"][row["statistic"]]
            entry = {
                "n": _number(row["n"]),
                "value": _number(row["value"]),
                "low": _number(row["low"]),
                "high": _number(row["high"]),
            }
            if row["attribute"] == "everybody":
                statistics["everybody"] = entry
            else:
                statistics[row["attribute"]]["groups"][row["group"]] = entry
        return {
            "schema": SCHEMA,
            "title": self.title,
            "settings": self.settings,
            "attributes": self.attributes,
            "findings": self.findings,
            "tasks": tasks,
            "observation": _records(self.observation),
            **self.extra,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON text, written to a file if a path is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        if path is not None:
            write_text(path, text)
        return text

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Findings, utilities and gaps as Markdown."""
        lines = [f"# {self.title}", ""]
        lines += [f"- {_plain(f)}" for f in self.findings]
        lines += ["", "| task | metric | value |", "|---|---|---|"]
        lines += [
            f"| {_plain(r.task)} | {r.metric} | {r.value:.4f} |"
            for r in self.utilities.itertuples()
        ]
        lines += ["", "| task | statistic | attribute | gap | interval | by chance | status |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for _, r in self.gaps.sort_values("gap", ascending=False).iterrows():
            if r["status"] != "unknown":
                names = [_plain(r[c]) for c in ("task", "statistic", "attribute")]
                lines.append(
                    f"| {' | '.join(names)} | "
                    f"{r['gap']:.3f} | {r['low']:.3f} to {r['high']:.3f} | "
                    f"{r['noise_floor']:.3f} | {r['status']} |"
                )
        text = "\n".join(lines) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page."""
        from fairmt.auditing.report import render

        page = render(self)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{_escape(f)}</li>" for f in self.findings)
        table = self.gaps[["task", "statistic", "attribute", "gap", "low", "high", "status"]]
        top = table.sort_values("gap", ascending=False).head(10).to_html(index=False, escape=True)
        return f"<h3>{_escape(self.title)}</h3><ul>{items}</ul>{top}"

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> dict[str, Any]:
        """Check the schema of a stored audit and give its content back."""
        if config.get("schema") != SCHEMA:
            raise ValueError(
                f"Not an audit of this version: schema {config.get('schema')!r}, expected {SCHEMA}."
            )
        return dict(config)


def _escape(text: str) -> str:
    from html import escape

    return escape(text)


def _plain(text: object) -> str:
    """Text that cannot break a Markdown table, nor become markup."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _known(value: Any) -> bool:
    return not (value is None or (isinstance(value, float) and math.isnan(value)))


def _number(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return float(value) if _known(value) else None


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): _number(v) for k, v in r.items()} for r in frame.to_dict("records")]
