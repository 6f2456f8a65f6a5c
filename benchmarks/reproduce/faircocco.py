"""FairCOCCO on Communities: several continuous attributes in one term, and what that costs.

    OMP_NUM_THREADS=1 python benchmarks/reproduce/faircocco.py --seeds 5

Violent crime per head, as log(1 + rate), is predicted from places; three attributes are numbers:
the shares of black and of hispanic people, and of divorced women. Compared at equal strengths are
the term on the three numbers together, the same term on the attributes cut in two at their
medians (eight cells), and the term as published, with the Gram matrices of single batches.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import report
import torch
from torch import Tensor

from fairmt import MLP, Classification, Detection, LinearHeads, Regression, Schema, load_dataset
from fairmt.auditing import dependence_score
from fairmt.data import TensorTable, split
from fairmt.data.catalog.communities import CARD
from fairmt.data.catalog.fetch import locate
from fairmt.dependence import Variable, gram_dependence
from fairmt.groups import Attribute, Groups
from fairmt.methods import FairCOCCO, Plain, StepMethod
from fairmt.methods.base import Batch
from fairmt.models import MultiTask
from fairmt.sampling import TableSource
from fairmt.tasks import Layout, Task

ATTRIBUTES = ("black", "hispanic", "divorced")
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 20.0)
GRAM_STRENGTHS = (1.0, 3.0, 10.0)
GRAM_SEEDS = 3
EPOCHS = 60
PLAIN, NUMBERS, CUT, GRAM = "plain", "three numbers", "cut in two", "as published (Gram)"


class GramFairCOCCO(FairCOCCO):
    """The published form: exact kernels of every batch by itself, no memory."""

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        attributes, _ = self._attributes(batch, outputs.dtype)
        assert attributes.numbers is not None
        x = Variable(numbers=attributes.numbers[:, 0].double()).gram()
        y = Variable(numbers=outputs.double()).gram()
        return gram_dependence(x, y, ridge=self.ridge).score.to(outputs.dtype)


@dataclass
class Places:
    """One split: tables under a schema, and the attributes of validation and test rows."""

    schema: Schema
    tables: dict[str, TensorTable]
    attributes: dict[str, pd.DataFrame]


def frame() -> tuple[pd.DataFrame, dict[str, str]]:
    """Places whose rate of violent crime is known, and their features."""
    bundle = load_dataset("communities")
    (path,) = locate(CARD)
    rate = pd.read_csv(path, na_values=["?"], keep_default_na=False)["ViolentCrimesPerPop"]
    places = bundle.frame.assign(violent=np.log1p(rate))
    places = places.rename(columns={"FemalePctDiv": "divorced"})
    features = {k: v for k, v in bundle.features.items() if k != "FemalePctDiv"}
    return places[places["violent"].notna()].reset_index(drop=True), features


def prepare(places: pd.DataFrame, features: dict[str, str], seed: int, cut: bool) -> Places:
    parts = split(places, fractions=(0.6, 0.0, 0.2, 0.2), seed=seed)
    frames = {part: places.iloc[rows] for part, rows in parts.items() if len(rows)}
    schema = Schema.infer(
        frames["train"],
        [Regression("violent")],
        ATTRIBUTES,
        features=features,
        bins={a: (frames["train"][a].median(),) for a in ATTRIBUTES},
        continuous=() if cut else ATTRIBUTES,
    )
    return Places(
        schema,
        {part: schema.encode(f) for part, f in frames.items()},
        {part: f[list(ATTRIBUTES)] for part, f in frames.items()},
    )


def train(method: StepMethod, data: Places, seed: int) -> dict[str, dict[str, float]]:
    """Figures of a trained model by part."""
    torch.manual_seed(seed)
    layout = Layout(data.schema.tasks)
    encoder = MLP(data.schema.n_inputs, (100,))
    model = MultiTask(encoder, LinearHeads(100, layout), layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        method.setup(model, data.schema.groups, data.tables["train"])
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=1e-2)
    source = TableSource(data.tables["train"], 256, seed)
    for epoch in range(EPOCHS):
        for batch in source.batches(epoch):
            optimiser.zero_grad()
            method.step(batch)
            optimiser.step()
    model.eval()
    return {part: figures(model, data, part) for part in ("validation", "test")}


@torch.no_grad()
def figures(model: MultiTask, data: Places, part: str) -> dict[str, float]:
    table, attributes = data.tables[part], data.attributes[part]
    outputs = model(table.features)
    task = data.schema.tasks[0]
    assert isinstance(task, Regression)
    error = outputs - task.standardise(table.labels)
    predicted = outputs[:, 0].numpy()
    score = dependence_score(predicted, attributes, n_boot=0)
    return {
        "rmse": float(error.square().mean().sqrt()),
        "score": score.score,
        "chance": score.chance,
        "excess": score.excess,
        "n": score.n,
        **{a: abs(np.corrcoef(predicted, attributes[a])[0, 1]) for a in ATTRIBUTES},
    }


Runs = dict[tuple[str, float], list[dict[str, dict[str, float]]]]


def frontier(seeds: int) -> Runs:
    places, features = frame()
    runs: Runs = {}
    for seed in range(seeds):
        numbers, cut = (prepare(places, features, seed, cut) for cut in (False, True))
        runs.setdefault((PLAIN, 0.0), []).append(train(Plain(), numbers, seed))
        for strength in STRENGTHS:
            for name, data in ((NUMBERS, numbers), (CUT, cut)):
                found = train(FairCOCCO(strength=strength), data, seed)
                runs.setdefault((name, strength), []).append(found)
        if seed < GRAM_SEEDS:
            for strength in GRAM_STRENGTHS:
                found = train(GramFairCOCCO(strength=strength), numbers, seed)
                runs.setdefault((GRAM, strength), []).append(found)
    return runs


def frontier_table(runs: Runs) -> str:
    rows = []
    for (name, strength), found in runs.items():
        test = [f["test"] for f in found]
        by_attribute = " / ".join(f"{np.mean([t[a] for t in test]):.2f}" for a in ATTRIBUTES)
        rows.append(
            (
                name,
                f"{strength:g}",
                len(test),
                report.interval([t["rmse"] for t in test]),
                report.interval([t["score"] for t in test]),
                f"{np.mean([t['chance'] for t in test]):.3f}",
                by_attribute,
            )
        )
    header = (
        "term on",
        "λ",
        "seeds",
        "test RMSE (sd of the target)",
        "test score",
        "by chance",
        f"abs. correlation with {' / '.join(ATTRIBUTES)}",
    )
    return report.table(header, rows)


def chosen(runs: Runs, name: str, share: float) -> list[tuple[float, float]]:
    """Per seed, change of test RMSE and remaining share of test dependence, both against plain, at
    the smallest λ whose validation dependence is at most `share` of plain's, or the largest λ."""
    found = []
    for seed, plain in enumerate(runs[PLAIN, 0.0]):
        wanted = share * plain["validation"]["excess"]
        own = [runs[name, s][seed] for s in STRENGTHS]
        pick = next((f for f in own if f["validation"]["excess"] <= wanted), own[-1])["test"]
        test = plain["test"]
        found.append((pick["rmse"] / test["rmse"] - 1, pick["excess"] / test["excess"]))
    return found


def chosen_table(runs: Runs) -> tuple[str, dict[str, float]]:
    rows, costs = [], {}
    for share in (0.5, 0.25):
        for name in (NUMBERS, CUT):
            found = chosen(runs, name, share)
            rows.append(
                (
                    f"{share:.0%}",
                    name,
                    report.interval([left for _, left in found], percent=True),
                    report.interval([cost for cost, _ in found], percent=True),
                )
            )
            costs[f"{name} {share}"] = float(np.mean([left for _, left in found]))
        a, b = (np.array(chosen(runs, n, share)) for n in (NUMBERS, CUT))
        rows.append(
            (
                f"{share:.0%}",
                "difference (numbers less cut)",
                report.interval((a - b)[:, 1], percent=True),
                report.interval((a - b)[:, 0], percent=True),
            )
        )
    header = (
        "wanted on validation",
        "term on",
        "dependence left on test",
        "change of test RMSE",
    )
    return report.table(header, rows), costs


# -- cost ---------------------------------------------------------------------------------------

TASK_SETS: dict[str, tuple[Task, ...]] = {
    "one regression": (Regression("value"),),
    "three kinds": (
        Classification("class", ("a", "b", "c")),
        Detection("label", ("u", "v", "w", "x")),
        Regression("value"),
    ),
}


def step_costs(rows: int, rounds: int) -> str:
    """CPU time of a step beside that of a plain one, in turn; medians over rounds."""
    groups = Groups(tuple(Attribute(a, ("low", "high")) for a in ATTRIBUTES))
    random = torch.Generator().manual_seed(0)
    lines = []
    for name, tasks in TASK_SETS.items():
        layout = Layout(tasks)
        x = torch.randn(rows, 100, generator=random)
        values = torch.randn(rows, 3, generator=random)
        batch = {
            "features": x,
            "labels": torch.randint(0, 2, (rows, layout.n_labels), generator=random).float(),
            "attributes": (values > 0).long(),
            "values": values,
        }
        for label, settings in (
            ("three numbers", {"continuous": ATTRIBUTES}),
            ("three groupings", {}),
            (
                "three numbers, equalized odds",
                {"continuous": ATTRIBUTES, "notion": "equalized_odds"},
            ),
        ):
            plain, own = interleaved(
                timed(Plain, layout, groups, {}, batch),
                timed(FairCOCCO, layout, groups, settings, batch),
                rounds,
            )
            ratio = statistics.median(o / p for o, p in zip(own, plain, strict=True))
            lines.append(
                (
                    name,
                    label,
                    f"{statistics.median(plain):.1f}",
                    f"{statistics.median(own):.1f}",
                    f"{ratio:.2f}",
                )
            )
    return report.table(("tasks", "term on", "plain, ms", "FairCOCCO, ms", "ratio"), lines)


def timed(
    kind: Callable[..., StepMethod],
    layout: Layout,
    groups: Groups,
    settings: dict[str, Any],
    batch: dict[str, Tensor],
) -> Callable[[], float]:
    """What makes one step and tells its milliseconds."""
    torch.manual_seed(0)
    encoder = MLP(100, (128, 64))
    method = kind(encoder, LinearHeads(64, layout), layout, groups, **settings)
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-3)

    def step() -> float:
        start = process_time()
        optimiser.zero_grad(set_to_none=True)
        method.step(batch)
        optimiser.step()
        return 1e3 * (process_time() - start)

    return step


def interleaved(
    a: Callable[[], float], b: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    times = [(a(), b()) if i % 2 else (b(), a())[::-1] for i in range(rounds + 5)][5:]
    return [t[0] for t in times], [t[1] for t in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40, help="of the step's cost")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    costs = step_costs(4096, arguments.rounds)
    print(costs)
    runs = frontier(arguments.seeds)
    chosen_rows, _ = chosen_table(runs)
    print(frontier_table(runs))
    print(chosen_rows)


if __name__ == "__main__":
    main()
