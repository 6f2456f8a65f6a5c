"""One run of the benchmark: data, variant, method, seed; and its name by content."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import fairmt
from fairmt.methods import METHODS

PROTOCOL = 1
"""Raised when a change of the protocol makes earlier results another quantity."""
TOLERANCE = 0.15
"""The worst gap that is asked for where a tolerance is."""


@dataclass(frozen=True)
class Configuration:
    """What a run is made of.

    Attributes
    ----------
    data : name in the catalog, or of a problem of `fairmt.bench.problems`.
    variant : '', or one that `fairmt.bench.problems.problem` knows, as 'missing:0.5'.
    options : of the method, as pairs.
    controller : 'path', or 'dual' for the methods that have one; it looks for `TOLERANCE`.
    epochs, path_epochs : None for the learner's own.
    postprocessing : a method of that kind that follows the path; it is shown the attributes.
    """

    data: str
    method: str
    seed: int = 0
    variant: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    controller: str = "path"
    epochs: int | None = None
    path_epochs: int | None = None
    postprocessing: str | None = None

    @property
    def id(self) -> str:
        """Name by content: the same run of the same version has the same."""
        named = {"protocol": PROTOCOL, "version": fairmt.__version__, **asdict(self)}
        if self.postprocessing is None:
            # Results from before there was such a thing keep their names.
            del named["postprocessing"]
        revision = METHODS[self.method].revision if self.method in METHODS else 0
        if revision:
            named["revision"] = revision
        content = json.dumps(named, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def problem(self) -> str:
        """Data and variant, as one name."""
        return f"{self.data}/{self.variant}" if self.variant else self.data

    @property
    def contestant(self) -> str:
        """The method with its options, as one name."""
        controller = [f"controller={self.controller}"] if self.controller != "path" else []
        after = [f"+ {self.postprocessing}"] if self.postprocessing else []
        return " ".join([self.method, *controller, *(f"{k}={v}" for k, v in self.options), *after])

    @property
    def reference(self) -> Configuration:
        """The run of the plain reference that this one is measured against."""
        return replace(self, method="reference", options=(), controller="path", postprocessing=None)

    def command(self, seeds: Iterable[int] | None = None) -> str:
        """What to type to make this row again, for its own seed or for other ones."""
        words = ["fairmt", "bench", "one", "--data", self.data, "--method", self.method]
        if self.variant:
            words += ["--variant", self.variant]
        for key, value in self.options:
            words += ["--option", f"{key}={json.dumps(value)}"]
        if self.controller != "path":
            words += ["--controller", self.controller]
        if self.postprocessing:
            words += ["--postprocessing", self.postprocessing]
        for flag, value in (("--epochs", self.epochs), ("--path-epochs", self.path_epochs)):
            if value is not None:
                words += [flag, str(value)]
        wanted = [self.seed] if seeds is None else sorted(seeds)
        if wanted == list(range(len(wanted))):
            words += ["--seeds", str(len(wanted))]
        else:
            words += [word for seed in wanted for word in ("--seed", str(seed))]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> Configuration:
        """Inverse of `to_dict`."""
        options = tuple((str(k), _frozen(v)) for k, v in config["options"])
        return Configuration(**{**config, "options": options})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
