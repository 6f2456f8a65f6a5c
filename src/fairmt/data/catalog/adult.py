"""Adult (Census Income), 1994."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

_URL = "https://archive.ics.uci.edu/static/public/2/adult.zip"
CARD = Card(
    name="adult",
    title="Adult (Census Income)",
    origin="UCI Machine Learning Repository, data set 2",
    licence="CC BY 4.0",
    citation="Becker and Kohavi (1996). Adult. UCI Machine Learning Repository.",
    sources=(
        Source("adult/adult.data", _URL, member="adult.data"),
        Source("adult/adult.test", _URL, member="adult.test"),
    ),
    tasks=("income", "hours", "occupation", "workclass"),
    sensitive=("sex", "race", "age"),
    unit="person",
    traps=(
        "marital-status and relationship give sex away.",
        "education and education-num are one thing.",
        "Labels of the test file end in a full stop, and its first line is a comment.",
        "Armed-Forces (15 rows) is left out of the occupations.",
    ),
    rows=48_842,
)
_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours", "native_country",
    "income",
)  # fmt: skip
_NUMERIC = ("age_years", "education_num", "capital_gain", "capital_loss")
_CATEGORICAL = ("marital_status", "relationship", "native_country")


def load() -> Bundle:
    """Both files together."""
    parts = [
        pd.read_csv(
            path, names=list(_COLUMNS), na_values=["?"], keep_default_na=False,
            skipinitialspace=True, comment="|",
        )
        for path in locate(CARD)
    ]  # fmt: skip
    frame = pd.concat(parts).reset_index(drop=True)
    frame["income"] = frame["income"].str.rstrip(".")
    frame["workclass"] = frame["workclass"].where(
        ~frame["workclass"].isin(["Never-worked", "Without-pay"])
    )
    frame["occupation"] = frame["occupation"].where(frame["occupation"] != "Armed-Forces")
    frame["age_years"] = frame["age"]
    return Bundle(
        frame.drop(columns=["fnlwgt", "education"]),
        (
            Classification("income", ("<=50K", ">50K")),
            Regression("hours"),
            Classification("occupation"),
            Classification("workclass"),
        ),
        CARD.sensitive,
        dict.fromkeys(_NUMERIC, "numeric") | dict.fromkeys(_CATEGORICAL, "categorical"),
        None,
        None,
        {"age": (30, 50)},
        CARD,
    )
