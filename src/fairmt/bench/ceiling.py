"""The ceiling: how much could close at all, if nothing else mattered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fairmt.bench.configuration import Configuration
from fairmt.bench.contest import rows_of
from fairmt.bench.problems import Problem
from fairmt.data import TensorTable
from fairmt.disparity import SHORTFALL_SLACK, Disparity, Yardstick
from fairmt.estimator import FairMTLearner
from fairmt.ledger import Ledger, atoms_of
from fairmt.path import Candidate, judge

LEAST_ROWS = 1000
"""Training rows of a group that gets a model of its own."""
SHIFTS = np.linspace(-3.0, 3.0, 25)
"""Offsets that are tried for every output of a group."""
PASSES = 2


def ceiling(
    problem: Problem, config: Configuration, plain: Candidate, outputs: Tensor
) -> dict[str, float]:
    """Relative change of gap and shortfall on test rows under rules that know the group.

    For every group the best of the pooled model, of one that is shown the attributes, and of one
    trained on the group alone, with offsets of the group's own that make its shortfall on
    validation as small as they can. Attributes are taken one at a time; what it costs in utility
    is not asked.

    Parameters
    ----------
    plain, outputs : the reference, and what it gives on the test rows.
    """
    pooled = _learner(problem, config, problem.parts)
    aware = _learner(problem, config, problem.parts, attributes_as_inputs=True)
    ledger, groups = pooled.ledger_, pooled.schema_.groups
    frame = problem.bundle.frame
    validation = frame.iloc[
        np.concatenate([problem.parts["validation"], problem.parts["calibration"]])
    ]
    known, test = pooled.schema_.encode(validation), rows_of(problem, pooled, ("test",))
    everybody = {"pooled": pooled, "aware": aware}
    on_validation = {n: _outputs(m, validation) for n, m in everybody.items()}
    on_test = {n: _outputs(m, frame.iloc[problem.parts["test"]]) for n, m in everybody.items()}
    rows = groups.membership(test.attributes)[:, 1:].sum(0)
    before = judge(ledger, groups, outputs, test, plain.offsets)
    yardstick = Yardstick(ledger, groups, before, rows)
    gaps, shortfalls, counted = [], [], []
    index_known, index_test = groups.index(known.attributes), groups.index(test.attributes)
    wanted = _best_benefits(ledger, groups, plain)
    for p, partition in enumerate(groups.partitions):
        decided = outputs + plain.offsets
        for g in range(partition.groups.start, partition.groups.stop):
            mine = index_known[:, p] == g
            seen = index_test[:, p] == g
            if int(mine.sum()) < 20 or not bool(seen.any()):
                continue
            options = {n: (o[mine], on_test[n][seen]) for n, o in on_validation.items()}
            own = _own_model(problem, config, pooled, p, g)
            if own is not None:
                options["own"] = (
                    _outputs(own, validation[mine.numpy()]),
                    _outputs(own, frame.iloc[problem.parts["test"]][seen.numpy()]),
                )
            decided[seen] = _best_rule(ledger, options, known[mine], wanted[p])
        after = judge(ledger, groups, decided, test, torch.zeros_like(plain.offsets))
        rates = ledger.rates(after.sums)
        gaps.append(yardstick.gaps(rates)[p])
        shortfalls.append(yardstick.shortfalls(rates)[p])
        counted.append(yardstick.counted[p])
    keep = torch.stack(counted)
    found: Disparity = yardstick.measure(before)
    return {
        "gap": float(torch.stack(gaps)[keep].mean() / found.gap - 1),
        "shortfall": float(torch.stack(shortfalls)[keep].mean() / found.shortfall - 1),
    }


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


def _best_benefits(ledger: Ledger, groups: object, plain: Candidate) -> Tensor:
    """The best group's benefit under the plain model on validation, (partitions, J)."""
    rates = ledger.rates(plain.moments.sums)[1:]
    benefits = ledger.orientation.to(rates) * rates
    benefits = torch.where(plain.moments.evidence[1:] >= 30, benefits, -torch.inf)
    return torch.stack([benefits[p.groups].amax(0) for p in groups.partitions])  # type: ignore[attr-defined]


def _best_rule(
    ledger: Ledger,
    options: Mapping[str, tuple[Tensor, Tensor]],
    table: TensorTable,
    wanted: Tensor,
) -> Tensor:
    """Test outputs of a group, task by task those of the model and offsets that serve it best."""
    layout = ledger.layout
    first = next(iter(options.values()))[1]
    chosen = first.clone()
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
                chosen[:, span] = (on_test + shift)[:, span]
    return chosen


def _shortfall(
    ledger: Ledger, outputs: Tensor, table: TensorTable, wanted: Tensor, mine: Tensor, shift: Tensor
) -> float:
    """Summed shortfall of a group's statistics under offsets."""
    atoms = atoms_of(ledger, outputs, table.labels.to(outputs), shift)
    sums = ledger.moments(torch.ones(len(outputs), 1), atoms, table.weights).sums
    benefits = ledger.orientation * ledger.rates(sums)[0]
    missing = torch.relu(wanted - benefits - SHORTFALL_SLACK)[mine]
    return float(torch.nan_to_num(missing, posinf=0.0, neginf=0.0).sum())
