"""Training a step method on made-up people, and what its model then does to groups."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairmt.data import Schema, TensorTable, generate
from fairmt.groups import Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.methods import STEPS, StepMethod
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.notions import NOTIONS
from fairmt.sampling import TableSource
from fairmt.tasks import Layout
from fairmt.utility import headline_replicates, relative_change


@dataclass(frozen=True)
class Case:
    """How a method is set for the shared assertions.

    strength : at which the planted bias shall go down, and a fair predictor be left alone.
    epochs : of training at that strength.
    """

    strength: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 8


CASES: dict[str, Case] = {
    "fairmt": Case(2.0),
    "symmetric": Case(2.0),
    "group_dro": Case(4.0, {"rate": 0.1}),
    "faircocco": Case(3.0),
    "f_ferm": Case(4.0),
    "gap": Case(4.0),
    "mmd": Case(4.0),
    "wasserstein": Case(4.0),
    "correlation": Case(4.0),
    "adversarial": Case(2.0),
    "cuma": Case(1.0),
    "minimax": Case(4.0, {"rows": 256}),
    "l2t_fmt": Case(1.0),
    "mta_f": Case(2.0),
    "fairbranch": Case(5.0, {"branch_every": 40}),
    "fairret": Case(1.0),
    "cooper": Case(4.0),
    "sensei": Case(4.0),
}
"""A line for every step method with a strength."""


def case(name: str) -> Case:
    return CASES.get(name, Case())


@functools.cache
def people(bias: float, seed: int) -> tuple[Schema, TensorTable]:
    """Rows of the generator under one schema, that of seed 0."""
    bundle = generate(4000, seed=seed, bias=bias)
    if seed:
        schema = people(bias, 0)[0]
    else:
        schema = Schema.infer(
            bundle.frame, bundle.tasks, bundle.sensitive, features=dict(bundle.features)
        )
    return schema, schema.encode(bundle.frame)


def build(name: str, schema: Schema, train: TensorTable, **settings: Any) -> StepMethod:
    """A method bound to a small network of fixed weights."""
    torch.manual_seed(0)
    layout = Layout(schema.tasks)
    encoder = MLP(schema.n_inputs, (32, 16))
    step = STEPS[name](**case(name).settings | settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        step.setup(MultiTask(encoder, LinearHeads(16, layout), layout), schema.groups, train)
    return step


def train(step: StepMethod, table: TensorTable, epochs: int, start: int = 0) -> None:
    optimiser = torch.optim.Adam([p for p in step.parameters() if p.requires_grad], lr=5e-3)
    source = TableSource(table, 128, seed=0)
    for epoch in range(start, start + epochs):
        for batch in source.batches(epoch):
            optimiser.zero_grad()
            step.step(batch)
            optimiser.step()


@functools.cache
def trained(name: str, bias: float, strength: float | None) -> Tensor:
    """Outputs on fresh people after training; cached, because plain is compared with each."""
    schema, table = people(bias, 0)
    step = build(name, schema, table)
    if strength is not None:
        step.strength = strength
    train(step, table, case(name).epochs)
    step.model.eval()
    with torch.no_grad():
        return step.model(people(bias, 1)[1].features)


def mean_gap(outputs: Tensor, table: TensorTable, schema: Schema, claims: Sequence[str]) -> float:
    """Mean over statistics and attributes of the distance between best and worst group."""
    layout, groups = Layout(schema.tasks), schema.groups
    ledger = Ledger(layout, judged(layout, claims))
    offsets = torch.zeros(layout.n_outputs)
    atoms = atoms_of(ledger, outputs.double(), table.labels.double(), offsets.double())
    moments = ledger.moments(groups.membership(table.attributes, torch.float64), atoms, None)
    rates = ledger.rates(moments.sums)[1:]
    gaps = [rates[p.groups].amax(0) - rates[p.groups].amin(0) for p in groups.partitions]
    return float(torch.stack(gaps).mean())


def judged(layout: Layout, claims: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The claimed notions, where they are defined."""
    from fairmt.notions import DEFAULT_NOTIONS

    found = {}
    for task in layout.tasks:
        names: list[str] = []
        for claim in claims:
            names += DEFAULT_NOTIONS[task.kind] if claim == "default" else [claim]
        found[task.name] = tuple(n for n in dict.fromkeys(names) if NOTIONS[n].judges(task))
    return found


def utility_change(outputs: Tensor, plain: Tensor, table: TensorTable, schema: Schema) -> float:
    """Δm: the mean relative change of the headline utilities."""
    layout = Layout(schema.tasks)
    offsets, ones = torch.zeros(layout.n_outputs), torch.ones(1, len(table))
    own, reference = (
        headline_replicates(layout, o, table.labels, offsets, ones) for o in (outputs, plain)
    )
    return float(relative_change(layout, own, reference).mean())


def relabelled(groups: Groups, codes: Tensor) -> tuple[Groups, Tensor]:
    """The same people under another order of every attribute's groups."""
    from fairmt.groups import Attribute

    attributes, columns = [], []
    for position, attribute in enumerate(groups.attributes):
        n = len(attribute.categories)
        attributes.append(Attribute(attribute.name, tuple(reversed(attribute.categories))))
        column = codes[:, position]
        columns.append(torch.where(column >= 0, n - 1 - column, column))
    return Groups(tuple(attributes), groups.depth), torch.stack(columns, 1)
