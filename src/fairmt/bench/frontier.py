"""A method as a frontier: candidates chosen on validation, measured on test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairmt.bench.hypervolume import hypervolume, non_dominated
from fairmt.disparity import Yardstick
from fairmt.ledger import atoms_of
from fairmt.moments import Moments
from fairmt.path import Path
from fairmt.utility import headline_replicates, poisson_weights

UTILITY_SPAN = 0.10
"""Relative loss of utility at which a model is worth nothing: x = Δm / 10 % + 1."""


def closed(now: float, plain: float) -> float:
    """The closed share of a disparity; none where there was none to close."""
    return 1.0 - now / plain if plain > 0 else 0.0


@dataclass(frozen=True)
class Place:
    """Where a candidate stands on test rows, under one weighting of them.

    Attributes
    ----------
    delta_m : relative change of utility against the plain model, mean over tasks.
    change : of every task.
    gap, shortfall, worst, best, level_down, largest_gap : see `fairmt.disparity.Disparity`.
    residual_range : mean over regression targets and attributes of the between-group range of the
        mean residual, in standard deviations of the target; NaN without regression.
    """

    delta_m: float
    change: tuple[float, ...]
    gap: float
    largest_gap: float
    shortfall: float
    worst: float
    best: float
    level_down: float
    residual_range: float

    def volume_point(self, plain: Place) -> tuple[float, float, float]:
        """In the unit cube of (utility, shortfall closed, gap closed)."""
        return (
            self.delta_m / UTILITY_SPAN + 1.0,
            closed(self.shortfall, plain.shortfall),
            closed(self.gap, plain.gap),
        )


class Frontier:
    """Test figures of the candidates of one path.

    Parameters
    ----------
    path : Path
        Holds the plain reference and the candidates, with their validation figures.
    outputs : sequence of Tensor (N, n_outputs)
        What every candidate of the path gives on the test rows.
    table : TensorTable
        Test rows; read here, and by no choice.
    replicates : int
        Bootstrap weightings of the rows, drawn by unit (household, patient).
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[Tensor],
        table: Any,
        replicates: int = 100,
        seed: int = 0,
    ) -> None:
        self.path, self.table = path, table
        self._member = path.groups.membership(table.attributes, torch.float64)
        self._weights = _draws(table, replicates, seed)
        self._outputs = outputs
        self.rows = self._member[:, 1:].sum(0)
        sums, self._plain_utilities, moments = self._measure(path.plain)
        yardstick = Yardstick(path.ledger, path.groups, moments, self.rows)
        self.counted = yardstick.counted
        self._yardsticks = [yardstick] + [
            yardstick.reweighted(path.ledger.rates(s)) for s in sums[1:]
        ]
        self._residual = torch.tensor(
            [s.measure == "mean residual" for s in path.ledger.statistics]
        )
        self.plain = self._places(sums, self._plain_utilities)
        self.indices = [p.index for p in path.points if p.candidate.segment == "path"]
        self.places = {i: self._places(*self._measure(i)[:2]) for i in self.indices}
        self.places[path.plain] = self.plain

    def volumes(self, axes: Sequence[int] = (0, 1, 2)) -> np.ndarray:
        """Hypervolume under every weighting, (1 + R,): the set is chosen on validation.

        `axes` picks among utility, shortfall closed and gap closed.
        """
        chosen = self._validation_set()
        return np.array(
            [
                hypervolume(
                    np.array(
                        [_finite(self.places[i][r].volume_point(self.plain[r])) for i in chosen]
                    )[:, list(axes)]
                )
                for r in range(len(self.plain))
            ]
        )

    def chosen(self, **wish: float) -> tuple[int, list[Place]]:
        """The candidate that a wish picks on validation, and its places on test rows."""
        index = self.path.choose(**wish).point.index
        return index, self.places[index]

    def _validation_set(self) -> list[int]:
        """The plain model, and the candidates that none beats on validation."""
        plain = self.path.points[self.path.plain]
        indices = [self.path.plain, *self.indices]
        cube = np.array(
            [
                _finite(
                    (
                        p.delta_m / UTILITY_SPAN + 1.0,
                        closed(p.disparity.shortfall, plain.disparity.shortfall),
                        closed(p.disparity.gap, plain.disparity.gap),
                    )
                )
                for p in (self.path.points[i] for i in indices)
            ]
        )
        return [i for i, keep in zip(indices, non_dominated(cube), strict=True) if keep]

    def _measure(self, index: int) -> tuple[Tensor, Tensor, Moments]:
        """Sums (1 + R, 1 + G, P) and utilities (1 + R, T) of a candidate, under every weighting."""
        ledger, layout = self.path.ledger, self.path.ledger.layout
        outputs, offsets = self._outputs[index], self.path.candidates[index].offsets
        atoms = atoms_of(ledger, outputs.double(), self.table.labels.double(), offsets.double())
        columns = ledger.columns(atoms)
        moments = ledger.moments(self._member, atoms, self.table.weights)
        sums = torch.stack(
            [self._member.T @ (w[:, None] * columns) for w in self._weights.double()]
        )
        utilities = headline_replicates(layout, outputs, self.table.labels, offsets, self._weights)
        return sums, utilities, moments

    def _places(self, sums: Tensor, utilities: Tensor) -> list[Place]:
        change = (utilities - self._plain_utilities) / self._plain_utilities.abs()
        places = []
        for r, yardstick in enumerate(self._yardsticks):
            found = yardstick.measure(Moments(sums[r], sums[r], sums[r]))
            gaps = yardstick.gaps(self.path.ledger.rates(sums[r]))[:, self._residual]
            places.append(
                Place(
                    float(torch.nanmean(change[r])),
                    tuple(change[r].tolist()),
                    found.gap,
                    found.largest_gap,
                    found.shortfall,
                    found.worst,
                    found.best,
                    found.level_down,
                    float(gaps.nanmean()),
                )
            )
        return places


def level_down_at(gap: float, places: Sequence[Place]) -> float:
    """Level-down index of a path where it reaches a mean gap, by interpolation; NaN outside it."""
    ordered = sorted(places, key=lambda p: p.gap)
    gaps = [p.gap for p in ordered]
    if not gaps[0] <= gap <= gaps[-1]:
        return float("nan")
    return float(np.interp(gap, gaps, [p.level_down for p in ordered]))


def _draws(table: Any, replicates: int, seed: int) -> Tensor:
    units = None
    if table.units is not None:
        units = torch.from_numpy(np.unique(table.units, return_inverse=True)[1])
    draws = poisson_weights(len(table), replicates, seed, units)
    weights = torch.cat([torch.ones(1, len(table)), draws])
    return weights if table.weights is None else weights * table.weights


def _finite(point: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(x if np.isfinite(x) else 0.0 for x in point)
