"""What a method's name means to the learner: a step, perhaps with something before or after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairmt.methods import (
    FairMT,
    Method,
    Plain,
    PostProcessing,
    PreTraining,
    StepMethod,
    method,
)
from fairmt.models.blocks import schema_blocks

if TYPE_CHECKING:
    from fairmt.data import Schema


@dataclass(frozen=True)
class Recipe:
    """What is trained.

    Attributes
    ----------
    step : moves encoder and heads; plain training where the method is of another kind.
    before : gives the encoder.
    after : changes the outputs of what the step has trained.
    """

    step: StepMethod
    before: PreTraining | None = None
    after: PostProcessing | None = None

    @property
    def method(self) -> Method:
        """The part that the recipe is called by."""
        if type(self.step) is not Plain:
            return self.step
        return self.after or self.before or self.step


def recipe(
    name: str,
    options: Mapping[str, Any] | None = None,
    pretraining: str | Mapping[str, Any] | None = None,
    postprocessing: str | Mapping[str, Any] | None = None,
    constraint: Mapping[str, Any] | None = None,
    schema: Schema | None = None,
) -> Recipe:
    """The recipe of a method, with its options.

    Parameters
    ----------
    pretraining, postprocessing : name of a method of that kind, or a mapping with its 'name' and
        its settings.
    constraint : settings that FairMT and its variants take from the learner.
    schema : of the table, where options name its columns.

    Raises
    ------
    ValueError
        For unknown names, kinds that do not fit, and estimators, which are models of their own.
    """
    kind, own = method(name), _in_columns(options or {}, schema)
    if isinstance(pretraining, Mapping):
        pretraining = _in_columns(pretraining, schema)
    before = None if pretraining is None else pretraining_of(pretraining)
    after = None if postprocessing is None else postprocessing_of(postprocessing)
    if issubclass(kind, PreTraining):
        if before is not None:
            raise ValueError(f"Give method='{name}' or pretraining={pretraining!r}, not both.")
        return Recipe(Plain(), kind(**own), after)
    if issubclass(kind, PostProcessing):
        if after is not None:
            raise ValueError(
                f"Give method='{name}' or postprocessing={postprocessing!r}, not both."
            )
        return Recipe(Plain(), before, kind(**own))
    if issubclass(kind, StepMethod):
        settings = dict(constraint or {}) if issubclass(kind, FairMT) else {}
        return Recipe(kind(**settings | own), before, after)
    raise ValueError(
        f"Method '{name}' is a model of its own: use {kind.estimator}, which has fit and predict."
    )


def pretraining_of(spec: str | Mapping[str, Any]) -> PreTraining:
    """The pre-training of that name, or of a mapping with its 'name' and its settings."""
    kind, settings = _named(spec, "pretraining")
    if not issubclass(kind, PreTraining):
        raise ValueError(f"Method '{kind.name}' is of the kind {kind.kind}; it cannot pre-train.")
    return kind(**settings)


def postprocessing_of(spec: str | Mapping[str, Any]) -> PostProcessing:
    """The post-processing of that name, or of a mapping with its 'name' and its settings."""
    kind, settings = _named(spec, "postprocessing")
    if not issubclass(kind, PostProcessing):
        raise ValueError(
            f"Method '{kind.name}' is of the kind {kind.kind}; it cannot post-process."
        )
    return kind(**settings)


def _named(spec: str | Mapping[str, Any], argument: str) -> tuple[type[Method], dict[str, Any]]:
    """The class of a method and its settings."""
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in settings:
        raise ValueError(f"{argument} must be a name, or have one. Found {spec!r}.")
    return method(settings.pop("name")), settings


def _in_columns(settings: Mapping[str, Any], schema: Schema | None) -> dict[str, Any]:
    """Settings whose blocks of features, if they are named, are columns of the encoded table."""
    found = dict(settings)
    blocks = found.get("blocks")
    if schema is not None and isinstance(blocks, Mapping) and len(blocks) > 1:
        named = [b for b in blocks.values() if not isinstance(b, Mapping | str)]
        if all(isinstance(f, str) for block in named for f in block) and len(named) == len(blocks):
            found["blocks"] = schema_blocks(schema, blocks)
    return found
