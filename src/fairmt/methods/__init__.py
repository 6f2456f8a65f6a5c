"""Methods, by name. A new one is a file here and a line in `METHODS`.

Four kinds: a *step* turns a batch into gradients, *pre-training* gives an encoder,
*post-processing* changes a model's outputs, an *estimator* is a model of its own.
"""

from __future__ import annotations

from fairmt.methods.base import Batch, Method, StepMethod
from fairmt.methods.fairmt import FairMT
from fairmt.methods.group_dro import GroupDRO
from fairmt.methods.plain import Plain
from fairmt.methods.postprocessing import PostProcessing
from fairmt.methods.pretraining import PreTraining
from fairmt.methods.single import SingleTask
from fairmt.methods.symmetric import Symmetric

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        FairMT,
        Symmetric,
        Plain,
        SingleTask,
        GroupDRO,
    )
}

STEPS: dict[str, type[StepMethod]] = {
    name: m for name, m in METHODS.items() if issubclass(m, StepMethod)
}

__all__ = [
    "METHODS",
    "STEPS",
    "Batch",
    "FairMT",
    "GroupDRO",
    "Method",
    "Plain",
    "PostProcessing",
    "PreTraining",
    "SingleTask",
    "StepMethod",
    "Symmetric",
    "method",
    "step_method",
]


def method(name: str) -> type[Method]:
    """The method of that name, of any kind.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method '{name}'; expected one of {sorted(METHODS)}.")
    return METHODS[name]


def step_method(name: str) -> type[StepMethod]:
    """The step method of that name.

    Raises
    ------
    ValueError
        If there is none, or the name is that of a method of another kind.
    """
    found = method(name)
    if not issubclass(found, StepMethod):
        raise ValueError(
            f"Method '{name}' is of the kind {found.kind}; expected a step method, one of "
            f"{sorted(STEPS)}."
        )
    return found
