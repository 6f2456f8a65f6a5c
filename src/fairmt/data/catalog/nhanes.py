"""National Health and Nutrition Examination Survey, 2009 to 2012."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Detection, Regression

CARD = Card(
    name="nhanes",
    title="NHANES 2009 to 2012",
    origin="table NHANESraw of the R package NHANES 2.1.0 on CRAN, written as CSV; "
    "survey by the US National Center for Health Statistics",
    licence="survey: public domain; package: GPL (>= 2)",
    citation="Pruim (2015). NHANES: Data from the US National Health and Nutrition Examination "
    "Study. R package.",
    sources=(Source("nhanes/NHANESraw.csv.gz"),),
    tasks=("bp_sys", "chol", "hdl", "health", "depressed", "conditions"),
    sensitive=("sex", "race", "age"),
    unit="person (ID)",
    traps=(
        "The package's other table, NHANES, repeats people: use NHANESraw.",
        "'None' in Depressed is the largest class, and not a missing cell.",
        "Hard drugs were not asked from age 70 on.",
        "Labels are observed for some groups more often than for others.",
        "BMI follows from height and weight, and both hint at sex.",
    ),
    rows=11_778,
)
_NUMERIC = ("Age", "HHIncomeMid", "Poverty", "HomeRooms", "Height", "Weight")
_CATEGORICAL = ("Education", "MaritalStatus", "HomeOwn", "Work", "SurveyYr")
_CONDITIONS = ("Diabetes", "SleepTrouble", "PhysActive", "Smoke100", "HardDrugs")


def load() -> Bundle:
    """Adults from 20 on."""
    (path,) = locate(CARD)
    people = pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False)
    people = people[people["Age"] >= 20].reset_index(drop=True)
    frame = people[[*_NUMERIC, *_CATEGORICAL, "ID", "WTMEC2YR"]].copy()
    frame["bp_sys"], frame["chol"] = people["BPSysAve"], people["TotChol"]
    frame["hdl"] = people["DirectChol"]
    frame["health"], frame["depressed"] = people["HealthGen"], people["Depressed"]
    for c in _CONDITIONS:
        frame[c] = people[c].map({"Yes": 1.0, "No": 0.0})
    frame["sex"] = people["Gender"].map({"male": "men", "female": "women"})
    frame["race"], frame["age"] = people["Race1"], people["Age"]
    return Bundle(
        frame,
        (
            Regression("bp_sys"),
            Regression("chol"),
            Regression("hdl"),
            Classification("health", ("Poor", "Fair", "Good", "Vgood", "Excellent")),
            Classification("depressed", ("None", "Several", "Most")),
            Detection("conditions", _CONDITIONS),
        ),
        CARD.sensitive,
        dict.fromkeys(_NUMERIC, "numeric") | dict.fromkeys(_CATEGORICAL, "categorical"),
        "ID",
        None,
        {"age": (40, 60)},
        CARD,
    )
