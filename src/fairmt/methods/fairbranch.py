"""FairBranch: similar tasks share branches, and fairness gradients in a branch do not fight."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.distributed import all_sum, average_gradients, world_size
from fairmt.groups import Groups
from fairmt.label_cells import LabelCells, extremes, group_means
from fairmt.methods.base import Batch, Log, StepMethod, precise
from fairmt.models import MultiTask, TaskHeads
from fairmt.models.branched import BranchedMLP, branched
from fairmt.tasks import Layout, Task


class FairBranch(StepMethod):
    """``Σ_t w_t (L_t + λ g_t F_t)`` on a network that grows a tree from the heads downwards.

    - *Group loss* ``F_t = mean_a mean_y max_g E[loss_t | Y = y, group g of a]``: of every class (of
      every label: present and absent) the loss of the group that fares worst.
    - *Gate* ``g_t``: 0 in batches where the gradients of L_t and F_t on the task's own head point
      apart, else 1.
    - *Branching*: every `branch_every` steps with λ > 0 the next layer, from the top, gets a copy
      per pair of similar branches; similar is a linear CKA of their weights of at least
      `threshold`. Two such branches pair if each is the other's nearest, again and again until
      none is left; the rest stay alone. The first layer always stays shared.
    - *FBGrad*: in a split layer, tasks on one branch whose gradients of F point apart are
      projected onto each other's normal plane; gradients of L are left alone.

    Ours: the mean over classes, labels and attributes where the paper sums over two classes (its
    λ = 1 is our λ = 2); any number of groups, classes and attributes; λ as a strength (0 is plain
    training of the shared network); the gate acts on the batch it was measured on; FBGrad on the
    branch's own weights and biases as one vector, task by task; branching by a count of steps
    (the paper: at convergence); the optimiser's state is kept. Released code differs from the
    paper in most of these points, and indexes groups wrongly.

    With λ > 0 the encoder is traversed backwards once per task on shared branches.

    Parameters
    ----------
    strength : float
        λ.
    branch_every : int
        Steps with λ > 0 from one split to the next.
    threshold : float in [0, 1]
        τ, the smallest similarity at which branches stay together.

    Attributes
    ----------
    level : the layer that is split next, counted from 0; none is left at 0.
    """

    name: ClassVar[str] = "fairbranch"
    summary: ClassVar[str] = "similar tasks share branches; worst-group losses that do not conflict"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "detection")
    claims: ClassVar[tuple[str, ...]] = ("equalized_odds",)
    source: ClassVar[str] = "Roy, Koutlis, Papadopoulos and Ntoutsi (IJCNN 2024), arXiv 2310.13746"
    limits: ClassVar[str] = (
        "MLP encoders with linear heads only; evens out losses of the worst group, not rates"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        branch_every: int = 100,
        threshold: float = 0.7,
    ) -> None:
        if branch_every < 1:
            raise ValueError(f"branch_every must be at least 1. Found {branch_every}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1]. Found {threshold}.")
        self.strength, self.branch_every, self.threshold = strength, branch_every, threshold
        super().__init__(encoder, heads, tasks, groups)

    @staticmethod
    def adapt(model: MultiTask) -> MultiTask:
        return branched(model)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        assert isinstance(self.model.encoder, BranchedMLP)
        self.encoder = self.model.encoder
        heads = self.model.heads
        assert isinstance(heads, TaskHeads)
        by_name: dict[str, Any] = dict(zip(heads.names, heads.heads, strict=True))
        self._heads: list[nn.Linear] = [by_name[t.name].head for t in self.layout.tasks]
        self.steps, self.level = 0, len(self.encoder.weights) - 1
        if self.level == 0:
            warnings.warn(
                "An MLP of one layer has nothing to branch, because the first layer always stays "
                "shared. Give widths for two layers or more.",
                stacklevel=2,
            )
        self._cells = LabelCells(self.layout)
        self._owner = self._cells.owner
        self._n_cells = torch.bincount(self._owner, minlength=len(self.layout.tasks)).clamp(min=1)

    # -- one step ---------------------------------------------------------------------------

    def step(self, batch: Mapping[str, Any], scale: float = 1.0) -> Log:
        if not self.strength:
            log = super().step(batch, scale)
            self.encoder.tie()
            return log
        self._grow()
        b = self.unpack(batch)
        outputs = precise(self.model(b.features))
        losses = self.task_losses(outputs, b)
        weights = self._task_weights.to(losses.device)
        group_losses = self.group_losses(outputs, b) * weights
        gate = self._gate(losses, group_losses)
        fair = self.strength * gate * group_losses
        corrections = self._corrections(fair)
        ((losses + fair).sum() * scale).backward()
        average_gradients(self.parameters())
        for parameter, slot, correction in corrections:
            assert parameter.grad is not None
            parameter.grad[slot] += scale * correction
        self.encoder.tie()
        return {
            "loss": losses.detach().sum(),
            "penalty": (gate * group_losses).detach().sum(),
            "strength": self.strength,
            "branches": float(sum(len(set(row)) for row in self.encoder.tree.tolist())),
        }

    def group_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """F (T,), without task weights; 0 for regression and for tasks without labels."""
        losses, cells = self._cells.losses(outputs, batch.labels)
        group = self.groups.membership(batch.attributes, outputs.dtype)[:, 1:]
        if batch.weights is not None:
            group = group * batch.weights.to(outputs.dtype).unsqueeze(1)
        means, known = group_means(losses, cells, group)
        worst = extremes(means, known, self.groups)[0].sum(0)
        owner, n_cells = self._owner.to(worst.device), self._n_cells.to(worst.device)
        sums = worst.new_zeros(len(n_cells)).index_add(0, owner, worst)
        return sums / (n_cells * len(self.groups.partitions))

    def _gate(self, losses: Tensor, group_losses: Tensor) -> Tensor:
        """(T,): 0 where the two gradients on the task's own head point apart, else 1."""
        parameters = [p for head in self._heads for p in head.parameters()]
        plain, fair = (
            torch.autograd.grad(x.sum(), parameters, retain_graph=True, materialize_grads=True)
            for x in (losses, group_losses)
        )
        products = [(all_sum(a) * all_sum(b)).sum() for a, b in zip(plain, fair, strict=True)]
        by_head = torch.stack(products).view(len(self._heads), -1).sum(1)
        return (by_head >= 0).to(losses.dtype)

    def _corrections(self, fair: Tensor) -> list[tuple[nn.Parameter, int, Tensor]]:
        """FBGrad: what to add to the gradient of a parameter's slot, branch by branch."""
        bearing = set(self._owner.tolist())
        crowded = [
            (layer, shared)
            for layer in range(len(self.encoder.weights))
            if len(branches := self.encoder.branches(layer)) > 1
            for branch in branches
            if len(shared := [t for t in branch if t in bearing]) > 1
        ]
        if not crowded:
            return []
        layers = sorted({layer for layer, _ in crowded})
        parameters = [p for l in layers for p in (self.encoder.weights[l], self.encoder.biases[l])]
        gradients = {
            task: torch.autograd.grad(fair[task], parameters, retain_graph=True)
            for task in sorted({task for _, shared in crowded for task in shared})
        }
        found = []
        for layer, shared in crowded:
            slot, at = int(self.encoder.tree[layer, shared[0]]), 2 * layers.index(layer)
            weight, bias = parameters[at], parameters[at + 1]
            own = torch.stack(
                [torch.cat([g[slot].flatten() for g in gradients[t][at : at + 2]]) for t in shared]
            )
            own = all_sum(own) / world_size()
            change = (without_conflict(own) - own).sum(0)
            n = weight[slot].numel()
            found += [(weight, slot, change[:n].view_as(weight[slot])), (bias, slot, change[n:])]
        return found

    # -- the tree ---------------------------------------------------------------------------

    def _grow(self) -> None:
        """Count a step, and split the next layer when it is due."""
        self.steps += 1
        if self.steps % self.branch_every or self.level < 1:
            return
        above = self.branches_above()
        if len(above) > 1:
            alike = self.similarities(above)
            pairs = paired(alike, self.threshold)
            self.encoder.split(self.level, [[t for i in pair for t in above[i]] for pair in pairs])
            self.level -= 1

    def branches_above(self) -> list[list[int]]:
        """The branches (at the top: the heads) that the next layer to split feeds."""
        if self.level + 1 == len(self.encoder.weights):
            return [[t] for t in range(len(self._heads))]
        return self.encoder.branches(self.level + 1)

    def similarities(self, branches: Sequence[Sequence[int]]) -> Tensor:
        """Linear CKA between the weights of branches (or heads) above the next layer, (n, n)."""
        if self.level + 1 == len(self.encoder.weights):
            weights = [self._heads[b[0]].weight for b in branches]
        else:
            weights = [self.encoder.weights[self.level + 1][b[0]] for b in branches]
        return torch.tensor([[cka(a.T, b.T) for b in weights] for a in weights])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"steps": self.steps, "level": self.level}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps, self.level = int(state["steps"]), int(state["level"])


@torch.no_grad()
def cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of (n, p) and (n, q), in [0, 1]; 0 where one is constant.

    ``tr(H aaᵀ H · H bbᵀ H) / √(tr((H aaᵀ H)²) · tr((H bbᵀ H)²))`` (Kornblith et al. 2019).
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    scale = (a.T @ a).norm() * (b.T @ b).norm()
    return float((a.T @ b).square().sum() / scale) if scale > 0 else 0.0


def paired(similarity: Tensor, threshold: float) -> list[list[int]]:
    """Positions in pairs, and singles: mutual nearest neighbours at `threshold` or above.

    The most similar pair goes first and leaves the rest; a pair is the most similar one left if
    and only if each of the two is the other's nearest among all left, pair after pair.
    """
    n = len(similarity)
    order = sorted((-float(similarity[i, j]), i, j) for i in range(n) for j in range(i + 1, n))
    free, found = set(range(n)), []
    for negative, i, j in order:
        if -negative >= threshold and {i, j} <= free:
            found.append([i, j])
            free -= {i, j}
    return sorted(found + [[i] for i in free])


def without_conflict(gradients: Tensor) -> Tensor:
    """Each row less its part against any other row that it conflicts with, (n, P).

    One other after the other, always the others as they came (Yu et al. 2020, in fixed order).
    """
    found = gradients.clone()
    for i in range(len(gradients)):
        for j in range(len(gradients)):
            product = found[i] @ gradients[j]
            if i != j and product < 0:
                found[i] -= product / gradients[j].square().sum() * gradients[j]
    return found
