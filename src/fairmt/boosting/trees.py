"""Trees as arrays: predicted without the library that grew them, saved without pickle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from fairmt.tasks import Classification, Detection, Layout

SEGMENTS = ("plain", "path")


@dataclass(frozen=True)
class Target:
    """What one ensemble predicts: a class task, or one label of a detection.

    Attributes
    ----------
    outputs : its place among the fused outputs; `label` its column among the labels.
    class_weights : what the task says its classes weigh.
    """

    task: str
    name: str
    outputs: slice
    label: int
    class_weights: tuple[float, ...]

    @property
    def n_classes(self) -> int:
        return len(self.class_weights)


def targets_of(layout: Layout) -> list[Target]:
    """One target per class task and per label."""
    found = []
    for task in layout.tasks:
        outputs, labels = layout.outputs[task.name], layout.labels[task.name]
        if isinstance(task, Classification):
            weights = task.output_weights or (1.0,) * task.n_outputs
            found.append(Target(task.name, task.name, outputs, labels.start, weights))
        elif isinstance(task, Detection):
            positive = task.positive_weights or (1.0,) * task.n_outputs
            for k, label in enumerate(task.outputs):
                own = slice(outputs.start + k, outputs.start + k + 1)
                name = f"{task.name}.{label}"
                weights = (1.0, positive[k])
                found.append(Target(task.name, name, own, labels.start + k, weights))
    return found


class Trees(nn.Module):
    """One ensemble: trees in the order they were grown, each with the weight of its vote.

    Parameters
    ----------
    nodes : Tensor (R, M, 4) int64
        Of R trees with up to M nodes: feature, left child, right child, class. A leaf is its own
        child.
    threshold : Tensor (R, M) float64; rows with ``feature <= threshold`` go left.
    weight : Tensor (R,) float64.
    """

    nodes: Tensor
    threshold: Tensor

    def __init__(self, nodes: Tensor, threshold: Tensor, weight: Tensor, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("nodes", nodes)
        self.register_buffer("threshold", threshold)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._depth = _depth(nodes)

    @staticmethod
    def grown(trees: Sequence[DecisionTreeClassifier], weight: Sequence[float], k: int) -> Trees:
        """The arrays of fitted trees whose classes are numbers below k."""
        width = max(t.tree_.node_count for t in trees)
        nodes = np.zeros((len(trees), width, 4), dtype=np.int64)
        threshold = np.full((len(trees), width), np.inf)
        nodes[:, :, 1:3] = np.arange(width)[:, None]
        for nodes_of, threshold_of, fitted in zip(nodes, threshold, trees, strict=True):
            tree = fitted.tree_
            inner = np.flatnonzero(tree.children_left >= 0)
            nodes_of[inner, 0] = tree.feature[inner]
            nodes_of[inner, 1] = tree.children_left[inner]
            nodes_of[inner, 2] = tree.children_right[inner]
            nodes_of[: tree.node_count, 3] = fitted.classes_[tree.value[:, 0].argmax(1)]
            threshold_of[inner] = tree.threshold[inner]
        weights = torch.tensor(weight, dtype=torch.float64)
        return Trees(torch.from_numpy(nodes), torch.from_numpy(threshold), weights, k)

    def __len__(self) -> int:
        return len(self.weight)

    def votes(self, x: Tensor, rounds: int) -> Tensor:
        """The class (N, rounds) that every tree gives to features (N, D)."""
        feature, left, right, vote = self.nodes[:rounds].flatten(0, 1).unbind(1)
        threshold = self.threshold[:rounds].flatten()
        first = torch.arange(rounds, device=x.device) * self.nodes.shape[1]
        at = first.expand(len(x), rounds)
        for _ in range(self._depth):
            goes_left = x.gather(1, feature[at]) <= threshold[at]
            at = first + torch.where(goes_left, left[at], right[at])
        return vote[at]

    def staged(self, x: Tensor, rounds: int | None = None) -> Iterator[Tensor]:
        """Scores (N, K) after every round: ``Σ α ([vote is k] − [it is not] / (K − 1)) / Σ α``.

        Divided by K − 1 again, so that their softmax is the probability of SAMME (Zhu, Zou,
        Rosset and Hastie 2009, equation 15).
        """
        rounds = len(self) if rounds is None else min(rounds, len(self))
        k, rows = self.n_classes, torch.arange(len(x), device=x.device)
        given = torch.zeros(len(x), k, dtype=torch.float64, device=x.device)
        for weight, vote, total in zip(
            self.weight, self.votes(x, rounds).T, self.weight.cumsum(0), strict=False
        ):
            given[rows, vote] += weight
            yield (k * given / total - 1) / (k - 1) ** 2


def _depth(nodes: Tensor) -> int:
    """Steps from the root to the lowest leaf."""
    level = torch.zeros(nodes.shape[:2], dtype=torch.int64)
    rows = torch.arange(len(nodes))
    for m in range(nodes.shape[1]):
        for child in (nodes[:, m, 1], nodes[:, m, 2]):
            inner = child != m
            level[rows[inner], child[inner]] = level[inner, m] + 1
    return int(level.max())


class BoostedTrees(nn.Module):
    """The ensembles of all targets, plain and fair; `chosen` says which rounds are in force.

    Parameters
    ----------
    ensembles : mapping from segment ('plain' or 'path') to one `Trees` per target.
    """

    chosen: Tensor

    def __init__(self, layout: Layout, ensembles: Mapping[str, Sequence[Trees]]) -> None:
        super().__init__()
        self.layout, self.targets = layout, targets_of(layout)
        self.ensembles = nn.ModuleDict({s: nn.ModuleList(ensembles[s]) for s in SEGMENTS})
        self.register_buffer("chosen", torch.tensor([0, 1]))

    @staticmethod
    def place(segment: str, rounds: int) -> dict[str, Tensor]:
        """The state that puts so many rounds of a segment in force."""
        return {"chosen": torch.tensor([SEGMENTS.index(segment), rounds])}

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = False, assign: bool = False
    ) -> object:
        """Take a state; that of a candidate names its rounds and leaves the trees as they are."""
        return super().load_state_dict(state_dict, strict, assign)

    def rounds(self, segment: str) -> int:
        """Rounds of the longest ensemble; one that ended earlier stays what it was."""
        return max(len(trees) for trees in self.of(segment))

    def of(self, segment: str) -> list[Trees]:
        """The ensembles of a segment, one per target."""
        return list(cast(Iterable[Trees], self.ensembles[segment]))

    def staged(self, segment: str, x: Tensor) -> Iterator[Tensor]:
        """Fused outputs (N, n_outputs) after every round."""
        stages = [trees.staged(x) for trees in self.of(segment)]
        scores = [next(stage) for stage in stages]
        yield self._fused(scores)
        for _ in range(self.rounds(segment) - 1):
            scores = [next(stage, last) for stage, last in zip(stages, scores, strict=True)]
            yield self._fused(scores)

    def forward(self, x: Tensor) -> Tensor:
        """Fused outputs (N, n_outputs) of the rounds in force."""
        segment, rounds = self.chosen.tolist()
        scores = []
        for trees in self.of(SEGMENTS[segment]):
            *_, last = trees.staged(x, rounds)
            scores.append(last)
        return self._fused(scores)

    def _fused(self, scores: Sequence[Tensor]) -> Tensor:
        fused = scores[0].new_empty(len(scores[0]), self.layout.n_outputs)
        for target, own in zip(self.targets, scores, strict=True):
            width = target.outputs.stop - target.outputs.start
            # Of a label only the log-odds count.
            fused[:, target.outputs] = own if width > 1 else own[:, 1:] - own[:, :1]
        return fused
