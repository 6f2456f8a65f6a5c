"""Audits in the hands of other tools; each is imported when it is asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from fairmt.auditing.plan import OUTCOMES

if TYPE_CHECKING:
    from fairmt.auditing.result import AuditResult


def metric_frame(result: AuditResult, task: str, output: str | None = None) -> Any:
    """A `fairlearn.metrics.MetricFrame` of one class against the rest, or of one label.

    Rebuilt from counts, with one row for every group and outcome and their number as its sample
    weight; over all single attributes at once. Rows whose label or attribute is missing are left
    out, as MetricFrame does not know them.

    Parameters
    ----------
    output : class or label; may be left out where there is one, and means the second of two
        classes otherwise.
    """
    try:
        from fairlearn import metrics as fairlearn
        from sklearn import metrics
    except ImportError as error:
        raise ImportError(
            "MetricFrame belongs to fairlearn: pip install 'fairmt[fairlearn]'."
        ) from error
    plan, cube = result._sums()
    names = [t.name for t in plan.layout.tasks]
    if task not in names:
        raise ValueError(f"No task '{task}'; the tasks are {names}.")
    spec = plan.layout[task]
    if spec.kind == "regression":
        raise ValueError(f"Task '{task}' is a regression task; a MetricFrame needs yes or no.")
    if output is None:
        if spec.n_outputs > 2 or (spec.n_outputs == 2 and spec.kind == "detection"):
            raise ValueError(f"Task '{task}': name one of its outputs {list(spec.outputs)}.")
        output = spec.outputs[-1]
    if output not in spec.outputs:
        raise ValueError(f"Task '{task}' has no output '{output}'; expected {list(spec.outputs)}.")
    fused = plan.layout.outputs[task].start + spec.outputs.index(output)
    counts = cube.counts if cube.masses is None else cube.masses
    own = counts[:, :, plan.counted_outputs.index((task, fused))]
    known = np.flatnonzero((cube.codes >= 0).all(1))
    cells, outcomes = np.nonzero(own[known])
    rows = known[cells]
    keep = np.array([OUTCOMES[c][0] == 1 for c in outcomes])
    rows, outcomes = rows[keep], outcomes[keep]
    table = np.array(OUTCOMES)[outcomes]
    weight = own[rows, outcomes]
    features = {
        a.name: np.array(a.categories, dtype=object)[cube.codes[rows, i]]
        for i, a in enumerate(plan.groups.attributes)
    }
    functions = {
        "recall": lambda y, p, sample_weight: metrics.recall_score(
            y, p, sample_weight=sample_weight, zero_division=0.0
        ),
        "precision": lambda y, p, sample_weight: metrics.precision_score(
            y, p, sample_weight=sample_weight, zero_division=0.0
        ),
        "false alarm rate": fairlearn.false_positive_rate,
        "accuracy": metrics.accuracy_score,
        "predicted rate": fairlearn.selection_rate,
    }
    return fairlearn.MetricFrame(
        metrics=functions,
        y_true=table[:, 1],
        y_pred=table[:, 2],
        sensitive_features=features,
        sample_params={name: {"sample_weight": weight} for name in functions},
    )


def flat(result: AuditResult, prefix: str) -> dict[str, float]:
    """Gaps and utilities under flat, stable names: 'audit/gap/task/statistic/attribute'."""
    found = {
        "/".join((prefix, "utility", r["task"], r["metric"])): float(r["value"])
        for r in result.utilities.to_dict("records")
    }
    for r in result.gaps.to_dict("records"):
        place = (prefix, "gap", r["task"], r["statistic"], r["attribute"])
        found["/".join(place)] = float(r["gap"])
    return {_safe(k): v for k, v in found.items() if np.isfinite(v)}


def _safe(name: str) -> str:
    """Only what every tracker takes in a name."""
    return re.sub(r"[^\w\-./ ]", "_", name.replace("×", "x"), flags=re.ASCII)


def log_to_mlflow(result: AuditResult, prefix: str) -> None:
    """Log to the active MLflow run."""
    try:
        import mlflow
    except ImportError as error:
        raise ImportError("MLflow is not installed: pip install mlflow.") from error
    mlflow.log_metrics(flat(result, prefix))
    mlflow.log_text(result.to_json(), f"{prefix}/audit.json")
    mlflow.log_text(result.to_html(), f"{prefix}/audit.html")


def log_to_wandb(result: AuditResult, run: Any, prefix: str) -> None:
    """Log to a Weights & Biases run."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError("Weights & Biases is not installed: pip install wandb.") from error
    run = wandb.run if run is None else run
    if run is None:
        raise ValueError("No run is active; call wandb.init, or pass the run.")
    content: dict[str, Any] = dict(flat(result, prefix))
    content[f"{prefix}/gaps"] = wandb.Table(dataframe=result.gaps)
    content[f"{prefix}/page"] = wandb.Html(result.to_html(), inject=False)
    run.log(content)
