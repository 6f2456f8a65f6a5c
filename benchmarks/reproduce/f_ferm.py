"""f-FERM on Adult: one frontier at every batch size, where the batch's own divergence collapses.

A logistic model on the official split of Adult; sex is the group and no feature. f-FERM's estimate
of D_f is a maximum over a table and unbiased in any batch; the naive one puts the batch's table
into D_f. Nothing is selected: strengths, epochs and rates are those of the figures compared with.

    python benchmarks/reproduce/f_ferm.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import report
import torch
from torch import Tensor, nn

from fairmt import load_dataset
from fairmt.data import Schema, TensorTable
from fairmt.methods import FFERM, StepMethod
from fairmt.methods.base import Batch
from fairmt.methods.divergences import DIVERGENCES
from fairmt.models import LinearHeads, MultiTask
from fairmt.sampling import TableSource
from fairmt.tasks import Layout

TRAIN_ROWS = 32_561
"""adult.data; the rest is adult.test."""
SCHEDULES = {8: (2, 0.001), 64: (10, 0.003), 512: (30, 0.01)}
"""Epochs and rate of Adam by batch size."""
MEASURED = {
    # Accuracy and gap of a re-measurement with a re-implementation, 2 to 3 seeds.
    ("kl", 2.0, 8, True): (0.8469, 0.085),
    ("kl", 2.0, 8, False): (0.8473, 0.103),
    ("kl", 10.0, 8, True): (0.8328, 0.014),
    ("kl", 10.0, 8, False): (0.7931, 0.025),
    ("chi2", 10.0, 8, True): (0.8291, 0.002),
    ("chi2", 10.0, 8, False): (0.7715, 0.007),
    ("kl", 2.0, 64, True): (0.8465, 0.082),
    ("kl", 2.0, 64, False): (0.8471, 0.086),
    ("kl", 10.0, 64, True): (0.8327, 0.014),
    ("kl", 10.0, 64, False): (0.8338, 0.013),
    ("chi2", 10.0, 64, True): (0.8296, 0.005),
    ("chi2", 10.0, 64, False): (0.8275, 0.004),
    ("kl", 2.0, 512, True): (0.8465, 0.082),
    ("kl", 2.0, 512, False): (0.8464, 0.082),
    ("kl", 10.0, 512, True): (0.8322, 0.013),
    ("kl", 10.0, 512, False): (0.8326, 0.013),
    ("chi2", 2.0, 512, True): (0.8406, 0.051),
    ("chi2", 10.0, 512, True): (0.8289, 0.006),
    ("chi2", 10.0, 512, False): (0.8293, 0.004),
}
PLAIN = (0.8519, 0.170)
CAUTION = (
    "Seeds differ in initial weights and the order of rows only, and two give little more than "
    "their range: the differences of gap that remain for f-FERM are larger. Batch 8 trains for 2 "
    "epochs, batch 512 for 30, and at λ = 2 a wider gap comes with no less accuracy: another "
    "point near one frontier, not a worse one. The plug-in's small gaps at batch 8 and λ = 10 "
    "are a collapse towards the larger class."
)


class PlugIn(FFERM):
    """D_f of the batch's own table."""

    name = "plug_in"

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        p, q, *_ = self.tables(outputs, batch)
        # A group that the batch lacks has no column; its share is the batch's, as P's is.
        share = p.detach().sum(0)
        p, q = p[:, share > 0], p.sum(1, keepdim=True) * (share / share.sum())[share > 0]
        return (q * self.divergence.f(p / q)).sum()


@dataclass
class Run:
    """What a seed gives on the test rows."""

    accuracy: float
    gap: float


def adult() -> tuple[Schema, TensorTable, TensorTable]:
    bundle = load_dataset("adult")
    income = next(t for t in bundle.tasks if t.name == "income")
    frame = bundle.frame.rename(columns={"hours": "hours_per_week"})
    features = dict(bundle.features) | {
        "hours_per_week": "numeric",
        "workclass": "categorical",
        "occupation": "categorical",
    }
    train = frame.iloc[:TRAIN_ROWS]
    schema = Schema.infer(train, [income], ["sex"], features=features)
    return schema, schema.encode(train), schema.encode(frame.iloc[TRAIN_ROWS:])


def fit(
    data: tuple[Schema, TensorTable, TensorTable],
    build: Callable[[], StepMethod],
    strength: float,
    size: int,
    seed: int,
) -> Run:
    schema, train, test = data
    torch.manual_seed(seed)
    layout = Layout(schema.tasks)
    model = MultiTask(nn.Identity(), LinearHeads(schema.n_inputs, layout), layout)
    method = build()
    method.setup(model, schema.groups, train)
    method.strength = strength
    source, (epochs, rate) = TableSource(train, size, seed), SCHEDULES[size]
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * source.n_batches)
    for epoch in range(epochs):
        for batch in source.batches(epoch):
            optimiser.zero_grad()
            method.step(batch)
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        decided = model(test.features).argmax(1)
    group = test.attributes[:, 0]
    rates = [float((decided[group == k] == 1).double().mean()) for k in (0, 1)]
    accuracy = float((decided == test.labels[:, 0]).double().mean())
    return Run(accuracy, abs(rates[0] - rates[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 512], choices=SCHEDULES)
    parser.add_argument("--strengths", type=float, nargs="+", default=[2.0, 10.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = adult()
    found: dict[Any, list[Run]] = {}

    def runs(key: Any, build: Callable[[], StepMethod], strength: float, size: int) -> list[Run]:
        if key not in found:
            found[key] = [fit(data, build, strength, size, seed) for seed in range(args.seeds)]
            print(key, *found[key], flush=True)
        return found[key]

    plain = runs("plain", FFERM, 0.0, 512)
    rows = [["none", "", 512, *cells(plain), compared(PLAIN, plain)]]
    for name in ("kl", "chi2"):
        for strength in args.strengths:
            for size in args.batches:
                for minimax in (True, False):
                    kind = FFERM if minimax else PlugIn
                    key = (name, strength, size, minimax)
                    own = runs(key, lambda k=kind, n=name: k(divergence=n), strength, size)
                    label = f"{name}, {'f-FERM' if minimax else 'plug-in'}"
                    rows.append(
                        [
                            label,
                            f"{strength:g}",
                            size,
                            *cells(own),
                            compared(MEASURED.get(key), own),
                        ]
                    )
    frontier = []
    for name in DIVERGENCES:
        scale = 0.1 if name == "total_variation" else 1.0
        for strength in args.strengths:
            key = (name, strength, 512, True)
            own = runs(key, lambda n=name: FFERM(divergence=n), scale * strength, 512)
            frontier.append([name, f"{scale * strength:g}", *cells(own)])
    head = ["estimate", "λ", "batch", "accuracy", "gap", "re-measured (difference)"]
    report.write(
        "f_ferm",
        "f-FERM on Adult: batch size, and the six divergences",
        f"{args.seeds} seeds. Gap: difference between the sexes in the share of hard decisions for "
        "high income, on the official test rows. The paper prints curves without figures; "
        "'re-measured' is a separate small re-implementation (other features, A's rate by hand).",
        report.table(head, rows),
        verdict(found, args.batches, args.strengths),
        CAUTION,
        "## Six divergences, batch 512",
        "λ is a different unit for each; read accuracy against gap.",
        report.table(["divergence", "λ", "accuracy", "gap"], frontier),
    )


def cells(runs: list[Run]) -> list[str]:
    return [
        report.interval([r.accuracy for r in runs], percent=True),
        report.interval([r.gap for r in runs]),
    ]


def compared(reference: tuple[float, float] | None, runs: list[Run]) -> str:
    if reference is None:
        return "–"
    accuracy, gap = reference
    a = np.mean([r.accuracy for r in runs]) - accuracy
    g = np.mean([r.gap for r in runs]) - gap
    return f"{accuracy:.1%} / {gap:.3f} ({a:+.1%} / {g:+.3f})"


def verdict(found: dict[Any, list[Run]], sizes: list[int], strengths: list[float]) -> str:
    """How far the smallest batch is from the largest, in words."""
    small, large = min(sizes), max(sizes)
    lines = []
    for minimax in (True, False):
        away_accuracy, away_gap = [], []
        for name in ("kl", "chi2"):
            for strength in strengths:
                a, b = (found[(name, strength, size, minimax)] for size in (small, large))
                away_accuracy.append(
                    np.mean([r.accuracy for r in a]) - np.mean([r.accuracy for r in b])
                )
                away_gap.append(np.mean([r.gap for r in a]) - np.mean([r.gap for r in b]))
        worst = max(map(abs, away_accuracy)), max(map(abs, away_gap))
        who = "f-FERM" if minimax else "the plug-in"
        lines.append(
            f"{who}: at most {worst[0]:.1%} accuracy and {worst[1]:.3f} gap between batch {small} "
            f"and {large} (differences of accuracy "
            f"{', '.join(f'{x:+.1%}' for x in away_accuracy)}; of gap "
            f"{', '.join(f'{x:+.3f}' for x in away_gap)})"
        )
        if minimax:
            holds = worst[0] < 0.005 and worst[1] < 0.015
    return (
        f"**The claim {'holds' if holds else 'does not hold'}** (within half a point of accuracy "
        "and .015 of gap): " + "; ".join(lines) + "."
    )


if __name__ == "__main__":
    main()
