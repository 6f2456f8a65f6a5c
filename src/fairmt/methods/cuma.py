"""CUMA: an adversary, and losses that curve alike in all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmt.groups import Groups
from fairmt.kernel_distance import kernel_distance
from fairmt.methods.adversarial import Adversarial
from fairmt.methods.base import Batch, precise
from fairmt.models import MultiTask
from fairmt.row_losses import RowLosses, observed_tasks
from fairmt.tasks import Layout, Task

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths, in units of the median curvature of the batch."""


class CUMA(Adversarial):
    """``min_model max_adversary Σ_t w_t L_t - λ A`` with ``λ γ M`` added: curvature matching.

    M is the distance between the groups' distributions of the curvature of a task's loss at a
    row's features, see `loss_curvature` and `fairmt.kernel_distance`. Where a group's losses curve
    more, its predictions change sooner when the data shift: M shall keep fair what A made fair.
    The adversary is that of `Adversarial`; with γ = 0 the two methods are the same.

    After the equations of Wang, Hong, Zhou and Wang (2023). Ours: the curvature is the exact
    product of the Hessian with a direction (theirs is the change of the gradient over a distance
    of 1; over a short one, differences in single precision stumble over the kinks of ReLUs); the
    direction is the gradient instead of its sign, which gives the spectral norm exactly for one
    output of a piecewise linear network; curvatures are divided by their median over the batch, so
    that flattening everybody gains nothing; any number of groups, each against the rest, by an
    unbiased estimate; tasks take turns, one a step, so that the cost does not grow with their
    number.

    A step costs one further pass forward and three backward through the whole network, each
    through the one before, whatever the number of tasks. Features must be one tensor of
    floating-point numbers, and the network twice differentiable by them. It is evaluated as in
    prediction (no dropout, fixed batch statistics). Several processes each match the rows of
    their own.

    Parameters
    ----------
    strength : float
        λ, of adversary and curvature together.
    curvature : float
        γ; the paper's is 1.
    notion, width : see `Adversarial`.
    """

    name: ClassVar[str] = "cuma"
    summary: ClassVar[str] = "an adversary, and curvature of the loss matched across groups"
    label_free: ClassVar[bool] = True
    source: ClassVar[str] = "Wang, Hong, Zhou and Wang (TMLR 2023), arXiv 2207.01168"
    limits: ClassVar[str] = (
        "features must be one tensor of real numbers; costs several plain steps; the adversary "
        "does most of what is seen"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        curvature: float = 1.0,
        notion: str = "demographic_parity",
        width: int = 64,
    ) -> None:
        if not curvature >= 0:
            raise ValueError(f"curvature must not be negative. Found {curvature}.")
        self.curvature = curvature
        super().__init__(
            encoder, heads, tasks, groups, strength=strength, notion=notion, width=width
        )

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._row_losses = RowLosses(self.layout)
        self._turn = 0

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        advantage = self.contest(z, batch)
        if not self.curvature:
            return advantage
        return advantage + self.curvature * self.mismatch(batch)

    def mismatch(self, batch: Batch) -> Tensor:
        """M of the task whose turn it is."""
        task = self._turn % len(self.layout.tasks)
        self._turn += 1
        x = batch.features
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                "Method 'cuma' differentiates by the features, which must be one tensor of "
                f"floating-point numbers. Found {found}. Use method='adversarial'."
            )
        known = observed_tasks(self.layout, batch.labels)[:, task]
        labels = batch.labels[known]
        was_training = self.model.training
        self.model.eval()
        curved = loss_curvature(
            lambda rows: self._row_losses(precise(self.model(rows)), labels)[:, task],
            x[known],
        )
        self.model.train(was_training)
        curving = curved.detach()[curved.detach() > 0]
        unit = curving.median() if len(curving) else 1.0
        member = self.groups.membership(batch.attributes[known], curved.dtype)[:, 1:]
        if batch.weights is not None:
            member = member * batch.weights[known].to(curved.dtype).unsqueeze(1)
        return kernel_distance(curved / unit, member, self.groups, WIDTHS)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"turn": self._turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._turn = int(state["turn"])


def loss_curvature(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``‖H v‖`` with ``v = ∇ℓ/‖∇ℓ‖``, row by row: (B,).

    H is the Hessian of the row's loss by its features. This is its largest curvature where the
    gradient points that way, as with one output of a piecewise linear network, and less elsewhere.
    v is taken as a constant; a row without gradient has curvature 0.

    Parameters
    ----------
    loss : from features (B, ...) to losses (B,), each of its own row alone.
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x, create_graph=True)
    direction = F.normalize(gradient.detach().flatten(1))
    slope = (gradient.flatten(1) * direction).sum()
    (product,) = torch.autograd.grad(slope, x, create_graph=True)
    return torch.linalg.vector_norm(product.flatten(1), dim=1)
