"""A suite's results, problem by problem, and who is ahead of whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairmt.bench.statistics import MARGIN, Interval, Ranks, interval, ranks
from fairmt.bench.store import ResultStore
from fairmt.bench.suites import Suite

OURS = "fairmt"
AND = " + "
"""Between a method's name and that of the post-processing after it."""
FOLLOWED = OURS + AND
"""How the names of FairMT with a post-processing after it begin."""
REFERENCES = ("reference", "collapse")
"""Rows that are no contestants: the plain model, and the collapse control."""

Rows = Mapping[int, Mapping[str, Any]]
"""A contestant's results by seed."""


class Leaderboard:
    """The results of a suite that are there, problem by problem.

    Attributes
    ----------
    results : problem -> contestant -> seed -> row.
    apart : runs left out, in words: they were measured against another plain model than most of
        their problem and seed.
    """

    def __init__(self, suite: Suite, store: ResultStore) -> None:
        self.suite = suite
        self.results: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        self.ceilings: dict[str, dict[int, dict[str, Any]]] = {}
        self.floors: dict[str, dict[int, dict[str, float]]] = {}
        for config in suite.runs:
            if not store.has(config):
                continue
            if config.method == "ceiling":
                found = store.get(config)["ceiling"]
                self.ceilings.setdefault(config.problem, {})[config.seed] = found
            elif config.method == "noise_floor":
                found = store.get(config)["noise_floor"]
                self.floors.setdefault(config.problem, {})[config.seed] = found
            else:
                by_method = self.results.setdefault(config.problem, {})
                by_method.setdefault(config.contestant, {})[config.seed] = store.get(config)
        self.missing = sum(not store.has(c) for c in suite.runs)
        self.apart: list[str] = []
        for problem, by_method in self.results.items():
            for name, seed in _measured_apart(by_method):
                del by_method[name][seed]
                self.apart.append(f"{name} on {problem}, seed {seed}")
        self.results = {
            problem: {name: rows for name, rows in by_method.items() if rows}
            for problem, by_method in self.results.items()
        }

    def ahead(self, problem: str, other: str) -> Interval | None:
        """Hypervolume of FairMT less that of another, over the seeds that both have."""
        return difference(self.results[problem].get(OURS, {}), self.results[problem][other])

    def ranks(self) -> Ranks:
        """Ranks by hypervolume of the contestants that stand everywhere.

        A problem with less than a third of the largest field is a side question, and left out.
        """
        most = max(map(len, self.results.values()))
        fields = {p: r for p, r in self.results.items() if 3 * len(r) >= most}
        everywhere = set.intersection(*map(set, fields.values())) - set(REFERENCES)
        everywhere = {name for name in everywhere if AND not in name}
        figures = {
            name: {
                (problem, seed): row["volume"][0]
                for problem, by_method in fields.items()
                for seed, row in by_method[name].items()
            }
            for name in sorted(everywhere)
        }
        return ranks(figures)

    def behind(self) -> list[str]:
        """Where another method may be ahead of FairMT by more than the margin, in words.

        What has a post-processing after it is compared with FairMT that has the same.
        """
        found = []
        for problem, by_method in self.results.items():
            for other in by_method:
                if other in (OURS, *REFERENCES) or other.startswith(FOLLOWED):
                    continue
                own = by_method.get(OURS + "".join(other.partition(AND)[1:]), {})
                ahead = difference(own, by_method[other])
                if ahead is not None and ahead.low <= -MARGIN:
                    found.append(f"{problem}: {other} ({ahead})")
        return found

    def best(self, problem: str) -> str:
        """The contestant of the highest mean hypervolume on a problem.

        Controls are left out, and what has a post-processing after it, which is another contest.
        """
        mean = {
            name: np.mean([r["volume"][0] for r in rows.values()])
            for name, rows in self.results[problem].items()
            if name not in REFERENCES and AND not in name
        }
        return max(mean, key=lambda name: mean[name])


def _measured_apart(by_method: Mapping[str, Rows]) -> list[tuple[str, int]]:
    """Contestants and seeds whose plain model is not that of most of the seed.

    Networks of another device end elsewhere, and a change against one is none against the other.
    """
    plain = {
        (name, seed): (row["plain"]["gap"], row["plain"]["shortfall"])
        for name, rows in by_method.items()
        for seed, row in rows.items()
    }
    usual = {
        seed: Counter(found for (_, s), found in plain.items() if s == seed).most_common(1)[0][0]
        for seed in {s for _, s in plain}
    }
    return [(name, seed) for (name, seed), found in plain.items() if found != usual[seed]]


def difference(own: Rows, other: Rows) -> Interval | None:
    """Paired difference of hypervolumes over the seeds that both have; None without any."""
    seeds: Sequence[int] = sorted(set(own) & set(other))
    if not seeds:
        return None
    return interval(np.array([np.subtract(own[s]["volume"], other[s]["volume"]) for s in seeds]))
