"""Communities and crime, unnormalised, United States 1990 and 1995."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

CARD = Card(
    name="communities",
    title="Communities and crime (unnormalised)",
    origin="UCI Machine Learning Repository, data set 211",
    licence="CC BY 4.0",
    citation="Redmond (2011). Communities and Crime Unnormalized. UCI Machine Learning Repository.",
    sources=(
        Source(
            "communities/CommViolPredUnnormalizedData.txt.gz",
            "https://archive.ics.uci.edu/static/public/211/communities+and+crime+unnormalized.zip",
            member="CommViolPredUnnormalizedData.txt",
        ),
    ),
    tasks=("murder", "robbery", "burglary", "rape", "arson", "violent"),
    sensitive=("black", "hispanic"),
    unit="community",
    traps=(
        "Rows are places, not people.",
        "The crime counts and rates determine each other, and violent crime is a sum of them.",
        "The police columns are missing for 85 % of the places.",
        "Shares of races are continuous; here they are cut into bands.",
    ),
    rows=2_215,
)
_RATES = {
    "murder": "murdPerPop", "robbery": "robbPerPop", "burglary": "burglPerPop",
    "rape": "rapesPerPop", "arson": "arsonsPerPop",
}  # fmt: skip
_NAMES_OF_PLACES = 5
_RACE = ("racepctblack", "racePctWhite", "racePctAsian", "racePctHisp")


def load() -> Bundle:
    """All communities; rates as log(1 + rate per 100,000), violent crime in three classes."""
    (path,) = locate(CARD)
    places = pd.read_csv(path, na_values=["?"], keep_default_na=False)
    places.columns = places.columns.str.strip()
    names = [str(c) for c in places.columns]
    outcomes = names[names.index("murders") :]
    police = [c for c in names if c.startswith(("Lemas", "Polic", "PctPolic"))]
    police += ["RacialMatchCommPol", "OfficAssgnDrugUnits", "NumKindsDrugsSeiz"]
    out = {*names[:_NAMES_OF_PLACES], *outcomes, *police, *_RACE}
    features = [c for c in names if c not in out]
    frame = places[features].copy()
    for name, column in _RATES.items():
        frame[name] = np.log1p(places[column])
    violent = places["ViolentCrimesPerPop"]
    level = pd.cut(violent, [-1, 200, 600, np.inf], labels=["low", "middle", "high"])
    frame["violent"] = level.astype(object).where(violent.notna())
    frame["black"], frame["hispanic"] = places["racepctblack"], places["racePctHisp"]
    frame["community"] = range(len(frame))
    return Bundle(
        frame,
        (
            *(Regression(name) for name in _RATES),
            Classification("violent", ("low", "middle", "high")),
        ),
        CARD.sensitive,
        dict.fromkeys(features, "numeric"),
        "community",
        None,
        {"black": (1.0, 6.0, 20.0), "hispanic": (2.0, 8.0)},
        CARD,
    )
