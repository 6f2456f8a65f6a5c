"""Candidates as training goes on: a look at the model on validation rows, and its repairs."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairmt.decisions import recalibrate, tune_offsets
from fairmt.groups import Groups
from fairmt.ledger import Ledger
from fairmt.methods.base import StepMethod
from fairmt.methods.postprocessing import PostProcessing
from fairmt.path import Candidate, Path, judge, predict_outputs
from fairmt.utility import headline_replicates, poisson_weights, relative_change

REPLICATES = 100
REPAIRS = tuple(k / 10 for k in range(1, 11))
"""Strengths at which a post-processing of the plain model gives candidates."""
REPAIRS_OF_PATH = (0.5, 1.0)
"""The same where it follows every candidate of a path."""


class PathEvaluator:
    """Takes a candidate at every look, and moves the decision rule that training uses.

    Parameters
    ----------
    ledger : Ledger
        What is judged; may be wider than what is constrained.
    table : TensorTable
        Validation rows.
    calibration : TensorTable, optional
        Rows to recalibrate every candidate's probabilities on.
    """

    def __init__(
        self, ledger: Ledger, groups: Groups, table: Any, seed: int = 0, calibration: Any = None
    ) -> None:
        self.ledger, self.groups, self.table = ledger, groups, table
        self.calibration = calibration
        units = None
        if table.units is not None:
            units = torch.from_numpy(np.unique(table.units, return_inverse=True)[1])
        draws = poisson_weights(len(table), REPLICATES, seed, units)
        weights = torch.cat([torch.ones(1, len(table)), draws])
        self._weights = weights if table.weights is None else weights * table.weights
        self.candidates: list[Candidate] = []

    def evaluate(self, segment: str, epoch: float, method: StepMethod) -> dict[str, float]:
        layout, model = method.layout, method.model
        outputs = predict_outputs(model, self.table.features)
        offsets = tune_offsets(layout, outputs, self.table.labels, self.table.weights)
        method.set_offsets(offsets)
        state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        strength = float(method.strength or 0.0)
        candidate = self.measure(segment, epoch, strength, state, outputs, offsets)
        if self.calibration is not None:
            rows = self.calibration
            candidate.recalibration = recalibrate(
                layout, predict_outputs(model, rows.features), rows.labels, rows.weights
            )
        self.candidates.append(candidate)
        first = self.candidates[0].utilities[0]
        change = relative_change(layout, candidate.utilities[0], first)
        return {"score": float(change[~change.isnan()].mean())}

    def repair(
        self, after: PostProcessing, model: torch.nn.Module, calibration: Any
    ) -> list[PostProcessing]:
        """Let a post-processing, fitted on calibration rows, follow the candidates.

        Every candidate of the path is joined by repaired ones, by a fit of its own. Where there
        is no path, the plain model is, at more strengths. The decision rule stays that of the
        candidate.

        Returns
        -------
        The fitted post-processings, which candidates name by their position.
        """
        followed = [c for c in self.candidates if c.segment == "path"]
        path = bool(followed)
        strengths: tuple[float, ...] = REPAIRS_OF_PATH if path else REPAIRS
        if not path:
            plain = Path(self.ledger, self.groups, self.candidates, self._rows()).plain
            followed = [self.candidates[plain]]
        fitted: list[PostProcessing] = []
        for candidate in followed:
            own = deepcopy(after)
            model.load_state_dict(candidate.weights)
            rescaled, rule = candidate.recalibration, candidate.offsets
            on_calibration = predict_outputs(model, calibration.features)
            before = predict_outputs(model, self.table.features)
            if rescaled is not None:
                rule = rescaled.carry(rule)
                on_calibration, before = rescaled.apply(on_calibration), rescaled.apply(before)
            own.fit(
                self.ledger.layout,
                self.groups,
                on_calibration,
                calibration.labels,
                calibration.attributes,
                calibration.weights,
                rule,
            )
            for strength in strengths:
                found = self.measure(
                    "path",
                    candidate.epoch,
                    candidate.strength if path else strength,
                    candidate.weights,
                    own.apply(before, self.table.attributes, strength),
                    rule,
                )
                self.candidates.append(
                    replace(
                        found,
                        offsets=candidate.offsets,
                        recalibration=rescaled,
                        repair=strength,
                        fitted=len(fitted),
                    )
                )
            fitted.append(own)
        return fitted

    def _rows(self) -> Tensor:
        """Rows of every group, (G,)."""
        return self.groups.membership(self.table.attributes)[:, 1:].sum(0)

    def measure(
        self,
        segment: str,
        epoch: float,
        strength: float,
        state: dict[str, Tensor],
        outputs: Tensor,
        offsets: Tensor,
    ) -> Candidate:
        """A candidate from a model's outputs on the evaluator's rows, under a decision rule."""
        return Candidate(
            segment,
            epoch,
            strength,
            state,
            offsets,
            headline_replicates(
                self.ledger.layout, outputs, self.table.labels, offsets, self._weights
            ),
            judge(self.ledger, self.groups, outputs, self.table, offsets),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"candidates": [c.state_dict() for c in self.candidates]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.candidates = [Candidate.from_state(c) for c in state["candidates"]]
