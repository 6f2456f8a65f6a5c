"""Essays about news, with the empathy, distress and emotion that they show."""

from __future__ import annotations

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")

CARD = Card(
    name="empathy",
    title="Empathic reactions to news (WASSA 2022)",
    origin="shared task of WASSA 2022 (https://codalab.lisn.upsaclay.fr/competitions/834), after "
    "Buechel et al.; by hand from its organisers",
    licence="essays of 2018: CC BY 4.0; the rest: none stated",
    citation="Buechel, Buffone, Slaff, Ungar and Sedoc (2018). Modeling empathy and distress in "
    "reaction to news stories. EMNLP; Barriere, Tafreshi, Sedoc and Alqahtani (2022). WASSA 2022 "
    "shared task.",
    sources=(
        Source("wassa_empathy/messages_train_ready_for_WS.tsv"),
        Source("wassa_empathy/messages_dev_features_ready_for_WS_2022.tsv"),
        Source("wassa_empathy/goldstandard_dev_2022.tsv"),
    ),
    tasks=("empathy", "distress", "emotion"),
    sensitive=("gender", "race", "age"),
    unit="writer (response_id)",
    traps=(
        "Five essays a writer: everything about the writer leaks over a random split.",
        "Gender and race are numbers of a codebook that is not public; they are kept as such.",
        "empathy_bin and distress_bin are the labels cut at 4.",
        "2,130 essays: figures by group are rough.",
    ),
    rows=2_130,
)


def load() -> Bundle:
    """All essays with a label, training and development rows of the task together."""
    train_path, dev_path, gold_path = locate(CARD)
    train = pd.read_csv(train_path, sep="\t")
    dev = pd.read_csv(dev_path, sep="\t")
    gold = pd.read_csv(gold_path, sep="\t", header=None)
    dev[["empathy", "distress", "emotion"]] = gold[[0, 1, 2]]
    essays = pd.concat([train, dev], ignore_index=True)
    frame = essays[["essay", "empathy", "distress", "emotion", "response_id"]].copy()
    numbers = {name: pd.to_numeric(essays[name], errors="coerce") for name in ("gender", "race")}
    frame["gender"] = numbers["gender"].map({1: "1", 2: "2", 5: "5"})
    # All but the largest group together: each alone has a handful of writers.
    frame["race"] = numbers["race"].map(lambda r: "1" if r == 1 else "others", na_action="ignore")
    frame["age"] = pd.to_numeric(essays["age"], errors="coerce")
    return Bundle(
        frame,
        (Regression("empathy"), Regression("distress"), Classification("emotion", EMOTIONS)),
        CARD.sensitive,
        {"essay": "text"},
        split_by="response_id",
        bins={"age": (30, 45)},
        card=CARD,
    )
