"""What the registry knows of fair boosting; the estimator is `fairmt.boosting.MMMFair`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fairmt.groups import Groups
from fairmt.methods.base import TASK_KINDS, Method, able
from fairmt.tasks import Layout


class MultiMaxMistreatment(Method):
    """What `fairmt.boosting.MMMFair` is, apart from it so that the registry needs no tables."""

    name: ClassVar[str] = "mmm_fair"
    kind: ClassVar[str] = "estimator"
    estimator: ClassVar[str] = "fairmt.boosting.MMMFair"
    summary: ClassVar[str] = (
        "boosted trees whose errors cost more in the groups that are overlooked most"
    )
    tasks: ClassVar[tuple[str, ...]] = ("classification", "detection")
    claims: ClassVar[tuple[str, ...]] = ("equalized_odds",)
    limits: ClassVar[str] = (
        "no numbers as outcomes; tables in memory; one ensemble per class task or label, so that "
        "tasks share a choice and no representation"
    )
    source: ClassVar[str] = (
        "Roy, Iosifidis and Ntoutsi (DS 2022), arXiv 2104.13312; toolkit: arXiv 2509.08156"
    )

    @classmethod
    def check(cls, layout: Layout, groups: Groups, continuous: Sequence[str] = ()) -> None:
        """Refuse what boosting with costs cannot do; see `Method.check`.

        A task it is not defined for is refused even beside others: nothing would predict it.
        """
        outside = [t for t in layout.tasks if t.kind not in cls.tasks]
        if outside:
            kinds = [k for k in TASK_KINDS if any(t.kind == k for t in outside)]
            raise ValueError(
                f"Method '{cls.name}' is not defined for {' and '.join(kinds)}, which the tasks "
                f"{[t.name for t in outside]} are: its costs need classes. Leave these tasks out, "
                f"or use a method that is: {able(kinds=kinds)}."
            )
        super().check(layout, groups, continuous)
