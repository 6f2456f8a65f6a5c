"""German credit."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

CARD = Card(
    name="german",
    title="German credit",
    origin="UCI Machine Learning Repository, data set 144 "
    "(https://archive.ics.uci.edu/static/public/144/statlog+german+credit+data.zip), with names "
    "in place of codes",
    licence="CC BY 4.0",
    citation="Hofmann (1994). Statlog (German Credit Data). UCI Machine Learning Repository.",
    sources=(Source("german/german_data_credit.csv"),),
    tasks=("credit", "amount", "duration"),
    sensitive=("sex", "age", "foreign"),
    unit="person",
    traps=(
        "Sex was derived from personal status, which gives it away.",
        "1,000 rows: figures by group are rough.",
        "37 people are not foreign workers.",
    ),
    rows=1_000,
)
_NUMERIC = ("installment-rate", "residence-since", "existing-credits",
            "numner-people-provide-maintenance-for")  # fmt: skip
_CATEGORICAL = ("checking-account", "credit-history", "purpose", "savings-account",
                "employment-since", "other-debtors", "property", "other-installment", "housing",
                "job", "telephone")  # fmt: skip


def load() -> Bundle:
    """All applicants."""
    (path,) = locate(CARD)
    people = pd.read_csv(path, keep_default_na=False, na_values=[""])
    frame = people[[*_NUMERIC, *_CATEGORICAL, "sex", "age", "duration"]].copy()
    frame["credit"] = people["class-label"].map({1: "good", 0: "bad"})
    frame["amount"] = people["credit-amount"].astype(float)
    frame["foreign"] = people["foreign-worker"]
    return Bundle(
        frame,
        (
            Classification("credit", ("bad", "good"), favourable="good"),
            Regression("amount"),
            Regression("duration"),
        ),
        CARD.sensitive,
        dict.fromkeys(_NUMERIC, "numeric") | dict.fromkeys(_CATEGORICAL, "categorical"),
        None,
        None,
        {"age": (25, 40)},
        CARD,
    )
