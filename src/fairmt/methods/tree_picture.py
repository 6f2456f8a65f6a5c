"""A picture of the tree that a branching method has grown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairmt.models import MultiTask
from fairmt.models.branched import BranchedMLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe and Ito's palette; what a box is stands in it too."""
_SHARED = "#D9D9D9"
_HEIGHT, _GAP = 0.5, 0.12


def plot_tree(model: MultiTask, title: str = "Which tasks share which layers") -> Figure:
    """Boxes for layers, from the inputs at the bottom to the tasks at the top.

    A box is one set of weights: grey where all tasks share it, coloured by branch where the layer
    is split. The tasks of a branch stand above it.

    Parameters
    ----------
    model : of a branching method, say ``FairMTLearner(method="fairbranch").fit(…).model_``.

    Raises
    ------
    ValueError
        If the model does not branch.
    ImportError
        If matplotlib is absent.
    """
    encoder = model.encoder
    if not isinstance(encoder, BranchedMLP):
        raise ValueError(
            f"plot_tree draws a model that branches; this one's encoder is a "
            f"{type(encoder).__name__}. Train with method='fairbranch'."
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_tree needs matplotlib: pip install 'fairmt[plots]'.") from error
    names = [task.name for task in model.layout.tasks]
    n_layers, n = len(encoder.weights), len(names)
    # Tasks of one branch side by side, the finest branches first.
    order = sorted(range(n), key=lambda t: (*encoder.tree[:, t].tolist(), t))
    place = {task: x for x, task in enumerate(order)}
    figure = Figure(figsize=(max(6.0, 1.5 * n), 1.2 * (n_layers + 2)), layout="constrained")
    axes = figure.subplots()
    _box(axes, 0, n - 1, 0, f"inputs ({encoder.n_inputs})", "white")
    for layer in range(n_layers):
        branches = sorted(encoder.branches(layer), key=lambda b: place[b[0]])
        width = encoder.weights[layer].shape[1]
        for number, branch in enumerate(branches):
            xs = [place[t] for t in branch]
            whole = len(branches) == 1
            colour = _SHARED if whole else _COLOURS[number % len(_COLOURS)]
            who = "shared by all" if whole else _counted(len(branch))
            _box(axes, min(xs), max(xs), layer + 1, f"layer {layer + 1} ({width})\n{who}", colour)
            _edge(axes, (min(xs) + max(xs)) / 2, layer + 1)
    for task, x in place.items():
        _box(axes, x, x, n_layers + 1, names[task], "white")
        _edge(axes, x, n_layers + 1)
    axes.set_xlim(-0.6, n - 0.4)
    axes.set_ylim(-0.4, n_layers + 1.4)
    axes.set_axis_off()
    axes.set_title(title)
    return figure


def _counted(tasks: int) -> str:
    return "one task" if tasks == 1 else f"{tasks} tasks"


def _box(axes: Axes, first: int, last: int, level: int, label: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, right = first - 0.5 + _GAP, last + 0.5 - _GAP
    axes.add_patch(
        FancyBboxPatch(
            (left, level - _HEIGHT / 2),
            right - left,
            _HEIGHT,
            boxstyle="round,pad=0.02",
            facecolor=colour,
            edgecolor="black",
            alpha=1.0 if colour in ("white", _SHARED) else 0.55,
        )
    )
    axes.text((left + right) / 2, level, label, ha="center", va="center", fontsize=9)


def _edge(axes: Axes, x: float, level: int) -> None:
    """From a box down to the one below, which is at least as wide."""
    axes.plot([x, x], [level - 1 + _HEIGHT / 2, level - _HEIGHT / 2], color="black", zorder=0)
