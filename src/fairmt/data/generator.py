"""Made-up people with a known right answer: bias and missing labels to order."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.tasks import Classification, Detection, Regression

ORIGINS = ("north", "south", "east", "west")
_SHARES = (0.55, 0.25, 0.15, 0.05)
_N_FEATURES = 12


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
        mean of `income` (N, 1), given features and group.
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
    x = r.normal(size=(n, _N_FEATURES)) + 0.3 * r.normal(size=(n, 1))
    behind = np.isin(origin, (1, 3)).astype(float)
    weights = np.random.default_rng(7).normal(size=(_N_FEATURES, 7)) / np.sqrt(_N_FEATURES / 3)
    weights[-2:] = 0.0
    # What leads to good outcomes is spread unevenly ...
    good = weights[:, [2, 3, 4, 5, 6]].sum(1)
    good /= np.linalg.norm(good)
    x -= bias * (0.8 * sex + 1.1 * behind)[:, None] * good
    # ... the last two features say who somebody is, and nothing else ...
    x[:, -2] += bias * 2.5 * sex
    x[:, -1] += bias * 2.5 * behind
    # ... and for some groups merit shows partly in other features than for the majority.
    tilt = bias * (0.15 * sex + 0.25 * behind)[:, None]
    other = np.random.default_rng(8).normal(size=(_N_FEATURES, 7)) / np.sqrt(_N_FEATURES / 3)
    other[-2:] = 0.0
    score = (x @ weights + tilt * (x @ other)) / np.sqrt(1 + tilt**2)
    job_p = np.exp(1.0 * score[:, :3] + np.array([0.8, 0.0, -1.2]))
    job_p /= job_p.sum(1, keepdims=True)
    job = (r.random(n)[:, None] > job_p.cumsum(1)).sum(1).clip(0, 2)
    benefit_p = 1 / (1 + np.exp(-(1.1 * score[:, 3:6] - np.array([0.0, 0.9, 1.8]))))
    benefits = (r.random((n, 3)) < benefit_p).astype(float)
    income_mean = 30 + 9 * np.tanh(score[:, 6:7])
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
    )
