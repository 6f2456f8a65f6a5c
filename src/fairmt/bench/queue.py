"""Many runs by many processes: a shared list of what is left, in Optuna's storage."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairmt.bench.configuration import Configuration
from fairmt.bench.store import ResultStore

HEARTBEAT = 15
"""Seconds after which a working process says again that it is alive; after three times as many
without a word its run is given to another."""
PAUSE = 1
"""Seconds between two looks at what is left."""
ATTEMPTS = 5
"""To open the list of runs."""


def run_all(
    configs: Sequence[Configuration],
    store: ResultStore,
    *,
    workers: int = 1,
    storage: str | None = None,
    accelerator: str = "cpu",
    show: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Make all results that are not there yet; returns what failed, with the cause.

    Parameters
    ----------
    workers : processes on this machine.
    storage : address of the list of runs, as Optuna writes it (``sqlite:///…``,
        ``postgresql://…``); processes of other machines that are given the same, the same folder
        and the same configurations share the work, and end when all of it is done. Default: a
        SQLite file in the folder.
    accelerator : what this machine's processes train networks on, 'cpu' or 'cuda'.
    show : called with the number of results and of runs as they come in.

    Raises
    ------
    ImportError
        Without Optuna, where there is more than one worker or a storage.
    """
    left = [c for c in configs if not store.has(c)]
    show(len(configs) - len(left), len(configs))
    if workers == 1 and storage is None:
        failed = []
        for config in left:
            error = _one(config, store, accelerator)
            failed += [error] if error else []
            show(sum(map(store.has, configs)), len(configs))
        return failed
    url = storage or f"sqlite:///{(store.folder / 'queue.sqlite').resolve()}"
    store.folder.mkdir(parents=True, exist_ok=True)
    study = _study(url, configs)
    _enqueue(study, left)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(url, list(configs), str(store.folder), accelerator))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    while any(p.is_alive() for p in processes):
        time.sleep(PAUSE)
        show(sum(map(store.has, configs)), len(configs))
    wanted = {c.id for c in left if not store.has(c)}
    causes = {
        t.user_attrs["run"]: t.user_attrs.get("error", "interrupted")
        for t in study.get_trials(deepcopy=False)
        if t.user_attrs.get("run") in wanted
    }
    return list(causes.values())


def _one(config: Configuration, store: ResultStore, accelerator: str) -> str | None:
    """Make one result; the cause if that fails."""
    from fairmt.bench.run import execute

    try:
        store.put(config, execute(config, store.cache, accelerator))
    except Exception as error:  # One contestant's failure must not end the others' suite.
        cause = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{config.contestant} on {config.problem}, seed {config.seed}: "
            f"{type(error).__name__}: {error} ({Path(cause.filename).name}:{cause.lineno})"
        )
    return None


def _study(url: str, configs: Sequence[Configuration]) -> Any:
    """The list of these runs; other suites in the same storage have lists of their own."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "Several workers share their work through Optuna: pip install 'fairmt[bench]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = _storage(url)
    names = hashlib.sha256("".join(sorted(c.id for c in configs)).encode()).hexdigest()[:16]
    return optuna.create_study(storage=storage, study_name=f"fairmt-{names}", load_if_exists=True)


def _storage(url: str) -> Any:
    """Optuna's storage at an address.

    Two machines that make it at the same moment are in each other's way; who comes second finds it.

    Raises
    ------
    ValueError
        If there is none at this address, which is not repeated, for it may hold a password.
    """
    import optuna
    import sqlalchemy.exc

    attempt = 1
    while True:
        try:
            with warnings.catch_warnings():
                # Heartbeats are marked as experimental, and are what brings lost runs back.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.storages.RDBStorage(
                    url,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=3 * HEARTBEAT,
                    heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
                )
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            raise ValueError(
                "The storage's address cannot be used; expected sqlite:///FILE, "
                "postgresql://USER:PASSWORD@HOST/NAME or another that SQLAlchemy has a driver for. "
                f"It says: {error}"
            ) from error
        except sqlalchemy.exc.DatabaseError as error:
            if attempt == ATTEMPTS:
                raise ValueError(f"The storage cannot be opened: {error.orig}") from error
            attempt += 1
            time.sleep(PAUSE)


def _enqueue(study: Any, configs: Sequence[Configuration]) -> None:
    """Put on the list what nobody has on it."""
    known = {t.user_attrs.get("run") for t in _waiting(study) + _running(study)}
    for config in configs:
        if config.id not in known:
            study.enqueue_trial({}, user_attrs={"run": config.id})


def _waiting(study: Any) -> list[Any]:
    return _in_state(study, "WAITING")


def _running(study: Any) -> list[Any]:
    return _in_state(study, "RUNNING")


def _in_state(study: Any, name: str) -> list[Any]:
    from optuna.trial import TrialState

    found: list[Any] = study.get_trials(deepcopy=False, states=(TrialState[name],))
    return found


def _work(url: str, configs: Sequence[Configuration], folder: str, accelerator: str) -> None:
    """What a worker does: take the next run from the list until all are made.

    Runs that others are at are waited for: should their process be killed, they come back.
    """
    import optuna

    study, store = _study(url, configs), ResultStore(folder)
    by_id = {c.id: c for c in configs}
    parent = multiprocessing.parent_process()

    def orphaned() -> bool:
        return parent is not None and not parent.is_alive()

    def objective(trial: Any) -> float:
        config = by_id[trial.user_attrs["run"]]
        if not store.has(config):
            error = _one(config, store, accelerator)
            if error is not None:
                trial.set_user_attr("error", error)
                raise RuntimeError(error)
        return 0.0

    def stop_when_empty(study: Any, trial: Any) -> None:
        if orphaned() or not _waiting(study):
            study.stop()

    while not orphaned():
        if _waiting(study):
            study.optimize(objective, callbacks=[stop_when_empty], catch=(RuntimeError,))
        elif _running(study):
            time.sleep(PAUSE)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
        else:
            return
