"""Wasserstein barycentres: every group's scores are moved to the same distribution."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from fairmt.groups import Groups
from fairmt.methods.postprocessing import PostProcessing, check_strength, known_codes
from fairmt.tasks import Layout

TINY = 1e-12
"""Least probability, and least doubt, so that logarithms are finite."""


class Barycentre(PostProcessing):
    """``f*(x) = Σ_c π_c Q_c(F_{c(x)}(f(x)))``: quantile maps to the barycentre of the groups.

    F and Q are distribution and quantile functions of the scores in a cell of people, π the
    cells' shares. Of all predictors whose scores have one distribution in every cell, this one
    moves the scores least (squared; Chzhen et al. 2020, Le Gouic et al. 2020), output by output
    (Hu, Ratz and Charpentier 2023). Scores are values for regression, and probabilities for labels
    and classes. Ranks inside a cell are kept, and so is the mean over everybody.

    Classes: the score of each class is repaired by itself, then a row's scores are made to sum to
    1. With two classes they do so already, and the guarantee is the same. With more, the
    distribution of each *unnormalised* class score is the same in every cell; the decision
    compares several of them, and dividing by their sum is a step outside the guarantee, so that
    parity of decisions is close and not exact.

    Cells are the combinations of all attributes that calibration rows show, because parity in
    these is parity in every attribute and in every intersection, which repairing one attribute
    after the other does not reach where attributes go together. Small cells are shrunk: with n
    rows, a cell's quantile function weighs n against `prior` for what its attributes say one by
    one, whose effects add up (and are themselves shrunk towards no effect). A row with missing
    attributes, or of an unseen cell, gets the effects of the attributes it has; without any, it
    is treated as one of everybody.

    Parameters
    ----------
    prior : float
        Rows that shrinkage is worth.
    levels : int
        Points at which quantile functions are kept; the error in a rate is at most 1/levels.
    """

    name: ClassVar[str] = "barycentre"
    summary: ClassVar[str] = "every group's scores moved to their Wasserstein barycentre"
    claims: ClassVar[tuple[str, ...]] = ("demographic_parity", "distribution_parity")
    label_free: ClassVar[bool] = True
    limits: ClassVar[str] = (
        "needs the attributes at prediction; parity of scores, whatever the truth; with three or "
        "more classes parity of decisions is close, not exact; ties are moved together"
    )
    source: ClassVar[str] = "Hu, Ratz and Charpentier (ECML PKDD 2023), arXiv 2306.10155"

    def __init__(self, *, prior: float = 20.0, levels: int = 512) -> None:
        if prior < 0:
            raise ValueError(f"prior must be 0 or more rows. Found {prior}.")
        if levels < 2:
            raise ValueError(f"levels must be at least 2. Found {levels}.")
        self.prior, self.levels = prior, levels

    # -- fitting ----------------------------------------------------------------------------

    def fit(
        self,
        layout: Layout,
        groups: Groups,
        outputs: Tensor,
        labels: Tensor,
        attributes: Tensor,
        weights: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> None:
        """Quantile functions of all cells, and their barycentre; labels and offsets are unused."""
        w = self.checked(layout, groups, outputs, labels, attributes, weights)
        self._labels = torch.tensor(
            [
                k
                for t in layout.tasks
                if t.kind == "detection"
                for k in range(layout.outputs[t.name].start, layout.outputs[t.name].stop)
            ],
            dtype=torch.int64,
        )
        self._classes = [
            [layout.outputs[t.name].start, layout.outputs[t.name].stop]
            for t in layout.tasks
            if t.kind == "classification"
        ]
        # A row of weight 0 would still bend the functions between its neighbours.
        seen = w > 0
        scores, attributes, w = outputs.cpu()[seen].double(), attributes.cpu()[seen], w[seen]
        self._to_scores(scores)
        self._sizes = [len(a.categories) for a in groups.attributes]
        self._pooled = quantiles(scores, w, self.levels)
        effects = []
        for a, size in enumerate(self._sizes):
            for g in range(size):
                rows = attributes[:, a] == g
                own, share = self._shrunk(scores[rows], w[rows])
                effects.append(share * (own - self._pooled))
        self._effects = torch.stack(effects)
        self._cells = torch.unique(attributes[(attributes >= 0).all(1)], dim=0)
        functions = []
        for cell in self._cells:
            rows = (attributes == cell).all(1)
            own, share = self._shrunk(scores[rows], w[rows])
            functions.append(share * own + (1 - share) * self._additive(cell))
        self._functions = torch.stack(functions) if functions else self._effects[:0]
        self._target = torch.zeros_like(self._pooled)
        for rows, function in self._by_cell(attributes):
            self._target += w[rows].sum() / w.sum() * function

    def _shrunk(self, scores: Tensor, w: Tensor) -> tuple[Tensor, float]:
        """A cell's own quantile functions, and how much they are to be believed."""
        mass = float(w.sum())
        if mass <= 0:
            return self._pooled, 0.0
        n = mass**2 / float((w**2).sum())
        return quantiles(scores, w, self.levels), n / (n + self.prior)

    def _additive(self, cell: Tensor) -> Tensor:
        """Quantile functions from the known attributes one by one, made to rise."""
        function, first = self._pooled.clone(), 0
        for size, code in zip(self._sizes, cell.tolist(), strict=True):
            if code >= 0:
                function += self._effects[first + code]
            first += size
        return function.cummax(1).values

    # -- applying ---------------------------------------------------------------------------

    def apply(self, outputs: Tensor, attributes: Tensor, strength: float = 1.0) -> Tensor:
        """Repaired outputs: scores move along a straight line from their own to the barycentre's.

        Parameters
        ----------
        strength : float in [0, 1]; in between, group distributions differ by the rest.
        """
        check_strength(strength)
        if not strength:
            return outputs
        repaired = outputs.to(torch.float64, copy=True)
        level = self._to_scores(repaired)
        for rows, function in self._by_cell(known_codes(attributes, self._sizes)):
            own = repaired[rows]
            moved = transport(own, function.to(own), self._target.to(own))
            repaired[rows] = own + strength * (moved - own)
        return self._to_outputs(repaired, level).to(outputs.dtype)

    def _to_scores(self, outputs: Tensor) -> list[Tensor]:
        """In place; returns the level of every class task's logits, which probabilities forget."""
        labels = self._labels.to(outputs.device)
        outputs[:, labels] = torch.sigmoid(outputs[:, labels])
        levels = []
        for start, stop in self._classes:
            levels.append(outputs[:, start:stop].logsumexp(1, keepdim=True))
            outputs[:, start:stop] = (outputs[:, start:stop] - levels[-1]).exp()
        return levels

    def _to_outputs(self, scores: Tensor, levels: list[Tensor]) -> Tensor:
        labels = self._labels.to(scores.device)
        scores[:, labels] = torch.logit(scores[:, labels], TINY)
        for (start, stop), level in zip(self._classes, levels, strict=True):
            p = scores[:, start:stop].clamp(TINY, 1 - TINY)
            scores[:, start:stop] = p.log() - p.sum(1, keepdim=True).log() + level
        return scores

    def _by_cell(self, attributes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Positions of the rows of every cell, and the cell's quantile functions."""
        found, index = torch.unique(attributes, dim=0, return_inverse=True)
        order = index.argsort(stable=True)
        ends = pad(torch.bincount(index, minlength=len(found)).cumsum(0), (1, 0)).tolist()
        parts = []
        for cell, (start, stop) in zip(found.cpu(), pairwise(ends), strict=True):
            same = (self._cells == cell).all(1).nonzero()
            function = self._functions[same[0, 0]] if len(same) else self._additive(cell)
            parts.append((order[start:stop], function))
        return parts

    # -- memory -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "labels": self._labels,
            "classes": self._classes,
            "sizes": self._sizes,
            "pooled": self._pooled,
            "effects": self._effects,
            "cells": self._cells,
            "functions": self._functions,
            "target": self._target,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, f"_{name}", value)


def quantiles(scores: Tensor, weights: Tensor, levels: int) -> Tensor:
    """Quantile functions of scores (N, K) at the middles of `levels` equal steps, (K, levels).

    Linear between the scores, each standing at the middle of its own mass.
    """
    values, order = scores.T.sort(1)
    w = weights[order]
    mass = w.cumsum(1)
    at = (mass - w / 2) / mass[:, -1:]
    wanted = (torch.arange(levels, dtype=at.dtype, device=at.device) + 0.5) / levels
    wanted = wanted.expand(len(at), -1).contiguous()
    right = torch.searchsorted(at, wanted).clamp(1, max(at.shape[1] - 1, 1))
    if at.shape[1] == 1:
        return values.expand(-1, levels).clone()
    x0, x1 = at.gather(1, right - 1), at.gather(1, right)
    y0, y1 = values.gather(1, right - 1), values.gather(1, right)
    share = ((wanted - x0) / (x1 - x0).clamp(min=1e-300)).clamp(0, 1)
    return y0 + share * (y1 - y0)


def transport(x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """``Q_target(F_source(x))`` for x (N, K), quantile functions (K, levels).

    Equal values of the source stand at the middle of their run. Beyond the source's ends the map
    goes on with the shift that it has there, so that it rises everywhere.
    """
    source, target, x = source.contiguous(), target.contiguous(), x.T.contiguous()
    n = source.shape[1]
    left = torch.searchsorted(source, x)
    right = torch.searchsorted(source, x, right=True)
    below = (left - 1).clamp(0, n - 1)
    low, high = source.gather(1, below), source.gather(1, left.clamp(max=n - 1))
    between = below + ((x - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    place = torch.where(right > left, (left + right - 1) / 2, between)
    place = place.clamp(0, n - 1)
    base = place.floor().long().clamp(max=n - 2)
    start, stop = target.gather(1, base), target.gather(1, base + 1)
    moved = start + (place - base) * (stop - start)
    beyond = (x - source[:, -1:]).clamp(min=0) + (x - source[:, :1]).clamp(max=0)
    return (moved + beyond).T
