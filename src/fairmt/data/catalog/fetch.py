"""Files of the catalog: from the folder in FAIRMT_DATA, or from their official address."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from fairmt.data.catalog.cards import Card, Source


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
    """Fetch one file into the cache, and take it out of its archive.

    A known checksum is verified; without one a warning says that the file is unverified.

    Raises
    ------
    FileNotFoundError
        If it cannot be had, or is not what it should be; the message says what to do.
    """
    import pooch

    assert source.url is not None
    folder = (Path(pooch.os_cache("fairmt")) / source.path).parent
    name = Path(source.path).name if source.member is None else source.url.rsplit("/", 1)[-1]
    if source.sha256 is None:
        warnings.warn(
            f"No checksum is known for {source.url}: what it gives is unverified.", stacklevel=4
        )
    try:
        fetched = Path(
            pooch.retrieve(
                url=source.url,
                known_hash=None if source.sha256 is None else f"sha256:{source.sha256}",
                fname=name,
                path=folder,
                # pooch's bar needs a package that is not among our dependencies.
                progressbar=find_spec("tqdm") is not None,
            )
        )
        if source.member is None:
            return fetched
        taken = _taken_out(fetched, source.member)
        if taken is None:
            raise FileNotFoundError(f"it holds no '{source.member}'")
    except Exception as error:
        raise FileNotFoundError(
            f"Cannot fetch {source.url} ({error}). Download it by hand, put it at "
            f"'{source.path}' in a folder, and set FAIRMT_DATA to that folder."
        ) from error
    target = folder / source.member
    with NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(taken)
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)
    return target


def _taken_out(archive: Path | IO[bytes], name: str) -> bytes | None:
    """A file of a zip archive, or of an archive inside it; None if there is no such file."""
    with zipfile.ZipFile(archive) as opened:
        entries = opened.namelist()
        for entry in entries:
            if entry.rsplit("/", 1)[-1] == name:
                return opened.read(entry)
        for entry in entries:
            if entry.lower().endswith(".zip"):
                found = _taken_out(io.BytesIO(opened.read(entry)), name)
                if found is not None:
                    return found
    return None
