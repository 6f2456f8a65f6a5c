"""Tasks and notions compiled: moment columns from a batch, and rates from their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairmt.moments import Moments
from fairmt.notions import COMPLEMENTARY, MEASURES, NOTIONS, Atoms, Measure
from fairmt.tasks import Classification, Layout, Task


@dataclass(frozen=True)
class Statistic:
    """One rate of one task, compared between groups."""

    task: str
    output: str | None
    measure: str

    @property
    def name(self) -> str:
        """As reports call it: 'recall of employed', 'accuracy'."""
        return self.measure if self.output is None else f"{self.measure} of {self.output}"

    @property
    def orientation(self) -> int:
        return MEASURES[self.measure].orientation


@dataclass(frozen=True)
class _Block:
    """A measure and the outputs it judges: a slice of the moment columns and of the statistics."""

    measure: Measure
    outputs: Tensor
    owner: Tensor | None  # for per-task measures: position of each output's statistic
    columns: slice
    statistics: slice
    orientation: int
    span: slice | None  # the outputs as a slice, where they are contiguous


class Ledger:
    """Tasks and notions compiled into moment columns, and sums back into rates.

    Parameters
    ----------
    layout : Layout
    notions : mapping from task name to notion names, see `resolve_notions`.

    Attributes
    ----------
    statistics : tuple of Statistic, length J
    orientation : Tensor (J,) of +1, 0, -1
    task_index : Tensor (J,), the position of each statistic's task
    statistic_of_column : Tensor (P,), the statistic that each moment column serves
    """

    def __init__(self, layout: Layout, notions: Mapping[str, Sequence[str]]) -> None:
        self.layout = layout
        self.notions = {name: tuple(names) for name, names in notions.items()}
        chosen: dict[tuple[str, int], list[tuple[Task, int]]] = {}
        for task in layout.tasks:
            for notion in self.notions.get(task.name, ()):
                for measure in NOTIONS[notion].measures[task.kind]:
                    for k in _outputs_of(task, notion, measure):
                        favoured = (
                            measure == "predicted rate"
                            and isinstance(task, Classification)
                            and task.favourable is not None
                        )
                        orientation = 1 if favoured else MEASURES[measure].orientation
                        entries = chosen.setdefault((measure, orientation), [])
                        if (task, k) not in entries:
                            entries.append((task, k))
        self._blocks: list[_Block] = []
        statistics: list[Statistic] = []
        width = 0
        for (name, orientation), entries in chosen.items():
            rate = MEASURES[name]
            entries.sort(key=lambda e: layout.outputs[e[0].name].start + e[1])
            index = torch.tensor([layout.outputs[t.name].start + k for t, k in entries])
            start = len(statistics)
            owner = None
            if rate.per_task:
                owners = list(dict.fromkeys(t.name for t, _ in entries))
                owner = torch.tensor([owners.index(t.name) for t, _ in entries])
                statistics += [Statistic(t, None, name) for t in owners]
                n_columns = len(owners)
            else:
                statistics += [
                    Statistic(t.name, t.outputs[k] if t.n_outputs > 1 else None, name)
                    for t, k in entries
                ]
                n_columns = len(entries)
            contiguous = bool((index.diff() == 1).all()) if len(index) > 1 else True
            span = slice(int(index[0]), int(index[-1]) + 1) if contiguous else None
            n_terms = _count_terms(rate)
            self._blocks.append(
                _Block(
                    rate,
                    index,
                    owner,
                    slice(width, width + n_terms * n_columns),
                    slice(start, len(statistics)),
                    orientation,
                    span,
                )
            )
            width += n_terms * n_columns
        self.statistics = tuple(statistics)
        self.n_columns = width
        self.orientation = torch.tensor(
            [b.orientation for b in self._blocks for _ in range(*b.statistics.indices(10**9))],
            dtype=torch.float32,
        )
        names = [task.name for task in layout.tasks]
        self.task_index = torch.tensor([names.index(s.task) for s in statistics], dtype=torch.int64)
        self.centred_at_zero = torch.tensor(
            [MEASURES[s.measure].centre == "zero" for s in statistics], dtype=torch.bool
        )
        self.distance = torch.tensor(
            [MEASURES[s.measure].distance for s in statistics], dtype=torch.bool
        )
        self.bounded = torch.tensor(
            [MEASURES[s.measure].bounded for s in statistics], dtype=torch.bool
        )
        self.statistic_of_column = torch.cat(
            [
                torch.arange(b.statistics.start, b.statistics.stop).repeat(
                    (b.columns.stop - b.columns.start) // (b.statistics.stop - b.statistics.start)
                )
                for b in self._blocks
            ]
            or [torch.zeros(0, dtype=torch.int64)]
        )
        self.uses_probability = any(b.measure.uses_probability for b in self._blocks)
        self.uses_decided = any(b.measure.uses_decided for b in self._blocks)

    def __len__(self) -> int:
        return len(self.statistics)

    def columns(self, atoms: Atoms) -> Tensor:
        """Moment columns of a batch, (B, P)."""
        parts = []
        for block in self._blocks:
            terms = block.measure.terms(atoms.select(block.span or block.outputs))
            for term in terms:
                parts.append(term if block.owner is None else _pool(term, block.owner))
        return torch.cat(parts, 1)

    def evidence(self, atoms: Atoms) -> Tensor:
        """(B, J): 1 where the row counts for the statistic."""
        parts = []
        for block in self._blocks:
            rows = block.measure.evidence(atoms.select(block.span or block.outputs))
            parts.append(rows if block.owner is None else _pool(rows, block.owner))
        return torch.cat(parts, 1)

    def rates(self, sums: Tensor) -> Tensor:
        """Rates (..., 1 + G, J) from sums of the moment columns (..., 1 + G, P)."""
        parts = []
        for block in self._blocks:
            k = block.statistics.stop - block.statistics.start
            terms = sums[..., block.columns].split(k, -1)
            parts.append(block.measure.rate(tuple(terms)))
        return torch.cat(parts, -1)

    def moments(self, membership: Tensor, atoms: Atoms, weights: Tensor | None = None) -> Moments:
        """Moments of a batch of rows."""
        return Moments.of(membership, self.columns(atoms), self.evidence(atoms), weights)


def _pool(term: Tensor, owner: Tensor) -> Tensor:
    pooled = term.new_zeros(len(term), int(owner.max()) + 1)
    return pooled.index_add(1, owner.to(term.device), term)


def _count_terms(measure: Measure) -> int:
    one = torch.zeros(1, 1)
    return len(measure.terms(Atoms(one, one, one, one, one)))


def _outputs_of(task: Task, notion: str, measure: str) -> Sequence[int]:
    """Which outputs of a task a measure judges: all, less what would be said twice."""
    everything = range(task.n_outputs)
    if not isinstance(task, Classification):
        return everything
    favourable = None if task.favourable is None else task.outputs.index(task.favourable)
    if favourable is not None and (notion == "equal_opportunity" or measure == "predicted rate"):
        return (favourable,)
    if task.n_outputs == 2:
        if measure == "false alarm rate":
            return ()  # one minus the recall of the other class
        if measure in COMPLEMENTARY:
            return (1,)
    return everything


def decide(
    layout: Layout,
    outputs: Tensor,
    offsets: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Decisions (B, n_outputs) in fused order.

    Parameters
    ----------
    offsets : Tensor (n_outputs,), optional
        Added to the outputs before deciding: the decision rule in force. For a label,
        ``-logit(threshold)``.
    temperature : float, optional
        None gives hard decisions (0 or 1); a number gives probabilities of outputs divided by it,
        centred at the same rule. Regression outputs pass through.
    """
    parts = []
    for family in layout.families:
        o = outputs[:, family.outputs]
        if family.kind == "regression":
            parts.append(o)
            continue
        if offsets is not None:
            o = o + offsets[family.outputs]
        if family.kind == "detection":
            parts.append(
                (o > 0).to(o.dtype) if temperature is None else torch.sigmoid(o / temperature)
            )
            continue
        shaped = o.view(len(o), len(family.tasks), -1)
        if temperature is None:
            hard = torch.zeros_like(shaped).scatter_(2, shaped.argmax(2, keepdim=True), 1.0)
            parts.append(hard.view_as(o))
        else:
            parts.append(torch.softmax(shaped / temperature, 2).view_as(o))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def probabilities(layout: Layout, outputs: Tensor) -> Tensor:
    """Probabilities of classes and labels, (B, n_outputs); regression outputs pass through."""
    return decide(layout, outputs, None, 1.0)


def truths(
    layout: Layout, labels: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Observed and actual (B, n_outputs) from fused labels (B, n_labels)."""
    observed, actual = [], []
    for family in layout.families:
        y = labels[:, family.labels]
        known = ~y.isnan()
        y = torch.nan_to_num(y)
        if family.kind == "classification":
            k = family.tasks[0].n_outputs
            one_hot = (y.unsqueeze(2) == torch.arange(k, device=y.device)) & known.unsqueeze(2)
            actual.append(one_hot.flatten(1).to(dtype or y.dtype))
            observed.append(known.repeat_interleave(k, 1))
        elif family.kind == "regression":
            centre = [c for t in family.tasks for c in t.centre]  # type: ignore[attr-defined]
            scale = [s for t in family.tasks for s in t.scale]  # type: ignore[attr-defined]
            standard = (y - y.new_tensor(centre)) / y.new_tensor(scale)
            actual.append(torch.where(known, standard, 0.0).to(dtype or y.dtype))
            observed.append(known)
        else:
            actual.append(y.to(dtype or y.dtype))
            observed.append(known)
    return torch.cat(observed, 1).to(dtype or labels.dtype), torch.cat(actual, 1)


def atoms_of(
    ledger: Ledger,
    outputs: Tensor,
    labels: Tensor,
    offsets: Tensor | None = None,
    temperature: float | None = None,
) -> Atoms:
    """Atoms of a batch: hard decisions without a temperature, soft ones with it."""
    layout = ledger.layout
    observed, actual = truths(layout, labels, outputs.dtype)
    atoms = Atoms(observed, actual, decide(layout, outputs, offsets, temperature))
    if ledger.uses_probability:
        atoms = replace(atoms, probability=probabilities(layout, outputs))
    if ledger.uses_decided and temperature is not None:
        atoms = replace(atoms, decided=decide(layout, outputs.detach(), offsets))
    return atoms
