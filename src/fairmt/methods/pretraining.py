"""The interface of pre-training: an encoder out, made without labels or before them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from fairmt.groups import Groups
from fairmt.methods.base import Method


class PreTraining(Method):
    """Gives the encoder that the heads are then put on.

    Attributes
    ----------
    frozen : bool
        Whether the heads alone are trained afterwards, so that the representation stays as it is.
    """

    kind: ClassVar[str] = "pre-training"
    frozen: bool = True

    @abstractmethod
    def fit(
        self,
        encoder: nn.Module,
        table: Any,
        groups: Groups,
        *,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> nn.Module:
        """The trained encoder: `encoder` itself, or one of the method's own with `n_features`.

        Parameters
        ----------
        encoder : module with `n_inputs` and `n_features`
        table : TensorTable
            Training rows; methods of this kind never read its labels unless they say so.
        checkpoint : path, optional
            Folder to go on from after an interruption, bitwise where it was.
        """
