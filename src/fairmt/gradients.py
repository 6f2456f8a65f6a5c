"""Values whose gradients were computed along with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(outer[0] * gradient for gradient in ctx.gradients))


def with_gradients(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """The scalar `value`, as a function of `inputs` with the given gradients.

    For values whose derivative is cheaper by hand than through a recorded graph. Gradients of
    these gradients are not available.
    """
    return _Known.apply(value.detach(), gradients, *inputs)  # type: ignore[no-any-return]
