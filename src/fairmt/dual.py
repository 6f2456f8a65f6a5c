"""Controllers of the constraint's strength λ: bounded dual ascent, and the path.

Both drive one number, the λ of ``Σ w L + λ C``. Dual ascent looks for the λ that a tolerance
needs; the path raises λ through all strengths, so that the trade-off is seen before it is chosen.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Dual:
    """``ν ← ν + η S,  λ = λ_max σ(ν)``: positive and bounded, without projection.

    S is the signed worst slack of hard decisions on data that no gradient has seen. The bound is a
    linear price on slack: a feasible tolerance is reached, an infeasible one cannot destroy the
    model. This parametrisation is this library's own.

    Parameters
    ----------
    bound : float
        λ_max.
    rate : float
        η, per evaluation.
    start : float
        The first λ, below the bound.
    patience : int
        Evaluations after which a strength near its bound, with slack left, is called infeasible.
    """

    bound: float = 4.0
    rate: float = 10.0
    start: float = 0.2
    patience: int = 3
    nu: float = field(init=False)
    _pressed: deque[bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ValueError(f"bound must be positive. Found {self.bound}.")
        if not 0 < self.start < self.bound:
            raise ValueError(f"start must lie in (0, {self.bound}). Found {self.start}.")
        self.nu = math.log(self.start / (self.bound - self.start))
        self._pressed = deque(maxlen=self.patience)

    @property
    def strength(self) -> float:
        return self.bound / (1 + math.exp(-self.nu))

    def update(self, slack: float) -> float:
        """Take the worst signed slack S of an evaluation; returns the new strength."""
        if math.isfinite(slack):
            # Beyond ±12 the strength no longer moves, and the way back would only be longer.
            self.nu = min(12.0, max(-12.0, self.nu + self.rate * slack))
            self._pressed.append(self.strength > 0.95 * self.bound and slack > 0)
        return self.strength

    @property
    def infeasible(self) -> bool:
        """λ has stayed near its bound, with slack left, over the last evaluations."""
        return len(self._pressed) == self.patience and all(self._pressed)

    def state_dict(self) -> dict[str, Any]:
        return {"nu": self.nu, "pressed": list(self._pressed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nu = float(state["nu"])
        self._pressed = deque((bool(p) for p in state["pressed"]), maxlen=self.patience)


@dataclass(frozen=True)
class Ramp:
    """The path's schedule: no constraint while warming up, then λ rises geometrically.

    Parameters
    ----------
    warmup : int
        Epochs without the constraint.
    epochs : int
        Epochs of the path after them.
    low, high : float
        Strengths at the path's start and end.
    """

    warmup: int
    epochs: int
    low: float = 0.02
    high: float = 4.0

    def strength(self, epoch: float) -> float:
        """λ at a point of training, in epochs (fractions allowed)."""
        if epoch < self.warmup or self.epochs == 0:
            return 0.0
        along = min(1.0, (epoch - self.warmup) / self.epochs)
        return self.low * (self.high / self.low) ** along
