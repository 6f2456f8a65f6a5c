"""How good and how fair a partition of a graph is.

Labels and codes are (n,) whole numbers; -1 (no cluster, group unknown) takes part in nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


def modularity(adjacency: Any, labels: np.ndarray) -> float:
    """``Q = Σ_c (w_c/2m - (d_c/2m)²)``, with w_c twice the weight of ties within c (Newman 2004).

    Parameters
    ----------
    adjacency : sparse or dense (n, n), symmetric, without self-ties.
    labels : (n,); nodes with -1 are left out with their ties.
    """
    labels = np.asarray(labels)
    ties = sp.coo_array(adjacency)
    start, end = labels[ties.row], labels[ties.col]
    both = (start >= 0) & (end >= 0)
    start, end, weight = start[both], end[both], ties.data[both].astype(float)
    total = weight.sum()
    if total <= 0:
        return 0.0
    within = weight[start == end].sum() / total
    degree = np.bincount(start, weight) / total
    return float(within - (degree**2).sum())


def _counts(labels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """People by non-empty cluster and group, (k, G), groups without a member left out."""
    labels, codes = np.asarray(labels), np.asarray(codes)
    known = (labels >= 0) & (codes >= 0)
    if not known.any():
        raise ValueError("No node has both a cluster and a group; there is nothing to count.")
    clusters, row = np.unique(labels[known], return_inverse=True)
    groups, column = np.unique(codes[known], return_inverse=True)
    table = np.zeros((len(clusters), len(groups)))
    np.add.at(table, (row, column), 1.0)
    return table


def balance(labels: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, float]:
    """Smallest over largest group in every cluster, and the mean over clusters.

    1 is equal *counts*. A cluster with the shares of the whole graph has the graph's own balance,
    which is 1 only if all groups are of one size.

    Returns
    -------
    array (k,) in the order of the labels of non-empty clusters, and float; both in [0, 1].
    """
    table = _counts(labels, codes)
    each = table.min(1) / table.max(1)
    return each, float(each.mean())


def individual_balance(labels: np.ndarray, codes: np.ndarray) -> float:
    """Mean over people of the least over the largest number of their peers in a cluster.

    A person's peers are the others of the group: those who can stand for them (Gupta and
    Dukkipati 2021). 1 if everybody's peers are spread evenly over the clusters. A person without
    peers counts for nothing.
    """
    table = _counts(labels, codes)
    total, people = 0.0, 0.0
    for column in table.T:
        if column.sum() < 2:
            continue
        peers = column[None] - np.eye(len(column))  # row c: as somebody in cluster c sees them
        total += float(column @ (peers.min(1) / peers.max(1)))
        people += column.sum()
    return total / people if people else float("nan")
