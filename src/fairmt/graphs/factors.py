"""The factorisation: ``A ≈ H W Hᵀ`` with even shares of every group, on sparse graphs.

The objective is

    F(H, W) = ‖A - H W Hᵀ‖² / ‖A‖²  +  (λ/k) Σ_c R(h_c),      H, W ≥ 0

with, for a column h and an attribute whose group means are m_g and whose mean is m,

    R(h) = Σ_g n_g (m_g - m)² / ‖h‖²,      averaged over attributes.

R is the share of a cluster's membership that lies between groups: in [0, 1], 0 if and only if every
group has the same mean membership. Where we differ from Ghodsi, Seyedi and Ntoutsi (2024):

- Their penalty ``Tr Hᵀ(R_S - R_D)H`` compares a group with the others, and weights that by
  n/(n - n_g). Both its sign and its size are free: (H, W) -> (cH, W/c²) keeps the fit and
  multiplies the penalty by c², so that the objective has no lower bound and the iteration ends in
  NaN. Ours drops that weight, counts a person among their own group, and divides by the norm:
  positive semi-definite, and free of scale.
- Their update has a fixed exponent 1/4 and runs 500 times. Ours halves the exponent until the
  objective does not rise, which a multiplicative step in a descent direction always reaches, and
  stops when nothing is gained: F falls monotonically and is bounded below by 0.
- W starts with entries outside its diagonal, which multiplicative updates could not raise from 0.

A step costs O(nnz k + n k²); nothing n x n is formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

FLOOR = 1e-12
"""Least membership, so that a column can grow again."""
PATIENCE = 10
"""Steps over which the gain is measured."""
HALVINGS = 12
"""Of the exponent, before a step is given up."""


class Means:
    """Projections on the means of groups, and on those of everybody whose group is known.

    Parameters
    ----------
    codes : (n, A), -1 where missing; such a row is in no mean of that attribute.
    """

    def __init__(self, codes: np.ndarray) -> None:
        self._share = 1.0 / max(codes.shape[1], 1)
        self._groups = self._indicators(codes)
        self._known = self._indicators(np.where(codes >= 0, 0, -1))

    @staticmethod
    def _indicators(codes: np.ndarray) -> tuple[sp.csr_array, sp.csr_array]:
        """Membership of all attributes side by side (n, G), and its transpose over group sizes."""
        first = np.concatenate([[0], np.cumsum(codes.max(0, initial=-1) + 1)])
        row, attribute = np.nonzero(codes >= 0)
        column = codes[row, attribute] + first[attribute]
        member = sp.csr_array((np.ones(len(row)), (row, column)), (len(codes), int(first[-1])))
        sizes = np.maximum(member.sum(0), 1.0)
        return member, sp.csr_array(sp.diags_array(1.0 / sizes) @ member.T)

    def within(self, H: np.ndarray) -> np.ndarray:
        """Every row's group mean, (n, k), averaged over attributes."""
        member, mean = self._groups
        return self._share * (member @ (mean @ H))

    def overall(self, H: np.ndarray) -> np.ndarray:
        """The mean of all known rows, (n, k), averaged over attributes; 0 in unknown rows."""
        member, mean = self._known
        return self._share * (member @ (mean @ H))


@dataclass
class Factors:
    """H (n, k) with columns of length 1, W (k, k), and the objective after each step."""

    H: np.ndarray
    W: np.ndarray
    history: list[float]

    def scaled(self, rounds: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """The same product with the scale fixed: ``H D⁻¹`` and ``D W D``, whose rows sum to 1.

        Columns of different lengths cannot be compared; these can. D comes from symmetric
        Sinkhorn iterations; a cluster without any interaction gets memberships of 0.
        """
        d = np.ones(len(self.W))
        for _ in range(rounds):
            d = np.minimum(np.sqrt(d / np.maximum(self.W @ d, FLOOR**4)), 1 / FLOOR)
        return self.H / d, self.W * np.outer(d, d)


def start(n: int, k: int, random: np.random.RandomState, density: float) -> Factors:
    """Random memberships; interactions that are strongest within clusters."""
    H = random.uniform(size=(n, k))
    H /= np.linalg.norm(H, axis=0)
    return Factors(H, density * (np.eye(k) + 0.1), [])


class _State:
    """H with everything that both the objective and the gradient need of it."""

    def __init__(self, A: sp.csr_array, means: Means, H: np.ndarray) -> None:
        self.H = H
        self.AH = A @ H
        self.HtAH, self.HtH = H.T @ self.AH, H.T @ H
        self.within, self.overall = means.within(H), means.overall(H)
        self.between = (H * (self.within - self.overall)).sum(0)

    def objective(self, W: np.ndarray, norm: float, weight: float) -> float:
        fit = norm - 2 * (W * self.HtAH).sum() + ((W @ self.HtH) * (self.HtH @ W)).sum()
        return float(fit / norm + weight * self.between.sum())


def factorise(
    A: sp.csr_array, means: Means, begin: Factors, strength: float, max_iter: int, tol: float
) -> Factors:
    """Descend F from `begin`.

    Parameters
    ----------
    A : (n, n), symmetric, without empty rows.
    strength : λ.
    tol : stop when F, which is 1 for an empty model, falls by less over `PATIENCE` steps.
    """
    norm = float((A.data**2).sum())
    weight = strength / begin.H.shape[1]
    state, W = _State(A, means, begin.H), begin.W
    history: list[float] = []
    exponent = 0.5
    for _ in range(max_iter):
        W = _interactions(state, W)
        value = state.objective(W, norm, weight)
        ratio = _ratio(state, W, norm, weight)
        exponent = min(0.5, 2 * exponent)
        for _ in range(HALVINGS):
            H = np.maximum(state.H * ratio**exponent, FLOOR)
            length = np.linalg.norm(H, axis=0)
            found = _State(A, means, H / length)
            scaled = W * np.outer(length, length)
            if found.objective(scaled, norm, weight) <= value:
                break
            exponent /= 2
        else:
            break
        state, W = found, scaled
        history.append(state.objective(W, norm, weight))
        if len(history) > PATIENCE and history[-1 - PATIENCE] - history[-1] < tol:
            break
    return Factors(state.H, W, history)


def _interactions(state: _State, W: np.ndarray, rounds: int = 5) -> np.ndarray:
    """Multiplicative least squares in W, which never raises the fit."""
    for _ in range(rounds):
        W = W * state.HtAH / np.maximum(state.HtH @ W @ state.HtH, FLOOR)
    return (W + W.T) / 2


def _ratio(state: _State, W: np.ndarray, norm: float, weight: float) -> np.ndarray:
    """The gradient's negative part over its positive part, at columns of length 1.

    The fit has ``4(H W HᵀH W - A H W)/‖A‖²``, R has ``2(M_within h - M_overall h - R h)``.
    """
    fit = 4.0 / norm
    pull = fit * (state.AH @ W) + 2 * weight * (state.overall + state.H * state.between)
    push = fit * (state.H @ (W @ state.HtH @ W)) + 2 * weight * state.within
    return np.maximum(pull, FLOOR) / np.maximum(push, FLOOR)
