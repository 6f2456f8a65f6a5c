"""Student performance at two Portuguese schools."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

_URL = "https://archive.ics.uci.edu/static/public/320/student+performance.zip"
CARD = Card(
    name="student",
    title="Student performance",
    origin="UCI Machine Learning Repository, data set 320",
    licence="CC BY 4.0",
    citation="Cortez and Silva (2008). Using data mining to predict secondary school student "
    "performance.",
    sources=(
        Source("student/student-mat.csv", _URL, member="student-mat.csv"),
        Source("student/student-por.csv", _URL, member="student-por.csv"),
    ),
    tasks=("maths", "portuguese", "higher", "weekend_alcohol"),
    sensitive=("sex", "address", "age"),
    unit="student",
    traps=(
        "G1 and G2 are nearly the final grade.",
        "Students of both files are joined on thirteen columns; the rest have one grade only.",
        "Too small for reliable figures by group.",
    ),
    rows=674,
)
_KEYS = ("school", "sex", "age", "address", "famsize", "Pstatus", "Medu", "Fedu", "Mjob", "Fjob",
         "reason", "nursery", "internet")  # fmt: skip
_NUMERIC = ("Medu", "Fedu", "traveltime", "studytime", "failures", "famrel", "freetime", "goout",
            "health", "absences")  # fmt: skip
_CATEGORICAL = ("school", "famsize", "Pstatus", "Mjob", "Fjob", "reason", "guardian", "schoolsup",
                "famsup", "paid", "activities", "nursery", "internet", "romantic")  # fmt: skip


def load(grades: bool = False) -> Bundle:
    """Students of both courses, one row each.

    Parameters
    ----------
    grades : take the earlier grades G1 and G2 of the mathematics course as features.
    """
    maths, portuguese = (
        pd.read_csv(path, sep=";", keep_default_na=False, na_values=[""]) for path in locate(CARD)
    )
    # Some students agree in all thirteen columns; they are joined in their order.
    for course in (maths, portuguese):
        course["twin"] = course.groupby(list(_KEYS)).cumcount()
    keys = [*_KEYS, "twin"]
    joined = portuguese.merge(maths, on=keys, how="outer", suffixes=("", "_m"))
    frame = joined[list(_KEYS)].copy()
    for c in (*_NUMERIC, *_CATEGORICAL, "higher", "Walc"):
        if c not in frame:
            frame[c] = joined[c].where(joined[c].notna(), joined[f"{c}_m"])
    frame["maths"] = joined["G3_m"]
    frame["portuguese"] = joined["G3"]
    frame["weekend_alcohol"] = frame.pop("Walc")
    frame["student"] = range(len(frame))
    features = dict.fromkeys(_NUMERIC, "numeric") | dict.fromkeys(_CATEGORICAL, "categorical")
    if grades:
        frame["G1"], frame["G2"] = joined["G1_m"], joined["G2_m"]
        features |= {"G1": "numeric", "G2": "numeric"}
    return Bundle(
        frame,
        (
            Regression("maths"),
            Regression("portuguese"),
            Classification("higher", ("no", "yes")),
            Classification("weekend_alcohol"),
        ),
        CARD.sensitive,
        features,
        "student",
        None,
        {"age": (17,)},
        CARD,
    )
