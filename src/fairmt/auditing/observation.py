"""What is observed: how often labels are known, hold and are predicted in every group."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairmt.auditing.cube import Cube
from fairmt.auditing.plan import Plan

_COLUMNS = (
    "task", "output", "attribute", "group", "rows", "observed", "base_rate", "predicted_rate",
    "prediction_sd", "r2",
)  # fmt: skip


def observation_table(plan: Plan, cube: Cube) -> pd.DataFrame:
    """How often labels are observed, hold and are predicted in every group; R² of targets."""
    counts = cube.by_group(plan.groups, cube.counts)
    seen = cube.by_group(plan.groups, cube.seen)
    sums = cube.by_group(plan.groups, cube.targets)
    rows = cube.by_group(plan.groups, cube.rows)
    names = np.array(["everybody", *plan.groups.names], dtype=object)
    partitions = [
        p.name for p in plan.groups.partitions for _ in range(p.groups.start, p.groups.stop)
    ]
    owner = np.array(["everybody", *partitions], dtype=object)
    parts: dict[str, list[np.ndarray]] = {c: [] for c in _COLUMNS}
    for task in plan.layout.tasks:
        for k, output in enumerate(task.outputs):
            fused = plan.layout.outputs[task.name].start + k
            base = given = spread = r2 = np.full(len(names), np.nan)
            if task.kind == "regression":
                at = plan.targets.index(fused)
                n, r2 = seen[:, at], determination(sums[:, :, at])
                spread = prediction_spread(sums[:, :, at])
            else:
                own = counts[:, :, plan.counted_outputs.index((task.name, fused))]
                n = own[:, 2:].sum(1)
                base = np.where(n > 0, own[:, 4:].sum(1) / np.maximum(n, 1), np.nan)
                given = np.where(rows > 0, own[:, 1::2].sum(1) / np.maximum(rows, 1), np.nan)
            texts = [np.full(len(names), v, dtype=object) for v in (task.name, output)]
            numbers = (rows, n / np.maximum(rows, 1), base, given, spread, r2)
            for name, values in zip(_COLUMNS, (*texts, owner, names, *numbers), strict=True):
                parts[name].append(np.asarray(values))
    return pd.DataFrame({name: np.concatenate(values) for name, values in parts.items()})


def prediction_spread(sums: np.ndarray) -> np.ndarray:
    """Standard deviation of predictions, in the target's, from the sums of `TARGET_SUMS`."""
    n, p, pp = sums[..., 0], sums[..., 1], sums[..., 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 0, np.sqrt(np.maximum(pp / n - (p / n) ** 2, 0.0)), np.nan)


def determination(sums: np.ndarray) -> np.ndarray:
    """R² (...) from the sums (..., 7) of `TARGET_SUMS`; NaN without spread of the target."""
    n, _, a, pp, aa, pa = (sums[..., i] for i in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = aa - a * a / n
        squared = pp - 2 * pa + aa
        return np.where((n > 0) & (spread > 1e-9 * n), 1 - squared / spread, np.nan)
