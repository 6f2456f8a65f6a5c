"""L2T-FMT: a teacher decides, task by task, whether a step serves accuracy or fairness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairmt.constants import Constant
from fairmt.distributed import all_sum, average_gradients, joint
from fairmt.groups import Groups
from fairmt.label_cells import LabelCells, extremes, group_means
from fairmt.methods.base import Batch, Log, StepMethod, precise
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task

ACCURACY, FAIRNESS = 0, 1
DISCOUNT = 0.9
WEIGHT_RATE = 1e-3
"""Step of the task weights."""


class L2TFMT(StepMethod):
    """``Σ_t ω_t w_t (L_t or λ F_t)``: a Q-network chooses for every task and step.

    - *Group loss* ``F_t = mean_a mean_y max_g E[loss_t | Y = y, group g of a]``: for every truth
      (a class; a label present or absent) the loss of the group that fares worst. Regression
      tasks have none and train on their plain loss.
    - *Teacher*: from the flattened weights of all heads, the value Q of both choices for every
      task. It takes the better one, and one at random in a share `exploration` of the cases.
    - *Reward*: after a trial step on either loss, the smaller of the relative changes of accuracy
      and of ``1 - EO``, EO the gap of equalized odds. Q learns ``R + .9 max Q'``.
    - *Task weights* ω: GradNorm (Chen et al., ICML 2018, exponent 1) at the representation.

    After the equations of Roy and Ntoutsi (2022). Ours: groups are looked up in the whole batch
    (the released code indexes it by positions inside a group); any number of groups and
    attributes, more than two classes, several labels; F is a mean and not a sum over y, so that it
    is of the size of L. Rewards use probabilities of the right decision, because one step changes
    hardly any decision, and compare with the model before the trial instead of the best so far.
    Both choices are tried, for a step of one length, so that no experience has to be kept. The
    teacher is smaller (one hidden layer of 128), and the trainer's optimiser moves it.

    A trial costs two passes backward and two forward for every task; at one in `trial_every`
    steps of 10 this is .4 passes per task and step.

    Parameters
    ----------
    strength : float
        λ, the factor on F where it is chosen: 1 is the paper's; 0 is plain training. The larger,
        the more of the learning is done on F.
    exploration : float in [0, 1]
    trial_every : int
        Steps from trial to trial.
    trial_length : float
        How far a trial step moves the weights (Euclidean norm); a step of Adam moves n weights
        about ``learning rate · √n``.
    """

    name: ClassVar[str] = "l2t_fmt"
    summary: ClassVar[str] = "a teacher chooses between accuracy and group loss, task by task"
    claims: ClassVar[tuple[str, ...]] = ("equalized_odds",)
    tasks: ClassVar[tuple[str, ...]] = ("classification", "detection")
    # At λ = 20 its shortfall is still falling.
    strengths: ClassVar[tuple[float, float]] = (0.3, 100.0)
    revision: ClassVar[int] = 1
    source: ClassVar[str] = "Roy and Ntoutsi (ECML PKDD 2022), arXiv 2206.08403"
    limits: ClassVar[str] = "no notion of fairness for numbers; serves the worst group, not the gap"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        exploration: float = 0.1,
        trial_every: int = 10,
        trial_length: float = 0.1,
    ) -> None:
        if not 0 <= exploration <= 1:
            raise ValueError(f"exploration must lie in [0, 1]. Found {exploration}.")
        if trial_every < 1:
            raise ValueError(f"trial_every must be at least 1. Found {trial_every}.")
        if not trial_length > 0:
            raise ValueError(f"trial_length must be positive. Found {trial_length}.")
        self.strength, self.exploration = strength, exploration
        self.trial_every, self.trial_length = trial_every, trial_length
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._cells = LabelCells(self.layout)
        n = len(self.layout.tasks)
        share = torch.zeros(len(self._cells.owner), n)
        share[torch.arange(len(share)), self._cells.owner] = 1.0
        self._of_task = Constant(share)
        self._judged = [i for i, t in enumerate(self.layout.tasks) if t.kind in self.tasks]
        own = next(self.model.parameters())
        self.teacher = nn.Sequential(
            nn.Linear(len(self._state()), 128), nn.ReLU(), nn.Linear(128, 2 * n)
        ).to(own)
        self.steps = 0
        self.task_factors = torch.ones(n)
        self._first = torch.zeros(n)
        # Its own stream: all processes choose alike.
        self._random = torch.Generator().manual_seed(torch.initial_seed())

    def parameters(self) -> Iterable[nn.Parameter]:
        return chain(self.model.parameters(), self.teacher.parameters())

    # -- one step ---------------------------------------------------------------------------

    def step(self, batch: Mapping[str, Any], scale: float = 1.0) -> Log:
        if not self.strength:
            return super().step(batch, scale)
        b = self.unpack(batch)
        z = self.model.encoder(b.features)
        outputs = precise(self.model.heads(z))
        losses = self.task_losses(outputs, b)
        fair = self.group_losses(outputs, b)
        values = self._values(self._state())
        choice = self._choose(values.detach())
        chosen = torch.where(choice, self.strength * fair, losses)
        total = (self._balanced(chosen, losses.detach(), z) * chosen).sum()
        if self.steps % self.trial_every == 0:
            total = total + self._teacher_loss(values, b)
        self.steps += 1
        (total * scale).backward()
        average_gradients(self.parameters())
        return {
            "loss": losses.detach().sum(),
            "penalty": fair.detach().sum(),
            "strength": self.strength,
            "fairness chosen": float(choice.to(losses.dtype).mean()),
        }

    def group_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``w_t F_t`` (T,); 0 for regression and for tasks without labels."""
        losses, cells = self._cells.losses(outputs, batch.labels)
        means, known = group_means(losses, cells, self._member(batch, losses)[:, 1:])
        worst = extremes(means, known, self.groups)[0].mean(0)
        return self._by_task(worst, known.any(0)) * self._task_weights.to(worst)

    def _member(self, batch: Batch, like: Tensor) -> Tensor:
        member = self.groups.membership(batch.attributes, like.dtype)
        return member if batch.weights is None else member * batch.weights.to(like).unsqueeze(1)

    def _by_task(self, values: Tensor, known: Tensor) -> Tensor:
        """Means over every task's known cells, (T,) from (C,)."""
        of_task = self._of_task.like(values)
        n = known.to(values.dtype) @ of_task
        return (values * known) @ of_task / n.clamp(min=1)

    def _choose(self, values: Tensor) -> Tensor:
        """Whether fairness is served, (T,) of bool."""
        draw = torch.rand(2, len(values), generator=self._random).to(values.device)
        found = torch.where(draw[0] < self.exploration, draw[1] < 0.5, values.argmax(1) == FAIRNESS)
        judged = torch.zeros_like(found)
        judged[self._judged] = True
        return found & judged

    def _balanced(self, chosen: Tensor, losses: Tensor, z: Tensor) -> Tensor:
        """Task weights ω (T,) after a step of GradNorm at z."""
        self.task_factors, self._first = (x.to(losses) for x in (self.task_factors, self._first))
        self._first = torch.where(self._first > 0, self._first, losses)
        norms = torch.stack(
            [
                all_sum(torch.autograd.grad(c, z, retain_graph=True)[0].float().square().sum())
                for c in chosen
            ]
        ).sqrt()
        active = norms > 0
        if int(active.sum()) > 1:
            rate = losses[active] / self._first[active]
            size = self.task_factors[active] * norms[active]
            excess = size - size.mean() * rate / rate.mean()
            factors = self.task_factors.clone()
            factors[active] -= WEIGHT_RATE * norms[active] * excess.sign()
            factors = factors.clamp(min=WEIGHT_RATE)
            self.task_factors = factors * len(factors) / factors.sum()
        return self.task_factors

    # -- the teacher ------------------------------------------------------------------------

    def _state(self, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """The weights of all heads in a row."""
        if parameters is None:
            parameters = dict(self.model.named_parameters())
        heads = [p.detach() for name, p in parameters.items() if name.startswith("heads.")]
        return torch.cat([p.flatten() for p in heads])

    def _values(self, state: Tensor) -> Tensor:
        """Q of accuracy and fairness for every task, (T, 2)."""
        self.teacher.to(state.device)
        return precise(self.teacher(state)).view(-1, 2)  # type: ignore[no-any-return]

    def _teacher_loss(self, values: Tensor, batch: Batch) -> Tensor:
        """Squared error of Q against what trial steps on either loss bring."""
        was_training = self.model.training
        self.model.eval()
        found = [self._trial(batch, t, a) for t in self._judged for a in (ACCURACY, FAIRNESS)]
        self.model.train(was_training)
        tried, targets = values[self._judged].flatten(), torch.stack(found)
        told = targets.isfinite()
        errors = torch.where(told, tried - torch.where(told, targets, 0.0), 0.0)
        return errors.square().sum() / told.sum().clamp(min=1)

    def _trial(self, batch: Batch, task: int, action: int) -> Tensor:
        """``R + .9 max Q'`` of one choice for one task; NaN where the batch cannot tell."""
        moved = {n: p.detach() for n, p in self.model.named_parameters()}
        free = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        outputs = precise(self.model(batch.features))
        loss = (self.task_losses if action == ACCURACY else self.group_losses)(outputs, batch)[task]
        gradients = [
            all_sum(g)
            for g in torch.autograd.grad(loss, list(free.values()), materialize_grads=True)
        ]
        length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        with torch.no_grad():
            for name, g in zip(free, gradients, strict=True):
                moved[name] = free[name] - self.trial_length / length * g
            after = precise(functional_call(self.model, moved, (batch.features,)))
            before = self._figures(outputs.detach(), batch, task)
            reward = ((self._figures(after, batch, task) - before) / before).min()
            return reward + DISCOUNT * self._values(self._state(moved))[task].max()

    def _figures(self, outputs: Tensor, batch: Batch, task: int) -> Tensor:
        """Accuracy of a task and ``1 - EO``, (2,), in probabilities of the right decision."""
        losses, cells = self._cells.losses(outputs, batch.labels)
        own = self._cells.owner.to(outputs.device) == task
        right, cells = (-losses[:, own]).exp(), cells[:, own]
        member = self._member(batch, right)
        sums = joint(member[:, 0] @ torch.stack([right * cells, cells]).sum(2).T)
        means, known = group_means(right, cells, member[:, 1:])
        top, low = extremes(means, known, self.groups)
        gaps = (top - low)[:, known.any(0)]
        return torch.stack([sums[0] / sums[1], 1 - gaps.mean()])

    # -- memory -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "steps": self.steps,
            "task_factors": self.task_factors,
            "first": self._first,
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps = int(state["steps"])
        self.task_factors, self._first = state["task_factors"].clone(), state["first"].clone()
        self._random.set_state(state["random"].cpu())
