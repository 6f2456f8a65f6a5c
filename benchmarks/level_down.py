"""Why best-served groups lose: which rates fall, and what stands at the other end of them.

How often the group that is best at one of a label's two rates (recall, true negative rate) is the
worst at the other under the plain model, so that lifting the second lowers the first; and by how
much the best-served groups fall on the paths of FairMT and of its symmetric variant, task by task,
at the candidate whose gap is nearest to three fifths of the plain model's. Test rows, by which that
candidate is found as well, for the question is what happens at equal gaps.

    python benchmarks/level_down.py --data nhanes --seeds 5
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
import torch

import fairmt
from fairmt.bench.configuration import Configuration
from fairmt.bench.contest import contest, judges, rows_of
from fairmt.bench.problems import problem
from fairmt.bench.run import _Reference
from fairmt.disparity import Yardstick
from fairmt.path import judge

SHARE = 0.6
METHODS = ("fairmt", "symmetric")
RECALL, REJECTION = "recall of ", "true negative rate of "


class Measured:
    """Rates of one method on test rows, plain and at the wanted gap."""

    def __init__(self, data: str, method: str, seed: int, cache: Path) -> None:
        found, config = problem(data, "", seed), Configuration(data, method, seed)
        base, hand = _Reference.of(found, config, cache), contest(found, config)
        table = rows_of(found, hand.learner, ("test",))
        self.ledger, self.groups = judges(hand.learner), hand.learner.schema_.groups
        plain, *path = (
            judge(self.ledger, self.groups, outputs, table, candidate.offsets)
            for outputs, candidate in zip(
                [base.outputs, *hand.outputs], [base.candidate, *hand.candidates], strict=True
            )
        )
        rows = self.groups.membership(table.attributes)[:, 1:].sum(0)
        self.yardstick = Yardstick(self.ledger, self.groups, plain, rows)
        wanted = SHARE * self.yardstick.measure(plain).gap
        nearest = min(path, key=lambda m: abs(self.yardstick.measure(m).gap - wanted))
        self.before, self.after = (
            torch.where(
                self.yardstick.known,
                self.ledger.orientation * self.ledger.rates(m.sums)[1:],
                torch.nan,
            )
            for m in (plain, nearest)
        )

    def opposite_ends(self) -> tuple[int, int]:
        """Ends of pairs where the best at one rate is the worst at the other; all ends."""
        place = {(s.task, s.name): j for j, s in enumerate(self.ledger.statistics)}
        same = ends = 0
        for (task, name), j in place.items():
            if not name.startswith(REJECTION):
                continue
            k = place[task, RECALL + name.removeprefix(REJECTION)]
            for p, partition in enumerate(self.groups.partitions):
                if not bool(self.yardstick.counted[p, j] & self.yardstick.counted[p, k]):
                    continue
                both = self.before[partition.groups][:, [j, k]]
                one, other = both[~both.isnan().any(1)].T
                same += int(one.argmax() == other.argmin()) + int(other.argmax() == one.argmin())
                ends += 2
        return same, ends

    def falls(self) -> dict[str, list[float]]:
        """By how much the best-served groups fall, by task."""
        found: dict[str, list[float]] = {}
        for p, partition in enumerate(self.groups.partitions):
            best = self.before[partition.groups].nan_to_num(-torch.inf).argmax(0)
            for j, statistic in enumerate(self.ledger.statistics):
                if self.yardstick.counted[p, j]:
                    group = partition.groups.start + int(best[j])
                    fall = float(self.before[group, j] - self.after[group, j])
                    found.setdefault(statistic.task, []).append(max(0.0, fall))
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="nhanes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("bench/cache"))
    args = parser.parse_args()
    falls: dict[tuple[str, str], list[float]] = {}
    same = ends = 0
    for seed in range(args.seeds):
        for method in METHODS:
            path = Measured(args.data, method, seed, args.cache)
            for task, found in path.falls().items():
                falls.setdefault((task, method), []).append(float(np.mean(found)))
        counted = path.opposite_ends()
        same, ends = same + counted[0], ends + counted[1]
    print(f"# Who loses on {args.data}\n")
    print(
        f"`python benchmarks/level_down.py --data {args.data} --seeds {args.seeds}`; fairmt "
        f"{fairmt.__version__}, torch {torch.__version__}, python {platform.python_version()}.\n"
    )
    if ends:
        print(
            f"Under the plain model the group that is best at one of a label's two rates is the "
            f"worst at the other in {same} of {ends} cases.\n"
        )
    print(f"Mean fall of the best-served group's rate at {SHARE:.0%} of the plain model's gap:\n")
    print("| task | FairMT | symmetric |")
    print("|---|---|---|")
    for task in dict.fromkeys(task for task, _ in falls):
        cells = []
        for method in METHODS:
            values = np.array(falls[task, method])
            half = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.3f} ± {half:.3f}")
        print(f"| {task} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
