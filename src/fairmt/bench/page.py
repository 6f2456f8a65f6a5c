"""A suite's results as a page: figures with intervals, ranks, and the command of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairmt.bench.configuration import Configuration
from fairmt.bench.leaderboard import AND, FOLLOWED, OURS, REFERENCES, Leaderboard, Rows, difference
from fairmt.bench.statistics import (
    Interval,
    closed_at_price,
    interval,
    level_down_ratio,
    mean_of_means,
    ratio,
)
from fairmt.bench.suites import IN_WORDS
from fairmt.methods import METHODS


class Page:
    """What a leaderboard says, in Markdown."""

    def __init__(self, board: Leaderboard) -> None:
        self.board = board

    def markdown(self) -> str:
        """The whole of it."""
        parts = [
            f"# Suite {self.board.suite.name}",
            f"{self.board.suite.what[0].upper()}{self.board.suite.what[1:]}.",
        ]
        parts.append(
            f"`fairmt bench run {self.board.suite.name} --out DIR`, then "
            f"`fairmt bench show {self.board.suite.name} --out DIR --page PAGE.md`. "
            f"{self._made()} Hypervolume in (utility, shortfall closed, gap closed), each measured "
            "on test rows and 0 for the plain model; the set of candidates is chosen on "
            "validation. Intervals: 95 %, bootstrap over seeds and, within them, over the unit of "
            "the split. The columns after it are of the candidate that `utility_budget=0.01` picks "
            "on validation, against the plain model. "
            "Level-down: what the best-served groups lose, over what they lose on the symmetric "
            "path at the same gap, with an interval over seeds. Satisfied: share of runs whose "
            "worst test gap is within .15, when asked for that, and in brackets how many are of "
            "those that said beforehand that it was reached; – where the row was made before that "
            "choice was changed. Cost: one run on one core, "
            "evaluation of all candidates included. Methods that are no training step run as "
            "their users would run them, and have their kind behind the name."
        )
        if self.board.missing:
            parts.append(
                f"{self.board.missing} of {len(self.board.suite.runs)} runs are still to be made."
            )
        if self.board.apart:
            parts.append(
                "Left out, since they were measured against another plain model than the rest of "
                f"their seed, as on another device: {'; '.join(self.board.apart)}. Made again on "
                "the same device and in the same folder they can be compared."
            )
        parts.append(self._verdict())
        for problem in self.board.results:
            parts.append(self._problem(problem))
        return "\n\n".join(parts) + "\n"

    def _made(self) -> str:
        rows = [
            r for by in self.board.results.values() for runs in by.values() for r in runs.values()
        ]
        dates = sorted({r["made"] for r in rows})
        versions = sorted({_made_with(r) for r in rows})
        hours = sum(r["seconds"] for r in rows) / 3600
        return (
            f"Made {dates[0]} to {dates[-1]} with {'; '.join(versions)}; {len(rows)} runs, "
            f"{hours:.1f} core hours."
        )

    def _verdict(self) -> str:
        found = self.board.ranks()
        lines = []
        if found.n:
            order = ", ".join(f"{name} {rank:.2f}" for name, rank in found.mean.items())
            lines.append(
                f"Mean ranks by hypervolume over {found.n} problems × seeds: {order}; two differ "
                f"if more than {found.critical_difference:.2f} apart (Nemenyi, 5 %)."
            )
        contested = [p for p, by in self.board.results.items() if OURS in by and len(by) > 1]
        first = [p for p in contested if self.board.best(p) == OURS]
        if contested:
            lines.append(
                f"FairMT has the highest mean hypervolume on {len(first)} of {len(contested)} "
                f"problems{': ' + ', '.join(first) if first else ''}."
            )
            behind = self.board.behind()
            lines.append(
                "It may be behind by more than .02 on " + "; ".join(behind) + "."
                if behind
                else "It is behind nobody by more than .02 (95 %)."
            )
        lines += self._worst_served() + self._best_served() + self._followed() + self._kept()
        return "\n".join(f"- {line}" for line in lines)

    def _worst_served(self) -> list[str]:
        """In how many runs of FairMT those lose that are served worst."""
        rows = [r for by in self.board.results.values() for r in by.get(OURS, {}).values()]
        at = [r["budget"]["0.01"] for r in rows]
        lost = sum(b["worst"][0] < b["plain"]["worst"][0] for b in at)
        if not rows:
            return []
        return [
            "The worst-served group's rate, mean over tasks, statistics and attributes, falls at a "
            f"budget of .01 in {lost} of {len(rows)} runs of FairMT."
        ]

    def _best_served(self) -> list[str]:
        """Level-down of FairMT in the mean over problems."""
        found = [self._level_downs(p, OURS) for p in self.board.results]
        known = [_over_seeds(ratios) for ratios in found if len(ratios)]
        if not known:
            return []
        mean = mean_of_means(known)
        return [
            f"At equal gaps the best-served groups lose with FairMT {mean.mean:.2f} "
            f"[{mean.low:.2f}, {mean.high:.2f}] of what they lose with the symmetric variant, in "
            f"the mean over {len(known)} problems."
        ]

    def _followed(self) -> list[str]:
        """What FairMT gains from a post-processing after it, and what it is then ahead of."""
        lines = []
        for problem, by_method in self.board.results.items():
            for name in (n for n in by_method if n.startswith(FOLLOWED)):
                rivals = [OURS, *(n for n in by_method if n != name and is_shown_groups(n))]
                ahead = [(r, difference(by_method[name], by_method.get(r, {}))) for r in rivals]
                said = [f"{'FairMT alone' if r == OURS else r} by {d}" for r, d in ahead if d]
                lines.append(
                    f"On {problem}, where groups may be named at prediction, {name} is ahead of "
                    f"{', of '.join(said)}."
                )
        return lines

    def _kept(self) -> list[str]:
        """How much of what is closed with all labels is closed with some of them missing."""
        lines = []
        for problem, by_method in self.board.results.items():
            data, _, variant = problem.partition("/")
            whole, part = self.board.results.get(data, {}).get(OURS, {}), by_method.get(OURS, {})
            seeds = sorted(set(whole) & set(part))
            if not variant.startswith("missing") or not seeds:
                continue
            kept = []
            for figure in ("gap", "shortfall"):
                own, all_ = (
                    np.array([_closed(rows[s], figure) for s in seeds]) for rows in (part, whole)
                )
                kept.append(f"{figure} {_plain_percent(ratio(own, all_))}")
            lines.append(
                f"Of what FairMT closes on {data} with all labels, it keeps with {variant} at a "
                f"budget of .01: {', '.join(kept)}{self._kept_at_price(part, whole)}."
            )
        return lines

    def _kept_at_price(self, part: Rows, whole: Rows) -> str:
        """The same where both paths have cost 1 % on test rows."""
        kept = []
        for figure in ("gap", "shortfall"):
            own, all_ = (_at_price(rows, figure) for rows in (part, whole))
            seeds = sorted(set(own) & set(all_))
            if not seeds:
                return ""
            found = ratio(*(_over_seeds([at[s] for s in seeds]) for at in (own, all_)))
            kept.append(f"{figure} {_plain_percent(found)}")
        return f"; where both paths have cost 1 % on test rows: {', '.join(kept)}"

    def _problem(self, problem: str) -> str:
        by_method = self.board.results[problem]
        plain = [r["plain"] for r in next(iter(by_method.values())).values()]
        entries = [r["entries"] for r in next(iter(by_method.values())).values()]
        lines = [
            f"## {problem}",
            "",
            f"Plain model: mean gap {np.mean([p['gap'] for p in plain]):.3f}, largest "
            f"{np.mean([p['largest_gap'] for p in plain]):.2f}, shortfall "
            f"{np.mean([p['shortfall'] for p in plain]):.3f}, over {min(entries)} to "
            f"{max(entries)} live, thick entries."
            f"{self._floor(problem)}{self._ceiling(problem)}",
            "",
            "| method | seeds | hypervolume | FairMT ahead by | Δm | gap | shortfall | "
            "worst group | best group | level-down | satisfied | minutes | command |",
            f"|{'---|' * 13}",
        ]
        order = sorted(
            by_method, key=lambda m: -np.mean([r["volume"][0] for r in by_method[m].values()])
        )
        lines += [self._row(problem, name) for name in order]
        lines += ["", *self._further(problem, order), "", *self._measures(problem)]
        return "\n".join(lines).rstrip()

    def _ceiling(self, problem: str) -> str:
        by_seed = self.board.ceilings.get(problem, {})
        if not by_seed:
            return ""
        free = _mean(list(by_seed.values()))
        priced = _mean([c["budget"]["0.01"] for c in by_seed.values()])
        said = (
            f" Rules that know the group, whatever they cost, reach gap {free['gap']:+.0%} and "
            f"shortfall {free['shortfall']:+.0%} at Δm {free['delta_m']:+.1%} (the ceiling, "
            "attribute by attribute); going only so far towards them as loses 1 % on validation, "
            f"gap {priced['gap']:+.0%} and shortfall {priced['shortfall']:+.0%} at Δm "
            f"{priced['delta_m']:+.1%} (seeds: {len(by_seed)})."
        )
        for name, rows in self.board.results[problem].items():
            if name != OURS and not name.startswith(FOLLOWED):
                continue
            of_priced = _share_of(rows, {s: c["budget"]["0.01"] for s, c in by_seed.items()})
            whose = "FairMT, blind to groups," if name == OURS else f"{name}, shown the group,"
            said += (
                f" {whose} closes at its budget of the latter {of_priced}; of the former "
                f"{_share_of(rows, by_seed)}."
            )
        return said + self._ceiling_at_price(problem)

    def _ceiling_at_price(self, problem: str) -> str:
        """FairMT's share of the ceiling where its path has cost 1 % on test rows."""
        ceilings, shares = self.board.ceilings[problem], []
        for figure in ("gap", "shortfall"):
            own = _at_price(self.board.results[problem].get(OURS, {}), figure)
            seeds = sorted(set(own) & set(ceilings))
            if not seeds:
                return ""
            top = _over_seeds([-ceilings[s][figure] for s in seeds])
            share = ratio(_over_seeds([own[s] for s in seeds]), top)
            shares.append(f"{figure} {_plain_percent(share)}")
        return (
            " Where its path has cost 1 % on test rows, FairMT closes of what rules close that "
            f"know the group, whatever they cost: {', '.join(shares)}."
        )

    def _floor(self, problem: str) -> str:
        by_seed = self.board.floors.get(problem, {})
        if not by_seed:
            return ""
        gap, shortfall = (np.mean([f[k] for f in by_seed.values()]) for k in ("gap", "shortfall"))
        return (
            f" With group labels drawn by chance it would show a gap of {gap:.3f} and a shortfall "
            f"of {shortfall:.3f} (the noise floor; seeds: {len(by_seed)})."
        )

    def _further(self, problem: str, order: Sequence[str]) -> list[str]:
        """A second table: planes of the volume, what is above the noise floor, every task."""
        lines = [
            "The same runs, further figures: hypervolume in two of its three dimensions; change of "
            "gap and shortfall above the noise floor, of the mean residual's range between groups, "
            "and of every task's utility; and change of gap and shortfall where the path has cost "
            "1 % of utility on test rows, which leaves out how well validation rows choose.",
            "",
            "| method | utility, shortfall | utility, gap | gap above noise | "
            "shortfall above noise | residuals | tasks | gap at 1 % | shortfall at 1 % |",
            f"|{'---|' * 9}",
        ]
        for name in order:
            rows = self.board.results[problem][name]
            planes = [
                f"{np.mean([r[k][0] for r in rows.values()]):.3f}"
                for k in ("volume_shortfall", "volume_gap")
            ]
            above = [self._above(problem, rows, figure) for figure in ("gap", "shortfall")]
            at = [r["budget"]["0.01"] for r in rows.values()]
            residuals = np.mean(
                [b["residual_range"][0] / b["plain"]["residual_range"][0] - 1 for b in at]
            )
            change = np.nanmean([b["change"] for b in at], 0)
            tasks = next(iter(rows.values()))["tasks"]
            cells = [
                name,
                *planes,
                *above,
                f"{residuals:+.0%}" if np.isfinite(residuals) else "–",
                ", ".join(f"{t} {c:+.1%}" for t, c in zip(tasks, change, strict=True)),
                *(_change_at_price(rows, figure) for figure in ("gap", "shortfall")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def _above(self, problem: str, rows: Rows, figure: str) -> str:
        """Relative change of what lies above the noise floor; – where nothing does."""
        floors = self.board.floors.get(problem, {})
        seeds = sorted(set(rows) & set(floors))
        if not seeds:
            return "–"
        at = {s: rows[s]["budget"]["0.01"] for s in seeds}
        floor = np.array([floors[s][figure] for s in seeds])
        own = np.array([at[s][figure][0] for s in seeds]) - floor
        plain = np.array([at[s]["plain"][figure][0] for s in seeds]) - floor
        return f"{own.mean() / plain.mean() - 1:+.1%}" if plain.mean() > 0 else "–"

    def _measures(self, problem: str) -> list[str]:
        """A third table: other measures of utility, of the plain model and of FairMT."""
        rows = [
            r["measures"]
            for r in self.board.results[problem].get(OURS, {}).values()
            if "measures" in r
        ]
        if not rows:
            return []
        lines = [
            f"Other measures of utility, plain model → FairMT at 1 % (seeds: {len(rows)}):",
            "",
            "| task | measures |",
            "|---|---|",
        ]
        for task, measures in rows[0]["plain"].items():
            said = []
            for measure in measures:
                plain, own = (
                    np.mean([r[which][task][measure] for r in rows]) for which in ("plain", "0.01")
                )
                said.append(f"{measure.replace('_', ' ')} {plain:.3f} → {own:.3f}")
            lines.append(f"| {task} | {', '.join(said)} |")
        return lines

    def _row(self, problem: str, name: str) -> str:
        rows = self.board.results[problem][name]
        at = [r["budget"]["0.01"] for r in rows.values()]
        ahead = "–" if name == OURS else str(self.board.ahead(problem, name) or "–")
        worst, best = (
            interval(np.array([np.subtract(b[k], b["plain"][k]) for b in at]))
            for k in ("worst", "best")
        )
        gap, shortfall = (
            interval(np.array([np.divide(b[k], b["plain"][k]) - 1 for b in at]))
            for k in ("gap", "shortfall")
        )
        delta = interval(np.array([b["delta_m"] for b in at]))
        config = Configuration.from_dict(next(iter(rows.values()))["config"])
        on_device = any(r.get("device", "cpu") != "cpu" for r in rows.values())
        command = config.command(rows) + (" --accelerator cuda" if on_device else "")
        kind = "control" if config.method in REFERENCES else METHODS[config.method].kind
        cells = [
            " ".join([name, *(f"({w})" for w in (IN_WORDS.get(name), kind) if w and w != "step")]),
            len(rows),
            str(interval(np.array([r["volume"] for r in rows.values()]))).replace("+", ""),
            ahead,
            delta.percent,
            gap.percent,
            shortfall.percent,
            worst,
            best,
            self._level_down(problem, name),
            _satisfied(rows),
            f"{np.mean([r['seconds'] for r in rows.values()]) / 60:.1f}",
            f"`{command}`",
        ]
        return f"| {' | '.join(map(str, cells))} |"

    def _level_down(self, problem: str, name: str) -> str:
        known = self._level_downs(problem, name)
        if not len(known):
            return "–"
        over_seeds = interval(_over_seeds(known))
        return f"{over_seeds.mean:.2f} [{over_seeds.low:.2f}, {over_seeds.high:.2f}]"

    def _level_downs(self, problem: str, name: str) -> np.ndarray:
        """Level-down ratios to the symmetric variant, over the seeds where both can be compared."""
        symmetric = self.board.results[problem].get("symmetric", {})
        found = [
            level_down_ratio(row["places"], symmetric[seed]["places"])
            for seed, row in self.board.results[problem].get(name, {}).items()
            if seed in symmetric
        ]
        return np.array([f for f in found if np.isfinite(f)])


def is_shown_groups(contestant: str) -> bool:
    """Whether a contestant needs the attributes at prediction."""
    method = METHODS.get(contestant.split()[0])
    return AND in contestant or (method is not None and method.kind == "post-processing")


def _made_with(row: Mapping[str, Any]) -> str:
    """Versions, and the device where it was no plain processor."""
    said = ", ".join(f"{k} {v}" for k, v in sorted(row["versions"].items()))
    device = row.get("device", "cpu")
    return said if device == "cpu" else f"{said} on {device}"


def _closed(row: Mapping[str, Any], figure: str) -> np.ndarray:
    """The closed share of a figure at the budget, (1 + R,)."""
    at = row["budget"]["0.01"]
    return 1 - np.divide(at[figure], at["plain"][figure])


def _at_price(rows: Rows, figure: str) -> dict[int, float]:
    """The closed share of a figure where the path has cost 1 % on test rows, by seed.

    Seeds whose path never costs so much are left out, and so are contestants with a
    post-processing after them, who have several paths.
    """
    found = {
        seed: closed_at_price(0.01, row["places"], row["plain"], figure)
        for seed, row in rows.items()
        if not row["config"].get("postprocessing")
    }
    return {seed: share for seed, share in found.items() if np.isfinite(share)}


def _change_at_price(rows: Rows, figure: str) -> str:
    """The same as a change over seeds; – unless every seed has one."""
    found = _at_price(rows, figure)
    if len(found) < len(rows):
        return "–"
    return interval(-_over_seeds(list(found.values()))).percent


def _over_seeds(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Figures known for the test rows as they are alone, (S, 2): intervals are over seeds."""
    return np.stack([values, values], 1)


def _plain_percent(share: Interval) -> str:
    return share.percent.replace("+", "")


def _satisfied(rows: Rows) -> str:
    """Share of runs that keep the tolerance, and how many do of those that say so beforehand."""
    judged = [r["tolerance_kept"]["0.15"] for r in rows.values() if "tolerance_kept" in r]
    if not judged:
        return "–"
    said = [j["satisfied"] for j in judged if j["reached"]]
    return f"{np.mean([j['satisfied'] for j in judged]):.0%} ({sum(said)} of {len(said)})"


def _share_of(rows: Rows, ceilings: Mapping[int, Mapping[str, Any]]) -> str:
    """How much a contestant closes of what a ceiling does, in words."""
    seeds = sorted(set(rows) & set(ceilings))
    shares = []
    for figure in ("gap", "shortfall"):
        closed = np.array([_closed(rows[s], figure) for s in seeds])
        top = np.array([[-ceilings[s][figure]] for s in seeds])
        share = ratio(closed, np.broadcast_to(top, closed.shape))
        shares.append(f"{figure} {_plain_percent(share)}")
    return ", ".join(shares)


def _mean(found: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of every figure of the ceiling over seeds."""
    return {k: float(np.mean([f[k] for f in found])) for k in ("delta_m", "gap", "shortfall")}
