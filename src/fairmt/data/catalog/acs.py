"""American Community Survey, person records 2018 (1-year)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Detection, Regression, Task

_URL = "https://www2.census.gov/programs-surveys/acs/data/pums/2018/1-Year/csv_p{}.zip"
_SHA256 = {
    "DE": "a9f680033e3ce6f20b01fce916abdee68026429fd737f958f83281cb372719c5",
    "HI": "574166f4fc904c90e9f38f8a00238fa52d613bce4494d570c18ec60174324088",
    "ID": "ea743376f02ef0a0b8b00599e238e47a6073e368e8bda97fa6305da8c5dbfa91",
    "ME": "2a718c75dc732d2b4ca823bd0aee12c940b087494ef3b7a0caef0534165b7cc7",
    "MT": "f20f67ad53ea1d9d17c9b1c7f1a3fe70ddbb84b96044b7c98f445e868989437e",
    "NE": "f1f5a56c7bec8de9ef2b1d98fbc9ba6afd3f7ed936c959d6d3392c899fe2db7d",
    "NH": "17c68e50530b61197abb9fd78a1678a5360bf05654d105501f4a5f73dccc70c8",
    "NM": "b4f0a7190a5a4a1e6102d1e3fef13d723cbd93bea46e2420ada5c70b593c9629",
    "RI": "c5a7155543b1e4296420955714e3160563c4bbe9682299c2761434e4007bd331",
    "SD": "14a45f25ae73f68f3ab01307b111a3650cd997c0a93de174fe488de4b56c30a9",
}
STATES = tuple(_SHA256)

CARD = Card(
    name="acs",
    title="American Community Survey, persons, 2018",
    origin="US Census Bureau, Public Use Microdata Sample, 1-year release of 2018",
    licence="public domain",
    citation="US Census Bureau (2019). American Community Survey 2018 1-year PUMS.",
    sources=tuple(
        Source(f"acs/csv_p{s.lower()}.zip", _URL.format(s.lower()), _SHA256[s])
        for s in ("HI", "NM")
    ),
    tasks=("income", "employment", "insurance", "moved"),
    sensitive=("sex", "race", "age"),
    unit="household (SERIALNO)",
    traps=(
        "Work variables (OCCP, COW, WKHP, JWTR, ...) are observed only for people at work.",
        "PUBCOV, PRIVCOV and HICOV are derived from the insurance labels.",
        "Medicare is nearly age 65 and above: eligibility, not unfairness.",
        "FER is asked of women aged 15 to 50 only: its missingness gives sex away.",
        "A third of the incomes were imputed by the Bureau.",
        "Persons of one household share and correlate in nearly everything.",
    ),
    rows=27_785,
)

_NUMERIC = ("AGEP", "SCHL")
_CATEGORICAL = (
    "MAR", "RELP", "CIT", "NATIVITY", "MIL", "ENG", "LANX", "DEAR", "DEYE", "DREM", "DPHY", "DDRS",
    "DOUT", "SCH", "GCL", "FER", "ANC", "DECADE", "POBP", "area",
)  # fmt: skip
_RACE = {1: "White", 2: "Black", 3: "AIAN", 4: "AIAN", 5: "AIAN", 6: "Asian", 7: "NHPI",
         8: "Other", 9: "Two or more"}  # fmt: skip
_EMPLOYMENT = {1: "employed", 2: "employed", 4: "employed", 5: "employed", 3: "unemployed",
               6: "not in labour force"}  # fmt: skip
_MODE = {1: "car", **dict.fromkeys(range(2, 8), "transit"), 8: "other", 9: "walk or bike",
         10: "walk or bike", 11: "home", 12: "other"}  # fmt: skip
INSURANCE = {"employer": "HINS1", "direct": "HINS2", "medicare": "HINS3", "medicaid": "HINS4"}

_TASKS: dict[str, Task] = {
    "income": Regression("income"),
    "employment": Classification("employment", ("employed", "unemployed", "not in labour force")),
    "insurance": Detection("insurance", ("employer", "direct", "medicaid")),
    "moved": Classification("moved", ("no", "yes")),
    "commute": Regression("commute"),
    "mode": Classification("mode", ("car", "transit", "walk or bike", "home", "other")),
    "medicare": Classification("medicare", ("no", "yes")),
}


def load(
    states: Sequence[str] = ("HI", "NM"), tasks: Sequence[str] = CARD.tasks, raw: bool = False
) -> Bundle:
    """Persons aged 16 and over.

    Parameters
    ----------
    states : among `STATES`.
    tasks : among income (asinh of 10,000 dollars), employment, insurance (without Medicare),
        moved, commute (log1p minutes), mode, medicare.
    raw : keep all other columns of the survey in the frame too; they are not features.
    """
    unknown = [s for s in states if s not in STATES]
    if unknown or not states:
        raise ValueError(f"Unknown states {unknown}; expected some of {list(STATES)}.")
    wrong = [t for t in tasks if t not in _TASKS]
    if wrong:
        raise ValueError(f"Unknown tasks {wrong}; expected some of {list(_TASKS)}.")
    sources = tuple(
        Source(f"acs/csv_p{s.lower()}.zip", _URL.format(s.lower()), _SHA256[s]) for s in states
    )
    people = pd.concat([_read(p) for p in locate(replace(CARD, sources=sources))])
    people = people[people["AGEP"] >= 16].reset_index(drop=True)
    columns = {
        "income": np.arcsinh(people["PINCP"] * (people["ADJINC"] / 1e6) / 1e4),
        "employment": people["ESR"].map(_EMPLOYMENT),
        **{name: people[c].map({1: 1.0, 2: 0.0}) for name, c in INSURANCE.items()},
        "moved": people["MIG"].map({1: "no", 2: "yes", 3: "yes"}),
        "commute": np.log1p(people["JWMNP"]),
        "mode": people["JWTR"].map(_MODE),
        "sex": people["SEX"].map({1: "men", 2: "women"}),
        "race": people["RAC1P"].map(_RACE),
        "age": people["AGEP"].astype(float),
        "area": people["ST"].astype(str) + "-" + people["PUMA"].astype(str),
    }
    columns["medicare"] = people["HINS3"].map({1: "yes", 2: "no"})
    chosen = tuple(_TASKS[t] for t in tasks)
    labels = {c for t in chosen for c in t.columns}
    keep = labels | {"sex", "race", "age", "area"}
    features = dict.fromkeys(_NUMERIC, "numeric") | dict.fromkeys(_CATEGORICAL, "categorical")
    own = pd.DataFrame({k: v for k, v in columns.items() if k in keep})
    rest = list(people.columns) if raw else [c for c in people if c in features]
    rest = list(dict.fromkeys([*rest, "SERIALNO", "PWGTP"]))
    frame = pd.concat([people[rest], own], axis=1)
    return Bundle(
        frame, chosen, CARD.sensitive, features, "SERIALNO", None, {"age": (30, 50, 65)}, CARD
    )


def _read(path: Path) -> pd.DataFrame:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".csv"))
        with archive.open(name) as file:
            return pd.read_csv(file, dtype={"SERIALNO": str}, low_memory=False)
