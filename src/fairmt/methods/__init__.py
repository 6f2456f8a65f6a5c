"""Methods, by name. A new step method is one file here and one line in `METHODS`."""

from __future__ import annotations

from fairmt.methods.base import Batch, StepMethod
from fairmt.methods.fairmt import FairMT
from fairmt.methods.group_dro import GroupDRO
from fairmt.methods.plain import Plain
from fairmt.methods.single import SingleTask
from fairmt.methods.symmetric import Symmetric

METHODS: dict[str, type[StepMethod]] = {
    m.name: m for m in (FairMT, Symmetric, Plain, SingleTask, GroupDRO)
}

__all__ = [
    "METHODS",
    "Batch",
    "FairMT",
    "GroupDRO",
    "Plain",
    "SingleTask",
    "StepMethod",
    "Symmetric",
    "method",
]


def method(name: str) -> type[StepMethod]:
    """The step method of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method '{name}'; expected one of {sorted(METHODS)}.")
    return METHODS[name]
