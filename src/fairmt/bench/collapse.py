"""The collapse control: closing gaps by giving everybody the majority's answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairmt.evaluator import PathEvaluator
from fairmt.path import Candidate

SHIFTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def collapse_candidates(
    evaluator: PathEvaluator, plain: Candidate, outputs: Tensor
) -> list[Candidate]:
    """The plain model with all decisions shifted towards the majority, blind to groups.

    Whoever does not beat these has achieved nothing: gaps shrink when everybody is told the same.

    Parameters
    ----------
    outputs : Tensor (N, n_outputs), of the plain model on the evaluator's rows.
    """
    towards = _majority(evaluator)
    return [
        evaluator.measure(
            "path", plain.epoch, shift, plain.weights, outputs, plain.offsets + shift * towards
        )
        for shift in SHIFTS
    ]


def _majority(evaluator: PathEvaluator) -> Tensor:
    """(n_outputs,): +1 for the answer that most rows have, -1 for a label that most lack."""
    layout, table = evaluator.ledger.layout, evaluator.table
    towards = torch.zeros(layout.n_outputs)
    for task in layout.tasks:
        labels: Any = table.labels[:, layout.labels[task.name]]
        span = layout.outputs[task.name]
        if task.kind == "classification":
            seen = labels[~labels[:, 0].isnan(), 0].long()
            counts = torch.bincount(seen, minlength=task.n_outputs)
            towards[span.start + int(counts.argmax())] = 1.0
        elif task.kind == "detection":
            towards[span] = torch.where(labels.nanmean(0) > 0.5, 1.0, -1.0)
    return towards
