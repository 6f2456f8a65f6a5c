"""The benchmark: what is drawn from seeds, what is kept, and what no contestant may see."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fairmt
from fairmt.bench.configuration import PROTOCOL, Configuration
from fairmt.bench.contest import HELD_OUT, Hand, contest, judges, reference, rows_of
from fairmt.bench.leaderboard import Leaderboard
from fairmt.bench.page import Page, is_shown_groups
from fairmt.bench.pictures import _tracks
from fairmt.bench.problems import Problem, problem
from fairmt.bench.queue import run_all
from fairmt.bench.run import _Reference, execute
from fairmt.bench.store import ResultStore
from fairmt.bench.suites import SUITES, Suite
from fairmt.methods import METHODS
from fairmt.path import judge
from fairmt.store import load_state

QUICK = Configuration("made_up", "fairmt", epochs=1, path_epochs=1)
CONTROLS = ("reference", "collapse", "ceiling", "noise_floor")
KEYS = ("gap", "shortfall", "worst", "best", "residual_range")
RUNS = tuple(replace(QUICK, method=m) for m in ("fairmt", "symmetric", "plain", "barycentre"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    found = ResultStore(tmp_path_factory.mktemp("bench"))
    assert run_all(RUNS, found) == []
    return found


# -- configurations and problems ---------------------------------------------------------------


def test_a_name_follows_content_and_survives_json() -> None:
    config = replace(QUICK, options=(("proxy", None), ("sharpness", 2.0)))
    again = Configuration.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.id == config.id
    dual = replace(config, controller="dual")
    for other in (replace(config, seed=1), replace(config, variant="shift"), dual, QUICK):
        assert other.id != config.id
    assert "--controller dual" in dual.command()
    assert dual.contestant == "fairmt controller=dual proxy=None sharpness=2.0"
    assert dual.reference == config.reference


def test_what_follows_the_path_is_part_of_the_name() -> None:
    followed = replace(QUICK, postprocessing="group_thresholds")
    assert Configuration.from_dict(json.loads(json.dumps(followed.to_dict()))) == followed
    assert followed.contestant == "fairmt + group_thresholds"
    assert "--postprocessing group_thresholds" in followed.command()
    assert followed.reference == QUICK.reference
    assert followed.id != QUICK.id
    # Rows of runs without one say nothing of it, and keep the names that they had before.
    row = {k: v for k, v in QUICK.to_dict().items() if k != "postprocessing"}
    assert Configuration.from_dict(row) == QUICK
    named = {"protocol": PROTOCOL, "version": fairmt.__version__, **row}
    named["revision"] = METHODS["fairmt"].revision
    content = json.dumps(named, sort_keys=True).encode()
    assert hashlib.sha256(content).hexdigest()[:16] == QUICK.id


def test_suites_name_methods_that_exist() -> None:
    for suite in SUITES.values():
        for config in suite.runs:
            assert config.method in METHODS or config.method in CONTROLS
        assert len({c.id for c in suite.runs}) == len(suite.runs)


@pytest.mark.parametrize("variant", ["missing:0.5", "missing_by_group:0.5"])
def test_labels_are_removed_from_all_parts_but_the_test(variant: str) -> None:
    whole, thinned = problem("made_up"), problem("made_up", variant)

    def seen(p: Problem, part: str) -> float:
        rows = p.bundle.frame.iloc[p.parts[part]]
        return float(
            np.mean([rows[list(t.columns)].notna().to_numpy().mean() for t in p.bundle.tasks])
        )

    assert seen(thinned, "test") == seen(whole, "test")
    for part in ("train", "calibration", "validation"):
        assert seen(thinned, part) == pytest.approx(0.5 * seen(whole, part), abs=0.03)
    if variant.startswith("missing_by_group"):
        train = thinned.bundle.frame.iloc[thinned.parts["train"]]
        by_group = train.groupby("sex")["income"].apply(lambda x: x.notna().mean())
        assert by_group.max() > 1.5 * by_group.min()


def test_attributes_become_inputs_on_demand() -> None:
    blind, aware = problem("made_up"), problem("made_up", "attributes_as_inputs")
    assert "attributes_as_inputs" not in blind.settings
    assert aware.settings == {**blind.settings, "attributes_as_inputs": True}


def test_unknown_variants_are_named() -> None:
    with pytest.raises(ValueError, match="Unknown variant 'noise'"):
        problem("made_up", "noise")
    with pytest.raises(ValueError, match="'shift' is defined for 'acs' alone"):
        problem("made_up", "shift")


# -- runs --------------------------------------------------------------------------------------


def test_no_contestant_sees_a_test_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other labels on the test rows a contestant hands in the very same."""
    found = problem("made_up")
    frame = found.bundle.frame.copy()
    rows = found.parts["test"]
    for column in ("job", "housing", "health", "transport", "income"):
        shuffled = frame[column].to_numpy(copy=True)
        shuffled[rows] = shuffled[rows[::-1]]
        frame[column] = shuffled
    other = replace(found, bundle=replace(found.bundle, frame=frame))

    def hand(p: Problem) -> Hand:
        return contest(p, QUICK)

    for a, b in zip(hand(found).outputs, hand(other).outputs, strict=True):
        assert torch.equal(a, b)


def test_a_run_is_measured_against_the_plain_reference(store: ResultStore) -> None:
    row = store.get(RUNS[0])
    assert row["id"] == RUNS[0].id
    assert len(row["volume"]) == len(row["budget"]["0.01"]["gap"]) == 51
    assert {p["strength"] for p in row["places"]} != {0.0}
    plain = store.get(RUNS[2])
    # All are measured against one reference, and plain training closes nothing.
    assert plain["plain"] == row["plain"]
    assert plain["volume"][0] < 0.02


def test_the_row_of_the_reference_is_its_own(store: ResultStore) -> None:
    """It is trained once, for all; its row is no other training of it."""
    config = RUNS[0].reference
    row = execute(config, store.cache)
    trained = load_state(store.cache / config.id)
    assert row["seconds"] == round(trained["seconds"], 1)
    assert row["plain"] == store.get(RUNS[0])["plain"]
    assert row["places"][0] == {"strength": 0.0, **row["plain"]}


def test_a_contestant_takes_the_path_that_a_user_would_get() -> None:
    """Without the plain continuation, which the reference replaces; nothing else differs."""
    found = problem("made_up")
    hand = contest(found, QUICK)
    user = fairmt.FairMTLearner(**found.settings, seed=0, epochs=1, path_epochs=1, patience=None)
    with pytest.warns(UserWarning, match="give sensitive attributes away"):
        user.fit(found.bundle.frame, parts={k: v for k, v in found.parts.items() if k != "test"})
    own = [c for c in user.path_.candidates if c.segment == "path"]
    assert len(hand.candidates) == len(own) > 10
    for a, b in zip(hand.candidates, own, strict=True):
        assert a.strength == b.strength
        assert torch.equal(a.moments.sums, b.moments.sums)
    assert "plain" in {c.segment for c in user.path_.candidates}
    assert "plain" not in {c.segment for c in hand.learner.path_.candidates}
    # Without a path the continuation is what is handed in.
    alone = contest(found, replace(QUICK, method="plain")).learner.path_.candidates
    assert {c.segment for c in alone} == {"warmup", "plain"}


def test_whoever_fits_on_calibration_rows_is_chosen_on_others() -> None:
    """And the reference beside it is measured on the same."""
    found = problem("made_up")
    hand = contest(found, replace(QUICK, method="barycentre"))
    n = len(found.parts["validation"])
    assert hand.chosen_on == ("validation",)
    assert contest(found, QUICK).chosen_on == HELD_OUT
    after = contest(found, replace(QUICK, postprocessing="group_thresholds"))
    assert after.chosen_on == ("validation",)
    assert len(after.candidates) == 3 * len(contest(found, QUICK).candidates)
    assert hand.candidates[0].moments.mass.max() <= n
    trained = reference(found, QUICK.reference)
    base = _Reference(
        {
            "candidate": trained.hand.candidates[0].state_dict(),
            "outputs": torch.zeros(0),
            "rows": trained.hand.learner.path_.rows,
            "held_out": trained.held_out,
            "optimism": 0.0,
            "seconds": 0.0,
        }
    )
    both, rows = base.on(found, replace(hand, chosen_on=HELD_OUT), 0)
    alone, fewer = base.on(found, hand, 0)
    assert both.moments.mass.max() > n
    assert alone.moments.mass.max() <= n
    assert float(fewer.sum()) < float(rows.sum())
    # What the outputs say of the parts apart adds up to what they say of both.
    learner, table = hand.learner, rows_of(found, hand.learner, HELD_OUT[1:])
    rest = judge(judges(learner), learner.schema_.groups, base.held_out[n:], table, both.offsets)
    torch.testing.assert_close(alone.moments.sums + rest.sums, both.moments.sums)


def test_an_estimator_is_judged_like_the_others() -> None:
    found = problem("made_up")
    classes = [t for t in found.bundle.tasks if t.kind != "regression"]
    settings = {**found.settings, "tasks": classes}
    few = replace(QUICK, method="mmm_fair", options=(("rounds", 2),))
    hand = contest(replace(found, settings=settings), few)
    ledger = judges(hand.learner)
    assert {s.name.split(" of ")[0] for s in ledger.statistics} == {"recall", "true negative rate"}
    for candidate in hand.candidates:
        assert candidate.moments.sums.shape[1] == ledger.n_columns
    assert len(hand.learner.ledger_) > len(ledger)


def test_what_is_kept_of_what_was_closed_is_said(store: ResultStore, tmp_path: Path) -> None:
    part = replace(QUICK, variant="missing:0.5")
    other = ResultStore(tmp_path)
    rows = {}
    for config, gap in ((QUICK, 0.5), (part, 0.6)):
        at = {"gap": [gap] * 51, "shortfall": [0.8] * 51, "plain": {k: [1.0] * 51 for k in KEYS}}
        rows[config] = store.get(RUNS[0])
        rows[config]["budget"]["0.01"] |= at
        other.put(config, rows[config])
    page = Page(Leaderboard(Suite("kept", "to see", "seconds", (QUICK, part)), other)).markdown()
    assert "it keeps with missing:0.5 at a budget of .01: gap 80.0% [80.0%, 80.0%], " in page
    assert "shortfall 100.0% [100.0%, 100.0%]." in page
    for config, gap in ((QUICK, 0.5), (part, 0.6)):
        plain = {"delta_m": 0.0, "gap": 1.0, "shortfall": 1.0}
        ends = {"delta_m": -0.02, "gap": 2 * gap - 1, "shortfall": 0.6}
        rows[config]["plain"] |= plain
        rows[config]["places"] = [rows[config]["places"][0] | ends]
        other.put(config, rows[config])
    for config, worst in ((QUICK, 0.3), (part, 0.2)):
        rows[config]["budget"]["0.01"] |= {"worst": [worst] * 51}
        rows[config]["budget"]["0.01"]["plain"] |= {"worst": [0.25] * 51}
        other.put(config, rows[config])
    found = Leaderboard(Suite("kept", "to see", "seconds", (QUICK, part)), other)
    page = Page(found).markdown()
    assert "falls at a budget of .01 in 1 of 2 runs of FairMT." in page
    assert "cost 1 % on test rows: gap 80.0% [80.0%, 80.0%], shortfall 100.0% [100.0" in page
    assert "| -50.0% [-50.0%, -50.0%] | -20.0% [-20.0%, -20.0%] |" in page
    found.ceilings["made_up"] = {
        0: dict.fromkeys(("delta_m", "gap", "shortfall"), -0.8)
        | {"budget": {"0.01": dict.fromkeys(("delta_m", "gap", "shortfall"), -0.4)}}
    }
    said = Page(found)._ceiling("made_up")
    assert "whatever they cost: gap 62.5% [62.5%, 62.5%], shortfall 25.0% [25.0%, 25.0%]." in said


def test_runs_are_made_once(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairmt.bench.run.execute", lambda *_: pytest.fail("made again"))
    calls: list[tuple[int, int]] = []
    assert run_all(RUNS, store, show=lambda *x: calls.append(x)) == []
    assert calls == [(4, 4)]


def test_the_same_run_gives_the_same_row(store: ResultStore, tmp_path: Path) -> None:
    again = execute(RUNS[0], tmp_path)
    first = store.get(RUNS[0])
    for key in ("volume", "places", "budget", "tolerance_kept"):
        assert json.loads(json.dumps(again[key])) == first[key]
    assert first["device"] == "cpu"


def test_a_changed_method_makes_its_runs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {c.method: c.id for c in RUNS}
    monkeypatch.setattr(METHODS["barycentre"], "revision", 7)
    changed = {c.method for c in RUNS if c.id != before[c.method]}
    assert changed == {"barycentre"}
    # Controls are no methods, and are named by the protocol alone.
    assert replace(QUICK, method="ceiling").id


def test_results_are_a_table(store: ResultStore) -> None:
    pytest.importorskip("duckdb")
    table = store.table()
    found = table.query("t", "select method, hypervolume from t order by method").fetchall()
    assert [name for name, _ in found] == ["barycentre", "fairmt", "plain", "symmetric"]
    expected = store.get(RUNS[1])["volume"][0]
    assert dict(found)["symmetric"] == pytest.approx(expected)


# -- pages -------------------------------------------------------------------------------------


def board(store: ResultStore) -> Leaderboard:
    return Leaderboard(Suite("quick", "to see", "seconds", RUNS), store)


def test_every_row_of_the_page_has_its_command(store: ResultStore) -> None:
    page = Page(board(store)).markdown()
    for config in RUNS:
        assert f"`{config.command([0])}`" in page
    assert "| barycentre (post-processing) |" in page
    ahead = board(store).ahead("made_up", "plain")
    assert ahead is not None
    volumes = [store.get(c)["volume"][0] for c in (RUNS[0], RUNS[2])]
    assert ahead.mean == pytest.approx(volumes[0] - volumes[1])


def test_the_page_has_what_lies_above_the_noise_and_what_every_task_pays(
    store: ResultStore,
) -> None:
    found = board(store)
    before = Page(found).markdown()
    assert "noise floor; seeds" not in before
    row = found.results["made_up"]["fairmt"][0]
    at = row["budget"]["0.01"]
    at |= {"gap": [0.3], "shortfall": [0.2], "change": [-0.01, 0.02, 0.0, 0.0][: len(at["change"])]}
    at["plain"] |= {"gap": [0.5], "shortfall": [0.4]}
    found.floors["made_up"] = {0: {"gap": 0.1, "shortfall": 0.15}}
    further = "\n".join(Page(found)._further("made_up", ["fairmt"]))
    # (.3 - .1) / (.5 - .1) and (.2 - .15) / (.4 - .15), less one.
    assert "| -50.0% | -80.0% |" in further
    first, second = row["tasks"][:2]
    assert f"{first} -1.0%, {second} +2.0%" in further
    assert "a gap of 0.100 and a shortfall of 0.150" in Page(found)._floor("made_up")
    # Measures as the audit computes them, of the plain model and of the chosen one.
    measures = row["measures"]["plain"][first]
    value = next(iter(measures.values()))
    assert f"{value:.3f} →" in before


def test_a_side_question_does_not_narrow_the_ranks(store: ResultStore) -> None:
    found = board(store)
    before = found.ranks()
    assert len(before.mean) == len(RUNS)
    found.results["side"] = {"fairmt": found.results["made_up"]["fairmt"]}
    assert found.ranks() == before


def test_being_behind_is_said(store: ResultStore) -> None:
    found = board(store)
    rows: Any = found.results["made_up"]
    better = {**rows["fairmt"][0], "volume": [v + 0.5 for v in rows["fairmt"][0]["volume"]]}
    rows["symmetric"] = {0: better}
    assert "It may be behind by more than .02 on made_up: symmetric" in Page(found).markdown()
    assert "highest mean hypervolume on 0 of 1" in Page(found).markdown()


def test_what_follows_fairmt_is_no_rival_of_it(store: ResultStore) -> None:
    """But the page says what it gains, and what it is ahead of."""
    found = board(store)
    rows: Any = found.results["made_up"]
    ranks = found.ranks()
    own = rows["fairmt"][0]
    for name, gain in (("fairmt + group_thresholds", 0.5), ("barycentre", 0.2)):
        rows[name] = {0: {**own, "volume": [v + gain for v in own["volume"]]}}
    rows["plain"], rows["symmetric"] = ({0: {**own, "volume": [0.0] * 51}} for _ in range(2))
    page = Page(found).markdown()
    assert found.best("made_up") == "barycentre"
    assert "It may be behind by more than .02 on made_up: barycentre (-0.200" in page
    assert (
        "fairmt + group_thresholds is ahead of FairMT alone by +0.500 [+0.500, +0.500], "
        "of barycentre by +0.300 [+0.300, +0.300]." in page
    )
    assert set(found.ranks().mean) == set(ranks.mean)
    # What is followed by the same is a rival of FairMT that is followed, not of FairMT alone.
    rows["symmetric + group_thresholds"] = {0: {**own, "volume": [v + 0.4 for v in own["volume"]]}}
    assert found.best("made_up") == "barycentre"
    assert [b.split(" (")[0] for b in found.behind()] == ["made_up: barycentre"]
    rows["symmetric + group_thresholds"] = {0: {**own, "volume": [v + 0.6 for v in own["volume"]]}}
    assert "made_up: symmetric + group_thresholds (-0.100" in "; ".join(found.behind())
    del rows["symmetric + group_thresholds"]
    assert is_shown_groups("symmetric + group_thresholds")
    assert is_shown_groups("barycentre")
    assert not is_shown_groups("fairmt controller=dual")
    found.ceilings["made_up"] = {
        0: {
            "delta_m": -0.1, "gap": -0.8, "shortfall": -0.8,
            "budget": {"0.01": {"delta_m": -0.01, "gap": -0.4, "shortfall": -0.4}},
        }
    }  # fmt: skip
    for name, share in (("fairmt", 0.1), ("fairmt + group_thresholds", 0.3)):
        at = {k: [1 - share] * 51 for k in ("gap", "shortfall")}
        budget = own["budget"]["0.01"] | at | {"plain": {k: [1.0] * 51 for k in KEYS}}
        rows[name] = {0: {**rows[name][0], "budget": {"0.01": budget}}}
    said = Page(found)._ceiling("made_up")
    assert "FairMT, blind to groups, closes at its budget of the latter gap 25.0%" in said
    assert "shown the group, closes at its budget of the latter gap 75.0%" in said
    assert "of the former gap 37.5%" in said


def test_what_is_repaired_alike_is_joined_by_a_line() -> None:
    rows = [{"places": [{"strength": s} for s in (1.0, 2.0, 1.0, 1.0, 2.0, 2.0)]}]
    assert _tracks("fairmt + group_thresholds", rows) == [[0, 1], [2, 4], [3, 5]]
    # The dual may stay where it is; that is one path all the same.
    assert _tracks("fairmt controller=dual", rows) == [[0, 1, 2, 3, 4, 5]]


def test_a_command_names_the_seeds_of_its_row() -> None:
    config = Configuration("acs", "gap", 3)
    assert config.command().endswith("--seed 3")
    assert config.command([2, 0, 1]).endswith("--seeds 3")
    assert config.command([3, 1]).endswith("--seed 1 --seed 3")


def test_the_page_tells_what_was_made_on_which_device(store: ResultStore) -> None:
    found = board(store)
    assert Page(found).markdown().count(f"torch {torch.__version__}") == 1
    row: Any = found.results["made_up"]["plain"][0]
    row["device"] = "NVIDIA H100"
    page = Page(found).markdown()
    assert f"torch {torch.__version__} on NVIDIA H100" in page
    plain = next(c for c in RUNS if c.method == "plain")
    assert f"`{plain.command([0])} --accelerator cuda`" in page


def test_what_was_measured_against_another_plain_model_is_left_out(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = store.get

    def elsewhere(config: Configuration) -> dict[str, Any]:
        row = get(config)
        if config.method == "symmetric":
            row["plain"] = {**row["plain"], "gap": row["plain"]["gap"] + 0.01}
        return row

    assert board(store).apart == []
    monkeypatch.setattr(store, "get", elsewhere)
    found = board(store)
    assert found.apart == ["symmetric on made_up, seed 0"]
    assert set(found.results["made_up"]) == {"fairmt", "plain", "barycentre"}
    assert "Left out, since they were measured against another plain" in Page(found).markdown()


def test_the_page_tells_kept_tolerances_from_those_said_to_be_reached(store: ResultStore) -> None:
    found = board(store)
    row = found.results["made_up"]["plain"][0]

    def judged(*kept: tuple[bool, bool]) -> dict[int, dict[str, Any]]:
        return {
            seed: {**row, "tolerance_kept": {"0.15": {"satisfied": a, "reached": b}}}
            for seed, (a, b) in enumerate(kept)
        }

    rows: Any = found.results["made_up"]
    rows["plain"] = judged((True, True), (False, True), (True, False), (False, False))
    rows["symmetric"] = {0: {k: v for k, v in row.items() if k != "tolerance_kept"}}
    table = [line.split(" | ") for line in Page(found).markdown().splitlines() if line[:2] == "| "]
    cells = {row[0]: row[-3] for row in table if len(row) == 13}
    assert cells["| plain"] == "50% (1 of 2)"
    assert cells["| symmetric"] == "–"


def test_the_shell_runs_shows_and_compares(store: ResultStore, tmp_path: Path) -> None:
    folder = str(store.folder)
    flags = ["--data", "made_up", "--epochs", "1", "--path-epochs", "1", "--out", folder]
    words = [sys.executable, "-m", "fairmt.cli", "bench"]
    made = subprocess.run(
        [*words, "one", "--method", "plain", *flags], capture_output=True, text=True, check=True
    )
    assert "hypervolume" in made.stdout
    lost = subprocess.run([*words, "show", "core", "--out", folder], capture_output=True, text=True)
    assert lost.returncode != 0
    assert "No result of 'core'" in lost.stderr.replace("\n", " ")
    both = [*words, "one", "--method", "plain", "--seed", "3", "--seeds", "2", *flags]
    refused = subprocess.run(both, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "--seeds, for the first so many" in refused.stderr.replace("\n", " ")


def test_pictures_are_drawn(store: ResultStore, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from fairmt.bench.pictures import critical_difference, frontiers

    frontiers(board(store), "made_up", tmp_path / "a.png")
    critical_difference(board(store).ranks(), tmp_path / "b.png")
    assert all(p.stat().st_size > 5000 for p in itertools.chain(tmp_path.glob("*.png")))
