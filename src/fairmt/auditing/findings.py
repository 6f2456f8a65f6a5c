"""What an audit found, in plain words, and what fools people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fairmt.disparity import THICK_ROWS
from fairmt.measures import MEASURES

if TYPE_CHECKING:
    from fairmt.auditing.compare import Comparison

SHOWN = 5
_OFTEN = 0.1
_STEADY = 1e-6
_NEUTRAL = ("mean residual", "calibration in the large")
"""Measures without a better side that are findings all the same: they have a right value, 0."""
_UNITS = {
    "mean residual": " standard deviations",
    "mean prediction": " standard deviations",
    "mean absolute error": " standard deviations",
    "mean squared error": " variances",
}


@dataclass(frozen=True)
class Flag:
    """Something that makes figures mean less than they seem to.

    `kind` is one of 'constant', 'dead', 'thin', 'unknown', 'base rates', 'tiny group',
    'within groups', 'observation', 'chance'.
    """

    kind: str
    sentence: str


def headline(gaps: pd.DataFrame) -> pd.DataFrame:
    """Gaps that say that some are served worse: live, with a better side or a right value."""
    chosen = [
        status == "live" and (MEASURES[m].orientation != 0 or m in _NEUTRAL)
        for status, m in zip(gaps["status"], gaps["measure"], strict=True)
    ]
    return gaps[np.array(chosen, dtype=bool)]


def ordered(gaps: pd.DataFrame) -> pd.DataFrame:
    """The surest gaps first: by the lower end of their interval, then by size."""
    sure = gaps["low"].fillna(gaps["gap"])
    return gaps.assign(_sure=sure).sort_values(
        ["_sure", "gap"], ascending=False, kind="stable"
    ).drop(columns="_sure")  # fmt: skip


def findings(gaps: pd.DataFrame, tolerance: float | None, confidence: float) -> list[str]:
    """Sentences about gaps, the surest first, at most one for every task and attribute."""
    judged = headline(gaps)
    if not len(judged):
        return ["No gap could be judged: too few people, or rates that are 0 or 1 for everybody."]
    sentences = []
    if tolerance is not None:
        outside = int((judged["verdict"] == "outside your tolerance").sum())
        above = int((judged["verdict"] == "above your tolerance, but not surely").sum())
        sentence = (
            f"{outside} of {count(len(judged), 'gap')} {be(outside)} outside your tolerance of "
            f"{tolerance:g}"
        )
        if above:
            sentence += f"; {above} more {be(above)} above it, but not surely so"
        sentences.append(sentence + ".")
    shown = ordered(judged).drop_duplicates(["task", "attribute"]).head(SHOWN)
    for row in shown.to_dict("records"):
        sentences.append(_about_gap(row, confidence))
    return sentences


def _about_gap(row: Mapping[Any, Any], confidence: float) -> str:
    worst, best = amount(row["worst_value"], row["measure"]), amount(
        row["best_value"], row["measure"]
    )  # fmt: skip
    unit = _UNITS.get(row["measure"], "")
    interval = ""
    if np.isfinite(row["low"]):
        interval = f" ({confidence:.0%} interval {row['low']:.2f} to {row['high']:.2f})"
    sentence = (
        f"{row['task']}: {row['statistic']} is {worst} for {row['worst_group']} and {best} for "
        f"{row['best_group']}, a gap of {row['gap']:.2f}{unit}{interval}."
    )
    if np.isfinite(row["noise_floor"]) and row["gap"] < 1.5 * row["noise_floor"]:
        sentence += f" Chance alone shows {row['noise_floor']:.2f} here."
    return sentence


def amount(value: float, measure: str) -> str:
    """A rate as people read it: shares in percent, everything else with its sign."""
    if MEASURES[measure].bounded and measure != "calibration error":
        return f"{value:.0%}"
    return f"{value:+.2f}" if MEASURES[measure].orientation == 0 else f"{value:.2f}"


def flags(gaps: pd.DataFrame, rates: pd.DataFrame, observation: pd.DataFrame) -> list[Flag]:
    """What fools people, each kind in as few sentences as possible."""
    return [
        *_constant(observation),
        *_dead(gaps),
        *_thin(gaps),
        *_unknown(gaps, rates),
        *_chance(gaps),
        *_base_rates(observation),
        *_within_groups(observation),
        *_observation(observation),
    ]


def _constant(observation: pd.DataFrame) -> list[Flag]:
    every = observation[observation["attribute"] == "everybody"]
    found = []
    for row in every.to_dict("records"):
        what = name(row)
        if row["predicted_rate"] in (0.0, 1.0):
            share = "everybody" if row["predicted_rate"] else "nobody"
            sentence = f"{what} is predicted for {share}: equal rates mean nothing then."
            found.append(Flag("constant", sentence))
        elif row["prediction_sd"] < _STEADY:
            sentence = f"{what}: everybody is given the same prediction."
            found.append(Flag("constant", sentence))
    groups = observation[(observation["attribute"] != "everybody") & (observation["rows"] > 0)]
    for row in groups.to_dict("records"):
        whole = every[(every["task"] == row["task"]) & (every["output"] == row["output"])].iloc[0]
        if row["predicted_rate"] in (0.0, 1.0) and whole["predicted_rate"] not in (0.0, 1.0):
            often = "always" if row["predicted_rate"] else "never"
            sentence = f"{name(row)} is {often} predicted for {row['group']}."
            if row["rows"] >= THICK_ROWS:
                found.append(Flag("constant", sentence))
    return found


def _dead(gaps: pd.DataFrame) -> list[Flag]:
    n = int((gaps["status"] == "dead").sum())
    if not n:
        return []
    sentence = (
        f"{count(n, 'comparison')} {be(n)} dead: all groups lie below 2 % or above 98 %, so that "
        "no gap can show."
    )
    return [Flag("dead", sentence)]


def _thin(gaps: pd.DataFrame) -> list[Flag]:
    judged = headline(gaps)
    if not len(judged):
        return []
    found = []
    largest = judged.sort_values("gap").iloc[-1]
    if largest["smallest_n"] < THICK_ROWS:
        found.append(
            Flag(
                "tiny group",
                f"The largest gap, {largest['task']}: {largest['statistic']} by "
                f"{largest['attribute']}, rests on {largest['smallest_n']:.0f} people in one of "
                "its two groups.",
            )
        )
    thin = int((judged["smallest_n"] < THICK_ROWS).sum())
    if thin:
        sentence = (
            f"{count(thin, 'gap')} of {len(judged)} {be(thin)} thin: the worst or the best group "
            f"has fewer than {THICK_ROWS} people that the rate is about."
        )
        found.append(Flag("thin", sentence))
    return found


def _unknown(gaps: pd.DataFrame, rates: pd.DataFrame) -> list[Flag]:
    if not (gaps["unknown_groups"] > 0).any():
        return []
    small = rates[(rates["status"] == "unknown") & (rates["group"] != "everybody")]
    names = list(small["group"].value_counts().index)
    n = len(names)
    sentence = (
        f"{count(n, 'group')} {be(n)} too small to judge in some statistics "
        f"({listed(names)}); {'it is' if n == 1 else 'they are'} left out of those gaps."
    )
    return [Flag("unknown", sentence)]


def _chance(gaps: pd.DataFrame) -> list[Flag]:
    judged = headline(gaps)
    known = judged[judged["noise_floor"].notna()]
    n = int((known["gap"] <= known["noise_floor"]).sum())
    if not n:
        return []
    sentence = (
        f"{count(n, 'gap')} of {len(known)} {be(n)} no larger than the gap that group labels "
        "exchanged at random show."
    )
    return [Flag("chance", sentence)]


def _base_rates(observation: pd.DataFrame) -> list[Flag]:
    worst = _widest(observation, "base_rate")
    if not len(worst):
        return []
    n = len(worst)
    row = worst.iloc[0]
    also = ""
    if n > 1:
        also = f" ({count(n - 1, 'other pair')} of outcome and attribute likewise)"
    sentence = (
        f"Base rates differ, most for {row['what']}: it holds for {row['low']:.0%} of "
        f"{row['low_group']} and {row['high']:.0%} of {row['high_group']}{also}. Equal rates of "
        "decisions, equal error rates and equal precision then exclude each other."
    )
    return [Flag("base rates", sentence)]


def _within_groups(observation: pd.DataFrame) -> list[Flag]:
    found = []
    known = observation[observation["r2"].notna()]
    for (task, output), own in known.groupby(["task", "output"], sort=False):
        every = own[own["attribute"] == "everybody"]
        if not len(every):
            continue
        whole = float(every["r2"].iloc[0])
        for attribute, groups in own[own["attribute"] != "everybody"].groupby(
            "attribute", sort=False
        ):
            weight = groups["rows"] * groups["observed"]
            inside = float((groups["r2"] * weight).sum() / weight.sum())
            if whole - inside > _OFTEN:
                sentence = (
                    f"{_label(task, output)}: R² is {whole:.2f} over everybody, but "
                    f"{inside:.2f} on average within the groups of {attribute}: the group explains "
                    "much of the target."
                )
                found.append(Flag("within groups", sentence))
    return found


def _observation(observation: pd.DataFrame) -> list[Flag]:
    worst = _widest(observation, "observed").drop_duplicates("task")
    if not len(worst):
        return []
    shares = [
        f"of {row['task']} for {row['low']:.0%} of {row['low_group']} and {row['high']:.0%} of "
        f"{row['high_group']}"
        for row in worst.to_dict("records")
    ]
    sentence = (
        f"Labels are observed for some groups more than for others: {'; '.join(shares)}. Gaps on "
        "observed labels are not gaps in the population."
    )
    return [Flag("observation", sentence)]


def _widest(observation: pd.DataFrame, column: str) -> pd.DataFrame:
    """Pairs of outcome and attribute whose groups differ by more than 0.1, the widest first."""
    known = observation[
        (observation["attribute"] != "everybody")
        & observation[column].notna()
        & (observation["rows"] >= THICK_ROWS)
    ]
    rows = []
    for (task, output, attribute), own in known.groupby(
        ["task", "output", "attribute"], sort=False
    ):
        ranked = own.sort_values(column, kind="stable")
        low, high = ranked.iloc[0], ranked.iloc[-1]
        if high[column] - low[column] > _OFTEN:
            rows.append(
                {
                    "task": task,
                    "what": _label(task, output),
                    "attribute": attribute,
                    "low": low[column],
                    "low_group": low["group"],
                    "high": high[column],
                    "high_group": high["group"],
                    "spread": high[column] - low[column],
                }
            )
    columns = ["task", "what", "attribute", "low", "low_group", "high", "high_group", "spread"]
    return pd.DataFrame(rows, columns=columns).sort_values("spread", ascending=False)


def comparison_findings(comparison: Comparison) -> list[str]:
    """Who gained and who paid, model by model."""
    sentences = []
    for model in comparison.models:
        if model == comparison.baseline:
            continue
        own = comparison.groups[
            (comparison.groups["model"] == model) & (comparison.groups["group"] != "everybody")
        ]
        gained, paid = (int((own["outcome"] == o).sum()) for o in ("gained", "paid"))
        sentences.append(
            f"{model} against {comparison.baseline}: of {count(len(own), 'rate')} of groups "
            f"{gained} gained and {paid} paid, beyond sampling error."
        )
        own_figures = comparison.summary[comparison.summary["model"] == model]
        figures = own_figures.set_index("figure")
        if figures["entries"].max() > 0:
            gap, shortfall = figures.loc["gap"], figures.loc["shortfall"]
            lost = figures.loc["level down"]
            sentences.append(
                f"{model}: the mean gap is {gap['value']:.3f} (was {gap['baseline']:.3f}), the "
                f"shortfall of the worst-served groups {shortfall['value']:.3f} (was "
                f"{shortfall['baseline']:.3f}), and the best-served groups lost "
                f"{lost['value']:.3f} on average (level-down index)."
            )
        tasks = comparison.tasks[comparison.tasks["model"] == model]
        for task in tasks.to_dict("records"):
            if task["transfer"] != "no clear change":
                sentences.append(f"{model}, {task['task']}: {task['transfer']}.")
        if paid:
            worst = own[own["outcome"] == "paid"].sort_values("change").to_dict("records")[0]
            sentences.append(
                f"{model}: {worst['group']} paid most, in {worst['task']}: {worst['statistic']} "
                f"from {amount(worst['baseline'], worst['measure'])} to "
                f"{amount(worst['value'], worst['measure'])}."
            )
    return sentences


# -- words --------------------------------------------------------------------------------------


def count(n: int, noun: str) -> str:
    """'1 gap', '2 gaps'."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def be(n: int) -> str:
    """The verb for so many."""
    return "is" if n == 1 else "are"


def listed(names: list[str], most: int = 4) -> str:
    """The first few of a list."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def name(row: Mapping[Any, Any]) -> str:
    """An outcome as sentences call it."""
    return _label(row["task"], row["output"])


def _label(task: Any, output: Any) -> str:
    return str(task) if task == output else f"{task}={output}"
