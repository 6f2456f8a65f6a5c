"""A contestant at work: from a problem to candidates, without a look at a test label."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairmt.bench.configuration import TOLERANCE, Configuration
from fairmt.bench.problems import Problem
from fairmt.boosting import MMMFair
from fairmt.data import TensorTable
from fairmt.estimator import FairMTLearner
from fairmt.evaluator import PathEvaluator
from fairmt.ledger import Ledger
from fairmt.methods import METHODS
from fairmt.notions import resolve_notions
from fairmt.path import Candidate, Path
from fairmt.tasks import Layout
from fairmt.trainer import Segment

HELD_OUT = ("validation", "calibration")
"""Parts that candidates are chosen on."""


@dataclass
class Hand:
    """What a contestant hands in.

    Attributes
    ----------
    candidates : chosen from by validation figures, which they carry.
    outputs : Tensor (N, n_outputs) of every candidate on the test rows.
    seconds : of processor time for the whole run, looks at candidates included; without the plain
        continuation where there is a path.
    learner : with schema and groups, for those who judge.
    chosen_on : parts that the figures of the candidates are from; those who fit something on
        calibration rows have validation rows alone.
    """

    candidates: list[Candidate]
    outputs: list[Tensor]
    seconds: float
    learner: FairMTLearner
    chosen_on: tuple[str, ...] = HELD_OUT


class Contestant(FairMTLearner):
    """A learner that trains no plain continuation beside its path: the reference replaces it."""

    def _segments(self, *args: Any) -> list[Segment]:
        found = super()._segments(*args)
        return [s for s in found if s.name != "plain"] if found[-1].name == "path" else found


def contest(problem: Problem, config: Configuration) -> Hand:
    """Train a contestant. Test rows are shown to it with their labels taken away."""
    start = time.process_time()
    learner = _learner(problem, config)
    own = {part: rows for part, rows in problem.parts.items() if part != "test"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner.fit(problem.bundle.frame, parts=own)
    seconds = time.process_time() - start
    kind = METHODS[config.method].kind
    fits_calibration_rows = (
        kind == "post-processing"
        or config.postprocessing is not None
        or config.controller == "dual"
    )
    shown = without_labels(rows_of(problem, learner, ("test",)))
    path = learner.path_
    indices = [p.index for p in path.points if p.candidate.segment == "path"] or [path.plain]
    if kind == "estimator":
        figures = _measured_alike(problem, learner, indices, config.seed)
    else:
        figures = [path.candidates[i] for i in indices]
    candidates, outputs = [], []
    for i, candidate in zip(indices, figures, strict=True):
        found, rule = learner.outputs_of(i, shown)
        # Weights are not needed any more, and are most of what a candidate weighs.
        candidates.append(replace(candidate, segment="path", weights={}, offsets=rule))
        outputs.append(found)
    chosen_on = HELD_OUT[:1] if fits_calibration_rows else HELD_OUT
    return Hand(candidates, outputs, seconds, learner, chosen_on)


def _learner(problem: Problem, config: Configuration) -> FairMTLearner:
    """As a user of the method would make it."""
    settings: dict[str, Any] = {**problem.settings, "seed": config.seed}
    if METHODS[config.method].kind == "estimator":
        # Trees know no accelerator.
        del settings["accelerator"]
        return MMMFair(**settings, **dict(config.options))
    if config.controller == "dual":
        settings |= {"controller": "dual", "tolerance": TOLERANCE}
    return Contestant(
        **settings,
        method=config.method,
        postprocessing=config.postprocessing,
        options=dict(config.options),
        epochs=config.epochs,
        path_epochs=config.path_epochs,
        patience=None,
    )


def _measured_alike(
    problem: Problem, learner: FairMTLearner, indices: list[int], seed: int
) -> list[Candidate]:
    """Candidates of an estimator that judges by notions of its own, by those of the benchmark."""
    table = rows_of(problem, learner, HELD_OUT)
    evaluator = PathEvaluator(judges(learner), learner.schema_.groups, table, seed)
    measured = []
    for i in indices:
        outputs, rule = learner.outputs_of(i, table)
        own = learner.path_.candidates[i]
        measured.append(evaluator.measure(own.segment, own.epoch, own.strength, {}, outputs, rule))
    return measured


def judges(learner: FairMTLearner) -> Ledger:
    """What all are judged by, whatever they were trained for."""
    layout = Layout(learner.schema_.tasks)
    return Ledger(layout, resolve_notions(layout.tasks, "default"))


def rows_of(problem: Problem, learner: FairMTLearner, parts: tuple[str, ...]) -> TensorTable:
    """Parts of a problem, encoded as the learner encodes."""
    frame = problem.bundle.frame
    return TensorTable.joined(
        [learner.schema_.encode(frame.iloc[problem.parts[part]]) for part in parts]
    )


@dataclass
class Reference:
    """The plain model that all are measured against.

    Attributes
    ----------
    hand : the one candidate.
    held_out : Tensor, its outputs on the rows of `HELD_OUT`.
    optimism : how much its choice flatters it.
    """

    hand: Hand
    held_out: Tensor
    optimism: float


def reference(problem: Problem, config: Configuration) -> Reference:
    """Train the reference.

    The better on validation of the plain and the balanced plain model, trained for as many epochs
    as the contestants, each with all its candidates.
    """
    hands = [contest_plain(problem, replace(config, method=m)) for m in ("plain", "balanced")]
    candidates = [c for hand in hands for c in hand.candidates]
    outputs = [o for hand in hands for o in hand.outputs]
    first = hands[0]
    path = Path(
        first.learner.ledger_, first.learner.schema_.groups, candidates, first.learner.path_.rows
    )
    seconds = sum(hand.seconds for hand in hands)
    hand = Hand([candidates[path.plain]], [outputs[path.plain]], seconds, first.learner)
    behind = path.plain - len(hands[0].candidates)
    winner, place = (hands[1], behind) if behind >= 0 else (hands[0], path.plain)
    table = rows_of(problem, winner.learner, HELD_OUT)
    held_out, _ = winner.learner.outputs_of(_plain(winner.learner)[place], table)
    return Reference(hand, held_out, path.optimism)


def contest_plain(problem: Problem, config: Configuration) -> Hand:
    """All candidates of the plain continuation."""
    hand = contest(problem, config)
    learner = hand.learner
    shown = without_labels(rows_of(problem, learner, ("test",)))
    candidates, outputs = [], []
    for i in _plain(learner):
        found, rule = learner.outputs_of(i, shown)
        candidates.append(replace(learner.path_.candidates[i], weights={}, offsets=rule))
        outputs.append(found)
    return replace(hand, candidates=candidates, outputs=outputs)


def _plain(learner: FairMTLearner) -> list[int]:
    return [i for i, c in enumerate(learner.path_.candidates) if c.segment == "plain"]


def without_labels(table: TensorTable) -> TensorTable:
    """The same rows, every label missing."""
    gone: Any = torch.full_like(table.labels, torch.nan)
    return replace(table, labels=gone)
