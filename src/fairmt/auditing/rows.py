"""Rows as an audit reads them: small codes, column by column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairmt.groups import Groups
from fairmt.ledger import truths
from fairmt.measures import Atoms
from fairmt.tasks import Layout, Regression


@dataclass
class Answers:
    """Truth and predictions of one task.

    Attributes
    ----------
    truth : classification: (N,) class codes, -1 where missing; detection: (N, K) 0, 1 or -1;
        regression: (N, K) in the target's units, NaN where missing.
    decision : (N,) class codes; (N, K) 0 or 1; (N, K) in the target's units.
    probability : (N, K) in [0, 1], or None.
    """

    truth: np.ndarray
    decision: np.ndarray
    probability: np.ndarray | None = None


@dataclass
class Rows:
    """A table of predictions.

    Attributes
    ----------
    codes : per attribute (N,) integer codes, -1 where missing.
    answers : by name of the task.
    weights : (N,) or None; clusters : (N,) integer codes of units resampled together, or None.
    """

    layout: Layout
    groups: Groups
    codes: list[np.ndarray]
    answers: dict[str, Answers]
    weights: np.ndarray | None = None
    clusters: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.codes[0])

    @property
    def scored(self) -> list[str]:
        """Tasks with probabilities."""
        return [name for name, a in self.answers.items() if a.probability is not None]

    def atoms(self, take: slice | np.ndarray) -> Atoms:
        """Atoms of some rows, (n, n_outputs) doubles."""
        labels = torch.from_numpy(self.labels(take))
        observed, actual = truths(self.layout, labels)
        n = len(labels)
        predicted = torch.zeros(n, self.layout.n_outputs, dtype=torch.float64)
        probability = torch.zeros_like(predicted)
        for task in self.layout.tasks:
            own, span = self.answers[task.name], self.layout.outputs[task.name]
            decision = torch.from_numpy(np.ascontiguousarray(own.decision[take]))
            if task.kind == "classification":
                decision = torch.nn.functional.one_hot(decision.long(), task.n_outputs)
            decision = decision.double()
            if isinstance(task, Regression):
                decision = task.standardise(decision)
            predicted[:, span] = decision
            if own.probability is not None:
                probability[:, span] = torch.from_numpy(own.probability[take])
            else:
                probability[:, span] = decision
        return Atoms(observed, actual, predicted, probability)

    def labels(self, take: slice | np.ndarray) -> np.ndarray:
        columns = np.empty((len(self.codes[0][take]), self.layout.n_labels))
        for task in self.layout.tasks:
            truth = self.answers[task.name].truth[take].astype(np.float64)
            if task.kind != "regression":
                truth[truth < 0] = np.nan
            columns[:, self.layout.labels[task.name]] = truth.reshape(len(truth), -1)
        return columns


def rows_of_tensors(
    layout: Layout,
    groups: Groups,
    decisions: Tensor,
    p: Tensor | None,
    labels: Tensor,
    codes: Tensor,
    weights: Tensor | None = None,
    clusters: np.ndarray | None = None,
) -> Rows:
    """Rows from fused tensors; regression columns of `decisions` are in standard units."""
    answers = {}
    for task in layout.tasks:
        d = decisions[:, layout.outputs[task.name]].double().numpy()
        y = labels[:, layout.labels[task.name]].double().numpy()
        q = None if p is None else p[:, layout.outputs[task.name]].double().numpy()
        if isinstance(task, Regression):
            answers[task.name] = Answers(y, d * np.array(task.scale) + np.array(task.centre))
            continue
        truth = np.where(np.isnan(y), -1, y).astype(np.int8)
        if task.kind == "classification":
            answers[task.name] = Answers(truth[:, 0], d.argmax(1).astype(np.int8), q)
        else:
            answers[task.name] = Answers(truth, d.astype(np.int8), q)
    return Rows(
        layout,
        groups,
        [codes[:, a].numpy() for a in range(codes.shape[1])],
        answers,
        None if weights is None else weights.double().numpy(),
        None if clusters is None else np.unique(clusters, return_inverse=True)[1],
    )


def check_weights(weights: np.ndarray) -> None:
    """Raise ValueError, naming the row, where a weight is missing, infinite or negative."""
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"The weight of row {row} is {weights[row]:g}; expected a number of 0 or more."
        )
    if not weights.any():
        raise ValueError("All weights are 0; nothing would be counted.")
