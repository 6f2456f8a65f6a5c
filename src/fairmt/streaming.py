"""Training from Parquet files larger than memory: one pass to fit the schema, then batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from fairmt.data.leakage import SAMPLE
from fairmt.data.parquet import ParquetTable, RowGroup, scrambled
from fairmt.data.schema import Schema, SchemaFit, row_weights
from fairmt.data.split import PARTS
from fairmt.data.summaries import Numbers
from fairmt.data.table import TensorTable
from fairmt.frames import features_of, parse_tasks
from fairmt.tasks import Task

if TYPE_CHECKING:
    from fairmt.estimator import FairMTLearner


KEPT = PARTS[:3]


class ParquetSource:
    """Batches of the training rows of a `ParquetTable`, each row once an epoch.

    An epoch draws the order of the row groups and reads `table.lanes` of them at a time into a
    buffer of `table.buffer_rows`, in which the rows are shuffled.

    Parameters
    ----------
    mean_weight : the mean weight of the training rows, by which weights are divided.
    """

    def __init__(
        self,
        table: ParquetTable,
        schema: Schema,
        batch_size: int = 256,
        seed: int = 0,
        *,
        mean_weight: float | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Found {batch_size}.")
        self.table, self.schema, self.batch_size, self.seed = table, schema, batch_size, seed
        self.mean_weight = mean_weight
        self._piece = table.buffer_rows // table.lanes
        self._n = table.rows["train"]

    @property
    def n_batches(self) -> int:
        return -(-self._n // self.batch_size)

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[dict[str, Any]]:
        """Batches `start`, `start + 1`, … of an epoch; of each, the rows of one process.

        To begin in the middle costs the reading of a buffer, not of what comes before it.
        """
        n, n_batches = self._n, self.n_batches
        at = start * n // n_batches
        rows: TensorTable | None = None
        order = np.zeros(0, dtype=np.int64)
        buffers = self._buffers(epoch, at)
        for i in range(start, n_batches):
            size = (i + 1) * n // n_batches - i * n // n_batches
            while len(order) < size:
                left = [] if rows is None else [rows[order]]
                rows = None  # so that two buffers never stand in memory
                new, shuffled = next(buffers)
                rows = TensorTable.joined([*left, *new])
                order = np.concatenate([np.arange(len(order)), len(order) + shuffled])
            assert rows is not None
            yield rows.batch(torch.from_numpy(order[:size][rank::world]))
            order = order[size:]

    def _buffers(self, epoch: int, at: int) -> Iterator[tuple[list[TensorTable], np.ndarray]]:
        """Buffers from the one on that holds row `at` of the epoch, and the order in each."""
        seeds = (self.seed % 2**32, epoch)
        chosen = np.flatnonzero(self.table.train_rows)
        shuffled = np.random.default_rng(seeds).permutation(chosen)
        lanes = [shuffled[k :: self.table.lanes] for k in range(self.table.lanes)]
        totals = np.array([self.table.train_rows[lane].sum() for lane in lanes])
        n_buffers = -(-int(totals.max()) // self._piece)
        sizes = [
            int(np.clip(totals - b * self._piece, 0, self._piece).sum()) for b in range(n_buffers)
        ]
        begins = np.concatenate([[0], np.cumsum(sizes)])
        first = int(np.searchsorted(begins, at, side="right")) - 1
        readers = [_Reader(self._encoded(lane, first * self._piece)) for lane in lanes]
        for b in range(first, n_buffers):
            pieces = [piece for reader in readers for piece in reader.take(self._piece)]
            found = sum(len(p) for p in pieces)
            if found != sizes[b]:
                raise ValueError(
                    f"'{self.table.path}' has changed since it was opened: {found} training rows "
                    f"where there were {sizes[b]}. Open it anew."
                )
            order = np.random.default_rng((*seeds, b)).permutation(found)
            yield pieces, order[at - int(begins[b]) :] if b == first else order

    def _encoded(self, lane: np.ndarray, skip: int) -> Iterator[TensorTable]:
        """The training rows of some row groups, in order, without the first `skip`."""
        counts = self.table.train_rows[lane]
        begin = int(np.searchsorted(counts.cumsum(), skip, side="right"))
        skip -= int(counts[:begin].sum())
        groups = [self.table.row_groups[g] for g in lane[begin:]]
        for frame in self._training_rows(groups):
            if skip < len(frame):
                yield self.schema.encode(frame.iloc[skip:], mean_weight=self.mean_weight)
            skip = max(0, skip - len(frame))

    def _training_rows(self, groups: Sequence[RowGroup]) -> Iterator[pd.DataFrame]:
        for frame, parts in self.table.pieces(_columns(self.schema), groups):
            yield frame[parts == 0]


class _Reader:
    """Takes rows off a stream of tables, as many as are asked for or left."""

    def __init__(self, tables: Iterator[TensorTable]) -> None:
        self._tables = tables
        self._left: TensorTable | None = None

    def take(self, n: int) -> list[TensorTable]:
        taken = []
        while n > 0:
            if self._left is None:
                self._left = next(self._tables, None)
                if self._left is None:
                    break
            taken.append(self._left[:n])
            self._left = self._left[n:] if len(self._left) > n else None
            n -= len(taken[-1])
        return taken


def _columns(schema: Schema) -> list[str]:
    """The columns that encoding for training needs."""
    columns = [*schema.feature_names, *(a.name for a in schema.groups.attributes)]
    columns += [c for t in schema.tasks for c in t.columns]
    columns += [] if schema.weight is None else [schema.weight]
    return list(dict.fromkeys(columns))


@dataclass
class Stream:
    """What a learner needs to train on a table that is not in memory.

    Attributes
    ----------
    tables : of 'calibration' and 'validation' all rows; of 'train' a sample.
    sample : the same sample, before it was encoded.
    """

    schema: Schema
    tables: dict[str, TensorTable]
    source: ParquetSource
    sample: pd.DataFrame


def open_stream(learner: FairMTLearner, table: ParquetTable, given: Mapping[str, Any]) -> Stream:
    """Fit the schema in one pass over the table, and keep its held-out rows and a sample.

    Parameters
    ----------
    given : further arguments of `FairMTLearner.fit`, none of which a `ParquetTable` goes with.

    Raises
    ------
    ValueError
        For settings that need the whole table in memory.
    """
    tasks = _tasks(learner, table, given)
    like = table.like()
    features = features_of(learner, like.drop(columns=table.split_by or []), tasks)
    fit = SchemaFit(
        like,
        tasks,
        learner.sensitive,
        features=features,
        drop=learner.drop,
        weight=learner.weight,
        split_by=table.split_by,
        bins=learner.bins,
        depth=learner.depth,
        attributes_as_inputs=learner.attributes_as_inputs,
        continuous=learner.continuous,
    )
    roles = [*features, *learner.sensitive, *(c for t in tasks for c in t.columns)]
    roles += [c for c in (learner.weight, table.split_by) if c is not None]
    frames, mean_weight = _one_pass(table, list(dict.fromkeys(roles)), fit, learner.weight)
    schema = fit.finish()
    sample = frames["train"]
    # One at a time: a part stands in memory as a frame or as tensors, not as both.
    tables = {part: schema.encode(frames.pop(part)) for part in KEPT}
    source = ParquetSource(table, schema, learner.batch_size, learner.seed, mean_weight=mean_weight)
    return Stream(schema, tables, source, sample)


def _tasks(
    learner: FairMTLearner, table: ParquetTable, given: Mapping[str, Any]
) -> tuple[Task, ...]:
    """The learner's tasks, once its settings are known to go with a stream."""
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise ValueError(
            f"{extra} cannot be passed beside a ParquetTable; name columns of it in tasks, "
            "sensitive, weight and split_by."
        )
    tasks = parse_tasks(learner)
    if tasks is None:
        raise ValueError("Name the tasks: FairMTLearner(tasks=[...]).")
    if learner.split_by not in (None, table.split_by):
        raise ValueError(
            f"split_by is '{learner.split_by}' in the learner and '{table.split_by}' in the table; "
            "give ParquetTable the same."
        )
    if learner.balance:
        raise ValueError("balance draws rows from all over the table; it needs them in memory.")
    return tasks


def _one_pass(
    table: ParquetTable, columns: Sequence[str], fit: SchemaFit, weight: str | None
) -> tuple[dict[str, pd.DataFrame], float | None]:
    """Show the training rows to the fit; what is to be kept, and the mean training weight."""
    kept: dict[str, list[pd.DataFrame]] = {part: [] for part in KEPT}
    weights = Numbers()
    share = min(1.0, SAMPLE / table.rows["train"])
    at = 0
    for frame, parts in table.pieces(columns):
        train = frame[parts == 0]
        fit.add(train)
        fit.add_classes(frame[(parts == 1) | (parts == 2)])
        if weight is not None:
            weights.add(row_weights(train[weight]))
        keys = scrambled(np.arange(at, at + len(frame), dtype=np.uint64), table.seed)
        at += len(frame)
        chosen = np.where(parts == 0, keys < share * 2.0**64, True)
        for code, part in enumerate(KEPT):
            kept[part].append(frame[chosen & (parts == code)])
    frames = {part: pd.concat(kept.pop(part)) for part in KEPT}
    return frames, None if weight is None else weights.mean
