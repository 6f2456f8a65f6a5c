"""Headline utilities under many weightings at once: a bootstrap of Δm on one set of outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fairmt.ledger import decide
from fairmt.tasks import Layout, Regression


def headline_replicates(
    layout: Layout, outputs: Tensor, labels: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """Headline utility of every task under every row of weights.

    Macro-F1 for classification, macro average precision for detection, minus the root mean
    squared error (standard units) for regression.

    Parameters
    ----------
    outputs : Tensor (N, n_outputs); labels : Tensor (N, n_labels); offsets : Tensor (n_outputs,).
    weights : Tensor (R, N), one row per replicate.

    Returns
    -------
    Tensor (R, T), NaN where a task has no observed label.
    """
    outputs, weights = outputs.float(), weights.float()
    decisions = decide(layout, outputs, offsets.to(outputs))
    columns = []
    for task in layout.tasks:
        o, y = outputs[:, layout.outputs[task.name]], labels[:, layout.labels[task.name]].float()
        if isinstance(task, Regression):
            entry = (~y.isnan()).float()
            error = torch.nan_to_num(task.standardise(y) - o) ** 2
            columns.append(-(weights @ error / (weights @ entry)).sqrt().mean(1))
        elif task.kind == "classification":
            seen = ~y[:, 0].isnan()
            truth = torch.nn.functional.one_hot(y[seen, 0].long(), task.n_outputs).float()
            given = decisions[seen][:, layout.outputs[task.name]]
            w = weights[:, seen]
            support = w @ truth
            f1 = 2 * (w @ (truth * given)) / (support + w @ given).clamp(min=1e-12)
            present = truth.sum(0) > 0
            columns.append(
                f1[:, present].mean(1) if len(truth) else f1.new_full((len(w),), torch.nan)
            )
        else:
            labels_ap = [
                average_precision(o[s, k], y[s, k], weights[:, s])
                for k in range(task.n_outputs)
                if bool((s := ~y[:, k].isnan()).any()) and bool((y[s, k] > 0).any())
            ]
            columns.append(
                torch.stack(labels_ap).mean(0)
                if labels_ap
                else weights.new_full((len(weights),), torch.nan)
            )
    return torch.stack(columns, 1)


def average_precision(scores: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """``Σ (R_n - R_{n-1}) P_n`` over distinct scores, (R,), for weights (R, N)."""
    scores, order = scores.sort(descending=True)
    w = weights[:, order]
    ends = torch.ones_like(scores, dtype=torch.bool)
    ends[:-1] = scores[1:] < scores[:-1]
    hits = (w * y[order]).cumsum(1)[:, ends]
    given = w.cumsum(1)[:, ends]
    gain = torch.diff(hits, dim=1, prepend=hits.new_zeros(len(hits), 1))
    return (gain * hits / given.clamp(min=1e-12)).sum(1) / hits[:, -1].clamp(min=1e-12)


def relative_change(layout: Layout, utilities: Tensor, plain: Tensor) -> Tensor:
    """``(u - u⁰)/|u⁰|`` of every task, from signed headline utilities (..., T)."""
    return (utilities - plain) / plain.abs()


def poisson_weights(n: int, replicates: int, seed: int, units: Tensor | None = None) -> Tensor:
    """Poisson(1) bootstrap weights (R, N), one draw per unit (household, patient)."""
    generator = torch.Generator().manual_seed(seed)
    n_units = n if units is None else int(units.max()) + 1
    draws = torch.poisson(torch.ones(replicates, n_units), generator=generator)
    return draws if units is None else draws[:, units]
