"""Notions of group fairness: which measures judge a kind of task, and which of them contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairmt.tasks import Task


@dataclass(frozen=True)
class Notion:
    """Which measures judge a kind of task, and what the notion asks for, in one sentence."""

    name: str
    sentence: str
    measures: Mapping[str, tuple[str, ...]]
    needs_labels: bool = True

    def judges(self, task: Task) -> bool:
        return task.kind in self.measures


NOTIONS: dict[str, Notion] = {
    n.name: n
    for n in (
        Notion(
            "equal_opportunity",
            "People for whom an outcome holds are recognised equally often in every group.",
            {"classification": ("recall",), "detection": ("recall",)},
        ),
        Notion(
            "equalized_odds",
            "People for whom an outcome holds, and people for whom it does not, are decided "
            "correctly equally often in every group.",
            {
                "classification": ("recall", "false alarm rate"),
                "detection": ("recall", "true negative rate"),
            },
        ),
        Notion(
            "predictive_parity",
            "A positive decision is right equally often in every group.",
            {"classification": ("precision",), "detection": ("precision",)},
        ),
        Notion(
            "accuracy_parity",
            "Decisions are right equally often in every group.",
            {"classification": ("accuracy",), "detection": ("label accuracy",)},
        ),
        Notion(
            "demographic_parity",
            "Every group receives each decision equally often, whatever the truth.",
            {
                "classification": ("predicted rate",),
                "detection": ("predicted rate",),
                "regression": ("mean prediction",),
            },
            needs_labels=False,
        ),
        Notion(
            "distribution_parity",
            "Predictions are distributed alike in every group.",
            {"regression": ("score distance (KS)", "score distance (Wasserstein)")},
            needs_labels=False,
        ),
        Notion(
            "error_parity",
            "Errors are equally large in every group.",
            {"regression": ("mean squared error",)},
        ),
        Notion(
            "absolute_error_parity",
            "Absolute errors are equally large in every group.",
            {"regression": ("mean absolute error",)},
        ),
        Notion(
            "concordance_parity",
            "Predictions agree with the truth equally well in every group.",
            {"regression": ("concordance",)},
        ),
        Notion(
            "bias_parity",
            "No group is over- or underestimated on average.",
            {
                "classification": ("calibration in the large",),
                "detection": ("calibration in the large",),
                "regression": ("mean residual",),
            },
        ),
        Notion(
            "calibration",
            "A predicted probability means the same in every group.",
            {"classification": ("calibration error",), "detection": ("calibration error",)},
        ),
    )
}

DEFAULT_NOTIONS: dict[str, tuple[str, ...]] = {
    "classification": ("equal_opportunity",),
    "detection": ("equalized_odds",),
    "regression": ("bias_parity",),
}
"""What ``notion="default"`` asks of each kind of task: every class, and every label together with
its opposite, is recognised equally well; no group is over- or underestimated."""

CONTRADICTIONS: tuple[tuple[str, str], ...] = (
    ("equalized_odds", "predictive_parity"),
    ("equalized_odds", "demographic_parity"),
    ("predictive_parity", "demographic_parity"),
    ("equalized_odds", "calibration"),
)
"""Pairs that no useful predictor meets when base rates differ (Chouldechova 2017; Kleinberg,
Mullainathan and Raghavan 2016; Barocas, Hardt and Narayanan 2023, chapter 3)."""

NotionSpec = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def resolve_notions(tasks: Sequence[Task], notion: NotionSpec) -> dict[str, tuple[str, ...]]:
    """Names of the notions that judge each task.

    Parameters
    ----------
    notion : str, sequence of str, or mapping
        One notion or several for all tasks, or a mapping from task name or task kind to them;
        'default' gives `DEFAULT_NOTIONS`, 'none' leaves tasks unconstrained. A notion that is not
        defined for a task's kind leaves the task alone.

    Raises
    ------
    ValueError
        For unknown names, notions that contradict each other on a task, or if no task is judged.
    """
    if isinstance(notion, Mapping):
        known = {t.name for t in tasks} | {t.kind for t in tasks}
        unknown = set(notion) - known
        if unknown:
            raise ValueError(
                f"notion names {sorted(unknown)}, which are neither tasks nor kinds of task; "
                f"expected among {sorted(known)}."
            )
    resolved = {}
    for task in tasks:
        spec: str | Sequence[str]
        if isinstance(notion, Mapping):
            spec = notion.get(task.name, notion.get(task.kind, "none"))
        else:
            spec = notion
        names: list[str] = []
        for name in (spec,) if isinstance(spec, str) else spec:
            if name == "none":
                continue
            if name == "default":
                names += DEFAULT_NOTIONS[task.kind]
            elif name not in NOTIONS:
                raise ValueError(f"Unknown notion '{name}'; expected one of {sorted(NOTIONS)}.")
            elif NOTIONS[name].judges(task):
                names.append(name)
            elif isinstance(notion, Mapping) and task.name in notion:
                raise ValueError(
                    f"Notion '{name}' is not defined for task '{task.name}' ({task.kind}); these "
                    f"are: {[n.name for n in NOTIONS.values() if n.judges(task)]}."
                )
        for a, b in CONTRADICTIONS:
            if a in names and b in names:
                raise ValueError(
                    f"Task '{task.name}': '{a}' and '{b}' contradict each other where base rates "
                    "differ. Train for one of them, and audit the other."
                )
        resolved[task.name] = tuple(dict.fromkeys(names))
    return resolved
