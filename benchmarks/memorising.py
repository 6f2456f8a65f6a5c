"""What balancing does to a network that learns its training rows by heart.

Balancing gives every task the weight 1/‖its gradient‖. Residuals of rows that are known by heart
vanish, and with them the gradient: the task that is memorised first weighs ever more, and what it
gains is no better on other rows. Losses and weights along plain training, with and without
balancing, on training rows and on rows that were not trained on (calibration and validation; test
rows are not looked at).

    python benchmarks/memorising.py faces acs diabetes130 nhanes lawschool --seeds 2 3
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import fairmt
from fairmt.bench.configuration import Configuration
from fairmt.bench.contest import HELD_OUT, contest_plain, rows_of
from fairmt.bench.problems import problem
from fairmt.data import TensorTable
from fairmt.geometry import balance, linear_gramian
from fairmt.loss_gradients import LossGradients
from fairmt.models import LinearHeads, MultiTask
from fairmt.tasks import Layout
from fairmt.truths import truths

EPOCHS = (2, 6, 10, 14, 18)
"""Where problems are trained for as many."""
COLUMNS = (
    "training loss, plain sum", "balanced", "loss on other rows, plain sum", "balanced",
    "balanced: weight by training rows", "by other rows",
)  # fmt: skip


def batches(table: TensorTable, size: int, rows: int) -> Iterator[dict[str, Tensor]]:
    """Whole batches of about that many rows, drawn alike every time."""
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:rows]
    for part in order.split(size):
        if len(part) == size:
            yield table.batch(part)


@torch.no_grad()
def losses_and_weights(
    model: MultiTask, layout: Layout, table: TensorTable, size: int, rows: int
) -> Tensor:
    """Mean loss per task and its weight by balancing, mean 1: (2, T)."""
    assert isinstance(model.heads, LinearHeads)
    of_task = one_hot(layout.task_of_output(), len(layout.tasks)).float()
    gradients, losses, squared = LossGradients(layout), [], []
    for batch in batches(table, size, rows):
        z = model.encoder(batch["features"])
        outputs, labels = model.heads(z), batch["labels"]
        loss, delta = gradients(outputs, labels, truths(layout, labels, outputs.dtype))
        head = ((delta.T @ z) ** 2).sum(1) + delta.sum(0) ** 2
        joint = linear_gramian(delta, model.heads.weight, of_task).diagonal() + head @ of_task
        losses.append(loss)
        squared.append(joint)
    weights = balance(torch.diag(torch.stack(squared).mean(0)))
    return torch.stack([torch.stack(losses).mean(0), weights / weights.mean()])


def measured(data: str, seed: int) -> tuple[list[str], list[int], np.ndarray]:
    """Names of tasks, epochs, and figures (epochs, tasks, columns)."""
    found = problem(data, seed=seed)
    by_method = []
    for method in ("plain", "balanced"):
        learner = contest_plain(found, Configuration(data, method, seed)).learner
        layout, model = Layout(learner.schema_.tasks), learner.model_.eval()
        tables = [rows_of(found, learner, parts) for parts in (("train",), HELD_OUT)]
        rows = min(len(table) for table in tables)
        at_epoch = {c.epoch: c for c in learner.path_.candidates}
        epochs = [epoch for epoch in EPOCHS if epoch in at_epoch]
        figures = []
        for epoch in epochs:
            model.load_state_dict(at_epoch[epoch].weights)
            figures.append(
                torch.stack(
                    [
                        losses_and_weights(model, layout, table, learner.batch_size, rows)
                        for table in tables
                    ]
                )
            )
        by_method.append(torch.stack(figures))
    # (methods, epochs, training or other rows, loss or weight, tasks)
    every = torch.stack(by_method)
    columns = [every[m, :, part, 0] for part in (0, 1) for m in (0, 1)]
    columns += [every[1, :, part, 1] for part in (0, 1)]
    return [task.name for task in layout.tasks], epochs, torch.stack(columns, -1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, nargs=2, default=(10, 11), help="first and last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, last = args.seeds
    print("# What balancing does to a network that learns its training rows by heart\n")
    print(
        f"`python benchmarks/memorising.py {' '.join(args.data)} --seeds {first} {last}`; fairmt "
        f"{fairmt.__version__}, torch {torch.__version__}, python {platform.python_version()}. "
        f"Means over {last - first + 1} seeds.\n"
    )
    print(f"| problem | task | epoch | {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * (3 + len(COLUMNS))}", flush=True)
    for data in args.data:
        runs = [measured(data, seed) for seed in range(first, last + 1)]
        names, epochs, _ = runs[0]
        figures = np.mean([figures for _, _, figures in runs], 0)
        for t, name in enumerate(names):
            for e, epoch in enumerate(epochs):
                cells = [f"{v:.3f}" for v in figures[e, t, :4]]
                cells += [f"{v:.2f}" for v in figures[e, t, 4:]]
                print(f"| {data} | {name} | {epoch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
