"""What reproductions of step methods share: one training, and figures of hard decisions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairmt.data import Schema, TensorTable
from fairmt.ledger import Ledger
from fairmt.methods import StepMethod
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.path import judge, predict_outputs
from fairmt.sampling import TableSource
from fairmt.tasks import Layout
from fairmt.trainer import Segment, Trainer
from fairmt.utility import headline_replicates

WIDTHS = (64, 32)


def some(rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most `n` of the rows, drawn at random: files are in the order of places."""
    found: np.ndarray = np.random.default_rng(seed).permutation(rows)[:n]
    return found


def trained(
    method: StepMethod,
    schema: Schema,
    train: TensorTable,
    *,
    strength: float = 0.0,
    seed: int = 0,
    epochs: tuple[int, int] = (6, 10),
    batch_size: int = 256,
    learning_rate: float = 2e-3,
) -> StepMethod:
    """The method after a warm-up at λ = 0 and epochs at `strength`, its weights averaged."""
    torch.manual_seed(seed)
    layout = Layout(schema.tasks)
    encoder = MLP(schema.n_inputs, WIDTHS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        method.setup(
            MultiTask(encoder, LinearHeads(WIDTHS[-1], layout), layout), schema.groups, train
        )
    segments = [
        Segment("warmup", epochs[0], None if method.strength is None else lambda epoch: 0.0),
        Segment("path", epochs[1], None if method.strength is None else lambda epoch: strength),
    ]
    source = TableSource(train, batch_size, seed)
    Trainer(learning_rate=learning_rate, seed=seed, progress=False).fit(method, source, segments)
    method.model.eval()
    return method


def gap(
    outputs: Tensor, table: TensorTable, schema: Schema, notion: str, thick: int = 100
) -> dict[str, float]:
    """By task, the mean over statistics and attributes of best minus worst group.

    Groups with fewer than `thick` rows are left out.
    """
    layout, groups = Layout(schema.tasks), schema.groups
    ledger = Ledger(layout, {t.name: (notion,) for t in layout.tasks if t.kind != "regression"})
    moments = judge(ledger, groups, outputs, table, torch.zeros(layout.n_outputs))
    rates = ledger.rates(moments.sums)[1:]
    known = groups.membership(table.attributes)[:, 1:].sum(0) >= thick
    found: dict[str, list[float]] = {t.name: [] for t in layout.tasks}
    for p in groups.partitions:
        own = rates[p.groups][known[p.groups]]
        for j, difference in enumerate((own.amax(0) - own.amin(0)).tolist()):
            found[ledger.statistics[j].task].append(difference)
    return {task: sum(gaps) / len(gaps) for task, gaps in found.items() if gaps}


def utilities(outputs: Tensor, table: TensorTable, schema: Schema) -> list[float]:
    """Headline utility of every task: macro-F1, average precision, -RMSE."""
    layout = Layout(schema.tasks)
    ones, offsets = torch.ones(1, len(table)), torch.zeros(layout.n_outputs)
    found: list[float] = headline_replicates(layout, outputs, table.labels, offsets, ones)[
        0
    ].tolist()
    return found


def accuracies(outputs: Tensor, table: TensorTable, schema: Schema) -> dict[str, float]:
    """Share of right decisions of every classification task."""
    layout = Layout(schema.tasks)
    found = {}
    for task in layout.tasks:
        y = table.labels[:, layout.labels[task.name]][:, 0]
        seen = ~y.isnan()
        guess = outputs[seen][:, layout.outputs[task.name]].argmax(1)
        found[task.name] = float((guess == y[seen]).float().mean())
    return found


def outputs_of(method: StepMethod, table: TensorTable) -> Tensor:
    return predict_outputs(method.model, table.features)


def sign(values: Sequence[float]) -> int:
    """+1 or -1 where the 95 % bootstrap interval of the mean lies on one side of 0, else 0."""
    found = np.asarray(values, float)
    draws = np.random.default_rng(0).choice(found, (2000, len(found))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return int(low > 0) - int(high < 0)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
