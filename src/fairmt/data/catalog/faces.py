"""FairFace and UTKFace: two sources of faces, each with labels that the other lacks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Regression

AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")

CARD = Card(
    name="faces",
    title="FairFace and UTKFace, 64 pixels",
    origin="FairFace (https://github.com/dchen236/FairFace) and the aligned crops of UTKFace "
    "(https://susanqq.github.io/UTKFace), by hand from their authors; scaled to 64 pixels and "
    "zipped, labels.csv beside",
    licence="FairFace: CC BY 4.0; UTKFace: non-commercial research",
    citation="Karkkainen and Joo (2021). FairFace. WACV; Zhang, Song and Qi (2017). Age "
    "progression/regression by conditional adversarial autoencoder. CVPR.",
    sources=(
        Source("fairface/fairface_64px.zip"),
        Source("fairface/labels.csv"),
        Source("utkface/utkface_crop_part1_64px.zip"),
        Source("utkface/labels.csv"),
    ),
    tasks=("years", "age_group", "gender_seen"),
    sensitive=("race", "gender"),
    unit="person",
    traps=(
        "Labels are missing in blocks: years in FairFace, age groups in UTKFace.",
        "Race and gender are what annotators saw, not what people say of themselves.",
        "Age and race are confounded in UTKFace: read errors within bands of age.",
        "The source shows in crop and margin, and tells which label is there.",
    ),
    rows=34_576,
)
_RACE = {
    "White": "White", "Black": "Black", "Indian": "Indian", "East Asian": "Asian",
    "Southeast Asian": "Asian", "Asian": "Asian", "Latino_Hispanic": "Other",
    "Middle Eastern": "Other", "Other": "Other", "Others": "Other",
}  # fmt: skip


def load() -> Bundle:
    """All pictures, as the bytes of their files."""
    fair_zip, fair_labels, utk_zip, utk_labels = locate(CARD)
    fair, utk = pd.read_csv(fair_labels), pd.read_csv(utk_labels)
    fair = pd.DataFrame(
        {
            "picture": _bytes(fair_zip, fair["file"]),
            "age_group": fair["age"],
            "years": float("nan"),
            "race": fair["race"],
            "gender": fair["gender"],
        }
    )
    utk = pd.DataFrame(
        {
            "picture": _bytes(utk_zip, utk["file"]),
            "age_group": None,
            "years": utk["age"].astype(float),
            "race": utk["race"],
            "gender": utk["gender"],
        }
    )
    # In an order of chance, so that no stretch of rows lacks a source.
    frame = pd.concat([fair, utk]).sample(frac=1.0, random_state=0, ignore_index=True)
    frame["race"] = frame["race"].map(_RACE)
    frame["gender"] = frame["gender"].map({"Male": "men", "Female": "women"})
    frame["gender_seen"] = frame["gender"]
    return Bundle(
        frame,
        (
            Regression("years"),
            Classification("age_group", AGES),
            Classification("gender_seen", ("men", "women")),
        ),
        CARD.sensitive,
        {"picture": "image"},
        card=CARD,
    )


def _bytes(archive: Path, names: pd.Series) -> list[bytes]:
    with zipfile.ZipFile(archive) as opened:
        return [opened.read(name) for name in names]
