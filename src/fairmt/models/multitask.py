"""The multi-task model: a shared encoder, and heads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fairmt.models.heads import LinearHeads, TaskHeads
from fairmt.tasks import Layout


class MultiTask(nn.Module):
    """``outputs = heads(encoder(features))``, (B, n_outputs) in the layout's fused order."""

    def __init__(
        self, encoder: nn.Module, heads: nn.Module | Mapping[str, nn.Module], layout: Layout
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads if isinstance(heads, nn.Module) else TaskHeads(heads, layout)
        if not isinstance(self.heads, LinearHeads | TaskHeads):
            raise ValueError(
                "heads must be LinearHeads, TaskHeads, or a mapping from task name to module. "
                f"Found {type(heads).__name__}."
            )
        self.layout = layout

    def forward(self, features: Tensor) -> Tensor:
        return self.heads(self.encoder(features))  # type: ignore[no-any-return]
