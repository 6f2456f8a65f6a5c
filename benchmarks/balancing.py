"""What balancing does to FairMT along its path: change of every task's utility on test rows.

FairMT less FairMT without balancing (`proxy=None`), candidates at equal λ, from the rows of the
benchmark; mean over seeds and tasks ± one standard error, and task by task.

    python benchmarks/balancing.py faces acs diabetes130 --store benchmarks/results/bench
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from fairmt.bench.configuration import Configuration
from fairmt.bench.store import ResultStore

STRENGTHS = (0.4, 1.0, 2.0, 4.0, 8.0, 16.0)
MOST_SEEDS = 20
WITHOUT = (("proxy", None),)


def changes(row: dict[str, Any]) -> np.ndarray:
    """Relative change of every task's utility at `STRENGTHS`, (strengths, T)."""
    places = row["places"]
    at = [min(places, key=lambda p: abs(np.log(p["strength"] / s))) for s in STRENGTHS]
    return np.array([place["change"] for place in at])


def differences(store: ResultStore, data: str) -> tuple[list[str], np.ndarray]:
    """Names of tasks and, for every seed that has both rows, (seeds, strengths, T)."""
    found, names = [], []
    for seed in range(MOST_SEEDS):
        both = [Configuration(data, "fairmt", seed, options=options) for options in ((), WITHOUT)]
        if all(store.has(config) for config in both):
            with_it, without = (store.get(config) for config in both)
            names = with_it["tasks"]
            found.append(changes(with_it) - changes(without))
    if len(found) < 2:
        raise SystemExit(
            f"{len(found)} seeds of '{data}' have a row with and one without balancing in this "
            "store; two or more are needed for an error. Make them with `fairmt bench one`."
        )
    return names, np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--store", default="benchmarks/results/bench")
    args = parser.parse_args()
    store = ResultStore(args.store)
    by_data = {data: differences(store, data) for data in args.data}
    print("# What balancing does to FairMT along its path\n")
    print(
        f"`python benchmarks/balancing.py {' '.join(args.data)} --store {args.store}`: utility on "
        "test rows, with less without balancing, at equal λ.\n"
    )
    for data, (names, found) in by_data.items():
        means = found.mean(2)
        errors = means.std(0, ddof=1) / len(means) ** 0.5
        print(f"## {data} ({len(found)} seeds)\n")
        print(f"| λ | Δm | {' | '.join(names)} |")
        print(f"|{'---|' * (2 + len(names))}")
        for i, strength in enumerate(STRENGTHS):
            tasks = " | ".join(f"{v:+.1%}" for v in found[:, i].mean(0))
            print(f"| {strength:g} | {means[:, i].mean():+.1%} ± {errors[i]:.1%} | {tasks} |")
        print()


if __name__ == "__main__":
    main()
