"""FairBranch: does sharing layers cost tasks accuracy or fairness, and do branches help?

    FAIRMT_DATA=... python benchmarks/reproduce/fairbranch.py --seeds 5

The paper's five yes-or-no tasks of the census, with three differences: features that give no label
away (the paper's hold OCCP, POWPUMA and JWTR, which exist only for people at work), missing labels
left missing (the paper's travel time of people who do not travel is "at most 20 minutes"), and
2018 in two states. Nothing is chosen on the way, so validation rows are not needed: every model is
trained for the same epochs at settings fixed beforehand, and test rows are read once.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import numpy as np
import report
import torch
from torch import Tensor

from fairmt.data import Bundle, Schema, TensorTable, split
from fairmt.data.catalog import acs
from fairmt.groups import Groups
from fairmt.methods import STEPS, StepMethod
from fairmt.methods.tree_picture import plot_tree
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.path import predict_outputs
from fairmt.sampling import TableSource
from fairmt.tasks import Classification, Layout
from fairmt.trainer import Segment, Trainer

PICTURE = report.RESULTS.parents[2] / "docs" / "img" / "fairbranch_tree.png"
TASKS = ("employment", "income", "health insurance", "travel time", "poverty ratio")
NEVER = 10**9
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "single-task": ("single", {}),
    "plain multi-task": ("plain", {}),
    "branches alone (λ = 0.001)": ("fairbranch", {"strength": 0.001}),
    "group losses alone (λ = 2)": ("fairbranch", {"strength": 2.0, "branch_every": NEVER}),
    "FairBranch, the paper's strength (λ = 2)": ("fairbranch", {"strength": 2.0}),
    "FairBranch, stronger (λ = 10)": ("fairbranch", {"strength": 10.0}),
}
SINGLE, PLAIN, BRANCHES, LOSSES, PAPER, STRONG = VARIANTS
MEASURES = ("KG", "DG of EP", "DG of EO")
PUBLISHED = {PAPER: (".036", "−.001", ".000"), "PCGrad": (".015", ".004", ".006")}
MIN_ROWS = 100
"""Test rows of either answer that a group needs for its rates to be looked at."""


def census(states: Sequence[str]) -> Bundle:
    """The five tasks, two classes each, by sex and race."""
    bundle = acs.load(states=states, tasks=("moved",), raw=True)
    raw = bundle.frame
    answers = {
        "employment": (raw["ESR"] == 1).where(raw["ESR"].notna()),
        "income": (raw["PINCP"] > 50_000).where(raw["PINCP"].notna()),
        "health insurance": (raw["HINS2"] == 1).where(raw["HINS2"].notna()),
        "travel time": (raw["JWMNP"] > 20).where(raw["JWMNP"].notna()),
        "poverty ratio": (raw["POVPIP"] < 250).where(raw["POVPIP"].notna()),
    }
    frame = raw[[*bundle.features, "sex", "race", "SERIALNO"]].copy()
    for name in TASKS:
        frame[name] = answers[name].map({True: "yes", False: "no"})
    tasks = tuple(Classification(name, ("no", "yes")) for name in TASKS)
    return Bundle(frame, tasks, ("sex", "race"), bundle.features, "SERIALNO", None, {}, bundle.card)


def train(
    name: str,
    settings: dict[str, object],
    schema: Schema,
    rows: TensorTable,
    seed: int,
    epochs: int,
) -> StepMethod:
    torch.manual_seed(seed)
    layout = Layout(schema.tasks)
    encoder = MLP(schema.n_inputs, (128, 64, 32))
    source = TableSource(rows, 512, seed)
    if name == "fairbranch":
        # Two layers can split: after a third and after two thirds of the run.
        settings = {"branch_every": epochs * source.n_batches // 3} | settings
    method = STEPS[name](**settings)
    method.setup(MultiTask(encoder, LinearHeads(32, layout), layout), schema.groups, rows)
    trainer = Trainer(progress=False, seed=seed)
    trainer.fit(method, source, [Segment("all", epochs)])
    return method


def judge(layout: Layout, groups: Groups, outputs: Tensor, test: TensorTable) -> np.ndarray:
    """Accuracy, then EP and EO by attribute: (T, 1 + 2 A)."""
    found = []
    for task in layout.tasks:
        y = test.labels[:, layout.labels[task.name]][:, 0]
        seen = ~y.isnan()
        said, y, codes = (
            outputs[:, layout.outputs[task.name]].argmax(1),
            y[seen],
            test.attributes[seen],
        )
        said = said[seen]
        row = [float((said == y).double().mean())]
        for a, attribute in enumerate(groups.attributes):
            rates = []
            for g in range(len(attribute.categories)):
                own = [(codes[:, a] == g) & (y == answer) for answer in (1, 0)]
                if min(int(o.sum()) for o in own) >= MIN_ROWS:
                    rates.append([float((said[o] == y[o]).double().mean()) for o in own])
            gaps = np.ptp(np.asarray(rates), axis=0)
            row += [gaps[0], gaps.sum()]
        found.append(row)
    return np.asarray(found)


def run(seed: int, states: Sequence[str], epochs: int, picture: bool) -> dict[str, np.ndarray]:
    bundle = census(states)
    unit = bundle.frame["SERIALNO"].to_numpy()
    parts = split(bundle.frame, fractions=(0.7, 0.0, 0.0, 0.3), unit=unit, seed=seed)
    frames = {part: bundle.frame.iloc[parts[part]] for part in ("train", "test")}
    schema = Schema.infer(
        frames["train"], bundle.tasks, bundle.sensitive, features=dict(bundle.features),
        split_by="SERIALNO",
    )  # fmt: skip
    tables = {part: schema.encode(frame) for part, frame in frames.items()}
    layout, found = Layout(schema.tasks), {}
    for variant, (name, settings) in VARIANTS.items():
        method = train(name, settings, schema, tables["train"], seed, epochs)
        outputs = predict_outputs(method.model, tables["test"].features)
        found[variant] = judge(layout, schema.groups, outputs, tables["test"])
        if picture and variant == PAPER:
            title = "Census: layers that tasks share after training with FairBranch"
            plot_tree(method.model, title).savefig(PICTURE, dpi=110)
        print(seed, variant, found[variant].mean(0).round(4), flush=True)
    return found


def transfer(runs: list[dict[str, np.ndarray]], variant: str, attribute: int) -> np.ndarray:
    """KG, DG of EP, DG of EO, each the mean over tasks: (seeds, 3)."""
    columns = [0, 1 + 2 * attribute, 2 + 2 * attribute]
    return np.stack([(r[variant] - r[SINGLE])[:, columns].mean(0) for r in runs])


def verdict(values: np.ndarray, good: int) -> str:
    """In words, by the bootstrap interval over seeds."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    if low <= 0 <= high:
        return "no difference that these seeds can tell"
    return "better than single-task" if (low > 0) == (good > 0) else "worse than single-task"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--states", nargs="+", default=["HI", "NM"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    runs = [run(seed, args.states, args.epochs, seed == 0) for seed in range(args.seeds)]
    parts = []
    for a, attribute in enumerate(("sex", "race")):
        lines = []
        for variant in list(VARIANTS)[1:]:
            t = transfer(runs, variant, a)
            known = PUBLISHED.get(variant, ("–",) * 3) if attribute == "sex" else ("–",) * 3
            lines.append([variant, *(report.interval(t[:, i]) for i in range(3)), "/".join(known)])
        header = ["training", "KG", "DG, EP", "DG, EO", "published KG/EP/EO"]
        parts += [f"## By {attribute}", report.table(header, lines)]
    rows = []
    for i, task in enumerate(TASKS):
        for variant in (SINGLE, PLAIN, PAPER, STRONG):
            cells = np.stack([r[variant][i] for r in runs])
            rows.append([task, variant, *(report.interval(cells[:, c]) for c in (0, 1, 2, 4))])
    header = ["task", "training", "accuracy", "EP, sex", "EO, sex", "EO, race"]
    parts += ["## By task", report.table(header, rows)]
    lines = []
    for a, attribute in enumerate(("sex", "race")):
        for variant in (PLAIN, LOSSES, PAPER, STRONG):
            t = transfer(runs, variant, a)
            words = [
                f"{m}: {verdict(t[:, i], 1 if i == 0 else -1)}" for i, m in enumerate(MEASURES)
            ]
            lines.append(f"- {variant}, {attribute}: {'; '.join(words)}.")
    against = [
        (a, np.array(transfer(runs, STRONG, a)[:, 2] - transfer(runs, PLAIN, a)[:, 2]))
        for a in range(2)
    ]
    for a, difference in against:
        lines.append(
            f"- FairBranch (λ = 10) less plain multi-task, EO by {('sex', 'race')[a]}: "
            f"{report.interval(difference)}."
        )
    report.write(
        "fairbranch",
        "FairBranch: negative transfer and bias transfer",
        "Claim (arXiv 2310.13746, Table II, census 2018 to 2019, sex): against single-task models "
        "FairBranch gains accuracy on average (KG > 0: no negative transfer) and does not widen "
        "the gap (DG ≤ 0: no bias transfer), where multi-task learning without a fairness term "
        "does. KG and DG are the mean over tasks of the multi-task figure less the single-task "
        "one; EP = |ΔTPR|, EO = |ΔTPR| + |ΔTNR| (best less worst group, for race among groups "
        f"with at least {MIN_ROWS} test rows of either answer), decisions at one half.",
        "Published figures are the paper's; they were not measured again, because its released "
        "metric takes the first rows of a batch for a group. PCGrad stands there for multi-task "
        "learning without a fairness term, as the paper has no plain one: "
        f"{'/'.join(PUBLISHED['PCGrad'])}.",
        *parts,
        "## Verdict",
        "\n".join(lines),
    )


if __name__ == "__main__":
    main()
