"""What is predicted: tasks, and the layout that fuses them.

A task never sees groups. Labels are in the user's own units and may be missing (NaN) entry by
entry; a missing entry contributes to no sum. Outputs are what the heads give: logits for
`Classification` and `Detection`, standardised values for `Regression`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairmt.constants import Constant


@dataclass(frozen=True)
class Task(ABC):
    """One outcome to predict. Use `Classification`, `Detection` or `Regression`.

    Parameters
    ----------
    name : str
        Unique among the tasks of a model.
    outputs : sequence of str
        Classes, labels or target columns. Empty: taken from the data when a schema is inferred.
    columns : sequence of str
        Where the labels stand in a table: one column for `Classification`; one per output
        otherwise. Empty: `name` (or the outputs, if there are several).
    weight : float
        Weight of the task's loss and of its entries in the constraint.
    output_weights : sequence of float
        Weight per class, label or target column in the loss; empty for ones.
    """

    name: str
    outputs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    weight: float = 1.0
    output_weights: tuple[float, ...] = ()

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for attribute in ("outputs", "columns", "output_weights"):
            value = getattr(self, attribute)
            if isinstance(value, str):
                value = (value,)
            object.__setattr__(self, attribute, tuple(value))
        if not self.name:
            raise ValueError("A task needs a name.")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"Task '{self.name}': outputs {list(self.outputs)} are not distinct.")
        if self.weight <= 0:
            raise ValueError(f"Task '{self.name}': weight must be positive. Found {self.weight}.")
        if self.output_weights and len(self.output_weights) != len(self.outputs):
            raise ValueError(
                f"Task '{self.name}': {len(self.output_weights)} output_weights for "
                f"{len(self.outputs)} outputs."
            )
        if not self.columns:
            object.__setattr__(self, "columns", self._default_columns())

    def _default_columns(self) -> tuple[str, ...]:
        return self.outputs if len(self.outputs) > 1 else (self.name,)

    @property
    def n_outputs(self) -> int:
        return len(self.outputs)

    @property
    @abstractmethod
    def label_width(self) -> int:
        """Columns of the label tensor: 1 for `Classification`, `n_outputs` otherwise."""

    @abstractmethod
    def to_labels(self, output: Tensor) -> Tensor:
        """Outputs (B, K) to point predictions without offsets, in the labels' units."""

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> Task:
        """Inverse of `to_dict`."""
        config = dict(config)
        kind = config.pop("kind", None)
        if kind not in KINDS:
            raise ValueError(f"Unknown task kind {kind!r}; expected one of {sorted(KINDS)}.")
        cls = KINDS[kind]
        unknown = set(config) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"Task kind '{kind}' has no setting {sorted(unknown)}.")
        return cls(**config)


@dataclass(frozen=True)
class Classification(Task):
    """One of K classes. Labels (B,): class indices as floats, NaN where missing.

    Loss: cross-entropy. `favourable` names the class that people want; notions that support it
    (equal opportunity) then look at that class alone.
    """

    favourable: str | None = None
    kind: ClassVar[str] = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs and self.n_outputs < 2:
            raise ValueError(f"Task '{self.name}': needs two classes, found {list(self.outputs)}.")
        if self.favourable is not None and self.outputs and self.favourable not in self.outputs:
            raise ValueError(
                f"Task '{self.name}': favourable class {self.favourable!r} is not among "
                f"{list(self.outputs)}."
            )

    def _default_columns(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def label_width(self) -> int:
        return 1

    def to_labels(self, output: Tensor) -> Tensor:
        return output.argmax(-1)


@dataclass(frozen=True)
class Detection(Task):
    """K independent yes/no labels. Labels (B, K): 0, 1, or NaN entry by entry.

    Loss: binary cross-entropy over the observed entries; `positive_weights` multiply the loss of
    the positive entries of each label.
    """

    positive_weights: tuple[float, ...] = ()
    kind: ClassVar[str] = "detection"

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive_weights", tuple(self.positive_weights))
        super().__post_init__()
        if self.positive_weights and len(self.positive_weights) != self.n_outputs:
            raise ValueError(
                f"Task '{self.name}': {len(self.positive_weights)} positive_weights for "
                f"{self.n_outputs} outputs."
            )

    @property
    def label_width(self) -> int:
        return self.n_outputs

    def to_labels(self, output: Tensor) -> Tensor:
        return (output > 0).to(output.dtype)


@dataclass(frozen=True)
class Regression(Task):
    """K real values. Labels (B, K) in the user's units, NaN where missing.

    Outputs are in standard units, `(y - centre) / scale`; a schema sets both from the training
    rows. Losses: `mse`, `huber` (threshold 1 sd) or `ccc` (1 - concordance correlation).
    """

    loss: str = "mse"
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    kind: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        if not self.outputs:
            columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
            object.__setattr__(self, "outputs", columns or (self.name,))
        super().__post_init__()
        for name, default in (("centre", 0.0), ("scale", 1.0)):
            value = tuple(getattr(self, name)) or (default,) * self.n_outputs
            if len(value) != self.n_outputs:
                raise ValueError(
                    f"Task '{self.name}': {len(value)} values of {name} for "
                    f"{self.n_outputs} outputs."
                )
            object.__setattr__(self, name, value)
        if self.loss not in ("mse", "huber", "ccc"):
            raise ValueError(
                f"Task '{self.name}': loss must be 'mse', 'huber' or 'ccc'. Found {self.loss!r}."
            )
        if any(s <= 0 for s in self.scale):
            raise ValueError(f"Task '{self.name}': scale must be positive. Found {self.scale}.")

    @property
    def label_width(self) -> int:
        return self.n_outputs

    def standardise(self, label: Tensor) -> Tensor:
        """Labels (B, K) from the user's units to standard units."""
        return (label - label.new_tensor(self.centre)) / label.new_tensor(self.scale)

    def to_labels(self, output: Tensor) -> Tensor:
        return output * output.new_tensor(self.scale) + output.new_tensor(self.centre)


KINDS: dict[str, type[Task]] = {c.kind: c for c in (Classification, Detection, Regression)}


@dataclass(frozen=True)
class Family:
    """Tasks of one shape whose outputs stand side by side, so that one operation serves all.

    `outputs` and `labels` are slices of the fused output and label matrices; `task_index` are the
    positions of the tasks in the layout.
    """

    kind: str
    tasks: tuple[Task, ...]
    task_index: tuple[int, ...]
    outputs: slice
    labels: slice


@dataclass(frozen=True)
class Layout:
    """Where each task stands in the fused outputs (B, n_outputs) and labels (B, n_labels).

    Tasks keep the user's order in every list; inside the fused matrices they are sorted into
    families, so that losses and rates of forty tasks cost as many operations as those of one.
    """

    tasks: tuple[Task, ...]
    families: tuple[Family, ...] = field(init=False, repr=False)
    outputs: dict[str, slice] = field(init=False, repr=False)
    labels: dict[str, slice] = field(init=False, repr=False)
    n_outputs: int = field(init=False)
    n_labels: int = field(init=False)
    _standards: tuple[Constant, Constant, Constant] = field(init=False, repr=False, compare=False)
    _sizes: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tasks = tuple(self.tasks)
        if not tasks:
            raise ValueError("At least one task is needed.")
        names = [task.name for task in tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"Task names must be unique. Found {names}.")
        for task in tasks:
            if not task.outputs:
                raise ValueError(
                    f"Task '{task.name}': its outputs are not known yet; name them or infer a "
                    "schema from data."
                )
        shapes: dict[tuple[Any, ...], list[int]] = {}
        for position, task in enumerate(tasks):
            shape: tuple[Any, ...] = (task.kind,)
            if isinstance(task, Classification):
                shape += (task.n_outputs,)
            if isinstance(task, Regression):
                shape += (task.loss,)
            shapes.setdefault(shape, []).append(position)
        families, outputs, labels = [], {}, {}
        o = l = 0
        for shape, members in shapes.items():
            o0, l0 = o, l
            for position in members:
                task = tasks[position]
                outputs[task.name] = slice(o, o + task.n_outputs)
                labels[task.name] = slice(l, l + task.label_width)
                o += task.n_outputs
                l += task.label_width
            families.append(
                Family(
                    shape[0],
                    tuple(tasks[p] for p in members),
                    tuple(members),
                    slice(o0, o),
                    slice(l0, l),
                )
            )
        for name, value in {
            "tasks": tasks,
            "families": tuple(families),
            "outputs": outputs,
            "labels": labels,
            "n_outputs": o,
            "n_labels": l,
        }.items():
            object.__setattr__(self, name, value)
        column: list[int] = []
        centre: list[float] = []
        scale: list[float] = []
        for task in (task for family in families for task in family.tasks):
            first, n = labels[task.name].start, task.n_outputs
            if isinstance(task, Classification):
                column += [first] * n
                centre += range(n)
            else:
                column += range(first, first + n)
                centre += task.centre if isinstance(task, Regression) else (0.0,) * n
            scale += task.scale if isinstance(task, Regression) else (1.0,) * n
        standards = (Constant(torch.tensor(column)), Constant(centre), Constant(scale))
        object.__setattr__(self, "_standards", standards)
        sizes = [f.outputs.stop - f.outputs.start for f in families]
        object.__setattr__(self, "_sizes", sizes)

    def __getitem__(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(f"No task '{name}'; the tasks are {[t.name for t in self.tasks]}.")

    def task_of_output(self) -> Tensor:
        """Position of the task of every fused output, (n_outputs,) int64."""
        index = torch.empty(self.n_outputs, dtype=torch.int64)
        for position, task in enumerate(self.tasks):
            index[self.outputs[task.name]] = position
        return index

    def pack(self, labels: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Labels by task name to the fused matrix (B, n_labels); a packed matrix passes through.

        Raises
        ------
        ValueError
            If a task is missing or a label tensor has the wrong shape.
        """
        if isinstance(labels, Tensor):
            if labels.ndim != 2 or labels.shape[1] != self.n_labels:
                raise ValueError(
                    f"Packed labels must be (B, {self.n_labels}). Found {tuple(labels.shape)}."
                )
            return labels
        parts = []
        for family in self.families:
            for task in family.tasks:
                if task.name not in labels:
                    raise ValueError(
                        f"No labels for task '{task.name}'; found {sorted(labels)}. A task without "
                        "labels in this batch needs a column of NaN."
                    )
                label = labels[task.name]
                if label.ndim == 1:
                    label = label.unsqueeze(1)
                if label.ndim != 2 or label.shape[1] != task.label_width:
                    raise ValueError(
                        f"Labels of task '{task.name}' must be (B, {task.label_width}). "
                        f"Found {tuple(label.shape)}."
                    )
                parts.append(label if label.is_floating_point() else label.float())
        return torch.cat(parts, 1)

    def unpack(self, labels: Tensor) -> dict[str, Tensor]:
        """Inverse of `pack`; labels of a `Classification` come back as (B,)."""
        return {
            task.name: (
                labels[:, self.labels[task.name]].squeeze(1)
                if task.kind == "classification"
                else labels[:, self.labels[task.name]]
            )
            for task in self.tasks
        }

    def standards(self) -> tuple[Constant, Constant, Constant]:
        """For every fused output: its column among the labels, and the centre and scale of these.

        The centre of a class is its number, so that its label becomes 0 where the class holds.
        """
        return self._standards

    def by_family(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Fused outputs (B, n_outputs), one part per family."""
        return (outputs,) if len(self._sizes) == 1 else outputs.split_with_sizes(self._sizes, 1)

    def split(self, outputs: Tensor) -> dict[str, Tensor]:
        """Fused outputs (B, n_outputs) to outputs by task (B, K)."""
        return {task.name: outputs[:, self.outputs[task.name]] for task in self.tasks}
