"""What a step of every method costs, relative to plain training.

    OMP_NUM_THREADS=1 python benchmarks/method_cost.py --rounds 40 --out benchmarks/results

One row of made-up people after the other, three tasks of three kinds, an MLP 256 × 256, batches of
256, Adam included. Methods take turns with plain training within each round; ratios are medians
over rounds of processor time. Pre-training, post-processing and estimators have no step.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import fairmt
from fairmt.data import Schema, generate
from fairmt.methods import STEPS, StepMethod
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.tasks import Layout

BATCH = 256
STEPS_A_ROUND = 5


def build(name: str, schema: Schema, table: object) -> tuple[StepMethod, torch.optim.Optimizer]:
    """A method on a new network, at a strength where everything of it is at work."""
    torch.manual_seed(0)
    layout = Layout(schema.tasks)
    encoder = MLP(schema.n_inputs, (256, 256))
    step = STEPS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        step.setup(MultiTask(encoder, LinearHeads(256, layout), layout), schema.groups, table)
    if step.strength is not None:
        step.strength = 1.0
    return step, torch.optim.Adam([p for p in step.parameters() if p.requires_grad], 1e-3)


def seconds(step: StepMethod, optimiser: torch.optim.Optimizer, batches: list[dict]) -> float:
    """Processor time of a round of steps."""
    start = time.process_time()
    for batch in batches:
        optimiser.zero_grad(set_to_none=True)
        step.step(batch)
        optimiser.step()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--methods", help="A,B; default: all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    people = generate(8000, seed=0)
    schema = Schema.infer(
        people.frame, people.tasks, people.sensitive, features=dict(people.features)
    )
    table = schema.encode(people.frame)
    random = torch.Generator().manual_seed(0)
    batches = [
        table.batch(torch.randperm(len(table), generator=random)[:BATCH])
        for _ in range(STEPS_A_ROUND)
    ]
    rows, absent = [], []
    for name in args.methods.split(",") if args.methods else STEPS:
        plain = build("plain", schema, table)
        try:
            own = build(name, schema, table)
        except ImportError as error:
            absent.append(f"{name}: {error}")
            continue
        for pair in (plain, own):
            seconds(*pair, batches)
        times = np.array(
            [[seconds(*plain, batches), seconds(*own, batches)] for _ in range(args.rounds)]
        )
        ratios = times[:, 1] / times[:, 0]
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        each = np.median(times, 0) / STEPS_A_ROUND * 1e3
        rows.append((middle, f"| {name} | {each[1]:.2f} | {each[0]:.2f} | {middle:.2f} | "
                     f"{low:.2f} to {high:.2f} |"))  # fmt: skip
        print(rows[-1][1], flush=True)
    command = f"python benchmarks/method_cost.py --rounds {args.rounds}"
    text = "\n".join(
        [
            "# What a step of every method costs",
            "",
            f"`OMP_NUM_THREADS=1 {command}`",
            "",
            f"fairmt {fairmt.__version__}, torch {torch.__version__}, Python "
            f"{platform.python_version()}, one thread. Three tasks, two attributes, MLP 256 × 256, "
            f"batches of {BATCH}, default settings at λ = 1; methods take turns with plain "
            "training.",
            "",
            "| method | ms a step | plain, ms | ratio, median | quartiles |",
            "|---|---|---|---|---|",
            *(line for _, line in sorted(rows)),
            "",
            *absent,
        ]
    )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "method_cost.md").write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
