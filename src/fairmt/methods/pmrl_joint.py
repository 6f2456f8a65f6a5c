"""PMRL's alignment as a joint loss in front of the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.groups import Groups
from fairmt.methods.base import Batch, StepMethod
from fairmt.methods.pmrl import Objective, cells
from fairmt.models import MultiTask
from fairmt.models.blocks import BlockEncoder
from fairmt.tasks import Layout, Task


class PMRLJoint(StepMethod):
    """``Σ_t w_t L_t + λ (a · dominance + b · partner + c · parity)`` on a `BlockEncoder`.

    The terms are those of `fairmt.methods.pmrl.PMRL`, on the shared parts of the batch's rows,
    labelled or not; the heads read shared and private parts. Without a reconstruction, because
    the tasks train the private parts. Over several processes every process has its own negatives.

    Parameters
    ----------
    strength : float
        λ; small values (.05 to .3) once the encoder was pre-trained.
    dominance, partner, parity : float
        a, b and c.
    temperature : float
    """

    name: ClassVar[str] = "pmrl_joint"
    summary: ClassVar[str] = "PMRL's alignment of blocks as a joint loss"
    label_free: ClassVar[bool] = True
    limits: ClassVar[str] = "needs a BlockEncoder; evens out how well groups' blocks agree"
    source: ClassVar[str] = "Liu et al. (TPAMI 2026), arXiv 2507.17343"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 0.1,
        dominance: float = 1.0,
        partner: float = 1.0,
        parity: float = 1.0,
        temperature: float = 0.1,
    ) -> None:
        self.strength = strength
        self._objective = Objective(dominance, partner, parity, temperature)
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        if not isinstance(model.encoder, BlockEncoder):
            raise ValueError(
                f"Method '{self.name}' needs a BlockEncoder, which fairmt.models.blocks offers or "
                f"method 'pmrl' trains. Found {type(model.encoder).__name__}."
            )
        super().setup(model, groups, data)

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        encoder = self.model.encoder
        assert isinstance(encoder, BlockEncoder)
        with torch.autocast(z.device.type, enabled=False):
            parts = z.float() if z.dtype != torch.float64 else z
            shared = parts.view(len(z), len(encoder.blocks), -1)[:, :, : encoder.n_shared]
            present = encoder.present(batch.features)
            return self._objective(shared, present, batch.attributes, cells(batch.attributes))
