"""f-FERM: an f-mutual information between decision and group, unbiased at any batch size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fairmt.constants import Constant
from fairmt.distributed import all_sum, joint
from fairmt.groups import Groups
from fairmt.ledger import decide
from fairmt.measures import safe
from fairmt.methods.base import Batch, StepMethod
from fairmt.methods.divergences import dual_exponent, find_divergence
from fairmt.models import MultiTask
from fairmt.notions import NOTIONS
from fairmt.tasks import Classification, Layout, Regression, Task
from fairmt.truths import truths

KNOWN_NOTIONS = ("demographic_parity", "equalized_odds", "equal_opportunity")
ROBUST = (None, "small", "large")


class Tables(NamedTuple):
    """Joint P(j, k) and product Q = P(j) π_k of a batch, (C, G).

    `mass` is the share of all people that the cell's table looks at, `shares` are the π_k.
    """

    joint: Tensor
    product: Tensor
    mass: Tensor
    shares: Tensor


class FFERM(StepMethod):
    """``Σ_t w_t L_t + λ Σ_tables D_f( P(ŷ, s) ‖ P(ŷ) P(s) )``, each D_f as a maximum over a table.

    Baharlouei, Patel and Razaviyayn (2024). A decision ŷ is drawn from the model's probabilities;
    D_f is 0 exactly where it is independent of the group s. With the Legendre form
    ``D_f = max_A Σ_jk A_jk P(j, k) − f*(A_jk) P(j) π_k`` and π counted once, the penalty at fixed A
    is a mean over rows: its gradient is unbiased at any batch size, one row included. A climbs by
    a projected step after every batch, so that the A that weighs a batch has not seen it.

    One table per output set and attribute: the classes of a classification, a label and its
    opposite in a detection, soft bins of a regression target. Tables are averaged over the labels
    or targets of a task, and summed over attributes (intersections come with ``groups.depth``)
    and over the true classes that a conditional notion distinguishes.

    Probabilities are those under the decision rule in force (`set_offsets`); without one, the
    model's own, as in the paper.

    Parameters
    ----------
    strength : float
        λ. Its unit depends on the divergence: KL and χ² want about .5 to 20, total variation a
        tenth of it.
    divergence : str
        'kl', 'reverse_kl', 'chi2', 'jensen_shannon', 'squared_hellinger' or 'total_variation'.
    notion : str
        'demographic_parity' looks at all rows; 'equalized_odds' at a table per true class or
        label; 'equal_opportunity' at those who are in the class (the favourable one, if named)
        or have the label. The latter two see labelled rows only, and no regression.
    memory : float
        Rows of a cell after which A forgets: the step on A is ``min(1, B / memory)`` for a batch
        of B rows, times the share of rows that the table looks at.
    bins : int
        Bins of a regression target; see `SoftBins`.
    robust : str, optional
        Against a shift between training and deployment: 'small' takes the worst tables within
        δ of P and of Q in the p-norm, 'large' moves P up and Q down by δ everywhere, clipped
        to [0, 1].
    shift, norm : float
        δ, and p for 'small'.
    """

    name: ClassVar[str] = "f_ferm"
    summary: ClassVar[str] = "f-divergence between decisions and groups, unbiased at any batch size"
    claims: ClassVar[tuple[str, ...]] = ("demographic_parity",)
    label_free: ClassVar[bool] = True
    source: ClassVar[str] = "Baharlouei, Patel and Razaviyayn (ICLR 2024)"
    limits: ClassVar[str] = (
        "judges decisions drawn from the probabilities, not thresholded ones; buys parity also by "
        "lowering the better-served group; rare cells are learnt slowly"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        divergence: str = "kl",
        notion: str = "demographic_parity",
        memory: float = 200.0,
        bins: int = 8,
        robust: str | None = None,
        shift: float = 0.01,
        norm: float = 2.0,
    ) -> None:
        if notion not in KNOWN_NOTIONS:
            raise ValueError(f"notion must be one of {list(KNOWN_NOTIONS)}. Found {notion!r}.")
        if robust not in ROBUST:
            raise ValueError(f"robust must be one of {list(ROBUST)}. Found {robust!r}.")
        if not memory > 0:
            raise ValueError(f"memory must be positive. Found {memory}.")
        if bins < 2:
            raise ValueError(f"bins must be at least 2. Found {bins}.")
        if not shift >= 0:
            raise ValueError(f"shift must not be negative. Found {shift}.")
        self.strength, self.notion, self.memory, self.bins = strength, notion, memory, bins
        self.robust, self.shift, self._dual_norm = robust, shift, dual_exponent(norm)
        self.divergence = find_divergence(divergence)
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        """Lay out the tables and count π.

        Parameters
        ----------
        data : TensorTable, optional
            Training rows; without them π is a running count, and the bins are those of a normal
            target.

        Raises
        ------
        ValueError
            If the notion judges none of the tasks.
        """
        super().setup(model, groups, data)
        others = [t.name for t in self.layout.tasks if not NOTIONS[self.notion].judges(t)]
        advice = (
            f"Notion '{self.notion}' is not defined for the tasks {others}; "
            "notion='demographic_parity' reaches every kind of task."
        )
        if len(others) == len(self.layout.tasks):
            raise ValueError(advice)
        if others:
            warnings.warn(f"{advice} They are trained without it.", stacklevel=2)
        self._bins = SoftBins(self.layout, self.bins, None if data is None else data.labels)
        tables = _tables(self.layout, self.notion, self._bins.places)
        self._sizes = [len(t.events) for t in tables]
        cells = [(event, t) for t in tables for event in t.events]
        self._event = Constant(torch.tensor([event for event, _ in cells]))
        self._stratum = Constant(torch.tensor([t.stratum for _, t in cells]))
        self._weight = Constant([t.weight for _, t in cells])
        partition = groups.partition_of_group()
        self._partition = Constant(partition)
        self._of_partition = Constant(one_hot(partition, len(groups.partitions)).double())
        self.table = torch.full((len(cells), groups.n_groups), self.divergence.neutral)
        # It only tells what 'large' clips; all cells alike until rows have been seen.
        n_cells = torch.tensor([len(t.events) for _, t in cells])
        self.mean = 1 / torch.outer(n_cells, partition.bincount()[partition])
        self.counts = torch.zeros(1 + 2 * self.layout.n_outputs, groups.n_groups)
        self.totals = torch.zeros(2)
        self._running = data is None
        if data is not None:
            for batch in data.batches():
                strata = self._strata(batch["labels"], torch.float64)
                counts, totals = self._count(strata, self.unpack(batch))
                self.counts, self.totals = self.counts + counts, self.totals + totals

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        found = self.tables(outputs, batch)
        # A rare stratum's tables are scaled up by its rareness, and so is their noise.
        rate = (_n_rows(outputs) / self.memory).clamp(max=1.0) * found.mass
        if self.robust == "large":
            found = self._moved(found, rate)
        table = self.table.to(outputs)
        value = self.divergence.bound(table, found.joint, found.product).sum(1)
        self._climb(table, found, rate)
        return (value * self._weight.like(value)).sum()

    def tables(self, outputs: Tensor, batch: Batch) -> Tables:
        """Joint and product of every table from a batch; both linear in the probabilities.

        Sums are divided by what the training rows lead to expect of so many rows, not by what the
        batch happens to hold: a ratio of two batch sums would be biased.
        """
        strata = self._strata(batch.labels, outputs.dtype)
        if self._running:
            counts, totals = (all_sum(x) for x in self._count(strata, batch))
            self.counts, self.totals = (
                self.counts.to(counts) + counts,
                self.totals.to(totals) + totals,
            )
        cells = self._events(outputs) * strata.index_select(1, self._stratum.on(outputs.device))
        n_rows, weight = self.totals.to(outputs)
        share = (self.counts.to(outputs) / safe(weight)).index_select(
            0, self._stratum.on(outputs.device)
        )
        mass = self._over_partition(share)
        expected = mass * _n_rows(outputs) * weight / n_rows
        p = joint(cells.T @ self._members(batch, outputs.dtype)) / safe(expected)
        shares = share / safe(mass)
        return Tables(p, self._over_partition(p) * shares, mass, shares)

    # -- rows to cells ----------------------------------------------------------------------

    def _events(self, outputs: Tensor) -> Tensor:
        """Probability of every cell's event, (B, C), whatever the stratum."""
        p = decide(self.layout, outputs, self.offsets.to(outputs), 1.0)
        events = torch.cat([p, 1 - p, self._bins(outputs)], 1)
        return events.index_select(1, self._event.on(outputs.device))

    def _strata(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, 1 + 2 n_outputs): everybody; the class or label holds; it does not."""
        everybody = torch.ones(len(labels), 1, dtype=dtype, device=labels.device)
        if self.notion == "demographic_parity":
            return everybody
        observed, actual = truths(self.layout, labels, dtype)
        return torch.cat([everybody, actual, observed - actual], 1)

    def _members(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Weighted membership, (B, G)."""
        member = self.groups.membership(batch.attributes, dtype)[:, 1:]
        return member if batch.weights is None else member * batch.weights.to(dtype).unsqueeze(1)

    @torch.no_grad()
    def _count(self, strata: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weight of every stratum in every group; and rows, and their weight."""
        counts = strata.new_zeros(self.counts.shape)
        counts[: strata.shape[1]] = strata.T @ self._members(batch, strata.dtype)
        n = float(len(strata))
        weight = n if batch.weights is None else batch.weights.sum()
        return counts, strata.new_tensor([n, float(weight)])

    def _over_partition(self, table: Tensor) -> Tensor:
        """Sums over the groups of every attribute, (C, G), repeated for each of its groups."""
        sums = table @ self._of_partition.like(table)
        return sums.index_select(1, self._partition.on(table.device))

    # -- the table A ------------------------------------------------------------------------

    @torch.no_grad()
    def _climb(self, table: Tensor, found: Tables, rate: Tensor) -> None:
        """A projected step up the bound."""
        up = self.divergence.ascent(table, found.joint, found.product)
        if self.robust == "small":
            up = up + self._worst_shift(table, found.shares > 0)
        self.table = self.divergence.project(table + rate * up)

    def _worst_shift(self, table: Tensor, seen: Tensor) -> Tensor:
        """Derivative by A of ``δ ‖A − f'(1)‖_q + δ ‖f*(A) − f'(1)‖_q``, table by table.

        This is what the worst P and Q at distance δ add to the bound. f'(1) is taken off, as if f
        were flat at 1: otherwise the shift would be charged for even where P = Q.
        """
        with torch.enable_grad():
            table = table.clone().requires_grad_()
            total = table.new_zeros(())
            for excess in (table, self.divergence.conjugate(table)):
                for cells in ((excess - self.divergence.neutral) * seen).split(self._sizes):
                    for partition in self.groups.partitions:
                        block = cells[:, partition.groups].flatten()
                        total = total + torch.linalg.vector_norm(block, self._dual_norm)
            (slope,) = torch.autograd.grad(total, table)
        return self.shift * slope

    def _moved(self, found: Tables, rate: Tensor) -> Tables:
        """``min(P + δ, 1)`` and ``max(Q − δ, 0)``; running means tell what is clipped."""
        self.mean = torch.lerp(self.mean.to(rate), found.joint.detach(), rate)
        product = self._over_partition(self.mean) * found.shares
        return found._replace(
            joint=torch.where(self.mean + self.shift < 1, found.joint + self.shift, 1.0),
            product=torch.where(product > self.shift, found.product - self.shift, 0.0),
        )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "table": self.table,
            "mean": self.mean,
            "counts": self.counts,
            "totals": self.totals,
            "centres": self._bins.centres,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in ("table", "mean", "counts", "totals"):
            setattr(self, name, state[name].clone())
        self._bins.centres = state["centres"].clone()


class SoftBins:
    """A regression prediction as shares of J bins: softmax of −|ŷ − centre| / τ.

    Centres are the quantiles (j + ½) / J of the training labels, in standard units, so that bins
    hold about equally many people; τ is half their mean distance. Without labels, or where most
    labels are one value, they are the quantiles of a normal target.

    Attributes
    ----------
    centres : Tensor (R, J), a row for each of the R regression outputs.
    places : mapping from fused output to its bins' places among the events.
    """

    def __init__(self, layout: Layout, n: int, labels: Tensor | None) -> None:
        levels = (torch.arange(n) + 0.5) / n
        normal = torch.special.ndtri(levels.double()).float()
        centres: list[Tensor] = []
        self.places: dict[int, range] = {}
        self._columns: list[int] = []
        for task in layout.tasks:
            if not isinstance(task, Regression):
                continue
            for k in range(task.n_outputs):
                own = normal
                if labels is not None:
                    y = task.standardise(labels[:, layout.labels[task.name]].float())[:, k]
                    y = y[~y.isnan()]
                    if len(y):
                        found = torch.as_tensor(np.quantile(y.numpy(), levels.numpy())).float()
                        own = found if found[-1] > found[0] else normal
                place = 2 * layout.n_outputs + n * len(centres)
                self.places[layout.outputs[task.name].start + k] = range(place, place + n)
                self._columns.append(layout.outputs[task.name].start + k)
                centres.append(own)
        self.centres = torch.stack(centres) if centres else torch.zeros(0, n)

    def __call__(self, outputs: Tensor) -> Tensor:
        """(B, R J) from fused outputs."""
        centres = self.centres.to(outputs)
        tau = (centres[:, -1:] - centres[:, :1]) / (2 * (centres.shape[1] - 1))
        distance = (outputs[:, self._columns].unsqueeze(2) - centres).abs()
        return torch.softmax(-distance / tau, 2).flatten(1)


def _n_rows(rows: Tensor) -> Tensor:
    """How many there are over all processes."""
    return all_sum(rows.new_tensor(float(len(rows))))


class _Table(NamedTuple):
    """The events that exclude each other, the rows that count, and the weight in the penalty."""

    events: Sequence[int]
    stratum: int
    weight: float


def _tables(layout: Layout, notion: str, bins: Mapping[int, range]) -> list[_Table]:
    """Events: output k holds (k), does not (n + k), or a bin of it; strata: see `_strata`."""
    n, found = layout.n_outputs, []
    for task in layout.tasks:
        if not NOTIONS[notion].judges(task):
            continue
        outputs = range(*layout.outputs[task.name].indices(n))
        if not isinstance(task, Classification):
            for k in outputs:
                strata = {"demographic_parity": (0,), "equal_opportunity": (1 + k,)}
                events = bins.get(k, (k, n + k))
                for stratum in strata.get(notion, (1 + k, 1 + n + k)):
                    found.append(_Table(events, stratum, task.weight / len(outputs)))
        elif notion == "demographic_parity":
            found.append(_Table(outputs, 0, task.weight))
        elif notion == "equalized_odds":
            found += [_Table(outputs, 1 + k, task.weight) for k in outputs]
        else:
            judged = outputs
            if task.favourable is not None:
                judged = outputs[task.outputs.index(task.favourable) :][:1]
            found += [_Table((k, n + k), 1 + k, task.weight) for k in judged]
    return found
