"""What is believed of noisy gaps when a candidate is chosen by a tolerance."""

from __future__ import annotations

import numpy as np
import torch

from fairmt.path import MOST_MOVED, shrink


def dersimonian_laird(y: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Empirical-Bayes means, written out entry by entry."""
    w = [1 / e**2 for e in s]
    centre = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - centre) ** 2 for a, b in zip(w, y, strict=True))
    tau2 = max(0.0, (q - (len(y) - 1)) / (sum(w) - sum(a**2 for a in w) / sum(w)))
    v = [1 / (e**2 + tau2) for e in s]
    mean = sum(a * b for a, b in zip(v, y, strict=True)) / sum(v)
    return np.array([(e**2 * mean + tau2 * b) / (e**2 + tau2) for e, b in zip(s, y, strict=True)])


def test_gaps_are_drawn_to_their_mean_as_far_as_they_are_noisy() -> None:
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.01, 0.08, 40)
    gaps = np.abs(rng.normal(0.1, 0.05, 40) + errors * rng.normal(size=40))
    found, doubt = shrink(torch.tensor(gaps), torch.tensor(errors))
    freely = dersimonian_laird(gaps, errors)
    near = np.abs(freely - gaps) < MOST_MOVED * errors
    assert 20 < near.sum() < 40
    np.testing.assert_allclose(found[near], freely[near])
    # The others go as far as they may, in the same direction.
    direction = np.sign(freely - gaps)[~near]
    np.testing.assert_allclose(found[~near], gaps[~near] + direction * MOST_MOVED * errors[~near])
    assert bool((doubt <= torch.tensor(errors)).all())


def test_a_large_gap_is_not_hidden_by_many_small_ones() -> None:
    """One gap of .28 beside fifty of .05: it is to be seen above .15 in nearly all draws."""
    rng = np.random.default_rng(1)
    true, errors = np.full(51, 0.05), rng.uniform(0.02, 0.05, 51)
    true[0], errors[0] = 0.28, 0.06
    seen = 0
    for _ in range(200):
        gaps = np.abs(true + errors * rng.normal(size=51))
        seen += float(shrink(torch.tensor(gaps), torch.tensor(errors))[0][0]) > 0.15
    assert seen >= 0.85 * 200
    # Without a limit the fifty others would hide it.
    hidden = dersimonian_laird(np.r_[0.28, true[1:]], errors)[0]
    assert hidden < 0.15


def test_two_gaps_are_taken_as_they_are() -> None:
    gaps, errors = torch.tensor([0.1, 0.4]), torch.tensor([0.2, 0.2])
    assert torch.equal(shrink(gaps, errors)[0], gaps)
