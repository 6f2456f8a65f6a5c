"""FairMT against the symmetric variant, group DRO and the collapse control, on real records.

    FAIRMT_DATA=... python benchmarks/fair_frontier.py acs --seeds 5 --out benchmarks/results

Every method trains with the same encoder, epochs, averaging and batch, and gives one path of
candidates. Candidates, thresholds and the non-dominated set are chosen on validation rows; test
rows are read once, for the figures that are printed. The reference is the better of the plain and
the balanced plain model, trained on for as many epochs as the paths.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pandas as pd
import torch

import fairmt
from fairmt.bench import Frontier, collapse_candidates
from fairmt.bench.frontier import Place, level_down_at
from fairmt.data import Bundle, load, split
from fairmt.data.table import TensorTable
from fairmt.estimator import FairMTLearner
from fairmt.groups import Groups
from fairmt.path import Candidate, Path, PathEvaluator, predict_outputs

METHODS = ("fairmt", "symmetric", "group_dro")
OTHERS = ("symmetric", "group_dro", "collapse")
REPLICATES = 50


def run_seed(
    name: str, seed: int, epochs: tuple[int | None, int | None], inputs: bool
) -> dict[str, Frontier]:
    """All frontiers of one seed."""
    bundle = load(name)
    parts = split(
        bundle.frame,
        fractions=(0.6, 0.1, 0.1, 0.2),
        unit=bundle.frame[bundle.split_by].to_numpy() if bundle.split_by else None,
        seed=seed,
    )
    learners = {m: fit(bundle, parts, m, seed, epochs, inputs) for m in ("plain", *METHODS)}
    schema = learners["plain"].schema_
    test = schema.encode(bundle.frame.iloc[parts["test"]])
    validation = schema.encode(bundle.frame.iloc[parts["validation"]]).join(
        schema.encode(bundle.frame.iloc[parts["calibration"]])
    )
    ledger, groups = learners["fairmt"].ledger_, learners["fairmt"].schema_.groups
    rows = groups.membership(validation.attributes)[:, 1:].sum(0)
    plain = [
        c for m in ("plain", "fairmt") for c in learners[m].path_.candidates if c.segment == "plain"
    ]
    reference = Path(ledger, groups, plain, rows)
    best = reference.candidates[reference.plain]
    model = learners["fairmt"].model_
    model.load_state_dict(best.weights)
    evaluator = PathEvaluator(ledger, groups, validation, seed)
    outputs = predict_outputs(model, validation.features)
    paths: dict[str, list[Candidate]] = {
        m: [c for c in learners[m].path_.candidates if c.segment == "path"] for m in METHODS
    }
    paths["collapse"] = collapse_candidates(evaluator, best, outputs)
    found = {}
    for m, own in paths.items():
        path = Path(ledger, groups, [best, *own], rows, reference_optimism=reference.optimism)
        outputs = on_rows(path, model, test)
        found[m] = Frontier(path, outputs, test, REPLICATES, seed)
        if m == "fairmt":
            found["permuted"] = permuted(path, outputs, test)
    return found


def on_rows(path: Path, model: torch.nn.Module, table: TensorTable) -> list[torch.Tensor]:
    """What every candidate gives on a table."""
    outputs = []
    for candidate in path.candidates:
        model.load_state_dict(candidate.weights)
        outputs.append(predict_outputs(model, table.features))
    return outputs


def fit(
    bundle: Bundle,
    parts: dict[str, np.ndarray],
    method: str,
    seed: int,
    epochs: tuple[int | None, int | None],
    inputs: bool,
) -> FairMTLearner:
    """One training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return FairMTLearner(
            **bundle.learner_settings(),
            method=method,
            seed=seed,
            epochs=epochs[0],
            path_epochs=epochs[1],
            patience=None,
            attributes_as_inputs=inputs,
        ).fit(bundle.frame, parts=parts)


def permuted(path: Path, outputs: list[torch.Tensor], test: TensorTable) -> Frontier:
    """The noise floor: the same figures with group labels exchanged at random."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    shuffled = replace(test, attributes=test.attributes[order])
    return Frontier(path, outputs, shuffled, 0)


def summary(name: str, frontiers: list[dict[str, Frontier]], groups: Groups) -> dict[str, Any]:
    """Figures over seeds, ready for print and JSON."""
    volumes = {m: np.stack([f[m].volumes() for f in frontiers]) for m in (*METHODS, "collapse")}
    result: dict[str, Any] = {
        "plain": figures([f["fairmt"].plain[0] for f in frontiers]),
        "floor": figures([f["permuted"].plain[0] for f in frontiers]),
        "entries": [int(f["fairmt"].counted.sum()) for f in frontiers],
        "hypervolume": {m: interval(v) for m, v in volumes.items()},
        "hypervolume_difference": {m: interval(volumes["fairmt"] - volumes[m]) for m in OTHERS},
        "budget": {},
        "path": {},
    }
    tasks = [t.name for t in frontiers[0]["fairmt"].path.ledger.layout.tasks]
    for m in (*METHODS, "collapse"):
        picks = [f[m].chosen(utility_budget=0.01) for f in frontiers]
        result["budget"][m] = relative(picks, frontiers, m, tasks)
        result["path"][m] = [
            [
                {"delta_m": p[0].delta_m, "gap": p[0].gap, "shortfall": p[0].shortfall,
                 "strength": f[m].path.candidates[i].strength}
                for i, p in f[m].places.items()
            ]
            for f in frontiers
        ]  # fmt: skip
    result["level_down_ratio"] = level_down_ratio(frontiers)
    return result


def figures(places: list[Place]) -> dict[str, float]:
    names = ("gap", "largest_gap", "shortfall", "worst", "best", "residual_range")
    return {n: float(np.mean([getattr(p, n) for p in places])) for n in names}


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean over seeds, and a 95 % interval by drawing seeds and, in each, rows (S, 1 + R)."""
    rng = np.random.default_rng(0)
    seeds, weightings = values.shape
    point = float(values[:, 0].mean())
    # Replicates centred on their own mean: weighting rows shifts the level of a volume.
    centred = values[:, 1:] - values[:, 1:].mean(1, keepdims=True) + values[:, :1]
    draws = [
        np.mean([centred[s, rng.integers(weightings - 1)] for s in rng.integers(seeds, size=seeds)])
        for _ in range(4000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": point, "low": float(low), "high": float(high)}


def relative(
    picks: list[tuple[int, list[Place]]], frontiers: list[dict[str, Frontier]], method: str,
    tasks: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Changes against plain of the candidates that a utility budget of 1 % picks."""

    def over(figure: Any) -> dict[str, float]:
        return interval(
            np.array(
                [
                    [figure(p, q) for p, q in zip(places, f[method].plain, strict=True)]
                    for (_, places), f in zip(picks, frontiers, strict=True)
                ]
            )
        )

    return {
        "delta_m": over(lambda p, q: p.delta_m),
        "gap": over(lambda p, q: p.gap / q.gap - 1),
        "shortfall": over(lambda p, q: p.shortfall / q.shortfall - 1),
        "worst": over(lambda p, q: p.worst - q.worst),
        "best": over(lambda p, q: p.best - q.best),
        "level_down": over(lambda p, q: p.level_down),
        "residual_range": over(lambda p, q: p.residual_range / q.residual_range - 1),
        "tasks": {
            t: float(np.mean([places[0].change[i] for _, places in picks]))
            for i, t in enumerate(tasks)
        },
        "worst_task_of_any_seed": float(min(min(places[0].change) for _, places in picks)),
        "delta_m_by_seed": [places[0].delta_m for _, places in picks],
    }


def level_down_ratio(frontiers: list[dict[str, Frontier]]) -> dict[str, Any]:
    """Level-down index of FairMT's pick over the symmetric path's at the same gap."""
    ratios = []
    for f in frontiers:
        _, places = f["fairmt"].chosen(utility_budget=0.01)
        other = level_down_at(places[0].gap, [p[0] for p in f["symmetric"].places.values()])
        ratios.append(places[0].level_down / other if other > 0 else float("nan"))
    return {"mean": float(np.nanmean(ratios)), "by_seed": ratios}


def as_text(name: str, r: dict[str, Any], command: str, seconds: float) -> str:
    """Markdown of the figures."""

    def signed(x: dict[str, float], percent: bool = True) -> str:
        if percent:
            return f"{x['mean']:+.1%} [{x['low']:+.1%}, {x['high']:+.1%}]"
        return f"{x['mean']:+.3f} [{x['low']:+.3f}, {x['high']:+.3f}]"

    seeds = len(r["entries"])
    lines = [
        f"# {name}: frontiers, {seeds} seeds",
        "",
        f"`{command}`",
        "",
        f"fairmt {fairmt.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; {seconds / 60:.1f} minutes. Intervals: 95 %, bootstrap over "
        "seeds and, within them, households or patients.",
        "",
        f"Plain model: mean gap {r['plain']['gap']:.3f} (by chance {r['floor']['gap']:.3f}), "
        f"largest {r['plain']['largest_gap']:.2f}, shortfall {r['plain']['shortfall']:.3f}, over "
        f"{min(r['entries'])} to {max(r['entries'])} live, thick entries.",
        "",
        "Hypervolume in (Δm, shortfall, gap):",
        "",
        "| method | hypervolume | FairMT ahead by |",
        "|---|---|---|",
    ]
    for m, v in r["hypervolume"].items():
        ahead = "–" if m == "fairmt" else signed(r["hypervolume_difference"][m], False)
        lines.append(f"| {m} | {v['mean']:.3f} | {ahead} |")
    lines += [
        "",
        "Candidates that `utility_budget=0.01` picks on validation, measured on test:",
        "",
        "| method | Δm | gap | shortfall | worst group | best group | level-down | "
        "range of mean residual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m, b in r["budget"].items():
        cells = [signed(b[k]) for k in ("delta_m", "gap", "shortfall")]
        cells += [signed(b[k], False) for k in ("worst", "best")]
        cells += [f"{b['level_down']['mean']:.3f}", signed(b["residual_range"])]
        lines.append(f"| {m} | {' | '.join(cells)} |")
    own = r["budget"]["fairmt"]
    changes = ", ".join(f"{t} {v:+.1%}" for t, v in own["tasks"].items())
    lines += [
        "",
        f"FairMT task by task: {changes}; the worst task of any seed "
        f"{own['worst_task_of_any_seed']:+.1%}. Δm by seed: "
        + ", ".join(f"{v:+.1%}" for v in own["delta_m_by_seed"])
        + ".",
        "",
        "Level-down index over the symmetric path's at the same gap: "
        f"{r['level_down_ratio']['mean']:.2f} (by seed "
        + ", ".join(f"{v:.2f}" for v in r["level_down_ratio"]["by_seed"])
        + ").",
        "",
        "Test figures along the path (mean over seeds, by the place in the path):",
        "",
        "| method | Δm | gap | shortfall |",
        "|---|---|---|---|",
    ]
    for m, runs in r["path"].items():
        longest = min(len(run) for run in runs)
        for k in sorted({0, *range(1, longest, max(1, longest // 6)), longest - 1}):
            own_ = pd.DataFrame([run[k] for run in runs]).mean()
            lines.append(
                f"| {m} | {own_['delta_m']:+.1%} | {own_['gap'] / r['plain']['gap'] - 1:+.0%} | "
                f"{own_['shortfall'] / r['plain']['shortfall'] - 1:+.0%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=("acs", "diabetes130", "nhanes", "adult"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--path-epochs", type=int)
    parser.add_argument("--attributes-as-inputs", action="store_true")
    parser.add_argument("--out", type=FilePath)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    frontiers = []
    epochs = args.epochs, args.path_epochs
    for seed in range(args.seeds):
        frontiers.append(run_seed(args.data, seed, epochs, args.attributes_as_inputs))
        volumes = {m: round(float(f.volumes()[0]), 3) for m, f in frontiers[-1].items()}
        print(f"seed {seed}: {volumes}, {time.time() - start:.0f} s", flush=True)
    found = summary(args.data, frontiers, frontiers[0]["fairmt"].path.groups)
    extra = " --attributes-as-inputs" if args.attributes_as_inputs else ""
    extra += f" --epochs {args.epochs}" if args.epochs else ""
    extra += f" --path-epochs {args.path_epochs}" if args.path_epochs else ""
    command = f"python benchmarks/fair_frontier.py {args.data} --seeds {args.seeds}{extra}"
    text = as_text(args.data, found, command, time.time() - start)
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        name = f"frontier_{args.data}" + ("_with_attributes" if args.attributes_as_inputs else "")
        name += f"_path{args.path_epochs}" if args.path_epochs else ""
        (args.out / f"{name}.md").write_text(text)
        (args.out / f"{name}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
