"""MTA-F on Adult: two outcomes, and the front of error and false-alarm gap.

Income above 50,000 dollars and any capital gain; attribute sex. The same penalty once by MTA-F
(trunk or head, as the negatives are shared or exclusive) and once in full on every task.

    OMP_NUM_THREADS=1 python benchmarks/reproduce/mta_f.py --seeds 4
"""

from __future__ import annotations

import argparse

import report
import torch
from step_runs import mean, outputs_of, sign, some, trained
from torch import Tensor

from fairmt import load_dataset
from fairmt.data import Schema, TensorTable, split
from fairmt.kernel_distance import kernel_distance
from fairmt.ledger import probabilities
from fairmt.methods import MTAF, Batch, Plain, SingleTask, StepMethod
from fairmt.methods.mta_f import WIDTH
from fairmt.tasks import Classification, Layout

TASKS = (
    Classification("income", ("<=50K", ">50K"), favourable=">50K"),
    Classification("gain", ("no", "yes"), favourable="yes"),
)
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
ROWS = 10_000


class PerTask(MTAF):
    """The penalty on all negatives of a task, its gradient wherever it goes."""

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        scores = probabilities(self.layout, outputs)
        negative, _ = self.negatives(batch)
        member = self.groups.membership(batch.attributes, scores.dtype)[:, 1:]
        total = outputs.new_zeros(())
        for (k,) in self._compared:
            rows = negative[:, k]
            total = total + kernel_distance(scores[rows, k], member[rows], self.groups, (WIDTH,))
        return total


METHODS: dict[str, type[MTAF]] = {"per task": PerTask, "MTA-F": MTAF}


def data(seed: int) -> tuple[Schema, dict[str, TensorTable]]:
    bundle = load_dataset("adult")
    frame = bundle.frame
    frame["gain"] = frame["capital_gain"].gt(0).map({True: "yes", False: "no"})
    features = {k: v for k, v in bundle.features.items() if k != "capital_gain"}
    features |= {"workclass": "categorical", "occupation": "categorical", "hours": "numeric"}
    parts = split(frame, seed=seed)
    train = frame.iloc[some(parts["train"], ROWS, seed)]
    schema = Schema.infer(train, TASKS, ("sex",), features=features)
    rest = {name: schema.encode(frame.iloc[parts[name]]) for name in ("validation", "test")}
    return schema, rest | {"train": schema.encode(train)}


def figures(
    method: StepMethod, tables: dict[str, TensorTable], schema: Schema
) -> dict[str, Tensor]:
    """Errors and gaps of the false-alarm rate of both tasks, (2, T), on validation and test rows.

    A positive decision is made as often as the outcome occurs, by validation rows.
    """
    layout = Layout(schema.tasks)
    found: dict[str, list[list[float]]] = {"validation": [], "test": []}
    outputs = {part: outputs_of(method, tables[part]).double() for part in found}
    for task in TASKS:
        span = layout.outputs[task.name]
        scores = {part: o[:, span.stop - 1] - o[:, span.start] for part, o in outputs.items()}
        labels = {part: tables[part].labels[:, layout.labels[task.name]][:, 0] for part in found}
        cut = scores["validation"].quantile(1 - float(labels["validation"].mean()))
        for part, own in found.items():
            yes, y, sex = scores[part] > cut, labels[part], tables[part].attributes[:, 0]
            rates = [yes[(y == 0) & (sex == g)].double().mean() for g in (0, 1)]
            own.append([float((yes != (y == 1)).double().mean()), abs(float(rates[0] - rates[1]))])
    return {part: torch.tensor(own).T for part, own in found.items()}


def area(points: dict[str, list[tuple[float, float]]]) -> float:
    """Hypervolume of (relative error, relative gap) below (1.3, 1.3); the front is chosen on
    validation rows, its points are those of test rows.
    """
    chosen = [
        t
        for v, t in zip(points["validation"], points["test"], strict=True)
        if not any(o[0] < v[0] and o[1] < v[1] for o in points["validation"])
    ]
    total, lowest = 0.0, 1.3
    for error, own in sorted(chosen):
        if own < lowest:
            total += max(0.0, 1.3 - error) * (lowest - own)
            lowest = own
    return total


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    fronts: dict[str, list[float]] = {name: [] for name in METHODS}
    table: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for seed in range(seeds):
        schema, tables = data(seed)
        single = figures(trained(SingleTask(), schema, tables["train"], seed=seed), tables, schema)

        def relative(
            method: StepMethod,
            strength: float,
            seed: int = seed,
            schema: Schema = schema,
            tables: dict[str, TensorTable] = tables,
            single: dict[str, Tensor] = single,
        ) -> dict[str, tuple[float, float]]:
            trained(method, schema, tables["train"], strength=strength, seed=seed)
            own = figures(method, tables, schema)
            pairs = {part: (own[part] / single[part]).mean(1).tolist() for part in own}
            return {part: (error, apart) for part, (error, apart) in pairs.items()}

        plain = relative(Plain(), 0.0)
        table.setdefault(("plain", 0.0), []).append(plain["test"])
        for name, kind in METHODS.items():
            points = {part: [plain[part]] for part in ("validation", "test")}
            for strength in STRENGTHS:
                found = relative(kind(), strength)
                table.setdefault((name, strength), []).append(found["test"])
                for part, point in found.items():
                    points[part].append(point)
            fronts[name].append(area(points))
    write(table, fronts, seeds)


def write(
    table: dict[tuple[str, float], list[tuple[float, float]]],
    fronts: dict[str, list[float]],
    seeds: int,
) -> None:
    rows = [
        [name, f"{strength:g}", *(report.interval([p[i] for p in points]) for i in (0, 1))]
        for (name, strength), points in table.items()
    ]
    ahead = [a - b for a, b in zip(fronts["MTA-F"], fronts["per task"], strict=True)]
    word = {1: "holds", 0: "cannot be told from these seeds", -1: "does not hold"}[sign(ahead)]
    report.write(
        "mta_f",
        "MTA-F: where the fairness gradient goes",
        "**Claim** (Wang et al. 2021, published as figures; no number is printed with the code): "
        "splitting a task's fairness gradient between head and trunk gives a better front of "
        "accuracy and fairness over two tasks than a penalty per task.",
        f"**Ours.** Adult, {ROWS:,} training rows, {seeds} seeds; both methods with the same "
        "kernel distance at the same strengths. ARE and ARFG: error, and gap of the false-alarm "
        "rate between men and women, each relative to single-task training, mean over the two "
        "tasks, on test rows. A positive decision is made as often as the outcome occurs.",
        report.table(["training", "λ", "ARE", "ARFG"], rows),
        "Hypervolume below (1.3, 1.3); fronts are chosen on validation rows and include the plain "
        "model.",
        report.table(
            ["method", "hypervolume"],
            [
                *([name, report.interval(values)] for name, values in fronts.items()),
                ["MTA-F minus per task", report.interval(ahead)],
            ],
        ),
        f"**Verdict.** The front of MTA-F covers {abs(mean(ahead)):.3f} "
        f"{'more' if mean(ahead) > 0 else 'less'} than that of the penalty per task: that it is "
        f"better {word}. Nearly all negatives are shared here (few people have a capital gain), so "
        "MTA-F leaves nearly all of the work to the trunk, where the penalty turns the heads too.",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    main(parser.parse_args().seeds)
