"""The interface of pre-training: an encoder out, made without labels or before them."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fairmt.groups import Groups
from fairmt.methods.base import Method
from fairmt.progress import Progress
from fairmt.store import StoreError, load_state, save_state

ROUND = 100
"""Steps between two checkpoints."""


class PreTraining(Method):
    """Gives the encoder that the heads are then put on.

    Attributes
    ----------
    frozen : bool
        Whether the heads alone are trained afterwards, so that the representation stays as it is.
    """

    kind: ClassVar[str] = "pre-training"
    label_free: ClassVar[bool] = True
    frozen: bool = True

    @abstractmethod
    def fit(
        self,
        encoder: nn.Module,
        table: Any,
        groups: Groups,
        *,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> nn.Module:
        """The trained encoder: `encoder` itself, or one of the method's own with `n_features`.

        Parameters
        ----------
        encoder : module with `n_inputs` and `n_features`
        table : TensorTable
            Training rows; methods of this kind never read its labels unless they say so.
        seed : int
            Of everything that is drawn; the global generator is left as it was.
        checkpoint : path, optional
            Folder to go on from after an interruption, bitwise where it was.

        Raises
        ------
        ValueError
            Naming the attribute or column that cannot be used.
        StoreError
            If the checkpoint is damaged or belongs to another run.
        """

    def network(self, encoder: nn.Module) -> nn.Module:
        """The untrained shape of what `fit` returns, for a saved state to be loaded into."""
        return encoder

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments: numbers, texts, lists and dicts only."""
        return {}

    def check_rows(self, encoder: nn.Module, table: Any, groups: Groups) -> None:
        """Raise ValueError, by name, for rows that this kind of training cannot use."""
        if not groups.attributes:
            raise ValueError(
                f"Method '{self.name}' needs a sensitive attribute and none is given: name them in "
                "sensitive=[...] or pass sensitive_features."
            )
        x = table.features
        if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
            raise ValueError(f"Method '{self.name}' needs features as a float tensor (N, D).")
        if len(x) < 2:
            raise ValueError(f"Method '{self.name}' needs at least two rows. Found {len(x)}.")
        n_inputs = getattr(encoder, "n_inputs", x.shape[1])
        if n_inputs != x.shape[1]:
            raise ValueError(f"The encoder takes {n_inputs} inputs; the rows have {x.shape[1]}.")
        groups.check(table.attributes)
        for position, attribute in enumerate(groups.attributes):
            seen = table.attributes[:, position].unique()
            if int((seen >= 0).sum()) < 2:
                raise ValueError(
                    f"Sensitive attribute '{attribute.name}' has fewer than two groups among the "
                    f"training rows; method '{self.name}' has nothing to compare. Leave it out."
                )


def fingerprint(
    name: str, settings: Mapping[str, Any], table: Any, groups: Groups
) -> dict[str, Any]:
    """What makes a run this run and no other."""
    content = table.features.detach().cpu().contiguous().numpy().tobytes()
    return {
        "method": name,
        "settings": dict(settings),
        "rows": list(table.features.shape),
        "features": hashlib.sha256(content).hexdigest(),
        "groups": list(groups.names),
    }


class Run:
    """Steps in one or several stages, which go on bitwise where they were interrupted.

    What a step draws depends on the seed, its stage and its number alone, so that modules,
    optimisers and a count of steps are the whole state.

    Parameters
    ----------
    modules : by name; everything that any stage trains.
    identity : what a checkpoint must have been written with, see `fingerprint`.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        identity: Mapping[str, Any],
        *,
        seed: int,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        self.modules = nn.ModuleDict(modules)
        self.seed, self._checkpoint, self._progress = seed, checkpoint, progress
        self._run = {**identity, "seed": seed}
        self._done: dict[str, int] = {}
        self._saved_optimisers: list[dict[str, Any]] = []
        if checkpoint is not None:
            self._resume(checkpoint)

    def stage(
        self,
        name: str,
        steps: int,
        optimisers: Sequence[Optimizer],
        step: Callable[[int], Mapping[str, Tensor | float]],
    ) -> None:
        """Call `step` with 0, 1, …; it moves the modules and returns figures, 'loss' among them.

        Raises
        ------
        TrainingDiverged
            If the loss is not finite at the end of a round.
        """
        at = self._done.get(name, 0)
        if 0 < at < steps:
            for optimiser, state in zip(optimisers, self._saved_optimisers, strict=True):
                optimiser.load_state_dict(state)
        self.modules.train()
        with Progress(self._progress and at < steps, math.ceil((steps - at) / ROUND)) as bar:
            while at < steps:
                stop = min(steps, at + ROUND)
                figures: Mapping[str, Tensor | float] = {}
                for k in range(at, stop):
                    with torch.random.fork_rng(devices=[]):
                        torch.manual_seed(derived_seed(self.seed, name, k))
                        figures = step(k)
                at = self._done[name] = stop
                _refuse_divergence(name, figures)
                bar.epoch_done(name, (at - 1) // ROUND, {k: float(v) for k, v in figures.items()})
                self._save(optimisers)
        self.modules.eval()

    def _save(self, optimisers: Sequence[Optimizer]) -> None:
        if self._checkpoint is not None:
            state = {
                "run": self._run,
                "done": self._done,
                "modules": self.modules.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            }
            save_state(self._checkpoint, state)

    def _resume(self, checkpoint: str | Path) -> None:
        try:
            state = load_state(checkpoint)
        except FileNotFoundError:
            return
        different = [k for k, v in self._run.items() if state["run"].get(k) != v]
        if different:
            raise StoreError(
                f"The checkpoint '{checkpoint}' belongs to another run: {different} differ. Give "
                "another folder, or delete it."
            )
        self.modules.load_state_dict(state["modules"])
        self._done, self._saved_optimisers = state["done"], state["optimisers"]


def _refuse_divergence(stage: str, figures: Mapping[str, Tensor | float]) -> None:
    from fairmt.trainer import TrainingDiverged

    if not math.isfinite(float(figures["loss"])):
        raise TrainingDiverged(
            f"The loss of the stage '{stage}' is not finite. Lower the learning rate, and look for "
            "extreme values among the features."
        )


class StratifiedBatches:
    """Batches without end, in which every cell of the attributes has its share of rows.

    Each row comes once an epoch; batches differ by one row at most.

    Parameters
    ----------
    codes : Tensor (N, A)
        Attribute codes; a missing one makes cells of its own.
    """

    def __init__(self, codes: Tensor, batch_size: int, seed: int) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2. Found {batch_size}.")
        _, self._cell, self._count = codes.unique(dim=0, return_inverse=True, return_counts=True)
        self._seed = seed
        self.n_batches = max(1, math.ceil(len(codes) / batch_size))
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def __call__(self, step: int) -> Tensor:
        """Row positions of a batch."""
        epoch, position = divmod(step, self.n_batches)
        if epoch != self._epoch:
            self._epoch = epoch
            self._batches = self._order(epoch).tensor_split(self.n_batches)
        return self._batches[position]

    def _order(self, epoch: int) -> Tensor:
        """Rows such that those of every cell are spread evenly."""
        draw = torch.Generator().manual_seed(derived_seed(self._seed, "order", epoch))
        rows = torch.randperm(len(self._cell), generator=draw)
        rows = rows[self._cell[rows].argsort(stable=True)]
        cell = self._cell[rows]
        first = self._count.cumsum(0) - self._count
        rank = torch.arange(len(rows)) - first[cell]
        shift = torch.rand(len(self._count), generator=draw)
        return rows[((rank + shift[cell]) / self._count[cell]).argsort(stable=True)]


def numbering(codes: Tensor, n: int) -> Tensor:
    """A new number for each of `n` groups, (n,), in the order in which rows (N,) show them.

    With it a method sees the same numbers whatever the groups are called and however they are
    ordered. Groups that no row shows come last.
    """
    shown = torch.full((n,), len(codes))
    known = codes >= 0
    shown.scatter_reduce_(0, codes[known], known.nonzero().flatten(), "amin")
    number = torch.empty(n, dtype=torch.int64)
    number[shown.argsort(stable=True)] = torch.arange(n)
    return number


def renumbered(codes: Tensor, numbers: Sequence[Tensor]) -> Tensor:
    """Codes (N, A) under the `numbering` of every attribute; -1 stays."""
    columns = [
        torch.where(column >= 0, number.to(column.device)[column.clamp(min=0)], -1)
        for column, number in zip(codes.unbind(1), numbers, strict=True)
    ]
    return torch.stack(columns, 1)


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed of its own for every purpose and number."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
