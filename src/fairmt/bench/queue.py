"""Many runs by many processes: a shared list of what is left, in Optuna's storage."""

from __future__ import annotations

import multiprocessing
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairmt.bench.configuration import Configuration
from fairmt.bench.store import ResultStore

HEARTBEAT = 60
"""Seconds after which a working process says again that it is alive; after three times as many
without a word its run is given to another."""


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
        ``postgresql://…``); processes of other machines that are given the same, and the same
        folder, share the work. Default: a SQLite file in the folder.
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
    study = _study(url)
    _enqueue(study, left)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(url, list(configs), str(store.folder), accelerator))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    while any(p.is_alive() for p in processes):
        time.sleep(1)
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


def _study(url: str) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "Several workers share their work through Optuna: pip install 'fairmt[bench]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # Heartbeats are marked as experimental, and are what brings lost runs back.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            url,
            heartbeat_interval=HEARTBEAT,
            grace_period=3 * HEARTBEAT,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )
    return optuna.create_study(storage=storage, study_name="fairmt-bench", load_if_exists=True)


def _enqueue(study: Any, configs: Sequence[Configuration]) -> None:
    """Put on the list what nobody has on it."""
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))
    known = {t.user_attrs.get("run") for t in waiting}
    for config in configs:
        if config.id not in known:
            study.enqueue_trial({}, user_attrs={"run": config.id})


def _work(url: str, configs: Sequence[Configuration], folder: str, accelerator: str) -> None:
    """What a worker does: take the next run from the list until it is empty."""
    from optuna.trial import TrialState

    study, store = _study(url), ResultStore(folder)
    by_id = {c.id: c for c in configs}

    def objective(trial: Any) -> float:
        config = by_id.get(trial.user_attrs.get("run"))
        if config is not None and not store.has(config):
            error = _one(config, store, accelerator)
            if error is not None:
                trial.set_user_attr("error", error)
                raise RuntimeError(error)
        return 0.0

    def stop_when_empty(study: Any, trial: Any) -> None:
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.stop()

    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.optimize(objective, callbacks=[stop_when_empty], catch=(RuntimeError,))
