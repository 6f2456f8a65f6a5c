"""A network that splits into branches: what it computes, what it shares, and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from fairmt.averaging import Average
from fairmt.methods.tree_picture import plot_tree
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.models.branched import BranchedMLP, branched
from fairmt.tasks import Classification, Detection, Layout, Regression

LAYOUT = Layout(
    (
        Classification("a", ("no", "yes")),
        Regression("b"),
        Detection("c", ("x", "y", "z")),
        Classification("d", ("no", "yes")),
    )
)


def shared(dropout: float = 0.0, widths: tuple[int, ...] = (6, 5, 4)) -> MultiTask:
    torch.manual_seed(0)
    return MultiTask(MLP(7, widths, dropout), LinearHeads(widths[-1], LAYOUT), LAYOUT)


def encoder_of(model: MultiTask) -> BranchedMLP:
    assert isinstance(model.encoder, BranchedMLP)
    return model.encoder


def split(model: MultiTask) -> BranchedMLP:
    """The tree ((a d) (b)) (c): two layers split, the first one shared; then all weights move."""
    encoder = encoder_of(model)
    encoder.split(2, [[0, 3], [1], [2]])
    encoder.split(1, [[0, 1, 3], [2]])
    return encoder


def shaken(encoder: BranchedMLP) -> None:
    """Other weights in every slot, equal within every branch."""
    with torch.no_grad():
        for slots, weight, bias in zip(encoder.tree, encoder.weights, encoder.biases, strict=True):
            for p in (weight, bias):
                p.copy_(torch.randn(p.shape)[slots])


def by_hand(encoder: BranchedMLP, x: Tensor) -> Tensor:
    parts = []
    for task in range(encoder.tree.shape[1]):
        h = x
        for layer, weight in enumerate(encoder.weights):
            slot = int(encoder.tree[layer, task])
            h = relu(h @ weight[slot].T + encoder.biases[layer][slot])
        parts.append(h)
    return torch.cat(parts, 1)


def test_before_any_split_it_is_the_shared_network() -> None:
    model = shared()
    x = torch.randn(9, 7)
    torch.testing.assert_close(branched(model).encoder(x), model.encoder(x).repeat(1, 4))


def test_every_task_follows_its_path() -> None:
    encoder = split(branched(shared()))
    shaken(encoder)
    x = torch.randn(9, 7)
    z = encoder(x)
    torch.testing.assert_close(z, by_hand(encoder, x))
    a, b, c, d = z.chunk(4, 1)
    assert torch.equal(a, d)
    assert not torch.allclose(a, b)
    assert not torch.allclose(a, c)


def test_every_branch_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = split(branched(shared()))
    computed, product = [], torch.baddbmm

    def counting(*args: Tensor) -> Tensor:
        computed.append(len(args[1]))
        return product(*args)

    monkeypatch.setattr(torch, "baddbmm", counting)
    encoder(torch.randn(3, 7))
    assert computed == [1, 2, 3]


def test_a_split_changes_no_output_and_the_branches_then_part() -> None:
    model = branched(shared())
    x = torch.randn(9, 7)
    before = model(x).detach()
    encoder = split(model)
    torch.testing.assert_close(model(x), before)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    model(x).square().sum().backward()
    encoder.tie()
    optimiser.step()
    top = encoder.weights[2]
    assert torch.equal(top[0], top[3])
    assert not torch.allclose(top[0], top[1])
    assert all(torch.equal(encoder.weights[0][0], w) for w in encoder.weights[0])


def test_tied_slots_train_as_the_shared_network_does() -> None:
    model, reference = branched(shared()), shared()
    heads = nn.ModuleList([own.head for own in model.heads.heads])  # type: ignore[union-attr]
    optimisers = [
        torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1),
        torch.optim.AdamW(
            [*reference.encoder.parameters(), *(heads2 := _copies(heads)).parameters()],
            0.01,
            weight_decay=0.1,
        ),
    ]
    x = torch.randn(9, 7)
    for _ in range(5):
        for o in optimisers:
            o.zero_grad()
        model(x).square().mean().backward()
        encoder_of(model).tie()
        z = reference.encoder(x)
        torch.cat([h(z) for h in heads2], 1).square().mean().backward()
        for o in optimisers:
            o.step()
    z = reference.encoder(x)
    torch.testing.assert_close(model(x), torch.cat([h(z) for h in heads2], 1))
    for p in encoder_of(model).parameters():
        assert all(torch.equal(p[0], slot) for slot in p)


def _copies(heads: nn.ModuleList) -> nn.ModuleList:
    copies = nn.ModuleList()
    start = shared()
    for head in heads:
        own = nn.Linear(head.in_features, head.out_features)
        with torch.no_grad():
            own.weight.copy_(start.heads.weight[: head.out_features])  # type: ignore[union-attr]
            own.bias.copy_(start.heads.bias[: head.out_features])  # type: ignore[union-attr]
        copies.append(own)
    return copies


def test_averages_and_optimiser_of_a_new_branch_are_those_of_its_parent() -> None:
    model = branched(shared())
    optimiser, average = torch.optim.Adam(model.parameters(), 0.01), Average(model, 10.0)
    for _ in range(4):
        optimiser.zero_grad()
        model(torch.randn(9, 7)).square().sum().backward()
        encoder_of(model).tie()
        optimiser.step()
        average.update()
    top = split(model).weights[2]
    moment = optimiser.state[top]["exp_avg"]
    assert torch.equal(moment[1], moment[0])
    assert float(moment[1].abs().max()) > 0
    with average.applied():
        assert torch.equal(top[1], top[0])
        averaged = top[1].clone()
    assert not torch.equal(averaged, top[1])


def test_the_state_holds_the_tree() -> None:
    model, fresh = branched(shared()), branched(shared())
    shaken(split(model))
    fresh.load_state_dict(model.state_dict())
    assert encoder_of(fresh).branches(2) == [[0, 3], [1], [2]]
    x = torch.randn(5, 7)
    assert torch.equal(fresh(x), model(x))


def test_a_branch_has_one_dropout_mask() -> None:
    encoder = split(branched(shared(dropout=0.5)))
    encoder.train()
    a, b, _, d = encoder(torch.randn(50, 7)).chunk(4, 1)
    assert torch.equal(a, d)
    assert not torch.allclose(a, b)
    encoder.eval()
    a, b, _, _ = encoder(torch.randn(50, 7)).chunk(4, 1)
    torch.testing.assert_close(a, b)


def test_heads_start_alike() -> None:
    model = branched(shared())
    a, b, c, d = (model.heads.heads[i].head.weight for i in _positions(model))  # type: ignore
    assert torch.equal(a, d)
    assert torch.equal(a, c[:2])
    assert torch.equal(b, a[:1])


def _positions(model: MultiTask) -> list[int]:
    return [model.heads.names.index(t.name) for t in LAYOUT.tasks]  # type: ignore[union-attr]


def test_other_networks_are_refused_by_name() -> None:
    heads = LinearHeads(4, LAYOUT)
    with pytest.raises(ValueError, match="Sequential"):
        branched(MultiTask(nn.Sequential(nn.Linear(7, 4)), heads, LAYOUT))
    own: dict[str, nn.Module] = {t.name: nn.Linear(4, t.n_outputs) for t in LAYOUT.tasks}
    own["b"] = nn.Sequential(nn.Linear(4, 1))
    with pytest.raises(ValueError, match="task 'b' is Sequential"):
        branched(MultiTask(MLP(7, (5, 4)), own, LAYOUT))


def test_the_picture_names_every_task_and_branch(tmp_path: Path) -> None:
    model = branched(shared())
    split(model)
    figure = plot_tree(model)
    (axes,) = figure.axes
    words = [t.get_text() for t in axes.texts]
    assert words[0] == "inputs (7)"
    assert words[-4:] == ["a", "d", "b", "c"]
    assert words[1:7] == [
        "layer 1 (6)\nshared by all",
        "layer 2 (5)\n3 tasks",
        "layer 2 (5)\none task",
        "layer 3 (4)\n2 tasks",
        "layer 3 (4)\none task",
        "layer 3 (4)\none task",
    ]
    figure.savefig(tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="fairbranch"):
        plot_tree(shared())
