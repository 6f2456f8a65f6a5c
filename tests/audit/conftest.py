"""Predictions to audit: made up, with the truth, attributes and every kind of task beside them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

TASKS = ["job:classification", "benefits:detection", "income:regression"]
CLASSES = ("lead", "manual", "office")
LABELS = ("health", "housing")


def predictions(n: int = 3000, seed: int = 0, scores: bool = True) -> pd.DataFrame:
    """People in four regions of unequal size and two sexes, some labels and attributes missing."""
    r = np.random.default_rng(seed)
    region = r.choice(["north", "south", "east", "west"], n, p=[0.5, 0.3, 0.15, 0.05])
    sex = r.choice(["men", "women"], n)
    behind = (region == "south") * 0.6 + (sex == "women") * 0.3
    logits = r.normal(size=(n, 3)) - behind[:, None] * np.array([1.0, 0.0, 0.4])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    job = (r.random(n)[:, None] > p.cumsum(1)).sum(1).clip(0, 2)
    frame = pd.DataFrame({"sex": sex, "region": region})
    frame["job"] = np.array(CLASSES)[p.argmax(1)]
    frame["job.true"] = np.array(CLASSES, dtype=object)[job]
    for k, name in enumerate(LABELS):
        q = 1 / (1 + np.exp(-(r.normal(size=n) - behind + k)))
        frame[f"benefits.{name}.true"] = np.where(r.random(n) < q, 1.0, 0.0)
        frame[f"benefits.{name}.decision"] = (q > 0.5).astype(int)
        if scores:
            frame[f"benefits.{name}"] = q
    if scores:
        for k, name in enumerate(CLASSES):
            frame[f"job.{name}"] = p[:, k]
    mean = 30 + 4 * r.normal(size=n) - 3 * behind
    frame["income"] = mean
    frame["income.true"] = mean + 2 * r.normal(size=n) + behind
    frame["household"] = np.repeat(np.arange(n), 3)[:n]
    frame["weight"] = r.uniform(0.5, 2.0, n)
    frame["person"] = np.arange(n)
    for column in ("job.true", "benefits.health.true", "income.true", "sex", "region"):
        frame.loc[r.random(n) < 0.1, column] = None
    return frame


@pytest.fixture(scope="session")
def people() -> pd.DataFrame:
    return predictions()


@pytest.fixture
def tasks() -> list[str]:
    return list(TASKS)


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(predictions=predictions, tasks=TASKS)
