"""L2T-FMT: the group loss, what a trial is worth, and a teacher that learns from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairmt.groups import Attribute, Groups
from fairmt.label_cells import LabelCells, extremes, group_means
from fairmt.methods import L2TFMT
from fairmt.methods.l2t_fmt import ACCURACY, DISCOUNT, FAIRNESS
from fairmt.models import LinearHeads, MultiTask
from fairmt.row_losses import RowLosses
from fairmt.tasks import Classification, Layout, Regression

from .test_adversarial import GROUPS, LAYOUT, NAN, people

pytestmark = pytest.mark.filterwarnings("ignore:Method 'l2t_fmt' is not defined")
JOB = Layout((Classification("job", ("no", "yes")),))
SEX = Groups((Attribute("sex", ("m", "w")),))
N_TASKS = len(LAYOUT.tasks)


def bound(layout: Layout = LAYOUT, groups: Groups = GROUPS, **settings: Any) -> L2TFMT:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    method = L2TFMT(**settings)
    method.setup(MultiTask(encoder, LinearHeads(6, layout), layout).double(), groups)
    return method


def with_gaps() -> dict[str, Any]:
    data = people()
    data["labels"]["job"][:8] = NAN
    data["labels"]["ill"][4:12, 1] = NAN
    return data


def test_the_group_loss_is_that_of_the_definition() -> None:
    method, data = bound(), with_gaps()
    batch = method.unpack(data)
    outputs = method.model(batch.features)
    w = data["weights"]

    def worst(loss: Tensor, rows: Tensor) -> Tensor:
        """Mean over attributes of the largest weighted group mean."""
        tops = []
        for name, k in (("sex", 2), ("race", 3)):
            codes = data["attributes"][name]
            own = [rows & (codes == g) for g in range(k)]
            tops.append(
                torch.stack([(w[m] * loss[m]).sum() / w[m].sum() for m in own if m.any()]).max()
            )
        return torch.stack(tops).mean()

    log_p = outputs[:, LAYOUT.outputs["job"]].log_softmax(1)
    job = data["labels"]["job"]
    ill, o = data["labels"]["ill"], outputs[:, LAYOUT.outputs["ill"]]
    expected = [
        torch.stack([worst(-log_p[:, k], job == k) for k in range(3)]).mean(),
        torch.stack(
            [
                worst(-nn.functional.logsigmoid(o[:, k] if y else -o[:, k]), ill[:, k] == y)
                for k in range(2)
                for y in (0, 1)
            ]
        ).mean(),
        outputs.new_zeros(()),
    ]
    torch.testing.assert_close(method.group_losses(outputs, batch), torch.stack(expected))


def test_a_predictor_right_for_men_and_wrong_for_women() -> None:
    """Ten rows of men first. Group loss: that of women; accuracy: the share of men; EO gap: 1."""
    method = bound(JOB, SEX)
    sex = (torch.arange(40) >= 10).long()
    y = (torch.arange(40) % 2).double()
    right = torch.where(sex == 0, y, 1 - y)
    outputs = torch.stack([-20.0 * (right - 0.5), 20.0 * (right - 0.5)], 1)
    batch = method.unpack(
        {"features": torch.zeros(40, 4), "labels": {"job": y}, "attributes": {"sex": sex}}
    )
    assert float(method.group_losses(outputs, batch)) == pytest.approx(20.0, abs=1e-6)
    accuracy, fairness = method._figures(outputs, batch, 0).tolist()
    assert accuracy == pytest.approx(0.25, abs=1e-6)
    assert fairness == pytest.approx(0.0, abs=1e-6)


def test_cells_and_extremes_without_rows() -> None:
    cells = LabelCells(JOB)
    loss, cell = cells.losses(torch.zeros(4, 2), torch.tensor([[0.0], [0.0], [NAN], [NAN]]))
    member = SEX.membership(torch.tensor([[0], [-1], [1], [0]]))[:, 1:]
    means, known = group_means(loss, cell, member)
    assert known.tolist() == [[True, False], [False, False]]
    top, low = extremes(means, known, SEX)
    torch.testing.assert_close(top, torch.tensor([[math.log(2), 0.0]]))
    assert torch.equal(top, low)
    nothing, _ = LabelCells(Layout((Regression("pay"),))).losses(torch.ones(4, 1), torch.ones(4, 1))
    assert nothing.shape == (4, 0)


@pytest.mark.parametrize("action", [ACCURACY, FAIRNESS])
def test_a_trial_is_a_step_of_one_length_and_its_worth(action: int) -> None:
    method, data = bound(trial_length=0.3), with_gaps()
    batch = method.unpack(data)
    model = method.model.eval()
    outputs = model(batch.features)
    loss = (method.task_losses if action == ACCURACY else method.group_losses)(outputs, batch)[0]
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    length = torch.cat([g.flatten() for g in gradients]).norm()
    moved = {
        n: p.detach() - 0.3 * g / length
        for n, p, g in zip(names, parameters, gradients, strict=True)
    }
    after = functional_call(model, moved, (batch.features,))
    before = method._figures(outputs, batch, 0)
    reward = (method._figures(after, batch, 0) / before - 1).min()
    state = torch.cat([moved["heads.weight"].flatten(), moved["heads.bias"]])
    value = method.teacher(state).view(N_TASKS, 2)[0].max()
    torch.testing.assert_close(method._trial(batch, 0, action), reward + DISCOUNT * value)


def test_the_choice_decides_which_loss_a_step_descends() -> None:
    """A step without a trial: losses of the tasks, some of them times λ and of the worst group."""
    method, data = bound(strength=2.0, exploration=0.0), with_gaps()
    method.steps = 1
    with torch.no_grad():
        last = method.teacher[2]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0]))
    log = method.step(data)
    assert log["fairness chosen"] == pytest.approx(1 / 3)
    batch = method.unpack(data)
    outputs = method.model(batch.features)
    losses, fair = method.task_losses(outputs, batch), method.group_losses(outputs, batch)
    factors = method.task_factors
    # The teacher prefers fairness for job; for pay it may not.
    total = factors[0] * 2.0 * fair[0] + factors[1] * losses[1] + factors[2] * losses[2]
    expected = torch.autograd.grad(total, list(method.model.parameters()))
    for p, q in zip(method.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, q)
    assert all(p.grad is None for p in method.teacher.parameters())


def test_task_weights_follow_gradnorm() -> None:
    method = bound()
    z = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([1.0, 4.0, 2.0]).double()
    losses = torch.tensor([1.0, 1.0, 1.0]).double()
    first = method._balanced(scales * z.sum(), losses, z)
    norms = scales * z.numel() ** 0.5
    # All learn at one pace, so the target is the mean norm: 1 is below it, 4 above, 2 below.
    raw = 1 - 1e-3 * norms * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(first, raw * 3 / raw.sum())
    # A task that has learnt nothing while the others have halved their loss weighs more.
    second = method._balanced(scales * z.sum(), losses * torch.tensor([0.5, 1.0, 0.5]), z)
    size = first * norms
    target = size.mean() * torch.tensor([0.75, 1.5, 0.75])
    raw = first - 1e-3 * norms * (size - target).sign()
    torch.testing.assert_close(second, raw * 3 / raw.sum())


def test_the_teacher_learns_what_trials_are_worth() -> None:
    """The model stands still: Q of both choices must near its targets."""
    method, data = bound(exploration=0.0, trial_every=1, trial_length=0.5), with_gaps()
    batch = method.unpack(data)
    optimiser = torch.optim.Adam(method.teacher.parameters(), lr=1e-3)
    errors = []
    for _ in range(60):
        error = method._teacher_loss(method._values(method._state()), batch)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.1 * errors[0]


def test_a_batch_that_tells_nothing_teaches_nothing() -> None:
    method, data = bound(), with_gaps()
    data["labels"] = {k: torch.full_like(v, NAN) for k, v in data["labels"].items()}
    method.step(data)
    for p in method.parameters():
        assert p.grad is None or not p.grad.any()


def test_row_losses_are_those_of_rows_by_themselves() -> None:
    """Concordance is no row's: squared error stands in, wherever its column stands."""
    layout = Layout((Regression("a", loss="ccc"), Regression("b"), Classification("c", ("x", "y"))))
    o = torch.randn(4, 4).double()
    y = torch.tensor([[1.0, 2.0, 0.0], [NAN, 1.0, 1.0], [0.0, NAN, NAN], [1.0, 1.0, 1.0]]).double()
    found = RowLosses(layout)(o, layout.pack({"a": y[:, 0], "b": y[:, 1], "c": y[:, 2]}))
    by_task = layout.split(o)
    squared = [(by_task[n][:, 0] - y[:, i]).square().nan_to_num() for i, n in enumerate("ab")]
    log_p = by_task["c"].log_softmax(1)
    picked = -log_p.gather(1, y[:, 2:].nan_to_num().long())[:, 0]
    expected = torch.stack([*squared, torch.where(y[:, 2].isnan(), 0.0, picked)], 1)
    torch.testing.assert_close(found, expected)


def test_numbers_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="regression"):
        bound(Layout((Regression("pay"),)))


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"exploration": 2.0}, "exploration"), ({"trial_every": 0}, "trial_every"),
     ({"trial_length": 0.0}, "trial_length")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        L2TFMT(**settings)
