"""Thresholds of their own for every group, so that all groups reach the same rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from fairmt.groups import Groups
from fairmt.methods.postprocessing import PostProcessing, check_strength, known_codes
from fairmt.notions import NotionSpec, resolve_notions
from fairmt.tasks import Classification, Layout, Task
from fairmt.truths import truths

RATES = {
    "equal_opportunity": ("recall",),
    "equalized_odds": ("recall", "false alarm rate"),
    "demographic_parity": ("predicted rate",),
}
MEANS = ("bias_parity", "demographic_parity")
TINY = 1e-12
ROUNDS = 4
"""Passes over outputs and attributes; each shift is the best given all others."""


class GroupThresholds(PostProcessing):
    """``o + Σ_a δ_{a,g}``: one shift per group and output, under one decision rule for all.

    Adding δ to a label's output gives the group a threshold of its own (Hardt, Price and Srebro
    2016, without their randomisation). δ is chosen such that the group's rates come as near as
    possible to those of everybody under the rule in force, in the sum of squares over what the
    task's notion compares:

    - ``equal_opportunity``: recall of the label; of the favourable class, or of every class;
    - ``equalized_odds``: recall and false alarms. One threshold cannot reach two rates, so that
      this is a compromise, as recall of every class is;
    - ``demographic_parity``: how often a label or class is given, over all rows, labelled or not.
      For regression the mean prediction;
    - ``bias_parity``, regression: the mean residual.

    The search over a group's possible thresholds is exact. Shifts of several attributes add up
    and are found in turns, so that the groups of every attribute reach the target, but not their
    intersections: with few people in a class, there would be little to go by. A shift is shrunk by
    n/(n + prior), n the rows that it rests on. A row whose attribute is missing gets no shift for
    it.

    Parameters
    ----------
    notion : str, sequence or mapping
        See `fairmt.notions.resolve_notions`; 'default' is equal opportunity for classes,
        equalized odds for labels and bias parity for regression.
    prior : float
        Rows that shrinkage is worth.
    """

    name: ClassVar[str] = "group_thresholds"
    summary: ClassVar[str] = "thresholds of their own for every group, to reach the same rates"
    claims: ClassVar[tuple[str, ...]] = ("default",)
    limits: ClassVar[str] = (
        "needs the attributes at prediction, and treats people of different groups differently by "
        "name; probabilities are shifted along; several rates at once are a compromise; "
        "intersections are not looked at"
    )
    source: ClassVar[str] = "Hardt, Price and Srebro (NeurIPS 2016)"

    def __init__(self, *, notion: NotionSpec = "default", prior: float = 5.0) -> None:
        if prior < 0:
            raise ValueError(f"prior must be 0 or more rows. Found {prior}.")
        self.notion, self.prior = notion, prior

    def check_settings(self, layout: Layout) -> None:
        notions = resolve_notions(layout.tasks, self.notion)
        if not any(notions.values()):
            raise ValueError(
                f"Notion {self.notion!r} is defined for none of the tasks "
                f"{[(t.name, t.kind) for t in layout.tasks]}; 'default' has one for every kind."
            )

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
        """Find all shifts. Rows without a label serve demographic parity alone.

        Raises
        ------
        ValueError
            For a notion that no shift can serve; the message names those that one can.
        """
        w = self.checked(layout, groups, outputs, labels, attributes, weights)
        notions = resolve_notions(layout.tasks, self.notion)
        sizes = self._sizes = [len(attribute.categories) for attribute in groups.attributes]
        self._shift = torch.zeros(sum(sizes), layout.n_outputs, dtype=torch.float64)
        observed, actual = truths(layout, labels.cpu(), torch.float64)
        o, codes = outputs.cpu().double(), attributes.cpu()
        ruled = o if offsets is None else o + offsets.cpu().double()
        members = [
            (sum(sizes[:a]) + g, (codes[:, a] == g).nonzero()[:, 0])
            for a, size in enumerate(sizes)
            for g in range(size)
        ]
        for task in layout.tasks:
            for notion in notions[task.name]:
                span = layout.outputs[task.name]
                # Everybody counts for parity of decisions; elsewhere, those whose label is known.
                everybody = notion == "demographic_parity"
                mass = w[:, None] * (torch.ones_like(observed) if everybody else observed)[:, span]
                if task.kind == "regression" and notion in MEANS:
                    value = o[:, span] if everybody else (o - actual)[:, span]
                    self._even_means(value, mass, span, codes, members)
                elif task.kind != "regression" and notion in RATES:
                    for choice in choices(task, notion, ruled[:, span], actual[:, span], mass):
                        columns = {c: span.start + k for c, k in choice.moved.items()}
                        self._even_rates(choice, columns, codes, members)
                else:
                    able = MEANS if task.kind == "regression" else tuple(RATES)
                    raise ValueError(
                        f"Method '{self.name}' cannot serve notion '{notion}' of task "
                        f"'{task.name}' by shifting outputs; it can serve {list(able)}."
                    )

    def _even_means(
        self, value: Tensor, mass: Tensor, span: slice, codes: Tensor, members: Members
    ) -> None:
        """Shifts that bring every group's mean of `value` (N, K) to everybody's."""
        target = (mass * value).sum(0) / mass.sum(0).clamp(min=TINY)
        for _ in range(ROUNDS):
            for g, rows in members:
                own = mass[rows]
                rest = value[rows] + self._added(codes[rows])[:, span] - self._shift[g, span]
                mean = (own * rest).sum(0) / own.sum(0).clamp(min=TINY)
                self._shift[g, span] = self._trust(own) * (target - mean)

    def _even_rates(
        self, choice: Choice, columns: Mapping[int, int], codes: Tensor, members: Members
    ) -> None:
        """Shifts that bring every group's rates near everybody's; `columns` are fused outputs."""
        given = one_hot(choice.scores.argmax(1), choice.truth.shape[1]) * choice.mass[:, None]
        target = choice.rates(given.sum(0), (given * choice.truth).sum(0))
        counted = [(g, rows[choice.mass[rows] > 0]) for g, rows in members]
        for _ in range(ROUNDS):
            for c, column in columns.items():
                for g, rows in counted:
                    if not len(rows):
                        continue
                    own = choice.of(rows)
                    added = self._added(codes[rows])
                    added[:, column] -= self._shift[g, column]
                    for k, at in columns.items():
                        own.scores[:, k] += added[:, at]
                    trust = self._trust(own.evidence(c)).min()
                    self._shift[g, column] = trust * own.best_shift(c, target)

    def _trust(self, mass: Tensor) -> Tensor:
        """``n/(n + prior)`` by column, n Kish's effective number of rows."""
        n = mass.sum(0) ** 2 / (mass**2).sum(0).clamp(min=TINY)
        return n / (n + self.prior).clamp(min=TINY)

    def _added(self, codes: Tensor) -> Tensor:
        """The sum of the shifts of every row's groups, (N, n_outputs)."""
        shift = pad(self._shift.to(codes.device), (0, 0, 0, 1))  # the last row: no group
        codes = known_codes(codes, self._sizes)
        first = [sum(self._sizes[:a]) for a in range(len(self._sizes))]
        places = codes + torch.tensor(first, device=codes.device)
        return shift[torch.where(codes >= 0, places, len(shift) - 1)].sum(1)

    def apply(self, outputs: Tensor, attributes: Tensor, strength: float = 1.0) -> Tensor:
        """Shifted outputs.

        Parameters
        ----------
        strength : float in [0, 1], the part of the shifts that is added.
        """
        check_strength(strength)
        if not strength:
            return outputs
        return outputs + (strength * self._added(attributes)).to(outputs.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {"sizes": self._sizes, "shift": self._shift}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sizes, self._shift = list(state["sizes"]), state["shift"].clone()


class Choice(NamedTuple):
    """A decision for one of K, and the rates that a notion compares.

    Attributes
    ----------
    scores : (N, K), the decision rule in force included.
    truth : (N, K), 1 where the class holds.
    mass : (N,), weights, 0 where the row does not count.
    moved : output of the task by class, for the classes that may be shifted.
    judged : classes whose rates are compared.
    measures : which rates.
    """

    scores: Tensor
    truth: Tensor
    mass: Tensor
    moved: Mapping[int, int]
    judged: Sequence[int]
    measures: Sequence[str]

    def of(self, rows: Tensor) -> Choice:
        """The same for some rows, with scores that may be written to."""
        return self._replace(scores=self.scores[rows], truth=self.truth[rows], mass=self.mass[rows])

    def rates(self, given: Tensor, hits: Tensor) -> Tensor:
        """Rates (..., measures · judged) from decisions, and right ones, by class (..., K).

        NaN where nobody could count.
        """
        support, total = self.mass @ self.truth, self.mass.sum()
        parts = {
            "recall": hits / support,
            "false alarm rate": (given - hits) / (total - support),
            "predicted rate": given / total,
        }
        return torch.cat([parts[m][..., list(self.judged)] for m in self.measures], -1)

    def evidence(self, c: int) -> Tensor:
        """Weights of the rows that a shift of class c rests on, (N, 1 or 2)."""
        if "predicted rate" in self.measures:
            return self.mass[:, None]
        inside = self.truth[:, c] * self.mass
        if list(self.judged) == [c] and self.measures == ("recall",):
            return inside[:, None]
        return torch.stack([inside, self.mass - inside], 1)

    def best_shift(self, c: int, target: Tensor) -> Tensor:
        """The shift of class c whose rates are nearest to the target; the smallest of equals.

        All thresholds between two rows are tried.
        """
        scores = self.scores.clone()
        scores[:, c] = -torch.inf
        rival, other = scores.max(1)
        margin, order = (self.scores[:, c] - rival).sort(descending=True)
        w, y = self.mass[order], self.truth[order]
        # Left of the cut rows are given class c, right of it their best other class.
        to_other = one_hot(other[order], y.shape[1]) * w[:, None]
        given, hits = _right_of_cuts(to_other), _right_of_cuts(to_other * y)
        given[:, c] = pad(w.cumsum(0), (1, 0))
        hits[:, c] = pad((w * y[:, c]).cumsum(0), (1, 0))
        distance = ((self.rates(given, hits) - target) ** 2).nan_to_num(0.0).sum(1)
        cuts = torch.cat([margin[:1] + 1, (margin[1:] + margin[:-1]) / 2, margin[-1:] - 1])
        distance[1:-1][margin[1:] == margin[:-1]] = torch.inf
        best = (distance <= distance.min() + 1e-12).nonzero()[:, 0]
        return -cuts[best[cuts[best].abs().argmin()]]


Members = list[tuple[int, Tensor]]
"""Position of every group among all, and its rows."""


def choices(task: Task, notion: str, scores: Tensor, truth: Tensor, mass: Tensor) -> list[Choice]:
    """The decisions of a class task (one) or of a detection task (one a label), from (N, K)."""
    measures = RATES[notion]
    if task.kind == "detection":
        # A label competes with its absence, whose score is 0.
        return [
            Choice(
                pad(scores[:, k, None], (1, 0)),
                torch.stack([1 - truth[:, k], truth[:, k]], 1),
                mass[:, k],
                {1: k},
                (1,),
                measures,
            )
            for k in range(task.n_outputs)
        ]
    judged: Sequence[int] = range(task.n_outputs)
    favourable = task.favourable if isinstance(task, Classification) else None
    if favourable is not None and notion != "equalized_odds":
        judged = (task.outputs.index(favourable),)
    moved = judged if task.n_outputs > 2 else (1,)
    return [Choice(scores, truth, mass[:, 0], {c: c for c in moved}, judged, measures)]


def _right_of_cuts(weights: Tensor) -> Tensor:
    """Sums over the rows from each cut on, (N + 1, K)."""
    return weights.sum(0) - pad(weights.cumsum(0), (0, 0, 1, 0))
