"""What an audit says in words, and what it warns of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fairmt
from fairmt.auditing.findings import be, count, listed


def kinds(result: fairmt.auditing.AuditResult) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for flag in result.flags:
        found.setdefault(flag.kind, []).append(flag.sentence)
    return found


def coin(n: int = 2000, seed: int = 0, right: float = 0.8) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    y = r.integers(0, 2, n)
    return pd.DataFrame(
        {
            "g": r.choice(["a", "b"], n),
            "y": np.where(r.random(n) < right, y, 1 - y),
            "y.true": y,
        }
    )


def audit(frame: pd.DataFrame, task: str = "y:classification", **settings):
    return fairmt.audit(frame, tasks=[task], sensitive=["g"], **settings)


def test_nothing_misleads_where_nothing_does() -> None:
    flags = kinds(audit(coin(20_000), n_boot=0))
    assert flags == {}


def test_constant_predictions_are_named() -> None:
    flags = kinds(audit(coin().assign(y=0), n_boot=0))
    assert any("y=1 is predicted for nobody" in s for s in flags["constant"])
    assert any("y=0 is predicted for everybody" in s for s in flags["constant"])
    frame = coin().rename(columns={"y": "z", "y.true": "z.true"}).assign(z=0.5)
    flags = kinds(audit(frame, "z:regression", n_boot=0))
    assert flags["constant"] == ["z: everybody is given the same prediction."]


def test_decisions_that_are_constant_in_one_group_are_named() -> None:
    frame = coin()
    frame.loc[frame["g"] == "b", "y"] = 0
    flags = kinds(audit(frame, n_boot=0))
    assert "y=1 is never predicted for g=b." in flags["constant"]


def test_dead_comparisons_are_counted_with_good_grammar() -> None:
    perfect = coin().assign(y=lambda f: f["y.true"])
    result = audit(perfect, n_boot=0, notions="accuracy_parity")
    assert kinds(result)["dead"][0].startswith("1 comparison is dead")
    result = audit(perfect, n_boot=0, notions="equal_opportunity")
    assert kinds(result)["dead"][0].startswith("2 comparisons are dead")
    assert result.findings[0].startswith("No gap could be judged")


def test_a_tiny_group_behind_the_largest_gap_is_named() -> None:
    frame = coin()
    frame.loc[:59, "g"] = "tiny"
    frame.loc[:59, "y"] = 1 - frame.loc[:59, "y.true"]
    flags = kinds(audit(frame, n_boot=0, notions="accuracy_parity"))
    assert "rests on 60 people" in flags["tiny group"][0]
    assert flags["thin"][0].startswith("1 gap of 1 is thin")


def test_groups_too_small_to_judge_are_named() -> None:
    frame = coin()
    frame.loc[:9, "g"] = "tiny"
    flags = kinds(audit(frame, n_boot=0))
    assert "1 group is too small to judge in some statistics (g=tiny)" in flags["unknown"][0]


def test_gaps_no_larger_than_chance_are_counted() -> None:
    flags = kinds(audit(coin(), notions=["accuracy_parity", "equal_opportunity"], seed=1))
    gaps = audit(coin(), notions=["accuracy_parity", "equal_opportunity"], seed=1).gaps
    n = (gaps["gap"] <= gaps["noise_floor"]).sum()
    assert n > 0
    assert flags["chance"][0].startswith(f"{n} gap")


def test_base_rates_that_differ_are_named_once() -> None:
    frame = coin(4000)
    low = (frame["g"] == "b") & (np.random.default_rng(1).random(4000) < 0.5)
    frame.loc[low, "y.true"] = 0
    flags = kinds(audit(frame, n_boot=0))
    assert len(flags["base rates"]) == 1
    assert "y=1: it holds for 2" in flags["base rates"][0] or "y=0" in flags["base rates"][0]


def test_labels_observed_for_some_groups_more_than_for_others_are_named() -> None:
    frame = coin(4000)
    hidden = (frame["g"] == "b") & (np.random.default_rng(1).random(4000) < 0.5)
    frame["y.true"] = frame["y.true"].astype(object).where(~hidden)
    flags = kinds(audit(frame, n_boot=0))
    assert len(flags["observation"]) == 1
    assert "of g=b and 100% of g=a" in flags["observation"][0]


def test_r2_that_comes_from_the_groups_is_named() -> None:
    r = np.random.default_rng(0)
    group = r.choice(["a", "b"], 3000)
    level = np.where(group == "a", 0.0, 4.0)
    frame = pd.DataFrame({"g": group, "z": level, "z.true": level + r.normal(size=3000)})
    frame["z"] += 0.2 * (frame["z.true"] - level)
    flags = kinds(audit(frame, "z:regression", n_boot=0))
    assert "the group explains much of the target" in flags["within groups"][0]


def test_findings_quote_the_values_the_gap_and_its_interval() -> None:
    frame = coin(4000)
    hit = (frame["g"] == "b") & (np.random.default_rng(1).random(4000) < 0.6)
    frame.loc[hit, "y"] = 1 - frame.loc[hit, "y.true"]
    result = audit(frame, tolerance=0.05, notions="accuracy_parity")
    gap = result.gaps.iloc[0]
    first, second = result.findings[:2]
    assert first == "1 of 1 gap is outside your tolerance of 0.05."
    assert f"is {gap['worst_value']:.0%} for g=b and {gap['best_value']:.0%} for g=a" in second
    assert (
        f"a gap of {gap['gap']:.2f} (95% interval {gap['low']:.2f} to {gap['high']:.2f})" in second
    )


def test_no_task_and_attribute_is_told_twice(people: pd.DataFrame, tasks) -> None:
    result = fairmt.audit(people, tasks=tasks, sensitive=["sex", "region"], depth=2)
    told = [f.split(":")[0] for f in result.findings if "a gap of" in f]
    assert len(told) == len(result.findings) - len(result.flags)
    pairs = result.gaps.drop_duplicates(["task", "attribute"])
    assert 3 <= len(told) <= len(pairs)


@pytest.mark.parametrize(("n", "words"), [(0, "0 gaps are"), (1, "1 gap is"), (2, "2 gaps are")])
def test_numbers_agree_with_their_nouns_and_verbs(n: int, words: str) -> None:
    assert f"{count(n, 'gap')} {be(n)}" == words


def test_lists_are_cut_short() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"
