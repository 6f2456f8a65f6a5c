"""FairMT: one asymmetric constraint over all tasks, and a head-aware multi-objective step.

FairMT (arXiv 2512.00469) as formulated in this library; see `fairmt.constraint`, `fairmt.dual`
and `fairmt.geometry` for what is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.parallel import DistributedDataParallel

from fairmt.constants import Constant
from fairmt.constraint import Aggregate, Constraint, Entry
from fairmt.distributed import all_sum, average_gradients, world_size
from fairmt.dual import Dual
from fairmt.geometry import Program, Proxy, gramian, linear_gramian
from fairmt.gradients import with_gradients
from fairmt.groups import Groups
from fairmt.history import DecayedMoments
from fairmt.ledger import Ledger, atoms_of
from fairmt.loss_gradients import LossGradients
from fairmt.methods.base import Batch, Log, StepMethod, precise
from fairmt.models import LinearHeads, MultiTask, TaskHeads
from fairmt.moments import Moments
from fairmt.notions import NotionSpec, resolve_notions
from fairmt.soft import SoftMoments
from fairmt.tasks import Layout, Task
from fairmt.truths import truths


class FairMT(StepMethod):
    """Primal-dual training under one aggregated constraint.

    The objectives are the per-task Lagrangians ``ℓ_t = w_t L_t + λ·C|_t``; a program on their
    Gramian at representation and heads weights them. One backward pass through the heads serves
    all objectives, and the encoder is traversed once.

    Parameters
    ----------
    notion : str, sequence, or mapping from task name or kind
        See `fairmt.notions.resolve_notions`.
    tolerance : float or mapping from task name
        The gap that is accepted; see `Constraint`.
    strength : float, optional
        A fixed λ. None: bounded dual ascent, driven by `calibrate`. Settable at any step.
    directionality, min_evidence, full_evidence, standard_errors, floor_slack
        See `Constraint`.
    sharpness : float
        κ of the smooth worst case where λ is 1; it is ``sharpness · √λ``. While the price is low,
        all entries are worth looking at; the higher it gets, the more the worst ones are.
    temperature : float
        τ of the soft decisions, in units of the outputs: lower is closer to the hard decisions.
    evidence_target, max_decay
        Memory of the sums; see `DecayedMoments`. ``max_decay=0`` switches it off. Its mean age is
        at most an epoch, where `setup` was given the training rows.
    proxy : str, callable or tuple of them, or None
        Program on the Gramian; None is the plain sum. See `fairmt.geometry.program`.
    rho, smoothing, refresh
        See `Proxy`.
    max_strength, dual_rate, dual_standard_errors
        λ_max, η, and the standard errors subtracted from each slack that drives the dual, so that
        the noise of small groups is not chased.
    """

    name: ClassVar[str] = "fairmt"
    summary: ClassVar[str] = "asymmetric worst-case constraint over all tasks, head-aware step"
    claims: ClassVar[tuple[str, ...]] = ("default",)
    # Its pull is weaker than a penalty's at the same λ, for the best-served group is let alone.
    strengths: ClassVar[tuple[float, float]] = (0.3, 60.0)
    revision: ClassVar[int] = 2
    source: ClassVar[str] = "arXiv 2512.00469, as formulated in this library"
    limits: ClassVar[str] = (
        "categorical attributes only; tasks that agree at representation and heads may still "
        "conflict deep in the encoder; balancing favours the task that is memorised first, where "
        "an encoder learns its training rows by heart"
    )

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        notion: NotionSpec = "default",
        tolerance: float | Mapping[str, float] = 0.02,
        strength: float | None = None,
        directionality: float = 0.8,
        sharpness: float = 3.0,
        temperature: float = 0.5,
        min_evidence: float = 10.0,
        full_evidence: float = 200.0,
        standard_errors: float = 0.0,
        floor_slack: float = 0.0,
        evidence_target: float = 200.0,
        max_decay: float = 0.99,
        proxy: str | Program | tuple[str | Program, ...] | None = "balance",
        rho: float = 1.0,
        smoothing: float = 0.9,
        refresh: int = 4,
        max_strength: float = 4.0,
        dual_rate: float = 10.0,
        dual_standard_errors: float = 1.0,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive. Found {temperature}.")
        self.notion, self.sharpness, self.temperature = notion, sharpness, temperature
        self._constraint_settings: dict[str, Any] = {
            "tolerance": tolerance,
            "directionality": directionality,
            "sharpness": sharpness,
            "min_evidence": min_evidence,
            "full_evidence": full_evidence,
            "standard_errors": standard_errors,
            "floor_slack": floor_slack,
        }
        self._memory_settings = (evidence_target, max_decay)
        self.proxy = None if proxy is None else Proxy(proxy, rho, smoothing, refresh)
        self.dual = Dual(max_strength, dual_rate, start=min(Dual.start, max_strength / 2))
        self._strength = strength
        self._dual_errors = dual_standard_errors
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        notions = resolve_notions(self.layout.tasks, self.notion)
        self.ledger = Ledger(self.layout, notions)
        if not len(self.ledger):
            raise ValueError(
                f"Notion {self.notion!r} judges none of the tasks "
                f"{[(t.name, t.kind) for t in self.layout.tasks]}; there is nothing to constrain."
            )
        self.constraint = Constraint(self.ledger, groups, **self._constraint_settings)
        target, decay = self._memory_settings
        self.history = DecayedMoments(self.ledger, groups, target, decay)
        # Rows of an epoch; whoever was given a sample of them sets the true number.
        self.epoch_rows: int | None = None if data is None else len(data)
        self._judge = Constraint(
            self.ledger,
            groups,
            **self._constraint_settings
            | {"directionality": 1.0, "standard_errors": self._dual_errors, "min_evidence": 30.0},
        )
        self._owner = Constant(self.layout.task_of_output())
        n_tasks = len(self.layout.tasks)
        self._of_task = Constant(one_hot(self.layout.task_of_output(), n_tasks).double())
        self._loss_gradients = LossGradients(self.layout)
        self._weighted = any(task.weight != 1 for task in self.layout.tasks)
        self.binding: list[Entry] = []

    @property
    def strength(self) -> float | None:  # type: ignore[override]
        return self.dual.strength if self._strength is None else self._strength

    @strength.setter
    def strength(self, value: float | None) -> None:
        """A number fixes λ; None hands it to the dual."""
        self._strength = value

    # -- one step ---------------------------------------------------------------------------

    def step(self, batch: Mapping[str, Any], scale: float = 1.0) -> Log:
        b = self.unpack(batch)
        z = self.model.encoder(b.features)
        heads = self.model.heads
        if isinstance(heads, LinearHeads):
            # Low precision is for the encoder: sums and Gramian need their digits.
            with torch.autocast(z.device.type, enabled=False):
                dz, log = self._linear_step(heads, z, b, scale)
        else:
            assert isinstance(heads, TaskHeads)
            dz, log = self._general_step(heads, z, b, scale)
        if z.requires_grad:
            z.backward(dz.to(z.dtype))
            if not isinstance(self.model.encoder, DistributedDataParallel):
                average_gradients(self.model.encoder.parameters())
        return log

    def objective(self, outputs: Tensor, b: Batch) -> tuple[Tensor, Log]:
        """``Σ_t ℓ_t`` from fused outputs: each output's gradient is that of its own task's ℓ_t."""
        value, gradient, log = self._lagrangian(outputs, b)
        return with_gradients(value, [outputs], [gradient]), log

    def aggregate(self, outputs: Tensor, b: Batch) -> Aggregate:
        """The constraint on a batch, with soft decisions and the memory of earlier batches."""
        known = truths(self.layout, b.labels, outputs.dtype)
        found, gradient = self._constrain(outputs, known, b)
        if not outputs.requires_grad:
            return found
        return replace(found, value=with_gradients(found.value, [outputs], [gradient]))

    @torch.no_grad()
    def _lagrangian(self, outputs: Tensor, b: Batch) -> tuple[Tensor, Tensor, Log]:
        """``Σ_t ℓ_t`` and its derivative by the outputs."""
        known = truths(self.layout, b.labels, outputs.dtype)
        losses, gradient = self._loss_gradients(outputs, b.labels, known, b.weights)
        if self._weighted:
            weights = self._task_weights.to(losses)
            losses = losses * weights
            gradient *= weights.index_select(0, self._owner.on(outputs.device))
        value = losses.sum()
        log: Log = {"loss": value}
        strength = self.strength
        if strength:
            found, at_outputs = self._constrain(outputs, known, b)
            value = value + strength * found.value
            gradient.add_(at_outputs, alpha=strength)
            log |= {
                "constraint": found.value,
                "worst": found.violations.max(),
                "strength": strength,
            }
        return value, gradient, log

    @torch.no_grad()
    def _constrain(
        self, outputs: Tensor, known: tuple[Tensor, Tensor], b: Batch
    ) -> tuple[Aggregate, Tensor]:
        """The constraint on a batch, and its derivative by the outputs."""
        member = self.groups.membership(b.attributes, outputs.dtype)
        weights = None if b.weights is None else b.weights.to(outputs.dtype)
        offsets = self.offsets.to(outputs)
        soft = SoftMoments(self.ledger, member, outputs, known, offsets, self.temperature, weights)
        batch = soft.moments
        if world_size() > 1:
            batch = Moments(all_sum(batch.sums), all_sum(batch.mass), all_sum(batch.mass2))
        if self.epoch_rows is not None:
            self.history.set_epoch(self.epoch_rows / (len(outputs) * world_size()))
        moments = self.history.update(batch)
        rates = self.ledger.rates(moments.sums)
        sharpness = self.sharpness * math.sqrt(self.strength or 1.0)
        found, at_rates = self.constraint.judge(rates, moments.evidence, sharpness)
        at_sums = self.history.through(self.ledger.through_rates(moments.sums, rates, at_rates))
        if world_size() > 1:
            # Gradients are averaged over processes in the end.
            at_sums = at_sums * world_size()
        return found, soft.gradient(at_sums)

    def _linear_step(
        self, heads: LinearHeads, z: Tensor, b: Batch, scale: float
    ) -> tuple[Tensor, Log]:
        z_rows = precise(z.detach())
        with torch.no_grad():
            outputs = precise(heads(z_rows.to(heads.weight.dtype)))
        _, delta, log = self._lagrangian(outputs, b)
        weight = precise(heads.weight.detach())
        grad_weight, grad_bias = delta.T @ z_rows, delta.sum(0)
        if world_size() > 1:
            r = world_size()
            grad_weight, grad_bias = all_sum(grad_weight) / r, all_sum(grad_bias) / r
        if self.proxy is not None:
            of_task, rho = self._of_task.like(delta), self.proxy.rho

            def joint_gramian() -> Tensor:
                k = linear_gramian(delta, weight, of_task)
                if world_size() > 1:
                    # Rows of all processes: gradients are R times too large, rows R times too few.
                    k = all_sum(k) / world_size()
                head = torch.addcmul((grad_weight * grad_weight).sum(1), grad_bias, grad_bias)
                k.diagonal().add_(head @ of_task, alpha=rho)
                return k

            per_output = of_task @ (self.proxy.weights_now(joint_gramian) * scale)
        else:
            per_output = torch.full_like(grad_bias, scale)
        _accumulate(heads.weight, grad_weight.mul_(per_output[:, None]))
        if heads.bias is not None:
            _accumulate(heads.bias, grad_bias.mul_(per_output))
        return delta.mul_(per_output) @ weight, log

    def _general_step(
        self, heads: TaskHeads, z: Tensor, b: Batch, scale: float
    ) -> tuple[Tensor, Log]:
        leaves = [z.detach().requires_grad_() for _ in heads.names]
        outputs = precise(heads.forward_each(leaves))
        with torch.autocast(z.device.type, enabled=False):
            total, log = self.objective(outputs, b)
        parameters = [[p for p in head.parameters() if p.requires_grad] for head in heads.heads]
        flat: list[Tensor] = [p for ps in parameters for p in ps]
        grads = torch.autograd.grad(total, leaves + flat, allow_unused=True)
        dz = [
            torch.zeros_like(leaf) if g is None else g
            for leaf, g in zip(leaves, grads[: len(leaves)], strict=True)
        ]
        dp = list(grads[len(leaves) :])
        if world_size() > 1:
            dp = [None if g is None else all_sum(g) / world_size() for g in dp]
        position = {t.name: i for i, t in enumerate(self.layout.tasks)}
        order = [position[name] for name in heads.names]
        weights = torch.ones(len(order), device=z.device)
        if self.proxy is not None:
            rho = self.proxy.rho
            # The proxy keeps its memory in the user's order of tasks.
            index = torch.tensor(order, device=z.device)

            def joint_gramian() -> Tensor:
                k = all_sum(gramian([precise(g) for g in dz])) / world_size()
                start = 0
                for i, ps in enumerate(parameters):
                    own = dp[start : start + len(ps)]
                    start += len(ps)
                    norm = sum(float((precise(g) ** 2).sum()) for g in own if g is not None)
                    k[i, i] += rho * norm
                in_order = torch.empty_like(k)
                in_order[index[:, None], index[None, :]] = k
                return in_order

            weights = self.proxy.weights_now(joint_gramian)[index]
        start = 0
        for i, ps in enumerate(parameters):
            for p, g in zip(ps, dp[start : start + len(ps)], strict=True):
                if g is not None:
                    _accumulate(p, weights[i] * scale * g)
            start += len(ps)
        combined = torch.zeros_like(dz[0])
        for w, g in zip(weights, dz, strict=True):
            combined = combined + w * scale * g
        return combined, log

    # -- the dual ---------------------------------------------------------------------------

    @torch.no_grad()
    def moments(self, batches: Iterable[Mapping[str, Any]]) -> Moments:
        """Moments of hard decisions under the rule in force, over any number of batches."""
        was_training = self.model.training
        self.model.eval()
        total: Moments | None = None
        try:
            for batch in batches:
                b = self.unpack(batch)
                outputs = self.model(b.features).double()
                atoms = atoms_of(self.ledger, outputs, b.labels.double(), self.offsets.to(outputs))
                member = self.groups.membership(b.attributes, torch.float64)
                weights = None if b.weights is None else b.weights.double()
                moments = self.ledger.moments(member, atoms, weights)
                total = moments if total is None else total + moments
        finally:
            self.model.train(was_training)
        if total is None:
            raise ValueError("No batch to calibrate on.")
        return Moments(all_sum(total.sums), all_sum(total.mass), all_sum(total.mass2))

    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> Log:
        """Move λ by the worst signed slack of hard decisions on data without gradients.

        Returns
        -------
        dict with 'slack', 'strength' and 'infeasible'; `binding` then lists the entries that
        press hardest.
        """
        moments = self.moments(batches)
        slack = self._judge.worst_slack(moments)
        self.binding = self._judge.binding(moments)
        if self._strength is None:
            self.dual.update(slack)
        return {
            "slack": slack,
            "strength": self.strength or 0.0,
            "infeasible": float(self.infeasible),
        }

    @property
    def infeasible(self) -> bool:
        """The tolerance could not be reached at the largest strength; see `binding`."""
        return self._strength is None and self.dual.infeasible

    def set_floors(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Do no harm: the model's present benefits, on these rows, become floors."""
        moments = self.moments(batches)
        benefits = self.ledger.orientation * self.ledger.rates(moments.sums)[1:]
        known = moments.evidence[1:] >= self._judge.min_evidence
        self.constraint.set_floors(torch.where(known, benefits, torch.nan))

    # -- memory -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {
            "history": self.history.state_dict(),
            "dual": self.dual.state_dict(),
        }
        if self.constraint.floors is not None:
            state["floors"] = self.constraint.floors
        if self.proxy is not None:
            state["proxy"] = self.proxy.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.history.load_state_dict(state["history"])
        self.constraint.set_floors(state.get("floors"))
        self.dual.load_state_dict(state["dual"])
        if self.proxy is not None and "proxy" in state:
            self.proxy.load_state_dict(state["proxy"])


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    gradient = gradient.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient
