"""What the labels say, in the columns of the fused outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fairmt.tasks import Layout


def truths(
    layout: Layout, labels: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Observed and actual (B, n_outputs) from fused labels (B, n_labels).

    Observed is 1 where the label is known, else 0. Actual is 1 where the class or label holds, and
    for regression the target in standard units; 0 where the label is missing.
    """
    y = labels if dtype is None else labels.to(dtype)
    label_of_output, centre, scale = layout.standards()
    if layout.n_labels != layout.n_outputs:
        y = y.index_select(1, label_of_output.on(y.device))
    # Comparisons that write numbers are several times as fast as those that write booleans.
    observed = torch.eq(y, y, out=torch.empty_like(y))
    y = (y - centre.like(y)).div_(scale.like(y))
    actual = torch.nan_to_num(y)
    for family in layout.families:
        if family.kind == "classification":
            # Centred at the number of its class, an output's label is 0 where the class holds.
            torch.eq(y[:, family.outputs], 0, out=actual[:, family.outputs])
    return observed, actual
