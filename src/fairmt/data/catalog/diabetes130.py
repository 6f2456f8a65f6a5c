"""Hospital stays of people with diabetes, 130 US hospitals, 1999 to 2008."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd

from fairmt.data.bundle import Bundle
from fairmt.data.catalog.cards import Card, Source
from fairmt.data.catalog.fetch import locate
from fairmt.tasks import Classification, Detection, Regression

DRUGS = (
    "metformin", "insulin", "glipizide", "glyburide", "pioglitazone", "rosiglitazone",
    "glimepiride",
)  # fmt: skip
_DEAD_OR_HOSPICE = (11, 13, 14, 19, 20, 21)
_HOME = (1, 6, 8)

CARD = Card(
    name="diabetes130",
    title="Diabetes, 130 US hospitals, 1999 to 2008",
    origin="UCI Machine Learning Repository, data set 296",
    licence="CC BY 4.0",
    citation="Strack et al. (2014). Impact of HbA1c measurement on hospital readmission rates. "
    "BioMed Research International, 781670.",
    sources=(
        Source(
            "diabetes130/dataset_diabetes.zip",
            "https://archive.ics.uci.edu/static/public/296/"
            "diabetes+130-us+hospitals+for+years+1999-2008.zip",
        ),
    ),
    tasks=("readmit", "los", "n_meds", "drugs", "a1c", "home"),
    sensitive=("race", "sex", "age"),
    unit="patient (patient_nbr)",
    traps=(
        "diabetesMed is exactly whether any drug was given, and change whether one was changed.",
        "'None' in A1Cresult means not measured, and is not a missing cell to a CSV reader.",
        "A1C was measured for 17 % of the stays, more often for some groups than for others.",
        "Patients come more than once.",
        "Length of stay, procedures and medications are outcomes of the same stay.",
    ),
    rows=99_340,
)


def load(raw: bool = False) -> Bundle:
    """Stays that ended alive and not in a hospice.

    Parameters
    ----------
    raw : keep all other columns in the frame too; they are not features.
    """
    (path,) = locate(CARD)
    stays = _read(path)
    stays = stays[
        ~stays["discharge_disposition_id"].isin(_DEAD_OR_HOSPICE)
        & stays["gender"].isin(["Male", "Female"])
    ].reset_index(drop=True)
    decade = stays["age"].str.extract(r"\[(\d+)-", expand=False).astype(int)
    frame = pd.DataFrame(
        {
            "readmit": stays["readmitted"].map({"NO": "no", ">30": "later", "<30": "in 30 days"}),
            "los": np.log(stays["time_in_hospital"]),
            "n_meds": np.log(stays["num_medications"]),
            **{d: (stays[d] != "No").astype(float) for d in DRUGS},
            "a1c": stays["A1Cresult"].map({"Norm": "normal", ">7": "above 7", ">8": "above 8"}),
            "home": np.where(stays["discharge_disposition_id"].isin(_HOME), "yes", "no"),
            "race": stays["race"],
            "sex": stays["gender"].map({"Male": "men", "Female": "women"}),
            "age": decade + 5,
            "age_decade": stays["age"],
            "patient_nbr": stays["patient_nbr"],
            **{c: stays[c] for c in _NUMERIC},
            **{c: stays[c] for c in _CODES},
            **{f"diagnosis_{i}": stays[f"diag_{i}"].map(_chapter) for i in (1, 2, 3)},
        }
    )
    if raw:
        rest = [c for c in stays.columns if c not in frame.columns]
        frame = pd.concat([frame, stays[rest]], axis=1)
    categorical = (*_CODES, "diagnosis_1", "diagnosis_2", "diagnosis_3", "age_decade")
    return Bundle(
        frame,
        (
            Classification("readmit", ("no", "later", "in 30 days")),
            Regression("los"),
            Regression("n_meds"),
            Detection("drugs", DRUGS),
            Classification("a1c", ("normal", "above 7", "above 8")),
            Classification("home", ("no", "yes")),
        ),
        CARD.sensitive,
        dict.fromkeys(_NUMERIC, "numeric") | dict.fromkeys(categorical, "categorical"),
        "patient_nbr",
        None,
        {"age": (50, 70)},
        CARD,
    )


_NUMERIC = ("number_outpatient", "number_emergency", "number_inpatient", "number_diagnoses")
_CODES = ("admission_type_id", "admission_source_id", "payer_code", "medical_specialty")


def _read(path: object) -> pd.DataFrame:
    with zipfile.ZipFile(str(path)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("diabetic_data.csv"))
        with archive.open(name) as file:
            return pd.read_csv(file, na_values=["?"], keep_default_na=False, low_memory=False)


def _chapter(code: object) -> str | None:
    """Chapter of an ICD-9 code, in the groups of Strack et al. (2014), table 2."""
    if not isinstance(code, str):
        return None
    if code[0] in "EV":
        return "other"
    number = float(code)
    whole = int(number)
    if whole == 250:
        return "diabetes"
    for name, ranges in {
        "circulatory": ((390, 459), (785, 785)),
        "respiratory": ((460, 519), (786, 786)),
        "digestive": ((520, 579), (787, 787)),
        "injury": ((800, 999),),
        "musculoskeletal": ((710, 739),),
        "genitourinary": ((580, 629), (788, 788)),
        "neoplasms": ((140, 239),),
    }.items():
        if any(a <= whole <= b for a, b in ranges):
            return name
    return "other"
