"""L2T-FMT on five yes/no outcomes of the American Community Survey 2018, attribute sex.

Accuracy and equalized odds beside single-task training, beside plain multi-task training, and
beside the same method with coins in place of the teacher, which choose fairness as often.

    OMP_NUM_THREADS=1 python benchmarks/reproduce/l2t_fmt.py --seeds 5
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import report
import torch
from step_runs import accuracies, gap, mean, outputs_of, sign, some, trained
from torch import Tensor

from fairmt import load_dataset
from fairmt.data import Schema, TensorTable, split
from fairmt.methods import L2TFMT, Plain, SingleTask, StepMethod
from fairmt.tasks import Classification

STATES = ("NM", "HI", "NE")
ROWS = 10_000
OUTCOMES = ("employed", "income", "insured", "travel", "poverty")
OURS, COIN = "L2T-FMT, λ = 1", "coins, λ = 1"
ARMS = ("single task", "plain", OURS, COIN, "L2T-FMT, λ = 4")


class Taught(L2TFMT):
    """Counts how often the teacher chooses fairness."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[Tensor] = []

    def _choose(self, values: Tensor) -> Tensor:
        self.choices.append(super()._choose(values))
        return self.choices[-1]

    @property
    def shares(self) -> Tensor:
        return torch.stack(self.choices).float().mean(0)


class Coins(L2TFMT):
    """Chooses fairness as often as the teacher did, at random."""

    def __init__(self, shares: Tensor) -> None:
        super().__init__()
        self.shares = shares

    def _choose(self, values: Tensor) -> Tensor:
        return torch.rand(len(values), generator=self._random) < self.shares


def arms(
    schema: Schema, train: TensorTable, seed: int
) -> tuple[dict[str, StepMethod], list[float]]:
    """All trainings of a seed, and the shares of the teacher's choices by task."""
    taught = Taught()
    trained(taught, schema, train, strength=1.0, seed=seed)
    rest: dict[str, tuple[StepMethod, float]] = {
        "single task": (SingleTask(), 0.0),
        "plain": (Plain(), 0.0),
        COIN: (Coins(taught.shares), 1.0),
        "L2T-FMT, λ = 4": (L2TFMT(), 4.0),
    }
    found = {
        arm: trained(method, schema, train, strength=strength, seed=seed)
        for arm, (method, strength) in rest.items()
    }
    return found | {OURS: taught}, taught.shares.tolist()


def people() -> tuple[pd.DataFrame, dict[str, str], str]:
    """Rows with the five outcomes; travel is unknown for those who do not commute."""
    bundle = load_dataset("acs", states=STATES, raw=True)
    frame = bundle.frame
    outcomes = {
        "employed": frame["ESR"] == 1,
        "income": frame["PINCP"] > 50_000,
        "insured": frame["HINS2"] == 1,
        "travel": frame["JWMNP"] > 20,
        "poverty": frame["POVPIP"] < 250,
    }
    known = {"travel": frame["JWMNP"].notna(), "poverty": frame["POVPIP"].notna()}
    frame = frame.drop(columns=["income"])
    for name, values in outcomes.items():
        labels = pd.Series(np.where(values, "yes", "no"), frame.index, dtype=object)
        frame[name] = labels.where(known.get(name, pd.Series(True, frame.index)))
    assert bundle.split_by is not None
    return frame, dict(bundle.features), bundle.split_by


def data(
    frame: pd.DataFrame, features: dict[str, str], unit: str, seed: int
) -> tuple[Schema, TensorTable, TensorTable]:
    parts = split(frame, unit=frame[unit], seed=seed)
    train = frame.iloc[some(parts["train"], ROWS, seed)]
    tasks = [Classification(name, ("no", "yes")) for name in OUTCOMES]
    schema = Schema.infer(train, tasks, ("sex",), features=features)
    return schema, schema.encode(train), schema.encode(frame.iloc[parts["test"]])


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    frame, features, unit = people()
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    violation: dict[str, list[float]] = {arm: [] for arm in ARMS}
    shares = []
    for seed in range(seeds):
        schema, train, test = data(frame, features, unit, seed)
        found, chosen = arms(schema, train, seed)
        shares.append(mean(chosen))
        for arm, method in found.items():
            outputs = outputs_of(method, test)
            accuracy[arm].append(mean(list(accuracies(outputs, test, schema).values())))
            # The sum over both truths, as published.
            gaps = gap(outputs, test, schema, "equalized_odds").values()
            violation[arm].append(2 * mean(list(gaps)))
    write(accuracy, violation, shares)


def write(
    accuracy: dict[str, list[float]], violation: dict[str, list[float]], shares: list[float]
) -> None:
    def relative(figures: dict[str, list[float]], arm: str, reference: str) -> list[float]:
        return [a / b - 1 for a, b in zip(figures[arm], figures[reference], strict=True)]

    rows = [
        [
            arm,
            report.interval(accuracy[arm]),
            report.interval(violation[arm]),
            *(
                report.interval(relative(figures, arm, reference), percent=True)
                for reference in ("single task", "plain")
                for figures in (accuracy, violation)
            ),
        ]
        for arm in ARMS
    ]
    to_plain = relative(violation, OURS, "plain")
    cost = relative(accuracy, OURS, "plain")
    to_coin = [relative(figures, OURS, COIN) for figures in (accuracy, violation)]
    single = [relative(figures, OURS, "single task") for figures in (accuracy, violation)]
    header = ["training", "accuracy", "EO violation"]
    header += [f"{f} against {r}" for r in ("single", "plain") for f in ("accuracy", "violation")]
    report.write(
        "l2t_fmt",
        "L2T-FMT: a teacher between accuracy and fairness",
        "**Claim** (Roy and Ntoutsi 2022, published): fairness better by 12 to 19 %, accuracy by "
        "up to 2 %, than the state of the art on three data sets. The notebook released with it "
        "prints, for this survey's year 2019, a mean ratio of accuracy to single-task training of "
        "1.024 and of EO of 1.176 (that is, less fair), from code whose group losses are taken "
        "from the wrong rows and whose shared layers do not move.",
        f"**Ours.** {', '.join(STATES)}, 2018; {', '.join(OUTCOMES)}; sex; {ROWS:,} training rows, "
        f"test on a fifth of the households, {len(shares)} seeds. Decisions by the larger "
        "probability; nothing is chosen by figures. EO violation: |ΔTPR| + |ΔTNR|, mean over "
        "outcomes. The state of the art of the paper is not trained here: the comparison is with "
        "plain training, and with coins that choose fairness as often as the teacher did, task by "
        f"task (in {report.interval(shares, percent=True)} of its choices).",
        report.table(header, rows),
        report.table(
            ["figure", "published, against the state of the art", "ours against single", "plain"],
            [
                ["violation", "-19 to -12 %", f"{mean(single[1]):+.0%}", f"{mean(to_plain):+.0%}"],
                ["accuracy", "up to +2 %", f"{mean(single[0]):+.1%}", f"{mean(cost):+.1%}"],
            ],
        ),
        f"**Verdict.** That fairness improves {_holds(sign(to_plain) < 0)}. That accuracy gains "
        f"{_holds(sign(cost) > 0)} against plain multi-task training, and "
        f"{_holds(sign(single[0]) > 0)} against single-task training. That the teacher is the "
        f"reason {_holds(sign(to_coin[1]) < 0)}: against coins its violation differs by "
        f"{report.interval(to_coin[1], percent=True)}, its accuracy by "
        f"{mean(to_coin[0]):+.1%}. The part that both share is the group loss, on rightly indexed "
        "groups.",
    )


def _holds(true: bool) -> str:
    return "holds" if true else "does not hold"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    main(parser.parse_args().seeds)
