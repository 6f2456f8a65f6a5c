"""The interface of post-processing: a model's outputs in, other outputs out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

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
        offsets : Tensor (n_outputs,), optional
            The decision rule in force; see `fairmt.decisions`.
        """

    @abstractmethod
    def apply(self, outputs: Tensor, attributes: Tensor, strength: float = 1.0) -> Tensor:
        """Other outputs (N, n_outputs): `outputs` at strength 0, the whole repair at 1."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What `fit` found; tensors, numbers, lists and dicts only."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
