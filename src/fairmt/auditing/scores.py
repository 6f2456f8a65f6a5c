"""Reliability and distribution of probabilities by group, from bins."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairmt.auditing.cube import SCORE_BINS, Cube
from fairmt.auditing.plan import Plan

SHOWN_BINS = 20
COLUMNS = ("task", "output", "attribute", "group", "low", "high", "n", "observed", "mean", "share")


def score_table(plan: Plan, cube: Cube) -> pd.DataFrame:
    """Bins of the probability of every label and class, in every group of single attributes.

    `n` are rows, `observed` the weight of those with a label, `mean` their mean probability and
    `share` the share of them for whom the label holds.
    """
    if cube.scores is None:
        return pd.DataFrame({c: [] for c in COLUMNS})
    found = cube.by_group(plan.groups, cube.scores)
    coarse = found.reshape(len(found), SHOWN_BINS, SCORE_BINS // SHOWN_BINS, 4, -1).sum(2)
    groups = [("everybody", "everybody", 0)] + [
        (p.name, plan.groups.names[g], g + 1)
        for p in plan.groups.partitions
        if len(p.members) == 1
        for g in range(p.groups.start, p.groups.stop)
    ]
    edges = np.linspace(0, 1, SHOWN_BINS + 1)
    parts = []
    for task in plan.layout.tasks:
        for k, output in enumerate(task.outputs):
            fused = plan.layout.outputs[task.name].start + k
            if task.kind == "regression" or not coarse[0, :, 0, fused].any():
                continue
            for attribute, group, g in groups:
                n, observed, probability, actual = coarse[g, :, :, fused].T
                safe = np.where(observed > 0, observed, np.nan)
                parts.append(
                    pd.DataFrame(
                        {
                            "task": task.name,
                            "output": output,
                            "attribute": attribute,
                            "group": group,
                            "low": edges[:-1],
                            "high": edges[1:],
                            "n": n,
                            "observed": observed,
                            "mean": probability / safe,
                            "share": actual / safe,
                        }
                    )
                )
    if not parts:
        return pd.DataFrame({c: [] for c in COLUMNS})
    return pd.concat(parts, ignore_index=True)
