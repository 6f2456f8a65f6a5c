"""Notions of group fairness, each written once for training, audit and out-of-core sums.

A `Measure` is one rate: the moment columns a row contributes (its *terms*), the function from
their sums to the rate, and an orientation. A `Notion` says which measures judge a kind of task.
A `Ledger` compiles tasks and notions into one matrix of moment columns.

Terms are plain arithmetic on `Atoms`, elementwise in the output, so that the same definition
runs on tensors with gradients, on arrays of decisions, and on the columns of a query engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairmt.moments import Moments
from fairmt.tasks import Classification, Layout, Task, concordance

CALIBRATION_BINS = 10
SCORE_EDGES = tuple(i / 4 for i in range(-8, 9))
"""Shared bin edges of score distributions, in standard deviations of the target."""


@dataclass(frozen=True)
class Atoms:
    """What a row says about every output, in fused order: tensors (B, n_outputs), or SQL columns.

    Attributes
    ----------
    observed : 1 where the label is known, else 0.
    actual : the label, 0 where it is missing. Classes and labels: 1 if it holds. Regression: the
        target in standard units.
    predicted : the decision, hard (0 or 1) or soft (between). Regression: the prediction in
        standard units.
    probability : probability of the class or label, before any decision; None if not needed.
    decided : the hard decision behind a soft `predicted`; None where `predicted` is hard.
    """

    observed: Any
    actual: Any
    predicted: Any
    probability: Any = None
    decided: Any = None

    def select(self, index: Tensor | slice) -> Atoms:
        """Atoms of some outputs, (B, K)."""

        def take(x: Any) -> Any:
            return None if x is None else x[:, index]

        return Atoms(
            take(self.observed),
            take(self.actual),
            take(self.predicted),
            take(self.probability),
            take(self.decided),
        )


Terms = tuple[Any, ...]


def _ratio(sums: tuple[Tensor, ...]) -> Tensor:
    n, d = sums
    # 0/0 would poison gradients even where the entry is masked later.
    return n / torch.where(d > 0, d, torch.ones_like(d))


@dataclass(frozen=True)
class Measure:
    """One rate per output, from sums over the rows of a group.

    Attributes
    ----------
    name, sentence : how reports call and define it.
    terms : atoms -> moment columns, elementwise in the output.
    evidence : atoms -> 1 where the row counts for this rate, else 0 (never soft, never weighted).
    rate : sums of the terms (..., 1 + G, K) -> rate (..., 1 + G, K); row 0 is everybody.
    orientation : +1 more is better, -1 less is better, 0 neither.
    centre : for orientation 0, what deviations are measured from: 'pooled' (the rate of
        everybody), or 'zero'.
    distance : the rate is itself a distance, so the worst group's value is the gap.
    per_task : terms are summed over the outputs of a task first (multi-class accuracy).
    bounded : the rate lies in [0, 1].
    """

    name: str
    sentence: str
    terms: Callable[[Atoms], Terms]
    evidence: Callable[[Atoms], Any]
    orientation: int
    rate: Callable[[tuple[Tensor, ...]], Tensor] = _ratio
    centre: str = "pooled"
    distance: bool = False
    per_task: bool = False
    bounded: bool = True
    uses_probability: bool = False
    uses_decided: bool = False


def _observed(a: Atoms) -> Any:
    return a.observed


def _everyone(a: Atoms) -> Any:
    return a.predicted * 0 + 1


def _hard(a: Atoms) -> Any:
    return a.predicted if a.decided is None else a.decided


def _concordance_terms(a: Atoms) -> Terms:
    p = a.predicted * a.observed
    return (a.observed, p, a.actual, p * a.predicted, a.actual * a.actual, p * a.actual)


def _concordance_rate(sums: tuple[Tensor, ...]) -> Tensor:
    n = sums[0]
    safe = torch.where(n > 0, n, torch.ones_like(n))
    return torch.nan_to_num(concordance(safe, *sums[1:]))


def _calibration_terms(a: Atoms) -> Terms:
    """Per bin of the probability: sum of (probability - label), and in the end the rows.

    A bin's share of the calibration error is |sum of (probability - label)| / rows.
    """
    terms = []
    for b in range(CALIBRATION_BINS):
        low, high = b / CALIBRATION_BINS, (b + 1) / CALIBRATION_BINS
        inside = a.probability >= low
        if b + 1 < CALIBRATION_BINS:
            inside = inside & (a.probability < high)
        terms.append(_indicator(inside) * (a.probability - a.actual) * a.observed)
    return (*terms, a.observed)


def _calibration_rate(sums: tuple[Tensor, ...]) -> Tensor:
    *bins, n = sums
    total = torch.stack([b.abs() for b in bins]).sum(0)
    return total / torch.where(n > 0, n, torch.ones_like(n))


def _cdf_terms(a: Atoms) -> Terms:
    """The distribution function of the score at the shared edges, and the rows.

    Soft scores carry gradients through a logistic step as wide as half a bin.
    """
    width = (SCORE_EDGES[1] - SCORE_EDGES[0]) / 4
    below = []
    for edge in SCORE_EDGES:
        if isinstance(a.predicted, Tensor) and a.predicted.requires_grad:
            below.append(torch.sigmoid((edge - a.predicted) / width))
        else:
            below.append(_indicator(a.predicted <= edge))
    return (*below, _everyone(a))


def _cdf_difference(sums: tuple[Tensor, ...]) -> Tensor:
    *below, n = sums
    safe = torch.where(n > 0, n, torch.ones_like(n))
    cdf = torch.stack(below) / safe
    return (cdf - cdf[..., :1, :]).abs()


def _kolmogorov_smirnov(sums: tuple[Tensor, ...]) -> Tensor:
    return _cdf_difference(sums).amax(0)


def _wasserstein(sums: tuple[Tensor, ...]) -> Tensor:
    return _cdf_difference(sums).sum(0) * (SCORE_EDGES[1] - SCORE_EDGES[0])


def _indicator(condition: Any) -> Any:
    """A condition as 0/1: tensors become the default float type, SQL booleans integers."""
    if isinstance(condition, Tensor):
        return condition.to(torch.get_default_dtype())
    return condition.cast("int8")


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "recall",
            "of the people in the class, the share that is recognised",
            lambda a: (a.actual * a.predicted, a.actual),
            lambda a: a.actual,
            +1,
        ),
        Measure(
            "false alarm rate",
            "of the people outside the class, the share that is put into it",
            lambda a: ((a.observed - a.actual) * a.predicted, a.observed - a.actual),
            lambda a: a.observed - a.actual,
            -1,
        ),
        Measure(
            "true negative rate",
            "of the people without the label, the share that is left without it",
            lambda a: ((a.observed - a.actual) * (1 - a.predicted), a.observed - a.actual),
            lambda a: a.observed - a.actual,
            +1,
        ),
        Measure(
            "precision",
            "of the people put into the class, the share that belongs there",
            lambda a: (a.actual * a.predicted, a.observed * a.predicted),
            lambda a: a.observed * _hard(a),
            +1,
            uses_decided=True,
        ),
        Measure(
            "label accuracy",
            "share of correct decisions about the label",
            lambda a: (
                a.actual * a.predicted + (a.observed - a.actual) * (1 - a.predicted),
                a.observed,
            ),
            _observed,
            +1,
        ),
        Measure(
            "accuracy",
            "share of people whose class is recognised",
            lambda a: (a.actual * a.predicted, a.actual),
            lambda a: a.actual,
            +1,
            per_task=True,
        ),
        Measure(
            "predicted rate",
            "share of people put into the class, whatever the truth",
            lambda a: (a.predicted, _everyone(a)),
            _everyone,
            0,
        ),
        Measure(
            "mean prediction",
            "average predicted value, in standard deviations of the target",
            lambda a: (a.predicted, _everyone(a)),
            _everyone,
            0,
            bounded=False,
        ),
        Measure(
            "score distance (KS)",
            "largest difference between the group's distribution of predictions and everybody's",
            _cdf_terms,
            _everyone,
            0,
            rate=_kolmogorov_smirnov,
            centre="zero",
            distance=True,
        ),
        Measure(
            "score distance (Wasserstein)",
            "average shift between the group's distribution of predictions and everybody's",
            _cdf_terms,
            _everyone,
            0,
            rate=_wasserstein,
            centre="zero",
            distance=True,
            bounded=False,
        ),
        Measure(
            "mean squared error",
            "average squared error, in variances of the target",
            lambda a: (
                a.observed * (a.predicted - a.actual) * (a.predicted - a.actual),
                a.observed,
            ),
            _observed,
            -1,
            bounded=False,
        ),
        Measure(
            "mean absolute error",
            "average absolute error, in standard deviations of the target",
            lambda a: (a.observed * abs(a.predicted - a.actual), a.observed),
            _observed,
            -1,
            bounded=False,
        ),
        Measure(
            "concordance",
            "Lin's concordance correlation between prediction and truth",
            _concordance_terms,
            _observed,
            +1,
            rate=_concordance_rate,
            bounded=False,
        ),
        Measure(
            "mean residual",
            "average of prediction minus truth, in standard deviations of the target",
            lambda a: (a.observed * (a.predicted - a.actual), a.observed),
            _observed,
            0,
            centre="zero",
            bounded=False,
        ),
        Measure(
            "calibration in the large",
            "average of predicted probability minus truth",
            lambda a: (a.observed * (a.probability - a.actual), a.observed),
            _observed,
            0,
            centre="zero",
            bounded=False,
            uses_probability=True,
        ),
        Measure(
            "calibration error",
            "average distance between predicted probability and observed share, over ten bins",
            _calibration_terms,
            _observed,
            -1,
            rate=_calibration_rate,
            uses_probability=True,
        ),
    )
}


@dataclass(frozen=True)
class Notion:
    """Which measures judge a kind of task, and what the notion asks for, in one sentence."""

    name: str
    sentence: str
    measures: Mapping[str, tuple[str, ...]]
    needs_labels: bool = True

    def judges(self, task: Task) -> bool:
        return task.kind in self.measures


NOTIONS: dict[str, Notion] = {
    n.name: n
    for n in (
        Notion(
            "equal_opportunity",
            "People for whom an outcome holds are recognised equally often in every group.",
            {"classification": ("recall",), "detection": ("recall",)},
        ),
        Notion(
            "equalized_odds",
            "People for whom an outcome holds, and people for whom it does not, are decided "
            "correctly equally often in every group.",
            {
                "classification": ("recall", "false alarm rate"),
                "detection": ("recall", "true negative rate"),
            },
        ),
        Notion(
            "predictive_parity",
            "A positive decision is right equally often in every group.",
            {"classification": ("precision",), "detection": ("precision",)},
        ),
        Notion(
            "accuracy_parity",
            "Decisions are right equally often in every group.",
            {"classification": ("accuracy",), "detection": ("label accuracy",)},
        ),
        Notion(
            "demographic_parity",
            "Every group receives each decision equally often, whatever the truth.",
            {
                "classification": ("predicted rate",),
                "detection": ("predicted rate",),
                "regression": ("mean prediction",),
            },
            needs_labels=False,
        ),
        Notion(
            "distribution_parity",
            "Predictions are distributed alike in every group.",
            {"regression": ("score distance (KS)", "score distance (Wasserstein)")},
            needs_labels=False,
        ),
        Notion(
            "error_parity",
            "Errors are equally large in every group.",
            {"regression": ("mean squared error",)},
        ),
        Notion(
            "absolute_error_parity",
            "Absolute errors are equally large in every group.",
            {"regression": ("mean absolute error",)},
        ),
        Notion(
            "concordance_parity",
            "Predictions agree with the truth equally well in every group.",
            {"regression": ("concordance",)},
        ),
        Notion(
            "bias_parity",
            "No group is over- or underestimated on average.",
            {
                "classification": ("calibration in the large",),
                "detection": ("calibration in the large",),
                "regression": ("mean residual",),
            },
        ),
        Notion(
            "calibration",
            "A predicted probability means the same in every group.",
            {"classification": ("calibration error",), "detection": ("calibration error",)},
        ),
    )
}

DEFAULT_NOTIONS: dict[str, tuple[str, ...]] = {
    "classification": ("equal_opportunity",),
    "detection": ("equalized_odds",),
    "regression": ("bias_parity",),
}
"""What ``notion="default"`` asks of each kind of task: every class, and every label together with
its opposite, is recognised equally well; no group is over- or underestimated."""

CONTRADICTIONS: tuple[tuple[str, str], ...] = (
    ("equalized_odds", "predictive_parity"),
    ("equalized_odds", "demographic_parity"),
    ("predictive_parity", "demographic_parity"),
    ("equalized_odds", "calibration"),
)
"""Pairs that no useful predictor meets when base rates differ (Chouldechova 2017; Kleinberg,
Mullainathan and Raghavan 2016; Barocas, Hardt and Narayanan 2023, chapter 3)."""

_COMPLEMENTARY = ("predicted rate", "calibration in the large", "calibration error")
"""Measures of one class of two that say nothing new about the other class."""

NotionSpec = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def resolve_notions(tasks: Sequence[Task], notion: NotionSpec) -> dict[str, tuple[str, ...]]:
    """Names of the notions that judge each task.

    Parameters
    ----------
    notion : str, sequence of str, or mapping
        One notion or several for all tasks, or a mapping from task name or task kind to them;
        'default' gives `DEFAULT_NOTIONS`, 'none' leaves tasks unconstrained. A notion that is not
        defined for a task's kind leaves the task alone.

    Raises
    ------
    ValueError
        For unknown names, notions that contradict each other on a task, or if no task is judged.
    """
    if isinstance(notion, Mapping):
        known = {t.name for t in tasks} | {t.kind for t in tasks}
        unknown = set(notion) - known
        if unknown:
            raise ValueError(
                f"notion names {sorted(unknown)}, which are neither tasks nor kinds of task; "
                f"expected among {sorted(known)}."
            )
    resolved = {}
    for task in tasks:
        spec: str | Sequence[str]
        if isinstance(notion, Mapping):
            spec = notion.get(task.name, notion.get(task.kind, "none"))
        else:
            spec = notion
        names: list[str] = []
        for name in (spec,) if isinstance(spec, str) else spec:
            if name == "none":
                continue
            if name == "default":
                names += DEFAULT_NOTIONS[task.kind]
            elif name not in NOTIONS:
                raise ValueError(f"Unknown notion '{name}'; expected one of {sorted(NOTIONS)}.")
            elif NOTIONS[name].judges(task):
                names.append(name)
            elif isinstance(notion, Mapping) and task.name in notion:
                raise ValueError(
                    f"Notion '{name}' is not defined for task '{task.name}' ({task.kind}); these "
                    f"are: {[n.name for n in NOTIONS.values() if n.judges(task)]}."
                )
        for a, b in CONTRADICTIONS:
            if a in names and b in names:
                raise ValueError(
                    f"Task '{task.name}': '{a}' and '{b}' contradict each other where base rates "
                    "differ. Train for one of them, and audit the other."
                )
        resolved[task.name] = tuple(dict.fromkeys(names))
    return resolved


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
            measure = MEASURES[name]
            entries.sort(key=lambda e: layout.outputs[e[0].name].start + e[1])
            index = torch.tensor([layout.outputs[t.name].start + k for t, k in entries])
            start = len(statistics)
            owner = None
            if measure.per_task:
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
            n_terms = _count_terms(measure)
            self._blocks.append(
                _Block(
                    measure,
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
        if measure in _COMPLEMENTARY:
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
