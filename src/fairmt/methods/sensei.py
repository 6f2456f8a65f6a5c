"""SenSeI: outputs stay the same when only what is sensitive changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmt.distributed import all_sum, joint
from fairmt.fair_metrics import FairMetric, logistic_metric
from fairmt.groups import Groups
from fairmt.methods.base import Batch, StepMethod, precise
from fairmt.models import MultiTask
from fairmt.tasks import Family, Layout, Task

DIVERGENCES = ("js", "logit")
_REACH = 3.0
"""How far the attack can get in all its steps, in roots of epsilon."""
_DUAL_RATE = 0.1
_DUAL_RANGE = (1e-6, 1e6)


class SenSeI(StepMethod):
    """``Σ_t w_t L_t + λ R``, R the largest mean change of the outputs that a small transport
    of the inputs can cause, as measured by a fair metric.

    ``R = sup E[d_Y(h(x), h(x'))]`` over couplings with ``E[d_X(x, x')] <= epsilon``, by duality
    ``min_{m >= 0} m·epsilon + E[max_{x'} d_Y(h(x), h(x')) - m·d_X(x, x')]`` (Yurochkin and Sun,
    2021). Every step an auditor looks for x', one attack for all tasks; the gradient of R is that
    of the mean ``d_Y(h(x), h(x'))`` at these x'.

    The auditor works in two phases, and keeps for every row the best point that it saw:

    1. in the sensitive subspace, where moves ``x + A a`` are free: a convex distance is largest at
       a corner of the box in which people lie, so it looks at the corner that is farthest away,
       and at those to which, and away from which, the gradient there points. For one linear output
       that is the exact maximum;
    2. in all inputs: `steps` gradient steps of equal length.

    Ours: the first phase, which the SenSeI of inFairness lacks (its forerunner SenSR has one
    without bounds); x' stays where people lie along sensitive directions; all heads at once; eval
    mode in the attack; and exponentiated gradient descent on the dual, ``m ← m·exp(η (E[d_X] /
    epsilon - 1))``, which needs no units and keeps m positive.

    Parameters
    ----------
    strength : float
        λ (rho in the paper); plain training at 0.
    epsilon : float
        Mean d_X that the transport may cost: squared distance in units of the inputs.
    steps : int
        Gradient steps of the second phase; a step costs a forward and a backward pass. 0 leaves
        the phase out: invariance along the sensitive directions alone, and epsilon has no effect.
    divergence : 'js' or 'logit'
        d_Y of classes and labels: the Jensen-Shannon divergence of the probabilities, or the
        squared difference of the logits.
    sensitive_columns : positions of input columns that are sensitive themselves, see
        `fairmt.fair_metrics.logistic_metric`; `Schema.input_names` names them.
    metric : FairMetric, optional
        Instead of one that `setup` learns from the training rows and the attributes.
    """

    name: ClassVar[str] = "sensei"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "outputs do not change when only what is sensitive about a person does"
    attributes: ClassVar[str] = "categorical and continuous"
    label_free: ClassVar[bool] = True
    limits: ClassVar[str] = (
        "individual fairness: gaps between groups may stay; inputs must be one matrix of numbers; "
        "each step costs several passes"
    )
    source: ClassVar[str] = "Yurochkin and Sun (ICLR 2021)"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        epsilon: float = 0.1,
        steps: int = 5,
        divergence: str = "js",
        sensitive_columns: Sequence[int] = (),
        metric: FairMetric | None = None,
    ) -> None:
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive. Found {epsilon}.")
        if steps < 0:
            raise ValueError(f"steps must be 0 or more. Found {steps}.")
        if divergence not in DIVERGENCES:
            raise ValueError(
                f"divergence must be one of {list(DIVERGENCES)}. Found {divergence!r}."
            )
        if metric is not None and sensitive_columns:
            raise ValueError(
                "sensitive_columns belong to the metric that is learned in setup; with metric= "
                "give them to fairmt.fair_metrics.logistic_metric(columns=...)."
            )
        self.strength, self.epsilon, self.steps = strength, epsilon, steps
        self.divergence = divergence
        self._columns, self._given = tuple(sensitive_columns), metric
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        """Bind the method to a model, and learn the metric from the training rows.

        Raises
        ------
        ValueError
            If there are neither training rows nor a metric.
        """
        super().setup(model, groups, data)
        metric = self._given
        if metric is None:
            if data is None:
                raise ValueError(
                    "Method 'sensei' needs a fair metric: pass metric=, such as "
                    "fairmt.fair_metrics.logistic_metric(features, codes, groups), or the training "
                    "rows, setup(model, groups, data)."
                )
            metric = logistic_metric(
                data.features,
                data.attributes,
                groups,
                values=data.values,
                weights=data.weights,
                columns=self._columns,
            )
        self.metric = metric
        self.multiplier = 1.0
        self._seen = 0

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        x = self._checked(batch.features)
        self.metric = self.metric.like(x)
        weights = torch.ones_like(x[:, 0]) if batch.weights is None else batch.weights.to(x)
        total = all_sum(weights.sum())
        with evaluating(self.model):
            moved = self._attack(x)
            distance = self.output_distance(precise(self.model(x)), precise(self.model(moved)))
        self._seen += 1
        if self.steps:
            cost = all_sum(weights @ self.metric(x, moved)) / total
            self._update_dual(float(cost))
        return joint(weights.to(distance) @ distance) / total

    def _checked(self, features: Any) -> Tensor:
        n_inputs = len(self.metric.directions)
        if not isinstance(features, Tensor) or features.ndim != 2:
            found = tuple(getattr(features, "shape", ())) or type(features).__name__
            raise ValueError(
                f"Method '{self.name}' moves inputs, which must be one matrix of numbers (B, "
                f"{n_inputs}). Found {found}; embed other inputs first."
            )
        if features.shape[1] != n_inputs:
            raise ValueError(
                f"The fair metric is for {n_inputs} inputs, the batch has {features.shape[1]}."
            )
        return precise(features)

    def output_distance(self, outputs: Tensor, others: Tensor) -> Tensor:
        """``d_Y = Σ_t w_t d_t`` (B,) of fused outputs (B, n_outputs).

        The divergence of classes; the mean divergence of labels; the mean squared difference of
        targets in standard units.
        """
        found: Tensor = sum(  # type: ignore[assignment]
            self._of_family(family, outputs[:, family.outputs], others[:, family.outputs])
            for family in self.layout.families
        )
        return found

    def _of_family(self, family: Family, a: Tensor, b: Tensor) -> Tensor:
        by_logits = self.divergence == "logit" or family.kind == "regression"
        if family.kind == "classification":
            shape = (len(a), len(family.tasks), family.tasks[0].n_outputs)
            a, b = a.reshape(shape), b.reshape(shape)
            if by_logits:
                # A constant added to all logits changes no probability.
                d = a - b
                found = (d - d.mean(-1, keepdim=True)).square().sum(-1)
            else:
                found = jensen_shannon(F.log_softmax(a, -1), F.log_softmax(b, -1))
            shares = [t.weight for t in family.tasks]
        else:
            found = (a - b).square() if by_logits else jensen_shannon(_yes_no(a), _yes_no(b))
            shares = [t.weight / t.n_outputs for t in family.tasks for _ in t.outputs]
        return found @ found.new_tensor(shares)

    # -- the auditor ------------------------------------------------------------------------

    def attack(self, x: Tensor) -> Tensor:
        """x' (B, D) of the largest ``d_Y - m·d_X`` that was found for inputs x, row by row.

        No gradient reaches the model, and no parameter is touched.
        """
        with evaluating(self.model):
            return self._attack(x)

    def _attack(self, x: Tensor) -> Tensor:
        metric = self.metric
        with torch.no_grad():
            clean = precise(self.model(x))

        def objective(moved: Tensor) -> Tensor:
            distance = self.output_distance(clean, precise(self.model(moved)))
            return distance - self.multiplier * metric(x, moved)

        best = _Best(x, objective)
        box = _Box(metric, x)
        if metric.directions.shape[1]:
            slope = best.look(box.corner(box.farther), slope=True)
            upward = slope @ metric.directions > 0
            best.look(box.corner(upward))
            best.look(box.corner(~upward))
        if self.steps:
            # Starts depend on the number of batches seen alone: a resumed run goes on as it was.
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self._seen)).to(x)
            size = self.epsilon**0.5
            moved = box.clip(best.point + noise * (size / x.shape[1] ** 0.5))
            for _ in range(self.steps):
                slope = best.look(moved, slope=True)
                moved = box.clip(moved + _REACH * size / self.steps * F.normalize(slope))
            best.look(moved)
        return best.point

    def _update_dual(self, cost: float) -> None:
        """Moves become dearer where the transport costs too much."""
        excess = min(cost / self.epsilon - 1, _REACH**2)
        low, high = _DUAL_RANGE
        self.multiplier = min(max(self.multiplier * math.exp(_DUAL_RATE * excess), low), high)

    # -- memory -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "multiplier": self.multiplier,
            "seen": self._seen,
            "metric": self.metric.parts(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.multiplier, self._seen = state["multiplier"], state["seen"]
        self.metric = FairMetric(**deepcopy(state["metric"]))


class _Best:
    """The best point (B, D) seen so far, row by row; at first the rows themselves, at value 0."""

    def __init__(self, x: Tensor, objective: Callable[[Tensor], Tensor]) -> None:
        self.point, self._objective = x, objective
        self._value = torch.zeros_like(x[:, 0])

    def look(self, moved: Tensor, slope: bool = False) -> Tensor:
        """Keep what is better; the objective's gradient (B, D) at `moved` if it is asked for."""
        moved = moved.detach().requires_grad_(slope)
        with torch.set_grad_enabled(slope):
            value = self._objective(moved)
            # Only the path to the inputs is followed: parameters get no gradient.
            gradient = torch.autograd.grad(value.sum(), moved)[0] if slope else moved
        moved, value = moved.detach(), value.detach().to(self._value)
        better = value > self._value
        self._value = torch.where(better, value, self._value)
        self.point = torch.where(better[:, None], moved, self.point)
        return gradient


class _Box:
    """Where people lie along the sensitive directions, widened for rows (B, D) outside."""

    def __init__(self, metric: FairMetric, x: Tensor) -> None:
        self._x, self._directions = x, metric.directions
        self._place = x @ metric.directions
        self._low = torch.minimum(metric.low, self._place)
        self._high = torch.maximum(metric.high, self._place)

    @property
    def farther(self) -> Tensor:
        """(B, r): whether the upper end is farther away than the lower one."""
        return self._high - self._place > self._place - self._low

    def corner(self, upper: Tensor) -> Tensor:
        """The rows, moved to the upper or lower end of every direction, (B, r)."""
        target = torch.where(upper, self._high, self._low)
        return self._x + (target - self._place) @ self._directions.T

    def clip(self, moved: Tensor) -> Tensor:
        """Points (B, D), brought back into the box."""
        place = moved @ self._directions
        inside = torch.minimum(torch.maximum(place, self._low), self._high)
        return moved + (inside - place) @ self._directions.T


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats (...,) of log-probabilities (..., K); at most log 2."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    to_p = (log_p.exp() * (log_p - log_m)).sum(-1)
    to_q = (log_q.exp() * (log_q - log_m)).sum(-1)
    return (to_p + to_q) / 2


def _yes_no(logits: Tensor) -> Tensor:
    """Log-probabilities (..., 2) of yes and no."""
    return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], -1)
