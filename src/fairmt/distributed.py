"""Sums over processes. In one process every function is the identity.

Gradients are averaged over processes in the end, so a joint sum hands each process R times its
own part of the gradient: the average is then the gradient of the joint objective.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """Sum over processes, without gradient."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def joint(sums: Tensor) -> Tensor:
    """Sum over processes; the gradient is R times that of this process's part."""
    r = world_size()
    if r == 1:
        return sums
    total = all_sum(sums)
    return total + r * (sums - sums.detach()) if sums.requires_grad else total


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes, in one message."""
    if world_size() == 1:
        return
    chosen = [p for p in parameters if p.requires_grad]
    for p in chosen:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in chosen if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world_size()
    start = 0
    for p in chosen:
        assert p.grad is not None
        p.grad.copy_(flat[start : start + p.numel()].view_as(p))
        start += p.numel()
