"""The picture of a benchmark's frontiers, from its JSON.

    python scripts/frontier_picture.py benchmarks/results/frontier_acs.json \\
        docs/img/frontier_acs.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, with a marker and a dash each, so that colour is not needed.
STYLES = {
    "fairmt": ("#0072B2", "o", "-", "FairMT"),
    "symmetric": ("#D55E00", "s", "--", "symmetric penalty"),
    "group_dro": ("#009E73", "^", "-.", "group DRO"),
    "collapse": ("#777777", "x", ":", "collapse control"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    found = json.loads(args.results.read_text())
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.8), layout="constrained")
    for axis, key, words in zip(
        axes,
        ("gap", "shortfall"),
        ("mean gap against the plain model (%)", "shortfall of the worst groups (%)"),
        strict=True,
    ):
        for method, (colour, marker, dash, label) in STYLES.items():
            runs = found["path"][method]
            # The plain reference is the last entry of every run, and the start of every line.
            lines = [
                [(0.0, 0.0)]
                + [(100 * p["delta_m"], 100 * (p[key] / run[-1][key] - 1)) for p in run[:-1]]
                for run in runs
            ]
            for line in lines:
                x, y = np.array(line).T
                axis.plot(x, y, color=colour, linestyle=dash, alpha=0.25, linewidth=1)
            x, y = np.mean(np.array([line[: min(map(len, lines))] for line in lines]), 0).T
            axis.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=4, label=label)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.axvline(-1, color="#999999", linewidth=0.8, linestyle=":")
        axis.set_xlim(-8, 1.5)
        axis.set_xlabel("change of utility, mean over tasks (%)")
        axis.set_ylabel(words)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(-75, 12)
    axes[1].set_ylim(-40, 30)
    axes[0].legend(frameon=False, loc="lower right")
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, dpi=130)


if __name__ == "__main__":
    main()
