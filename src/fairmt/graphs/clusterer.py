"""Fair clusters of a graph: the whole trade-off in one fit, and a choice from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fairmt.graphs.factors import Factors, Means, factorise, start
from fairmt.graphs.measures import balance, modularity
from fairmt.graphs.readers import groups_of, undirected
from fairmt.methods.ifairnmtf import GraphClustering

STRENGTHS = (0.0, *(round(float(s), 5) for s in np.geomspace(0.003, 10.0, 15)))


@dataclass(frozen=True)
class Candidate:
    """The clusters that one weight gives.

    Attributes
    ----------
    strength : λ.
    labels : (n,), from 0 without holes; -1 for nodes without a tie.
    memberships : (n, k), rows sum to 1 (0 for nodes without a tie).
    interactions : (k, k), how a cluster's ties divide over clusters; rows sum to 1.
    objective : F after every step; see `fairmt.graphs.factors`.
    modularity : float.
    balances : by attribute, the mean over clusters.
    balance : the lowest of these; NaN without an attribute.
    """

    strength: float
    labels: np.ndarray = field(repr=False)
    memberships: np.ndarray = field(repr=False)
    interactions: np.ndarray = field(repr=False)
    objective: tuple[float, ...] = field(repr=False)
    modularity: float
    balances: dict[str, float]
    balance: float


class IFairNMTF(ClusterMixin, BaseEstimator, GraphClustering):
    """Clusters of an undirected graph in which every group has its share.

    A symmetric non-negative tri-factorisation ``A ≈ H W Hᵀ`` with a penalty on the differences
    between groups in mean membership, after Ghodsi, Seyedi and Ntoutsi (PAKDD 2024); our
    objective is free of scale and bounded, see `fairmt.graphs.factors`.

    Parameters
    ----------
    n_clusters : int
        k; fewer come out where some stay empty.
    strengths : sequence of float
        Weights λ, tried from the smallest on. Each fit starts where the last ended, so that the
        clusters change step by step. The fit lies between 0 and about 1, the penalty between 0
        and λ; .003 to 10 spanned the whole trade-off on every graph we have seen.
    max_iter, tol : int, float
        Steps per weight at most, and the fall of the objective (1 for an empty model) over ten
        steps below which to stop.
    n_init : int
        Random starts at the smallest weight, of which the lowest objective is kept.
    random_state : int, RandomState or None

    Attributes
    ----------
    labels_, memberships_, interactions_ : of the candidate in force; see `Candidate`.
    candidate_ : the candidate in force.
    path_ : tuple of Candidate, by rising weight.
    front_ : tuple of Candidate, those that no other beats in both modularity and balance.
    """

    def __init__(
        self,
        n_clusters: int = 5,
        *,
        strengths: Sequence[float] = STRENGTHS,
        max_iter: int = 500,
        tol: float = 1e-5,
        n_init: int = 10,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.strengths = strengths
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> IFairNMTF:
        """Cluster the graph at every weight, and choose; see `choose`.

        Parameters
        ----------
        X : sparse or dense (n, n), a symmetric adjacency with weights of 0 or more. Self-ties are
            left out. A node without any other tie gets the label -1.
        y : ignored.
        sensitive_features : frame, mapping of name to (n,), or array (n,) or (n, A). A node whose
            group is missing counts in no mean of that attribute. May be left out if the only
            weight is 0.

        Raises
        ------
        ValueError
            If the graph is directed (the message says how to make it undirected), negative, not
            square or without ties; for a setting out of range; without groups to compare.
        """
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, ensure_min_samples=2)
        graph = undirected(X)
        n = graph.shape[0]
        strengths = self._checked(n)
        self._codes: np.ndarray = np.empty((n, 0), dtype=np.int64)
        self._names: tuple[str, ...] = ()
        if sensitive_features is not None:
            groups, self._codes = groups_of(sensitive_features, n)
            self._names = tuple(a.name for a in groups.attributes)
        elif strengths[-1] > 0:
            raise ValueError(
                "IFairNMTF needs sensitive_features to compare groups; pass them to fit, or set "
                "strengths=(0,) for clusters without regard to groups."
            )
        tied = np.flatnonzero(np.diff(graph.indptr))
        self.path_ = tuple(self._candidates(graph, tied, strengths))
        self.front_ = tuple(_front(self.path_))
        self.choose()
        return self

    def choose(
        self, *, min_modularity: float | None = None, min_balance: float | None = None
    ) -> Candidate:
        """Put another candidate in force, without fitting again.

        Parameters
        ----------
        min_modularity : take the best balance among the candidates that reach this modularity.
        min_balance : take the best modularity among the candidates that reach this balance.
            Neither: the candidate nearest to the best modularity and the best balance on the
            front, both scaled to run from 0 to 1 along it.

        Raises
        ------
        ValueError
            If both are given, or no candidate reaches what is asked; the message names the best.
        """
        check_is_fitted(self, "path_")
        if min_modularity is not None and min_balance is not None:
            raise ValueError(
                "Give min_modularity or min_balance, not both: one is bought with the other."
            )
        if min_modularity is not None:
            found = self._best("balance", "modularity", min_modularity)
        elif min_balance is not None:
            found = self._best("modularity", "balance", min_balance)
        else:
            found = _nearest(self.front_)
        self.candidate_ = found
        self.labels_, self.memberships_ = found.labels, found.memberships
        self.interactions_ = found.interactions
        self.n_iter_ = len(found.objective)
        return found

    def _best(self, wanted: str, bounded: str, bound: float) -> Candidate:
        able = [c for c in self.path_ if getattr(c, bounded) >= bound]
        if not able:
            top = max(self.path_, key=lambda c: getattr(c, bounded))
            raise ValueError(
                f"No candidate has a {bounded} of {bound:g}; the highest is "
                f"{getattr(top, bounded):.3f}, at strength {top.strength:g}. Ask for less, or try "
                "other strengths or n_clusters."
            )
        return max(able, key=lambda c: getattr(c, wanted))

    def _checked(self, n: int) -> list[float]:
        """The weights, rising; raises ValueError for settings out of range."""
        for name in ("n_clusters", "max_iter", "n_init"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Found {getattr(self, name)}.")
        if self.n_clusters > n:
            raise ValueError(f"n_clusters={self.n_clusters} is more than n_samples={n} nodes.")
        strengths = sorted(float(s) for s in self.strengths)
        if not strengths or strengths[0] < 0 or not np.isfinite(strengths).all():
            raise ValueError(
                f"strengths must be finite numbers of 0 or more. Found {list(self.strengths)}."
            )
        return strengths

    def _candidates(
        self, graph: sp.csr_array, tied: np.ndarray, strengths: list[float]
    ) -> list[Candidate]:
        part = sp.csr_array(graph[tied][:, tied])
        means = Means(self._codes[tied])
        random = check_random_state(self.random_state)
        density = part.sum() / len(tied)
        starts = [start(len(tied), self.n_clusters, random, density) for _ in range(self.n_init)]
        path: list[Candidate] = []
        for strength in strengths:
            fits = [factorise(part, means, s, strength, self.max_iter, self.tol) for s in starts]
            best = min(fits, key=lambda f: f.history[-1])
            starts = [best]
            path.append(self._candidate(graph, tied, strength, best))
        return path

    def _candidate(
        self, graph: sp.csr_array, tied: np.ndarray, strength: float, factors: Factors
    ) -> Candidate:
        found, interactions = factors.scaled()
        filled = np.bincount(found.argmax(1), minlength=self.n_clusters) > 0
        # Clusters without a node come last, so that labels have no holes.
        order = np.argsort(~filled, kind="stable")
        found = found[:, order]
        labels = np.full(graph.shape[0], -1)
        labels[tied] = found.argmax(1)
        memberships = np.zeros((graph.shape[0], self.n_clusters))
        memberships[tied] = found / found.sum(1, keepdims=True)
        balances = {
            name: balance(labels, self._codes[:, a])[1] for a, name in enumerate(self._names)
        }
        return Candidate(
            strength,
            labels,
            memberships,
            interactions[np.ix_(order, order)],
            tuple(factors.history),
            modularity(graph, labels),
            balances,
            min(balances.values(), default=float("nan")),
        )


def _front(path: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other beats; of equals, the one of the smallest weight."""

    def beaten(i: int, c: Candidate) -> bool:
        return any(
            o.modularity >= c.modularity
            and o.balance >= c.balance
            and (o.modularity > c.modularity or o.balance > c.balance or j < i)
            for j, o in enumerate(path)
            if j != i
        )

    return [c for i, c in enumerate(path) if not beaten(i, c)]


def _nearest(front: Sequence[Candidate]) -> Candidate:
    """The knee: nearest to the best of both, each scaled to [0, 1] along the front."""
    if len(front) == 1:
        return front[0]
    points = np.array([(c.modularity, c.balance) for c in front])
    low, high = points.min(0), points.max(0)
    distance = (((high - points) / np.maximum(high - low, 1e-12)) ** 2).sum(1)
    return front[int(distance.argmin())]
