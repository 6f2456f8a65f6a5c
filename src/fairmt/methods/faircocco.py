"""FairCOCCO: a normalised kernel measure of dependence as a penalty, for attributes of any type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.constants import Constant
from fairmt.dependence import RIDGE, Sums, Variable, dependence, median_distance, sums_of
from fairmt.distributed import all_sum, joint
from fairmt.groups import Groups
from fairmt.ledger import probabilities
from fairmt.methods.base import Batch, StepMethod
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task
from fairmt.truths import truths

NOTIONS = ("demographic_parity", "equalized_odds")
MOST_CELLS = 512
_PROBABILITY = 0.5
"""Bandwidth of probabilities: the largest spread that a yes or no can have. That of regression
outputs is 1, the spread of the target. Neither follows the outputs, whose scale would be free."""


class FairCOCCO(StepMethod):
    """``Σ_t w_t L_t + λ Σ_t w_t score(Ŷ_t, A)``, all attributes together in one score.

    The score (`fairmt.dependence`) is 0 where the features of outputs and attributes are
    uncorrelated, and at most 1, so that one λ suits tasks and attributes of every kind. A is the
    vector of all attributes: a cell for every combination of the categorical ones, waves in the
    vector of the continuous ones. A task's score is the mean over its classes' or labels'
    probabilities, or its targets' values.

    After Liu, Chan, van Breugel and van der Schaar (2022). Ours: explicit features instead of Gram
    matrices, so that a step costs a multiple of the batch instead of its cube; covariances with a
    decaying memory, because the score of a small batch is biased upwards; several tasks.

    Parameters
    ----------
    strength : float
        λ. Scores of plain models mostly lie between .01 and .3.
    notion : 'demographic_parity' or 'equalized_odds'
        Independence of outputs and attributes, or the same given the label, over labelled rows
        (a class against the others).
    continuous : sequence of str, optional
        Attributes that are used as numbers, from the batch's ``values``. Default: those that the
        training rows have as numbers. The others are used by their groups.
    features : int
        Features of a number; see `fairmt.dependence.Variable.features`.
    ridge : float
        ε. A larger one looks at coarse dependence alone.
    evidence_target, max_decay : float
        Rows that covariances shall stand on, at most those there are, and the longest memory; 0
        switches it off.
    """

    name: ClassVar[str] = "faircocco"
    summary: ClassVar[str] = "kernel dependence on all attributes at once, numbers among them"
    attributes: ClassVar[str] = "categorical and continuous"
    claims: ClassVar[tuple[str, ...]] = ("demographic_parity",)
    label_free: ClassVar[bool] = True
    source: ClassVar[str] = "Liu, Chan, van Breugel and van der Schaar (arXiv 2211.06138)"
    limits: ClassVar[str] = (
        "symmetric: holds the best-served back as readily as it lifts the worst-served; rows count "
        "only where every attribute is known; the score is of all groups together; equalized odds "
        "needs labels, and does not reach zero where these are numbers"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        notion: str = "demographic_parity",
        continuous: Sequence[str] | None = None,
        features: int = 8,
        ridge: float = RIDGE,
        evidence_target: float = 8192.0,
        max_decay: float = 0.99,
    ) -> None:
        if notion not in NOTIONS:
            raise ValueError(f"notion must be one of {list(NOTIONS)}. Found {notion!r}.")
        for name, value in (("ridge", ridge), ("features", features)):
            if not value > 0:
                raise ValueError(f"{name} must be positive. Found {value}.")
        if not 0 <= max_decay < 1:
            raise ValueError(f"max_decay must lie in [0, 1). Found {max_decay}.")
        self.strength, self.notion, self.continuous = strength, notion, continuous
        self.features, self.ridge = features, ridge
        self._memory_settings = (evidence_target, max_decay)
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._find_attributes(getattr(data, "values", None))
        owner = self.layout.task_of_output()
        numbers = torch.tensor([self.layout.tasks[t].kind == "regression" for t in owner.tolist()])
        self._weights = Constant(self._task_weights.double()[owner] / owner.bincount()[owner])
        self._spread = Constant(torch.where(numbers, 1.0, _PROBABILITY))
        # Outputs whose sums have one shape: all, or those whose labels are categories or numbers.
        masks = [~numbers, numbers] if self._conditional else [torch.ones_like(numbers)]
        self._parts = [m.nonzero()[:, 0] for m in masks if m.any()]
        target, max_decay = self._memory_settings
        if data is not None:
            # More would count the same people several times, as the model saw them long ago.
            target = min(target, float(len(data)))
        self._memories = [_Memory(target, max_decay) for _ in self._parts]

    @property
    def _conditional(self) -> bool:
        return self.notion == "equalized_odds"

    def _find_attributes(self, values: Tensor | None) -> None:
        """Which attributes are numbers, their bandwidth, and the sizes of the others."""
        attributes = self.groups.attributes
        names = [a.name for a in attributes]
        chosen = self.continuous
        if chosen is None:
            seen = [] if values is None else (~values.isnan()).any(0).nonzero()[:, 0].tolist()
            chosen = [names[i] for i in seen]
        unknown = [n for n in chosen if n not in names]
        if unknown:
            raise ValueError(
                f"continuous names {unknown}, which are no sensitive attributes; they are {names}."
            )
        self._numbers = [names.index(n) for n in chosen]
        self._codes = [i for i in range(len(names)) if i not in self._numbers]
        self._sizes = [len(attributes[i].categories) for i in self._codes]
        if math.prod(self._sizes) > MOST_CELLS:
            raise ValueError(
                f"The attributes {[names[i] for i in self._codes]} have {math.prod(self._sizes)} "
                f"combinations; method '{self.name}' takes at most {MOST_CELLS}. Pool categories, "
                "leave an attribute out, or use a numeric one as a number (continuous=)."
            )
        # Without rows to look at: about the median distance of standard normal vectors.
        self._bandwidth = max(1, len(self._numbers)) ** 0.5
        if values is not None and self._numbers:
            own = values[:, self._numbers]
            self._bandwidth = median_distance(own[~own.isnan().any(1)])

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        with torch.autocast(outputs.device.type, enabled=False):
            attributes, known = self._attributes(batch, outputs.dtype)
            soft = probabilities(self.layout, outputs)
            predicted = (soft / self._spread.like(soft)).unsqueeze(2)
            if self._conditional:
                observed, actual = truths(self.layout, batch.labels, outputs.dtype)
            scores = outputs.new_zeros(self.layout.n_outputs)
            for columns, memory in zip(self._parts, self._memories, strict=True):
                rows, given = known, None
                if self._conditional:
                    rows = known * observed[:, columns]
                    given = self._labels(actual[:, columns], int(columns[0]))
                weights = rows if batch.weights is None else rows * batch.weights[:, None].to(rows)
                y = Variable(numbers=predicted[:, columns])
                sums = self._sums(attributes, y, given, weights)
                found = dependence(memory.update(sums, all_sum(rows.sum(0))), self.ridge)
                scores = scores.index_add(0, columns.to(scores.device), found.score)
            return scores @ self._weights.like(scores)

    def _attributes(self, batch: Batch, dtype: torch.dtype) -> tuple[Variable, Tensor]:
        """All attributes as one variable (B, 1), and 1 where every one is known, (B, 1)."""
        known = torch.ones(len(batch.attributes), dtype=torch.bool, device=batch.attributes.device)
        found = Variable()
        for i, size in zip(self._codes, self._sizes, strict=True):
            codes = batch.attributes[:, i]
            known &= codes >= 0
            found = found.join(Variable(codes.clamp(min=0).unsqueeze(1), size))
        if self._numbers:
            if batch.values is None:
                names = [self.groups.attributes[i].name for i in self._numbers]
                raise ValueError(
                    f"The batch lacks 'values', and {names} are used as numbers; give (B, A), NaN "
                    "where an attribute is missing or is not one."
                )
            values = batch.values[:, self._numbers].to(dtype)
            known &= ~values.isnan().any(1)
            numbers = torch.nan_to_num(values).unsqueeze(1) / self._bandwidth
            found = found.join(Variable(numbers=numbers))
        return found, known.to(dtype).unsqueeze(1)

    def _labels(self, actual: Tensor, first: int) -> Variable:
        """Labels (B, U) of one part, as what the dependence is given."""
        if self._spread.value[first] == 1.0:
            return Variable(numbers=actual.unsqueeze(2))
        return Variable(actual.long(), 2)

    def _sums(self, a: Variable, y: Variable, given: Variable | None, weights: Tensor) -> Sums:
        """Sums over all processes' rows, one set an output."""
        z = None
        if given is not None:
            a, y = a.join(given), y.join(given)
            z = given.features(weights.dtype, self.features)
        fa, fy = (v.features(weights.dtype, self.features) for v in (a, y))
        return tuple(joint(s) for s in sums_of(fa, fy, weights, z))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "bandwidth": self._bandwidth,
            "memories": [m.state_dict() for m in self._memories],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._bandwidth = state["bandwidth"]
        for memory, saved in zip(self._memories, state["memories"], strict=True):
            memory.load_state_dict(saved)


class _Memory:
    """Exponentially decayed sums; the gradient flows through the current batch alone.

    The decay β is the smallest with ``rows per batch · (1 + β) / (1 - β) >= target``, and the
    gradient is multiplied by ``Σ β^s``: it has the size it would have without memory, as in
    `fairmt.history`.
    """

    def __init__(self, target: float, max_decay: float) -> None:
        self.target, self.max_decay = target, max_decay
        self._sums: Sums = ()
        self._length = torch.zeros(())

    def update(self, batch: Sums, rows: Tensor) -> Sums:
        """Add a batch's sums (U or 1, ...) that stand on so many rows, (U or 1,)."""
        beta = ((self.target - rows) / (self.target + rows)).clamp(0.0, self.max_decay)
        beta = beta[:, None, None]
        old = self._sums or tuple(torch.zeros_like(s) for s in batch)
        self._length = beta * self._length.to(beta) + 1
        self._sums = tuple(s.detach() + beta * o for s, o in zip(batch, old, strict=True))
        return tuple(
            kept + self._length * (s - s.detach()) if s.requires_grad else kept
            for s, kept in zip(batch, self._sums, strict=True)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"length": self._length.clone(), "sums": [s.clone() for s in self._sums]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._length = state["length"].clone()
        self._sums = tuple(s.clone() for s in state["sums"])
