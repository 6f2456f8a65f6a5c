"""SenSeI on Adult: the same prediction for a husband and for a wife, and what it costs.

A standard network (100-100) against SenSeI. Spouse consistency is the share of people whose
predicted income class is the same with their relationship set to husband and to wife. Strength and
epsilon are chosen on validation rows, test rows are read once.

    python benchmarks/reproduce/sensei.py --seeds 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import report
import torch

from fairmt import load_dataset
from fairmt.auditing.consistency import prediction_consistency
from fairmt.data import Schema, TensorTable, split
from fairmt.methods import STEPS
from fairmt.metrics import utilities
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.sampling import TableSource
from fairmt.tasks import Classification, Layout

TASK = Classification("income", ("<=50K", ">50K"))
FEATURES = dict.fromkeys(
    ("age_years", "education_num", "capital_gain", "capital_loss", "hours"), "numeric"
) | dict.fromkeys(("marital_status", "relationship", "occupation", "workclass"), "categorical")
SPOUSE = ("relationship=Husband", "relationship=Wife")
SPOUSES = {"relationship": ["Husband", "Wife"]}
WIFE = {"relationship=Wife": [0.0, 1.0]}
GRID = ((1.0, 0.1), (5.0, 0.1), (5.0, 0.01), (20.0, 0.01))
"""Strength and epsilon."""
TARGET = 0.99
BUDGET = 0.02


@dataclass(frozen=True)
class Variant:
    """A method, the columns that it is told are sensitive, and what the model sees."""

    title: str
    method: str = "sensei"
    columns: tuple[str, ...] = ()
    free: bool = False
    """Free moves only, ``steps=0``: epsilon has no effect."""
    inputs: bool = False

    def grid(self) -> list[dict[str, float]]:
        if self.method == "plain":
            return [{}]
        if self.free:
            return [{"strength": s, "steps": 0} for s in sorted({s for s, _ in GRID})]
        return [{"strength": s, "epsilon": e} for s, e in GRID]

    def columns_of(self, schema: Schema) -> dict[str, list[int]]:
        if self.method == "plain":
            return {}
        columns = [schema.input_names.index(c) for c in self.columns]
        if self.inputs:
            names = tuple(f"{a.name}=" for a in schema.groups.attributes)
            columns += [i for i, c in enumerate(schema.input_names) if c.startswith(names)]
        return {"sensitive_columns": columns}


VARIANTS = (
    Variant("standard", "plain"),
    Variant("SenSeI, learned directions"),
    Variant("SenSeI, learned directions and spouse columns", columns=SPOUSE),
    Variant("SenSeI, the same, free moves only (`steps=0`)", columns=SPOUSE, free=True),
)
SEEING = (
    Variant("standard", "plain", inputs=True),
    Variant("SenSeI, free moves only (`steps=0`)", columns=SPOUSE, free=True, inputs=True),
)


class Adult:
    """Rows without missing values, split at random; sex and race in two groups each."""

    def __init__(self, seed: int, inputs: bool) -> None:
        frame = load_dataset("adult").frame
        frame = frame.dropna(subset=[*FEATURES, "native_country", "income"]).reset_index(drop=True)
        frame["race"] = np.where(frame["race"] == "White", "White", "other")
        rows = split(frame, fractions=(0.6, 0.0, 0.2, 0.2), seed=seed)
        self.frames = {part: frame.iloc[own] for part, own in rows.items() if len(own)}
        self.schema = Schema.infer(
            self.frames["train"],
            [TASK],
            ["sex", "race"],
            features=FEATURES,
            attributes_as_inputs=inputs,
        )
        self.tables = {part: self.schema.encode(own) for part, own in self.frames.items()}


@dataclass
class Judged:
    """A trained network with a decision rule, on one part of the rows."""

    model: MultiTask
    data: Adult
    part: str
    offset: float = 0.0
    """Log-odds that speak for the higher class: 0 decides at a probability of one half."""

    @property
    def table(self) -> TensorTable:
        return self.data.tables[self.part]

    @torch.no_grad()
    def outputs(self, features: torch.Tensor) -> torch.Tensor:
        return self.model(features) + torch.tensor([0.0, self.offset])

    def decide(self, features: torch.Tensor) -> np.ndarray:
        return self.outputs(features).argmax(1).numpy()

    def same(self, settings: dict[str, Any]) -> tuple[float, float]:
        """Consistency and the lower end of its interval; of inputs where those are named."""
        if set(settings) <= set(self.data.schema.input_names):
            names = self.data.schema.input_names
            frame = pd.DataFrame(self.table.features.numpy(), columns=names)

            def predict(f: pd.DataFrame) -> np.ndarray:
                return self.decide(torch.from_numpy(f.to_numpy(np.float32)))
        else:
            frame = self.data.frames[self.part]

            def predict(f: pd.DataFrame) -> np.ndarray:
                return self.decide(self.data.schema.encode(f, labels=False).features)

        found = prediction_consistency(predict, frame, settings, n_boot=200).table.iloc[0]
        return float(found["value"]), float(found["low"])

    def utility(self) -> dict[str, float]:
        layout, table = Layout(self.data.schema.tasks), self.table
        outputs = self.outputs(table.features)
        return utilities(layout, outputs, table.labels, torch.zeros(2))["income"]

    def figures(self) -> dict[str, float]:
        table, utility = self.table, self.utility()
        d = torch.from_numpy(self.decide(table.features)).double()
        found = {
            "spouse": self.same(SPOUSES)[0],
            "wife flag": self.same(WIFE)[0],
            "accuracy": utility["accuracy"],
            "balanced accuracy": utility["balanced_accuracy"],
        }
        for i, a in enumerate(self.data.schema.groups.attributes):
            rates = [d[table.attributes[:, i] == g].mean() for g in range(2)]
            found[f"parity gap, {a.name}"] = float(abs(rates[0] - rates[1]))
            if self.data.schema.attributes_as_inputs:
                found[f"{a.name} flipped"] = self.same({a.name: None})[0]
        return found


def train(
    variant: Variant, data: Adult, settings: dict[str, float], epochs: int, seed: int
) -> MultiTask:
    torch.manual_seed(seed)
    schema, table = data.schema, data.tables["train"]
    layout = Layout(schema.tasks)
    model = MultiTask(MLP(schema.n_inputs, (100, 100)), LinearHeads(100, layout), layout)
    step = STEPS[variant.method](**settings, **variant.columns_of(schema))
    step.setup(model, schema.groups, table)
    optimiser = torch.optim.Adam(step.parameters(), lr=1e-3)
    source = TableSource(table, 256, seed)
    for epoch in range(epochs):
        for batch in source.batches(epoch):
            optimiser.zero_grad()
            step.step(batch)
            optimiser.step()
    return model.eval()


def balancing_offset(model: MultiTask, data: Adult) -> float:
    """The threshold, in log-odds, of the largest balanced accuracy on validation rows."""
    odds = np.linspace(0.0, 3.0, 31)
    scores = [
        Judged(model, data, "validation", o).utility()["balanced_accuracy"] for o in odds.tolist()
    ]
    return float(odds[int(np.argmax(scores))])


@dataclass(frozen=True)
class Outcome:
    """Test figures of the chosen model by decision rule, and what was chosen."""

    at_half: dict[str, float]
    tuned: dict[str, float]
    settings: dict[str, float]
    seconds: float
    """Processor time per epoch."""


def run(variant: Variant, data: Adult, epochs: int, seed: int) -> Outcome:
    """Train with every setting, choose on validation rows, look at test rows once."""
    best: tuple[tuple[bool, float], MultiTask, dict[str, float]] | None = None
    seconds = []
    for settings in variant.grid():
        start = time.process_time()
        model = train(variant, data, settings, epochs, seed)
        seconds.append((time.process_time() - start) / epochs)
        judged = Judged(model, data, "validation")
        value, low = judged.same(SPOUSES)
        # Surely consistent enough, and then as useful as can be; else as consistent as can be.
        reached = low >= TARGET
        merit = (reached, judged.utility()["balanced_accuracy"] if reached else value)
        if best is None or merit > best[0]:
            best = merit, model, settings
    assert best is not None
    _, model, settings = best
    return Outcome(
        Judged(model, data, "test").figures(),
        Judged(model, data, "test", balancing_offset(model, data)).figures(),
        settings,
        float(np.mean(seconds)),
    )


def collect(variants: Sequence[Variant], epochs: int, seeds: int) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {v.title: [] for v in variants}
    for seed in range(seeds):
        data = Adult(seed, variants[0].inputs)
        for variant in variants:
            found[variant.title].append(run(variant, data, epochs, seed))
            print(seed, variant.title, found[variant.title][-1], flush=True)
    return found


def figures_table(found: dict[str, list[Outcome]], rule: str) -> str:
    names = list(getattr(next(iter(found.values()))[0], rule))
    rows = []
    for title, outcomes in found.items():
        cells = [report.interval([getattr(o, rule)[n] for o in outcomes]) for n in names]
        chosen = ", ".join(
            "/".join(f"{o.settings[k]:g}" for k in ("strength", "epsilon") if k in o.settings)
            for o in outcomes
            if o.settings
        )
        seconds = f"{np.mean([o.seconds for o in outcomes]):.1f}"
        rows.append([title, *cells, chosen or "–", seconds])
    return report.table(["", *names, "λ/epsilon by seed", "s per epoch"], rows)


def change(found: dict[str, list[Outcome]], title: str, name: str) -> list[float]:
    pairs = zip(found[title], found["standard"], strict=True)
    return [o.at_half[name] - p.at_half[name] for o, p in pairs]


def verdict(found: dict[str, list[Outcome]]) -> str:
    """The claim, variant by variant, in words."""
    lines = []
    for title, outcomes in found.items():
        if title == "standard":
            continue
        spouse = [o.at_half["spouse"] for o in outcomes]
        cost = change(found, title, "balanced accuracy")
        reached = np.mean(spouse) >= TARGET
        cheap = np.mean(cost) >= -BUDGET
        verdict = "holds" if reached and cheap else "does not hold"
        why = [] if reached else [f"consistency stays below {TARGET}"]
        why += [] if cheap else [f"it costs more than {100 * BUDGET:.0f} points"]
        gaps = "; ".join(
            f"{a} {report.interval(change(found, title, f'parity gap, {a}'))}"
            for a in ("sex", "race")
        )
        lines.append(
            f"- **{title}**: the claim {verdict}{': ' if why else ''}{' and '.join(why)}. Spouse "
            f"consistency {report.interval(spouse)}; change of balanced accuracy "
            f"{report.interval(cost)}; change of the parity gap: {gaps}."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = collect(VARIANTS, args.epochs, args.seeds)
    seeing = collect(SEEING, args.epochs, args.seeds)
    standard = report.interval([o.at_half["wife flag"] for o in found["standard"]])
    published = report.table(
        ["", "spouse consistency", "balanced accuracy", "parity gap, sex", "source"],
        [
            ["standard", ".959", ".781", "–", "inFairness, stored notebook (10 epochs)"],
            ["SenSeI, rho 5", ".9999", ".736", "–", "inFairness, stored notebook"],
            ["standard", ".959", ".773", ".172", "inFairness, re-measured (5 epochs)"],
            ["SenSeI, rho 1", ".9925", ".754", ".171", "inFairness, re-measured (3 epochs)"],
        ],
    )
    report.write(
        "sensei",
        "SenSeI: spouse consistency on Adult",
        f"Claim: spouse consistency rises to {TARGET} or more within {100 * BUDGET:.0f} points of "
        "balanced accuracy (Yurochkin and Sun, 2021, as the inFairness package has it).",
        "## Published and re-measured with inFairness",
        published,
        "The notebook toggles the wife flag alone and leaves the other relationships as they are, "
        "which makes people without a relationship or with two; we set the relationship to husband "
        f"and to wife. By the notebook's count ('wife flag') our standard network has {standard}. "
        "inFairness moves inputs by 10 Adam steps of .01 and has no free moves.",
        f"## Ours, decisions at a probability of one half ({args.epochs} epochs)",
        figures_table(found, "at_half"),
        verdict(found),
        "Strength and epsilon are chosen on validation rows: the largest balanced accuracy among "
        f"those whose spouse consistency surely is {TARGET} or more (lower end of interval), or "
        "the largest consistency where there is none.",
        "One regression per attribute gives one direction, in which husband and wife are two of "
        "some forty inputs. The rest must come from the second phase, which flattens the model in "
        "all inputs and costs utility. Named as columns both become free, and free moves suffice. "
        "Gaps between groups hardly move: consistency and parity are two things.",
        "## The same models, threshold tuned on validation rows for balanced accuracy",
        figures_table(found, "tuned"),
        "## The model sees sex and race",
        "Their input columns count as sensitive directions too. The other consistencies are those "
        "of setting sex, or race, to both values.",
        figures_table(seeing, "at_half"),
        verdict(seeing),
    )


if __name__ == "__main__":
    main()
