"""What all methods share, and the interface of step methods: a batch in, gradients out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fairmt.distributed import average_gradients, joint
from fairmt.groups import Groups
from fairmt.losses import Losses
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task

Log = dict[str, Tensor | float]
TASK_KINDS = ("classification", "detection", "regression")


class Method:
    """What every method says of itself, whatever its kind.

    Attributes
    ----------
    kind : 'step', 'pre-training', 'post-processing' or 'estimator'.
    tasks : kinds of task that its fairness part (or what it does instead) acts on.
    attributes : 'none' (never looks at them), 'categorical', or 'categorical and continuous'.
    claims : notions whose gaps it is meant to close; empty if it claims no group fairness.
    label_free : whether rows without any label take part in its fairness term.
    limits : what it cannot do, in words.
    estimator : what to import, for a method of that kind.
    source : where it comes from.
    revision : raised when a change makes its earlier results those of another method; runs of the
        benchmark are named by it.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    summary: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = TASK_KINDS
    attributes: ClassVar[str] = "categorical"
    claims: ClassVar[tuple[str, ...]] = ()
    label_free: ClassVar[bool] = False
    limits: ClassVar[str] = ""
    source: ClassVar[str] = ""
    estimator: ClassVar[str] = ""
    revision: ClassVar[int] = 0

    @classmethod
    def check(cls, layout: Layout, groups: Groups, continuous: Sequence[str] = ()) -> None:
        """Refuse, before any training, what the method's mathematics cannot do.

        Parameters
        ----------
        continuous : names of the sensitive attributes that shall be used as numbers.

        Raises
        ------
        ValueError
            Naming task or attribute, and methods that can. A method that acts on some of the
            tasks warns of the others.
        """
        if continuous and cls.attributes == "categorical":
            raise ValueError(
                f"Method '{cls.name}' cannot use {list(continuous)} as numbers: it compares groups."
                f" Leave them cut into bands, or use {able(continuous=True)}."
            )
        if cls.attributes != "none" and not groups.attributes:
            raise ValueError(
                f"Method '{cls.name}' needs a sensitive attribute and none is given: name them in "
                "sensitive=[...] or pass sensitive_features, or use method='plain'."
            )
        outside = [t for t in layout.tasks if t.kind not in cls.tasks]
        if not outside:
            return
        kinds = sorted({t.kind for t in outside})
        names = [t.name for t in outside]
        if len(outside) == len(layout.tasks):
            raise ValueError(
                f"Method '{cls.name}' is not defined for {' and '.join(kinds)}, which the tasks "
                f"{names} are. Methods that are: {able(kinds=kinds)}."
            )
        warnings.warn(
            f"Method '{cls.name}' is not defined for {' and '.join(kinds)}: the tasks {names} are "
            f"trained without it. Methods that reach them: {able(kinds=kinds)}.",
            stacklevel=3,
        )


def able(kinds: Sequence[str] = (), continuous: bool = False) -> list[str]:
    """Names of the methods that can."""
    from fairmt.methods import METHODS

    return [
        name
        for name, m in METHODS.items()
        if m.attributes != "none"
        and set(kinds) <= set(m.tasks)
        and (not continuous or "continuous" in m.attributes)
    ]


class Batch(NamedTuple):
    """A batch with labels (B, n_labels) and attribute codes (B, A) packed.

    `values` (B, A) holds numeric attributes as numbers, NaN where an attribute is missing or is
    not to be used as one.
    """

    features: Any
    labels: Tensor
    attributes: Tensor
    weights: Tensor | None
    values: Tensor | None = None


def precise(x: Tensor) -> Tensor:
    """At least single precision."""
    return x if x.dtype == torch.float64 else x.float()


class StepMethod(Method):
    """Turns a batch into gradients; the caller owns optimiser, clipping and loop.

    Give encoder, heads, tasks and groups to the constructor to use a method in a loop of your
    own, or leave them out and call `setup`, as the trainer does.

    A batch is a mapping with the keys

    - ``features``: what the encoder takes, usually (B, D);
    - ``labels``: by task name, NaN where missing: (B,) class indices, (B, K) of 0/1, or (B, K)
      values in the task's units; or one packed matrix (`Layout.pack`);
    - ``attributes``: by attribute name, (B,) int64 codes, -1 where missing; or packed (B, A);
    - ``weights``, optional: (B,);
    - ``values``, optional: (B, A), sensitive attributes as numbers, NaN where missing or not one.

    Attributes
    ----------
    strength : float or None
        λ of the fairness part, None for methods without one. Settable at any step.
    strengths : (float, float)
        λ at the start and at the end of a learner's path: what λ is worth differs from method to
        method, and each has the range in which its trade-off lies.
    """

    kind: ClassVar[str] = "step"
    strengths: ClassVar[tuple[float, float]] = (0.3, 20.0)
    strength: float | None = None

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
    ) -> None:
        given = [x is not None for x in (encoder, heads, tasks, groups)]
        if all(given):
            layout = tasks if isinstance(tasks, Layout) else Layout(tuple(tasks or ()))
            assert encoder is not None
            assert heads is not None
            assert groups is not None
            self.setup(MultiTask(encoder, heads, layout), groups)
        elif any(given):
            raise ValueError("Give encoder, heads, tasks and groups together, or none of them.")

    @staticmethod
    def adapt(model: MultiTask) -> MultiTask:
        """The network that this method trains in place of `model`; by default `model` itself."""
        return model

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        """Bind the method to a model; subclasses build their state here.

        Parameters
        ----------
        data : TensorTable, optional
            Training rows, for methods that need whole-set figures before the first step.
        """
        model = self.adapt(model)
        self.check(model.layout, groups)
        self.model, self.layout, self.groups = model, model.layout, groups
        self.losses = Losses(model.layout)
        self.offsets = torch.zeros(model.layout.n_outputs)
        self._task_weights = torch.tensor([t.weight for t in model.layout.tasks])

    def unpack(self, batch: Mapping[str, Any]) -> Batch:
        """Check a batch's keys and pack labels and attributes."""
        missing = {"features", "labels", "attributes"} - set(batch)
        if missing:
            raise ValueError(f"The batch lacks {sorted(missing)}; found {sorted(batch)}.")
        return Batch(
            batch["features"],
            self.layout.pack(batch["labels"]),
            self.groups.pack(batch["attributes"]),
            batch.get("weights"),
            batch.get("values"),
        )

    def task_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Weighted task losses (T,), over all processes' rows."""
        losses = self.losses(outputs, batch.labels, batch.weights, joint)
        return losses * self._task_weights.to(losses.device)

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        """The fairness term that `strength` multiplies; None for methods without one."""
        return None

    def step(self, batch: Mapping[str, Any], scale: float = 1.0) -> Log:
        """Add the gradients of one batch to the parameters' ``.grad``.

        Parameters
        ----------
        scale : float
            Multiplies the gradients: 1/k for accumulation over k batches, times the scale of a
            gradient scaler.

        Returns
        -------
        dict with at least 'loss', the sum of the weighted task losses.
        """
        b = self.unpack(batch)
        z = self.model.encoder(b.features)
        outputs = precise(self.model.heads(z))
        loss = self.task_losses(outputs, b).sum()
        log: Log = {"loss": loss.detach()}
        total = loss
        if self.strength:
            penalty = self.penalty(z, outputs, b)
            if penalty is not None:
                total = loss + self.strength * penalty
                log |= {"penalty": penalty.detach(), "strength": self.strength}
        (total * scale).backward()
        average_gradients(self.parameters())
        return log

    def parameters(self) -> Iterable[nn.Parameter]:
        """Everything the optimiser moves: the model, and what the method adds."""
        return self.model.parameters()

    def set_offsets(self, offsets: Tensor) -> None:
        """The decision rule in force, (n_outputs,): soft decisions are centred at it."""
        self.offsets = offsets.detach().clone()

    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> Log:
        """Look at data that no gradient sees, once an epoch. Nothing to do for most methods."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers besides the model; tensors, numbers, lists and dicts only."""
        return {"offsets": self.offsets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.offsets = state["offsets"].clone()
