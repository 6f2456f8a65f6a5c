"""The interface of post-processing: a model's outputs in, other outputs out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairmt.groups import Groups
from fairmt.methods.base import Method
from fairmt.tasks import Layout


class PostProcessing(Method):
    """Changes fused outputs row by row; the decision rule that follows stays what it is.

    Fitted on calibration rows, which no gradient has seen. Needs the attributes at prediction,
    which `limits` must say; a row whose attribute is missing keeps what is known of it.
    """

    kind: ClassVar[str] = "post-processing"

    def check_settings(self, layout: Layout) -> None:
        """Raise ValueError, before any training, for settings that reach none of the tasks."""
        return

    @abstractmethod
    def fit(
        self,
        layout: Layout,
        groups: Groups,
        outputs: Tensor,
        labels: Tensor,
        attributes: Tensor,
        weights: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> None:
        """Learn from outputs (N, n_outputs), labels (N, n_labels) and codes (N, A).

        Parameters
        ----------
        weights : Tensor (N,), optional.
        offsets : Tensor (n_outputs,), optional
            The decision rule in force; see `fairmt.decisions`.

        Raises
        ------
        ValueError
            For what the method cannot do (see `Method.check`), and for shapes that do not agree.
        """

    @abstractmethod
    def apply(self, outputs: Tensor, attributes: Tensor, strength: float = 1.0) -> Tensor:
        """Other outputs (N, n_outputs): `outputs` at strength 0, the whole repair at 1."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What `fit` found; tensors, numbers, lists and dicts only."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be as `fit` left the method that gave `state`; `apply` needs nothing else."""

    def checked(
        self,
        layout: Layout,
        groups: Groups,
        outputs: Tensor,
        labels: Tensor,
        attributes: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Check what `fit` was given; weights (N,), float64 on the CPU, ones by default."""
        self.check(layout, groups)
        for name, found, width in (
            ("outputs", outputs, layout.n_outputs),
            ("labels", labels, layout.n_labels),
            ("attributes", attributes, len(groups.attributes)),
        ):
            if found.shape != (len(outputs), width):
                raise ValueError(
                    f"{name} must be ({len(outputs)}, {width}). Found {tuple(found.shape)}."
                )
        if not len(outputs):
            raise ValueError(f"Method '{self.name}' needs calibration rows, and there are none.")
        if not bool(outputs.isfinite().all()):
            raise ValueError("Outputs of calibration rows must be finite; found NaN or infinity.")
        groups.check(attributes)
        if weights is None:
            return torch.ones(len(outputs), dtype=torch.float64)
        if weights.shape != (len(outputs),) or not bool((weights >= 0).all() & (weights > 0).any()):
            raise ValueError(
                f"weights must be ({len(outputs)},), 0 or more and not all 0. "
                f"Found {tuple(weights.shape)}."
            )
        return weights.double().cpu()


def known_codes(attributes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Codes (N, A) with -1 for every one outside its attribute's range, as for a missing one.

    Raises
    ------
    ValueError
        If there is not a column for every attribute.
    """
    if attributes.ndim != 2 or attributes.shape[1] != len(sizes):
        raise ValueError(
            f"Attribute codes must be (N, {len(sizes)}). Found {tuple(attributes.shape)}."
        )
    inside = (attributes >= 0) & (attributes < torch.tensor(sizes, device=attributes.device))
    return attributes.where(inside, -1)


def check_strength(strength: float) -> None:
    """Raise ValueError unless `strength` lies in [0, 1]."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 (none) and 1 (whole). Found {strength}.")
