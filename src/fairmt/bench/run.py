"""One run of the benchmark, from configuration to figures."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

import fairmt
from fairmt.bench.ceiling import ceiling
from fairmt.bench.collapse import collapse_candidates
from fairmt.bench.configuration import TOLERANCE, Configuration
from fairmt.bench.contest import HELD_OUT, Hand, contest, judges, reference, rows_of
from fairmt.bench.frontier import Frontier, Place
from fairmt.bench.noise_floor import noise_floor
from fairmt.bench.problems import Problem, problem
from fairmt.data import TensorTable
from fairmt.disparity import Yardstick
from fairmt.evaluator import PathEvaluator
from fairmt.metrics import utilities
from fairmt.path import Candidate, Path, gap_errors, judge
from fairmt.store import load_state, save_state

REPLICATES = 50
BUDGETS = (0.01,)
FIGURES = (
    "delta_m", "gap", "largest_gap", "shortfall", "worst", "best", "level_down", "residual_range",
)  # fmt: skip


def execute(config: Configuration, cache: FilePath, accelerator: str = "cpu") -> dict[str, Any]:
    """Train, judge, and return a row that `fairmt.bench.store` can keep.

    Parameters
    ----------
    cache : folder for the plain references, which many runs share.
    accelerator : 'cpu', 'cuda', …; what networks are trained on.
    """
    torch.set_num_threads(1)
    found = problem(config.data, config.variant, config.seed, accelerator)
    base = _Reference.of(found, config, cache)
    if config.method == "ceiling":
        figures = ceiling(
            found, config, base.candidate, base.held_out, base.outputs, budgets=BUDGETS
        )
        return _header(config, accelerator) | {"ceiling": figures}
    if config.method == "noise_floor":
        floor = noise_floor(found, config, base.candidate, base.outputs)
        return _header(config, accelerator) | {"noise_floor": floor}
    if config.method in ("reference", "collapse"):
        hand = _control(found, config, base)
    else:
        hand = contest(found, config)
    learner, table = hand.learner, rows_of(found, hand.learner, ("test",))
    plain, rows = base.on(found, hand, config.seed)
    path = Path(
        judges(learner),
        learner.schema_.groups,
        [plain, *hand.candidates],
        rows,
        reference_optimism=base.optimism,
    )
    outputs = [base.outputs, *hand.outputs]
    frontier = Frontier(path, outputs, table, REPLICATES, config.seed)
    return _header(config, accelerator) | {
        "seconds": round(hand.seconds, 1),
        "rows": {part: len(r) for part, r in found.parts.items()},
        "tasks": [t.name for t in learner.schema_.tasks],
        "entries": int(frontier.counted.sum()),
        "plain": _figures(frontier.plain[0]),
        "volume": _rounded(frontier.volumes()),
        "volume_shortfall": _rounded(frontier.volumes((0, 1))),
        "volume_gap": _rounded(frontier.volumes((0, 2))),
        "places": [
            {"strength": path.candidates[i].strength, **_figures(frontier.places[i][0])}
            for i in frontier.indices
        ],
        "budget": {str(b): _chosen(frontier, utility_budget=b) for b in BUDGETS},
        "measures": _measures(frontier, outputs, table),
        "tolerance_kept": {str(TOLERANCE): _satisfied(path, frontier, outputs, table, TOLERANCE)},
    }


def _header(config: Configuration, accelerator: str) -> dict[str, Any]:
    """What was run, when and with what."""
    return {
        "id": config.id,
        "config": config.to_dict(),
        "made": datetime.date.today().isoformat(),
        "versions": {
            "fairmt": fairmt.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name() if accelerator == "cuda" else accelerator,
    }


class _Reference:
    """The plain candidate of a problem and seed, with its outputs on held-out and test rows."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.candidate = Candidate.from_state(state["candidate"])
        self.outputs, self.rows = state["outputs"], state["rows"]
        self.held_out = state["held_out"]
        self.optimism, self.seconds = float(state["optimism"]), float(state["seconds"])

    def on(self, found: Problem, hand: Hand, seed: int) -> tuple[Candidate, torch.Tensor]:
        """The candidate, and the rows of groups, on the parts that a contestant is chosen on."""
        if hand.chosen_on == HELD_OUT:
            return self.candidate, self.rows
        learner, own = hand.learner, self.candidate
        table = rows_of(found, learner, hand.chosen_on)
        evaluator = PathEvaluator(judges(learner), learner.schema_.groups, table, seed)
        outputs = self.held_out[: len(table)]
        candidate = evaluator.measure("plain", own.epoch, 0.0, {}, outputs, own.offsets)
        return candidate, learner.schema_.groups.membership(table.attributes)[:, 1:].sum(0)

    @staticmethod
    def of(found: Problem, config: Configuration, cache: FilePath) -> _Reference:
        folder = cache / config.reference.id
        try:
            return _Reference(load_state(folder))
        except FileNotFoundError:
            trained = reference(found, config.reference)
        hand = trained.hand
        state = {
            "candidate": hand.candidates[0].state_dict(),
            "outputs": hand.outputs[0],
            "rows": hand.learner.path_.rows,
            "held_out": trained.held_out,
            "optimism": trained.optimism,
            "seconds": hand.seconds,
        }
        save_state(folder, state)
        return _Reference(state)


def _control(found: Problem, config: Configuration, base: _Reference) -> Hand:
    """The reference itself, or the collapse control that shifts its decisions."""
    plain_config = replace(config, method="plain")
    if config.method == "reference":
        # It is trained already; this learner is asked how rows are encoded, and nothing else.
        hand = contest(found, replace(plain_config, epochs=1, path_epochs=0))
        candidate = replace(base.candidate, segment="path")
        return replace(hand, candidates=[candidate], outputs=[base.outputs], seconds=base.seconds)
    hand = contest(found, plain_config)
    learner = hand.learner
    held_out = rows_of(found, learner, HELD_OUT)
    evaluator = PathEvaluator(learner.ledger_, learner.schema_.groups, held_out, config.seed)
    plain = learner.path_.candidates[learner.path_.plain]
    on_held_out, _ = learner.outputs_of(learner.path_.plain, held_out)
    shifted = collapse_candidates(evaluator, plain, on_held_out)
    return replace(
        hand,
        candidates=[replace(c, weights={}) for c in shifted],
        outputs=[hand.outputs[0]] * len(shifted),
    )


def _chosen(frontier: Frontier, **wish: float) -> dict[str, Any]:
    """Figures on test rows of the candidate that a wish picks, under every weighting of them."""
    index, places = frontier.chosen(**wish)
    return {
        "index": index,
        "change": [round(c, 5) for c in places[0].change],
        **{name: _rounded([getattr(p, name) for p in places]) for name in FIGURES},
        "plain": {
            name: _rounded([getattr(p, name) for p in frontier.plain])
            for name in ("gap", "shortfall", "worst", "best", "residual_range")
        },
    }


def _measures(
    frontier: Frontier, outputs: list[torch.Tensor], table: TensorTable
) -> dict[str, Any]:
    """All utility measures on test rows, of the plain model and of what each budget picks."""
    path = frontier.path
    indices = {"plain": path.plain}
    indices |= {str(b): path.choose(utility_budget=b).point.index for b in BUDGETS}
    return {
        name: {
            task: {measure: round(value, 5) for measure, value in measures.items()}
            for task, measures in utilities(
                path.ledger.layout, outputs[i], table.labels, path.candidates[i].offsets
            ).items()
        }
        for name, i in indices.items()
    }


def _satisfied(
    path: Path,
    frontier: Frontier,
    outputs: list[torch.Tensor],
    table: TensorTable,
    tolerance: float,
) -> dict[str, Any]:
    """Whether the worst gap on test rows is within a tolerance, as far as sampling can tell."""
    choice = path.choose(tolerance=tolerance)
    at = frontier.places[choice.point.index]
    plain, index = path.plain, choice.point.index
    rows = path.groups.membership(table.attributes)[:, 1:].sum(0)
    moments = [
        judge(path.ledger, path.groups, outputs[i], table, path.candidates[i].offsets)
        for i in (plain, index)
    ]
    yardstick = Yardstick(path.ledger, path.groups, moments[0], rows)
    gaps = yardstick.gaps(path.ledger.rates(moments[1].sums))[yardstick.counted]
    errors = gap_errors(path.ledger, path.groups, moments[1])[yardstick.counted]
    z = NormalDist().inv_cdf(1 - 0.05 / max(1, len(gaps)))
    lower = float((gaps - z * errors).max()) if len(gaps) else float("nan")
    return {
        "reached": choice.reached,
        "lower": round(lower, 4),
        "satisfied": lower <= tolerance,
        **{name: _rounded([getattr(p, name) for p in at]) for name in ("delta_m", "gap")},
    }


def _figures(place: Place) -> dict[str, Any]:
    found = {name: round(float(getattr(place, name)), 5) for name in FIGURES}
    return found | {"change": [round(c, 5) for c in place.change]}


def _rounded(values: Any) -> list[float]:
    return [round(float(v), 5) for v in np.asarray(values, dtype=float)]
