"""A contestant at work: from a problem to candidates, without a look at a test label."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairmt.bench.configuration import Configuration
from fairmt.bench.problems import Problem
from fairmt.data import TensorTable
from fairmt.estimator import FairMTLearner
from fairmt.path import Candidate


@dataclass
class Hand:
    """What a contestant hands in.

    Attributes
    ----------
    candidates : chosen from by validation figures, which they carry.
    outputs : Tensor (N, n_outputs) of every candidate on the test rows.
    seconds : of processor time for the whole run, looks at candidates included.
    learner : with schema, ledger and groups, for those who judge.
    """

    candidates: list[Candidate]
    outputs: list[Tensor]
    seconds: float
    learner: FairMTLearner


def contest(problem: Problem, config: Configuration) -> Hand:
    """Train a contestant. Test rows are shown to it with their labels taken away."""
    start = time.process_time()
    learner = FairMTLearner(
        **problem.settings,  # type: ignore[arg-type]
        method=config.method,
        options=dict(config.options),
        seed=config.seed,
        epochs=config.epochs,
        path_epochs=config.path_epochs,
        patience=None,
    )
    own = {part: rows for part, rows in problem.parts.items() if part != "test"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner.fit(problem.bundle.frame, parts=own)
    seconds = time.process_time() - start
    shown = without_labels(test_rows(learner, problem))
    path = learner.path_
    indices = [p.index for p in path.points if p.candidate.segment == "path"] or [path.plain]
    candidates, outputs = [], []
    for i in indices:
        found, rule = learner.outputs_of(i, shown)
        # Weights are not needed any more, and are most of what a candidate weighs.
        candidates.append(replace(path.candidates[i], segment="path", weights={}, offsets=rule))
        outputs.append(found)
    return Hand(candidates, outputs, seconds, learner)


def reference(problem: Problem, config: Configuration) -> tuple[Hand, float]:
    """The plain model that all are measured against, and how much its choice flatters it.

    The better on validation of the plain and the balanced plain model, trained for as many epochs
    as the contestants, each with all its candidates.
    """
    from fairmt.path import Path

    hands = [contest_plain(problem, replace(config, method=m)) for m in ("plain", "balanced")]
    candidates = [c for hand in hands for c in hand.candidates]
    outputs = [o for hand in hands for o in hand.outputs]
    first = hands[0]
    path = Path(
        first.learner.ledger_, first.learner.schema_.groups, candidates, first.learner.path_.rows
    )
    chosen = [candidates[path.plain]], [outputs[path.plain]]
    seconds = sum(hand.seconds for hand in hands)
    return Hand(*chosen, seconds, first.learner), path.optimism


def contest_plain(problem: Problem, config: Configuration) -> Hand:
    """All candidates of the plain continuation."""
    hand = contest(problem, config)
    learner = hand.learner
    shown = without_labels(test_rows(learner, problem))
    candidates, outputs = [], []
    for i, candidate in enumerate(learner.path_.candidates):
        if candidate.segment == "plain":
            found, rule = learner.outputs_of(i, shown)
            candidates.append(replace(candidate, weights={}, offsets=rule))
            outputs.append(found)
    return replace(hand, candidates=candidates, outputs=outputs)


def test_rows(learner: FairMTLearner, problem: Problem) -> TensorTable:
    """The test part, encoded as the learner encodes."""
    encoded: TensorTable = learner.schema_.encode(problem.bundle.frame.iloc[problem.parts["test"]])
    return encoded


def without_labels(table: TensorTable) -> TensorTable:
    """The same rows, every label missing."""
    gone: Any = torch.full_like(table.labels, torch.nan)
    return replace(table, labels=gone)
