"""Counterfactual parity: how far a score moves when a generative model flips an attribute.

A flipped row differs from the original in two ways: in what goes with the attribute, and in what
the generator could not reconstruct. The second is often the larger, so that no figure here comes
without its control: the same reconstruction with the attribute left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairmt.auditing.intervals import percentile
from fairmt.auditing.resampling import poisson_draws
from fairmt.groups import Groups
from fairmt.methods.counterfactual import CounterfactualGenerator

_BUCKETS = 1024
_DISTANCES = ("flipped", "control", "effect")


@dataclass(frozen=True)
class Flip:
    """One output under the flip of one attribute: means over rows, each with an interval.

    Attributes
    ----------
    n : rows whose attribute is known; Kish's effective number under weights.
    flipped : ``|score(x) - score(x')|``, x' reconstructed with the attribute flipped.
    control : ``|score(x) - score(x°)|``, x° reconstructed with the attribute unchanged.
    effect : ``|score(x°) - score(x')|``: what the flip does beyond the reconstruction.
    """

    attribute: str
    output: str
    n: float
    flipped: float
    flipped_low: float
    flipped_high: float
    control: float
    control_low: float
    control_high: float
    effect: float
    effect_low: float
    effect_high: float


@dataclass(frozen=True)
class CounterfactualParity:
    """Every output under the flip of every attribute."""

    flips: tuple[Flip, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row per attribute and output."""
        return pd.DataFrame([asdict(flip) for flip in self.flips])


@torch.no_grad()
def counterfactual_parity(
    score: Callable[[Tensor], Tensor],
    table: Any,
    groups: Groups,
    generator: CounterfactualGenerator,
    *,
    outputs: Sequence[str] = (),
    replicates: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> CounterfactualParity:
    """Mean distances between a model's scores for rows and for their counterfactuals.

    One attribute is flipped at a time, to every other group, and distances are averaged over
    these. Both reconstructions share the mean code of the row and the noise of its categories, so
    that nothing but the attribute lies between them. Intervals are percentiles of the bootstrap
    over units (households, patients), or over rows where there are none; they do not know that
    the generator is an estimate too.

    Parameters
    ----------
    score : features (N, D) to scores (N,) or (N, K), probabilities as a rule.
    table : TensorTable
        Rows to audit, encoded as those that the generator was trained on, and preferably others.
    generator : see `fairmt.methods.counterfactual.fit_generator`.
    outputs : names of the K scores.

    Raises
    ------
    ValueError
        If the number of names is not that of scores, or an attribute is known for no row.
    """
    x, codes = table.features, table.attributes
    own = _columns(score(x))
    names = list(outputs) or [f"score {k}" for k in range(own.shape[1])]
    if len(names) != own.shape[1]:
        raise ValueError(f"outputs names {len(names)} scores; the model gives {own.shape[1]}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        noise = generator.noise(len(x), x)
    z = generator.code(x)[0]
    same = _columns(score(generator.rows(generator.decode(z, codes), noise)))
    weights = np.ones(len(x)) if table.weights is None else table.weights.double().numpy()
    unit = np.arange(len(x)) if table.units is None else np.asarray(table.units)
    flips: list[Flip] = []
    for position, attribute in enumerate(groups.attributes):
        known = (codes[:, position] >= 0).numpy()
        if not known.any():
            raise ValueError(f"Sensitive attribute '{attribute.name}' is missing in every row.")
        distances = np.zeros((len(x), len(_DISTANCES), len(names)))
        others = range(1, generator.n_groups(position))
        for offset in others:
            other = generator.another(codes, position, torch.full((len(x),), offset))
            flipped = _columns(score(generator.rows(generator.decode(z, other), noise)))
            pairs = ((own, flipped), (own, same), (same, flipped))
            distances += np.stack([np.abs(a - b) for a, b in pairs], 1) / len(others)
        w = weights[known]
        boot = _bootstrap(distances[known], w, unit[known], replicates, seed)
        mean = np.average(distances[known], axis=0, weights=w)
        low, high = percentile(boot, confidence)
        kish = float(w.sum() ** 2 / (w**2).sum())
        for k, name in enumerate(names):
            figures = {}
            for i, distance in enumerate(_DISTANCES):
                figures[distance] = float(mean[i, k])
                figures[f"{distance}_low"] = float(low[i, k])
                figures[f"{distance}_high"] = float(high[i, k])
            flips.append(Flip(attribute.name, name, kish, **figures))
    return CounterfactualParity(tuple(flips))


def _columns(scores: Tensor) -> np.ndarray:
    """Scores as (N, K)."""
    found = scores.detach().double().cpu().numpy()
    return found[:, None] if found.ndim == 1 else found


def _bootstrap(
    values: np.ndarray, weights: np.ndarray, unit: np.ndarray, replicates: int, seed: int
) -> np.ndarray:
    """Weighted means (R, ...) of rows (N, ...) under Poisson weights of units, in buckets."""
    _, bucket = np.unique(unit, return_inverse=True)
    bucket = bucket % _BUCKETS
    n = int(bucket.max()) + 1
    flat = np.concatenate([np.ones((len(values), 1)), values.reshape(len(values), -1)], 1)
    sums = np.stack(
        [np.bincount(bucket, column * weights, minlength=n) for column in flat.T], axis=1
    )
    drawn = poisson_draws(n, replicates, seed) @ sums
    means = drawn[:, 1:] / np.maximum(drawn[:, :1], 1e-12)
    return means.reshape(replicates, *values.shape[1:])
