"""Suites: which contestants meet on which problems, under how many seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from fairmt.bench.configuration import Configuration

CORE_DATA = ("acs", "diabetes130", "nhanes", "lawschool")
CORE = (
    "reference", "collapse", "plain", "single", "symmetric", "fairmt", "group_dro", "fairbranch",
    "f_ferm", "faircocco", "adversarial",
)  # fmt: skip
FULL = (
    *CORE, "minimax", "gap", "mmd", "wasserstein", "correlation", "cuma", "sensei",
    "l2t_fmt", "mta_f", "gramian", "scalarised", "dualfair", "barycentre", "group_thresholds",
)  # fmt: skip
NEAREST: tuple[tuple[str, tuple[str, ...], int], ...] = (
    # The fewest test rows and the widest intervals.
    ("lawschool", CORE, 10),
    ("nhanes", ("reference", "symmetric", "fairmt"), 10),
    ("acs", ("reference", "symmetric", "fairmt"), 10),
    ("acs_binary", ("reference", "symmetric", "fairmt", "barycentre", "group_thresholds"), 10),
    ("acs_binary", ("reference", "fairmt", "group_thresholds"), 20),
)
"""Where, and for which methods, 5 seeds are too few to tell them apart."""
FOLLOWED = {"postprocessing": "group_thresholds"}
"""What may follow FairMT where groups may be named at prediction."""
SHOWN = ("reference", "symmetric", "fairmt", "barycentre", "group_thresholds")
# FairBranch splits the layers of an MLP, DualFair's generator would have to draw pictures.
PICTURES = tuple(method for method in FULL if method not in ("fairbranch", "dualfair"))
WITHOUT_LABELS = ("missing:0.5", "missing_by_group:0.5")
"""Variants of the census whose kept shares are ratios of small figures, and need more seeds."""
VARIANTS = (
    "missing:0.5", "missing:0.9", "missing_by_group:0.5", "intersections",
    "attributes_as_inputs",
)  # fmt: skip
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "all direction": {"directionality": 1.0},
    "no tolerance": {"tolerance": 0.0},
    "mean instead of worst case": {"sharpness": 0.0},
    "sharper worst case": {"sharpness": 9.0},
    "few people count like many": {"full_evidence": 0.0},
    "no memory": {"max_decay": 0.0},
    "no balancing": {"proxy": None},
    "the dual in place of the path": {"controller": "dual"},
    "the dual without its bound": {"controller": "dual", "max_strength": 1000.0},
}
"""Pieces of FairMT switched off or exchanged, by the options that do it; without any direction it
is the method 'symmetric'."""


@dataclass(frozen=True)
class Suite:
    """Runs that are compared with each other.

    Attributes
    ----------
    cost : what it takes, in words.
    """

    name: str
    what: str
    cost: str
    runs: tuple[Configuration, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.problem for c in self.runs))


def _runs(
    data: Iterable[str],
    methods: Iterable[str],
    seeds: int,
    variants: Iterable[str] = ("",),
    **settings: Any,
) -> tuple[Configuration, ...]:
    # Seed by seed, so that a suite that is cut short compares all methods on fewer seeds.
    return tuple(
        Configuration(d, m, seed, v, **settings)
        for seed, v, d, m in product(range(seeds), variants, data, methods)
    )


def _nearest(data: Iterable[str]) -> tuple[Configuration, ...]:
    return tuple(
        c for d, methods, seeds in NEAREST if d in data for c in _runs((d,), methods, seeds)
    )


def _census_variants() -> tuple[Configuration, ...]:
    nearest = _runs(("acs",), ("reference", "symmetric", "fairmt"), 10, ("", *WITHOUT_LABELS))
    return tuple(dict.fromkeys(_runs(("acs",), CORE, 5, ("", *VARIANTS, "shift")) + nearest))


def _ablated(data: str, seed: int, settings: Mapping[str, Any]) -> Configuration:
    options = tuple((k, v) for k, v in settings.items() if k != "controller")
    return Configuration(data, "fairmt", seed, "", options, settings.get("controller", "path"))


def _ablations(data: Iterable[str], seeds: int) -> tuple[Configuration, ...]:
    whole = _runs(data, ("fairmt", "symmetric"), seeds)
    return whole + tuple(
        _ablated(d, seed, settings)
        for seed, d, settings in product(range(seeds), data, ABLATIONS.values())
    )


IN_WORDS = {_ablated("", 0, settings).contestant: words for words, settings in ABLATIONS.items()}
"""What the contestants of the ablations are called."""


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "smoke",
            "made-up people and few epochs, to see that everything runs",
            "half a minute on two cores",
            _runs(
                ("made_up",), (*CORE, "barycentre", "group_thresholds"), 1, epochs=6, path_epochs=8
            ),
        ),
        Suite(
            "core",
            "the main contestants on four tables with tasks of several kinds, 5 seeds; 10 on the "
            "smallest table, and where two methods are near each other",
            "about an hour and a half on two cores",
            tuple(dict.fromkeys(_runs(CORE_DATA, CORE, 5) + _nearest(CORE_DATA)))
            + _runs(CORE_DATA, ("ceiling", "noise_floor"), 5)
            + _runs(CORE_DATA, ("fairmt",), 5, **FOLLOWED),
        ),
        Suite(
            "ablations",
            "FairMT with one piece off or exchanged at a time",
            "about 40 minutes on two cores",
            _ablations(("acs", "diabetes130"), 5),
        ),
        Suite(
            "variants",
            "labels removed, at random and by group; other states; intersections; attributes as "
            "inputs, of law school too",
            "about an hour and a half on two cores",
            _census_variants()
            + _runs(("lawschool",), CORE, 5, ("attributes_as_inputs",))
            + _runs(("acs",), ("noise_floor",), 5, ("", *VARIANTS, "shift"))
            + _runs(("lawschool",), ("noise_floor",), 5, ("attributes_as_inputs",)),
        ),
        Suite(
            "full",
            "every method; tables, five binary tasks, pictures, texts",
            "about 4 hours on two cores, and 9 more for the pictures (on a GPU far less); it may "
            "be cut short",
            tuple(
                dict.fromkeys(
                    _runs((*CORE_DATA, "acs_binary", "empathy"), FULL, 5)
                    + _runs(("lawschool",), FULL, 10)
                    + _nearest((*CORE_DATA, "acs_binary"))
                    + _runs(("acs_binary",), ("mmm_fair",), 5)
                    # Thresholds for every group are shown the group: so may all be.
                    + _runs(("acs_binary",), SHOWN, 5, ("attributes_as_inputs",))
                    + _runs(CORE_DATA, ("fairmt",), 5, **FOLLOWED)
                    + _runs(("acs", "diabetes130"), ("symmetric",), 5, **FOLLOWED)
                    + _runs(("acs_binary",), ("fairmt",), 10, **FOLLOWED)
                    # A run on pictures takes as long as ten on a table.
                    + _runs(("faces",), (*PICTURES, "noise_floor"), 4)
                    + tuple(_ablated("faces", seed, ABLATIONS["no balancing"]) for seed in range(4))
                    + _census_variants()
                    + _runs((*CORE_DATA, "acs_binary", "empathy"), ("noise_floor",), 5)
                )
            ),
        ),
    )
}


def suite(name: str) -> Suite:
    """The suite of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in SUITES:
        raise ValueError(f"Unknown suite '{name}'; expected one of {sorted(SUITES)}.")
    return SUITES[name]
