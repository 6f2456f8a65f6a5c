"""PMRL: blocks of features aligned by the dominant singular value, for all groups alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmt.groups import Groups
from fairmt.methods.pretraining import (
    PreTraining,
    Run,
    StratifiedBatches,
    derived_seed,
    fingerprint,
    numbering,
    renumbered,
)
from fairmt.models.blocks import Block, BlockEncoder, BlockLike, as_blocks, checked

_LEAST = 8
"""Rows of a group in a batch from which its alignment is compared."""
_CANDIDATES = 512
"""Rows among which a row's own counterpart is looked for, in the report."""

if TYPE_CHECKING:
    import pandas as pd


def singular_values(z: Tensor) -> Tensor:
    """Of every row's matrix of embeddings (B, K, d): (B, K), the largest first.

    They are the roots of the eigenvalues of the K × K Gram matrix, which costs a small fraction
    of a decomposition of the K × d matrix. A missing block is a row of zeros, and adds a value 0.
    """
    gram = z @ z.transpose(1, 2)
    values = torch.linalg.eigvalsh(gram.double() if gram.dtype == torch.float64 else gram.float())
    # The root has no derivative at 0.
    return values.clamp(min=1e-8).sqrt().flip(1)


def alignment(s: Tensor, present: Tensor) -> Tensor:
    """``(s_1² / K - 1/K) / (1 - 1/K)`` of every row, (B,): 0 orthogonal blocks, 1 parallel ones.

    K counts the blocks that the row has; NaN with fewer than two.
    """
    k = present.sum(1).to(s)
    return torch.where(k >= 2, (s[:, 0] ** 2 - 1) / (k - 1).clamp(min=1), torch.nan)


def dominance_loss(s: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Mean of ``-log softmax(s / τ)_1`` over rows with two blocks or more."""
    k = present.sum(1, keepdim=True)
    absent = torch.arange(s.shape[1], device=s.device) >= k
    log_share = (s / temperature).masked_fill(absent, -torch.inf).log_softmax(1)[:, 0]
    usable = (k[:, 0] >= 2).to(s)
    return -(torch.where(usable > 0, log_share, 0.0)).sum() / usable.sum().clamp(min=1)


def partner_loss(z: Tensor, present: Tensor, temperature: float, cell: Tensor) -> Tensor:
    """Each block against the mean of the row's other blocks, by InfoNCE.

    Half of it looks for the partner among all rows, half among those of the same cell of
    attributes, where being of a group tells nothing. Unlike singular values it sees signs.

    Parameters
    ----------
    z : Tensor (B, K, d), unit rows, 0 where missing.
    cell : Tensor (B,) int64
    """
    usable = present & (present.sum(1, keepdim=True) >= 2)
    others = F.normalize(z.sum(1, keepdim=True) - z, dim=2)
    logits = torch.einsum("ikd,jkd->kij", z, others) / temperature
    both = usable.T[:, :, None] & usable.T[:, None]
    right = logits.diagonal(dim1=1, dim2=2)
    total = logits.new_zeros(())
    for allowed in (both, both & (cell[:, None] == cell)):
        # The pair itself stays, so that rows without the block give finite numbers to leave out.
        barred = ~(allowed | torch.eye(len(z), dtype=torch.bool, device=z.device))
        masked = logits.masked_fill(barred, -torch.inf)
        for dim in (1, 2):
            total = total + 0.25 * ((masked.logsumexp(dim) - right) * usable.T).sum()
    return total / usable.sum().clamp(min=1)


def parity_loss(aligned: Tensor, codes: Tensor) -> Tensor:
    """How far groups' mean alignments stay behind the best aligned group's, squared.

    Mean over attributes and groups; the best group's value is held fixed, so that it is not
    pulled down.

    Parameters
    ----------
    aligned : Tensor (B,), NaN where a row has fewer than two blocks.
    codes : Tensor (B, A), -1 where missing.
    """
    known = ~aligned.isnan()
    values = torch.where(known, aligned, 0.0)
    found = []
    for column in codes.unbind(1):
        means = []
        for g in column[column >= 0].unique():
            own = (known & (column == g)).to(values)
            if own.sum() >= _LEAST:
                means.append((values * own).sum() / own.sum())
        if len(means) > 1:
            levels = torch.stack(means)
            found.append(((levels.detach().max() - levels).clamp(min=0) ** 2).mean())
    return torch.stack(found).mean() if found else values.sum() * 0.0


class Objective:
    """The three terms on the shared parts; see `PMRL`."""

    def __init__(self, dominance: float, partner: float, parity: float, temperature: float) -> None:
        self.dominance, self.partner, self.parity = dominance, partner, parity
        self.temperature = temperature

    def __call__(self, shared: Tensor, present: Tensor, codes: Tensor, cell: Tensor) -> Tensor:
        z = units(shared, present)
        s = singular_values(z)
        total = self.dominance * dominance_loss(s, present, self.temperature)
        total = total + self.partner * partner_loss(z, present, self.temperature, cell)
        return total + self.parity * parity_loss(alignment(s, present), codes)


def units(shared: Tensor, present: Tensor) -> Tensor:
    """Unit embeddings (B, K, d), 0 where the block is missing."""
    return F.normalize(shared, dim=2) * present[:, :, None]


class PMRL(PreTraining):
    """Blocks of one row point the same way, in their shared parts (Liu et al., 2025).

        a · mean_i -log softmax(s_i / τ)_1 + b · partner + c · parity + e · reconstruction

    where s_i are the singular values of row i's K × d matrix of unit embeddings, K its blocks: all
    of them parallel means s_1 = √K and the others 0.

    Ours: singular values ignore signs, so that -z counts as aligned with z; the *partner* term
    (`partner_loss`) sees them and brings negatives from other rows, in place of the paper's term
    on the joint vector, which compares a row with itself. Blocks may be missing row by row.
    *Parity* lifts the groups whose blocks agree less (`parity_loss`). Each block has a private
    part, which is not aligned; *reconstruction*, the squared error of a linear map from a block's
    two parts to its columns, keeps what is in them. The encoder is a `BlockEncoder`; of the given
    one only `n_inputs` is used.

    Parameters
    ----------
    blocks : mapping from name to `fairmt.models.blocks.Block` or positions of input columns; two
        or more, and every column in one. `schema_blocks` finds them by the table's column names.
    dominance, partner, parity, reconstruction : float
        a, b, c and e.
    temperature : float
        τ.
    shared, private : int
        Widths of a block's parts.
    steps : int
        Batches seen.
    """

    name: ClassVar[str] = "pmrl"
    summary: ClassVar[str] = "aligns blocks of features by their dominant singular value"
    limits: ClassVar[str] = (
        "needs two blocks of features; evens out how well groups' blocks agree, not rates"
    )
    source: ClassVar[str] = "Liu et al. (TPAMI 2026), arXiv 2507.17343"

    def __init__(
        self,
        blocks: Mapping[str, BlockLike] | None = None,
        *,
        dominance: float = 1.0,
        partner: float = 1.0,
        parity: float = 1.0,
        reconstruction: float = 1.0,
        temperature: float = 0.1,
        shared: int = 16,
        private: int = 8,
        widths: Sequence[int] = (64,),
        steps: int = 600,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive. Found {temperature}.")
        blocks = blocks or {}
        if len(blocks) < 2:
            raise ValueError(
                f"Method 'pmrl' aligns blocks of features with each other and needs two or more. "
                f"Found {list(blocks) or 'none'}: name them in blocks={{...}}. Methods that need "
                "none: ['dualfair']."
            )
        self.blocks = as_blocks(blocks)
        self.dominance, self.partner, self.parity = dominance, partner, parity
        self.reconstruction, self.temperature = reconstruction, temperature
        self.shared, self.private, self.widths = shared, private, tuple(widths)
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate

    def settings(self) -> dict[str, Any]:
        own = dict(vars(self)) | {"widths": list(self.widths)}
        own["blocks"] = {
            n: {k: list(v) for k, v in asdict(b).items()} for n, b in self.blocks.items()
        }
        return own

    def objective(self) -> Objective:
        """The terms on the shared parts."""
        return Objective(self.dominance, self.partner, self.parity, self.temperature)

    def network(self, encoder: nn.Module) -> BlockEncoder:
        n_inputs = getattr(encoder, "n_inputs", None)
        if n_inputs is None:
            raise ValueError("The encoder must say how many columns it takes, in 'n_inputs'.")
        return BlockEncoder(
            self.blocks,
            n_inputs,
            shared=self.shared,
            private=self.private,
            widths=self.widths,
        )

    def fit(
        self,
        encoder: nn.Module,
        table: Any,
        groups: Groups,
        *,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> BlockEncoder:
        self.check_rows(encoder, table, groups)
        refuse_fragments(table.features, checked(self.blocks, table.features.shape[1]))
        like = next(encoder.parameters(), table.features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "block weights", 0))
            own = self.network(encoder).to(like)
            decoders = nn.ModuleList(
                nn.Linear(self.shared + self.private, len(block.columns))
                for block in own.blocks.values()
            ).to(like)
        run = Run(
            {"encoder": own, "decoders": decoders},
            fingerprint(self.name, self.settings(), table, groups),
            seed=seed,
            checkpoint=checkpoint,
            progress=progress,
        )
        numbers = [
            numbering(column, len(attribute.categories))
            for column, attribute in zip(table.attributes.unbind(1), groups.attributes, strict=True)
        ]
        codes = renumbered(table.attributes, numbers)
        batches = StratifiedBatches(codes, self.batch_size, seed)
        objective = self.objective()
        optimiser = torch.optim.Adam(
            [*own.parameters(), *decoders.parameters()], lr=self.learning_rate
        )

        def step(k: int) -> dict[str, Tensor]:
            rows = batches(k)
            x = table.features[rows].to(like)
            parts = own.parts(x)
            s = codes[rows].to(like.device)
            loss = objective(parts.shared, parts.present, s, cells(s))
            loss = loss + self.reconstruction * _lost(own, decoders, x, parts)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            return {"loss": loss.detach()}

        run.stage("alignment", self.steps, [optimiser], step)
        return own


def _lost(encoder: BlockEncoder, decoders: nn.ModuleList, x: Tensor, parts: Any) -> Tensor:
    """Mean squared error of columns reconstructed from their block's parts, over present blocks."""
    both = torch.cat([parts.shared, parts.private], 2)
    total, n = x.new_zeros(()), x.new_zeros(())
    for k, decoder in enumerate(decoders):
        there = parts.present[:, k, None]
        target = torch.where(there, x[:, encoder.columns(k)], 0.0)
        total = total + ((decoder(both[:, k]) - target) ** 2 * there).sum()
        n = n + there.sum() * target.shape[1]
    return total / n.clamp(min=1)


def cells(codes: Tensor) -> Tensor:
    """The cell (B,) of every row of codes (B, A)."""
    return codes.unique(dim=0, return_inverse=True)[1]


def refuse_fragments(features: Tensor, blocks: Mapping[str, Block]) -> None:
    """Raise ValueError, naming the block, if a row has some of its columns NaN and others not."""
    for name, block in blocks.items():
        missing = features[:, list(block.columns)].isnan()
        partly = missing.any(1) & ~missing.all(1)
        if bool(partly.any()):
            row = int(partly.nonzero()[0])
            raise ValueError(
                f"Block '{name}' is NaN in some of its columns in row {row}; expected all or none. "
                "Impute single values, with a column that flags them."
            )


@torch.no_grad()
def alignment_parity(encoder: BlockEncoder, table: Any, groups: Groups) -> pd.DataFrame:
    """How well the blocks of every group's rows agree.

    Returns
    -------
    DataFrame
        A row per group, and one for everybody (attribute and group empty): n, the rows with two
        blocks or more; `alignment`, 0 to 1, without signs; `cosine`, the mean between a block and
        the mean of the others; `retrieval`, the share of blocks that are nearer to the mean of
        their own row's other blocks than to that of any of 511 other rows.
    """
    import pandas as pd

    parts = encoder.parts(table.features)
    z = units(parts.shared, parts.present)
    aligned = alignment(singular_values(z), parts.present)
    usable = parts.present & (parts.present.sum(1, keepdim=True) >= 2)
    others = F.normalize(z.sum(1, keepdim=True) - z, dim=2)
    cosine = _mean_over_blocks((z * others).sum(2), usable)
    found = torch.zeros_like(usable)
    for start in range(0, len(z), _CANDIDATES):
        rows = slice(start, start + _CANDIDATES)
        similar = torch.einsum("ikd,jkd->kij", z[rows], others[rows])
        similar = similar.masked_fill(~usable[rows].T[:, None], -torch.inf)
        hit = similar.argmax(2) == torch.arange(similar.shape[1])
        found[rows] = hit.T
    retrieval = _mean_over_blocks(found.to(z), usable)
    figures = {"alignment": aligned, "cosine": cosine, "retrieval": retrieval}
    columns = {k: v.double().numpy() for k, v in figures.items()}
    member = groups.membership(table.attributes)[:, 1:].bool().numpy()
    rows_of: list[tuple[str, str, Any]] = [("", "", np.ones(len(z), bool))]
    for partition in groups.partitions:
        for g in range(partition.groups.start, partition.groups.stop):
            rows_of.append((partition.name, groups.names[g], member[:, g]))
    known = ~np.isnan(columns["alignment"])
    frame = []
    for attribute, group, chosen in rows_of:
        chosen = chosen & known
        means = {k: v[chosen].mean() if chosen.any() else np.nan for k, v in columns.items()}
        frame.append({"attribute": attribute, "group": group, "n": int(chosen.sum()), **means})
    return pd.DataFrame(frame)


def _mean_over_blocks(values: Tensor, usable: Tensor) -> Tensor:
    n = usable.sum(1)
    return torch.where(n > 0, (values * usable).sum(1) / n.clamp(min=1), torch.nan)
