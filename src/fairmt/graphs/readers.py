"""What was given to `fit`, as a sparse graph and codes of groups; or a refusal that says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from fairmt.groups import Groups

TOLERANCE = 1e-8
"""Two directions of a tie are the same when they differ by less, relative to the largest tie."""


def undirected(X: Any) -> sp.csr_array:
    """The symmetric graph (n, n) without self-ties, from a checked sparse or dense matrix.

    Raises
    ------
    ValueError
        If the matrix is not square, directed, negative, or without ties.
    """
    if X.shape[0] != X.shape[1]:
        raise ValueError(
            f"X must be an adjacency matrix, nodes by nodes. Found shape {X.shape}; build a graph "
            "first, with sklearn.neighbors.kneighbors_graph, say."
        )
    graph = sp.csr_array(X, dtype=np.float64)
    if graph.nnz and graph.data.min() < 0:
        raise ValueError(
            "Negative values in data passed to X: weights of ties must be 0 or more. Take absolute "
            "values, or leave the negative ties out."
        )
    largest = graph.data.max() if graph.nnz else 0.0
    one_way = sp.coo_array(abs(graph - graph.T))
    if one_way.nnz and one_way.data.max() > TOLERANCE * largest:
        i, j = (int(index[one_way.data.argmax()]) for index in (one_way.row, one_way.col))
        raise ValueError(
            f"X is a directed graph: the tie from node {i} to node {j} is {graph[i, j]:.6g}, that "
            f"back is {graph[j, i]:.6g}. IFairNMTF clusters undirected graphs: pass X + X.T to "
            "count both directions, X.maximum(X.T) to keep any tie, or X.minimum(X.T) to keep "
            "mutual ties."
        )
    graph = sp.csr_array(graph - sp.diags_array(graph.diagonal()))
    graph.eliminate_zeros()
    if not graph.nnz:
        raise ValueError("X has no ties between different nodes; there is nothing to cluster.")
    return graph


def groups_of(sensitive_features: Any, n: int) -> tuple[Groups, np.ndarray]:
    """Groups, and codes (n, A) with -1 where missing.

    Parameters
    ----------
    sensitive_features : frame, mapping of name to (n,), series, or array (n,) or (n, A).
    """
    import pandas as pd

    from fairmt.data.attributes import encode_groups, fit_groups

    if isinstance(sensitive_features, Mapping | pd.DataFrame):
        frame = pd.DataFrame(sensitive_features)
    elif isinstance(sensitive_features, pd.Series):
        frame = sensitive_features.to_frame(sensitive_features.name or "group")
    else:
        values = np.asarray(sensitive_features)
        values = values[:, None] if values.ndim == 1 else values
        width = values.shape[1]
        columns = ["group"] if width == 1 else [f"group{i}" for i in range(width)]
        frame = pd.DataFrame(values, columns=columns)
    if len(frame) != n:
        raise ValueError(f"sensitive_features has {len(frame)} rows for {n} nodes.")
    names = [str(column) for column in frame.columns]
    frame.columns = pd.Index(names)
    groups = fit_groups(frame, names)
    return groups, encode_groups(frame, groups).numpy()
