"""Fairness for heterogeneous multi-task learning."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module, or module:name. Everything is imported when it is used, so that
# `import fairmt` costs next to nothing.
_PUBLIC = {
    "Classification": "fairmt.tasks",
    "Detection": "fairmt.tasks",
    "Regression": "fairmt.tasks",
    "Attribute": "fairmt.groups",
    "Groups": "fairmt.groups",
    "FairMT": "fairmt.methods",
    "MLP": "fairmt.models",
    "LinearHeads": "fairmt.models",
    "FairMTLearner": "fairmt.estimator",
    "MMMFair": "fairmt.boosting",
    "IFairNMTF": "fairmt.graphs",
    "Schema": "fairmt.data",
    "ParquetTable": "fairmt.data",
    "load_dataset": "fairmt.data:load",
    "datasets": "fairmt.data",
    "dataset_card": "fairmt.data:card",
    "generate": "fairmt.data",
    "audit": "fairmt.auditing",
    "audit_model": "fairmt.auditing",
    "compare": "fairmt.auditing",
    "dependence_score": "fairmt.auditing",
    "prediction_consistency": "fairmt.auditing",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, _, original = _PUBLIC[name].partition(":")
        return getattr(import_module(module), original or name)
    raise AttributeError(f"module 'fairmt' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
