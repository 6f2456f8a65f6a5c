"""Made-up people with a known right answer: bias and missing labels to order."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.tasks import Classification, Detection, Regression

ORIGINS = ("north", "south", "east", "west")
_SHARES = (0.55, 0.25, 0.15, 0.05)
_N_FEATURES = 12
# Per unit of bias, for sex and for origin: how far good features move, how much tells the group,
# and how much merit shows elsewhere; and the part that all features of a person share.
_STEP = (0.8, 1.1)
_TELL = 2.5
_TILT = (0.15, 0.25)
_COMMON = 0.3


def generate(n: int = 20_000, *, seed: int = 0, bias: float = 1.0, missing: float = 0.2) -> Bundle:
    """A table with three outcomes of different kinds and two sensitive attributes.

    `job` is one of three classes, `benefits` three labels, `income` a number. Attributes are sex
    and origin (four groups, the smallest 5 %). People live in households of up to four, whose
    origin they share.

    Parameters
    ----------
    bias : float, 0 or more
        0 is exactly fair: features and outcomes have the same distribution in every group. Larger
        values make good outcomes rarer in some groups, so that a model that goes by the odds
        overlooks more of those who deserve them; let two features tell the groups apart; and
        make merit show partly in other features, so that the groups are harder to predict.
    missing : float in [0, 1)
        Share of missing labels, entry by entry; it grows with the group when there is bias.

    Returns
    -------
    Bundle
        `truth` holds the true probabilities of `job` (N, 3) and `benefits` (N, 3), and the true
        mean of `income` (N, 1), given features and group; `truth_given_features` the same for
        somebody who does not see the group.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1. Found {n}.")
    if bias < 0:
        raise ValueError(f"bias must not be negative. Found {bias}.")
    if not 0 <= missing < 1:
        raise ValueError(f"missing must lie in [0, 1). Found {missing}.")
    r = np.random.default_rng(seed)
    household = np.repeat(np.arange(n), r.integers(1, 5, n))[:n]
    origin = r.choice(4, size=n, p=_SHARES)[household]
    sex = r.integers(0, 2, n)
    x = r.normal(size=(n, _N_FEATURES)) + _COMMON * r.normal(size=(n, 1))
    behind = np.isin(origin, (1, 3)).astype(float)
    weights = np.random.default_rng(7).normal(size=(_N_FEATURES, 7)) / np.sqrt(_N_FEATURES / 3)
    weights[-2:] = 0.0
    # What leads to good outcomes is spread unevenly ...
    good = weights[:, [2, 3, 4, 5, 6]].sum(1)
    good /= np.linalg.norm(good)
    x -= bias * (_STEP[0] * sex + _STEP[1] * behind)[:, None] * good
    # ... the last two features say who somebody is, and nothing else ...
    x[:, -2] += bias * _TELL * sex
    x[:, -1] += bias * _TELL * behind
    # ... and for some groups merit shows partly in other features than for the majority.
    tilt = bias * (_TILT[0] * sex + _TILT[1] * behind)[:, None]
    other = np.random.default_rng(8).normal(size=(_N_FEATURES, 7)) / np.sqrt(_N_FEATURES / 3)
    other[-2:] = 0.0
    job_p, benefit_p, income_mean = _truth(x, tilt, weights, other)
    job = (r.random(n)[:, None] > job_p.cumsum(1)).sum(1).clip(0, 2)
    benefits = (r.random((n, 3)) < benefit_p).astype(float)
    income = income_mean[:, 0] + 6 * r.normal(size=n)
    frame = pd.DataFrame({f"x{i}": x[:, i] for i in range(_N_FEATURES)})
    frame["region"] = np.array(["a", "b", "c"])[r.integers(0, 3, n)]
    frame["sex"] = np.array(["men", "women"])[sex]
    frame["origin"] = np.array(ORIGINS)[origin]
    frame["household"] = household
    hidden = missing * (1 + 0.5 * min(bias, 1.0) * behind)
    frame["job"] = np.array(["manual", "office", "lead"], dtype=object)[job]
    frame.loc[r.random(n) < hidden, "job"] = None
    for k, name in enumerate(("housing", "health", "transport")):
        frame[name] = np.where(r.random(n) < hidden, np.nan, benefits[:, k])
    frame["income"] = np.where(r.random(n) < hidden, np.nan, income)
    return Bundle(
        frame,
        (
            Classification("job", ("manual", "office", "lead")),
            Detection("benefits", ("housing", "health", "transport")),
            Regression("income"),
        ),
        ("sex", "origin"),
        {**{f"x{i}": "numeric" for i in range(_N_FEATURES)}, "region": "categorical"},
        split_by="household",
        truth={"job": job_p, "benefits": benefit_p, "income": income_mean},
        truth_given_features=_blind(x, bias, good, weights, other),
    )


def _truth(
    x: np.ndarray, tilt: np.ndarray, weights: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of job and benefits, and the mean of income, given features and tilt."""
    score = (x @ weights + tilt * (x @ other)) / np.sqrt(1 + tilt**2)
    job = np.exp(score[:, :3] + np.array([0.8, 0.0, -1.2]))
    job /= job.sum(1, keepdims=True)
    benefits = 1 / (1 + np.exp(-(1.1 * score[:, 3:6] - np.array([0.0, 0.9, 1.8]))))
    return job, benefits, 30 + 9 * np.tanh(score[:, 6:7])


def _blind(
    x: np.ndarray, bias: float, good: np.ndarray, weights: np.ndarray, other: np.ndarray
) -> dict[str, np.ndarray]:
    """The truth for somebody who sees the features alone: the mean over who it may be."""
    precision = np.linalg.inv(np.eye(_N_FEATURES) + _COMMON**2)
    share_behind = _SHARES[1] + _SHARES[3]
    log_weight, truths = [], []
    for sex, behind in product((0.0, 1.0), (0.0, 1.0)):
        centre = -bias * (_STEP[0] * sex + _STEP[1] * behind) * good
        centre = centre + bias * _TELL * np.eye(_N_FEATURES)[-2:].T @ np.array([sex, behind])
        away = x - centre
        share = 0.5 * (share_behind if behind else 1 - share_behind)
        log_weight.append(np.log(share) - 0.5 * ((away @ precision) * away).sum(1))
        tilt = np.full((len(x), 1), bias * (_TILT[0] * sex + _TILT[1] * behind))
        truths.append(_truth(x, tilt, weights, other))
    weight = np.exp(np.stack(log_weight) - np.max(log_weight, 0))
    weight /= weight.sum(0)
    return {
        name: sum(w[:, None] * t[k] for w, t in zip(weight, truths, strict=True))
        for k, name in enumerate(("job", "benefits", "income"))
    }
