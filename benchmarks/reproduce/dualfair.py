"""DualFair on COMPAS, German credit and Adult: what a frozen encoder without labels keeps.

python benchmarks/reproduce/dualfair.py [--seeds 3] [--adult-seeds 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import report
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fairmt import load_dataset
from fairmt.auditing.counterfactual import counterfactual_parity
from fairmt.data import Schema, TensorTable, split
from fairmt.groups import Groups
from fairmt.methods import DualFair
from fairmt.methods.counterfactual import CounterfactualGenerator
from fairmt.models import MLP

TASKS = {"german": "credit", "compas": "recidivism", "adult": "income"}
STEPS = {"german": (400, 400), "compas": (600, 600), "adult": (1000, 1000)}
VARIANTS: dict[str, dict[str, Any]] = {
    "DualFair": {},
    "DualFair, 8 features": {"features": 8},
    "neither term, 8 features": {"features": 8, "alignment": 0.0, "distribution": 0.0},
}
FIGURES = ("AUC", "soft ΔDP", "hard ΔDP", "EOdds gap", "flipped", "control", "effect")
PUBLISHED = {
    "german": {"LR on raw": (0.754, 0.018, 0.056, 0.066), "DualFair": (0.719, 0.005, 0.031, None)},
    "compas": {"LR on raw": (0.733, 0.045, 0.078, 0.037), "DualFair": (0.731, 0.038, 0.077, None)},
    "adult": {"LR on raw": (0.906, 0.172, 0.169, 0.068), "DualFair": (0.790, 0.024, 0.029, 0.008)},
}
"""AUC, soft and hard ΔDP, EOdds gap, measured before with the authors' code on other splits; mean
of two seeds for German and COMPAS, one seed at half the budget for Adult."""


def encoded(name: str, seed: int) -> tuple[dict[str, TensorTable], Groups]:
    bundle = load_dataset(name)
    task = next(t for t in bundle.tasks if t.name == TASKS[name])
    frame = bundle.frame[bundle.frame[task.name].notna()].reset_index(drop=True)
    stratify = (frame["sex"].astype(str) + frame[task.name].astype(str)).to_numpy()
    parts = split(frame, fractions=(0.7, 0.0, 0.1, 0.2), stratify=stratify, seed=seed)
    schema = Schema.infer(
        frame.iloc[parts["train"]], [task], ["sex"], features=dict(bundle.features)
    )
    tables = {p: schema.encode(frame.iloc[rows]) for p, rows in parts.items() if len(rows)}
    return tables, schema.groups


def probe(
    represent: Callable[[Tensor], Tensor], tables: dict[str, TensorTable]
) -> Callable[[Tensor], Tensor]:
    """Logistic regression on a representation; validation rows choose its penalty."""
    z = {p: represent(t.features).numpy() for p, t in tables.items()}
    y = {p: t.labels[:, 0].numpy() for p, t in tables.items()}
    fits = [LogisticRegression(C=c, max_iter=2000).fit(z["train"], y["train"])
            for c in (0.01, 0.1, 1.0, 10.0)]  # fmt: skip
    scores = [roc_auc_score(y["validation"], f.decision_function(z["validation"])) for f in fits]
    best = fits[int(np.argmax(scores))]
    weight, bias = torch.tensor(best.coef_[0]).float(), float(best.intercept_[0])
    return lambda x: (represent(x) @ weight + bias).sigmoid()


def judged(
    score: Callable[[Tensor], Tensor],
    test: TensorTable,
    groups: Groups,
    generator: CounterfactualGenerator,
) -> list[float]:
    p, y = score(test.features).numpy(), test.labels[:, 0].numpy()
    sex = test.attributes[:, 0].numpy()

    def gap(values: np.ndarray, among: np.ndarray) -> float:
        a, b = (values[among & (sex == g)].mean() for g in (0, 1))
        return float(abs(a - b))

    yes, everybody = (p >= 0.5).astype(float), np.ones(len(p), bool)
    odds = np.mean([gap(yes, y == 1), gap(yes, y == 0)])
    flip = counterfactual_parity(score, test, groups, generator).flips[0]
    found = [roc_auc_score(y, p), gap(p, everybody), gap(yes, everybody), odds]
    return [*found, flip.flipped, flip.control, flip.effect]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--adult-seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, verdicts = [], []
    for name in TASKS:
        found: dict[str, list[list[float]]] = {label: [] for label in ("LR on raw", *VARIANTS)}
        for seed in range(options.adult_seeds if name == "adult" else options.seeds):
            tables, groups = encoded(name, seed)
            train, test = tables["train"], tables["test"]
            first, second = STEPS[name]
            for label, settings in VARIANTS.items():
                method = DualFair(generator_steps=first, steps=second, **settings)
                torch.manual_seed(seed)
                encoder = MLP(train.features.shape[1], (128, 64))
                fitted = method.fit(encoder, train, groups, seed=seed).requires_grad_(False)
                found[label].append(judged(probe(fitted, tables), test, groups, method.generator))
            raw = probe(lambda x: x, tables)
            found["LR on raw"].append(judged(raw, test, groups, method.generator))
        for label, runs in found.items():
            columns = list(zip(*runs, strict=True))
            ours = [report.interval(c) for c in columns]
            rows.append([name, label, *ours])
            earlier = PUBLISHED[name].get(label)
            if earlier is None:
                continue
            differences = [
                "-" if e is None else f"{np.mean(c) - e:+.3f}"
                for c, e in zip(columns, earlier, strict=False)
            ]
            before = ["-" if e is None else f"{e:.3f}" for e in earlier]
            verdicts.append(
                [name, label, *(f"{b} ({d})" for b, d in zip(before, differences, strict=True))]
            )
    budget = "; ".join(f"{n} {a} and {b}" for n, (a, b) in STEPS.items())
    report.write(
        "dualfair",
        "DualFair: frozen encoder and a logistic probe, sex as the attribute",
        "The claim (Han et al., WWW 2023): one representation, learned without labels, serves "
        "group and counterfactual fairness at once and stays useful. The published table could "
        "not be had; reference figures are those that were measured before with the authors' code. "
        f"Steps of generator and encoder, 256 rows each: {budget}; the authors' settings are "
        "300 and 200 epochs. Test rows: 20 %; validation rows choose the probe's penalty. "
        "EOdds gap: mean of the gaps in true and false alarms at .5. *flipped*: mean |score(x) - "
        "score(x')|, x' reconstructed with the sex flipped; *control*: the same with the sex "
        "unchanged; *effect*: between the two reconstructions.",
        report.table(["data", "probe on", *FIGURES], rows),
        "Measured before, with the authors' code (in brackets: ours less that; other splits and "
        "features):",
        report.table(["data", "probe on", *FIGURES[:4]], verdicts),
        VERDICT,
    )


VERDICT = """\
**Verdict.** *Group fairness*: holds where there is a gap to close, at a price. On Adult the soft
gap falls from .175 to .085 for 4 points of AUC, and to .046 for 8 points with 8 features; the
authors' code went on to .024 for 12 points. The narrow representation alone is not it: without the
two terms 8 features leave .105. On COMPAS the gaps narrow by a fifth to a third for 1 to 2 points
of AUC, within the intervals of so few seeds. On German there is no gap between the sexes to begin
with, and the hard gaps are noise.

*Counterfactual fairness*: not shown. What a flip does beyond the reconstruction (*effect*) is
somewhat smaller than for logistic regression with 8 features, within the intervals, and larger by
default on Adult: training lays the twins of real rows together, and a probe finds the small
differences that are left. *flipped*, the figure of the paper, hardly differs from its control and
says little of the flip.

*Usefulness*: AUC within .02 of logistic regression on German and COMPAS by default, .04 below on
Adult."""


if __name__ == "__main__":
    main()
