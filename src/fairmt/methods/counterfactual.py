"""Counterfactual rows: who somebody would be, to a generative model, in another group.

A conditional variational autoencoder reads a row and not its attributes, an adversary takes what
its code still tells of them away, and the decoder puts attributes back in: the row's own, or
others. This is generative, not structural: every column that goes with the attribute may move,
whatever causes what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmt.groups import Groups
from fairmt.methods.pretraining import (
    Run,
    StratifiedBatches,
    derived_seed,
    fingerprint,
    numbering,
    renumbered,
)

_LOWEST_SD = 0.1
"""Of a numeric column given its code, in standard deviations; narrower ones would drown others."""


@dataclass(frozen=True)
class Columns:
    """What the columns of encoded rows are, found from their values.

    A run of columns of which exactly one is 1 in every row is one category; other columns of 0
    and 1 are yes or no; the rest are numbers.

    Attributes
    ----------
    numeric, binary : positions.
    blocks : first and past-the-last position of every category.
    """

    numeric: tuple[int, ...]
    binary: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]

    @staticmethod
    def of(features: Tensor) -> Columns:
        """The columns of features (N, D)."""
        yes_or_no = ((features == 0) | (features == 1)).all(0).tolist()
        numeric, binary, blocks = [], [], []
        at, d = 0, features.shape[1]
        while at < d:
            if not yes_or_no[at]:
                numeric.append(at)
                at += 1
                continue
            stop = _one_hot_until(features, yes_or_no, at)
            if stop:
                blocks.append((at, stop))
            else:
                binary.append(at)
            at = stop or at + 1
        return Columns(tuple(numeric), tuple(binary), tuple(blocks))

    def parts(self) -> list[tuple[int, int]]:
        """All features in order, as first and past-the-last position."""
        single = [(c, c + 1) for c in (*self.numeric, *self.binary)]
        return sorted([*single, *self.blocks])


def _one_hot_until(features: Tensor, yes_or_no: Sequence[bool], start: int) -> int | None:
    """Where the one-hot columns that begin at `start` end; None if none do."""
    total = torch.zeros_like(features[:, 0])
    for at in range(start, features.shape[1]):
        if not yes_or_no[at]:
            return None
        total = total + features[:, at]
        if total.max() > 1:
            return None
        if total.min() == 1:
            return at + 1
    return None


class Decoded(NamedTuple):
    """Distributions of a row's columns: means of numbers (B, Dn), log-odds of yes (B, Db), and
    log-probabilities of categories (B, Dc), side by side."""

    means: Tensor
    log_odds: Tensor
    log_shares: Tensor


class CounterfactualGenerator(nn.Module):
    """Rows under other attributes (DualFair's first stage; Han et al., 2023, section 3).

    ``q(z | x) = N(μ(x), σ(x)²)`` and ``p(x | z, s)``, trained by

        E[-log p(x | z, s)] + KL(q ‖ N(0, I)) + cycle + w Σ_a E KL(adversary_a(z) ‖ shares of a)

    where *cycle* is ``-log p(x | z', s)`` with z' the code of the row's counterfactual, and each
    adversary is trained by its cross-entropy to tell the groups of an attribute from z.

    Ours: the adversary is a network per attribute over all its groups (that of the released code
    has a constant target where there are two); its beliefs are drawn towards the groups' shares,
    because raising its loss teaches the code to mislead it; yes or no columns are Bernoulli, and
    categories come whole; counterfactuals keep what the reconstruction does not explain
    (`counterfactual`). Groups are numbered as rows show them: names and order play no part.

    Parameters
    ----------
    numbers, seen : of every attribute its `numbering`, and how many groups have rows.
    latent, width : sizes of the code and of hidden layers.
    adversary : w.
    """

    _numeric: Tensor
    _binary: Tensor
    _category: Tensor
    _owner: Tensor

    def __init__(
        self,
        columns: Columns,
        numbers: Sequence[Tensor],
        seen: Sequence[int],
        *,
        latent: int = 16,
        width: int = 64,
        adversary: float = 10.0,
    ) -> None:
        super().__init__()
        self.columns, self.weight, self.latent = columns, adversary, latent
        self._sizes = [len(n) for n in numbers]
        self._numbers, self._seen = list(numbers), list(seen)
        block_columns = [c for a, b in columns.blocks for c in range(a, b)]
        owner = [k for k, (a, b) in enumerate(columns.blocks) for _ in range(a, b)]
        for name, value in {
            "numeric": columns.numeric,
            "binary": columns.binary,
            "category": block_columns,
            "owner": owner,
        }.items():
            self.register_buffer(f"_{name}", torch.tensor(value, dtype=torch.int64), False)
        d = len(columns.numeric) + len(columns.binary) + len(block_columns)
        self.encoder = _mlp(d, width, 2 * latent)
        self.decoder = _mlp(latent + sum(self._sizes), width, d)
        self.log_sd = nn.Parameter(torch.zeros(len(columns.numeric)))
        self.adversaries = nn.ModuleList(_mlp(latent, width, n) for n in self._sizes)

    # -- parts ------------------------------------------------------------------------------

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, (B, latent) each."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance.clamp(-8, 8)

    def decode(self, z: Tensor, attributes: Tensor) -> Decoded:
        """What rows with codes z are like under attributes (B, A)."""
        out = self.decoder(torch.cat([z, self._hot(attributes, z.dtype)], 1))
        sizes = [len(self._numeric), len(self._binary), len(self._category)]
        means, log_odds, logits = out.split_with_sizes(sizes, 1)
        return Decoded(means, log_odds, self._log_softmax(logits))

    def rows(self, decoded: Decoded, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Encoded rows (B, D): mean numbers, and the most probable answers and categories.

        Parameters
        ----------
        noise : logistic (B, Db) and Gumbel (B, Dc), optional
            Makes the answers draws; the same noise under other attributes makes paired draws.
        """
        log_odds, log_shares = decoded.log_odds, decoded.log_shares
        if noise is not None:
            log_odds, log_shares = log_odds + noise[0], log_shares + noise[1]
        return self._joined(decoded.means, (log_odds > 0).to(log_odds), self._top(log_shares))

    def noise(self, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Noise for `rows`, on the device and in the precision of another tensor."""
        yes = torch.rand(n, len(self._binary)).clamp(1e-6, 1 - 1e-6).to(like)
        return yes.logit(), gumbel(n, len(self._category)).to(like)

    @torch.no_grad()
    def counterfactual(self, x: Tensor, attributes: Tensor, other: Tensor) -> Tensor:
        """The rows (B, D) with attributes `other` in place of `attributes`, (B, A) each.

        Numbers move by the difference of the two decoded means; a category or answer changes no
        more often than it must for its distribution to become the other one (a maximal
        coupling). Under unchanged attributes a row is itself, however poor its reconstruction.
        """
        mean, log_variance = self.code(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        before, after = self.decode(z, attributes), self.decode(z, other)
        numbers = x[:, self._numeric] + after.means - before.means
        answer = x[:, self._binary]
        sign = 2 * answer - 1
        old, new = (sign * d.log_odds for d in (before, after))
        stays = torch.rand_like(answer) <= (F.logsigmoid(new) - F.logsigmoid(old)).exp()
        answer = torch.where(stays, answer, 1 - answer)
        category = x[:, self._category]
        p, q = before.log_shares.exp(), after.log_shares.exp()
        kept = self._per_block(category * q) / self._per_block(category * p).clamp(min=1e-30)
        moves = torch.rand_like(kept) > kept
        gained = (q - p).clamp(min=0.0).log() + gumbel(*q.shape).to(q)
        moved = torch.where(moves[:, self._owner], self._top(gained), category)
        return self._joined(numbers, answer, moved)

    def another(self, attributes: Tensor, attribute: int, offset: Tensor | None = None) -> Tensor:
        """Attributes (B, A) with one of them changed to another group; missing stays missing.

        Parameters
        ----------
        offset : Tensor (B,), optional
            Which other group, from 1 to `n_groups` less one; drawn if not given.
        """
        n, number = self._seen[attribute], self._numbers[attribute].to(attributes.device)
        column = attributes[:, attribute]
        if offset is None:
            offset = torch.randint(1, n, column.shape).to(column.device)
        moved = number.argsort()[(number[column.clamp(min=0)] + offset) % n]
        changed = attributes.clone()
        changed[:, attribute] = torch.where(column >= 0, moved, -1)
        return changed

    def n_groups(self, attribute: int) -> int:
        """Groups that training rows showed."""
        return self._seen[attribute]

    def numbered(self, attributes: Tensor) -> Tensor:
        """Codes (B, A) in the generator's own numbers."""
        return renumbered(attributes, self._numbers)

    # -- training ---------------------------------------------------------------------------

    def train_in(self, run: Run, table: Any, batches: StratifiedBatches, steps: int) -> None:
        """Train on a table's features and attributes, as the stage 'generator' of a run."""
        own = [p for n, p in self.named_parameters() if not n.startswith("adversaries")]
        optimiser = torch.optim.Adam(own, lr=2e-3)
        opponent = torch.optim.Adam(self.adversaries.parameters(), lr=2e-3)
        device = self.log_sd.device
        number = self.numbered(table.attributes)
        prior = [
            torch.bincount(column[column >= 0], minlength=n).to(self.log_sd)
            for column, n in zip(number.unbind(1), self._sizes, strict=True)
        ]

        def step(k: int) -> dict[str, Tensor]:
            rows = batches(k)
            x, s = table.features[rows].to(device), table.attributes[rows].to(device)
            w = None if table.weights is None else table.weights[rows].to(device)
            s_number = number[rows].to(device)
            mean, log_variance = self.code(x)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            opponent.zero_grad(set_to_none=True)
            guess = self._guess(z.detach(), s_number, w)
            torch.stack(guess).sum().backward()
            opponent.step()
            decoded = self.decode(z, s)
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
            loss = self._mean(self._unlikely(decoded, x) + kl + self._cycle(x, z, s), w)
            knows = self._informed(z, s_number, prior, w)
            total = loss + self.weight * knows
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            optimiser.step()
            return {"loss": total.detach()}

        run.stage("generator", steps, [optimiser, opponent], step)

    def _cycle(self, x: Tensor, z: Tensor, s: Tensor) -> Tensor:
        """-log p of the row after a flip of one attribute there and back, (B,)."""
        attribute = int(torch.randint(len(self._sizes), ()))
        there = self.decode(z, self.another(s, attribute))
        soft = self._joined(there.means, there.log_odds.sigmoid(), there.log_shares.exp())
        return self._unlikely(self.decode(self.code(soft)[0], s), x)

    def _unlikely(self, decoded: Decoded, x: Tensor) -> Tensor:
        """-log p(x), (B,)."""
        log_sd = self.log_sd.clamp(math.log(_LOWEST_SD), 0.0)
        away = (x[:, self._numeric] - decoded.means) / log_sd.exp()
        numbers = (0.5 * away**2 + log_sd).sum(1)
        answers = F.binary_cross_entropy_with_logits(
            decoded.log_odds, x[:, self._binary], reduction="none"
        ).sum(1)
        return numbers + answers - (x[:, self._category] * decoded.log_shares).sum(1)

    def _guess(self, z: Tensor, number: Tensor, w: Tensor | None) -> list[Tensor]:
        """The adversaries' cross-entropies."""
        return [
            self._mean(
                F.cross_entropy(adversary(z), column.clamp(min=0), reduction="none"),
                (column >= 0).to(z) if w is None else (column >= 0) * w,
            )
            for adversary, column in zip(self.adversaries, number.unbind(1), strict=True)
        ]

    def _informed(
        self, z: Tensor, number: Tensor, prior: Sequence[Tensor], w: Tensor | None
    ) -> Tensor:
        """How far the adversaries' beliefs are from what the groups' shares alone say."""
        total = z.new_zeros(())
        for adversary, column, counts in zip(
            self.adversaries, number.unbind(1), prior, strict=True
        ):
            belief = adversary(z).log_softmax(1)
            shares = (counts / counts.sum()).clamp(min=1e-6).log()
            divergence = (belief.exp() * (belief - shares)).sum(1)
            known = (column >= 0).to(z)
            total = total + self._mean(divergence, known if w is None else known * w)
        return total

    @staticmethod
    def _mean(values: Tensor, w: Tensor | None) -> Tensor:
        return values.mean() if w is None else (values * w).sum() / w.sum().clamp(min=1e-12)

    # -- columns ----------------------------------------------------------------------------

    def _hot(self, attributes: Tensor, dtype: torch.dtype) -> Tensor:
        """Groups as columns of 0 and 1, (B, ΣG); a missing attribute is all 0."""
        number = self.numbered(attributes)
        return torch.cat(
            [
                (column[:, None] == torch.arange(n, device=column.device)).to(dtype)
                for column, n in zip(number.unbind(1), self._sizes, strict=True)
            ],
            1,
        )

    def _joined(self, numbers: Tensor, answers: Tensor, categories: Tensor) -> Tensor:
        """Columns in the table's order, (B, D)."""
        place = torch.cat([self._numeric, self._binary, self._category]).argsort()
        return torch.cat([numbers, answers, categories], 1)[:, place]

    def _per_block(self, values: Tensor) -> Tensor:
        """Sums (B, blocks) over each category's columns."""
        total = values.new_zeros(len(values), len(self.columns.blocks))
        return total.index_add(1, self._owner, values)

    def _highest(self, values: Tensor) -> Tensor:
        """Maxima (B, blocks) over each category's columns."""
        lowest = values.new_full((len(values), len(self.columns.blocks)), -torch.inf)
        return lowest.scatter_reduce(1, self._owner.expand_as(values), values, "amax")

    def _log_softmax(self, logits: Tensor) -> Tensor:
        away = logits - self._highest(logits.detach())[:, self._owner]
        return away - self._per_block(away.exp()).log()[:, self._owner]

    def _top(self, values: Tensor) -> Tensor:
        """1 at the highest value of each category, 0 elsewhere."""
        return (values == self._highest(values)[:, self._owner]).to(values)


def fit_generator(
    table: Any,
    groups: Groups,
    *,
    steps: int = 1500,
    batch_size: int = 256,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **sizes: Any,
) -> CounterfactualGenerator:
    """A generator trained on the rows of a TensorTable; labels are not read.

    Parameters
    ----------
    sizes : latent, width and adversary of `CounterfactualGenerator`.
    """
    generator = new_generator(table, groups, seed=seed, **sizes)
    settings = {"steps": steps, "batch_size": batch_size, **sizes}
    run = Run(
        {"generator": generator},
        fingerprint("generator", settings, table, groups),
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    batches = StratifiedBatches(generator.numbered(table.attributes), batch_size, seed)
    generator.train_in(run, table, batches, steps)
    return generator


def new_generator(
    table: Any, groups: Groups, *, seed: int = 0, **sizes: Any
) -> CounterfactualGenerator:
    """An untrained generator for the rows of a TensorTable.

    Raises
    ------
    ValueError
        If features are missing or infinite.
    """
    if not bool(torch.isfinite(table.features).all()):
        bad = (~torch.isfinite(table.features)).any(0).nonzero().flatten().tolist()
        raise ValueError(
            f"Features {bad[:5]} hold NaN or infinite values, of which there are no "
            "counterfactuals; impute them, with a column that flags them."
        )
    numbers = [
        numbering(column, len(attribute.categories))
        for column, attribute in zip(table.attributes.unbind(1), groups.attributes, strict=True)
    ]
    seen = [len(column[column >= 0].unique()) for column in table.attributes.unbind(1)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "generator weights", 0))
        return CounterfactualGenerator(Columns.of(table.features), numbers, seen, **sizes)


def gumbel(*shape: int) -> Tensor:
    """Standard Gumbel noise: the largest of log-probabilities plus this is a draw."""
    return -torch.empty(shape).exponential_().clamp(min=1e-30).log()


def _mlp(n_in: int, width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, n_out),
    )  # fmt: skip
