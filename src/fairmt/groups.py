"""For whom: sensitive attributes, their groups and intersections, and the membership matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from fairmt.constants import Constant

MAX_CATEGORIES = 100
"""More groups than this in one attribute is an identifier or a number, not an attribute."""


@dataclass(frozen=True)
class Attribute:
    """A categorical sensitive attribute.

    Parameters
    ----------
    name : str
    categories : sequence of str
        Its groups, in the order of their codes.
    edges : sequence of float
        For a numeric attribute that was cut into bands: the inner edges, one fewer than
        categories; band *i* is ``edges[i-1] <= value < edges[i]``.
    """

    name: str
    categories: tuple[str, ...]
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(str(c) for c in self.categories))
        object.__setattr__(self, "edges", tuple(float(e) for e in self.edges))
        n = len(self.categories)
        if n < 2:
            raise ValueError(
                f"Sensitive attribute '{self.name}' has {n} group(s) {list(self.categories)}; a "
                "comparison needs two. Leave the attribute out."
            )
        if n > MAX_CATEGORIES:
            raise ValueError(
                f"Sensitive attribute '{self.name}' has {n} groups, more than {MAX_CATEGORIES}; "
                "cut it into bands or pool its categories."
            )
        if len(set(self.categories)) != n:
            raise ValueError(f"Sensitive attribute '{self.name}' names a group twice.")
        if self.edges and len(self.edges) != n - 1:
            raise ValueError(
                f"Sensitive attribute '{self.name}': {len(self.edges)} edges for {n} bands."
            )


@dataclass(frozen=True)
class Partition:
    """An attribute, or an intersection of several: groups that exclude each other.

    `groups` is the slice of its groups among all groups (the pooled row not counted).
    """

    name: str
    members: tuple[int, ...]
    groups: slice


@dataclass(frozen=True)
class Groups:
    """All groups of all attributes side by side, intersections up to `depth` attributes too.

    Codes are (B, A) int64 in the order of `attributes`, -1 where the attribute is missing. A row
    whose attribute is missing belongs to none of that attribute's groups.
    """

    attributes: tuple[Attribute, ...]
    depth: int = 1
    partitions: tuple[Partition, ...] = field(init=False, repr=False)
    names: tuple[str, ...] = field(init=False, repr=False)
    # Which attributes must have which codes: `depth` conditions per group, one after the other.
    _attribute: Constant = field(init=False, repr=False, compare=False)
    _code: Constant = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        attributes = tuple(self.attributes)
        object.__setattr__(self, "attributes", attributes)
        names = [a.name for a in attributes]
        if len(set(names)) != len(names):
            raise ValueError(f"Sensitive attributes must be distinct. Found {names}.")
        if not 1 <= self.depth <= max(1, len(attributes)):
            raise ValueError(
                f"depth must lie between 1 and the number of attributes, {len(attributes)}. "
                f"Found {self.depth}."
            )
        partitions: list[Partition] = []
        labels: list[str] = []
        needed: list[list[tuple[int, int]]] = []
        for size in range(1, self.depth + 1):
            for members in combinations(range(len(attributes)), size):
                start = len(labels)
                for cell in product(*(attributes[m].categories for m in members)):
                    labels.append(
                        " & ".join(f"{names[m]}={c}" for m, c in zip(members, cell, strict=True))
                    )
                    conditions = [
                        (m, attributes[m].categories.index(c))
                        for m, c in zip(members, cell, strict=True)
                    ]
                    needed.append(conditions + conditions[:1] * (self.depth - size))
                partitions.append(
                    Partition(
                        " × ".join(names[m] for m in members), members, slice(start, len(labels))
                    )
                )
        object.__setattr__(self, "partitions", tuple(partitions))
        object.__setattr__(self, "names", tuple(labels))
        conditions_of = torch.tensor(needed, dtype=torch.int64).view(-1, self.depth, 2)
        attribute, code = conditions_of.permute(2, 1, 0).flatten(1).unbind()
        object.__setattr__(self, "_attribute", Constant(attribute))
        object.__setattr__(self, "_code", Constant(code))

    @property
    def n_groups(self) -> int:
        return len(self.names)

    def partition_of_group(self) -> Tensor:
        """Position of the partition of every group, (G,) int64."""
        index = torch.empty(self.n_groups, dtype=torch.int64)
        for position, partition in enumerate(self.partitions):
            index[partition.groups] = position
        return index

    def pack(self, codes: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Codes by attribute name to (B, A); a packed matrix passes through."""
        if isinstance(codes, Tensor):
            if codes.ndim != 2 or codes.shape[1] != len(self.attributes):
                raise ValueError(
                    f"Attribute codes must be (B, {len(self.attributes)}). "
                    f"Found {tuple(codes.shape)}."
                )
            return codes
        missing = [a.name for a in self.attributes if a.name not in codes]
        if missing:
            raise ValueError(f"No codes for sensitive attributes {missing}; found {sorted(codes)}.")
        return torch.stack([codes[a.name].long() for a in self.attributes], 1)

    def index(self, codes: Tensor) -> Tensor:
        """Group of every row in every partition, (B, P) int64, -1 where unknown."""
        columns = []
        for partition in self.partitions:
            cell = torch.zeros_like(codes[:, 0])
            known = torch.ones_like(cell, dtype=torch.bool)
            for m in partition.members:
                cell = cell * len(self.attributes[m].categories) + codes[:, m]
                known &= codes[:, m] >= 0
            columns.append(torch.where(known, cell + partition.groups.start, -1))
        return torch.stack(columns, 1)

    def members_of_partitions(self) -> Tensor:
        """Groups of every partition, (P, largest), for maxima and minima over partitions.

        Shorter rows repeat their first group, which changes no maximum.
        """
        width = max((p.groups.stop - p.groups.start for p in self.partitions), default=0)
        rows = [list(range(p.groups.start, p.groups.stop)) for p in self.partitions]
        return torch.tensor([row + row[:1] * (width - len(row)) for row in rows])

    def membership(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, 1 + G): column 0 is everybody, column 1 + g is group g.

        A row with a missing code, or one outside its attribute's range, is in no group of that
        attribute; `check` finds the latter.
        """
        attribute, code = self._attribute.on(codes.device), self._code.on(codes.device)
        found = codes.index_select(1, attribute)
        member = torch.ones(len(codes), 1 + self.n_groups, dtype=dtype, device=codes.device)
        if self.depth == 1:
            torch.eq(found, code, out=member[:, 1:])
        else:
            member[:, 1:] = (found == code).view(-1, self.depth, self.n_groups).all(1)
        return member

    def check(self, codes: Tensor) -> None:
        """Raise ValueError, naming the attribute, if a code is outside its range."""
        for position, attribute in enumerate(self.attributes):
            column = codes[:, position]
            if column.numel() and (column.max() >= len(attribute.categories) or column.min() < -1):
                raise ValueError(
                    f"Sensitive attribute '{attribute.name}' has codes from {int(column.min())} to "
                    f"{int(column.max())}; expected -1 (missing) to "
                    f"{len(attribute.categories) - 1}."
                )

    def to_dict(self) -> dict[str, Any]:
        return {
            "attributes": [
                {"name": a.name, "categories": list(a.categories), "edges": list(a.edges)}
                for a in self.attributes
            ],
            "depth": self.depth,
        }

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> Groups:
        return Groups(tuple(Attribute(**a) for a in config["attributes"]), config.get("depth", 1))
