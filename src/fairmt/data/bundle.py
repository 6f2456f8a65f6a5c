"""A table with everything that is needed to train on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fairmt.tasks import Task

if TYPE_CHECKING:
    from fairmt.data.catalog.cards import Card


@dataclass
class Bundle:
    """A frame, and which columns are what.

    Attributes
    ----------
    features : mapping from column to 'numeric' or 'categorical'.
    bins : inner edges of numeric sensitive attributes.
    split_by : column of the unit that a split must keep together.
    truth : for generated data, the true probabilities (N, K), or the true mean, of every task;
        `truth_given_features` the same without knowledge of the group.
    """

    frame: pd.DataFrame
    tasks: tuple[Task, ...]
    sensitive: tuple[str, ...]
    features: Mapping[str, str]
    split_by: str | None = None
    weight: str | None = None
    bins: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    card: Card | None = None
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    truth_given_features: Mapping[str, np.ndarray] = field(default_factory=dict)

    def learner_settings(self) -> dict[str, Any]:
        """Arguments for `FairMTLearner` that describe this table."""
        return {
            "tasks": self.tasks,
            "sensitive": self.sensitive,
            "features": dict(self.features),
            "bins": dict(self.bins),
            "split_by": self.split_by,
            "weight": self.weight,
        }
