"""An encoder that is trained no further."""

from __future__ import annotations

from torch import Tensor, nn


class Frozen(nn.Module):
    """Passes on what `module` gives; it takes no gradient, and stays in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        self.n_inputs, self.n_features = module.n_inputs, module.n_features

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)  # type: ignore[no-any-return]
