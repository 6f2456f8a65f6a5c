"""What an audit found, in plain words, and what fools people."""

from __future__ import annotations

import pandas as pd

from fairmt.notions import MEASURES

_OFTEN = 0.1
_DISTANCE = "score distance (KS)"


def findings(
    gaps: pd.DataFrame, rates: pd.DataFrame, observation: pd.DataFrame, tolerance: float | None
) -> list[str]:
    """Sentences, the most important first."""
    sentences = []
    chosen = [
        s == "live" and MEASURES[m].bounded and m not in ("predicted rate", _DISTANCE)
        for s, m in zip(gaps["status"], gaps["measure"], strict=True)
    ]
    judged = gaps[chosen]
    if tolerance is not None and "verdict" in gaps and len(judged):
        outside = (judged["verdict"] == "outside your tolerance").sum()
        sentences.append(
            f"{outside} of {len(judged)} comparisons are outside your tolerance of {tolerance:g}."
        )
    for _, row in judged.sort_values("gap", ascending=False).head(3).iterrows():
        own = rates[(rates["task"] == row["task"]) & (rates["statistic"] == row["statistic"])]
        value = own.set_index("group")["value"]
        beyond = ""
        if row["noise_floor"] == row["noise_floor"] and row["gap"] < 1.5 * row["noise_floor"]:
            beyond = f" Chance alone shows {row['noise_floor']:.0%} here."
        sentences.append(
            f"{row['task']}: {row['statistic']} is {value[row['worst_group']]:.0%} for "
            f"{row['worst_group']} and {value[row['best_group']]:.0%} for {row['best_group']}."
            + beyond
        )
    return sentences + _flags(gaps, rates, observation)


def _flags(gaps: pd.DataFrame, rates: pd.DataFrame, observation: pd.DataFrame) -> list[str]:
    sentences = []
    predicted = rates[(rates["measure"] == "predicted rate") & (rates["attribute"] == "everybody")]
    for _, row in predicted.iterrows():
        if row["value"] in (0.0, 1.0):
            sentences.append(
                f"{row['task']}: {row['statistic']} is {row['value']:.0%} for everybody: the "
                "decision is constant, and equal rates mean nothing."
            )
    dead = gaps[gaps["status"] == "dead"]
    if len(dead):
        sentences.append(
            f"{len(dead)} comparisons are dead: all groups lie below 2 % or above 98 %, so no gap "
            "can show."
        )
    unknown = gaps[gaps["unknown_groups"] > 0]
    if len(unknown):
        names = sorted(set(rates.loc[rates["status"] == "unknown", "group"]))
        shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
        sentences.append(
            f"Some groups are too small to judge in some statistics ({shown}); they are left out "
            "of those gaps."
        )
    for (task, attribute), own in observation[observation["attribute"] != "everybody"].groupby(
        ["task", "attribute"], sort=False
    ):
        spread = own["observed"].max() - own["observed"].min()
        if spread > _OFTEN:
            ranked = own.sort_values("observed")
            low, high = ranked.iloc[0], ranked.iloc[-1]
            sentences.append(
                f"{task}: labels are observed for {low['observed']:.0%} of {low['group']} and "
                f"{high['observed']:.0%} of {high['group']}. Gaps on observed labels are not gaps "
                f"in the population ({attribute})."
            )
    return sentences
