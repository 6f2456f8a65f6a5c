"""What an audit gives: tables by name, findings in words, JSON, Markdown and HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.cube import Cube
from fairmt.auditing.findings import Flag, findings, flags
from fairmt.auditing.plan import Plan
from fairmt.files import write_text

SCHEMA = "fairmt.audit/1"
_RATE = ("n", "value", "low", "high", "status")
_GAP = (
    "measure", "status", "gap", "low", "high", "corrected", "noise_floor", "worst_group",
    "best_group", "worst_value", "best_value", "smallest_n", "thin_groups", "unknown_groups",
    "p_value", "p_adjusted", "verdict",
)  # fmt: skip


@dataclass
class AuditResult:
    """The result of an audit; every value stands by name, none by position.

    Attributes
    ----------
    rates : task, statistic, measure, attribute, group, n, value, low, high, status.
    gaps : task, statistic, measure, attribute, gap, low, high, corrected (the gap less its
        estimated upward bias), noise_floor (the gap that group labels exchanged at random show),
        worst_group, best_group and their values, smallest_n of the two, status ('live', 'dead' or
        'unknown') and, with a tolerance, p_value, p_adjusted and verdict.
    utilities : task, metric, value.
    observation : how often labels are observed, hold and are predicted in every group.
    scores : reliability and distribution of probabilities, see `fairmt.auditing.scores`.
    subgroups : the worst-served ones, after `search`.
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
    subgroups: pd.DataFrame | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    cube: Cube | None = field(default=None, repr=False, compare=False)
    plan: Plan | None = field(default=None, repr=False, compare=False)

    @property
    def findings(self) -> list[str]:
        """Plain sentences, the most important first; what may mislead comes last."""
        own = findings(self.gaps, self.settings["tolerance"], self.settings["confidence"])
        return own + [f.sentence for f in self.flags]

    @property
    def flags(self) -> list[Flag]:
        """What makes figures mean less than they seem to."""
        return flags(self.gaps, self.rates, self.observation)

    def search(
        self,
        depth: int | None = None,
        *,
        min_support: float = 100,
        statistics: Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        adjust: str = "benjamini-hochberg",
        prune: bool = True,
        limit: int | None = 50,
    ) -> pd.DataFrame:
        """The worst-served combinations of up to `depth` attributes (default: 3, if so many).

        The table is kept in `subgroups`, and shown in reports from then on. See
        `fairmt.auditing.search.find_subgroups`.
        """
        from fairmt.auditing.search import find_subgroups

        plan, cube = self._sums()
        self.subgroups = find_subgroups(
            plan,
            cube,
            depth=min(3, len(self.attributes)) if depth is None else depth,
            min_support=min_support,
            statistics=statistics,
            attributes=attributes,
            confidence=self.settings["confidence"],
            adjust=adjust,
            clustered=self.settings["clustered"],
            prune=prune,
            limit=limit,
        )
        return self.subgroups

    def _sums(self) -> tuple[Plan, Cube]:
        if self.plan is None or self.cube is None:
            raise ValueError(
                "This audit was read from a file, which holds results and no sums; run it again."
            )
        return self.plan, self.cube

    # -- faces ------------------------------------------------------------------------------

    def to_frame(self, table: str = "gaps") -> pd.DataFrame:
        """One of the tables: 'gaps', 'rates', 'utilities', 'observation', 'scores', 'subgroups'."""
        names = ("gaps", "rates", "utilities", "observation", "scores", "subgroups")
        if table not in names:
            raise ValueError(f"table must be one of {list(names)}. Found {table!r}.")
        frame = getattr(self, table)
        return pd.DataFrame() if frame is None else frame.copy()

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: task -> statistic -> attribute -> gap and groups."""
        tasks: dict[str, Any] = {}
        for spec in self.tasks:
            own = self.utilities[self.utilities["task"] == spec["name"]]
            tasks[spec["name"]] = {
                "kind": spec["kind"],
                "outputs": list(spec["outputs"]),
                "utilities": {r["metric"]: jsonable(r["value"]) for r in own.to_dict("records")},
                "statistics": {},
                "specification": jsonable(spec),
            }
        for row in self.gaps.to_dict("records"):
            place = tasks[row["task"]]["statistics"].setdefault(row["statistic"], {})
            entry = {c: jsonable(row[c]) for c in _GAP if c in row}
            place[row["attribute"]] = {c: v for c, v in entry.items() if v is not None} | {
                "groups": {}
            }
        for row in self.rates.to_dict("records"):
            statistics = tasks[row["task"]]["statistics"][row["statistic"]]
            entry = {c: jsonable(row[c]) for c in _RATE}
            if row["attribute"] == "everybody":
                statistics["everybody"] = entry
            else:
                statistics[row["attribute"]]["groups"][row["group"]] = entry
        return {
            "schema": SCHEMA,
            "title": self.title,
            "settings": jsonable(self.settings),
            "attributes": self.attributes,
            "findings": self.findings,
            "flags": [{"kind": f.kind, "sentence": f.sentence} for f in self.flags],
            "tasks": tasks,
            "observation": records(self.observation),
            "scores": records(self.scores),
            "subgroups": None if self.subgroups is None else records(self.subgroups),
            "extra": jsonable(self.extra),
        }

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> AuditResult:
        """Inverse of `to_dict`, but for the sums, which a file does not hold.

        Raises
        ------
        ValueError
            If it is no audit, or one of another version.
        """
        if config.get("schema") != SCHEMA:
            raise ValueError(
                f"Not an audit of this version: schema {config.get('schema')!r}, expected {SCHEMA}."
            )
        rates: list[dict[str, Any]] = []
        gaps: list[dict[str, Any]] = []
        utilities: list[dict[str, Any]] = []
        for task, own in config["tasks"].items():
            for metric, value in own["utilities"].items():
                utilities.append({"task": task, "metric": metric, "value": _number(value)})
            for statistic, places in own["statistics"].items():
                everybody = places.get("everybody")
                measure = next(p["measure"] for a, p in places.items() if a != "everybody")
                common = {"task": task, "statistic": statistic, "measure": measure}
                if everybody is not None:
                    both = {"attribute": "everybody", "group": "everybody"}
                    rates.append(common | both | everybody)
                for attribute, place in places.items():
                    if attribute == "everybody":
                        continue
                    gaps.append(common | {"attribute": attribute} | place)
                    rates += [
                        common | {"attribute": attribute, "group": group} | entry
                        for group, entry in place["groups"].items()
                    ]
        subgroups = config.get("subgroups")
        return AuditResult(
            title=config["title"],
            rates=_frame(rates, (*_KEYS, "group", *_RATE)),
            gaps=_frame(gaps, (*_KEYS, *(c for c in _GAP if c != "measure"))),
            utilities=pd.DataFrame(utilities, columns=["task", "metric", "value"]),
            observation=_frame(config["observation"]),
            settings=dict(config["settings"]),
            tasks=[dict(t["specification"]) for t in config["tasks"].values()],
            attributes=dict(config["attributes"]),
            scores=_frame(config["scores"]),
            subgroups=None if subgroups is None else _frame(subgroups),
            extra=dict(config["extra"]),
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON text, written to a file if a path is given."""
        return _written(json.dumps(self.to_dict(), indent=1, ensure_ascii=False), path)

    @staticmethod
    def from_json(path: str | Path) -> AuditResult:
        """An audit that `to_json` wrote."""
        return AuditResult.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Findings, utilities and gaps as Markdown."""
        from fairmt.auditing.markdown import report

        return _written(report(self), path)

    def to_model_card(self, path: str | Path | None = None) -> str:
        """The audit as a model card in Markdown, with the headings of the Hugging Face Hub."""
        from fairmt.auditing.markdown import model_card

        return _written(model_card(self), path)

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page."""
        from fairmt.auditing.report import render

        return _written(render(self), path)

    def to_metric_frame(self, task: str, output: str | None = None) -> Any:
        """A `fairlearn.metrics.MetricFrame` of one class or label; see `exports.metric_frame`."""
        from fairmt.auditing.exports import metric_frame

        return metric_frame(self, task, output)

    def to_mlflow(self, prefix: str = "audit") -> None:
        """Log gaps, utilities, the JSON and the page to the active MLflow run."""
        from fairmt.auditing.exports import log_to_mlflow

        log_to_mlflow(self, prefix)

    def to_wandb(self, run: Any = None, prefix: str = "audit") -> None:
        """Log gaps, utilities, tables and the page to a Weights & Biases run, by default the
        active one."""
        from fairmt.auditing.exports import log_to_wandb

        log_to_wandb(self, run, prefix)

    def _repr_html_(self) -> str:
        from fairmt.auditing.findings import headline, ordered
        from fairmt.auditing.report import snippet

        columns = ["task", "statistic", "attribute", "gap", "low", "high", "worst_group"]
        if "verdict" in self.gaps:
            columns.append("verdict")
        return snippet(self.title, self.findings, ordered(headline(self.gaps))[columns].head(10))


_KEYS = ("task", "statistic", "measure", "attribute")


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        write_text(path, text)
    return text


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows by name of the column, ready for JSON."""
    return [{str(k): jsonable(v) for k, v in r.items()} for r in frame.to_dict("records")]


def jsonable(value: Any) -> Any:
    """Plain numbers, text and containers; None for what is not a number."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [jsonable(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return None if value is None or value is pd.NA else str(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table from JSON; columns that no row has are left out."""
    frame = pd.DataFrame(list(rows))
    if columns is not None:
        frame = frame[[c for c in columns if c in frame]]
    for column in frame:
        if frame[column].isna().all() or column in ("worst_group", "best_group"):
            continue
        if all(v is None or isinstance(v, int | float) for v in frame[column]):
            frame[column] = pd.to_numeric(frame[column])
    return frame
