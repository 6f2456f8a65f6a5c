"""Pictures of a suite: frontiers, and the diagram of ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairmt.bench.leaderboard import AND, OURS, Leaderboard
from fairmt.bench.statistics import Ranks
from fairmt.bench.suites import IN_WORDS

# Okabe and Ito's colours, told apart by people who see fewer; markers tell lines apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
SPOKEN = {
    OURS: "FairMT",
    "collapse": "collapse control",
    "single": "single-task models",
    "group_dro": "group DRO",
    "fairbranch": "FairBranch",
    "f_ferm": "f-FERM",
    "faircocco": "FairCOCCO",
    "mta_f": "MTA-F",
    "mmd": "MMD penalty",
    "correlation": "correlation penalty",
    "gap": "gap penalty",
    "cuma": "CUMA",
    "l2t_fmt": "L2T-FMT",
    "barycentre": "barycentres",
    "sensei": "SenSeI",
    "dualfair": "DualFair",
    "mmm_fair": "MMM-fair",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_LINES = 12
"""More cannot be told apart."""


def frontiers(board: Leaderboard, problem: str, path: str | Path) -> None:
    """Utility against gap and against shortfall, a line per contestant, mean over seeds.

    A band is FairMT's 95 % interval of the mean over seeds, a dotted line the noise floor: what
    chance alone would leave. Of many contestants those with the highest hypervolume are drawn,
    FairMT and the collapse control always.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    found = board.results[problem]
    names = [n for n in found if n not in ("reference", "plain")]
    names.sort(key=lambda n: -np.mean([r["volume"][0] for r in found[n].values()]))
    names.sort(key=lambda n: (n != OURS, n != "collapse"))
    names = names[:MOST_LINES]
    lowest = 0.0
    for i, name in enumerate(names):
        rows = list(found[name].values())
        for axis, figure_name in zip(axes, ("gap", "shortfall"), strict=True):
            for track, at in enumerate(_tracks(name, rows)):
                x, y, half = _line(rows, figure_name, at)
                lowest = min(lowest, float(y.min()))
                if name == OURS and len(rows) > 1:
                    axis.fill_betweenx(
                        y, x - half, x + half, color=COLOURS[0], alpha=0.15, linewidth=0
                    )
                axis.plot(
                    x,
                    y,
                    label=None if track else _words(name),
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                    linestyle="-" if i < len(COLOURS) else "--",
                    markersize=4,
                    linewidth=2.4 if name == OURS else 1.3,
                    zorder=3 if name == OURS else 2,
                )
    for axis, figure_name, words in zip(
        axes,
        ("gap", "shortfall"),
        ("gap between groups", "shortfall of the worst group"),
        strict=True,
    ):
        floor = _floor(board, problem, figure_name)
        if floor is not None:
            axis.axvline(floor, color="#666666", linewidth=1.2, linestyle=":")
            axis.annotate(
                "noise floor",
                (floor, 0.02),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=8,
                color="#666666",
            )
        axis.axhline(0, color="#bbbbbb", linewidth=0.8)
        axis.axvline(0, color="#bbbbbb", linewidth=0.8)
        axis.set_xlabel(f"Change of the {words} (left is better)")
        axis.set_ylim(max(-0.105, lowest - 0.005), 0.025)
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:+.0%}")
        axis.yaxis.set_major_formatter(lambda v, _: f"{v:+.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlim(-0.85, 0.15)
    axes[1].set_xlim(-0.45, 0.15)
    axes[0].set_ylabel("Change of utility (higher is better)")
    axes[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    seeds = max(len(r) for r in found.values())
    figure.suptitle(
        f"{problem}: test rows, against the plain model, mean of up to {seeds} seeds; "
        "band: 95 % interval of FairMT's",
        fontsize=11,
    )
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def critical_difference(found: Ranks, path: str | Path) -> None:
    """Mean ranks on a line; bars join those that do not differ."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(found.mean)
    values = np.array([found.mean[n] for n in names])
    figure, axis = plt.subplots(figsize=(9, 1.1 + 0.32 * len(names)))
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        axis.plot([value, value], [0, -1 - i], color="#999999", linewidth=0.8)
        axis.plot(value, 0, "o", color=COLOURS[0] if name == OURS else "#444444")
        axis.annotate(
            f"{_words(name)} ({value:.2f})",
            (value, -1 - i),
            xytext=(5, -3),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold" if name == OURS else "normal",
        )
    for level, (low, high) in enumerate(cliques(values, found.critical_difference)):
        y = 0.5 + 0.35 * level
        axis.plot([low - 0.03, high + 0.03], [y, y], color=COLOURS[1], linewidth=3)
    axis.set_xlim(0.7, len(names) + 1.2)
    axis.xaxis.set_ticks_position("top")
    axis.xaxis.set_label_position("top")
    axis.set_xlabel(
        f"Mean rank by hypervolume over {found.n} problems × seeds (left is better); bars join "
        f"what does not differ at 5 % (critical difference {found.critical_difference:.2f})",
        fontsize=9,
    )
    axis.yaxis.set_visible(False)
    axis.spines[["left", "right", "bottom"]].set_visible(False)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def cliques(values: np.ndarray, difference: float) -> list[tuple[float, float]]:
    """Spans of sorted ranks that lie within the critical difference, none inside another."""
    spans: list[tuple[float, float]] = []
    for i, low in enumerate(values):
        inside = values[i:][values[i:] - low <= difference]
        if len(inside) > 1 and not any(s[1] >= inside[-1] for s in spans):
            spans.append((float(low), float(inside[-1])))
    return spans


def _floor(board: Leaderboard, problem: str, figure: str) -> float | None:
    """What chance alone leaves of a figure, as a change against the plain model."""
    floors = board.floors.get(problem, {})
    runs = next(iter(board.results[problem].values()))
    shares = [f[figure] / runs[s]["plain"][figure] - 1 for s, f in floors.items() if s in runs]
    return float(np.mean(shares)) if shares else None


def _tracks(name: str, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Places that one line joins: a path, and again for every degree to which it is repaired."""
    # Paths of one method are equally long; post-processing and boosting may differ by a round.
    n = min(len(r["places"]) for r in rows)
    if AND not in name:
        return [list(range(n))]
    tracks: list[list[int]] = []
    seen: Counter[float] = Counter()
    for i, place in enumerate(rows[0]["places"][:n]):
        # Candidates of the same λ come in the order of their repair.
        degree = seen[place["strength"]]
        seen[place["strength"]] += 1
        if degree == len(tracks):
            tracks.append([])
        tracks[degree].append(i)
    return tracks


def _line(
    rows: Sequence[dict[str, Any]], figure: str, at: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over seeds by the place in the path, from the plain model on: the change of the
    figure and of utility, and half the 95 % interval of the former."""
    x = np.array([[r["places"][i][figure] / r["plain"][figure] - 1 for i in at] for r in rows])
    y = np.array([[r["places"][i]["delta_m"] for i in at] for r in rows])
    spread = x.std(0, ddof=1) if len(rows) > 1 else np.zeros(len(at))
    half = 1.96 * spread / np.sqrt(len(rows))
    start = [0.0]
    return (
        np.concatenate([start, x.mean(0)]),
        np.concatenate([start, y.mean(0)]),
        np.concatenate([start, half]),
    )


def _words(name: str) -> str:
    if name in IN_WORDS:
        return IN_WORDS[name]
    return " + ".join(SPOKEN.get(n, n.replace("_", " ")) for n in name.split(" + "))
