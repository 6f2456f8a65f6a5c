"""FairBranch: similarity, pairs, group losses, conflicts, and when the tree grows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from fairmt import FairMTLearner
from fairmt.data import generate
from fairmt.groups import Attribute, Groups
from fairmt.methods.base import Batch
from fairmt.methods.fairbranch import FairBranch, cka, paired, without_conflict
from fairmt.methods.plain import Plain
from fairmt.models import MLP, LinearHeads, MultiTask, TaskHeads
from fairmt.store import load_state, save_state
from fairmt.tasks import Classification, Detection, Layout, Regression

from .steps import people, relabelled

LAYOUT = Layout(
    (
        Classification("job", ("low", "mid", "high")),
        Regression("pay"),
        Detection("aid", ("food", "rent")),
        Classification("moved", ("no", "yes")),
    )
)
GROUPS = Groups((Attribute("sex", ("f", "m")), Attribute("race", ("x", "y", "z"))))


def built(
    layout: Layout = LAYOUT, groups: Groups = GROUPS, widths: tuple[int, ...] = (6, 5, 4), **kw: Any
) -> FairBranch:
    torch.manual_seed(0)
    method = FairBranch(**kw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        method.setup(MultiTask(MLP(7, widths), LinearHeads(widths[-1], layout), layout), groups)
    return method


def rows(n: int = 60, seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = {
        "job": torch.randint(0, 3, (n,), generator=g).float(),
        "pay": torch.randn(n, 1, generator=g),
        "aid": torch.randint(0, 2, (n, 2), generator=g).float(),
        "moved": torch.randint(0, 2, (n,), generator=g).float(),
    }
    packed = LAYOUT.pack(labels)
    packed[torch.rand(packed.shape, generator=g) < 0.2] = torch.nan
    return {
        "features": torch.randn(n, 7, generator=g),
        "labels": packed,
        "attributes": torch.stack(
            [torch.randint(-1, 2, (n,), generator=g), torch.randint(-1, 3, (n,), generator=g)], 1
        ),
        "weights": torch.rand(n, generator=g) + 0.5,
    }


def gradients(method: FairBranch, batch: dict[str, Any]) -> list[Tensor]:
    for p in method.parameters():
        p.grad = None
    method.step(batch)
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in method.parameters()]


# -- similarity and pairs -----------------------------------------------------------------------


def test_cka_is_that_of_the_centred_kernels() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    centre = torch.eye(8).double() - 1 / 8
    ka, kb = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre
    expected = (ka @ kb).trace() / ((ka @ ka).trace() * (kb @ kb).trace()).sqrt()
    assert cka(a, b) == pytest.approx(float(expected))
    rotation, _ = torch.linalg.qr(torch.randn(3, 3).double())
    assert cka(a, 5 * a @ rotation + 1) == pytest.approx(1)
    assert cka(torch.tensor([[1.0], [-1], [0]]), torch.tensor([[1.0], [1], [-2]])) == 0
    assert cka(a, torch.ones(8, 2)) == 0


def test_the_most_similar_are_paired() -> None:
    alike = torch.eye(4)
    for i, j, value in ((0, 1, 0.95), (2, 3, 0.9), (0, 3, 0.2), (1, 2, 0.75)):
        alike[i, j] = alike[j, i] = value
    assert paired(alike, 0.7) == [[0, 1], [2, 3]]
    assert paired(alike, 0.92) == [[0, 1], [2], [3]]
    assert paired(alike, 0.96) == [[0], [1], [2], [3]]
    # 1 is nearest to 0, but 0 is nearer to 2: so 1 and 3, the nearest that are left, pair.
    chain = torch.tensor([[1, 0.8, 0.9, 0], [0.8, 1, 0, 0.75], [0.9, 0, 1, 0], [0, 0.75, 0, 1]])
    assert paired(chain, 0.7) == [[0, 2], [1, 3]]
    assert paired(torch.ones(3, 3), 0.7) == [[0, 1], [2]]


# -- the group loss -----------------------------------------------------------------------------


def test_groups_are_groups_and_not_the_first_rows() -> None:
    """Perfect for women and always wrong for men, who are scattered over the batch."""
    layout = Layout((Classification("t", ("no", "yes")),))
    groups = Groups((Attribute("sex", ("f", "m")),))
    method = built(layout, groups)
    labels = torch.tensor([0.0, 1, 1, 0, 1, 0])[:, None]
    sex = torch.tensor([0, 1, 0, 1, 0, 1])[:, None]
    right = torch.where(sex == 0, 10.0, -10.0)
    outputs = torch.cat([right * (1 - labels), right * labels], 1)
    found = method.group_losses(outputs, Batch(torch.zeros(6, 7), labels, sex, None))
    # Both classes: men's cross-entropy, 10.00005.
    assert float(found) == pytest.approx(10 + 4.54e-5, abs=1e-5)


def test_group_losses_are_those_of_the_worst_group_of_every_class() -> None:
    method, batch = built(), rows()
    outputs = torch.randn(60, LAYOUT.n_outputs).double()
    b = method.unpack(batch)
    found = method.group_losses(outputs, b)
    labels, o = LAYOUT.unpack(b.labels), LAYOUT.split(outputs)
    assert b.weights is not None

    def worst(loss: Tensor, member: Tensor) -> float:
        total = 0.0
        for position, attribute in enumerate(GROUPS.attributes):
            means = []
            for code in range(len(attribute.categories)):
                chosen = member & (b.attributes[:, position] == code)
                if chosen.any():
                    w = b.weights[chosen].double()  # type: ignore[index]
                    means.append(float((w * loss[chosen]).sum() / w.sum()))
            total += max(means)
        return total / 2

    def classes(task: str, n: int) -> float:
        y = labels[task]
        loss = cross_entropy(o[task], torch.nan_to_num(y).long(), reduction="none")
        return sum(worst(loss, y == c) for c in range(n)) / n

    cells = []
    for k in range(2):
        y = labels["aid"][:, k]
        loss = binary_cross_entropy_with_logits(
            o["aid"][:, k], torch.nan_to_num(y).double(), reduction="none"
        )
        cells += [worst(loss, y == 1), worst(loss, y == 0)]
    expected = [classes("job", 3), 0.0, sum(cells) / 4, classes("moved", 2)]
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_group_losses_have_their_derivative() -> None:
    method, b = built(), built().unpack(rows(20))
    outputs = torch.randn(20, LAYOUT.n_outputs).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: method.group_losses(o, b), outputs)


def test_a_batch_without_a_tasks_labels_or_any_attribute() -> None:
    method, batch = built(strength=3.0, branch_every=1, threshold=0.0), rows()
    batch["labels"][:, LAYOUT.labels["job"]] = torch.nan
    assert all(bool(g.isfinite().all()) for g in gradients(method, batch))
    batch["attributes"][:] = -1
    plain = built(strength=0.0)
    for p, q in zip(gradients(built(strength=3.0), batch), gradients(plain, batch), strict=True):
        torch.testing.assert_close(p, q)


# -- conflicts ----------------------------------------------------------------------------------


def test_conflicting_gradients_are_projected_on_each_other() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(without_conflict(g), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    friends = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert torch.equal(without_conflict(friends), friends)


def test_the_step_is_the_sum_with_conflicts_removed_in_split_layers_only() -> None:
    method, batch = built(strength=2.0, threshold=0.0), rows()
    # Of the tree ((job aid) (pay)) (moved): the layer on top, and the one below it.
    method.encoder.split(2, [[0, 2], [1], [3]])
    method.encoder.split(1, [[0, 1, 2], [3]])
    method.level = 0
    with torch.no_grad():
        # The two tasks' heads look the other way, so that their fairness gradients conflict.
        method._heads[2].weight.copy_(-method._heads[0].weight[:2])
    found = gradients(method, batch)

    b = method.unpack(batch)
    outputs = method.model(b.features)
    losses, unfair = method.task_losses(outputs, b), method.group_losses(outputs, b)
    parameters = list(method.parameters())
    gate = []
    for task, head in enumerate(method._heads):
        a, c = (
            torch.autograd.grad(x[task], list(head.parameters()), retain_graph=True,
                                materialize_grads=True)
            for x in (losses, unfair)
        )  # fmt: skip
        gate.append(float(sum((x * y).sum() for x, y in zip(a, c, strict=True)) >= 0))
    plain = torch.autograd.grad(losses.sum(), parameters, retain_graph=True)
    fair = [
        [2.0 * gate[t] * g for g in torch.autograd.grad(unfair[t], parameters, retain_graph=True,
                                                        materialize_grads=True)]
        for t in range(4)
    ]  # fmt: skip
    expected = [p + sum(own[i] for own in fair) for i, p in enumerate(plain)]
    names = [name for name, _ in method.model.named_parameters()]
    conflicts = 0
    for layer in (1, 2):
        at = [names.index(f"encoder.{kind}.{layer}") for kind in ("weights", "biases")]
        slot = 0
        rows_ = [torch.cat([fair[t][i][slot].flatten() for i in at]) for t in (0, 2)]
        if rows_[0] @ rows_[1] < 0:
            conflicts += 1
            one = rows_[0] - rows_[0] @ rows_[1] / rows_[1].square().sum() * rows_[1]
            two = rows_[1] - rows_[0] @ rows_[1] / rows_[0].square().sum() * rows_[0]
            change = one + two - rows_[0] - rows_[1]
            n = expected[at[0]][slot].numel()
            expected[at[0]][slot] += change[:n].view_as(expected[at[0]][slot])
            expected[at[1]][slot] += change[n:]
    assert conflicts > 0
    for layer, slots in enumerate(method.encoder.tree.tolist()):
        for kind in ("weights", "biases"):
            i = names.index(f"encoder.{kind}.{layer}")
            expected[i] = expected[i][slots]
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_the_gate_closes_where_loss_and_group_loss_pull_the_head_apart() -> None:
    """99 say yes, one (of a group of his own) says no, and the model leans towards yes."""
    layout = Layout((Classification("t", ("no", "yes")),))
    groups = Groups((Attribute("g", ("many", "one")),))
    method, plain = (built(layout, groups, strength=s) for s in (5.0, 0.0))
    labels, codes = torch.ones(100, 1), torch.zeros(100, 1, dtype=torch.int64)
    labels[7], codes[7] = 0.0, 1
    batch = {"features": torch.ones(100, 7), "labels": labels, "attributes": codes}
    for m in (method, plain):
        with torch.no_grad():
            m._heads[0].weight.zero_()
            m._heads[0].bias.copy_(torch.tensor([0.0, 2.0]))
    for p, q in zip(gradients(method, batch), gradients(plain, batch), strict=True):
        torch.testing.assert_close(p, q)
    for m in (method, plain):
        with torch.no_grad():
            m._heads[0].bias.copy_(torch.tensor([0.0, -2.0]))
    a, b = (gradients(m, batch)[-1] for m in (method, plain))
    # Leaning towards no, the group loss (of the many) agrees with the loss, and the gate is open.
    assert float(a[0]) > 1.5 * float(b[0]) > 0


# -- the tree -----------------------------------------------------------------------------------


def test_layers_split_from_the_top_in_steps_with_strength() -> None:
    method, batch = built(branch_every=2, threshold=0.0), rows()
    method.strength = 0.0
    for _ in range(5):
        method.step(batch)
    assert method.steps == 0
    method.strength = 1.0
    method.step(batch)
    assert [len(method.encoder.branches(layer)) for layer in range(3)] == [1, 1, 1]
    method.step(batch)
    # At τ = 0 four heads make two pairs, these make one, and nothing is left to split.
    assert [len(method.encoder.branches(layer)) for layer in range(3)] == [1, 1, 2]
    for _ in range(6):
        method.step(batch)
    assert [len(method.encoder.branches(layer)) for layer in range(3)] == [1, 1, 2]


def test_unlike_tasks_part_and_the_first_layer_stays_shared() -> None:
    method, batch = built(branch_every=1, threshold=1.0), rows()
    with torch.no_grad():
        for head in method._heads:
            head.weight.copy_(torch.randn(head.weight.shape))
    method.step(batch)
    with torch.no_grad():
        method.encoder.weights[2].copy_(torch.randn(method.encoder.weights[2].shape))
    for _ in range(3):
        method.step(batch)
    assert [len(method.encoder.branches(layer)) for layer in range(3)] == [1, 4, 4]


def test_the_tree_follows_the_similarity_of_heads_then_of_branches() -> None:
    method, batch = built(branch_every=1, threshold=0.9), rows()
    w = torch.randn(2, 4)
    with torch.no_grad():
        method._heads[0].weight.copy_(torch.cat([w, w[:1]]))
        method._heads[2].weight.copy_(2 * w)
        method._heads[1].weight.copy_(torch.randn(1, 4))
        method._heads[3].weight.copy_(torch.randn(2, 4))
    assert float(method.similarities(method.branches_above())[0, 2]) > 0.9
    method.step(batch)
    assert method.encoder.branches(2) == [[0, 2], [1], [3]]
    with torch.no_grad():
        method.encoder.weights[2][1].copy_(torch.randn(4, 5))
        method.encoder.weights[2][3].copy_(method.encoder.weights[2][1] * 3)
    method.step(batch)
    assert [1, 3] in method.encoder.branches(1)


def test_strength_zero_is_plain_training_of_the_shared_network() -> None:
    method = built(strength=0.0)
    reference = built()
    encoder = MLP(7, (6, 5, 4))
    with torch.no_grad():
        for layer, part in enumerate(p for p in encoder if hasattr(p, "weight")):
            part.weight.copy_(reference.encoder.weights[layer][0])
            part.bias.copy_(reference.encoder.biases[layer][0])
    heads = TaskHeads(
        {t.name: h for t, h in zip(LAYOUT.tasks, reference._heads, strict=True)}, LAYOUT
    )
    plain = Plain(encoder, heads, LAYOUT, GROUPS)
    optimisers = [torch.optim.AdamW(m.parameters(), 0.01) for m in (method, plain)]
    for seed in range(4):
        for m, o in zip((method, plain), optimisers, strict=True):
            o.zero_grad()
            m.step(rows(seed=seed))
            o.step()
    x = rows()["features"]
    torch.testing.assert_close(method.model(x), plain.model(x))


def test_a_run_goes_on_exactly_after_a_split(tmp_path: Path) -> None:
    def run(method: FairBranch, optimiser: torch.optim.Optimizer, start: int, end: int) -> None:
        for seed in range(start, end):
            optimiser.zero_grad()
            method.step(rows(seed=seed))
            optimiser.step()

    def prepared() -> tuple[FairBranch, torch.optim.Optimizer]:
        method = built(branch_every=2, threshold=0.8)
        return method, torch.optim.AdamW(method.parameters(), 0.01)

    whole, optimiser = prepared()
    run(whole, optimiser, 0, 3)
    save_state(
        tmp_path / "s",
        {
            "model": whole.model.state_dict(),
            "method": whole.state_dict(),
            "optimiser": optimiser.state_dict(),
        },
    )
    run(whole, optimiser, 3, 7)
    assert len(whole.encoder.branches(2)) > 1
    other, optimiser = prepared()
    state = load_state(tmp_path / "s")
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["method"])
    optimiser.load_state_dict(state["optimiser"])
    run(other, optimiser, 3, 7)
    for p, q in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(whole.encoder.tree, other.encoder.tree)


def test_groups_may_be_relabelled_while_the_tree_grows() -> None:
    schema, table = people(1.0, 0)
    groups, codes = relabelled(schema.groups, table.attributes)
    layout = Layout(schema.tasks)
    found = []
    for g, t in ((schema.groups, table), (groups, replace(table, attributes=codes))):
        torch.manual_seed(0)
        method = FairBranch(strength=3.0, branch_every=2, threshold=0.99)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = MultiTask(MLP(schema.n_inputs, (8, 8, 8)), LinearHeads(8, layout), layout)
            method.setup(model, g)
        optimiser = torch.optim.Adam(method.parameters(), 0.01)
        for i in range(6):
            optimiser.zero_grad()
            method.step(t.batch(torch.arange(100 * i, 100 * i + 100)))
            optimiser.step()
        found.append(method)
    assert len(found[0].encoder.branches(2)) > 1
    assert torch.equal(found[0].encoder.tree, found[1].encoder.tree)
    for p, q in zip(found[0].parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


# -- what it refuses, and the learner -----------------------------------------------------------


def test_what_it_cannot_do_is_refused_by_name() -> None:
    layout = Layout((Regression("pay"),))
    with pytest.raises(ValueError, match=r"fairbranch.*regression.*\['pay'\]"):
        built(layout)
    model = MultiTask(MLP(7, (5, 4)), LinearHeads(4, LAYOUT), LAYOUT)
    with pytest.warns(UserWarning, match=r"\['pay'\]"):
        FairBranch().setup(model, GROUPS)
    layout = Layout(LAYOUT.tasks[2:])
    with pytest.warns(UserWarning, match="one layer"):
        FairBranch().setup(MultiTask(MLP(7, (4,)), LinearHeads(4, layout), layout), GROUPS)
    with pytest.raises(ValueError, match="branch_every"):
        FairBranch(branch_every=0)
    with pytest.raises(ValueError, match="threshold"):
        FairBranch(threshold=1.5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_learner_grows_keeps_and_loads_the_tree(tmp_path: Path) -> None:
    bundle = generate(900, seed=0, bias=1.0)
    learner = FairMTLearner(
        bundle.tasks,
        bundle.sensitive,
        method="fairbranch",
        features=dict(bundle.features),
        widths=(8, 8),
        epochs=1,
        path_epochs=3,
        batch_size=128,
        strength=20.0,
        options={"branch_every": 4, "threshold": 0.999},
    ).fit(bundle.frame)
    trees = [c.weights["encoder.tree"] for c in learner.path_.candidates]
    assert any(len(set(tree[1].tolist())) > 1 for tree in trees)
    # Neither warm-up nor plain continuation knows of branches.
    plain = [c for c in learner.path_.candidates if c.segment != "path"]
    assert all(int(c.weights["encoder.tree"].max()) == 0 for c in plain)
    expected = learner.predict(bundle.frame[:50])
    learner.save(tmp_path / "model")
    loaded = FairMTLearner.load(tmp_path / "model")
    assert expected.equals(loaded.predict(bundle.frame[:50]))
    learner.choose(strength=0)
    assert int(learner.model_.encoder.tree.max()) == 0
