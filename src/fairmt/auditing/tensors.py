"""Audits of tensors: a model's outputs, or decisions and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fairmt.auditing.assemble import assemble
from fairmt.auditing.judging import Settings
from fairmt.auditing.memory import cube_of_rows
from fairmt.auditing.plan import NotionChoice, make_plan
from fairmt.auditing.result import AuditResult
from fairmt.auditing.rows import Rows, check_weights, rows_of_tensors
from fairmt.auditing.utilities import utilities_of_rows
from fairmt.groups import Groups
from fairmt.ledger import decide, probabilities
from fairmt.tasks import Layout


def from_tensors(
    layout: Layout,
    groups: Groups,
    outputs: Tensor,
    labels: Tensor,
    codes: Tensor,
    *,
    offsets: Tensor | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit a model from its fused outputs (N, n_outputs) and packed labels (N, n_labels).

    Further settings are those of `audit_decisions`.
    """
    outputs = outputs.double()
    shift = None if offsets is None else offsets.double()
    decisions = decide(layout, outputs, shift)
    return audit_decisions(
        layout, groups, decisions, probabilities(layout, outputs), labels, codes, **settings
    )


def audit_decisions(
    layout: Layout,
    groups: Groups,
    decisions: Tensor,
    p: Tensor | None,
    labels: Tensor,
    codes: Tensor,
    *,
    weights: Tensor | None = None,
    clusters: np.ndarray | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit decisions and probabilities.

    Parameters
    ----------
    decisions, p : Tensor (N, n_outputs): 0/1 and probabilities; in the columns of regression
        tasks both hold the prediction in standard units. Without `p`, probabilities are not
        judged.
    labels : Tensor (N, n_labels), NaN where missing; codes : Tensor (N, A), -1 where missing.
    weights : Tensor (N,); clusters : array (N,), resampled together (households, patients).
    settings : see `audit_rows`.
    """
    groups.check(codes)
    if weights is not None:
        check_weights(weights.numpy())
    rows = rows_of_tensors(layout, groups, decisions, p, labels, codes, weights, clusters)
    return audit_rows(rows, **settings)


def audit_rows(
    rows: Rows,
    *,
    notions: NotionChoice = "all",
    extra: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit rows in memory.

    Parameters
    ----------
    notions : 'all', names, or a mapping from task or kind of task to names.
    extra : what else the report shows.
    settings : see `fairmt.auditing.judging.Settings`.
    """
    chosen = Settings(**settings)
    one_by_one = rows.weights is None and rows.clusters is None
    plan = make_plan(rows.layout, rows.groups, notions, scored=rows.scored, one_by_one=one_by_one)
    cube = cube_of_rows(rows, plan, resample=chosen.n_boot > 0, seed=chosen.seed)
    utilities = utilities_of_rows(rows, plan, cube)
    result = assemble(
        plan, cube, chosen, utilities, clustered=rows.clusters is not None, extra=extra
    )
    result.cube, result.plan = cube, plan
    return result
