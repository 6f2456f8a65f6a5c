"""The list of runs: shared by workers, and whole again after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairmt.bench import queue
from fairmt.bench.configuration import Configuration
from fairmt.bench.queue import run_all
from fairmt.bench.store import ResultStore

QUICK = Configuration("made_up", "fairmt", epochs=1, path_epochs=1)


def test_a_failure_is_told_and_ends_no_suite(tmp_path: Path) -> None:
    bad = replace(QUICK, options=(("sharpness", -1.0),))
    good = replace(QUICK, method="plain")
    failed = run_all([bad, good], ResultStore(tmp_path))
    assert len(failed) == 1
    assert failed[0].startswith("fairmt sharpness=-1.0 on made_up, seed 0: ValueError: ")
    assert ResultStore(tmp_path).has(good)


@pytest.mark.slow
def test_workers_share_the_list_and_a_lost_result_is_made_again(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    store = ResultStore(tmp_path)
    runs = [replace(QUICK, method=m) for m in ("plain", "symmetric")]
    assert run_all(runs, store, workers=2) == []
    assert all(map(store.has, runs))
    # A result that was lost is put on the list again.
    store.path(runs[1]).unlink()
    assert run_all(runs, store, workers=2) == []
    assert store.has(runs[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_run_whose_worker_was_killed_is_made_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(queue, "HEARTBEAT", 1)
    store, runs = ResultStore(tmp_path), [replace(QUICK, method="plain")]
    url = f"sqlite:///{tmp_path / 'queue.sqlite'}"
    study = queue._study(url, runs)
    queue._enqueue(study, runs)
    # A worker that takes the run, says once that it is alive, and is heard of no more.
    study._storage.record_heartbeat(study.ask()._trial_id)
    assert len(queue._running(study)) == 1
    assert not queue._waiting(study)
    # Whoever goes on does not put it on the list again while it may be at work.
    queue._enqueue(study, runs)
    assert not queue._waiting(study)
    queue._work(url, runs, str(tmp_path), "cpu")
    assert store.has(runs[0])


def test_who_opens_the_list_second_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna, errors = pytest.importorskip("optuna"), pytest.importorskip("sqlalchemy.exc")
    monkeypatch.setattr(queue, "PAUSE", 0)
    make, tries = optuna.storages.RDBStorage, []

    def in_each_others_way(*given: Any, **settings: Any) -> Any:
        tries.append(given)
        if len(tries) < failures:
            raise errors.IntegrityError("INSERT", None, Exception("made by another"))
        return make(*given, **settings)

    monkeypatch.setattr(optuna.storages, "RDBStorage", in_each_others_way)
    failures = 3
    queue._storage(f"sqlite:///{tmp_path / 'queue.sqlite'}")
    assert len(tries) == 3
    failures = 100
    with pytest.raises(ValueError, match="storage cannot be opened: made by another"):
        queue._storage(f"sqlite:///{tmp_path / 'queue.sqlite'}")


def test_an_address_that_is_none_is_told_without_its_password() -> None:
    pytest.importorskip("optuna")
    for address in ("nowhere secret", "nothing://me:secret@there/name"):
        with pytest.raises(ValueError, match="expected sqlite:///FILE") as found:
            queue._storage(address)
        assert "secret" not in str(found.value)


def test_other_suites_have_lists_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path / 'queue.sqlite'}"
    one, other = [QUICK], [QUICK, replace(QUICK, method="plain")]
    queue._enqueue(queue._study(url, other), other)
    assert len(queue._waiting(queue._study(url, list(reversed(other))))) == 2
    assert not queue._waiting(queue._study(url, one))
