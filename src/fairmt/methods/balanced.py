"""Plain training with FairMT's balancing of tasks: the other half of the reference."""

from __future__ import annotations

from typing import ClassVar

from fairmt.methods.fairmt import FairMT


class Balanced(FairMT):
    """``min Σ_t u_t w_t L_t``, u_t from the head-aware proxy, no word of groups.

    What the balancing is worth on its own, so that the constraint is not credited with it.
    """

    name: ClassVar[str] = "balanced"
    summary: ClassVar[str] = "plain training with FairMT's balancing of the tasks"
    attributes: ClassVar[str] = "none"
    claims: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[str] = "does nothing for any group"
    # No dual and no path: the learner sees a method without a strength.
    strength: float | None = None
