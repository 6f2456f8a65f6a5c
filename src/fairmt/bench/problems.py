"""What the contestants are set: data, parts, and what was taken away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fairmt.data import Bundle, generate, load, split
from fairmt.tasks import Classification

FRACTIONS = (0.6, 0.1, 0.1, 0.2)
SHIFT = {"train": ("HI",), "test": ("NM",)}
"""States of the natural shift: train, calibration and validation rows from the one, test rows from
the other."""

KINDS = ("", "missing", "missing_by_group", "shift", "intersections", "attributes_as_inputs")
"""Variants of a problem, the argument after the colon left out."""


@dataclass(frozen=True)
class Problem:
    """A table with its parts.

    Attributes
    ----------
    parts : row positions of train, calibration, validation and test.
    settings : what a learner must be told about it.
    """

    bundle: Bundle
    parts: Mapping[str, np.ndarray]
    settings: Mapping[str, object]


def made_up() -> Bundle:
    """The generator's people, few enough for a quick look."""
    return generate(6000, seed=1)


def acs_binary() -> Bundle:
    """Five yes-or-no outcomes of the census, as the homogeneous literature has them.

    Work at present, income above 50,000 dollars, insurance bought directly, a commute above 20
    minutes (observed for people who commute), and income below 2.5 times the poverty line.
    """
    from fairmt.data.catalog import acs

    people = acs.load(tasks=("income",), raw=True)
    raw = people.frame
    columns = {
        "employment": raw["ESR"] == 1,
        "above_50k": raw["PINCP"] * (raw["ADJINC"] / 1e6) > 50_000,
        "insured": raw["HINS2"] == 1,
        "long_commute": (raw["JWMNP"] > 20).where(raw["JWMNP"].notna()),
        "near_poverty": (raw["POVPIP"] < 250).where(raw["POVPIP"].notna()),
    }
    keep = [*people.features, *people.sensitive, "SERIALNO"]
    yes_no = {
        name: column.map({True: "yes", False: "no"}, na_action="ignore")
        for name, column in columns.items()
    }
    frame = pd.concat([raw[list(dict.fromkeys(keep))], pd.DataFrame(yes_no)], axis=1)
    tasks = tuple(Classification(name, ("no", "yes")) for name in columns)
    return replace(people, frame=frame, tasks=tasks)


OTHERS: dict[str, Callable[[], Bundle]] = {"made_up": made_up, "acs_binary": acs_binary}
"""Problems beside those of the catalog."""


def problem(data: str, variant: str = "", seed: int = 0, accelerator: str = "cpu") -> Problem:
    """The problem of that name and variant, split by a seed, for networks on an accelerator.

    Raises
    ------
    ValueError
        If the variant is unknown, or not defined for the data.
    """
    kind, _, argument = variant.partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"Unknown variant '{variant}'; expected missing:SHARE, missing_by_group:SHARE, shift, "
            "intersections or attributes_as_inputs."
        )
    if kind == "shift" and data != "acs":
        raise ValueError(f"The variant 'shift' is defined for 'acs' alone. Found '{data}'.")
    bundle = OTHERS[data]() if data in OTHERS else load(data)
    unit = None if bundle.split_by is None else bundle.frame[bundle.split_by].to_numpy()
    parts = dict(split(bundle.frame, fractions=FRACTIONS, unit=unit, seed=seed))
    if kind == "shift":
        parts = _shifted(bundle, seed)
    if kind.startswith("missing"):
        bundle = _with_labels_removed(bundle, parts, float(argument), kind != "missing", seed)
    settings: dict[str, object] = {
        **bundle.learner_settings(),
        "depth": 2 if kind == "intersections" else 1,
        "accelerator": accelerator,
    }
    if kind == "attributes_as_inputs":
        settings["attributes_as_inputs"] = True
    return Problem(bundle, parts, settings)


def _shifted(bundle: Bundle, seed: int) -> dict[str, np.ndarray]:
    """Parts by state: the area's name begins with the state's number."""
    state = bundle.frame["area"].str.split("-").str[0].astype(int).map({15: "HI", 35: "NM"})
    here = np.flatnonzero(state.isin(SHIFT["train"]))
    unit = bundle.frame[bundle.split_by].to_numpy()[here]
    own = split(len(here), fractions=(0.75, 0.125, 0.125, 0.0), unit=unit, seed=seed)
    parts = {name: here[rows] for name, rows in own.items()}
    return parts | {"test": np.flatnonzero(state.isin(SHIFT["test"]))}


def _with_labels_removed(
    bundle: Bundle, parts: Mapping[str, np.ndarray], share: float, by_group: bool, seed: int
) -> Bundle:
    """Labels missing from every part but the test, which stays whole.

    By group: the share grows from half of `share` in the first group of the first sensitive
    attribute to one and a half times it in the last, the groups ordered by size.
    """
    if not 0 < share < 1:
        raise ValueError(f"The share of missing labels must lie between 0 and 1. Found {share}.")
    frame = bundle.frame.copy()
    rows = np.concatenate([parts[p] for p in ("train", "calibration", "validation")])
    chance = np.full(len(frame), share)
    if by_group:
        groups = frame[bundle.sensitive[0]]
        order = groups.value_counts().index
        rank = groups.map({g: i for i, g in enumerate(order)}).fillna(0).to_numpy(float)
        chance = np.minimum(0.95, share * (0.5 + rank / max(1, len(order) - 1)))
    random = np.random.default_rng(seed)
    for task in bundle.tasks:
        for column in task.columns:
            gone = rows[random.random(len(rows)) < chance[rows]]
            values = frame[column].astype(object)
            values.iloc[gone] = None
            numeric = pd.api.types.is_numeric_dtype(frame[column].dtype)
            frame[column] = pd.to_numeric(values) if numeric else values
    return replace(bundle, frame=frame)
