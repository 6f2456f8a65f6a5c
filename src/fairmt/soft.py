"""Moments of soft decisions, and the way back from their sums to the outputs.

The sums are few and the rows are many. So the gradient is taken at the sums first, goes back to
the rows in one matrix product, and through sigmoid and softmax in closed form; only the terms of
the measures, elementwise in the rows, are left to autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairmt.ledger import Block, Ledger, decide, moments_of
from fairmt.measures import Atoms
from fairmt.tasks import Layout


class SoftMoments:
    """Moments of a batch under soft decisions, and their derivative by the outputs.

    Parameters
    ----------
    outputs : Tensor (B, n_outputs)
    truths : observed and actual, see `fairmt.truths.truths`.
    offsets : Tensor (n_outputs,), the decision rule in force.
    temperature : float

    Attributes
    ----------
    moments : Moments, without gradient: differentiate there, then call `gradient`.
    """

    def __init__(
        self,
        ledger: Ledger,
        membership: Tensor,
        outputs: Tensor,
        truths: tuple[Tensor, Tensor],
        offsets: Tensor,
        temperature: float,
        weights: Tensor | None = None,
    ) -> None:
        outputs = outputs.detach()
        self._layout = ledger.layout
        self._membership = membership if weights is None else membership * weights.unsqueeze(1)
        self._temperature = temperature
        self._predicted = soften(self._layout, outputs, offsets, temperature)
        self._probability = decided = None
        if ledger.uses_probability:
            self._probability = soften(self._layout, outputs, None, 1.0)
        if ledger.uses_decided:
            decided = decide(self._layout, outputs, offsets)
        atoms = Atoms(*truths, self._predicted, self._probability, decided)
        self._parts: list[_Part] = []
        contributions, start = [], 0
        for block in ledger.blocks:
            own = block.select(atoms)
            part = _Part(block, start, own)
            contributions.append(part.contributions)
            self._parts.append(part)
            start = part.stop
        self.moments = moments_of(membership, contributions, weights)

    @torch.no_grad()
    def gradient(self, at_sums: Tensor) -> Tensor:
        """From the gradient at the sums (1 + G, P) to that at the outputs (B, n_outputs)."""
        at_soft = torch.cat([at_sums[:, place] for part in self._parts for place in part.soft], 1)
        at_columns = self._membership @ at_soft
        at_decisions = [torch.zeros_like(self._predicted)]
        if self._probability is not None:
            at_decisions.append(torch.zeros_like(self._probability))
        for part, own in zip(
            self._parts, at_columns.split([part.width for part in self._parts], 1), strict=True
        ):
            part.add_gradient(own, at_decisions)
        gradient = at_decisions[0]
        _through_softening(self._layout, self._predicted, gradient, self._temperature)
        if self._probability is not None:
            _through_softening(self._layout, self._probability, at_decisions[1], 1.0)
            gradient += at_decisions[1]
        return gradient


class _Part:
    """A block of a batch: its columns, and the way back from the soft ones to the decisions.

    Attributes
    ----------
    soft : places of the columns that depend on decisions; `width` of them in all.
    """

    def __init__(self, block: Block, start: int, atoms: Atoms) -> None:
        self._block, self._atoms = block, atoms
        self._leaves: list[Tensor] = []
        linear = block.measure.slope is not None
        if linear:
            self.contributions = block.contributions(atoms)
        else:
            self._leaves = [x for x in (atoms.predicted, atoms.probability) if x is not None]
            for leaf in self._leaves:
                leaf.requires_grad_()
            with torch.enable_grad():
                self.contributions = block.contributions(atoms)
        self._columns, self.soft = [], []
        for i, column in enumerate(self.contributions[0]):
            stop = start + column.shape[1]
            if column.requires_grad or (linear and i == 0):
                self._columns.append(column)
                self.soft.append(slice(start, stop))
            start = stop
        self.stop = start
        self.width = sum(column.shape[1] for column in self._columns)

    def add_gradient(self, at_columns: Tensor, totals: list[Tensor]) -> None:
        """Add what the gradient at the block's soft columns gives at predicted and probability."""
        block = self._block
        if block.measure.slope is not None:
            slope = block.measure.slope(self._atoms)
            if block.owner is not None:
                at_columns = block.spread(at_columns)
            if block.span is not None:
                totals[0][:, block.span].addcmul_(at_columns, slope)
            else:
                block.add_to(totals[0], at_columns * slope)
            return
        gradients = torch.autograd.grad(
            self._columns,
            self._leaves,
            at_columns.split([column.shape[1] for column in self._columns], 1),
            allow_unused=True,
        )
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                block.add_to(total, gradient)


def soften(layout: Layout, outputs: Tensor, offsets: Tensor | None, temperature: float) -> Tensor:
    """What `fairmt.ledger.decide` gives with a temperature, without a graph."""
    factor = 1 / temperature
    if offsets is None:
        soft = outputs * factor
    else:
        soft = torch.add(offsets * factor, outputs, alpha=factor)
    for family, x, o in zip(
        layout.families, layout.by_family(soft), layout.by_family(outputs), strict=True
    ):
        if family.kind == "regression":
            x.copy_(o)
        elif family.kind == "detection":
            x.sigmoid_()
        else:
            # By hand: torch.softmax is slow over few classes.
            p = x.view(len(x), len(family.tasks), family.tasks[0].n_outputs)
            p.sub_(p.amax(2, keepdim=True)).exp_()
            p.div_(p.sum(2, keepdim=True))
    return soft


def _through_softening(layout: Layout, soft: Tensor, gradient: Tensor, temperature: float) -> None:
    """From the gradient at soft decisions to that at the outputs, in place."""
    for family, p, g in zip(
        layout.families, layout.by_family(soft), layout.by_family(gradient), strict=True
    ):
        if family.kind == "regression":
            continue
        if family.kind == "classification":
            shape = (len(p), len(family.tasks), family.tasks[0].n_outputs)
            own = g.mul_(p).view(shape)
            own.addcmul_(p.view(shape), own.sum(2, keepdim=True), value=-1)
        else:
            g.mul_(torch.addcmul(p, p, p, value=-1))
        g.mul_(1 / temperature)
