"""The symmetric variant: the same constraint, pulling the best-served group down as well."""

from __future__ import annotations

from typing import Any, ClassVar

from fairmt.methods.fairmt import FairMT


class Symmetric(FairMT):
    """FairMT with directionality 0: what a usual gap penalty does, all else equal."""

    name: ClassVar[str] = "symmetric"
    summary: ClassVar[str] = "FairMT's constraint without direction: the usual gap penalty"
    strengths: ClassVar[tuple[float, float]] = (0.3, 20.0)
    revision: ClassVar[int] = 1
    limits: ClassVar[str] = "buys the gap partly by hurting the best-served group"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"directionality": 0.0} | settings)
