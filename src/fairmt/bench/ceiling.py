"""The ceiling: how much could close at all, and how much of that at a price."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairmt.bench.configuration import Configuration
from fairmt.bench.contest import HELD_OUT, rows_of
from fairmt.bench.problems import Problem
from fairmt.data import TensorTable
from fairmt.disparity import SHORTFALL_SLACK, Yardstick
from fairmt.estimator import FairMTLearner
from fairmt.groups import Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.moments import Moments
from fairmt.path import Candidate, judge
from fairmt.utility import headline_replicates, relative_change

LEAST_ROWS = 1000
"""Training rows of a group that gets a model of its own."""
SHIFTS = np.linspace(-3.0, 3.0, 25)
"""Offsets that are tried for every output of a group."""
PASSES = 2
SHARES = np.linspace(0.0, 1.0, 21)
"""How far one may go from the reference towards those rules, where they have a price to keep."""


def ceiling(
    problem: Problem,
    config: Configuration,
    plain: Candidate,
    held_out: Tensor,
    outputs: Tensor,
    budgets: Sequence[float] = (),
) -> dict[str, Any]:
    """Relative change of utility, gap and shortfall on test rows under rules that know the group.

    For every group the best of the pooled model, of one that is shown the attributes, and of one
    trained on the group alone, with offsets of the group's own that make its shortfall on
    validation as small as they can. Attributes are taken one at a time.

    Parameters
    ----------
    plain, held_out, outputs : the reference, and what it gives on the rows of `HELD_OUT` and on
        the test rows.
    budgets : losses of utility. For each the rules go only so far, mixed with the reference's
        outputs, as it allows on validation.

    Returns
    -------
    ``delta_m``, ``gap`` and ``shortfall`` whatever they cost, and the same for each budget under
    ``budget``.
    """
    pooled = _learner(problem, config, problem.parts)
    aware = _learner(problem, config, problem.parts, attributes_as_inputs=True)
    ledger, groups = pooled.ledger_, pooled.schema_.groups
    frame = problem.bundle.frame
    validation = frame.iloc[np.concatenate([problem.parts[part] for part in HELD_OUT])]
    test_frame = frame.iloc[problem.parts["test"]]
    known, test = rows_of(problem, pooled, HELD_OUT), rows_of(problem, pooled, ("test",))
    everybody = {
        n: (_outputs(m, validation), _outputs(m, test_frame))
        for n, m in (("pooled", pooled), ("aware", aware))
    }
    judged = _Judge(ledger, groups, test, outputs + plain.offsets)
    wanted = _best_benefits(ledger, groups, plain)
    index_known, index_test = groups.index(known.attributes), groups.index(test.attributes)
    before = held_out + plain.offsets, outputs + plain.offsets
    found: dict[float | None, list[Tensor]] = {wish: [] for wish in (None, *budgets)}
    for p, partition in enumerate(groups.partitions):
        rules = before[0].clone(), before[1].clone()
        for g in range(partition.groups.start, partition.groups.stop):
            mine = index_known[:, p] == g
            seen = index_test[:, p] == g
            if int(mine.sum()) < 20 or not bool(seen.any()):
                continue
            options = {n: (known_[mine], test_[seen]) for n, (known_, test_) in everybody.items()}
            own = _own_model(problem, config, pooled, p, g)
            if own is not None:
                options["own"] = (
                    _outputs(own, validation[mine.numpy()]),
                    _outputs(own, test_frame[seen.numpy()]),
                )
            rules[0][mine], rules[1][seen] = _best_rule(ledger, options, known[mine], wanted[p])
        for budget in found:
            share = 1.0
            if budget is not None:
                share = _affordable(ledger, before[0], rules[0], known, budget)
            mixed = before[1] + share * (rules[1] - before[1])
            found[budget].append(judged(mixed, p))
    free = _summary(judged, found.pop(None))
    return free | {"budget": {str(b): _summary(judged, f) for b, f in found.items()}}


class _Judge:
    """Figures of decisions on test rows, for one attribute."""

    def __init__(self, ledger: Ledger, groups: Groups, test: TensorTable, plain: Tensor) -> None:
        self.ledger, self.groups, self.test, self.plain = ledger, groups, test, plain
        rows = groups.membership(test.attributes)[:, 1:].sum(0)
        self.before = self._moments(plain)
        self.yardstick = Yardstick(ledger, groups, self.before, rows)

    def _moments(self, outputs: Tensor) -> Moments:
        none = torch.zeros(outputs.shape[1])
        return judge(self.ledger, self.groups, outputs, self.test, none)

    def __call__(self, outputs: Tensor, partition: int) -> Tensor:
        """(3, J): the change of utility, and gaps and shortfalls of the attribute."""
        rates = self.ledger.rates(self._moments(outputs).sums)
        change = _change(self.ledger, self.plain, outputs, self.test)
        gaps = self.yardstick.gaps(rates)[partition]
        shortfalls = self.yardstick.shortfalls(rates)[partition]
        return torch.stack([torch.full_like(gaps, change), gaps, shortfalls])


def _summary(judged: _Judge, found: list[Tensor]) -> dict[str, float]:
    """Means over attributes, gap and shortfall over the entries that count."""
    change, gaps, shortfalls = torch.stack(found, 1)
    keep, before = judged.yardstick.counted, judged.yardstick.measure(judged.before)
    return {
        "delta_m": float(change[:, 0].mean()),
        "gap": float(gaps[keep].mean() / before.gap - 1),
        "shortfall": float(shortfalls[keep].mean() / before.shortfall - 1),
    }


def _change(ledger: Ledger, before: Tensor, after: Tensor, table: TensorTable) -> float:
    """Relative change of utility, mean over tasks."""
    weights = torch.ones(1, len(before)) if table.weights is None else table.weights[None]
    none = torch.zeros(before.shape[1])
    u, v = (
        headline_replicates(ledger.layout, o, table.labels, none, weights)[0]
        for o in (before, after)
    )
    return float(relative_change(ledger.layout, v, u).nanmean())


def _affordable(
    ledger: Ledger, before: Tensor, rules: Tensor, table: TensorTable, budget: float
) -> float:
    """The largest of `SHARES` that stays within a budget on these rows."""
    within = [
        share
        for share in SHARES
        if _change(ledger, before, before + share * (rules - before), table) >= -budget
    ]
    return float(max(within))


def _learner(
    problem: Problem, config: Configuration, parts: Mapping[str, np.ndarray], **settings: object
) -> FairMTLearner:
    """A plain model."""
    learner = FairMTLearner(
        **{**problem.settings, **settings},  # type: ignore[arg-type]
        method="plain",
        seed=config.seed,
        epochs=config.epochs,
        path_epochs=config.path_epochs,
        patience=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return learner.fit(
            problem.bundle.frame, parts={p: r for p, r in parts.items() if p != "test"}
        )


def _own_model(
    problem: Problem, config: Configuration, pooled: FairMTLearner, p: int, g: int
) -> FairMTLearner | None:
    """A model trained on one group; None where it is too small, or lacks a class."""
    groups = pooled.schema_.groups
    frame = problem.bundle.frame
    codes = pooled.schema_.encode(frame, labels=False).attributes
    member = (groups.index(codes)[:, p] == g).numpy()
    parts = {name: r[member[r]] for name, r in problem.parts.items() if name != "test"}
    if len(parts["train"]) < LEAST_ROWS:
        return None
    # Within one group there is nothing to compare: other attributes stand in for it.
    try:
        return _learner(problem, config, parts, sensitive=(), bins={}, depth=1)
    except ValueError:
        return None


def _outputs(learner: FairMTLearner, frame: object) -> Tensor:
    table = learner.schema_.encode(frame, labels=False, attributes=bool(learner.sensitive))
    return learner.outputs_of(learner.path_.plain, table)[0]


def _best_benefits(ledger: Ledger, groups: Groups, plain: Candidate) -> Tensor:
    """The best group's benefit under the plain model on validation, (partitions, J)."""
    rates = ledger.rates(plain.moments.sums)[1:]
    benefits = ledger.orientation.to(rates) * rates
    benefits = torch.where(plain.moments.evidence[1:] >= 30, benefits, -torch.inf)
    return torch.stack([benefits[p.groups].amax(0) for p in groups.partitions])


def _best_rule(
    ledger: Ledger,
    options: Mapping[str, tuple[Tensor, Tensor]],
    table: TensorTable,
    wanted: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs of a group on validation and test rows, task by task those that serve it best."""
    layout = ledger.layout
    known, test = (o.clone() for o in next(iter(options.values())))
    task_of_output = layout.task_of_output()
    task_of_statistic = ledger.task_index
    for t, task in enumerate(layout.tasks):
        mine = (task_of_statistic == t) & ledger.bounded & (ledger.orientation != 0)
        span = task_of_output == t
        best = float("inf")
        for on_validation, on_test in options.values():
            shift = torch.zeros(layout.n_outputs)
            loss = _shortfall(ledger, on_validation, table, wanted, mine, shift)
            if task.kind != "regression":
                for _ in range(PASSES):
                    for k in span.nonzero().flatten().tolist():
                        tried = []
                        for value in SHIFTS:
                            other = shift.clone()
                            other[k] = float(value)
                            tried.append(
                                _shortfall(ledger, on_validation, table, wanted, mine, other)
                            )
                        if min(tried) < loss:
                            loss = min(tried)
                            shift[k] = float(SHIFTS[int(np.argmin(tried))])
            if loss < best:
                best = loss
                known[:, span] = (on_validation + shift)[:, span]
                test[:, span] = (on_test + shift)[:, span]
    return known, test


def _shortfall(
    ledger: Ledger, outputs: Tensor, table: TensorTable, wanted: Tensor, mine: Tensor, shift: Tensor
) -> float:
    """Summed shortfall of a group's statistics under offsets."""
    atoms = atoms_of(ledger, outputs, table.labels.to(outputs), shift)
    sums = ledger.moments(torch.ones(len(outputs), 1), atoms, table.weights).sums
    benefits = ledger.orientation * ledger.rates(sums)[0]
    missing = torch.relu(wanted - benefits - SHORTFALL_SLACK)[mine]
    return float(torch.nan_to_num(missing, posinf=0.0, neginf=0.0).sum())
