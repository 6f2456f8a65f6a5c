"""MMD penalty: the mean embedding of a group's scores should be that of the others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.constants import Constant
from fairmt.groups import Groups
from fairmt.measures import safe
from fairmt.methods.scores import ScorePenalty
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task


class MMD(ScorePenalty):
    """``d(g, others) = E k(s, s') + E k(r, r') − 2 E k(s, r)``, s of the group, r of the others.

    The squared maximum mean discrepancy (Gretton et al., 2012) of a task's whole score vector, so
    that the dependence between labels counts as well; k is a mean of Gaussian kernels. The kernel
    is that of random Fourier features (Rahimi and Recht, 2007), drawn once:
    ``k(s, r) = φ(s)·φ(r)`` with ``|φ| = 1``. So the pairs of a row with itself can be taken out of
    ``|Σ φ|²``, which gives the unbiased estimate at a cost linear in the rows: its expectation is
    0 for equal distributions at any batch size, and it may be negative.

    Distances between scores are root mean squares over labels or targets; for classes they are
    those of the probability vectors over √2, so that two classes count as their one probability.

    Parameters
    ----------
    strength : float
        λ.
    bandwidths : sequence of float
        Of the kernels, in units of a probability, or of the target's standard deviation.
    n_frequencies : int
        Random frequencies for each bandwidth.
    """

    name: ClassVar[str] = "mmd"
    summary: ClassVar[str] = "penalises the kernel distance (MMD) of each group's scores to others'"
    source: ClassVar[str] = "Gretton et al. (JMLR 2012); Rahimi and Recht (NeurIPS 2007)"
    limits: ClassVar[str] = "flat where scores lie further apart than the largest bandwidth"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        bandwidths: Sequence[float] = (0.1, 0.3, 1.0),
        n_frequencies: int = 32,
    ) -> None:
        if not bandwidths or min(bandwidths) <= 0:
            raise ValueError(f"bandwidths must be positive numbers. Found {bandwidths!r}.")
        if n_frequencies < 1:
            raise ValueError(f"n_frequencies must be at least 1. Found {n_frequencies}.")
        self.bandwidths, self.n_frequencies = tuple(bandwidths), n_frequencies
        super().__init__(encoder, heads, tasks, groups, strength=strength)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        n = self.n_frequencies
        inverse = (1 / torch.tensor(self.bandwidths, dtype=torch.float64)).repeat_interleave(n)
        # One block of frequencies per task: (n_outputs, T · frequencies), zero elsewhere.
        frequencies = torch.zeros(
            self.layout.n_outputs, len(self.layout.tasks), len(inverse), dtype=torch.float64
        )
        for i, task in enumerate(self.layout.tasks):
            scale = 2 if task.kind == "classification" else task.n_outputs
            # Anew for every task, so that its penalty does not depend on which tasks stand beside.
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randn(
                task.n_outputs, len(inverse), generator=generator, dtype=torch.float64
            )
            frequencies[self.layout.outputs[task.name], i] = drawn * inverse / scale**0.5
        self._frequencies = Constant(frequencies.flatten(1))

    def distances(self, scores: Tensor, own: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        angles = scores @ self._frequencies.like(scores)
        angles = angles.unflatten(1, (len(self.layout.tasks), -1))
        features = torch.cat([angles.cos(), angles.sin()], 2) / angles.shape[2] ** 0.5
        mine, theirs = (
            self.reduce(torch.einsum("bg,btf->tgf", w, features)) for w in (own, others)
        )
        mixed = (mine * theirs).sum(2) / safe(self._total(own) * self._total(others))
        return self._within(mine, own) + self._within(theirs, others) - 2 * mixed

    def _within(self, embedded: Tensor, weights: Tensor) -> Tensor:
        """Mean of k over the pairs of different rows, (T, G)."""
        total, alone = self._total(weights), self._total(weights**2)
        return (embedded.square().sum(2) - alone) / safe(total**2 - alone)

    def _total(self, weights: Tensor) -> Tensor:
        return self.reduce(weights.sum(0))
