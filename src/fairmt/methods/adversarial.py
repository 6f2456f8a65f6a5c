"""Adversarial debiasing: a representation from which nobody can read the group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmt.distributed import joint
from fairmt.groups import Groups
from fairmt.methods.base import Batch, StepMethod, precise
from fairmt.models import LinearHeads, MultiTask
from fairmt.row_losses import observed_tasks
from fairmt.tasks import Layout, Task
from fairmt.truths import truths

NOTIONS = ("demographic_parity", "equalized_odds")


class Adversary(nn.Module):
    """Guesses the group: (B, n_inputs) -> (B, G), log-probabilities within every partition.

    The output layer starts at zero. The guess is then uniform at first, and training is the same
    under any order of the groups.
    """

    def __init__(self, n_inputs: int, groups: Groups, width: int) -> None:
        super().__init__()
        output = nn.Linear(width, groups.n_groups)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.layers = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), output)
        self._sizes = [p.groups.stop - p.groups.start for p in groups.partitions]

    def forward(self, z: Tensor) -> Tensor:
        blocks = self.layers(z).split(self._sizes, 1)
        return torch.cat([F.log_softmax(block, 1) for block in blocks], 1)


class Adversarial(StepMethod):
    """``min_model Σ_t w_t L_t - λ max_adversary A``, A the adversary's advantage over chance.

    The adversary reads the representation z and guesses the group of every attribute. A is the
    mean over attributes of ``log K - CE``, K the groups in the batch and CE the mean over groups
    of the group's mean cross-entropy: every group counts alike, however small (as in Madras et
    al.), and rows without the attribute not at all. One step of the same optimiser moves both
    players, by gradient reversal (Ganin et al. 2016): the adversary descends CE, not λ·CE.

    With ``notion="demographic_parity"`` one adversary reads z from all rows, labelled or not: z
    shall be independent of the group. With ``"equalized_odds"`` every task has an adversary of
    its own, which reads z and the task's labels in the rows that have some: z shall be independent
    of the group given the label. A is then the mean over tasks.

    Parameters
    ----------
    strength : float
        λ, per nat of advantage.
    notion : 'demographic_parity' or 'equalized_odds'
    width : int
        Of the adversary's hidden layer.
    """

    name: ClassVar[str] = "adversarial"
    summary: ClassVar[str] = "an adversary that cannot read the group from the representation"
    claims: ClassVar[tuple[str, ...]] = ("demographic_parity",)
    label_free: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Zhang, Lemoine and Mitchell (AIES 2018); Madras, Creager, Pitassi and Zemel (ICML 2018)"
    )
    limits: ClassVar[str] = (
        "no guarantee: another adversary may still read the group; unsteady at large λ, and weak "
        "where the features tell the group for certain"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        notion: str = "demographic_parity",
        width: int = 64,
    ) -> None:
        if notion not in NOTIONS:
            raise ValueError(f"notion must be one of {list(NOTIONS)}. Found {notion!r}.")
        if width < 1:
            raise ValueError(f"width must be at least 1. Found {width}.")
        self.strength, self.notion, self.width = strength, notion, width
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        n = representation_width(self.model, data)
        conditional = self.notion == "equalized_odds"
        labels = [2 * t.n_outputs for t in self.layout.tasks] if conditional else [0]
        self.adversaries = nn.ModuleList([Adversary(n + k, groups, self.width) for k in labels])
        self.adversaries.to(next(self.model.parameters()))

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        return self.contest(z, batch)

    def contest(self, z: Tensor, batch: Batch) -> Tensor:
        """A; its gradient, times λ, is that of λ·A at z and that of CE at the adversary."""
        assert self.strength
        self.adversaries.to(z.device)
        z = precise(_Reversed.apply(z.flatten(1), self.strength))
        guesses, rows, weights = [z], [torch.ones_like(z[:, :1])], torch.ones_like(z[0, :1])
        if self.notion == "equalized_odds":
            observed, actual = truths(self.layout, batch.labels, z.dtype)
            spans = [self.layout.outputs[t.name] for t in self.layout.tasks]
            guesses = [torch.cat([z, actual[:, s], observed[:, s]], 1) for s in spans]
            rows = list(observed_tasks(self.layout, batch.labels).to(z.dtype).split(1, 1))
            weights = self._task_weights.to(z)
        parts = [
            self._cross_entropy(adversary(guess), own, batch)
            for adversary, guess, own in zip(self.adversaries, guesses, rows, strict=True)
        ]
        ce, chance = (weights @ torch.stack(parts) / weights.sum()).unbind()
        return (chance - ce).detach() + (ce - ce.detach()) / self.strength

    def _cross_entropy(self, log_p: Tensor, rows: Tensor, batch: Batch) -> Tensor:
        """CE over the given rows (B, 1), and that of a uniform guess."""
        member = self.groups.membership(batch.attributes, log_p.dtype)[:, 1:] * rows
        if batch.weights is not None:
            member = member * batch.weights.to(log_p.dtype).unsqueeze(1)
        sums = joint(torch.stack([-(member * log_p).sum(0), member.sum(0)]))
        seen = sums[1] > 0
        means = torch.where(seen, sums[0] / torch.where(seen, sums[1], 1.0), 0.0)
        found = []
        for p in self.groups.partitions:
            n = seen[p.groups].sum().clamp(min=1)
            found.append(torch.stack([means[p.groups].sum() / n, n.to(log_p.dtype).log()]))
        return torch.stack(found).mean(0)

    def parameters(self) -> Iterable[nn.Parameter]:
        return chain(self.model.parameters(), self.adversaries.parameters())


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round and multiplied (Ganin et al. 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient[0], None


def representation_width(model: MultiTask, data: Any = None) -> int:
    """Numbers in a row's representation.

    Raises
    ------
    ValueError
        If neither heads, encoder nor data tell.
    """
    if isinstance(model.heads, LinearHeads):
        return model.heads.in_features
    known = getattr(model.encoder, "n_features", None)
    if isinstance(known, int):
        return known
    if data is None:
        raise ValueError(
            "The width of the representation is not known: give the encoder an attribute "
            "n_features, or pass the training rows to setup."
        )
    was_training = model.training
    model.eval()
    with torch.no_grad():
        width = model.encoder(data.features[:1]).flatten(1).shape[1]
    model.train(was_training)
    return int(width)
