"""Multi-max mistreatment: what an error costs, by how much worse its group is recognised.

For class c, attribute a and group g of a, let `r` be the recall of c in g: the true positive rate
for the second of two classes, the true negative rate for the first. The mistreatment of (g, c) is

    m = max_{g' of a} r(g', c) − r(g, c),      MMM = max_{a, g, c} m

and an error on a row of class c costs ``1 + λ max_a m(g_a, c)``, g_a being its group in a
(Roy, Iosifidis and Ntoutsi 2022, with λ = 1 and two groups per attribute). Here attributes have
any number of groups, intersections included, and classes any number.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fairmt.groups import Groups


class Mistreatment:
    """Recalls of classes by group, and the costs that follow, for one set of rows.

    Parameters
    ----------
    groups : Groups
    codes : Tensor (N, A), -1 where missing: such a row is in no group of that attribute.
    labels : array (N,) of class indices, none missing.
    weights : array (N,)
        Sample weights, never those of the boosting.
    min_evidence : float
        Members (Kish's effective number) below which a recall is unknown: it costs nothing and
        nobody is compared with it.
    """

    def __init__(
        self,
        groups: Groups,
        codes: Tensor,
        labels: np.ndarray,
        weights: np.ndarray,
        n_classes: int,
        min_evidence: float,
    ) -> None:
        self._groups = groups
        self._shape = (groups.n_groups, n_classes)
        self._n_cells = groups.n_groups * n_classes
        index = groups.index(codes).numpy()
        # A cell is a group and a class; rows of no group share one more cell, which is dropped.
        self._cells = np.where(index < 0, self._n_cells, index * n_classes + labels[:, None])
        self._weights = weights
        mass, mass2 = self._sums(weights), self._sums(weights**2)
        self._mass = mass
        self.known = mass**2 >= min_evidence * mass2
        self.known &= mass > 0

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums of values (N,) over the rows of every group and class, (G, K)."""
        total = np.zeros(self._n_cells + 1)
        for column in self._cells.T:
            total += np.bincount(column, values, minlength=self._n_cells + 1)
        return total[:-1].reshape(self._shape)

    def recalls(self, correct: np.ndarray) -> np.ndarray:
        """Recall (G, K) of every class in every group; NaN where unknown.

        Parameters
        ----------
        correct : array (N,) of bool, whether the row's decision is its class.
        """
        hits = self._sums(self._weights * correct)
        return np.divide(hits, self._mass, out=np.full(self._shape, np.nan), where=self.known)

    def mistreatment(self, recalls: np.ndarray) -> np.ndarray:
        """How much lower each recall is than that of the attribute's best group, (G, K).

        0 where the recall is unknown.
        """
        found = np.zeros(self._shape)
        for partition in self._groups.partitions:
            own = recalls[partition.groups]
            best = np.where(self.known[partition.groups], own, -np.inf).max(0)
            found[partition.groups] = np.where(self.known[partition.groups], best - own, 0.0)
        return found

    def costs(self, mistreatment: np.ndarray, strength: float) -> np.ndarray:
        """Cost (N,) of an error on every row: that of its worst attribute."""
        by_cell = np.append(mistreatment.ravel(), 0.0)
        return 1 + strength * by_cell[self._cells].max(1)
