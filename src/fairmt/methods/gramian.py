"""Task conflict: the encoder follows a weighting of the task gradients by their Gramian."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.distributed import all_sum, average_gradients, world_size
from fairmt.groups import Groups
from fairmt.methods.base import Log, StepMethod, precise
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task

SETTINGS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.5},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 0},
}
"""What TorchJD leaves to its caller: CAGrad's radius, FairGrad's proportional fairness (between
tasks, not people), and how many tasks Krum takes for hostile."""


class Gramian(StepMethod):
    """``θ ← θ − η Σ_t w_t(K) ∂L_t/∂θ`` with ``K[t, s] = ⟨∂L_t/∂θ, ∂L_s/∂θ⟩`` on the encoder's θ.

    The weights come from TorchJD, by name; every head follows its own loss, as in TorchJD's
    `mtl_backward`. The encoder is traversed backwards once per task.

    A task whose gradient vanishes, as one without labels in the batch, takes no part: the others
    are weighted among themselves, by a copy without memory where the weighting has one, and with
    ones where too few are left for it. A frozen encoder leaves nothing to weight.

    Parameters
    ----------
    weighting : str
        One of `weightings()`: 'UPGrad', 'MGDA', 'PCGrad', 'CAGrad', … For 'PCD' the first task is
        the primary one.
    settings : mapping, optional
        Arguments of the weighting; what it leaves to its caller is in `SETTINGS`.

    Raises
    ------
    ValueError
        If the weighting is unknown, or needs more tasks.
    ImportError
        If TorchJD or a package that the weighting needs is absent.
    """

    name: ClassVar[str] = "gramian"
    summary: ClassVar[str] = "task gradients weighted by their Gramian (TorchJD), no fairness term"
    attributes: ClassVar[str] = "none"
    source: ClassVar[str] = (
        "TorchJD (Quinton and Rey 2024, arXiv 2406.16232) and papers named there"
    )
    limits: ClassVar[str] = "does nothing for any group; one backward pass per task"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        weighting: str = "UPGrad",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        known = weightings()
        if weighting not in known:
            raise ValueError(f"Unknown weighting '{weighting}'; expected one of {sorted(known)}.")
        self.weighting: nn.Module = known[weighting](
            **SETTINGS.get(weighting, {}) | dict(settings or {})
        )
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        n = len(self.layout.tasks)
        able = [m for m in range(2, n + 1) if self._takes(m)]
        if n > 1 and n not in able:
            raise ValueError(
                f"{self.weighting} cannot weight {n} tasks; change its settings, give more tasks, "
                "or use weighting='UPGrad'."
            )
        self._fewest = min(able, default=2)

    def step(self, batch: Mapping[str, Any], scale: float = 1.0) -> Log:
        shared = [p for p in self.model.encoder.parameters() if p.requires_grad]
        if not shared:
            return super().step(batch, scale)
        b = self.unpack(batch)
        outputs = precise(self.model(b.features))
        losses = self.task_losses(outputs, b)
        rows = []
        for loss in losses:
            own = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([precise(g).flatten() for g in own]))
        jacobian = all_sum(torch.stack(rows)) / world_size()
        weights = self.weights(jacobian @ jacobian.T)
        heads = [p for p in self.model.heads.parameters() if p.requires_grad]
        (losses.sum() * scale).backward(inputs=heads)
        average_gradients(heads)
        gradients = (weights * scale) @ jacobian
        sizes = [p.numel() for p in shared]
        for p, g in zip(shared, gradients.split(sizes), strict=True):
            g = g.view_as(p).to(p.dtype)
            p.grad = g if p.grad is None else p.grad + g
        return {"loss": losses.detach().sum()}

    def weights(self, k: Tensor) -> Tensor:
        """Weights (T,) from the Gramian (T, T); 0 for tasks without gradient."""
        live = k.diagonal() > 0
        if bool(live.all()) and len(k) >= self._fewest:
            return self.weighting(k)  # type: ignore[no-any-return]
        weights = live.to(k.dtype)
        if int(live.sum()) >= self._fewest:
            weights[live] = _without_memory(self.weighting)(k[live][:, live])
        return weights

    def _takes(self, n: int) -> bool:
        """Whether the weighting is defined for so many tasks."""
        try:
            with torch.random.fork_rng(devices=[]):
                _without_memory(self.weighting)(torch.eye(n))
        except ValueError:
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"weighting": deepcopy(dict(self.weighting.state_dict()))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        saved = state["weighting"]
        self.weighting = _without_memory(self.weighting)
        if saved:
            # TorchJD makes its buffers on the first call, from size and type of the Gramian.
            like = next(self.model.parameters())
            with torch.random.fork_rng(devices=[]):
                self.weighting(torch.eye(len(self.layout.tasks), dtype=precise(like).dtype))
            self.weighting.load_state_dict(saved)


def weightings() -> dict[str, type[nn.Module]]:
    """TorchJD's weightings that take a Gramian, by name.

    Raises
    ------
    ImportError
        If TorchJD is absent.
    """
    try:
        import torchjd.aggregation as aggregation
    except ImportError as error:
        raise ImportError(
            "Method 'gramian' takes its weightings from TorchJD: pip install 'fairmt[torchjd]'."
        ) from error
    found = {}
    for name in aggregation.__all__:
        if name.endswith("Weighting"):
            kind = getattr(aggregation, name)
            if "gramian" in inspect.signature(kind.forward).parameters:
                found[name.removesuffix("Weighting")] = kind
    return found


def _without_memory(weighting: nn.Module) -> nn.Module:
    copy: Any = deepcopy(weighting)
    if hasattr(copy, "reset"):
        copy.reset()
    return copy  # type: ignore[no-any-return]
