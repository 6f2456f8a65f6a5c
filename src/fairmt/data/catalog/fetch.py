"""Files of the catalog: from the folder in FAIRMT_DATA, or from their official address."""

from __future__ import annotations

import os
from pathlib import Path

from fairmt.data.catalog.card import Card, Source


def locate(card: Card) -> list[Path]:
    """Paths of a data set's files, downloaded where they are missing.

    Raises
    ------
    FileNotFoundError
        Where a file is neither in FAIRMT_DATA nor to be had from an address; the message says
        where it is to be put.
    """
    folder = os.environ.get("FAIRMT_DATA")
    found = []
    for source in card.sources:
        local = None if folder is None else Path(folder) / source.path
        if local is not None and local.exists():
            found.append(local)
        elif source.url is None:
            raise FileNotFoundError(
                f"'{card.title}' has no public download: get it from {card.origin}, put it at "
                f"'{source.path}' in a folder, and set FAIRMT_DATA to that folder."
            )
        else:
            found.append(download(source))
    return found


def download(source: Source) -> Path:
    """Fetch one file into the cache, with a progress bar; its checksum is verified if known."""
    import pooch

    assert source.url is not None
    target = Path(pooch.os_cache("fairmt")) / source.path
    name = target.name if source.member is None else source.url.rsplit("/", 1)[-1]
    unzip = None if source.member is None else pooch.Unzip(members=[source.member])
    try:
        fetched = pooch.retrieve(
            url=source.url,
            known_hash=source.sha256,
            fname=name,
            path=target.parent,
            processor=unzip,
            progressbar=True,
        )
    except Exception as error:
        raise FileNotFoundError(
            f"Cannot fetch {source.url} ({error}). Download it by hand, put it at "
            f"'{source.path}' in a folder, and set FAIRMT_DATA to that folder."
        ) from error
    return Path(fetched if source.member is None else fetched[0])
