"""COMPAS recidivism scores, Broward County, 2013 to 2014."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

CARD = Card(
    name="compas",
    title="COMPAS, two years",
    origin="ProPublica, compas-scores-two-years.csv, without names and dates of birth "
    "(https://raw.githubusercontent.com/propublica/compas-analysis/master/"
    "compas-scores-two-years.csv)",
    licence="none stated; do not pass on the raw file, which holds names",
    citation="Angwin, Larson, Mattu and Kirchner (2016). Machine Bias. ProPublica.",
    sources=(Source("compas/compas-two-years-nopii.csv"),),
    tasks=("recidivism", "violent", "score"),
    sensitive=("race", "sex", "age"),
    unit="person (id)",
    traps=(
        "Scores and their texts determine each other: one per score.",
        "is_recid, event, start, end and all r_ and vr_ columns are the outcome.",
        "People who reoffended were kept beyond the two years: the base rate is inflated.",
        "These are arrests, not offences.",
    ),
    rows=6_172,
)
_NUMERIC = ("age_years", "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count")


def load() -> Bundle:
    """ProPublica's population: screened within 30 days of the arrest, no traffic charges."""
    (path,) = locate(CARD)
    people = pd.read_csv(path, keep_default_na=False, na_values=[""])
    days = people["days_b_screening_arrest"]
    people = people[
        days.between(-30, 30)
        & (people["is_recid"] != -1)
        & (people["c_charge_degree"] != "O")
        & (people["score_text"] != "N/A")
    ].reset_index(drop=True)
    frame = people[[*_NUMERIC[1:], "c_charge_degree", "c_charge_desc", "race", "sex", "id"]].copy()
    frame["age_years"], frame["age"] = people["age"], people["age"]
    frame["recidivism"] = people["two_year_recid"].map({0: "no", 1: "yes"})
    frame["violent"] = people["is_violent_recid"].map({0: "no", 1: "yes"})
    frame["score"] = people["decile_score"].astype(float)
    return Bundle(
        frame,
        (
            Classification("recidivism", ("no", "yes"), favourable="no"),
            Classification("violent", ("no", "yes"), favourable="no"),
            Regression("score"),
        ),
        CARD.sensitive,
        dict.fromkeys(_NUMERIC, "numeric")
        | {"c_charge_degree": "categorical", "c_charge_desc": "categorical"},
        "id",
        None,
        {"age": (25, 45)},
        CARD,
    )
