"""iFairNMTF on six graphs: balance bought with modularity, and weights at which the original fails.

    FAIRMT_DATA=... python benchmarks/reproduce/ifairnmtf.py --seeds 10

The graphs are read from `FAIRMT_DATA/graphs`, in the form of the authors' repository. Nothing is
learned from labels, so there is no test part; figures are of the graph that is clustered.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
import scipy.io
import scipy.sparse as sp

from fairmt.graphs import Candidate, IFairNMTF, individual_balance
from fairmt.graphs.clusterer import STRENGTHS

PICTURE = Path(__file__).parents[2] / "docs" / "img" / "ifairnmtf.png"
FILES = {
    "Diaries": ("School/diaries.csv", "School/cd_attr.csv"),
    "Friendship": ("School/friendship.csv", "School/fr_attr.csv"),
    "Facebook": ("School/facebook.csv", "School/fb_attr.csv"),
    "DrugNet": ("DrugNet/DrugNetgraph.csv", "DrugNet/DrugNetfeature.csv"),
    "NBA": ("NBA/NBAgraph.csv", "NBA/NBAfeature.csv"),
}
GROUPS = {
    "Diaries": "gender",
    "Friendship": "gender",
    "Facebook": "gender",
    "DrugNet": "ethnicity",
    "NBA": "nationality",
    "LastFM": "country",
}
# Published (slides of the authors): balance, modularity, individual balance of iFairNMTF; balance
# and modularity of the best spectral rival, scalable fair spectral clustering.
PUBLISHED = {
    "Diaries": (0.648, 0.640, 0.426),
    "Friendship": (0.631, 0.669, 0.519),
    "Facebook": (0.514, 0.509, 0.348),
    "DrugNet": (0.124, 0.588, 0.339),
    "NBA": (0.286, 0.150, 0.323),
    "LastFM": (0.069, 0.600, 0.020),
}
SPECTRAL = {
    "Diaries": (0.809, 0.684),
    "Friendship": (0.485, 0.627),
    "Facebook": (0.602, 0.500),
    "DrugNet": (0.052, 0.270),
    "NBA": (0.323, 0.113),
    "LastFM": (0.056, 0.035),
}
# The released code, run again with 10 seeds: balance and modularity at its best usable weight.
RERUN = {
    "Diaries": (0.662, 0.650),
    "Friendship": (0.610, 0.642),
    "Facebook": (0.487, 0.505),
    "DrugNet": (0.096, 0.575),
    "NBA": (0.284, 0.149),
}


def load(name: str) -> tuple[sp.csr_array, np.ndarray]:
    """Adjacency and groups."""
    folder = Path(os.environ["FAIRMT_DATA"]) / "graphs"
    if name == "LastFM":
        found = scipy.io.loadmat(folder / "LastFM" / "LastFM.mat")
        return sp.csr_array(found["A"]), found["F"][:, 0]
    graph, groups = (np.loadtxt(folder / file, delimiter=",", ndmin=2) for file in FILES[name])
    return sp.csr_array(graph), groups[:, 0]


def figures(candidates: list[Candidate], groups: np.ndarray) -> tuple[str, str, str]:
    """Balance, modularity and individual balance with intervals over seeds."""
    return (
        report.interval([c.balance for c in candidates]),
        report.interval([c.modularity for c in candidates]),
        report.interval([individual_balance(c.labels, groups) for c in candidates]),
    )


def run(name: str, seeds: int) -> dict[str, Any]:
    """All seeds on one graph."""
    graph, groups = load(name)
    fits, seconds = [], []
    for seed in range(seeds):
        begin = time.process_time()
        fits.append(IFairNMTF(5, random_state=seed).fit(graph, sensitive_features=groups))
        seconds.append(time.process_time() - begin)
    sizes = np.unique(groups, return_counts=True)[1]
    wild = IFairNMTF(5, strengths=(0, 30, 100, 300, 1000), random_state=0)
    wild.fit(graph, sensitive_features=groups)
    q = PUBLISHED[name][1]
    return {
        "groups": groups,
        "n": graph.shape[0],
        "ties": graph.nnz // 2,
        "own": sizes.min() / sizes.max(),
        "fits": fits,
        "seconds": seconds,
        "at_published": [
            f.choose(min_modularity=q) for f in fits if any(c.modularity >= q for c in f.path_)
        ],
        "knee": [f.choose() for f in fits],
        "finite": all(np.isfinite(c.objective).all() for c in wild.path_),
        "falls": all((np.diff(c.objective) <= 0).all() for f in fits for c in f.path_),
        "clusters": min(len(set(c.labels)) for f in [*fits, wild] for c in f.path_),
    }


def draw(found: dict[str, dict[str, Any]]) -> None:
    """Balance against modularity, a panel for each graph."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    blue, orange, green, grey = "#0072B2", "#D55E00", "#009E73", "#666666"
    figure, panels = plt.subplots(2, 3, figsize=(11.5, 7.2), constrained_layout=True)
    for panel, (name, one) in zip(panels.flat, found.items(), strict=True):
        paths = np.array([[(c.modularity, c.balance) for c in f.path_] for f in one["fits"]])
        for path in paths:
            panel.plot(*path.T, color=blue, alpha=0.18, linewidth=1)
        mean = paths.mean(0)
        panel.plot(*mean.T, color=blue, linewidth=2.2, marker="o", markersize=4,
                   label="this library, weight 0 to 10: mean of seeds (thin: each)")  # fmt: skip
        for words, at, below in (("weight 0", mean[0], -14), ("weight 10", mean[-1], 8)):
            panel.annotate(words, at, xytext=(0, below), textcoords="offset points",
                           fontsize=8, color=blue, ha="center")  # fmt: skip
        b, q, _ = PUBLISHED[name]
        panel.plot(q, b, "D", color=orange, markersize=8, label="iFairNMTF, published")
        if name in RERUN:
            b, q = RERUN[name]
            panel.plot(q, b, "s", mfc="none", color=orange, markersize=8,
                       label="iFairNMTF, released code run again")  # fmt: skip
        b, q = SPECTRAL[name]
        panel.plot(q, b, "^", color=green, markersize=8,
                   label="scalable fair spectral clustering, published")  # fmt: skip
        panel.axhline(one["own"], color=grey, linestyle="--", linewidth=1,
                      label="balance of the whole graph")  # fmt: skip
        panel.set_title(f"{name}: {one['n']:,} people by {GROUPS[name]}", fontsize=11)
        panel.set_xlabel("modularity (right is better)")
        panel.set_ylabel("average balance (up is better)")
        panel.margins(x=0.15)
        panel.set_ylim(0, 1.15 * max(one["own"], paths[..., 1].max(), SPECTRAL[name][0]))
        panel.grid(alpha=0.25)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    found = {name: run(name, seeds) for name in GROUPS}
    rows = []
    for name, one in found.items():
        groups = one["groups"]
        published = [f"{v:.3f}" for v in PUBLISHED[name]]
        again = [f"{v:.3f}" for v in RERUN[name]] if name in RERUN else ["–", "–"]
        rows += [
            [name, "published", *published],
            ["", "released code, run again", *again, "–"],
            ["", "ours, weight 0", *figures([f.path_[0] for f in one["fits"]], groups)],
            ["", "ours, chosen (knee)", *figures(one["knee"], groups)],
        ]
        reached = one["at_published"]
        label = f"ours, best balance at the published modularity ({len(reached)} of {seeds} seeds)"
        cells = figures(reached, groups) if reached else ("–",) * 3
        rows.append(["", label, *cells])
    costs = [
        [
            name,
            f"{one['n']:,}",
            f"{one['ties']:,}",
            f"{one['own']:.3f}",
            report.interval(one["seconds"]),
            "yes" if one["finite"] else "NO",
            "yes" if one["falls"] else "NO",
            one["clusters"],
        ]
        for name, one in found.items()
    ]
    draw(found)
    report.write(
        "ifairnmtf",
        "iFairNMTF: balance and modularity of five clusters on six graphs",
        "Published: the authors' slides (PAKDD 2024; one figure, no interval). Released code, run "
        "again: their update with 10 seeds, at the best weight that does not fail. Ours: "
        f"`IFairNMTF(5)` with {len(STRENGTHS)} weights from 0 to 10, {seeds} seeds. *Chosen* is "
        "the knee of each seed's front, by modularity and balance of the clustered graph itself, "
        "as their successor chooses. Individual balance counts a person's own group, as their "
        "later code does; by which graph the published figures count is not said.",
        report.table(
            ["graph", "", "balance", "modularity", "individual balance"], rows
        ),
        "## Cost, and large weights",
        "Seconds are of one processor, for the whole path, ten random starts included. *Finite*: "
        "the objective at weights 30, 100, 300 and 1000 too. *Falls*: it rises in no step of any "
        "fit. The released code gives NaN on DrugNet (from weight 3), Friendship (5) and Diaries "
        "(10), and calls the whole graph one cluster then.",
        report.table(
            ["graph", "nodes", "ties", "balance of the graph", "seconds for the path",
             "finite up to 1000", "falls", "fewest clusters"],
            costs,
        ),
        verdict(found),
        "![Balance against modularity](../../../docs/img/ifairnmtf.png)",
    )  # fmt: skip


def verdict(found: dict[str, dict[str, Any]]) -> str:
    """In words, from the figures."""
    ahead, behind = [], []
    for name, one in found.items():
        b, q = PUBLISHED[name][:2]
        mean = [
            (np.mean([c.modularity for c in cs]), np.mean([c.balance for c in cs]))
            for cs in zip(*(f.path_ for f in one["fits"]), strict=True)
        ]
        best = max((balance for modularity, balance in mean if modularity >= q), default=None)
        if best is not None and best >= b:
            ahead.append(f"{name} ({best:.3f} against {b:.3f})")
            continue
        able = [modularity for modularity, balance in mean if balance >= b]
        why = f"balance {b:.3f} is not reached"
        if able:
            why = f"its balance costs modularity, {max(able):.3f} against {q:.3f}"
        behind.append(f"{name} ({why})")
    return (
        "## Does the claim hold?\n\n"
        "The claim is more balance at the same modularity. At one weight for all seeds, the mean "
        f"balance at no less than the published modularity is at least the published one on "
        f"{len(ahead)} of {len(found)} graphs: {', '.join(ahead) or 'none'}. "
        f"It is not on: {', '.join(behind) or 'none'}."
    )


if __name__ == "__main__":
    main()
