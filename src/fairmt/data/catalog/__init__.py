"""Real data sets, by name. A new one is one module here and one line in `_MODULES`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate

_MODULES = (
    "acs",
    "diabetes130",
    "nhanes",
    "adult",
    "compas",
    "lawschool",
    "student",
    "communities",
    "german",
    "faces",
    "empathy",
)

__all__ = ["Bundle", "Card", "Source", "card", "datasets", "load", "locate"]


def datasets() -> list[str]:
    """Names of the data sets."""
    return list(_MODULES)


def _module(name: str) -> Any:
    if name not in _MODULES:
        raise ValueError(f"Unknown data set '{name}'; expected one of {list(_MODULES)}.")
    return import_module(f"fairmt.data.catalog.{name}")


def card(name: str) -> Card:
    """The card of a data set."""
    return _module(name).CARD  # type: ignore[no-any-return]


def load(name: str, **options: Any) -> Bundle:
    """Load a data set with its recommended population, tasks, attributes and features.

    Parameters
    ----------
    options : of the data set's own `load`, e.g. ``states=("HI", "NM")`` for 'acs'.

    Raises
    ------
    ValueError
        If there is no such data set.
    FileNotFoundError
        If its files are neither in FAIRMT_DATA nor to be downloaded.
    """
    return _module(name).load(**options)  # type: ignore[no-any-return]
