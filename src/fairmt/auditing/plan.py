"""What an audit judges, compiled: statistics that are counts of outcomes, and those that need sums.

A decision about a label or a class has six outcomes per row: observed or not, true or not,
predicted or not. Rates of decisions are functions of how often each outcome occurs, so their
definitions are evaluated on the six outcomes once, instead of on every row. Everything else
(probabilities, regression, weighted or clustered rows) is summed over rows by a `Ledger`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fairmt.groups import Groups
from fairmt.ledger import Ledger, Statistic
from fairmt.measures import MEASURES, Atoms, Measure
from fairmt.notions import NOTIONS
from fairmt.tasks import Classification, Layout, Task

OUTCOMES = ((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1))
"""Observed, actual, predicted. An outcome stands at ``2 (observed + actual) + predicted``."""

NORMS = ("calibration error",)
"""Rates that are sums of absolute values, as distances are: noise makes them larger, never
smaller, and the more the smaller the group."""

NotionChoice = str | Sequence[str] | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Counted:
    """Rates that are ratios of counts of outcomes.

    Attributes
    ----------
    statistics : the S statistics.
    outputs : (S,), which of the plan's counted outputs each looks at.
    numerator, denominator, evidence : (6, S), what each outcome contributes.
    """

    statistics: tuple[Statistic, ...]
    outputs: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray
    evidence: np.ndarray

    def rates(self, counts: np.ndarray) -> np.ndarray:
        """Rates (..., S) from counts of outcomes (..., 6, K); 0 where nothing was counted."""
        n, d = self._contract(counts, self.numerator), self._contract(counts, self.denominator)
        return n / np.where(d > 0, d, 1.0)

    def sizes(self, counts: np.ndarray) -> np.ndarray:
        """Evidence (..., S): rows that the rate is about."""
        return self._contract(counts, self.evidence)

    def _contract(self, counts: np.ndarray, contribution: np.ndarray) -> np.ndarray:
        total = np.zeros((*counts.shape[:-2], len(self.statistics)))
        for c in range(len(OUTCOMES)):
            if contribution[c].any():
                total += counts[..., c, :][..., self.outputs] * contribution[c]
        return total


@dataclass(frozen=True)
class Plan:
    """Statistics of an audit.

    Attributes
    ----------
    counted_outputs : name of the task and fused output of every counted output; the output is
        None where the outcome is that of the task as a whole: the class is right, or it is not.
    targets : fused outputs of regression tasks.
    counted : rates of decisions, where rows count alike and one by one.
    summed : everything else, or None.
    norm : (S,) distances and `NORMS`.
    statistics : all of them, task by task; `order` takes counted and summed ones, one behind the
        other, to that order.
    """

    layout: Layout
    groups: Groups
    notions: dict[str, tuple[str, ...]]
    counted_outputs: tuple[tuple[str, int | None], ...]
    targets: tuple[int, ...]
    counted: Counted
    summed: Ledger | None
    statistics: tuple[Statistic, ...]
    order: np.ndarray
    orientation: np.ndarray
    bounded: np.ndarray
    distance: np.ndarray
    norm: np.ndarray

    @property
    def n_summed(self) -> int:
        return 0 if self.summed is None else len(self.summed)

    def join(self, counted: np.ndarray, summed: np.ndarray) -> np.ndarray:
        """Values of counted (..., S) and of summed (..., J) statistics, in the plan's order."""
        return np.concatenate([counted, summed], -1)[..., self.order]

    def rates_of_sums(self, sums: np.ndarray) -> np.ndarray:
        """Rates (..., 1 + G, J) of the summed statistics from their columns (..., 1 + G, P)."""
        if self.summed is None:
            return np.zeros((*sums.shape[:-1], 0))
        return self.summed.rates(torch.from_numpy(np.ascontiguousarray(sums))).numpy()


def make_plan(
    layout: Layout,
    groups: Groups,
    notions: NotionChoice = "all",
    *,
    scored: Sequence[str] = (),
    one_by_one: bool = True,
) -> Plan:
    """Compile the statistics of an audit.

    Parameters
    ----------
    notions : 'all', names, or a mapping from task name or kind to names.
    scored : tasks that come with probabilities; the others are not judged by them.
    one_by_one : False where rows have weights or come in clusters; then everything is summed.
    """
    chosen = choose_notions(layout.tasks, notions)
    counted: dict[str, list[str]] = {}
    summed: dict[str, list[str]] = {}
    for task in layout.tasks:
        for name in chosen[task.name]:
            measures = [MEASURES[m] for m in NOTIONS[name].measures[task.kind]]
            if any(m.uses_probability for m in measures):
                if task.name not in scored:
                    continue
                place = summed
            else:
                place = counted if one_by_one and task.kind != "regression" else summed
            place.setdefault(task.name, []).append(name)
    outputs: list[tuple[str, int | None]] = []
    for task in layout.tasks:
        if task.kind != "regression":
            start = layout.outputs[task.name].start
            outputs += [(task.name, start + k) for k in range(task.n_outputs)]
        if isinstance(task, Classification):
            outputs.append((task.name, None))
    ledger = Ledger(layout, summed) if any(summed.values()) else None
    count_ledger = Ledger(layout, counted) if any(counted.values()) else None
    own = _compile_counted(count_ledger, layout, outputs)
    statistics = own.statistics + (() if ledger is None else ledger.statistics)
    if not statistics:
        raise ValueError(
            "No statistic is left to judge: the notions chosen are not defined for these tasks, or "
            "need probabilities that the predictions do not have."
        )
    names = [t.name for t in layout.tasks]
    order = np.array(sorted(range(len(statistics)), key=lambda j: names.index(statistics[j].task)))
    orientation = np.concatenate(
        [
            np.asarray(part.orientation.tolist()) if part is not None else np.zeros(0)
            for part in (count_ledger, ledger)
        ]
    )
    ordered = tuple(statistics[j] for j in order)
    return Plan(
        layout,
        groups,
        chosen,
        tuple(outputs),
        tuple(
            layout.outputs[t.name].start + k
            for t in layout.tasks
            if t.kind == "regression"
            for k in range(t.n_outputs)
        ),
        own,
        ledger,
        ordered,
        order,
        orientation[order],
        np.array([MEASURES[s.measure].bounded for s in ordered]),
        np.array([MEASURES[s.measure].distance for s in ordered]),
        np.array([MEASURES[s.measure].distance or s.measure in NORMS for s in ordered]),
    )


def choose_notions(tasks: Sequence[Task], notions: NotionChoice) -> dict[str, tuple[str, ...]]:
    """Names of the notions that judge each task; contradictions are no fault in an audit.

    Raises
    ------
    ValueError
        For unknown notions, and for a mapping that names neither tasks nor kinds of task.
    """
    if isinstance(notions, Mapping):
        known = {t.name for t in tasks} | {t.kind for t in tasks}
        strangers = sorted(set(notions) - known)
        if strangers:
            raise ValueError(
                f"notions names {strangers}, which are neither tasks nor kinds of task; expected "
                f"among {sorted(known)}."
            )
    chosen = {}
    for task in tasks:
        spec: str | Sequence[str]
        if isinstance(notions, Mapping):
            spec = notions.get(task.name, notions.get(task.kind, ()))
        else:
            spec = notions
        if spec == "all":
            names: Sequence[str] = list(NOTIONS)
        else:
            names = [spec] if isinstance(spec, str) else list(spec)
        unknown = [n for n in names if n not in NOTIONS]
        if unknown:
            raise ValueError(f"Unknown notions {unknown}; expected some of {sorted(NOTIONS)}.")
        chosen[task.name] = tuple(n for n in dict.fromkeys(names) if NOTIONS[n].judges(task))
    return chosen


def contributions(measure: Measure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerator, denominator and evidence of each of the six outcomes."""
    table = torch.tensor(OUTCOMES, dtype=torch.float64)
    atoms = Atoms(table[:, :1], table[:, 1:2], table[:, 2:])
    numerator, denominator = measure.terms(atoms)
    columns = (numerator, denominator, measure.evidence(atoms))
    n, d, e = (c[:, 0].numpy() for c in columns)
    return n, d, e


def _compile_counted(
    ledger: Ledger | None, layout: Layout, outputs: Sequence[tuple[str, int | None]]
) -> Counted:
    statistics = () if ledger is None else ledger.statistics
    index, columns = [], []
    for statistic in statistics:
        measure = MEASURES[statistic.measure]
        fused: int | None = None
        if not measure.per_task:
            task = layout[statistic.task]
            k = 0 if statistic.output is None else task.outputs.index(statistic.output)
            fused = layout.outputs[task.name].start + k
        index.append(outputs.index((statistic.task, fused)))
        columns.append(contributions(measure))
    stacked = np.array(columns).reshape(len(statistics), 3, len(OUTCOMES))
    n, d, e = stacked.transpose(1, 2, 0)
    return Counted(statistics, np.array(index, dtype=np.int64), n, d, e)
