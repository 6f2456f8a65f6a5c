"""What the registry knows of fair graph clustering; the clusterer is `fairmt.graphs.IFairNMTF`."""

from __future__ import annotations

from typing import ClassVar

from fairmt.methods.base import Method


class GraphClustering(Method):
    """Base of `fairmt.graphs.IFairNMTF`; apart, so that the registry needs no scikit-learn."""

    name: ClassVar[str] = "ifairnmtf"
    kind: ClassVar[str] = "estimator"
    estimator: ClassVar[str] = "fairmt.graphs.IFairNMTF"
    summary: ClassVar[str] = "clusters of a graph in which every group has its share"
    tasks: ClassVar[tuple[str, ...]] = ()
    label_free: ClassVar[bool] = True
    limits: ClassVar[str] = (
        "clusters an undirected graph, and predicts no task; even shares in every cluster, which "
        "is parity of groups and not of individuals; new nodes need a new fit"
    )
    source: ClassVar[str] = "Ghodsi, Seyedi and Ntoutsi (PAKDD 2024), arXiv 2402.10756"
