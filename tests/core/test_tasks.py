"""Tasks and their losses against PyTorch's own, entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.losses import Losses, concordance
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

from .hand_cases import NAN

# Kinds alternate and outputs differ in number, so that the fused order is not the user's.
TASKS: tuple[Task, ...] = (
    Regression("pay", ("wage", "bonus"), centre=(30.0, 2.0), scale=(12.0, 0.5)),
    Classification("job", ("a", "b", "c"), weight=2.0),
    Detection("drugs", ("x", "y", "z"), positive_weights=(1.0, 3.0, 0.5)),
    Classification("home", ("no", "yes")),
    Regression("age", loss="huber", centre=(50.0,), scale=(9.0,)),
    Classification("school", ("u", "v", "w"), output_weights=(1.0, 0.5, 4.0)),
    Detection("ill", ("only",)),
    Regression("stay", ("d", "h"), loss="ccc", output_weights=(1.0, 3.0)),
    Regression("cost", ("q",), centre=(1.0,), scale=(2.0,), output_weights=(5.0,)),
    Detection("signs", ("r", "s"), output_weights=(2.0, 0.0)),
)
LAYOUT = Layout(TASKS)


def batch(seed: int = 0, n: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, LAYOUT.n_outputs, generator=g, dtype=torch.float64)
    labels = {}
    for task in TASKS:
        if isinstance(task, Classification):
            labels[task.name] = torch.randint(task.n_outputs, (n,), generator=g).double()
        elif isinstance(task, Detection):
            labels[task.name] = torch.randint(2, (n, task.n_outputs), generator=g).double()
        else:
            assert isinstance(task, Regression)
            noise = torch.randn(n, task.n_outputs, generator=g, dtype=torch.float64)
            labels[task.name] = task.to_labels(noise)
    packed = LAYOUT.pack(labels)
    packed[torch.rand(packed.shape, generator=g) < 0.25] = NAN
    return outputs, packed, torch.rand(n, generator=g, dtype=torch.float64) + 0.1


def reference(task: Task, outputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The loss of one task by PyTorch's functions, over its observed entries."""
    if isinstance(task, Classification):
        seen = ~labels[:, 0].isnan()
        index = labels[seen, 0].long()
        per_class = torch.tensor(task.output_weights or [1.0] * task.n_outputs).double()
        losses = F.cross_entropy(outputs[seen], index, reduction="none")
        w = weights[seen] * per_class[index]
        return (w * losses).sum() / w.sum()
    total = mass = torch.zeros((), dtype=torch.float64)
    for k in range(task.n_outputs):
        seen = ~labels[:, k].isnan()
        o, y, w = outputs[seen, k], labels[seen, k], weights[seen]
        own = task.output_weights[k] if task.output_weights else 1.0
        if isinstance(task, Detection):
            positive = torch.tensor(task.positive_weights[k] if task.positive_weights else 1.0)
            losses = F.binary_cross_entropy_with_logits(
                o, y, reduction="none", pos_weight=positive.double()
            )
        else:
            assert isinstance(task, Regression)
            y = (y - task.centre[k]) / task.scale[k]
            if task.loss == "ccc":
                mean = [(w * x).sum() / w.sum() for x in (o, y)]
                c = torch.cov(torch.stack([o, y]), aweights=w, correction=0)
                ccc = 2 * c[0, 1] / (c[0, 0] + c[1, 1] + (mean[0] - mean[1]) ** 2)
                total, mass = total + own * (1 - ccc), mass + own
                continue
            loss = F.mse_loss if task.loss == "mse" else F.huber_loss
            losses = loss(o, y, reduction="none")
        total, mass = total + own * (w * losses).sum(), mass + own * w.sum()
    return total / mass


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", [t.name for t in TASKS])
def test_loss_and_gradient_equal_pytorchs(name: str, weighted: bool) -> None:
    outputs, labels, weights = batch()
    if not weighted:
        weights = torch.ones_like(weights)
    fused = outputs.clone().requires_grad_()
    losses = Losses(LAYOUT)(fused, labels, weights if weighted else None)
    assert losses.shape == (len(TASKS),)
    loss = losses[[t.name for t in TASKS].index(name)]
    own = outputs[:, LAYOUT.outputs[name]].clone().requires_grad_()
    expected = reference(LAYOUT[name], own, labels[:, LAYOUT.labels[name]], weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    (found,) = torch.autograd.grad(loss, fused)
    (wanted,) = torch.autograd.grad(expected, own)
    elsewhere = torch.ones(LAYOUT.n_outputs, dtype=torch.bool)
    elsewhere[LAYOUT.outputs[name]] = False
    torch.testing.assert_close(found[:, ~elsewhere], wanted, rtol=1e-9, atol=1e-14)
    assert float(found[:, elsewhere].abs().max()) == 0


def test_a_missing_label_has_no_say_in_loss_or_gradient() -> None:
    outputs, labels, weights = batch()
    fused = outputs.clone().requires_grad_()
    before = Losses(LAYOUT)(fused, labels, weights)
    (gradient,) = torch.autograd.grad(before.sum(), fused)
    disturbed = outputs.clone()
    for task in TASKS:
        missing = labels[:, LAYOUT.labels[task.name]].isnan().expand(-1, task.n_outputs)
        assert float(gradient[:, LAYOUT.outputs[task.name]][missing].abs().max()) == 0
        disturbed[:, LAYOUT.outputs[task.name]] += 100.0 * missing
    torch.testing.assert_close(Losses(LAYOUT)(disturbed, labels, weights), before)


@pytest.mark.parametrize("name", [t.name for t in TASKS])
def test_a_task_without_labels_costs_nothing_and_moves_nothing(name: str) -> None:
    outputs, labels, weights = batch()
    full = Losses(LAYOUT)(outputs, labels, weights)
    labels[:, LAYOUT.labels[name]] = NAN
    fused = outputs.clone().requires_grad_()
    losses = Losses(LAYOUT)(fused, labels, weights)
    position = [t.name for t in TASKS].index(name)
    assert losses[position].item() == 0
    others = torch.arange(len(TASKS)) != position
    torch.testing.assert_close(losses[others], full[others])
    (gradient,) = torch.autograd.grad(losses.sum(), fused)
    assert bool(gradient.isfinite().all())
    assert float(gradient[:, LAYOUT.outputs[name]].abs().max()) == 0


def test_concordance_that_is_not_defined_costs_nothing() -> None:
    layout = Layout((Regression("stay", ("d", "h"), loss="ccc"),))
    outputs = torch.tensor([[0.5, 0.5], [0.7, -0.3], [0.7, 1.0]], requires_grad=True)
    labels = torch.tensor([[0.5, 0.1], [NAN, 0.2], [NAN, 0.9]])
    (loss,) = Losses(layout)(outputs, labels)
    (gradient,) = torch.autograd.grad(loss, outputs)
    (alone,) = Losses(Layout((Regression("h", loss="ccc"),)))(outputs[:, 1:], labels[:, 1:])
    assert loss.item() == pytest.approx(alone.item())
    assert bool(gradient.isfinite().all())
    assert gradient[:, 0].tolist() == [0, 0, 0]
    assert math.isnan(concordance(*torch.zeros(6, 1)).item())


def test_losses_of_rows_weighted_by_counts_equal_losses_of_repeated_rows() -> None:
    outputs, labels, _ = batch()
    counts = torch.arange(50) % 4
    weighted = Losses(LAYOUT)(outputs, labels, counts.double())
    rows = torch.arange(50).repeat_interleave(counts)
    torch.testing.assert_close(weighted, Losses(LAYOUT)(outputs[rows], labels[rows]))


def test_losses_reduced_over_parts_equal_losses_of_the_whole() -> None:
    outputs, labels, weights = batch()
    calls: list[list[Tensor]] = []

    def record(part: slice) -> Callable[[Tensor], Tensor]:
        calls.append([])

        def reduce(sums: Tensor) -> Tensor:
            calls[-1].append(sums)
            return sums

        Losses(LAYOUT)(outputs[part], labels[part], weights[part], reduce)
        return reduce

    record(slice(0, 20))
    record(slice(20, 50))
    totals = iter([a + b for a, b in zip(*calls, strict=True)])
    joint = Losses(LAYOUT)(outputs[:20], labels[:20], weights[:20], lambda _: next(totals))
    torch.testing.assert_close(joint, Losses(LAYOUT)(outputs, labels, weights))


# -- units -------------------------------------------------------------------------------------


def test_regression_is_standardised_inside_and_given_back_in_its_own_units() -> None:
    task = Regression("pay", ("wage", "bonus"), centre=(30.0, 2.0), scale=(12.0, 0.5))
    label = torch.tensor([[42.0, 1.0], [30.0, 2.5]])
    assert task.standardise(label).tolist() == [[1.0, -2.0], [0.0, 1.0]]
    assert torch.equal(task.to_labels(task.standardise(label)), label)
    layout = Layout((task,))
    (perfect,) = Losses(layout)(task.standardise(label), label)
    (off_by_one_sd,) = Losses(layout)(task.standardise(label) + 1, label)
    assert (perfect.item(), off_by_one_sd.item()) == (0.0, 1.0)
    # In other units the loss is the same number.
    cents = Regression("pay", ("wage", "bonus"), centre=(3000.0, 200.0), scale=(1200.0, 50.0))
    (same,) = Losses(Layout((cents,)))(task.standardise(label) + 1, 100 * label)
    assert same.item() == pytest.approx(1.0)


def test_point_predictions_are_classes_and_yes_or_no() -> None:
    assert Classification("job", ("a", "b", "c")).to_labels(
        torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    ).tolist() == [1, 0]
    assert Detection("ill", ("x", "y")).to_labels(
        torch.tensor([[0.5, -0.5], [-2.0, 1.0]])
    ).tolist() == [[1, 0], [0, 1]]


# -- layout ------------------------------------------------------------------------------------


def test_fused_columns_belong_to_one_task_each() -> None:
    for slices, n in ((LAYOUT.outputs, LAYOUT.n_outputs), (LAYOUT.labels, LAYOUT.n_labels)):
        columns = sorted(c for s in slices.values() for c in range(*s.indices(n)))
        assert columns == list(range(n))
    owner = LAYOUT.task_of_output()
    for position, task in enumerate(TASKS):
        span = LAYOUT.outputs[task.name]
        assert span.stop - span.start == task.n_outputs
        assert owner[span].tolist() == [position] * task.n_outputs


def test_labels_are_packed_by_name_and_come_back() -> None:
    _, labels, _ = batch()
    by_name = LAYOUT.unpack(labels)
    assert by_name["job"].shape == (50,)
    assert by_name["ill"].shape == (50, 1)
    again = LAYOUT.pack(dict(reversed(by_name.items())))
    torch.testing.assert_close(again, labels, equal_nan=True)
    assert LAYOUT.pack(labels) is labels
    whole = LAYOUT.pack(by_name | {"home": torch.ones(50, dtype=torch.int64)})
    assert whole[:, LAYOUT.labels["home"]].flatten().tolist() == [1.0] * 50


def test_outputs_are_split_by_name() -> None:
    outputs, _, _ = batch()
    parts = LAYOUT.split(outputs)
    assert {name: part.shape[1] for name, part in parts.items()} == {
        t.name: t.n_outputs for t in TASKS
    }
    torch.testing.assert_close(parts["age"], outputs[:, LAYOUT.outputs["age"]])


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_tasks_come_back_from_their_description(task: Task) -> None:
    assert Task.from_dict(task.to_dict()) == task


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Classification(""), "A task needs a name"),
        (lambda: Classification("job", ("a",)), r"'job': needs two classes, found \['a'\]"),
        (lambda: Classification("job", ("a", "a")), "'job': outputs .* are not distinct"),
        (
            lambda: Classification("job", ("a", "b"), favourable="c"),
            "'job': favourable class 'c' is not among",
        ),
        (lambda: Detection("ill", ("x",), weight=0), "'ill': weight must be positive. Found 0"),
        (
            lambda: Detection("ill", ("x", "y"), output_weights=(1.0,)),
            "'ill': 1 output_weights for 2 outputs",
        ),
        (
            lambda: Detection("ill", ("x", "y"), positive_weights=(1.0,)),
            "'ill': 1 positive_weights for 2 outputs",
        ),
        (lambda: Regression("pay", loss="mae"), "loss must be 'mse', 'huber' or 'ccc'. Found 'mae"),
        (lambda: Regression("pay", scale=(0.0,)), "'pay': scale must be positive"),
        (lambda: Regression("pay", centre=(0.0, 1.0)), "'pay': 2 values of centre for 1 outputs"),
        (lambda: Layout(()), "At least one task"),
        (lambda: Layout((Regression("a"), Regression("a"))), r"unique. Found \['a', 'a'\]"),
        (lambda: Layout((Classification("job"),)), "'job': its outputs are not known yet"),
        (lambda: Task.from_dict({"kind": "ranking"}), "Unknown task kind 'ranking'; expected"),
        (
            lambda: Task.from_dict({"kind": "regression", "name": "a", "los": "mse"}),
            r"'regression' has no setting \['los'\]",
        ),
    ],
)
def test_tasks_that_cannot_be_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_labels_that_do_not_fit_are_named() -> None:
    layout = Layout((Classification("job", ("a", "b")), Detection("ill", ("x", "y"))))
    one, two = torch.zeros(3), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"No labels for task 'ill'; found \['job'\]"):
        layout.pack({"job": one})
    with pytest.raises(ValueError, match=r"task 'ill' must be \(B, 2\). Found \(3, 1\)"):
        layout.pack({"job": one, "ill": one})
    with pytest.raises(ValueError, match=r"must be \(B, 3\). Found \(3, 2\)"):
        layout.pack(two)
    with pytest.raises(KeyError, match=r"No task 'jbo'; the tasks are \['job', 'ill'\]"):
        layout["jbo"]


def test_columns_default_to_what_a_table_would_call_them() -> None:
    assert Classification("job", ("a", "b")).columns == ("job",)
    assert Detection("ill", ("x", "y")).columns == ("x", "y")
    assert Detection("ill", ("only",)).columns == ("ill",)
    assert Regression("pay").outputs == Regression("pay").columns == ("pay",)
    one = Regression("pay", columns="wage")  # type: ignore[arg-type]
    assert one.outputs == one.columns == ("wage",)
