"""What a budget of 1 % spends on test rows, and how validation rows mislead the choice.

The plain reference is the best of all plain candidates on validation rows, and so a lucky one: its
lead over their mean is larger there than on test rows, and Δm on validation is the smaller for it.
`Path.optimism` takes some of that back. How much is left, problem by problem; by default on
development splits, which the tables' figures are not from.

    python benchmarks/choice.py acs acs/missing:0.5 acs/missing_by_group:0.5 --seeds 10 19
"""

from __future__ import annotations

import argparse
import platform

import numpy as np
import torch
from torch import Tensor

import fairmt
from fairmt.bench.configuration import Configuration
from fairmt.bench.contest import Hand, contest, contest_plain, judges, rows_of
from fairmt.bench.problems import Problem, problem
from fairmt.path import Path
from fairmt.utility import headline_replicates

BUDGET = 0.01
NEAR = 2 * BUDGET
"""Candidates that validation rows say lose at most this are looked at beside the chosen one."""
COLUMNS = (
    "Δm of the choice on test rows", "the reference's lead on validation", "on test", "taken back",
    "Δm near the budget, validation less test",
)  # fmt: skip


def test_utilities(found: Problem, hand: Hand) -> Tensor:
    """Utilities on test rows, (candidates, T)."""
    table = rows_of(found, hand.learner, ("test",))
    once = torch.ones(1, len(table))
    layout = judges(hand.learner).layout
    return torch.cat(
        [
            headline_replicates(layout, outputs, table.labels, candidate.offsets, once)
            for outputs, candidate in zip(hand.outputs, hand.candidates, strict=True)
        ]
    )


def change(utilities: Tensor, base: Tensor) -> Tensor:
    """Δm against a base (T,), per candidate."""
    return torch.nanmean((utilities - base) / base.abs(), 1)


def measured(data: str, variant: str, seed: int) -> list[float]:
    """One figure for every column."""
    found = problem(data, variant, seed)
    hands = [
        contest_plain(found, Configuration(data, method, seed, variant))
        for method in ("plain", "balanced")
    ]
    candidates = [c for hand in hands for c in hand.candidates]
    first = hands[0].learner
    plain = Path(judges(first), first.schema_.groups, candidates, first.path_.rows)
    on_test = torch.cat([test_utilities(found, hand) for hand in hands])
    on_validation = torch.stack([c.utilities[0] for c in candidates])
    leads = [-change(u, u[plain.plain]).mean() for u in (on_validation, on_test)]

    config = Configuration(data, "fairmt", seed, variant)
    hand = contest(found, config)
    learner = hand.learner
    path = Path(
        judges(learner),
        learner.schema_.groups,
        [candidates[plain.plain], *hand.candidates],
        learner.path_.rows,
        reference_optimism=plain.optimism,
    )
    spent = change(test_utilities(found, hand), on_test[plain.plain])
    seen = torch.tensor([p.delta_m for p in path.points[1:]])
    chosen = path.choose(utility_budget=BUDGET).point
    price = float(spent[chosen.index - 1]) if chosen.index else 0.0
    return [
        price,
        float(leads[0]),
        float(leads[1]),
        plain.optimism,
        float((seen - spent)[seen >= -NEAR].mean()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("problems", nargs="+", help="data, or data/variant")
    parser.add_argument("--seeds", type=int, nargs=2, default=(10, 19), help="first and last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, last = args.seeds
    print("# What a budget of 1 % spends\n")
    print(
        f"`python benchmarks/choice.py {' '.join(args.problems)} --seeds {first} {last}`; fairmt "
        f"{fairmt.__version__}, torch {torch.__version__}, python {platform.python_version()}. "
        "Means over seeds ± one standard error.\n"
    )
    print(f"| problem | {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * (1 + len(COLUMNS))}", flush=True)
    for name in args.problems:
        data, _, variant = name.partition("/")
        figures = np.array([measured(data, variant, seed) for seed in range(first, last + 1)])
        errors = figures.std(0, ddof=1) / len(figures) ** 0.5
        cells = [f"{m:+.2%} ± {e:.2%}" for m, e in zip(figures.mean(0), errors, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
