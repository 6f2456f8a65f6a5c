"""How differently one number is distributed in a group and in the rest of its attribute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairmt.groups import Groups


def kernel_distance(
    values: Tensor, member: Tensor, groups: Groups, widths: Sequence[float]
) -> Tensor:
    """Mean over attributes and their groups of the squared MMD between a group and the rest.

    With two groups this is the squared maximum mean discrepancy between them (Gretton et al.
    2012). The kernel is the mean of Gaussian ones, ``exp(-d²/2σ²)``. The estimate is the unbiased
    one, which a fair predictor does not feel on average; it may be slightly negative. A group
    counts if it and its rest have two rows, and 0 is given if none does.

    Parameters
    ----------
    values : Tensor (B,).
    member : Tensor (B, G), the weight of a row in a group, 0 outside it.
    widths : σ of the kernels, in units of the values.
    """
    if not len(values):
        return values.sum()
    square = (values[:, None] - values[None, :]).square()
    kernel = torch.zeros_like(square)
    for width in widths:
        kernel = kernel + (square * (-0.5 / width**2)).exp() / len(widths)
    share = member.new_tensor([1.0 / (p.groups.stop - p.groups.start) for p in groups.partitions])
    share = share[groups.partition_of_group().to(member.device)]
    known = torch.cat(
        [
            member[:, p.groups].sum(1, keepdim=True).expand(-1, p.groups.stop - p.groups.start)
            for p in groups.partitions
        ],
        1,
    )
    own, own_known = _distribution(member)
    rest, rest_known = _distribution(known - member)
    to_rest = kernel @ rest
    distances = _within(own, kernel @ own) + _within(rest, to_rest) - 2 * (own * to_rest).sum(0)
    share = share * (own_known & rest_known)
    return (share * distances).sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny)


def _distribution(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, G) with columns that sum to 1, and whether two rows carry them."""
    p = weights / weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
    return p, (weights > 0).sum(0) >= 2


def _within(p: Tensor, smoothed: Tensor) -> Tensor:
    """Expected kernel of two different rows of a group, (G,), from p and kernel @ p."""
    same = p.square().sum(0)
    left = torch.where(same < 1, 1 - same, 1.0)
    # The kernel of a row with itself is 1.
    return ((p * smoothed).sum(0) - same) / left
