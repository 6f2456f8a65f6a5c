"""A constraint per rate and group, with multipliers of the package cooper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.distributed import all_sum, world_size
from fairmt.gradients import with_gradients
from fairmt.groups import Groups
from fairmt.history import DecayedMoments
from fairmt.ledger import Ledger
from fairmt.methods.base import Batch, StepMethod
from fairmt.models import MultiTask
from fairmt.moments import Moments
from fairmt.notions import NotionSpec, resolve_notions
from fairmt.soft import SoftMoments
from fairmt.tasks import Layout, Task
from fairmt.truths import truths


class Cooper(StepMethod):
    """``min_θ max_{0 ≤ μ ≤ 1} Σ_t w_t L_t + λ mean_i μ_i v_i``, one multiplier per entry i.

    An entry is a statistic of the notion and a group, ``v = |rate of the group − rate of
    everybody| − tolerance`` on soft decisions. The multipliers and the Lagrangian are cooper's;
    they ascend by plain gradient ascent, ``μ ← [μ + η v]`` within [0, 1]. So λ, the strength, is
    the largest price of a violation: entries within the tolerance fall to price 0, and those out of
    reach stay at λ. Ours: that bound; and sums that remember as in `DecayedMoments`, because the
    gap of a single batch is mostly noise, which multipliers would add up.

    Parameters
    ----------
    strength : float
        λ.
    notion : see `fairmt.notions.resolve_notions`.
    tolerance : float
        Distance from everybody's rate that is accepted.
    dual_rate : float
        η, per step.
    temperature, evidence_target, max_decay
        See `FairMT`.
    min_evidence : float
        Entries with fewer effective rows have no constraint.

    Raises
    ------
    ImportError
        If cooper is absent.
    """

    name: ClassVar[str] = "cooper"
    summary: ClassVar[str] = "a Lagrange multiplier of the package cooper per rate and group"
    claims: ClassVar[tuple[str, ...]] = ("default",)
    source: ClassVar[str] = "Gallego-Posada et al. (2025); package cooper-optim, MIT"
    limits: ClassVar[str] = "symmetric: groups above everybody's rate are pulled down"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        notion: NotionSpec = "default",
        tolerance: float = 0.02,
        dual_rate: float = 1.0,
        temperature: float = 0.5,
        evidence_target: float = 200.0,
        max_decay: float = 0.99,
        min_evidence: float = 10.0,
    ) -> None:
        for name, value in {"dual_rate": dual_rate, "temperature": temperature}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive. Found {value}.")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must not be negative. Found {tolerance}.")
        try:
            import cooper
        except ImportError as error:
            raise ImportError(
                "Method 'cooper' wraps the package cooper-optim: pip install 'fairmt[cooper]'."
            ) from error
        self._cooper: Any = cooper
        self.strength, self.notion, self.tolerance = strength, notion, tolerance
        self.dual_rate, self.temperature, self.min_evidence = dual_rate, temperature, min_evidence
        self._memory = (evidence_target, max_decay)
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self.ledger = Ledger(self.layout, resolve_notions(self.layout.tasks, self.notion))
        if not len(self.ledger):
            raise ValueError(
                f"Notion {self.notion!r} judges none of the tasks "
                f"{[(t.name, t.kind) for t in self.layout.tasks]}; there is nothing to constrain."
            )
        self.history = DecayedMoments(self.ledger, groups, *self._memory)
        cooper = self._cooper
        n = groups.n_groups * len(self.ledger)
        self.multiplier = cooper.multipliers.DenseMultiplier(n)
        self._constraint = cooper.Constraint(
            cooper.ConstraintType.INEQUALITY, cooper.formulations.Lagrangian, self.multiplier
        )
        self._dual = torch.optim.SGD(self.multiplier.parameters(), self.dual_rate, maximize=True)

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        known = truths(self.layout, batch.labels, outputs.dtype)
        member = self.groups.membership(batch.attributes, outputs.dtype)
        weights = None if batch.weights is None else batch.weights.to(outputs.dtype)
        offsets = self.offsets.to(outputs)
        soft = SoftMoments(self.ledger, member, outputs, known, offsets, self.temperature, weights)
        now = soft.moments
        now = Moments(all_sum(now.sums), all_sum(now.mass), all_sum(now.mass2))
        moments = self.history.update(now)
        sums = moments.sums.detach().requires_grad_()
        violations = self._violations(self.ledger.rates(sums), moments.evidence)
        # The multipliers are few and live on the CPU, where an optimiser state would be too.
        state = self._cooper.CMPState(
            observed_constraints={
                self._constraint: self._cooper.ConstraintState(
                    violations.flatten().to(self.multiplier.weight)
                )
            }
        )
        value: Tensor = state.compute_primal_lagrangian().lagrangian / violations.numel()
        (at_sums,) = torch.autograd.grad(value, sums)
        self._dual.zero_grad()
        state.compute_dual_lagrangian().backward()
        self._dual.step()
        self.multiplier.post_step_()
        with torch.no_grad():
            self.multiplier.weight.clamp_(max=1.0)
        gradient = soft.gradient(self.history.through(at_sums)) * world_size()
        return with_gradients(value.detach().to(outputs), [outputs], [gradient])

    def _violations(self, rates: Tensor, evidence: Tensor) -> Tensor:
        """(G, J); 0 where there is too little evidence."""
        distance = self.ledger.distance.to(rates.device)
        far = torch.where(distance, rates[1:], (rates[1:] - rates[:1]).abs())
        enough = evidence[1:] >= self.min_evidence
        return torch.where(enough, far - self.tolerance, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "history": self.history.state_dict(),
            "multipliers": self.multiplier.weight.detach().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.history.load_state_dict(state["history"])
        with torch.no_grad():
            self.multiplier.weight.copy_(state["multipliers"])
