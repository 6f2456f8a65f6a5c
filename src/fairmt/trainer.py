"""The loop: devices, precision, processes, averaging, checkpoints, progress.

A run is a list of segments (warm-up, plain continuation, path), each a number of epochs under a
schedule of the strength. A segment may start from the end of an earlier one, so that a plain
continuation and a path share their warm-up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fairmt.averaging import Average
from fairmt.methods.base import Log, StepMethod
from fairmt.progress import Progress
from fairmt.sampling import Source
from fairmt.store import StoreError, load_state, save_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "64-true")


class TrainingDiverged(ArithmeticError):
    """A loss or gradient is not finite; the message names the cause."""


@dataclass(frozen=True)
class Segment:
    """Epochs under one schedule.

    Attributes
    ----------
    strength : callable
        Point of the run in epochs -> λ, or None for the method's own controller (its dual).
        Without a schedule the method keeps the strength it has.
    start : str, optional
        The segment whose end this one starts from; default: where the last one ended.
    begin : callable, optional
        Called with the method once, before the first batch, the model carrying its averaged
        weights: to fix do-no-harm floors, say.
    patience : int, optional
        Stop the segment when the evaluator's score has not risen for so many epochs.
    looks : int
        Evaluations in every epoch, evenly spaced, the last one at its end.
    """

    name: str
    epochs: int
    strength: Callable[[float], float | None] | None = None
    start: str | None = None
    patience: int | None = None
    begin: Callable[[StepMethod], None] | None = None
    looks: int = 1


class Evaluator(Protocol):
    """Looks at the averaged model after every epoch, or oftener; remembers what it saw."""

    def evaluate(self, segment: str, epoch: float, method: StepMethod) -> dict[str, float]:
        """Figures to show and log; 'score' (higher is better) drives early stopping.

        `epoch` is how many have been trained.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass
class Trainer:
    """Trains a step method with Lightning Fabric.

    Parameters
    ----------
    learning_rate, weight_decay : float
        Of Adam with decoupled weight decay.
    averaging : float
        Epochs over which weights are averaged for evaluation; 0 switches it off.
    clip : float, optional
        Largest norm of the gradient.
    accumulate : int
        Batches per optimiser step.
    accelerator, devices, precision, strategy, loggers
        Passed to `lightning_fabric.Fabric`; precision is '32-true', 'bf16-mixed' or '64-true'.
    on_nan : 'stop' or 'skip'
        What to do with a batch whose loss or gradient is not finite.
    checkpoint : path, optional
        Folder for the state of the run; a run finds it again and goes on bitwise where it was.
    checkpoint_every : int, optional
        Steps between checkpoints inside an epoch; the end of an epoch always makes one.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    averaging: float = 1.0
    clip: float | None = 5.0
    accumulate: int = 1
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    strategy: str = "auto"
    loggers: Sequence[Any] = ()
    on_nan: str = "stop"
    seed: int = 0
    checkpoint: str | Path | None = None
    checkpoint_every: int | None = None
    progress: bool = True
    skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {list(PRECISIONS)}. Found {self.precision!r}. "
                "('16-mixed' needs a gradient scaler; bf16 has the range of 32 bits and does not.)"
            )
        if self.on_nan not in ("stop", "skip"):
            raise ValueError(f"on_nan must be 'stop' or 'skip'. Found {self.on_nan!r}.")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1. Found {self.accumulate}.")

    def fit(
        self,
        method: StepMethod,
        source: Source,
        segments: Sequence[Segment],
        *,
        calibration: Callable[[], Iterable[Mapping[str, Any]]] | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        """Run the segments; `method.model` ends with the weights of the last one, averaged.

        Raises
        ------
        TrainingDiverged
            If a loss or gradient is not finite and `on_nan` is 'stop'.
        StoreError
            If the checkpoint is damaged or belongs to another run.
        """
        run = _Run(self, method, source, segments, calibration, evaluator)
        run.resume()
        run.go()

    def fabric(self) -> Fabric:
        """The Fabric that this trainer runs on."""
        from lightning_fabric import Fabric

        return Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.precision,  # type: ignore[arg-type]
            strategy=self.strategy,
            loggers=list(self.loggers),
        )


class _Run:
    """The state of one call of `Trainer.fit`."""

    def __init__(
        self,
        trainer: Trainer,
        method: StepMethod,
        source: Source,
        segments: Sequence[Segment],
        calibration: Callable[[], Iterable[Mapping[str, Any]]] | None,
        evaluator: Evaluator | None,
    ) -> None:
        self.t, self.method, self.source, self.segments = trainer, method, source, list(segments)
        self.calibration, self.evaluator = calibration, evaluator
        self.fabric = trainer.fabric()
        if trainer.devices > 1:
            self.fabric.launch()
        self.fabric.to_device(method.model)
        self.parameters = [p for p in method.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=trainer.learning_rate, weight_decay=trainer.weight_decay
        )
        self.average = Average(method.model, trainer.averaging * source.n_batches)
        self.segment = self.epoch = self.batch = 0
        self.best, self.stale = -np.inf, 0
        self.snapshots: dict[str, dict[str, Any]] = {}
        needed = {s.start for s in self.segments if s.start is not None}
        unknown = needed - {s.name for s in self.segments}
        if unknown:
            raise ValueError(f"Segments start from {sorted(unknown)}, which do not exist.")
        self._needed = needed

    # -- the loop ---------------------------------------------------------------------------

    def go(self) -> None:
        total = sum(s.epochs for s in self.segments[self.segment :]) - self.epoch
        with Progress(self.t.progress and self.fabric.global_rank == 0, total) as bar:
            while self.segment < len(self.segments):
                segment = self.segments[self.segment]
                if self.epoch == 0 and self.batch == 0 and segment.start is not None:
                    self._load_weights(self.snapshots[segment.start])
                if self.epoch == 0 and self.batch == 0 and segment.begin is not None:
                    with self.average.applied():
                        segment.begin(self.method)
                while self.epoch < segment.epochs:
                    stop = self._one_epoch(segment, bar)
                    self.epoch = segment.epochs if stop else self.epoch + 1
                    self.batch = 0
                    if self.epoch < segment.epochs:
                        self._checkpoint()
                if segment.name in self._needed:
                    self.snapshots[segment.name] = self._weights()
                self.segment, self.epoch = self.segment + 1, 0
                self.best, self.stale = -np.inf, 0
                self._checkpoint()
        self.average.copy_to_model()

    def _one_epoch(self, segment: Segment, bar: Progress) -> bool:
        """Train and evaluate one epoch; True to stop the segment."""
        point = self._point()
        n = self.source.n_batches
        self.method.model.train()
        batches = self.source.batches(
            int(point), self.batch, self.fabric.global_rank, self.fabric.world_size
        )
        between = {round(k * n / segment.looks) for k in range(1, segment.looks)} - {0, n}
        log: Log = {}
        for batch in batches:
            if segment.strength is not None:
                self.method.strength = segment.strength(point + self.batch / n)
            log = self._one_batch(self._to_device(batch), last=self.batch + 1 == n)
            self.batch += 1
            if self.batch % 10 == 0 or self.batch == n:
                bar.show(segment.name, self.epoch, self.batch / n, log)
            if self.batch in between and self.evaluator is not None:
                with self.average.applied():
                    self.evaluator.evaluate(segment.name, point + self.batch / n, self.method)
            every = self.t.checkpoint_every
            whole_step = self.batch % self.t.accumulate == 0
            if every and self.batch % every == 0 and self.batch < n and whole_step:
                self._checkpoint()
        figures = {k: float(v) for k, v in log.items()}
        with self.average.applied():
            if self.evaluator is not None:
                figures |= self.evaluator.evaluate(segment.name, point + 1, self.method)
            if self.calibration is not None:
                found = self.method.calibrate(self._to_device(b) for b in self.calibration())
                figures |= {k: float(v) for k, v in found.items()}
        self.fabric.log_dict({f"{segment.name}/{k}": v for k, v in figures.items()}, int(point))
        bar.epoch_done(segment.name, self.epoch, figures)
        if segment.patience is None or "score" not in figures:
            return False
        if figures["score"] > self.best + 1e-6:
            self.best, self.stale = figures["score"], 0
        else:
            self.stale += 1
        return self.stale >= segment.patience

    def _one_batch(self, batch: Mapping[str, Any], last: bool) -> Log:
        fresh = self.batch % self.t.accumulate == 0
        if fresh:
            self.optimiser.zero_grad(set_to_none=True)
        with self.fabric.autocast():
            log = self.method.step(batch, 1.0 / self.t.accumulate)
        if not np.isfinite(float(log["loss"])):
            if self.t.on_nan == "stop":
                raise TrainingDiverged(_cause(self.method, batch))
            self.t.skipped += 1
            self.optimiser.zero_grad(set_to_none=True)
            return log
        if last or (self.batch + 1) % self.t.accumulate == 0:
            if self.t.clip is not None:
                norm = nn.utils.clip_grad_norm_(self.parameters, self.t.clip)
                if not np.isfinite(float(norm)):
                    if self.t.on_nan == "stop":
                        raise TrainingDiverged(
                            "The gradient is not finite although the loss is. Lower the learning "
                            "rate, or set on_nan='skip' to leave such batches out."
                        )
                    self.t.skipped += 1
                    self.optimiser.zero_grad(set_to_none=True)
                    return log
            self.optimiser.step()
            self.average.update()
        return log

    def _point(self) -> float:
        """Where the run stands, in epochs along the chain of segments that led here."""
        ends: dict[str, int] = {}
        at = 0
        for i, segment in enumerate(self.segments[: self.segment + 1]):
            begin = at if segment.start is None else ends[segment.start]
            if i == self.segment:
                return float(begin + self.epoch)
            at = ends[segment.name] = begin + segment.epochs
        return float(at)

    def _to_device(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.fabric.device.type == "cpu" and self.t.precision != "64-true":
            return batch
        moved: dict[str, Any] = dict(self.fabric.to_device(dict(batch)))
        if self.t.precision == "64-true":
            moved = {
                k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
                for k, v in moved.items()
            }
        return moved

    # -- memory -----------------------------------------------------------------------------

    def _weights(self) -> dict[str, Any]:
        return {
            "model": {k: v.clone() for k, v in self.method.model.state_dict().items()},
            "parameters": [p.detach().clone() for p in self.parameters],
            "optimiser": _plain(self.optimiser.state_dict()),
            "average": self.average.state_dict(),
            "method": self.method.state_dict(),
            "random": _random_state(),
        }

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        self.method.model.load_state_dict(state["model"])
        with torch.no_grad():
            for p, saved in zip(self.parameters, state["parameters"], strict=True):
                p.copy_(saved)
        # Optimisers keep the very tensors they are given.
        self.optimiser.load_state_dict(_plain(state["optimiser"]))
        self.average.load_state_dict(state["average"])
        self.method.load_state_dict(state["method"])
        _set_random_state(state["random"])

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "outputs": [
                f"{t.name}:{t.kind}:{o}" for t in self.method.layout.tasks for o in t.outputs
            ],
            "groups": list(self.method.groups.names),
            "segments": [[s.name, s.epochs, s.looks] for s in self.segments],
            "batches": self.source.n_batches,
            "seed": self.t.seed,
        }

    def _checkpoint(self) -> None:
        if self.t.checkpoint is None or self.fabric.global_rank != 0:
            return
        state = {
            "run": self._fingerprint(),
            "position": [self.segment, self.epoch, self.batch],
            "best": None if np.isinf(self.best) else float(self.best),
            "stale": self.stale,
            "skipped": self.t.skipped,
            "weights": self._weights(),
            "snapshots": self.snapshots,
            "evaluator": None if self.evaluator is None else self.evaluator.state_dict(),
        }
        save_state(self.t.checkpoint, state)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.t.checkpoint is None:
            return
        try:
            state = load_state(self.t.checkpoint)
        except FileNotFoundError:
            return
        expected = self._fingerprint()
        different = [k for k, v in expected.items() if state["run"].get(k) != v]
        if different:
            raise StoreError(
                f"The checkpoint '{self.t.checkpoint}' belongs to another run: {different} differ. "
                "Choose another folder, or remove it to start anew."
            )
        self.segment, self.epoch, self.batch = state["position"]
        self.best = -np.inf if state["best"] is None else state["best"]
        self.stale, self.t.skipped = state["stale"], state["skipped"]
        self.snapshots = state["snapshots"]
        if self.evaluator is not None:
            self.evaluator.load_state_dict(state["evaluator"])
        self._load_weights(state["weights"])


def _plain(state: Any) -> Any:
    """A deep copy whose tensors are clones, and whose tuples are lists."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {k: _plain(v) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return [_plain(v) for v in state]
    return state


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position)],
        "numpy_gauss": [int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, position = state["numpy"]
    has_gauss, gauss = state["numpy_gauss"]
    np.random.set_state(  # noqa: NPY002
        (kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss)
    )
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _cause(method: StepMethod, batch: Mapping[str, Any]) -> str:
    """Why a loss is not finite, in words."""
    features = batch["features"]
    if isinstance(features, Tensor) and not bool(torch.isfinite(features).all()):
        columns = (~torch.isfinite(features)).any(0).nonzero().flatten().tolist()
        return (
            f"The loss is not finite because features {columns[:5]} hold NaN or infinite values; "
            "clean them, or set on_nan='skip'."
        )
    b = method.unpack(batch)
    if b.weights is not None and not bool(torch.isfinite(b.weights).all()):
        return "The loss is not finite because sample weights hold NaN or infinite values."
    bad = [n for n, p in method.model.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        return (
            f"The loss is not finite because the weights are not any more ({bad[0]}). Lower the "
            "learning rate or set clip."
        )
    with torch.no_grad():
        losses = method.losses(method.model(b.features).float(), b.labels, b.weights)
    names = [
        t.name for t, x in zip(method.layout.tasks, losses, strict=True) if not torch.isfinite(x)
    ]
    return (
        f"The loss of {names or 'the fairness term'} is not finite. Check the labels for extreme "
        "values, lower the learning rate, or set on_nan='skip' to leave such batches out."
    )
