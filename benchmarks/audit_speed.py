"""CPU time of an audit against fairlearn's MetricFrame with the same metrics.

Two cases, each in one run and on one thread: 100,000 rows with 100 bootstrap resamples, and
1,000,000 rows without; 8 integer groups, three metrics. Point values and intervals are compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fairlearn.metrics import MetricFrame, selection_rate
from sklearn.metrics import accuracy_score, recall_score

import fairmt

METRICS = {
    "recall of 1": recall_score,
    "accuracy": accuracy_score,
    "predicted rate of 1": selection_rate,
}
NOTIONS = ["equal_opportunity", "accuracy_parity", "demographic_parity"]


def data(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r = np.random.default_rng(0)
    group, truth = r.integers(0, 8, n), r.integers(0, 2, n)
    right = r.random(n) < 0.7 + 0.02 * group
    return group, truth, np.where(right, truth, 1 - truth)


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """CPU seconds of one call, and what it gives."""
    start = time.process_time()
    for _ in range(repeats):
        found = work()
    return (time.process_time() - start) / repeats, found


def case(n: int, n_boot: int) -> dict[str, Any]:
    group, truth, guess = data(n)
    extra = {"n_boot": n_boot, "ci_quantiles": [0.025, 0.975], "random_state": 0} if n_boot else {}

    def peer() -> MetricFrame:
        frame = MetricFrame(
            metrics=METRICS, y_true=truth, y_pred=guess, sensitive_features=group, **extra
        )
        frame.difference()
        return frame

    def ours() -> fairmt.auditing.AuditResult:
        return fairmt.audit(
            {"y": guess, "y.true": truth},
            tasks=["y:classification"],
            sensitive={"group": group},
            notions=NOTIONS,
            n_boot=n_boot,
            interval="percentile" if n_boot else "auto",
        )

    ours()
    seconds, result = timed(ours, 20)
    peer_seconds, frame = timed(peer, 1)
    rates = result.rates.set_index(["statistic", "group"])
    points, limits = [], []
    for name in METRICS:
        for g in range(8):
            row = rates.loc[(name, f"group={g}")]
            points.append(abs(row["value"] - frame.by_group.loc[g, name]))
            if n_boot:
                low, high = (q.loc[g, name] for q in frame.by_group_ci)
                width = high - low
                limits += [abs(row["low"] - low) / width, abs(row["high"] - high) / width]
    found = {
        "rows": n,
        "n_boot": n_boot,
        "fairlearn_cpu_seconds": round(peer_seconds, 3),
        "fairmt_cpu_seconds": round(seconds, 5),
        "ratio": round(peer_seconds / seconds),
        "largest_difference_of_points": max(points),
    }
    if limits:
        found["largest_difference_of_limits_in_widths"] = round(max(limits), 3)
    return found


def main() -> None:
    print(json.dumps(case(1_000_000, 0)))
    print(json.dumps(case(100_000, 100)))


if __name__ == "__main__":
    main()
