"""Tasks and notions compiled: moment columns from a batch, and rates from their sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairmt.constants import Constant
from fairmt.measures import COMPLEMENTARY, MEASURES, Atoms, Measure, ratio, safe
from fairmt.moments import Moments, group_sums
from fairmt.notions import NOTIONS
from fairmt.tasks import Classification, Layout, Task
from fairmt.truths import truths


@dataclass(frozen=True)
class Statistic:
    """One rate of one task, compared between groups."""

    task: str
    output: str | None
    measure: str
    orientation: int

    @property
    def name(self) -> str:
        """As reports call it: 'recall of employed', 'accuracy'."""
        return self.measure if self.output is None else f"{self.measure} of {self.output}"


@dataclass(frozen=True)
class Block:
    """A measure and the outputs it judges: a slice of the moment columns and of the statistics.

    Blocks are made by `Ledger`.
    """

    measure: Measure
    outputs: Tensor
    owner: Tensor | None  # for per-task measures: position of each output's statistic
    columns: slice
    statistics: slice
    orientation: int
    span: slice | None  # the outputs as a slice, where they are contiguous

    def select(self, atoms: Atoms) -> Atoms:
        """The atoms of the outputs that the measure judges."""
        if self.span is not None:
            return atoms.select(self.span)
        return atoms.select(self.outputs.to(atoms.observed.device))

    def contributions(self, atoms: Atoms) -> tuple[list[Tensor], Tensor]:
        """Moment columns, and evidence, from selected atoms.

        Evidence that is one of the terms comes back as the very column, so that it is summed once.
        """
        terms, rows = list(self.measure.terms(atoms)), self.measure.evidence(atoms)
        if self.owner is None:
            return terms, rows
        columns = [self._pool(term) for term in terms]
        for term, column in zip(terms, columns, strict=True):
            if term is rows:
                return columns, column
        return columns, self._pool(rows)

    def add_to(self, total: Tensor, own: Tensor) -> None:
        """Add values of the block's outputs to those of all outputs, in place."""
        if self.span is not None:
            total[:, self.span].add_(own)
        else:
            total.index_add_(1, self.outputs.to(total.device), own)

    def spread(self, pooled: Tensor) -> Tensor:
        """The derivative of pooling: to every output what its statistic has."""
        assert self.owner is not None
        return pooled.index_select(1, self.owner.to(pooled.device))

    def _pool(self, term: Tensor) -> Tensor:
        assert self.owner is not None
        width = self.statistics.stop - self.statistics.start
        pooled = term.new_zeros(len(term), width)
        return pooled.index_add(1, self.owner.to(term.device), term)


@dataclass(frozen=True)
class _Run:
    """Neighbouring blocks whose rates are the same function of their sums, computed at once.

    `index` lists the columns term by term; `n_terms` is how many terms the function takes.
    """

    rate: Callable[[tuple[Tensor, ...]], Tensor]
    index: Constant
    n_terms: int


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
        self._blocks: list[Block] = []
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
                statistics += [Statistic(t, None, name, orientation) for t in owners]
                n_columns = len(owners)
            else:
                statistics += [
                    Statistic(t.name, t.outputs[k] if t.n_outputs > 1 else None, name, orientation)
                    for t, k in entries
                ]
                n_columns = len(entries)
            contiguous = bool((index.diff() == 1).all()) if len(index) > 1 else True
            span = slice(int(index[0]), int(index[-1]) + 1) if contiguous else None
            n_terms = _count_terms(rate)
            self._blocks.append(
                Block(
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
        self._runs = _runs(self._blocks)
        # Where each column stands when those of all runs are side by side.
        places = [run.index.value for run in self._runs] or [torch.zeros(0, dtype=torch.int64)]
        self._place_of_column = Constant(torch.cat(places).argsort())
        self.uses_probability = any(b.measure.uses_probability for b in self._blocks)
        self.uses_decided = any(b.measure.uses_decided for b in self._blocks)

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def blocks(self) -> Sequence[Block]:
        """The measures and the outputs each judges, in the order of columns and statistics."""
        return self._blocks

    def columns(self, atoms: Atoms) -> Tensor:
        """Moment columns of a batch, (B, P)."""
        return torch.cat([c for b in self._blocks for c in b.contributions(b.select(atoms))[0]], 1)

    def evidence(self, atoms: Atoms) -> Tensor:
        """(B, J): 1 where the row counts for the statistic."""
        return torch.cat([b.contributions(b.select(atoms))[1] for b in self._blocks], 1)

    def rates(self, sums: Tensor) -> Tensor:
        """Rates (..., 1 + G, J) from sums of the moment columns (..., 1 + G, P)."""
        parts = []
        for run in self._runs:
            index = run.index.on(sums.device)
            terms = sums.index_select(-1, index).chunk(run.n_terms, -1)
            parts.append(run.rate(terms))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def through_rates(self, sums: Tensor, rates: Tensor, gradient: Tensor) -> Tensor:
        """From the gradient at the rates to that at the sums (1 + G, P)."""
        parts, start = [], 0
        for run in self._runs:
            index = run.index.on(sums.device)
            terms = sums.index_select(1, index)
            width = terms.shape[1] // run.n_terms
            own = slice(start, start + width)
            if run.rate is ratio:
                at_numerator = gradient[:, own] / safe(terms[:, width:])
                at_terms = torch.cat([at_numerator, -at_numerator * rates[:, own]], 1)
            else:
                with torch.enable_grad():
                    again = run.rate(terms.requires_grad_().chunk(run.n_terms, 1))
                (at_terms,) = torch.autograd.grad(again, terms, gradient[:, own])
            parts.append(at_terms)
            start += width
        found = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return found.index_select(1, self._place_of_column.on(sums.device))

    def moments(self, membership: Tensor, atoms: Atoms, weights: Tensor | None = None) -> Moments:
        """Moments of a batch of rows."""
        contributions = [block.contributions(block.select(atoms)) for block in self._blocks]
        return moments_of(membership, contributions, weights)


def moments_of(
    membership: Tensor,
    contributions: Sequence[tuple[Sequence[Tensor], Tensor]],
    weights: Tensor | None = None,
) -> Moments:
    """Moments of a batch from every block's columns and evidence."""
    sums = group_sums(membership, torch.cat([c for cs, _ in contributions for c in cs], 1), weights)
    with torch.no_grad():
        mass, start = [], 0
        for columns, rows in contributions:
            place = start
            for column in columns:
                if column is rows:
                    mass.append(sums[:, place : place + rows.shape[1]])
                    break
                place += column.shape[1]
            else:
                mass.append(group_sums(membership, rows, weights))
            start += sum(column.shape[1] for column in columns)
        total = torch.cat(mass, 1)
        if weights is None:
            return Moments(sums, total, total)
        evidence = torch.cat([rows for _, rows in contributions], 1)
        return Moments(sums, total, group_sums(membership, evidence, weights**2))


def _runs(blocks: Sequence[Block]) -> list[_Run]:
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and groups[-1][0].measure.rate is block.measure.rate:
            groups[-1].append(block)
        else:
            groups.append([block])
    runs = []
    for group in groups:
        # (terms, statistics of the block) column numbers, side by side.
        index = torch.cat(
            [
                torch.arange(b.columns.start, b.columns.stop).view(
                    -1, b.statistics.stop - b.statistics.start
                )
                for b in group
            ],
            1,
        )
        runs.append(_Run(group[0].measure.rate, Constant(index.flatten()), len(index)))
    return runs


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
    for family, o in zip(layout.families, layout.by_family(outputs), strict=True):
        if family.kind == "regression":
            parts.append(o)
            continue
        shift = None if offsets is None else offsets[family.outputs]
        if temperature is not None:
            o = (o if shift is None else o + shift) / temperature
        elif shift is not None:
            o = o + shift
        if family.kind == "detection":
            parts.append((o > 0).to(o.dtype) if temperature is None else torch.sigmoid(o))
            continue
        shaped = o.unflatten(1, (len(family.tasks), family.tasks[0].n_outputs))
        if temperature is None:
            hard = torch.zeros_like(shaped).scatter_(2, shaped.argmax(2, keepdim=True), 1.0)
            parts.append(hard.flatten(1))
        else:
            parts.append(torch.softmax(shaped, 2).flatten(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def probabilities(layout: Layout, outputs: Tensor) -> Tensor:
    """Probabilities of classes and labels, (B, n_outputs); regression outputs pass through."""
    return decide(layout, outputs, None, 1.0)


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
