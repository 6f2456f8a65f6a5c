"""What is observed: how often labels are known, hold and are predicted in every group."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairmt.auditing.cube import Cube
from fairmt.auditing.plan import Plan


def observation_table(plan: Plan, cube: Cube) -> pd.DataFrame:
    """How often labels are observed, hold and are predicted in every group; R² of targets."""
    counts = cube.by_group(plan.groups, cube.counts)
    seen = cube.by_group(plan.groups, cube.seen)
    sums = cube.by_group(plan.groups, cube.targets)
    rows = cube.by_group(plan.groups, cube.rows)
    names = ["everybody", *plan.groups.names]
    owner = ["everybody"] + [
        p.name for p in plan.groups.partitions for _ in range(p.groups.start, p.groups.stop)
    ]
    parts = []
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
            parts.append(
                pd.DataFrame(
                    {
                        "task": task.name,
                        "output": output,
                        "attribute": owner,
                        "group": names,
                        "rows": rows,
                        "observed": n / np.maximum(rows, 1),
                        "base_rate": base,
                        "predicted_rate": given,
                        "prediction_sd": spread,
                        "r2": r2,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


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
