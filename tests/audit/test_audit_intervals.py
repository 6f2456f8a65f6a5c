"""Intervals, tests and noise floors, against brute force and against simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fairmt
from fairmt.auditing import memory
from fairmt.auditing.intervals import (
    adjust,
    bias_corrected,
    binomial_variance,
    critical_range,
    gap_interval,
    gap_p_value,
    range_tail,
    smoothed,
    wilson,
)

REPLICATES = 1500


def brute_force(
    frame: pd.DataFrame, units: np.ndarray, replicates: int, seed: int, **settings: object
) -> np.ndarray:
    """Rates (R, rows of the table) of audits of tables whose units were drawn with replacement."""
    r = np.random.default_rng(seed)
    members = pd.Series(np.arange(len(frame))).groupby(units).apply(np.asarray).tolist()
    found = []
    for _ in range(replicates):
        drawn = r.integers(0, len(members), len(members))
        rows = np.concatenate([members[i] for i in drawn])
        result = fairmt.audit(frame.iloc[rows], n_boot=0, min_evidence=1, **settings)
        found.append(result.rates["value"].to_numpy())
    return np.array(found)


def small(n: int = 400, seed: int = 0) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    group = r.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    house = np.repeat(np.arange(n), 4)[:n]
    mood = r.normal(size=n)[house]
    y = (mood + r.normal(size=n) > 0.3 * (group == "b")).astype(int)
    guess = np.where(r.random(n) < 0.7, y, 1 - y)
    truth = mood + r.normal(size=n)
    return pd.DataFrame(
        {
            "group": group, "house": house, "weight": r.uniform(0.3, 3, n),
            "y": guess, "y.true": y, "z": truth + r.normal(size=n), "z.true": truth,
        }
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "settings", "unit"),
    [
        ("y:classification", {}, None),
        ("y:classification", {"weight": "weight"}, None),
        ("y:classification", {"cluster": "house"}, "house"),
        ("z:regression", {}, None),
    ],
)
def test_intervals_agree_with_a_bootstrap_of_the_rows(task, settings, unit) -> None:
    frame = small()
    units = np.arange(len(frame)) if unit is None else frame[unit].to_numpy()
    common = {"tasks": [task], "sensitive": ["group"], **settings}
    if task.startswith("z"):
        # Audits of resampled rows would rescale the target.
        common["notions"] = ["concordance_parity"]
    brute = brute_force(frame, units, 400, 1, **common)
    found = fairmt.audit(
        frame, n_boot=REPLICATES, interval="percentile", min_evidence=1, **common
    ).rates
    spread = brute.std(0)
    low, high = np.quantile(brute, [0.025, 0.975], axis=0)
    # 400 replicates leave a limit uncertain by about a seventh of a standard deviation.
    away = np.concatenate([found["low"] - low, found["high"] - high]) / np.tile(spread, 2)
    assert np.median(abs(away)) < 0.15
    assert np.quantile(abs(away), 0.9) < 0.35


def test_clusters_widen_the_intervals() -> None:
    # Everybody in a household of four has the same outcome and prediction.
    frame = small(600)
    for column in ("y", "y.true"):
        frame[column] = frame.groupby("house")[column].transform("first")
    common = {"tasks": ["y:classification"], "sensitive": ["group"], "n_boot": 400}
    alone = fairmt.audit(frame, **common).rates
    joint = fairmt.audit(frame, cluster="house", **common).rates
    every = alone["group"] == "everybody"
    wider = ((joint["high"] - joint["low"]) / (alone["high"] - alone["low"]))[every]
    np.testing.assert_allclose(wider, 2.0, rtol=0.2)


@pytest.mark.parametrize("settings", [{"weight": "weight"}, {"cluster": "house"}])
def test_rows_that_share_buckets_have_the_same_spread(settings, monkeypatch) -> None:
    frame = small(3000)
    common = {
        "tasks": ["y:classification"], "sensitive": ["group"], "n_boot": 800,
        "interval": "percentile", **settings,
    }  # fmt: skip
    monkeypatch.setattr(memory, "BUCKETS", 10_000)
    each = fairmt.audit(frame, **common).rates
    monkeypatch.setattr(memory, "BUCKETS", 300)
    shared = fairmt.audit(frame, **common).rates
    ratio = (shared["high"] - shared["low"]) / (each["high"] - each["low"])
    assert abs(ratio.median() - 1) < 0.1
    np.testing.assert_allclose(each["value"], shared["value"], atol=1e-12)


@pytest.mark.parametrize(
    ("task", "settings"),
    [("y:classification", {}), ("y:classification", {"weight": "weight"}), ("z:regression", {})],
)
def test_noise_floor_is_that_of_permuted_group_labels(task, settings) -> None:
    frame = small(900)
    common = {"tasks": [task], "sensitive": ["group"], **settings}
    found = fairmt.audit(frame, n_boot=2, **common).gaps.set_index("statistic")
    r = np.random.default_rng(3)
    permuted = []
    for _ in range(200):
        other = frame.assign(group=r.permutation(frame["group"].to_numpy()))
        gaps = fairmt.audit(other, n_boot=0, **common).gaps.set_index("statistic")["gap"]
        permuted.append(gaps)
    brute = pd.concat(permuted, axis=1)
    error = np.sqrt(brute.var(axis=1) * (1 / 200 + 1 / 40))
    difference = abs(found["noise_floor"] - brute.mean(axis=1))
    assert (difference < 4 * error + 0.02 * brute.mean(axis=1)).all()


def test_wilson_is_that_of_scipy() -> None:
    for hits, n in ((0, 5), (3, 10), (10, 10), (70, 200)):
        expected = stats.binomtest(hits, n).proportion_ci(0.9, method="wilson")
        low, high = wilson(np.array([hits / n]), np.array([n]), 0.9)
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = wilson(np.array([0.0]), np.array([0]), 0.9)
    assert np.isnan([low[0], high[0]]).all()


@pytest.mark.parametrize("k", [2, 3, 8, 30])
def test_range_of_normals_is_that_of_scipy(k: int) -> None:
    t = np.array([0.5, 2.0, 3.5, 5.0])
    expected = stats.studentized_range.sf(t, k, np.inf)
    np.testing.assert_allclose(range_tail(t, k), expected, atol=1e-6)
    assert range_tail(np.array(critical_range(k, 0.05)), k) == pytest.approx(0.05, abs=1e-9)


def simulate(n: list[int], p: list[float], tolerance: float, repeats: int = 1500) -> tuple:
    """Share of intervals that cover the true gap, and of tests that reject."""
    r = np.random.default_rng(0)
    sizes, truth = np.array(n), np.array(p)
    covered = rejected = 0
    for _ in range(repeats):
        q = r.binomial(sizes, truth) / sizes
        covariance = np.diag(binomial_variance(q, sizes))
        q = smoothed(q, sizes)
        low, high = gap_interval(q, covariance, 0.95)
        covered += low <= truth.max() - truth.min() <= high
        rejected += gap_p_value(q, covariance, tolerance) < 0.05
    return covered / repeats, rejected / repeats


@pytest.mark.parametrize(
    ("n", "p", "tolerance"),
    [
        ([500, 500], [0.7, 0.7], 0.0),
        ([500, 500], [0.7, 0.65], 0.05),
        ([40, 2000], [0.7, 0.65], 0.05),
        ([500] * 8, [0.7] * 8, 0.0),
        ([2000, 500, 300, 100, 50, 40], [0.7] * 5 + [0.5], 0.2),
        ([100] * 20, [0.9] * 20, 0.0),
        ([30, 60, 500, 500], [0.9] * 4, 0.0),
    ],
)
def test_gap_intervals_cover_and_tests_keep_their_level(n, p, tolerance) -> None:
    covered, rejected = simulate(n, p, tolerance)
    assert covered > 0.935
    assert rejected < 0.065


def test_a_gap_far_beyond_the_tolerance_is_found() -> None:
    assert simulate([500] * 4, [0.7, 0.7, 0.7, 0.5], 0.05)[1] > 0.9


def test_correction_takes_off_much_of_the_upward_bias_of_a_gap() -> None:
    r = np.random.default_rng(0)
    raw, corrected = [], []
    for seed in range(40):
        group = r.choice(list("abcdef"), 1200)
        y = r.integers(0, 2, 1200)
        p = 0.6 + 0.15 * (group == "a")
        guess = np.where(r.random(1200) < p, y, 1 - y)
        frame = {"y": guess, "y.true": y}
        gaps = fairmt.audit(
            frame, tasks=["y:classification"], sensitive={"g": group}, seed=seed, n_boot=100,
            notions="accuracy_parity",
        ).gaps  # fmt: skip
        raw.append(gaps["gap"].item())
        corrected.append(gaps["corrected"].item())
    assert np.mean(raw) > 0.19
    assert abs(np.mean(corrected) - 0.15) < 0.65 * (np.mean(raw) - 0.15)


def test_bias_corrected_limits_follow_efron() -> None:
    r = np.random.default_rng(0)
    boot = r.normal(size=(4001, 2))
    estimate = np.array([0.0, 0.4])
    low, high = bias_corrected(boot, estimate, 0.9)
    for j in range(2):
        z0 = stats.norm.ppf((boot[:, j] < estimate[j]).mean())
        shares = stats.norm.cdf(2 * z0 + stats.norm.ppf([0.05, 0.95]))
        expected = np.quantile(boot[:, j], shares)
        assert (low[j], high[j]) == pytest.approx(tuple(expected), abs=1e-3)


def test_adjustments_are_those_of_the_books() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjust(p, "holm"), [0.03, np.nan, 0.06, 0.06, 0.02])
    expected = stats.false_discovery_control(p[~np.isnan(p)])
    np.testing.assert_allclose(adjust(p, "benjamini-hochberg")[~np.isnan(p)], expected)
    np.testing.assert_array_equal(adjust(p, "none"), p)
    with pytest.raises(ValueError, match="adjust must be one of"):
        adjust(p, "bonferroni")


def test_verdicts_are_outside_only_where_the_test_says_so(people: pd.DataFrame, tasks) -> None:
    result = fairmt.audit(people, tasks=tasks, sensitive=["sex", "region"], tolerance=0.05)
    gaps = result.gaps
    assert set(gaps["verdict"]) > {"within your tolerance", "outside your tolerance"}
    outside = gaps["verdict"] == "outside your tolerance"
    assert (gaps.loc[outside, "p_adjusted"] < 0.05).all()
    assert (gaps.loc[outside, "low"] > 0).all()
    assert (gaps.loc[gaps["verdict"] == "within your tolerance", "gap"] <= 0.05).all()
    known = gaps.dropna(subset=["p_value"])
    assert (known["p_adjusted"] >= known["p_value"]).all()


def test_the_same_seed_gives_the_same_audit(people: pd.DataFrame, tasks) -> None:
    common = {"tasks": tasks, "sensitive": ["sex"], "n_boot": 30}
    one, two = fairmt.audit(people, seed=4, **common), fairmt.audit(people, seed=4, **common)
    assert one.to_json() == two.to_json()
    other = fairmt.audit(people, seed=5, **common)
    assert not one.gaps["noise_floor"].equals(other.gaps["noise_floor"])


def test_more_rows_than_hypergeometric_draws_allow_are_still_permuted() -> None:
    from fairmt.auditing.resampling import _exchanged

    counts = np.zeros((3, 6, 1))
    counts[0, 4:, 0], counts[1, 4:, 0] = (4e8, 8e8), (2e8, 4e8)
    drawn = _exchanged(counts, 5, np.random.default_rng(0))
    assert (drawn.sum((2, 3)) == [12e8, 6e8, 0]).all()
    share = drawn[:, :2, 5, 0] / drawn[:, :2].sum(2)[..., 0]
    np.testing.assert_allclose(share, 2 / 3, atol=1e-4)
