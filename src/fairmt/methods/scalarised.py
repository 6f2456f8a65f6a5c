"""Task losses made one number by a rule of TorchJD: FAMO, dynamic weights, uncertainty, …"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairmt.distributed import average_gradients, joint
from fairmt.groups import Groups
from fairmt.methods.base import Batch, Log, StepMethod, precise
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task

SETTINGS: dict[str, dict[str, Any]] = {
    "COSMOS": {"lambda_": 1.0},
    "PBI": {"theta": 5.0},
    "STCH": {"mu": 0.1},
}
"""What TorchJD leaves to its caller; `weights`, where needed, are 1/T each."""
_REMEMBERED = ("_prev_losses", "_loss_sum", "_n_batches", "_previous_averages")
_SMALLEST = 1e-8
"""Losses are at least this: some rules take logarithms."""


class Scalarised(StepMethod):
    """``min s(w_1 L_1, …, w_T L_T)`` with a scalarisation s of TorchJD, by name.

    What a rule learns is learned as its paper says: UW's and IMTLL's scales by the optimiser;
    FAMO's logits by their own Adam from how far the last batch's losses fell, looked at again at
    the next step (one more forward pass); DWA from the mean losses of the last two periods.

    A task without labels in the batch stands with its last loss, as a constant; FAMO counts its
    progress as the mean of the others' and leaves its logit where it is.

    Parameters
    ----------
    scalarization : str
        One of `scalarizations()`: 'FAMO', 'DWA', 'UW', 'IMTLL', 'STCH', 'GeometricMean', …
    settings : mapping, optional
        Arguments of the scalarisation; what it leaves to its caller is in `SETTINGS`. Lists become
        tensors.
    period : int
        Steps of what DWA calls an epoch.

    Raises
    ------
    ValueError
        If the scalarisation is unknown.
    ImportError
        If TorchJD is absent.
    """

    name: ClassVar[str] = "scalarised"
    summary: ClassVar[str] = "task losses made one by FAMO, DWA, UW, … (TorchJD), no fairness term"
    attributes: ClassVar[str] = "none"
    source: ClassVar[str] = "TorchJD's scalarisations; FAMO: Liu, Feng, Stone and Liu (2023)"
    limits: ClassVar[str] = "does nothing for any group"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        scalarization: str = "FAMO",
        settings: Mapping[str, Any] | None = None,
        period: int = 100,
    ) -> None:
        known = scalarizations()
        if scalarization not in known:
            raise ValueError(
                f"Unknown scalarization '{scalarization}'; expected one of {sorted(known)}."
            )
        if period < 1:
            raise ValueError(f"period must be at least 1. Found {period}.")
        self._kind = known[scalarization]
        self._settings = SETTINGS.get(scalarization, {}) | dict(settings or {})
        self.period = period
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        n = len(self.layout.tasks)
        settings: dict[str, Any] = {}
        for name, parameter in inspect.signature(self._kind).parameters.items():
            if name in self._settings:
                value = self._settings[name]
                settings[name] = torch.tensor(value) if isinstance(value, list | tuple) else value
            elif parameter.default is parameter.empty:
                settings[name] = n if name == "shape" else torch.full((n,), 1 / n)
        unknown = set(self._settings) - set(settings)
        if unknown:
            raise ValueError(f"{self._kind.__name__} has no settings {sorted(unknown)}.")
        self.scalariser: Any = self._kind(**settings)
        self.steps = 0
        self.last = torch.ones(n)
        self._batch: Batch | None = None
        self._seen = torch.ones(n, dtype=torch.bool)

    def step(self, batch: Mapping[str, Any], scale: float = 1.0) -> Log:
        if self._looks_back:
            self._look_back()
        b = self.unpack(batch)
        losses = self.task_losses(precise(self.model(b.features)), b)
        values = self._values(losses, b)
        (self.scalariser(values) * scale).backward()
        average_gradients(self.parameters())
        self.steps += 1
        if hasattr(self.scalariser, "step") and self.steps % self.period == 0:
            self.scalariser.step()
        return {"loss": losses.detach().sum()}

    def _values(self, losses: Tensor, b: Batch) -> Tensor:
        """Losses (T,) on the CPU, where the rule lives; of absent tasks the last ones."""
        entries = joint((~b.labels.isnan()).to(losses.dtype).sum(0))
        present = [entries[self.layout.labels[t.name]].sum() > 0 for t in self.layout.tasks]
        seen = torch.stack(present).cpu()
        own = losses.cpu().clamp(min=_SMALLEST)
        values = torch.where(seen, own, self.last.to(own.dtype))
        self.last = values.detach()
        if self._looks_back:
            self._batch, self._seen = b, seen
        return values

    @property
    def _looks_back(self) -> bool:
        return hasattr(self.scalariser, "update")

    @torch.no_grad()
    def _look_back(self) -> None:
        """FAMO's own step: the last batch's losses again, now that the optimiser has moved."""
        if self._batch is None:
            return
        outputs = precise(self.model(self._batch.features))
        after = self.task_losses(outputs, self._batch).cpu().clamp(min=_SMALLEST)
        fall = self.last.log() - after.log()
        logits = self.scalariser._w
        before, share = logits.clone(), logits.softmax(0) * self._seen
        progress = (share * fall).sum() / share.sum().clamp(min=1e-12)
        self.scalariser.update(torch.where(self._seen, after, self.last * (-progress).exp()))
        # Adam would blow the rounding error of a vanishing gradient up to a whole step.
        logits.copy_(torch.where(self._seen, logits, before))

    def parameters(self) -> Iterable[nn.Parameter]:
        own = self.model.parameters()
        return own if self._looks_back else chain(own, self.scalariser.parameters())

    # -- memory -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        rule = self.scalariser
        optimiser = getattr(rule, "_optimizer", None)
        b = self._batch
        return super().state_dict() | {
            "steps": self.steps,
            "last": self.last.clone(),
            "seen": self._seen.clone(),
            "batch": None if b is None else [b.features, b.labels, b.attributes, b.weights],
            "parameters": deepcopy(dict(rule.state_dict())),
            "remembered": {k: deepcopy(vars(rule)[k]) for k in _REMEMBERED if k in vars(rule)},
            "optimiser": None if optimiser is None else deepcopy(optimiser.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        rule = self.scalariser
        self.steps, self.last = int(state["steps"]), state["last"].clone()
        self._seen = state["seen"].clone()
        self._batch = None if state["batch"] is None else Batch(*state["batch"])
        rule.load_state_dict(state["parameters"])
        for name, value in state["remembered"].items():
            setattr(rule, name, deepcopy(value))
        if hasattr(rule, "_optimizer"):
            rule._optimizer = None
            if state["optimiser"] is not None:
                rule._optimizer = torch.optim.Adam(
                    [rule._w], lr=rule.lr, weight_decay=rule.weight_decay
                )
                rule._optimizer.load_state_dict(deepcopy(state["optimiser"]))


def scalarizations() -> dict[str, type[nn.Module]]:
    """TorchJD's scalarisations, by name.

    Raises
    ------
    ImportError
        If TorchJD is absent.
    """
    try:
        import torchjd.scalarization as scalarization
    except ImportError as error:
        raise ImportError(
            "Method 'scalarised' takes its rules from TorchJD: pip install 'fairmt[torchjd]'."
        ) from error
    names = [name for name in scalarization.__all__ if name != "Scalarizer"]
    return {name: getattr(scalarization, name) for name in names}
