"""Which combinations of attributes are served worst: a search over all of them, from the cube."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np
import pandas as pd
from scipy import sparse, special, stats

from fairmt.auditing.cube import Cube
from fairmt.auditing.intervals import adjust as adjust_p
from fairmt.auditing.intervals import binomial_variance
from fairmt.auditing.memory import ratio_columns
from fairmt.auditing.plan import Plan
from fairmt.auditing.resampling import ratio_variance

COLUMNS = (
    "task", "statistic", "subgroup", "depth", "n", "share", "value", "rest_value", "loss", "low",
    "beyond_parents", "p_value", "p_adjusted", "found",
)  # fmt: skip
_FOUND = 0.05


@dataclass(frozen=True)
class _Rates:
    """Rates of some groups: value, variance and evidence, (G, S), and their rows (G,)."""

    value: np.ndarray
    variance: np.ndarray
    evidence: np.ndarray
    rows: np.ndarray


def find_subgroups(
    plan: Plan,
    cube: Cube,
    *,
    depth: int = 3,
    min_support: float = 100,
    statistics: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    confidence: float = 0.95,
    adjust: str = "benjamini-hochberg",
    clustered: bool = False,
    prune: bool = True,
    limit: int | None = 50,
) -> pd.DataFrame:
    """Subgroups that are served worse than everybody else, the surest first.

    Every subgroup is compared with all people outside it. Rates that are ratios can be searched,
    which are all but concordance, calibration error and distances of distributions.

    Parameters
    ----------
    depth : attributes that are combined at most.
    min_support : subgroups with fewer rows that a rate is about are not looked at.
    statistics : their names ('recall of yes') or measures ('recall'); default: all with a better
        side.
    attributes : which are combined; default: all.
    adjust : 'benjamini-hochberg', 'holm' or 'none', over everything that was looked at.
    clustered : widen errors by what the clusters add to those of everybody.
    prune : leave out subgroups that are not clearly worse served than what they are part of.
    limit : rows of the table; None for all.

    Returns
    -------
    DataFrame
        ``loss`` is how much worse than outside, ``low`` its lower confidence bound, by which
        rows are ordered, ``beyond_parents`` how much worse than in the worst-served group with
        one attribute fewer, and ``found`` whether the adjusted p-value is below 0.05.
    """
    names = [a.name for a in plan.groups.attributes]
    chosen = _positions(names, attributes)
    if not 1 <= depth <= len(chosen):
        raise ValueError(
            f"depth must lie between 1 and the number of attributes, {len(chosen)}. Found {depth}."
        )
    if not min_support >= 2:
        raise ValueError(f"min_support must be 2 or more. Found {min_support}.")
    judged = _statistics(plan, statistics)
    inflation = design_effects(plan, cube)[judged] if clustered else np.ones(len(judged))
    orientation = plan.orientation[judged]
    total = _sums(plan, cube, sparse.csr_array(np.ones((1, len(cube.rows)))))
    everybody = _rates(plan, total, judged)
    z = float(stats.norm.ppf(confidence))
    seen: dict[tuple[int, ...], np.ndarray] = {}
    pieces: list[dict[str, np.ndarray]] = []
    for members in _combinations(chosen, depth):
        sizes = [len(plan.groups.attributes[m].categories) for m in members]
        member = _grouping(cube.codes[:, members], sizes)
        sums = _sums(plan, cube, member)
        inside = _rates(plan, sums, judged)
        outside = _rates(plan, [t - s for t, s in zip(total, sums, strict=True)], judged)
        benefit = inside.value * np.where(orientation == 0, 1.0, orientation)
        usable = (inside.evidence >= min_support) & (outside.evidence >= min_support)
        seen[members] = np.where(usable, benefit, np.nan)
        difference = outside.value - inside.value
        loss = np.where(orientation == 0, abs(difference), orientation * difference)
        error = np.sqrt((inside.variance + outside.variance) * inflation)
        group, statistic = np.nonzero(usable & np.isfinite(error))
        at = (group, statistic)
        beyond = _beyond_parents(seen, members, sizes, benefit)
        clear = np.isnan(beyond) | (beyond > z * np.sqrt(inside.variance * inflation))
        score = loss[at] / np.maximum(error[at], 1e-12)
        sides = np.where(orientation[statistic] == 0, 2.0, 1.0)
        pieces.append(
            {
                "statistic": statistic,
                "group": group,
                "partition": np.full(len(group), len(seen) - 1),
                "n": inside.evidence[at],
                "share": inside.evidence[at] / everybody.evidence[0][statistic],
                "value": inside.value[at],
                "rest_value": outside.value[at],
                "loss": loss[at],
                "low": loss[at] - z * error[at],
                "beyond_parents": beyond[at],
                "clear": clear[at],
                "p_value": np.minimum(1.0, sides * special.ndtr(-score)),
            }
        )
    return _table(plan, judged, list(seen), pieces, adjust, prune, limit)


def design_effects(plan: Plan, cube: Cube) -> np.ndarray:
    """By what factor clusters widen the variance of everybody's rates, at least 1, (S,)."""
    effect = np.ones(len(plan.statistics))
    if plan.summed is None or cube.buckets is None:
        return effect
    first, last = ratio_columns(plan)
    sums, second = cube.sums.sum(0), cube.second.sum(0)
    n, d = sums[first], sums[last]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = n / d
        by_bucket = cube.buckets.everybody[:, first] - rate * cube.buckets.everybody[:, last]
        by_row = second[:, 0] - 2 * rate * second[:, 1] + rate**2 * second[:, 2]
        found = (by_bucket**2).sum(0) / by_row
    found = np.where((first != last) & (by_row > 0), np.maximum(found, 1.0), 1.0)
    return plan.join(np.ones(len(plan.counted.statistics)), found)


def _positions(names: list[str], attributes: Sequence[str] | None) -> list[int]:
    if attributes is None:
        return list(range(len(names)))
    unknown = [a for a in attributes if a not in names]
    if unknown:
        raise ValueError(f"{unknown} are no attributes of this audit; expected some of {names}.")
    return [names.index(a) for a in attributes]


def _statistics(plan: Plan, wanted: Sequence[str] | None) -> np.ndarray:
    """Positions of the statistics that are searched."""
    ratios = set(plan.counted.statistics)
    if plan.summed is not None:
        first, last = ratio_columns(plan)
        ratios |= {s for s, r in zip(plan.summed.statistics, first != last, strict=True) if r}
    if wanted is None:
        chosen = [j for j, s in enumerate(plan.statistics) if plan.orientation[j] and s in ratios]
    else:
        known = {n for s in plan.statistics for n in (s.name, s.measure)}
        unknown = [w for w in wanted if w not in known]
        if unknown:
            raise ValueError(
                f"{unknown} are no statistics of this audit; expected some of {sorted(known)}."
            )
        chosen = [
            j
            for j, s in enumerate(plan.statistics)
            if s in ratios and (s.name in wanted or s.measure in wanted)
        ]
    if not chosen:
        raise ValueError("None of the statistics is a ratio of sums; they cannot be searched.")
    return np.array(chosen)


def _combinations(chosen: Sequence[int], depth: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, depth + 1):
        yield from combinations(chosen, size)


def _grouping(codes: np.ndarray, sizes: Sequence[int]) -> sparse.csr_array:
    """(G, C): 1 where a cell belongs to a combination of categories."""
    known = np.flatnonzero((codes >= 0).all(1))
    index = np.ravel_multi_index(tuple(codes[known].T), tuple(sizes))
    return sparse.csr_array((np.ones(len(known)), (index, known)), shape=(prod(sizes), len(codes)))


def _sums(plan: Plan, cube: Cube, member: sparse.csr_array) -> list[np.ndarray]:
    """Rows, counts, sums, masses and second moments of the groups."""
    parts = [cube.rows, cube.counts, cube.sums, cube.mass, cube.mass2, cube.second]
    found = []
    for part in parts:
        flat = np.asarray(member @ part.reshape(len(part), -1))
        found.append(flat.reshape(member.shape[0], *part.shape[1:]))
    return found


def _rates(plan: Plan, sums: Sequence[np.ndarray], judged: np.ndarray) -> _Rates:
    rows, counts, columns, mass, mass2, second = sums
    counted, sizes = plan.counted.rates(counts), plan.counted.sizes(counts)
    summed = np.zeros((len(rows), plan.n_summed))
    if plan.n_summed:
        first, last = ratio_columns(plan)
        d = columns[:, last]
        summed = np.where(first != last, columns[:, first] / np.where(d > 0, d, 1.0), 0.0)
    kish = mass**2 / np.where(mass2 > 0, mass2, 1.0)
    variance = ratio_variance(second, summed, mass)
    return _Rates(
        plan.join(counted, summed)[:, judged],
        plan.join(binomial_variance(counted, sizes), variance)[:, judged],
        plan.join(sizes, kish)[:, judged],
        rows,
    )


def _beyond_parents(
    seen: dict[tuple[int, ...], np.ndarray],
    members: tuple[int, ...],
    sizes: Sequence[int],
    benefit: np.ndarray,
) -> np.ndarray:
    """How much lower the benefit is than in every group with one attribute fewer."""
    if len(members) == 1:
        return np.full(benefit.shape, np.nan)
    digits = np.array(np.unravel_index(np.arange(prod(sizes)), tuple(sizes)))
    worst = np.full(benefit.shape, np.inf)
    for out in range(len(members)):
        kept = [i for i in range(len(members)) if i != out]
        parent = seen[tuple(members[i] for i in kept)]
        index = np.ravel_multi_index(tuple(digits[kept]), tuple(sizes[i] for i in kept))
        worst = np.fmin(worst, parent[index])
    return worst - benefit


def _table(
    plan: Plan,
    judged: np.ndarray,
    partitions: Sequence[tuple[int, ...]],
    pieces: Sequence[dict[str, np.ndarray]],
    adjust: str,
    prune: bool,
    limit: int | None,
) -> pd.DataFrame:
    columns = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    columns["p_adjusted"] = adjust_p(columns["p_value"], adjust)
    shown = columns["loss"] > 0
    clear = columns.pop("clear")
    if prune:
        shown &= clear
    order = np.flatnonzero(shown)
    order = order[np.argsort(-columns["low"][order], kind="stable")][:limit]
    rows = {name: values[order] for name, values in columns.items()}
    statistics = [plan.statistics[judged[j]] for j in rows.pop("statistic")]
    places = [partitions[p] for p in rows.pop("partition")]
    groups = rows.pop("group")
    table = pd.DataFrame(rows)
    table["task"] = pd.Series([s.task for s in statistics], dtype=object)
    table["statistic"] = pd.Series([s.name for s in statistics], dtype=object)
    names = [_name(plan, m, int(g)) for m, g in zip(places, groups, strict=True)]
    table["subgroup"] = pd.Series(names, dtype=object)
    table["depth"] = [len(m) for m in places]
    table["found"] = table["p_adjusted"] < _FOUND
    table.attrs["tested"] = len(columns["loss"])
    return table[list(COLUMNS)]


def _name(plan: Plan, members: tuple[int, ...], group: int) -> str:
    attributes = [plan.groups.attributes[m] for m in members]
    digits = np.unravel_index(group, tuple(len(a.categories) for a in attributes))
    return " & ".join(
        f"{a.name}={a.categories[int(d)]}" for a, d in zip(attributes, digits, strict=True)
    )
