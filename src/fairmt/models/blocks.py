"""An encoder for features that come in blocks, of which a row may lack some."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fairmt.models.encoders import MLP

if TYPE_CHECKING:
    from fairmt.data import Schema


@dataclass(frozen=True)
class Block:
    """Input columns that belong together: a questionnaire, a laboratory, a text's embedding.

    A row lacks the block if all its columns are NaN, or if all its flags are 1.

    Parameters
    ----------
    columns : positions among the input columns.
    flags : those of them that are 1 where a value is missing; empty if values are never missing
        without being NaN.
    """

    columns: tuple[int, ...]
    flags: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(int(c) for c in self.columns))
        object.__setattr__(self, "flags", tuple(int(c) for c in self.flags))


BlockLike = Block | Sequence[int] | Mapping[str, Sequence[int]]
"""A block, its columns, or a mapping with 'columns' and perhaps 'flags', as JSON has it."""


def as_blocks(blocks: Mapping[str, BlockLike]) -> dict[str, Block]:
    """Blocks by name."""
    found = {}
    for name, block in blocks.items():
        if isinstance(block, Mapping):
            block = Block(tuple(block["columns"]), tuple(block.get("flags", ())))
        found[str(name)] = block if isinstance(block, Block) else Block(tuple(block))
    return found


class Parts(NamedTuple):
    """What every block gives: shared (B, K, d) and private (B, K, p) parts, 0 where the block is
    missing, and whether it is there, (B, K)."""

    shared: Tensor
    private: Tensor
    present: Tensor


class BlockEncoder(nn.Module):
    """An MLP per block; shared and private parts of all blocks side by side, (B, K·(d + p)).

    A missing block contributes zeros, and nothing of what stands in its columns is read.

    Parameters
    ----------
    blocks : mapping from name to `Block` or positions, see `BlockLike`.
    n_inputs : int
        Input columns; each belongs to one block.
    shared, private : int
        d and p.
    widths : sequence of int
        Hidden layers of every block's MLP.

    Raises
    ------
    ValueError
        If there are fewer than two blocks, or a column belongs to none or to two.
    """

    def __init__(
        self,
        blocks: Mapping[str, BlockLike],
        n_inputs: int,
        *,
        shared: int = 16,
        private: int = 8,
        widths: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        self.blocks = checked(blocks, n_inputs)
        self.n_inputs, self.n_shared, self.n_private = n_inputs, shared, private
        self.n_features = len(self.blocks) * (shared + private)
        self.encoders = nn.ModuleList(
            nn.Sequential(MLP(len(block.columns), widths), nn.Linear(widths[-1], shared + private))
            for block in self.blocks.values()
        )
        for k, block in enumerate(self.blocks.values()):
            self.register_buffer(f"_columns{k}", torch.tensor(block.columns), False)
            self.register_buffer(f"_flags{k}", torch.tensor(block.flags, dtype=torch.int64), False)

    def columns(self, k: int) -> Tensor:
        """Positions of the columns of block k."""
        return self.get_buffer(f"_columns{k}")

    def present(self, x: Tensor) -> Tensor:
        """Which blocks rows (B, D) have, (B, K) bool.

        A block that is NaN in part counts as missing.
        """
        found = []
        for k, block in enumerate(self.blocks.values()):
            there = ~x[:, self.columns(k)].isnan().any(1)
            if block.flags:
                there = there & ~(x[:, self.get_buffer(f"_flags{k}")] == 1).all(1)
            found.append(there)
        return torch.stack(found, 1)

    def parts(self, x: Tensor) -> Parts:
        """Shared and private parts of every block."""
        present = self.present(x)
        found = []
        for k, encoder in enumerate(self.encoders):
            there = present[:, k, None]
            own = torch.where(there, x[:, self.columns(k)], 0.0)
            found.append(torch.where(there, encoder(own), 0.0))
        shared, private = torch.stack(found, 1).split([self.n_shared, self.n_private], 2)
        return Parts(shared, private, present)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        return torch.cat([parts.shared, parts.private], 2).flatten(1)


def checked(blocks: Mapping[str, BlockLike], n_inputs: int) -> dict[str, Block]:
    """Blocks by name, or ValueError by name; see `BlockEncoder`."""
    found = as_blocks(blocks)
    if len(found) < 2:
        raise ValueError(
            f"Blocks must be two or more: with {list(found) or 'none'} there is nothing to align. "
            "Use an MLP for one block of features."
        )
    owner: dict[int, str] = {}
    for name, block in found.items():
        if not block.columns:
            raise ValueError(f"Block '{name}' has no column.")
        for column in block.columns:
            if not 0 <= column < n_inputs:
                raise ValueError(f"Block '{name}' names column {column}; there are {n_inputs}.")
            if column in owner:
                raise ValueError(
                    f"Column {column} belongs to the blocks '{owner[column]}' and '{name}'."
                )
            owner[column] = name
        if not set(block.flags) <= set(block.columns):
            raise ValueError(f"The flags of block '{name}' must be among its columns.")
    without = sorted(set(range(n_inputs)) - set(owner))
    if without:
        raise ValueError(f"Columns {without[:10]} belong to no block; put them into one.")
    return found


def schema_blocks(schema: Schema, blocks: Mapping[str, Sequence[str]]) -> dict[str, Block]:
    """Blocks of a table's columns as blocks of the model's input columns.

    A block can be missing if each of its features was missing somewhere in the training rows:
    then a row lacks it where all of them are. Sensitive attributes that are inputs are named like
    features.

    Raises
    ------
    ValueError
        For a column that is no feature, or is in two blocks or in none.
    """
    inputs: dict[str, tuple[range, int | None]] = {}
    at = 0
    for n in schema.numeric:
        inputs[n.name] = (range(at, at + 1 + n.flag), at + 1 if n.flag else None)
        at += 1 + n.flag
    for c in schema.categorical:
        width = len(c.categories) + 1 + c.flag
        inputs[c.name] = (range(at, at + width), at + len(c.categories) if c.flag else None)
        at += width
    if schema.attributes_as_inputs:
        for a in schema.groups.attributes:
            inputs[a.name] = (range(at, at + len(a.categories)), None)
            at += len(a.categories)
    for w in schema.wide:
        width = math.prod(w.shape)
        inputs[w.name] = (range(at, at + width), None)
        at += width
    found = {}
    for name, features in blocks.items():
        for feature in features:
            if feature not in inputs:
                near = get_close_matches(feature, list(inputs), 3)
                hint = f" Did you mean {near}?" if near else ""
                raise ValueError(f"Block '{name}': '{feature}' is not a feature.{hint}")
        flags = [inputs[f][1] for f in features]
        known = tuple(f for f in flags if f is not None)
        columns = tuple(c for f in features for c in inputs[f][0])
        found[name] = Block(columns, known if len(known) == len(flags) else ())
    left = [f for f in inputs if not any(f in features for features in blocks.values())]
    if left:
        raise ValueError(f"Features {left} belong to no block; put them into one.")
    checked(found, at)
    return found
