"""The protocol that judges methods by frontiers, not by points."""

from fairmt.bench.collapse import collapse_candidates
from fairmt.bench.frontier import Frontier, Place
from fairmt.bench.hypervolume import hypervolume, non_dominated

__all__ = ["Frontier", "Place", "collapse_candidates", "hypervolume", "non_dominated"]
