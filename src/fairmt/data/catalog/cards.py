"""What a data set is, where it comes from, and what goes wrong with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One file: its name below the data folder, its official address and checksum.

    `member` is the file's name inside the archive at the address, if that is an archive. `sha256`
    is None where the official file's checksum is not known; none is invented.
    """

    path: str
    url: str | None = None
    sha256: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Card:
    """A data set's card.

    Attributes
    ----------
    unit : what a split must keep together.
    traps : what to know before using it, one sentence each.
    rows : of the recommended population.
    verified : whether a download has confirmed address and checksum; until then the card says
        "unverified".
    """

    name: str
    title: str
    origin: str
    licence: str
    citation: str
    sources: tuple[Source, ...]
    tasks: tuple[str, ...]
    sensitive: tuple[str, ...]
    unit: str
    traps: tuple[str, ...]
    rows: int
    verified: bool = False
