"""What each setting of FairMT does: one plot each, on made-up people.

Every setting is varied alone, the others at their defaults; the figure is taken along the whole
path on test rows: gap and shortfall against the plain model where the path crosses a loss of
utility of 1 %, and the hypervolume of the frontier. Bars: 95 % intervals of the mean over seeds.

    python benchmarks/sensitivity.py --seeds 6 --out docs/img
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fairmt
from fairmt.bench import Frontier
from fairmt.bench.frontier import Place
from fairmt.data import generate, split
from fairmt.data.table import TensorTable
from fairmt.estimator import FairMTLearner

SETTINGS: dict[str, tuple[str, list[float], float]] = {
    "directionality": ("directionality α", [0.0, 0.5, 0.8, 0.9, 1.0], 0.8),
    "sharpness": ("sharpness κ at λ = 1", [0.0, 1.0, 3.0, 10.0, 25.0], 3.0),
    "temperature": ("temperature τ", [0.1, 0.25, 0.5, 1.0, 2.0], 0.5),
    "max_decay": ("longest memory β", [0.0, 0.5, 0.9, 0.99], 0.99),
    "rho": ("weight of the heads ρ", [0.0, 0.1, 1.0, 10.0], 1.0),
    "epochs": ("epochs of warm-up", [4.0, 8.0, 16.0, 24.0], 16.0),
}
BUDGET = -0.01


def run(name: str, value: float, seed: int, rows: int) -> dict[str, float]:
    """Test figures of one path."""
    bundle = generate(rows, seed=seed)
    unit = bundle.frame[bundle.split_by].to_numpy()
    parts = split(bundle.frame, fractions=(0.5, 0.1, 0.1, 0.3), unit=unit, seed=seed)
    epochs = int(value) if name == "epochs" else 16
    options: dict[str, Any] = {} if name == "epochs" else {name: value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner = FairMTLearner(
            **bundle.learner_settings(),
            seed=seed,
            epochs=epochs,
            path_epochs=12,
            patience=None,
            options=options,
        ).fit(bundle.frame, parts=parts)
    table: TensorTable = learner.schema_.encode(bundle.frame.iloc[parts["test"]])
    outputs = [learner.outputs_of(i, table)[0] for i in range(len(learner.path_.candidates))]
    frontier = Frontier(learner.path_, outputs, table, 0)
    places = [frontier.plain[0], *(frontier.places[i][0] for i in frontier.indices)]
    gap, shortfall = crossing(places)
    return {"gap": gap, "shortfall": shortfall, "hypervolume": float(frontier.volumes()[0])}


def crossing(places: list[Place]) -> tuple[float, float]:
    """Changes of gap and shortfall where the path last crosses the budget, or at its end."""
    plain = places[0]
    for before, after in zip(places[-2::-1], places[:0:-1], strict=True):
        if after.delta_m <= BUDGET <= before.delta_m:
            w = (before.delta_m - BUDGET) / max(before.delta_m - after.delta_m, 1e-12)
            gap = before.gap + w * (after.gap - before.gap)
            shortfall = before.shortfall + w * (after.shortfall - before.shortfall)
            return gap / plain.gap - 1, shortfall / plain.shortfall - 1
    return places[-1].gap / plain.gap - 1, places[-1].shortfall / plain.shortfall - 1


def draw(name: str, found: dict[float, list[dict[str, float]]], path: Path) -> None:
    """One picture: gap and shortfall at the budget, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    label, values, default = SETTINGS[name]
    figure, axis = plt.subplots(figsize=(5.2, 3.0), layout="constrained")
    place = np.arange(len(values))
    styles = {"gap": ("#0072B2", "o", "mean gap"), "shortfall": ("#D55E00", "s", "shortfall")}
    for k, (figure_name, (colour, marker, words)) in enumerate(styles.items()):
        data = np.array([[r[figure_name] for r in found[v]] for v in values])
        error = 1.96 * data.std(1, ddof=1) / np.sqrt(data.shape[1])
        axis.errorbar(
            place + 0.06 * (2 * k - 1), 100 * data.mean(1), 100 * error,
            color=colour, marker=marker, capsize=3, label=words,
        )  # fmt: skip
    axis.axhline(0, color="#777777", linewidth=0.8)
    names = [f"{v:g}" + ("\n(default)" if v == default else "") for v in values]
    axis.set_xticks(place, names)
    axis.set_xlabel(label)
    axis.set_ylabel("change at −1 % utility (%)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    cache: dict[int, dict[str, float]] = {}
    print(
        f"fairmt {fairmt.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}\n\n| setting | value | gap | shortfall | hypervolume |\n"
        "|---|---|---|---|---|"
    )
    for name in args.only:
        label, values, default = SETTINGS[name]
        found: dict[float, list[dict[str, float]]] = {}
        for value in values:
            found[value] = []
            for seed in range(args.seeds):
                if value != default:
                    found[value].append(run(name, value, seed, args.rows))
                    continue
                # All defaults: the same run for every setting.
                if seed not in cache:
                    cache[seed] = run(name, value, seed, args.rows)
                found[value].append(cache[seed])
            mean = {k: float(np.mean([r[k] for r in found[value]])) for k in found[value][0]}
            print(
                f"| {label} | {value:g} | {mean['gap']:+.1%} | {mean['shortfall']:+.1%} | "
                f"{mean['hypervolume']:.3f} |",
                flush=True,
            )
        draw(name, found, args.out / f"sensitivity_{name}.png")
        (args.out / f"sensitivity_{name}.json").write_text(json.dumps(found, indent=1))
    print(
        f"\n{(time.time() - start) / 60:.0f} minutes, {args.seeds} seeds, {args.rows:,} rows each."
    )


if __name__ == "__main__":
    main()
