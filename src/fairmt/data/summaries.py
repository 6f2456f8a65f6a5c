"""What is remembered of a column: sums that grow row by row, whether a table comes whole or not."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd


class Numbers:
    """Count, mean, spread and range of a column of numbers, NaN where missing."""

    def __init__(self) -> None:
        self.n = self.missing = 0
        self.mean = 0.0
        self.low, self.high = math.inf, -math.inf
        self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        known = values[~np.isnan(values)]
        self.missing += len(values) - len(known)
        if len(known) == 0:
            return
        mean = float(known.mean())
        n = self.n + len(known)
        # Squares are kept around the mean: sums of raw squares cancel where it is large.
        away = mean - self.mean
        self._squares += float(((known - mean) ** 2).sum()) + away**2 * self.n * len(known) / n
        self.mean += away * len(known) / n
        self.n = n
        self.low = min(self.low, float(known.min()))
        self.high = max(self.high, float(known.max()))

    @property
    def sd(self) -> float:
        """Of the population; 0 where nothing was seen."""
        return math.sqrt(self._squares / self.n) if self.n else 0.0


class Texts:
    """How often each text occurs.

    Beyond `limit` distinct ones the rarest so far are forgotten, so that a column of names or
    identifiers does not fill the memory.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.counts: Counter[str] = Counter()
        self.missing = 0
        self._limit = limit

    def add(self, text: pd.Series) -> None:
        counts = text.value_counts()
        self.missing += len(text) - int(counts.sum())
        for value, count in zip(counts.index.tolist(), counts.tolist(), strict=True):
            self.counts[value] += count
        if len(self.counts) > self._limit:
            self.counts = Counter(dict(self.counts.most_common(self._limit // 2)))


class Sample:
    """At most `size` of the values that were added, each kept with the same chance.

    All of them as long as they fit. What is kept does not depend on how the values were cut into
    pieces.
    """

    def __init__(self, size: int = 1_000_000) -> None:
        self.size = size
        self.values = np.empty(0)
        self._keys = np.empty(0)
        self._below = 1.0
        self._random = np.random.default_rng(0)

    def add(self, values: np.ndarray) -> None:
        keys = self._random.random(len(values))
        chosen = keys < self._below
        self._keys = np.concatenate([self._keys, keys[chosen]])
        self.values = np.concatenate([self.values, values[chosen]])
        while len(self.values) > self.size:
            self._below /= 2
            kept = self._keys < self._below
            self._keys, self.values = self._keys[kept], self.values[kept]
