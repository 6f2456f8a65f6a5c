"""Subgroup search on all ACS states at hand: depth 3, six attributes.

Needs FAIRMT_DATA. Prints the time of the audit's cube and of the search.
"""

from __future__ import annotations

import json
import time
import zipfile
from os import environ
from pathlib import Path

import numpy as np
import pandas as pd

import fairmt
from fairmt.auditing.search import find_subgroups

COLUMNS = ["SEX", "RAC1P", "HISP", "AGEP", "DIS", "CIT", "ESR", "SCHL", "HINS1", "HINS4", "PINCP"]


def people(folder: Path) -> pd.DataFrame:
    """Everybody aged 16 or more, with predictions of a small model of age and schooling."""
    frames = []
    for path in sorted((folder / "acs").glob("csv_p*.zip")):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".csv"))
            with archive.open(name) as file:
                frames.append(pd.read_csv(file, usecols=COLUMNS))
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[frame["AGEP"] >= 16].reset_index(drop=True)
    age = pd.cut(frame["AGEP"], [15, 24, 34, 44, 54, 64, 74, 120]).astype(str)
    table = pd.DataFrame(
        {
            "sex": frame["SEX"],
            "race": frame["RAC1P"],
            "hispanic": frame["HISP"] > 1,
            "age": age,
            "disability": frame["DIS"] == 1,
            "citizen": frame["CIT"],
        }
    )
    r = np.random.default_rng(0)
    truths = {
        "employed": frame["ESR"].isin([1, 2, 4, 5]),
        "employer": frame["HINS1"] == 1,
        "medicaid": frame["HINS4"] == 1,
    }
    for name, truth in truths.items():
        rate = truth.groupby([age, frame["SCHL"]]).transform("mean")
        score = (rate + 0.1 * r.normal(size=len(frame))).clip(0, 1)
        table[f"{name}.true"] = truth.astype(int)
        table[name] = (score > 0.5).astype(int)
    return table


def main() -> None:
    table = people(Path(environ["FAIRMT_DATA"]))
    attributes = ["sex", "race", "hispanic", "age", "disability", "citizen"]
    tasks = [f"{t}:classification" for t in ("employed", "employer", "medicaid")]
    start = time.perf_counter()
    result = fairmt.audit(table, tasks=tasks, sensitive=attributes, n_boot=0)
    audited = time.perf_counter() - start
    assert result.plan is not None
    assert result.cube is not None
    start = time.perf_counter()
    found = find_subgroups(result.plan, result.cube, depth=3, limit=20)
    searched = time.perf_counter() - start
    print(found.head(8).to_string())
    print(
        json.dumps(
            {
                "rows": len(table),
                "cells": len(result.cube.rows),
                "comparisons": found.attrs["tested"],
                "audit_seconds": round(audited, 3),
                "search_seconds": round(searched, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
