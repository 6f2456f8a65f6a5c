"""Clusters of people in a graph, with every group's share in each."""

from fairmt.graphs.clusterer import Candidate, IFairNMTF
from fairmt.graphs.measures import balance, individual_balance, modularity

__all__ = ["Candidate", "IFairNMTF", "balance", "individual_balance", "modularity"]
