"""What PMRL adds to a pairwise contrastive loss: a toy with a known latent, and NHANES.

python benchmarks/reproduce/pmrl.py [--seeds 3]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import report
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor

from fairmt import load_dataset
from fairmt.data import Schema, TensorTable, split
from fairmt.groups import Attribute, Groups
from fairmt.methods import PMRL
from fairmt.methods.pmrl import (
    Objective,
    alignment_parity,
    parity_loss,
    partner_loss,
    singular_values,
    units,
)
from fairmt.methods.pmrl import alignment as aligned
from fairmt.models import MLP
from fairmt.models.blocks import schema_blocks

BLOCKS = {
    "body": ["Age", "Height", "Weight"],
    "household": ["HHIncomeMid", "Poverty", "HomeRooms", "HomeOwn"],
    "life": ["Education", "MaritalStatus", "Work", "SurveyYr"],
}
LOST = 0.3
"""Share of rows that lack a block, for each block by itself; every row keeps one."""


class Pairwise(Objective):
    """InfoNCE over all pairs of blocks, in place of dominance and partner."""

    def __call__(self, shared: Tensor, present: Tensor, codes: Tensor, cell: Tensor) -> Tensor:
        z, k = units(shared, present), shared.shape[1]
        pairs = [(a, b) for a in range(k) for b in range(a + 1, k)]
        losses = [
            partner_loss(z[:, list(p)], present[:, list(p)], self.temperature, cell) for p in pairs
        ]
        total = self.partner * torch.stack(losses).mean()
        return total + self.parity * parity_loss(aligned(singular_values(z), present), codes)


class PairwisePMRL(PMRL):
    def objective(self) -> Objective:
        return Pairwise(0.0, self.partner, self.parity, self.temperature)


LOSSES: dict[str, tuple[type[PMRL], dict[str, Any]]] = {
    "reconstruction alone": (PMRL, {"dominance": 0.0, "partner": 0.0, "parity": 0.0}),
    "dominance alone": (PMRL, {"partner": 0.0, "parity": 0.0}),
    "pairwise InfoNCE": (PairwisePMRL, {"parity": 0.0}),
    "partner alone": (PMRL, {"dominance": 0.0, "parity": 0.0}),
    "dominance + partner": (PMRL, {"parity": 0.0}),
    "dominance + partner + parity": (PMRL, {"parity": 20.0}),
}


def toy(n: int, seed: int) -> tuple[TensorTable, Groups, dict[str, range], np.ndarray]:
    """Three noisy views of a latent of 8 dimensions; two groups, which mean nothing."""
    world = torch.Generator().manual_seed(7)
    maps = [torch.randn(8, 20, generator=world) / 8**0.5 for _ in range(3)]
    draw = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 8, generator=draw)
    views = [torch.tanh(latent @ m) + 0.3 * torch.randn(n, 20, generator=draw) for m in maps]
    codes = torch.randint(2, (n, 1), generator=draw)
    table = TensorTable(torch.cat(views, 1), torch.zeros(n, 0), codes)
    groups = Groups((Attribute("half", ("one", "other")),))
    blocks = {f"view {k}": range(20 * k, 20 * k + 20) for k in range(3)}
    return table, groups, blocks, latent[:, 0].numpy()


def on_toy(seed: int, method: type[PMRL], settings: dict[str, Any]) -> list[float]:
    table, groups, blocks, target = toy(4000, seed)
    train, test = table[:2000], table[2000:]
    own = method(blocks, private=0, reconstruction=0.0, steps=400, batch_size=128, **settings)
    encoder = own.fit(MLP(60), train, groups, seed=seed)
    everybody = alignment_parity(encoder, test, groups).iloc[0]
    with torch.no_grad():
        z = units(encoder.parts(table.features).shared, encoder.present(table.features))
    cosines = torch.stack([(z[2000:, a] * z[2000:, b]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))])
    flat = z.flatten(1).numpy()
    r2 = r2_score(target[2000:], Ridge().fit(flat[:2000], target[:2000]).predict(flat[2000:]))
    negative = float((cosines < 0).double().mean())
    return [negative, everybody["retrieval"], everybody["alignment"], r2]


def nhanes(seed: int) -> tuple[dict[str, TensorTable], Schema]:
    bundle = load_dataset("nhanes")
    chosen = [t for t in bundle.tasks if t.name in ("bp_sys", "conditions")]
    parts = split(
        bundle.frame, fractions=(0.7, 0.0, 0.1, 0.2), unit=bundle.frame["ID"].to_numpy(), seed=seed
    )
    schema = Schema.infer(
        bundle.frame.iloc[parts["train"]], chosen, ["race"], features=dict(bundle.features)
    )
    tables = {p: schema.encode(bundle.frame.iloc[r]) for p, r in parts.items() if len(r)}
    draw = torch.Generator().manual_seed(seed)
    blocks = schema_blocks(schema, BLOCKS)
    for table in tables.values():
        lost = torch.rand(len(table), len(blocks), generator=draw) < LOST
        lost[torch.arange(len(table)), torch.randint(3, (len(table),), generator=draw)] = False
        for k, block in enumerate(blocks.values()):
            rows = lost[:, k].nonzero()
            table.features[rows, torch.tensor(block.columns)] = torch.nan
    return tables, schema


def utilities(z: dict[str, np.ndarray], tables: dict[str, TensorTable]) -> list[float]:
    """R² of blood pressure and mean AUC of five conditions, by linear probes.

    Validation rows choose the probes' penalties.
    """
    labels = {p: t.labels.numpy() for p, t in tables.items()}
    found = []
    # The layout puts detections and regressions in families of their own.
    for column in range(labels["train"].shape[1]):
        known = {p: ~np.isnan(y[:, column]) for p, y in labels.items()}
        y = {p: labels[p][known[p], column] for p in labels}
        x = {p: z[p][known[p]] for p in labels}
        yes_or_no = set(np.unique(y["train"])) <= {0.0, 1.0}
        best, kept = -np.inf, 0.0
        for c in (0.01, 0.1, 1.0):
            if yes_or_no:
                fit = LogisticRegression(C=c, max_iter=1000).fit(x["train"], y["train"])
                score = {p: roc_auc_score(y[p], fit.decision_function(x[p])) for p in x}
            else:
                fit = Ridge(alpha=1 / c).fit(x["train"], y["train"])
                score = {p: r2_score(y[p], fit.predict(x[p])) for p in x}
            if score["validation"] > best:
                best, kept = score["validation"], score["test"]
        found.append((yes_or_no, kept))
    regression = [v for yes_or_no, v in found if not yes_or_no]
    detection = [v for yes_or_no, v in found if yes_or_no]
    return [float(np.mean(regression)), float(np.mean(detection))]


def on_nhanes(seed: int) -> dict[str, list[float]]:
    tables, schema = nhanes(seed)
    raw = {
        p: torch.cat([t.features.nan_to_num(0), t.features.isnan().float()], 1).numpy()
        for p, t in tables.items()
    }
    found = {"raw, zeros and flags": [*utilities(raw, tables), *[np.nan] * 3]}
    for name, (method, settings) in LOSSES.items():
        own = method(schema_blocks(schema, BLOCKS), steps=500, **settings)
        encoder = own.fit(MLP(schema.n_inputs), tables["train"], schema.groups, seed=seed)
        with torch.no_grad():
            z = {p: encoder(t.features).numpy() for p, t in tables.items()}
        agree = alignment_parity(encoder, tables["test"], schema.groups)
        spread = agree["alignment"][1:].max() - agree["alignment"][1:].min()
        everybody = agree.iloc[0]
        found[name] = [
            *utilities(z, tables), everybody["alignment"], everybody["retrieval"], spread,
        ]  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    names = [n for n in LOSSES if n not in ("reconstruction alone", "dominance + partner + parity")]
    toys = []
    for name in names:
        runs = [on_toy(seed, *LOSSES[name]) for seed in range(seeds)]
        toys.append([name, *(report.interval(c) for c in zip(*runs, strict=True))])
    runs = [on_nhanes(seed) for seed in range(seeds)]
    rows = [
        [name, *("-" if np.isnan(c).any() else report.interval(c)
                 for c in zip(*(run[name] for run in runs), strict=True))]
        for name in runs[0]
    ]  # fmt: skip
    report.write(
        "pmrl",
        "PMRL: what the dominant singular value adds to a pairwise contrastive loss",
        "The claim (arXiv 2507.17343): aligning all modalities by the dominant singular value "
        "beats pairwise alignment. The published figures are of video retrieval after "
        "pre-training on 137,000 clips, and out of reach here. Measured before, in a toy of the "
        "same make as the first table (the authors' loss; PMRL against pairwise InfoNCE): share "
        "of negative cosines .22 to .59 against 0, R@1 .002 to .013 among 2,000 against .81, "
        "R² .75 to .77 against .92.",
        "## Toy: three views of one latent, 2,000 training rows, shared parts alone",
        report.table(
            ["loss", "negative cosines", "R@1 among 512", "alignment", "R² of a latent"], toys
        ),
        f"## NHANES: three blocks of columns, each missing in {LOST:.0%} of the rows",
        "Frozen encoder, linear probes; the spread is between the best and the worst aligned race.",
        report.table(
            ["encoder", "R² blood pressure", "mean AUC of 5 conditions", "alignment",
             "R@1 among 512", "spread of alignment"], rows,
        ),
        VERDICT,
    )  # fmt: skip


VERDICT = """\
**Verdict.** The claim does not hold here, as it did not before. Aligned by the dominant singular
value alone, blocks of one row are hardly nearer to each other than to those of other rows (R@1 at
chance is .002), in some runs a share of them points the opposite way, and a linear probe reads
less of the latent. Added to a term that sees signs and has negatives, it changes nothing that a
probe can see: all figures agree with pairwise InfoNCE and with the partner term within their
intervals.

On NHANES no alignment loss is worth more than the reconstruction: body, household and way of life
share too little (a row is found among 512 in one case of a hundred) for alignment to help the
tasks; what is gained over a probe on raw columns comes with the reconstruction. High alignment
there is dominance's own figure and no sign of quality. The parity term at this weight (20) makes
the level of alignment vary from run to run and narrows a spread that is small without it by no more
than chance does; where a gap of alignment is planted it narrows it
(`tests/methods/test_pmrl.py`)."""


if __name__ == "__main__":
    main()
