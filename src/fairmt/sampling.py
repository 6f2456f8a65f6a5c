"""Batches of training rows: shuffled, optionally with small groups drawn more often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from fairmt.groups import Groups


class Source(Protocol):
    """Where a trainer takes its batches from.

    The order of an epoch depends on nothing but the source's seed and the epoch, so that a run can
    go on in the middle of one.
    """

    @property
    def n_batches(self) -> int: ...

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[dict[str, Any]]:
        """Batches `start`, `start + 1`, … of an epoch; of each, the rows of one process."""
        ...


class TableSource:
    """Batches from a table in memory.

    Parameters
    ----------
    table : TensorTable
    batch_size : int
        Rows of a batch over all processes; batches of an epoch differ by one row at most.
    balance : float in [0, 1)
        Groups with a smaller share of the rows are drawn as if they had this share, and their
        weights are divided by as much, so that every expectation stays what it was. 0: off.
    """

    def __init__(
        self,
        table: Any,
        batch_size: int = 256,
        seed: int = 0,
        balance: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Found {batch_size}.")
        if len(table) == 0:
            raise ValueError("There are no training rows.")
        self.table, self.batch_size, self.seed = table, batch_size, seed
        self._factor: Tensor | None = None
        if balance > 0:
            if groups is None:
                raise ValueError("balance needs the groups.")
            self._factor = oversampling(table.attributes, groups, balance)

    @property
    def n_batches(self) -> int:
        return -(-len(self.table) // self.batch_size)

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[dict[str, Any]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        n = len(self.table)
        if self._factor is None:
            order = torch.randperm(n, generator=generator)
        else:
            order = torch.multinomial(self._factor, n, replacement=n < 2**24, generator=generator)
        n_batches = self.n_batches
        for i in range(start, n_batches):
            rows = order[i * n // n_batches : (i + 1) * n // n_batches][rank::world]
            batch: dict[str, Any] = self.table.batch(rows)
            if self._factor is not None:
                back = self._factor.mean() / self._factor[rows]
                weights = batch.get("weights")
                batch["weights"] = back if weights is None else weights * back
            yield batch


def oversampling(codes: Tensor, groups: Groups, floor: float) -> Tensor:
    """How much more often each row is drawn, (N,): max over its groups of floor / share, or 1."""
    member = groups.membership(codes)[:, 1:]
    share = member.mean(0)
    factor = torch.where(share > 0, floor / share.clamp(min=1e-12), 1.0).clamp(min=1.0)
    return torch.where(member > 0, factor, 1.0).amax(1)
