"""The head-aware proxy: how per-task Lagrangians meet at the representation and the heads.

The objectives are ``ℓ_t = w_t L_t + λ·(C restricted to task t's outputs)``, the constraint
included. On representation z (B rows) and heads φ their Gramian is

    K[t, s] = B·⟨∂_z ℓ_t, ∂_z ℓ_s⟩ + ρ·[t = s]·‖∂_φt ℓ_t‖²

where the factor B, the rows with any label, makes ρ independent of the batch size. A small program
on K alone weights the objectives. This formulation is the library's own. Two limits: agreement at
(z, φ) is not agreement in the encoder's weights, and tasks labelled on disjoint rows are orthogonal
at z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Program = Callable[[Tensor], Tensor]
"""Gramian (T, T) -> weights (T,); they are scaled to mean 1 afterwards."""


def linear_gramian(delta: Tensor, weight: Tensor, indicator: Tensor) -> Tensor:
    """``B·⟨∂_z ℓ_t, ∂_z ℓ_s⟩`` for linear heads, without building a T × B × d gradient.

    ``K_z = B · Sᵀ ((Δᵀ Δ) ∘ (W Wᵀ)) S``

    Parameters
    ----------
    delta : Tensor (B, K), gradients of each task's Lagrangian at its own outputs.
    weight : Tensor (K, d), the heads side by side.
    indicator : Tensor (K, T), S: 1 where the output is the task's.
    """
    products = (delta.T @ delta).mul_(weight @ weight.T)
    return (indicator.T @ (products @ indicator)).mul_(_counting_rows(delta))


def gramian(gradients: list[Tensor]) -> Tensor:
    """``B·⟨g_t, g_s⟩`` from gradients at the representation, each with B rows."""
    flat = torch.stack([g.flatten() for g in gradients])
    return (flat @ flat.T) * _counting_rows(torch.cat(gradients, 1))


def _counting_rows(gradient: Tensor) -> Tensor:
    """Rows that any objective depends on: B, less rows without a single label."""
    return gradient.abs().sum(1).count_nonzero()


def balance(k: Tensor) -> Tensor:
    """``w_t ∝ 1/√K_tt``: every task pulls at the joint space with the same force."""
    norm = k.diagonal().clamp(min=0).sqrt_()
    # A task without labels in the batch has no gradient; it must not get an infinite weight.
    floor = norm.mean().mul_(1e-3).clamp_(min=1e-12)
    return torch.maximum(norm, floor).reciprocal_()


def equal(k: Tensor) -> Tensor:
    """All ones: the plain sum of the Lagrangians."""
    return torch.ones_like(k.diagonal())


_TORCHJD = {
    "aligned": "AlignedMTLWeighting",
    "imtl_g": "IMTLGWeighting",
    "mgda": "MGDAWeighting",
    "dualproj": "DualProjWeighting",
    "upgrad": "UPGradWeighting",
    "pcgrad": "PCGradWeighting",
    "cagrad": "CAGradWeighting",
    "fairgrad": "FairGradWeighting",
    "gradvac": "GradVacWeighting",
}
# What TorchJD leaves to its caller: CAGrad's radius, and FairGrad's proportional fairness.
_SETTINGS: dict[str, dict[str, float]] = {"cagrad": {"c": 0.5}, "fairgrad": {"alpha": 1.0}}
PROGRAMS = ("equal", "balance", *_TORCHJD)


def program(name: str | Program) -> Program:
    """A weighting by name, or any callable from Gramian to weights (TorchJD's included).

    'balance' and 'equal' are built in; 'aligned', 'imtl_g' and 'mgda' balance too, 'dualproj' and
    'upgrad' guard (no Lagrangian ascends); they come from TorchJD.

    Raises
    ------
    ValueError
        If the name is unknown.
    ImportError
        If TorchJD is needed and not installed.
    """
    if callable(name):
        return name
    if name in ("equal", "balance"):
        return {"equal": equal, "balance": balance}[name]
    if name not in _TORCHJD:
        raise ValueError(f"Unknown proxy program '{name}'; expected one of {list(PROGRAMS)}.")
    try:
        import torchjd.aggregation as aggregation
    except ImportError as error:
        raise ImportError(
            f"The proxy program '{name}' comes from TorchJD: pip install 'fairmt[torchjd]'."
        ) from error
    weighting = getattr(aggregation, _TORCHJD[name])
    return weighting(**_SETTINGS.get(name, {}))  # type: ignore[no-any-return]


def _mean_one(w: Tensor) -> Tensor:
    return w / w.mean().clamp_(min=1e-12 / len(w))


class Proxy:
    """A program on the Gramian, scaled to mean 1 and smoothed over steps.

    Parameters
    ----------
    programs : str, callable, or sequence of them
        Applied in turn: each sees the Gramian of the objectives as weighted so far, so that a
        balancing program can be followed by a guard.
    rho : float
        ρ, the share of the heads' own gradients in the geometry.
    smoothing : float in [0, 1)
        Share of the last step's weights that is kept.
    refresh : int
        Steps between one Gramian and the next: weights that are smoothed over ten steps hardly
        move within four.
    """

    def __init__(
        self,
        programs: str | Program | tuple[str | Program, ...] = "balance",
        rho: float = 1.0,
        smoothing: float = 0.9,
        refresh: int = 1,
    ) -> None:
        if refresh < 1:
            raise ValueError(f"refresh must be at least 1. Found {refresh}.")
        if rho < 0:
            raise ValueError(f"rho must not be negative. Found {rho}.")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1). Found {smoothing}.")
        chosen = programs if isinstance(programs, tuple) else (programs,)
        self._programs = [program(p) for p in chosen]
        # Solvers have tolerances of their own; closed forms do not care.
        self._needs_scale = any(p not in (balance, equal) for p in self._programs)
        self.rho, self.smoothing, self.refresh = rho, smoothing, refresh
        self._step = 0
        self.last: Tensor | None = None

    def weights_now(self, gramian: Callable[[], Tensor]) -> Tensor:
        """Weights (T,) of a step; `gramian` is called at every `refresh`-th one."""
        due = self.last is None or self._step % self.refresh == 0
        self._step += 1
        if due:
            return self.weights(gramian())
        assert self.last is not None
        return self.last

    @torch.no_grad()
    def weights(self, k: Tensor) -> Tensor:
        """Weights (T,) with mean 1 from the Gramian (T, T)."""
        if self._needs_scale:
            k = k / k.diagonal().mean().clamp_(min=1e-30)
        total = _mean_one(self._programs[0](k))
        for step in self._programs[1:]:
            total = total * _mean_one(step(k * torch.outer(total, total)))
        if len(self._programs) > 1:
            total = _mean_one(total)
        if self.last is not None:
            total = torch.lerp(total, self.last, self.smoothing**self.refresh)
        self.last = total
        return total

    def state_dict(self) -> dict[str, Any]:
        last = {} if self.last is None else {"last": self.last.clone()}
        return {"step": self._step, **last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        self.last = state["last"].clone() if "last" in state else None
