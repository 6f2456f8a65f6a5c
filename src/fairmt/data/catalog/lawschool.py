"""Law school students, LSAC National Longitudinal Bar Passage Study, 1991 to 1997."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

CARD = Card(
    name="lawschool",
    title="Law school (LSAC bar passage study)",
    origin="bar_pass_prediction.csv, as passed around on Kaggle",
    licence="none stated",
    citation="Wightman (1998). LSAC National Longitudinal Bar Passage Study.",
    sources=(Source("lawschool/bar_pass_prediction.csv.gz"),),
    tasks=("first_year", "gpa_final", "bar_exam", "tier"),
    sensitive=("race", "sex"),
    unit="student (ID)",
    traps=(
        "decile1, decile1b and decile3 are deciles of the grades to be predicted.",
        "dnn_bar_pass_prediction is another model's output.",
        "gpa is ugpa; bar1, bar2, pass_bar and bar_yr are the label; cluster is the tier.",
        "Nearly everybody in the file graduated and sat the exam.",
    ),
    rows=22_407,
)
_FEATURES = ("lsat", "ugpa", "fam_inc", "DOB_yr", "fulltime")
_BAR = {"a": "first time", "b": "second time", "c": "failed"}


def load(raw: bool = False) -> Bundle:
    """All students.

    Parameters
    ----------
    raw : keep all other columns in the frame too; they are not features.
    """
    (path,) = locate(CARD)
    students = pd.read_csv(path, keep_default_na=False, na_values=["", "NA"])
    frame = students if raw else students[[*_FEATURES, "ID"]]
    frame = frame.rename(columns={"sex": "sex_code", "race": "race_code", "tier": "tier_code"})
    frame = frame.assign(
        first_year=students["zfygpa"],
        gpa_final=students["zgpa"],
        # One student did not graduate and has no result.
        bar_exam=students["bar"].str[:1].map(_BAR),
        tier=students["tier"],
        race=students["race1"],
        sex=students["gender"].map({"male": "men", "female": "women"}),
    )
    return Bundle(
        frame,
        (
            Regression("first_year"),
            Regression("gpa_final"),
            Classification("bar_exam", ("first time", "second time", "failed")),
            Classification("tier"),
        ),
        CARD.sensitive,
        dict.fromkeys(_FEATURES, "numeric"),
        "ID",
        None,
        {},
        CARD,
    )
