"""Train, calibration, validation and test rows: whole units on one side, groups everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

PARTS = ("train", "calibration", "validation", "test")


def split(
    rows: int | pd.DataFrame,
    *,
    fractions: Sequence[float] = (0.6, 0.1, 0.1, 0.2),
    unit: Sequence[object] | np.ndarray | None = None,
    stratify: Sequence[object] | np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Row positions of the four parts.

    Parameters
    ----------
    fractions : shares of train, calibration, validation and test; they sum to 1.
    unit : array (N,); rows of one unit (household, patient, writer) stay together. A row without
        one is a unit of its own.
    stratify : array (N,); each part gets its share of every value, as far as units allow (a unit
        counts for the rarest value among its rows).

    Raises
    ------
    ValueError
        If fractions do not sum to 1, or there are too few units to fill the parts.
    """
    n = rows if isinstance(rows, int) else len(rows)
    shares = check_fractions(fractions)
    for name, values in (("unit", unit), ("stratify", stratify)):
        if values is not None and len(values) != n:
            raise ValueError(f"{name} must have {n} values, one a row. Found {len(values)}.")
    codes = np.arange(n) if unit is None else unit_codes(unit)
    n_units = int(codes.max()) + 1 if n else 0
    wanted = int((shares > 0).sum())
    if n_units < wanted:
        what = "rows" if unit is None else "units (split_by)"
        raise ValueError(f"{n_units} {what} cannot fill {wanted} parts; more data is needed.")
    generator = np.random.default_rng(seed)
    stratum = np.zeros(n_units, dtype=int)
    if stratify is not None:
        values, counts = np.unique(
            pd.factorize(np.asarray(stratify), use_na_sentinel=False)[0], return_inverse=True
        )
        frequency = np.bincount(counts, minlength=len(values))
        rank = np.argsort(np.argsort(-frequency))
        np.maximum.at(stratum, codes, rank[counts])
    part = np.empty(n_units, dtype=int)
    bounds = np.cumsum(shares)
    offset = 0.0
    for value in np.unique(stratum):
        members = generator.permutation(np.flatnonzero(stratum == value))
        # Small strata must not all fall into the first part: each begins at a place of its own.
        at = (np.arange(len(members)) + offset + generator.random()) / len(members)
        part[members] = np.minimum(np.searchsorted(bounds, at % 1.0, side="right"), 3)
        offset += 0.5
    # A part may be left empty by rounding when there are few units.
    for p in np.flatnonzero(shares > 0):
        if not (part == p).any():
            largest = np.bincount(part, minlength=4).argmax()
            part[np.flatnonzero(part == largest)[0]] = p
    return {name: np.flatnonzero(part[codes] == i) for i, name in enumerate(PARTS)}


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
    """The shares of the four parts (4,), or ValueError."""
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (4,) or (shares < 0).any() or not abs(shares.sum() - 1) <= 1e-9:
        raise ValueError(f"fractions must be four shares that sum to 1. Found {list(fractions)}.")
    return shares


def unit_codes(unit: Sequence[object] | np.ndarray | pd.Series) -> np.ndarray:
    """A number (N,) for every row's unit, from 0; a row without a unit has one of its own."""
    codes, known = pd.factorize(np.asarray(unit))
    alone = codes < 0
    codes[alone] = len(known) + np.arange(alone.sum())
    return codes
