"""How much predictions depend on sensitive attributes of any kind, numbers among them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairmt.auditing.columns import Table, categories
from fairmt.auditing.intervals import percentile
from fairmt.auditing.memory import BUCKETS
from fairmt.auditing.resampling import poisson_draws
from fairmt.auditing.rows import check_weights
from fairmt.data.attributes import BAND_FROM
from fairmt.data.table import is_number
from fairmt.dependence import FEATURES, RIDGE, Sums, Variable, dependence, median_distance, sums_of

MOST_CELLS = 512
_BAND_ROWS = 10
"""Rows exchange attributes with rows of nearly the same given number. In wider bands what depends
on that number alone would look like more than chance."""
_HELD = 20_000_000
"""Numbers that sums by bucket may take; fewer buckets where there are many features."""


@dataclass(frozen=True)
class DependenceScore:
    """How much predictions depend on attributes, from 0 (not at all) to 1.

    Scores can be compared at equal n, features and ridge alone: they are above 0 by chance, the
    more so the fewer rows there are.

    Attributes
    ----------
    predictions, attributes, given : names of the columns; given is None without any.
    n : rows in which all of them are known.
    low, high : interval of the score, from a bootstrap over rows or clusters.
    chance : mean score with attributes exchanged among rows or clusters of the same `given`.
    p_value : share of such exchanges with a score at least as large.
    """

    predictions: str
    attributes: str
    given: str | None
    n: int
    score: float
    low: float
    high: float
    chance: float
    p_value: float
    confidence: float
    features: int
    ridge: float

    @property
    def excess(self) -> float:
        """The score less what chance shows."""
        return self.score - self.chance

    def to_frame(self) -> pd.DataFrame:
        """One row; put several below each other with `pandas.concat`."""
        return pd.DataFrame([asdict(self) | {"excess": self.excess}])

    def __str__(self) -> str:
        given = "" if self.given is None else f" given {self.given}"
        return (
            f"{self.predictions} on {self.attributes}{given}: {self.score:.3f} "
            f"[{self.low:.3f}, {self.high:.3f}], by chance {self.chance:.3f} "
            f"(p = {self.p_value:.3f}, n = {self.n:,})"
        )


def dependence_score(
    predictions: Any,
    attributes: Any,
    given: Any = None,
    *,
    weights: Any = None,
    clusters: Any = None,
    n_boot: int = 200,
    permutations: int = 100,
    confidence: float = 0.95,
    features: int = FEATURES,
    ridge: float = RIDGE,
    seed: int = 0,
) -> DependenceScore:
    """Normalised kernel dependence of predictions on all attributes together.

    0 is demographic parity; with the true outcome as `given`, equalized odds. The measure is
    `fairmt.dependence`'s.

    Parameters
    ----------
    predictions, attributes, given : frame, series, mapping from name to array, or array
        Columns of a table as `fairmt.audit` reads it: probabilities, predicted classes or values;
        attributes; the true outcome. Several columns make one variable. Numbers with more than
        12 distinct values are used as numbers, everything else as categories.
    weights : array (N,), sample weights.
    clusters : array (N,), units that are resampled as a whole, and exchanged with others of equal
        size.
    n_boot, permutations : replicates of the interval and of chance; 0 leaves either out as NaN.
    features, ridge : of a number, and ε; see `fairmt.dependence`.

    Raises
    ------
    ValueError
        For columns of different lengths, infinite numbers, more than 512 combinations of
        categories, or fewer than two rows without a missing value.
    """
    read = [_read(predictions, "predictions"), _read(attributes, "attributes")]
    read += [] if given is None else [_read(given, "given")]
    known = _known(read)
    w = np.ones(len(known)) if weights is None else np.asarray(weights, dtype=np.float64)
    units = np.arange(len(known)) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    for name, own in (("weights", w), ("clusters", units)):
        if own.shape != known.shape:
            raise ValueError(f"{name} must be ({len(known)},). Found shape {own.shape}.")
    check_weights(w)
    y, x, *z = (r.variable(known) for r in read)
    rows = _Rows(y, x, z[0] if z else None, torch.from_numpy(w[known]), features, ridge)
    units = np.unique(units[known], return_inverse=True)[1]

    low = high = chance = p_value = float("nan")
    buckets = rows.by_bucket(_bucket_of(units, rows.width, seed) if n_boot else 0 * units)
    score = float(rows.score(tuple(s.sum(0) for s in buckets)))
    if n_boot:
        draws = torch.from_numpy(poisson_draws(len(buckets[0]), n_boot, seed))
        drawn = np.array([rows.score(_weighted(buckets, d)).item() for d in draws])
        # Resampling adds noise of its own, which makes scores larger: only the spread counts.
        ends = percentile(score + drawn - drawn.mean(), confidence)
        low, high = (float(np.clip(e, 0.0, 1.0)) for e in ends)
    if permutations:
        random = np.random.default_rng(seed)
        strata = read[2].strata(known) if z else np.zeros(len(units), dtype=np.int64)
        exchanged = [rows.exchanged(_exchange(units, strata, random)) for _ in range(permutations)]
        chance = float(np.mean(exchanged))
        p_value = (1 + sum(e >= score for e in exchanged)) / (1 + permutations)
    names = [r.name for r in read] + [None]
    return DependenceScore(
        str(names[0]), str(names[1]), names[2], int(known.sum()), score, low, high, chance, p_value,
        confidence, features, ridge,
    )  # fmt: skip


@dataclass(frozen=True)
class _Read:
    """Columns that make one variable: codes of categories, -1 where missing, and numbers."""

    name: str
    codes: list[np.ndarray]
    numbers: list[np.ndarray]

    @property
    def known(self) -> np.ndarray:
        """(N,), where no column is missing."""
        parts = [c >= 0 for c in self.codes] + [~np.isnan(v) for v in self.numbers]
        return np.logical_and.reduce(parts)

    def variable(self, rows: np.ndarray) -> Variable:
        """Some rows: the combinations that occur, and numbers over their median distance."""
        found = Variable()
        if self.codes:
            stacked = np.stack([c[rows] for c in self.codes], 1)
            cells, joint = np.unique(stacked, axis=0, return_inverse=True)
            if len(cells) > MOST_CELLS:
                raise ValueError(
                    f"{self.name} has {len(cells)} combinations of categories, more than "
                    f"{MOST_CELLS}; pool some."
                )
            found = Variable(torch.from_numpy(joint.reshape(-1)), len(cells))
        if self.numbers:
            values = np.stack([v[rows] for v in self.numbers], 1)
            spread = values.std(0)
            scaled = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
            numbers = torch.from_numpy(scaled)
            found = found.join(Variable(numbers=numbers / median_distance(numbers)))
        return found

    def strata(self, rows: np.ndarray) -> np.ndarray:
        """Rows that are alike, (n,) codes: of equal categories, and numbers in the same band."""
        columns = [c[rows] for c in self.codes]
        for values in (v[rows] for v in self.numbers):
            rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
            columns.append(rank // _BAND_ROWS)
        return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1)


def _read(source: Any, what: str) -> _Read:
    if isinstance(source, pd.Series):
        source = {str(source.name or what): source.reset_index(drop=True)}
    elif isinstance(source, np.ndarray):
        columns = source[:, None] if source.ndim == 1 else source
        names = [what] if columns.shape[1] == 1 else [f"{what}{i}" for i in range(columns.shape[1])]
        source = dict(zip(names, columns.T, strict=True))
    table = Table.of(source, what)
    codes, numbers = [], []
    for name in table.names():
        values = table.values(name)
        found = categories(values)
        if is_number(values.dtype) and len(found.names) > BAND_FROM:
            numbers.append(table.numbers(name, f"Column of {what}"))
        else:
            codes.append(found.codes.astype(np.int64))
    return _Read(" × ".join(table.names()), codes, numbers)


def _known(read: list[_Read]) -> np.ndarray:
    """(N,), where nothing is missing."""
    parts = [r.known for r in read]
    for part, r in zip(parts, read, strict=True):
        if len(part) != len(parts[0]):
            raise ValueError(f"{r.name} has {len(part)} rows; {read[0].name} has {len(parts[0])}.")
    known: np.ndarray = np.logical_and.reduce(parts)
    if known.sum() < 2:
        raise ValueError(
            f"Only {known.sum()} of {len(known)} rows have predictions, attributes and what is "
            "given; two at least are needed."
        )
    return known


class _Rows:
    """Rows as features, whose sums give the score."""

    def __init__(
        self,
        y: Variable,
        x: Variable,
        z: Variable | None,
        weights: Tensor,
        features: int,
        ridge: float,
    ) -> None:
        self._x, self._z, self._weights = x, z, weights
        self._per_number, self._ridge = features, ridge
        self._fx, self._fy = self._features(x), self._features(y)
        self._fz = None if z is None else z.features(torch.float64, features)
        p, q = self._fx.shape[1], self._fy.shape[1]
        r = 0 if self._fz is None else self._fz.shape[1]
        self.width = p * p + p * q + q * q + r * (p + q + r)

    def _features(self, variable: Variable) -> Tensor:
        joined = variable if self._z is None else variable.join(self._z)
        return joined.features(torch.float64, self._per_number)

    def by_bucket(self, bucket: np.ndarray) -> Sums:
        """Sums of every bucket's rows, (B, ...)."""
        order = np.argsort(bucket, kind="stable")
        pieces = np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1)
        found = []
        for rows in map(torch.from_numpy, pieces):
            z = None if self._fz is None else self._fz[rows]
            found.append(sums_of(self._fx[rows], self._fy[rows], self._weights[rows], z))
        return tuple(torch.stack(s) for s in zip(*found, strict=True))

    def score(self, sums: Sums) -> Tensor:
        return dependence(sums, self._ridge).score

    def exchanged(self, order: np.ndarray) -> float:
        """The score with the attributes in another order."""
        rows = torch.from_numpy(order)
        codes, numbers = self._x.codes, self._x.numbers
        moved = Variable(
            None if codes is None else codes[rows],
            self._x.cells,
            None if numbers is None else numbers[rows],
        )
        fx = self._fx[rows] if self._z is None else self._features(moved)
        return float(self.score(sums_of(fx, self._fy, self._weights, self._fz)))


def _weighted(buckets: Sums, draw: Tensor) -> Sums:
    return tuple((draw @ s.flatten(1)).view(s.shape[1:]) for s in buckets)


def _bucket_of(units: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Every row's bucket: its own unit, or one drawn at random where there are many units."""
    n_units = int(units.max()) + 1
    most = max(64, min(BUCKETS, _HELD // width))
    if n_units <= most:
        return units
    drawn: np.ndarray = np.random.default_rng(seed).integers(0, most, n_units)[units]
    return drawn


def _exchange(units: np.ndarray, strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An order (n,) of rows in which whole units have changed places with units like them.

    Units are alike if they have as many rows of every stratum.
    """
    signature = np.zeros(int(units.max()) + 1, dtype=np.int64)
    # Sums of large random numbers are equal for equal strata alone, and exact modulo 2^64.
    np.add.at(signature, units, random.integers(2**62, size=int(strata.max()) + 1)[strata])
    place = random.random(len(signature))
    order = np.empty(len(units), dtype=np.int64)
    order[np.lexsort((strata, units, signature[units]))] = np.lexsort(
        (strata, place[units], signature[units])
    )
    return order
