"""A shared MLP that can be split into branches while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from fairmt.models.encoders import MLP
from fairmt.models.heads import LinearHeads, TaskHeads
from fairmt.models.multitask import MultiTask
from fairmt.models.separate import OwnPart


class BranchedMLP(nn.Module):
    """An MLP that holds every layer once per task: (B, n_inputs) -> (B, T · width).

    Every task has a *slot* of weights in every layer. Tasks of one branch share a layer: only the
    slot of the branch's first task is computed, and `tie` gives its gradient to the other slots,
    so that all of them stay equal under any optimiser that treats entries alike (SGD, Adam).
    A split then unties them and changes no weight. So shapes are fixed, averaged weights and the
    optimiser's state are right for the new branches from their first step, and `state_dict`
    holds the tree. The price: a norm over all parameters counts a shared layer once per task.

    Parameters
    ----------
    mlp : MLP
        Its weights are the start of every slot.
    n_tasks : int

    Attributes
    ----------
    tree : Tensor (layers, T) int64, a buffer: the slot that each task uses, which is that of the
        first task of its branch.
    """

    tree: Tensor

    def __init__(self, mlp: MLP, n_tasks: int) -> None:
        super().__init__()
        layers = [part for part in mlp if isinstance(part, nn.Linear)]
        dropout = next((part.p for part in mlp if isinstance(part, nn.Dropout)), 0.0)
        self.weights = nn.ParameterList(_repeated(layer.weight, n_tasks) for layer in layers)
        self.biases = nn.ParameterList(_repeated(layer.bias, n_tasks) for layer in layers)
        self.dropout = nn.Dropout(dropout)
        tree = torch.zeros(len(layers), n_tasks, dtype=torch.int64, device=layers[0].weight.device)
        self.register_buffer("tree", tree)
        self.n_inputs, self.n_features = mlp.n_inputs, mlp.n_features

    def forward(self, x: Tensor) -> Tensor:
        h = x.unsqueeze(0)
        place = [0] * self.tree.shape[1]
        for layer, slots in enumerate(self.tree.tolist()):
            used = sorted(set(slots))
            fed_by = [place[slot] for slot in used]
            weight, bias = self.weights[layer][used], self.biases[layer][used]
            h = torch.baddbmm(bias.unsqueeze(1), h[fed_by], weight.transpose(1, 2))
            h = self.dropout(relu(h))
            place = [used.index(slot) for slot in slots]
        return torch.cat([h[i] for i in place], 1)

    def branches(self, layer: int) -> list[list[int]]:
        """The tasks of every branch of a layer, by position."""
        slots = self.tree[layer].tolist()
        return [[t for t, s in enumerate(slots) if s == slot] for slot in sorted(set(slots))]

    def split(self, layer: int, branches: Sequence[Sequence[int]]) -> None:
        """Give every branch of a layer weights of its own, equal to the present ones.

        Parameters
        ----------
        branches : positions of the tasks of each branch, which must share the layer below.
        """
        for branch in branches:
            self.tree[layer, list(branch)] = min(branch)

    @torch.no_grad()
    def tie(self) -> None:
        """After the backward pass: every slot gets the gradient of its branch."""
        for slots, weight, bias in zip(self.tree, self.weights, self.biases, strict=True):
            for p in (weight, bias):
                if p.grad is not None:
                    p.grad = p.grad[slots]


def branched(model: MultiTask) -> MultiTask:
    """The same network, ready to branch: its MLP by slots, and a linear head for every task.

    All heads start from the same rows, so that heads which are similar later have moved alike.

    Raises
    ------
    ValueError
        If the encoder is no `fairmt.models.MLP`, or a head is not linear.
    """
    encoder, layout = model.encoder, model.layout
    if isinstance(encoder, BranchedMLP):
        return model
    if not isinstance(encoder, MLP):
        raise ValueError(
            f"Branching needs the encoder fairmt.models.MLP, whose layers it can split. Found "
            f"{type(encoder).__name__}; method='fairmt' takes any encoder."
        )
    own = BranchedMLP(encoder, len(layout.tasks))
    start = _first_rows(model.heads)
    heads: dict[str, nn.Module] = {}
    for position, task in enumerate(layout.tasks):
        head = nn.Linear(encoder.n_features, task.n_outputs).to(start[0])
        with torch.no_grad():
            head.weight.copy_(start[0][: task.n_outputs])
            head.bias.copy_(start[1][: task.n_outputs])
        heads[task.name] = OwnPart(head, position, len(layout.tasks))
    return MultiTask(own, heads, layout)


def _first_rows(heads: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias that all heads start from: those of the widest head, or of all fused."""
    if isinstance(heads, LinearHeads):
        return heads.weight.detach(), heads.bias.detach()
    assert isinstance(heads, TaskHeads)
    for name, head in zip(heads.names, heads.heads, strict=True):
        if not isinstance(head, nn.Linear) or head.bias is None:
            raise ValueError(
                f"Branching compares linear heads with a bias; the head of task '{name}' is "
                f"{type(head).__name__}. Use torch.nn.Linear, or method='fairmt'."
            )
    widest = max((head for head in heads.heads if isinstance(head, nn.Linear)), key=_width)
    return widest.weight.detach(), widest.bias.detach()


def _width(head: nn.Linear) -> int:
    return head.out_features


def _repeated(p: Tensor, times: int) -> nn.Parameter:
    return nn.Parameter(p.detach().repeat(times, *[1] * p.ndim))
