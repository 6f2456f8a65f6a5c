"""Are stated tolerances kept? Runs on made-up people, judged on 200,000 fresh ones.

A run is *satisfied* when the simultaneous 95 % lower bound of its worst gap (Bonferroni over the
entries that are counted) lies within the tolerance. Its utility is compared with that of the true
probabilities and means given the same inputs, decided by offsets that maximise the same utilities,
on the same fresh people: the best that any model could do without a tolerance.

    python benchmarks/generator_tolerance.py --runs 40 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
import warnings
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fairmt
from fairmt.data import Bundle, generate
from fairmt.decisions import tune_offsets
from fairmt.disparity import Yardstick
from fairmt.estimator import FairMTLearner
from fairmt.path import gap_errors, judge, predict_outputs
from fairmt.tasks import Layout
from fairmt.utility import headline_replicates


def one(seed: int, rows: int, tolerance: float, controller: str, fresh: int) -> dict[str, Any]:
    """One run, and its verdict on fresh people."""
    bundle = generate(rows, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner = FairMTLearner(
            **bundle.learner_settings(),
            seed=seed,
            tolerance=tolerance,
            controller=controller,
            batch_size=512,
        ).fit(bundle.frame)
    new = generate(fresh, seed=1_000_000 + seed)
    table = learner.schema_.encode(new.frame)
    ledger, groups, layout = learner.ledger_, learner.schema_.groups, Layout(learner.schema_.tasks)
    member = groups.membership(table.attributes)[:, 1:].sum(0)
    offsets = learner.offsets_
    outputs = predict_outputs(learner.model_, table.features)
    moments = judge(ledger, groups, outputs, table, offsets)
    plain = learner.path_.candidates[learner.path_.plain]
    learner.model_.load_state_dict(plain.weights)
    plain_outputs = predict_outputs(learner.model_, table.features)
    before = judge(ledger, groups, plain_outputs, table, plain.offsets)
    yardstick = Yardstick(ledger, groups, before, member)
    gaps = yardstick.gaps(ledger.rates(moments.sums))[yardstick.counted]
    errors = gap_errors(ledger, groups, moments)[yardstick.counted]
    z = NormalDist().inv_cdf(1 - 0.05 / len(gaps))
    lower = float((gaps - z * errors).max())
    ones = torch.ones(1, len(table))
    best = truth_outputs(layout, new)
    best_offsets = tune_offsets(layout, best, table.labels)
    u = {
        name: headline_replicates(layout, o, table.labels, rule, ones)[0]
        for name, o, rule in (
            ("fair", outputs, offsets),
            ("plain", plain_outputs, plain.offsets),
            ("best", best, best_offsets),
        )
    }
    return {
        "seed": seed,
        "reached": learner.choice_.reached,
        "worst_gap": float(gaps.max()),
        "lower_bound": lower,
        "satisfied": lower <= tolerance,
        "plain_worst_gap": float(
            yardstick.gaps(ledger.rates(before.sums))[yardstick.counted].max()
        ),
        "against_best": float(((u["fair"] - u["best"]) / u["best"].abs()).mean()),
        "against_plain": float(((u["fair"] - u["plain"]) / u["plain"].abs()).mean()),
        "plain_against_best": float(((u["plain"] - u["best"]) / u["best"].abs()).mean()),
    }


def truth_outputs(layout: Layout, bundle: Bundle) -> Tensor:
    """Fused outputs of the true probabilities and means given the features."""
    outputs = torch.zeros(len(bundle.frame), layout.n_outputs)
    for task in layout.tasks:
        truth = torch.from_numpy(bundle.truth_given_features[task.name]).double()
        if task.kind == "classification":
            values = truth.clamp(1e-9).log()
        elif task.kind == "detection":
            values = torch.logit(truth.clamp(1e-9, 1 - 1e-9))
        else:
            values = task.standardise(truth)  # type: ignore[attr-defined]
        outputs[:, layout.outputs[task.name]] = values.float()
    return outputs


def share(runs: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Share of satisfied runs, with Wilson's 95 % interval."""
    n, k = len(runs), sum(r["satisfied"] for r in runs)
    z = 1.96
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return p, centre - half, centre + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--tolerance", type=float, default=0.2)
    parser.add_argument("--controller", choices=("path", "dual"), default="path")
    parser.add_argument("--fresh", type=int, default=200_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, runs = time.time(), []
    for seed in range(args.first, args.first + args.runs):
        runs.append(one(seed, args.rows, args.tolerance, args.controller, args.fresh))
        print(json.dumps(runs[-1]), f"{time.time() - start:.0f} s", flush=True)
    p, low, high = share(runs)
    mean = {k: float(np.mean([r[k] for r in runs])) for k in runs[0] if k != "seed"}
    text = (
        f"# Tolerance {args.tolerance} on made-up people: {args.runs} runs of {args.rows:,} rows\n"
        f"\n`python benchmarks/generator_tolerance.py --runs {args.runs} --rows {args.rows} "
        f"--tolerance {args.tolerance} --controller {args.controller}`\n\n"
        f"fairmt {fairmt.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; {(time.time() - start) / 60:.0f} minutes. Judged on "
        f"{args.fresh:,} fresh people per run.\n\n"
        f"- satisfied: {p:.0%} [{low:.0%}, {high:.0%}]; the run itself said it was reached in "
        f"{mean['reached']:.0%}\n"
        f"- worst gap: {mean['worst_gap']:.3f} (plain {mean['plain_worst_gap']:.3f}), its "
        f"simultaneous lower bound {mean['lower_bound']:.3f}\n"
        f"- utility: {mean['against_plain']:+.2%} against plain, {mean['against_best']:+.2%} "
        f"against the true probabilities given the features (plain "
        f"{mean['plain_against_best']:+.2%})\n"
    )
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"tolerance_{args.controller}.md").write_text(text)


if __name__ == "__main__":
    main()
