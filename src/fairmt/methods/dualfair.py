"""DualFair: a representation without labels, the same for groups and for counterfactual twins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmt.groups import Groups
from fairmt.methods.counterfactual import Columns, CounterfactualGenerator, new_generator
from fairmt.methods.pretraining import (
    PreTraining,
    Run,
    StratifiedBatches,
    derived_seed,
    fingerprint,
    renumbered,
)


class Projected(nn.Module):
    """An encoder and a linear map on top, (B, D) -> (B, n_features), which may take any sign."""

    def __init__(self, encoder: nn.Module, n_features: int) -> None:
        super().__init__()
        width = getattr(encoder, "n_features", None)
        if width is None:
            raise ValueError(
                f"The encoder ({type(encoder).__name__}) must say its width in the attribute "
                "'n_features'."
            )
        self.encoder, self.projection = encoder, nn.Linear(width, n_features)
        self.n_inputs, self.n_features = getattr(encoder, "n_inputs", None), n_features

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.encoder(x))  # type: ignore[no-any-return]


class DualFair(PreTraining):
    """Alignment with counterfactuals, one distribution for all groups, and self-distillation.

    After stage one (`CounterfactualGenerator`) the encoder z(x) is trained by

        a · mean_a ‖z(x) - z(x_{s_a → s'_a})‖² / d
      + b · mean_{a,g} W₂²(u·z(x) | s_a = g, N(0, 1)),  mean over random directions u
      - c · cos(h(z(x̃)), stopgrad z(x))

    with x̃ a TabMix view of x: half of its features are those of another row (Han et al., 2023).

    Ours: the terms act on the representation that heads read, a linear map of the given encoder's;
    random directions in place of axes; W₂² is exact, and a mean over directions; several
    attributes, flipped one at a time; batches in which every cell has its share; groups with
    fewer than `smallest` rows in a batch are pooled with the next larger ones; features, not
    encoded columns, are mixed.

    A linear head finds a group in any one direction, and the more directions there are the less
    a random one shows of it: few `features` are fairer and less useful, many the reverse.

    Parameters
    ----------
    alignment, distribution, distillation : float
        a, b and c.
    steps, generator_steps : int
        Batches seen in the second and the first stage.
    projections : int
        Random directions a step.
    smallest : int
        Rows of a group in a batch below which it is pooled.
    latent : int
        Size of the generator's code.
    features : int
        Width of the representation.

    Attributes
    ----------
    generator : CounterfactualGenerator
        Of the last `fit`; `fairmt.auditing.counterfactual` can use it.
    """

    name: ClassVar[str] = "dualfair"
    summary: ClassVar[str] = (
        "label-free representation, alike for groups and for counterfactual twins"
    )
    claims: ClassVar[tuple[str, ...]] = ("demographic_parity",)
    limits: ClassVar[str] = (
        "parity only, not equal errors; its counterfactuals are generative, not causal; costs "
        "utility wherever attributes and outcomes go together"
    )
    source: ClassVar[str] = "Han et al. (WWW 2023), arXiv 2303.08403"
    generator: CounterfactualGenerator

    def __init__(
        self,
        *,
        alignment: float = 20.0,
        distribution: float = 100.0,
        distillation: float = 1.0,
        steps: int = 600,
        generator_steps: int = 600,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        projections: int = 64,
        smallest: int = 16,
        latent: int = 16,
        features: int = 16,
    ) -> None:
        for name, value in {
            "alignment": alignment,
            "distribution": distribution,
            "distillation": distillation,
        }.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more. Found {value}.")
        for name, count in {
            "steps": steps,
            "generator_steps": generator_steps,
            "features": features,
        }.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1. Found {count}.")
        self.alignment, self.distribution, self.distillation = alignment, distribution, distillation
        self.steps, self.generator_steps, self.batch_size = steps, generator_steps, batch_size
        self.learning_rate, self.projections = learning_rate, projections
        self.smallest, self.latent, self.features = smallest, latent, features

    def settings(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "generator"}

    def network(self, encoder: nn.Module) -> nn.Module:
        return Projected(encoder, self.features)

    def fit(
        self,
        encoder: nn.Module,
        table: Any,
        groups: Groups,
        *,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> nn.Module:
        self.check_rows(encoder, table, groups)
        first = next(encoder.parameters())
        generator = new_generator(table, groups, seed=seed, latent=self.latent).to(first)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "projection", 0))
            own = self.network(encoder).to(first)
            d = self.features
            predictor = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)).to(first)
        run = Run(
            {"generator": generator, "encoder": own, "predictor": predictor},
            fingerprint(self.name, self.settings(), table, groups),
            seed=seed,
            checkpoint=checkpoint,
            progress=progress,
        )
        number = generator.numbered(table.attributes)
        batches = StratifiedBatches(number, self.batch_size, seed)
        generator.train_in(run, table, batches, self.generator_steps)
        self.generator = generator
        self._train_encoder(run, own, predictor, table, number, batches)
        return own

    def _train_encoder(
        self,
        run: Run,
        encoder: nn.Module,
        predictor: nn.Module,
        table: Any,
        number: Tensor,
        batches: StratifiedBatches,
    ) -> None:
        generator, columns = self.generator.requires_grad_(False), self.generator.columns
        rows_a_batch = min(self.batch_size, len(table))
        parties = [pooled(column, rows_a_batch, self.smallest) for column in number.unbind(1)]
        party = renumbered(number, parties)
        trained = [p for m in (encoder, predictor) for p in m.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=self.learning_rate)
        like = trained[0]

        def step(k: int) -> dict[str, Tensor]:
            rows = batches(k)
            x, s = table.features[rows].to(like), table.attributes[rows].to(like.device)
            known = (s >= 0).to(like)
            w = torch.ones_like(x[:, 0])
            if table.weights is not None:
                w = table.weights[rows].to(like)
            views = [x, tab_mix(x, table.features.to(like), columns)]
            for a in range(s.shape[1]):
                views.append(generator.counterfactual(x, s, generator.another(s, a)))
            z, mixed, *twins = encoder(torch.cat(views)).split(len(x))
            away = torch.stack([((z - twin) ** 2).mean(1) for twin in twins], 1)
            pairs = w[:, None] * known
            alignment = (away * pairs).sum() / pairs.sum().clamp(min=1e-12)
            directions = F.normalize(torch.randn(z.shape[1], self.projections).to(like), dim=0)
            distribution = to_gaussian(z @ directions, party[rows].to(s.device), w)
            cosine = F.cosine_similarity(predictor(mixed), z.detach(), dim=1)
            distillation = 1 - (cosine * w).sum() / w.sum().clamp(min=1e-12)
            loss = (
                self.alignment * alignment
                + self.distribution * distribution
                + self.distillation * distillation
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            return {
                "loss": loss.detach(),
                "alignment": alignment.detach(),
                "distribution": distribution.detach(),
                "distillation": distillation.detach(),
            }

        run.stage("encoder", self.steps, [optimiser], step)


def to_gaussian(projected: Tensor, party: Tensor, weights: Tensor) -> Tensor:
    """Mean over attributes, parties and directions of W₂² to the standard normal distribution.

    Parameters
    ----------
    projected : Tensor (B, P)
    party : Tensor (B, A) int64, -1 where the attribute is missing.
    weights : Tensor (B,)
    """
    found = []
    for column in party.unbind(1):
        members = [column == g for g in column[column >= 0].unique()]
        own = [w2_to_normal(projected[m], weights[m]) for m in members if int(m.sum()) > 1]
        if own:
            found.append(torch.stack(own).mean())
    return torch.stack(found).mean() if found else projected.new_zeros(())


def w2_to_normal(values: Tensor, weights: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of weighted samples (n, P) to N(0, 1), mean over columns.

    With samples in order, cumulative weights c and q = Φ⁻¹(c), the best coupling gives sample i
    the stretch from q_{i-1} to q_i, so that ``W₂² = Σ w x² - 2 Σ x_(i) (φ(q_{i-1}) - φ(q_i)) + 1``,
    exactly.
    """
    ordered, order = values.sort(0)
    share = (weights / weights.sum().clamp(min=1e-12))[order]
    # The density is 0 at both ends, where the quantile is infinite.
    inner = share.cumsum(0)[:-1].clamp(0, 1)
    density = (-0.5 * torch.special.ndtri(inner) ** 2).exp() / math.sqrt(2 * math.pi)
    edge = density.new_zeros(1, values.shape[1])
    mean = torch.cat([edge, density]) - torch.cat([density, edge])
    return ((share * ordered**2).sum(0) - 2 * (ordered * mean).sum(0) + 1).mean()


def pooled(number: Tensor, rows_a_batch: int, smallest: int) -> Tensor:
    """The party (G,) of every group: its own, or one that pools it with the next larger ones.

    Groups are taken from the smallest on until a batch can be expected to hold `smallest` rows
    of them together.
    """
    counts = number[number >= 0].bincount()
    expected = counts.double() * rows_a_batch / max(1, len(number))
    order = counts.argsort(stable=True)
    party = torch.arange(len(counts))
    if expected[order[0]] < smallest:
        n = int((expected[order].cumsum(0) < smallest).sum()) + 1
        party[order[:n]] = order[0]
    return party


def tab_mix(x: Tensor, others: Tensor, columns: Columns) -> Tensor:
    """Rows (B, D) of which half of the features, drawn by row, are those of a row of `others`."""
    parts: Sequence[tuple[int, int]] = columns.parts()
    swap = torch.rand(len(x), len(parts)) < 0.5
    width = torch.tensor([b - a for a, b in parts])
    swap = swap.repeat_interleave(width, 1).to(x.device)
    return torch.where(swap, others[torch.randint(len(others), (len(x),)).to(x.device)], x)
