"""A training run in a folder: the model with its path, its figures on test rows, a report.

::

    DIR/model/         the learner, all candidates included
    DIR/test/          sums of every candidate on the test rows; no row of anybody's data
    DIR/run.json       what was run, on which table
    DIR/metrics.json   the chosen candidate and the plain model on the test rows
    DIR/report.html    the same for people
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairmt import __version__
from fairmt.disparity import THICK_ROWS, Yardstick
from fairmt.estimator import FairMTLearner
from fairmt.files import write_text
from fairmt.ledger import Ledger
from fairmt.measures import MEASURES
from fairmt.metrics import utilities
from fairmt.moments import Moments
from fairmt.notions import NOTIONS
from fairmt.path import judge
from fairmt.store import load_state, save_state
from fairmt.tasks import Layout
from fairmt.utility import headline_replicates

if TYPE_CHECKING:
    import pandas as pd

METRICS = "fairmt.metrics/1"
RUN = "fairmt.run/1"
TESTED = "fairmt.tested/1"
HEADLINE = {"classification": "macro_f1", "detection": "average_precision", "regression": "rmse"}
FRACTIONS = (0.6, 0.1, 0.1, 0.2)
_NO_CLAIM = (
    "FairMT as formulated in this library (the idea: arXiv 2512.00469). Gaps are gaps on observed "
    "labels, not in the population, and labels are taken as they are."
)


@dataclass
class Tested:
    """Every candidate that can be chosen, measured on rows that no choice has seen.

    Attributes
    ----------
    rows : Tensor (G,), test rows of every group; `n_rows` of all.
    moments : candidate index -> sums under all notions.
    utilities : candidate index -> task -> metric -> value.
    headline : candidate index -> Tensor (T,), signed headline utilities.
    """

    n_rows: int
    rows: Tensor
    moments: dict[int, Moments]
    utilities: dict[int, dict[str, dict[str, float]]]
    headline: dict[int, Tensor]

    @staticmethod
    def of(learner: FairMTLearner, frame: pd.DataFrame) -> Tested:
        """Measure on a frame with labels and attributes."""
        table = learner.schema_.encode(frame)
        layout, groups, ledger = _parts(learner)
        tested = Tested(len(table), groups.membership(table.attributes)[:, 1:].sum(0), {}, {}, {})
        ones = torch.ones(1, len(table)) if table.weights is None else table.weights[None]
        for index in _open(learner):
            outputs, offsets = learner.outputs_of(index, table)
            tested.moments[index] = judge(ledger, groups, outputs, table, offsets)
            tested.utilities[index] = utilities(
                layout, outputs, table.labels, offsets, table.weights
            )
            tested.headline[index] = headline_replicates(
                layout, outputs, table.labels, offsets, ones
            )[0]
        return tested

    def save(self, folder: Path) -> None:
        save_state(
            folder,
            {
                "kind": TESTED,
                "n_rows": self.n_rows,
                "rows": self.rows,
                "moments": {str(i): [m.sums, m.mass, m.mass2] for i, m in self.moments.items()},
                "utilities": {str(i): u for i, u in self.utilities.items()},
                "headline": {str(i): h for i, h in self.headline.items()},
            },
        )

    @staticmethod
    def load(folder: Path) -> Tested:
        state = load_state(folder)
        return Tested(
            state["n_rows"],
            state["rows"],
            {int(i): Moments(*m) for i, m in state["moments"].items()},
            {int(i): u for i, u in state["utilities"].items()},
            {int(i): h for i, h in state["headline"].items()},
        )


def _parts(learner: FairMTLearner) -> tuple[Layout, Any, Ledger]:
    layout = Layout(learner.schema_.tasks)
    everything = {
        t.name: [n for n, notion in NOTIONS.items() if notion.judges(t)] for t in layout.tasks
    }
    return layout, learner.schema_.groups, Ledger(layout, everything)


def _open(learner: FairMTLearner) -> list[int]:
    """Candidates that can be chosen: the plain model, and the path."""
    path = learner.path_
    return [path.plain] + [p.index for p in path.points if p.candidate.segment == "path"]


def metrics(learner: FairMTLearner, tested: Tested, run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``metrics.json``: everything by name, nothing by position."""
    layout, groups, ledger = _parts(learner)
    path, choice = learner.path_, learner.choice_
    chosen, plain = choice.point.index, path.plain
    judged = {(s.task, s.name) for s in learner.ledger_.statistics}
    headline = torch.tensor(
        [
            (s.task, s.name) in judged and MEASURES[s.measure].bounded and s.orientation != 0
            for s in ledger.statistics
        ]
    )
    yardstick = Yardstick(ledger, groups, tested.moments[plain], tested.rows, statistics=headline)
    rates = {i: ledger.rates(tested.moments[i].sums) for i in (chosen, plain)}
    gaps = {i: yardstick.gaps(r) for i, r in rates.items()}
    change = (tested.headline[chosen] - tested.headline[plain]) / tested.headline[plain].abs()
    tasks: dict[str, Any] = {}
    for t, task in enumerate(layout.tasks):
        tasks[task.name] = {
            "kind": task.kind,
            "outputs": list(task.outputs),
            "headline": HEADLINE[task.kind],
            "change": _number(change[t]),
            "utilities": _numbers(tested.utilities[chosen][task.name]),
            "plain_utilities": _numbers(tested.utilities[plain][task.name]),
            "statistics": {},
        }
    evidence = tested.moments[chosen].evidence
    for j, statistic in enumerate(ledger.statistics):
        by_attribute: dict[str, Any] = {}
        for p, partition in enumerate(groups.partitions):
            members = range(partition.groups.start, partition.groups.stop)
            by_attribute[partition.name] = {
                "gap": _number(gaps[chosen][p, j]),
                "plain_gap": _number(gaps[plain][p, j]),
                "in_headline": bool(yardstick.counted[p, j]),
                "groups": {
                    groups.names[g]: {
                        "n": _number(evidence[g + 1, j]),
                        "value": _number(rates[chosen][g + 1, j], evidence[g + 1, j]),
                        "plain": _number(rates[plain][g + 1, j], evidence[g + 1, j]),
                    }
                    for g in members
                },
            }
        tasks[statistic.task]["statistics"][statistic.name] = {
            "measure": statistic.measure,
            "orientation": statistic.orientation,
            "everybody": {
                "n": _number(evidence[0, j]),
                "value": _number(rates[chosen][0, j]),
                "plain": _number(rates[plain][0, j]),
            },
            "attributes": by_attribute,
        }
    return {
        "schema": METRICS,
        "fairmt": __version__,
        "method": _called(learner),
        "seed": learner.seed,
        "run": dict(run),
        "test_rows": tested.n_rows,
        "chosen": {
            "candidate": chosen,
            "is_plain": chosen == plain,
            "epoch": choice.point.candidate.epoch,
            "strength": choice.point.candidate.strength,
            "repair": choice.point.candidate.repair,
            "reason": choice.reason,
            "reached": choice.reached,
        },
        "delta_m": _number(torch.nanmean(change)),
        "disparity": _numbers(yardstick.measure(tested.moments[chosen]).to_dict()),
        "plain_disparity": _numbers(yardstick.measure(tested.moments[plain]).to_dict()),
        "tasks": tasks,
        "decision_rule": learner.decision_rule(),
        "path": path_rows(learner),
        "notice": _NO_CLAIM,
    }


def path_rows(learner: FairMTLearner) -> list[dict[str, Any]]:
    """Every candidate of the path on validation rows, ready for JSON and charts."""
    return [
        {
            "candidate": p.index,
            "segment": p.candidate.segment,
            "epoch": p.candidate.epoch,
            "strength": p.candidate.strength,
            "repair": p.candidate.repair,
            "delta_m": _number(p.delta_m),
            "delta_m_low": _number(p.delta_m_low),
            "gap": _number(p.disparity.gap),
            "shortfall": _number(p.disparity.shortfall),
            "largest_gap": _number(p.worst_gap),
            "chosen": p.index == learner.choice_.point.index,
        }
        for p in learner.path_.points
    ]


def comparison(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plain and chosen model side by side, from the content of ``metrics.json``."""
    rows = []
    for name, task in found["tasks"].items():
        metric = task["headline"]
        label = f"{name}: {metric.replace('_', ' ')}"
        before, after = task["plain_utilities"][metric], task["utilities"][metric]
        rows.append({"name": label, "plain": before, "fair": after, "change": task["change"]})
        if "calibration_error" in task["utilities"]:
            rows.append(_calibration(name, task))
    for key, label in (
        ("gap", "mean gap"),
        ("largest_gap", "largest gap"),
        ("shortfall", "mean shortfall of the worst-served groups"),
        ("worst", "worst-served group's mean benefit"),
        ("best", "best-served group's mean benefit"),
    ):
        before, after = found["plain_disparity"][key], found["disparity"][key]
        change = None if not before or after is None else after / before - 1
        rows.append({"name": label, "plain": before, "fair": after, "change": change})
    return rows


def _calibration(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Calibration error of the group that has the largest one: constraints bend probabilities."""
    seen = [
        group
        for statistic in task["statistics"].values()
        if statistic["measure"] == "calibration error"
        for attribute in statistic["attributes"].values()
        for group in attribute["groups"].values()
        if (group["n"] or 0) >= THICK_ROWS
    ]
    before, after = (
        max((g[key] for g in seen if g[key] is not None), default=None)
        for key in ("plain", "value")
    )
    change = None if not before or after is None else after / before - 1
    label = f"{name}: largest calibration error of a group"
    return {"name": label, "plain": before, "fair": after, "change": change}


def report(learner: FairMTLearner, found: Mapping[str, Any], test: pd.DataFrame, title: str) -> str:
    """The page: audit of the chosen candidate on test rows, path, comparison, model card."""
    page: str = learner.audit(
        test,
        tolerance=learner.tolerance,
        title=title,
        seed=learner.seed,
        extra={
            "path": _drawn(found["path"]),
            "comparison": {
                "method": _called(learner),
                "reason": f"Chosen: {found['chosen']['reason']}.",
                "rows": comparison(found),
            },
            "model": _card(learner, found),
        },
    ).to_html()
    return page


def _drawn(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """What a chart of the path shows; None where there is no path, or none that can be judged."""
    known = [p for p in rows if p["shortfall"] is not None and p["segment"] != "warmup"]
    return known if any(p["segment"] == "path" for p in known) else None


def new_learner(settings: Mapping[str, Any]) -> FairMTLearner:
    """The learner for the shell's words: boosting for its own method, a network for the others.

    Raises
    ------
    ValueError
        For words that boosting has no use for.
    """
    from fairmt.boosting import MMMFair

    if settings.get("method") != "mmm_fair":
        return FairMTLearner(**settings)
    # A quick training needs neither a bar nor a way back.
    own = {k: v for k, v in settings.items() if k not in ("method", "checkpoint", "progress")}
    own |= own.pop("options", {})
    unknown = sorted(set(own) - set(MMMFair().get_params()))
    if unknown:
        raise ValueError(f"Method 'mmm_fair' has no {unknown}; leave them out.")
    return MMMFair(**own)


def load_learner(folder: Path) -> FairMTLearner:
    """What a run saved, of whichever kind."""
    from fairmt.boosting import mmm_fair

    if load_state(folder).get("kind") == mmm_fair.KIND:
        return mmm_fair.MMMFair.load(folder)
    return FairMTLearner.load(folder)


def _called(learner: FairMTLearner) -> str:
    """The method, and what follows it."""
    after = getattr(learner, "postprocessing", None)
    name = after["name"] if isinstance(after, Mapping) else after
    return f"{learner.method} + {name}" if name else learner.method


def _card(learner: FairMTLearner, found: Mapping[str, Any]) -> str:
    tasks = ", ".join(f"{t.name} ({t.kind})" for t in learner.schema_.tasks)
    inputs = "are" if learner.schema_.attributes_as_inputs else "are not"
    named = ", and decisions differ by them" if learner.repairs_ else ""
    what = f"Multi-task network with layers {list(learner.widths)}"
    if not hasattr(learner.model_, "encoder"):
        what = "Boosted trees, an ensemble for every class task and label,"
    return (
        f"{what} that predicts {tasks}. Method "
        f"'{_called(learner)}', seed {learner.seed}, fairmt {__version__}. Sensitive attributes "
        f"{inputs} inputs{named}. {found['notice']}"
    )


def write_run(
    folder: Path,
    learner: FairMTLearner,
    tested: Tested,
    run: Mapping[str, Any],
    test: pd.DataFrame | None,
) -> dict[str, Any]:
    """Write or refresh a run's files; without test rows the report is left out.

    Returns
    -------
    The content of ``metrics.json``.
    """
    found = metrics(learner, tested, run)
    page = None
    if test is not None:
        page = report(learner, found, test, f"{_called(learner)} on {run['source']}")
    # Everything that can go wrong has been computed; now it is written.
    learner.save(folder / "model")
    tested.save(folder / "test")
    write_text(folder / "run.json", json.dumps({"schema": RUN, **run}, indent=1))
    write_text(folder / "metrics.json", json.dumps(found, indent=1, ensure_ascii=False))
    if page is None:
        (folder / "report.html").unlink(missing_ok=True)
    else:
        write_text(folder / "report.html", page)
    return found


def digest(path: str | Path) -> str | None:
    """SHA-256 of a file; None for a folder."""
    path = Path(path)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number(value: Any, evidence: Any = 1.0) -> float | None:
    number = float(value)
    return number if math.isfinite(number) and float(evidence) > 0 else None


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {k: _number(v) for k, v in values.items()}
