"""The noise floor: what gaps the plain model shows between groups that chance has drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairmt.bench.configuration import Configuration
from fairmt.bench.contest import contest, judges, rows_of
from fairmt.bench.problems import Problem
from fairmt.data import TensorTable
from fairmt.disparity import Disparity, Yardstick
from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.path import Candidate, judge

DRAWS = 20


def noise_floor(
    problem: Problem, config: Configuration, plain: Candidate, outputs: Tensor
) -> dict[str, float]:
    """Mean gap and shortfall of the reference, its group labels permuted among the test rows.

    Even a model that is alike for all shows as much; what a method closes is to be read above it.

    Parameters
    ----------
    plain, outputs : the reference, and what it gives on the test rows.
    """
    # One epoch, for the encoding alone.
    found = contest(problem, replace(config, method="plain", epochs=1, path_epochs=1))
    test = rows_of(problem, found.learner, ("test",))
    ledger, groups = judges(found.learner), found.learner.schema_.groups
    drawn = permuted(ledger, groups, outputs, test, plain.offsets, config.seed)
    return {
        name: float(np.nanmean([getattr(d, name) for d in drawn])) for name in ("gap", "shortfall")
    }


def permuted(
    ledger: Ledger,
    groups: Groups,
    outputs: Tensor,
    test: TensorTable,
    offsets: Tensor,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Disparity]:
    """Disparities of the same decisions under permuted groups, over the entries that count."""
    rows = groups.membership(test.attributes)[:, 1:].sum(0)
    moments = judge(ledger, groups, outputs, test, offsets)
    counted = Yardstick(ledger, groups, moments, rows).counted
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        order = torch.randperm(len(test), generator=generator)
        shuffled: Any = replace(test, attributes=test.attributes[order])
        own = judge(ledger, groups, outputs, shuffled, offsets)
        yardstick = Yardstick(ledger, groups, own, rows)
        known = ~yardstick.gaps(ledger.rates(own.sums)).isnan()
        found.append(yardstick.measure(own, counted & known))
    return found
