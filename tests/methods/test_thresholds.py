"""Shifts per group against a grid, hand cases, and the rates that they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairmt.groups import Attribute, Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.methods.thresholds import GroupThresholds
from fairmt.tasks import Classification, Detection, Layout, Regression

SEX = Groups((Attribute("sex", ("men", "women")),))
BOTH = Groups((Attribute("sex", ("men", "women")), Attribute("age", ("young", "old"))))
LABEL = Layout((Detection("d", ("yes",)),))


def rates(layout: Layout, groups: Groups, notion: str, *rows: Tensor) -> Tensor:
    """(1 + G, J), by the library's own statistics: outputs, labels, codes, offsets."""
    outputs, labels, codes, offsets = rows
    ledger = Ledger(layout, {t.name: (notion,) for t in layout.tasks})
    atoms = atoms_of(ledger, outputs.double(), labels.double(), offsets.double())
    return ledger.rates(ledger.moments(groups.membership(codes, torch.float64), atoms).sums)


def gaps(layout: Layout, groups: Groups, notion: str, *rows: Tensor) -> Tensor:
    """Best minus worst group by partition and statistic."""
    found = rates(layout, groups, notion, *rows)[1:]
    return torch.stack(
        [found[p.groups].amax(0) - found[p.groups].amin(0) for p in groups.partitions]
    )


def made_up(
    layout: Layout, groups: Groups, n: int = 4000, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs that carry signal, and are too low for the second group of every attribute."""
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2, (n, len(groups.attributes)), generator=g)
    codes[:, 0] = (torch.rand(n, generator=g) < 0.3 + 0.3 * codes[:, -1]).long()
    parts, outputs = [], torch.randn(n, layout.n_outputs, generator=g)
    for task in layout.tasks:
        span = layout.outputs[task.name]
        if isinstance(task, Classification):
            y = torch.randint(0, task.n_outputs, (n,), generator=g)
            outputs[:, span] += 1.5 * torch.nn.functional.one_hot(y, task.n_outputs)
            outputs[:, span.stop - 1] -= codes.sum(1)
            parts.append(y[:, None].float())
        else:
            y = (torch.rand(n, task.n_outputs, generator=g) < 0.4).float()
            outputs[:, span] += 1.5 * y - codes.sum(1, keepdim=True)
            parts.append(y)
    labels = layout.pack({t.name: p for t, p in zip(layout.tasks, parts, strict=True)})
    labels = labels.where(torch.rand(labels.shape, generator=g) > 0.1, torch.nan)
    return outputs, labels, codes


def shifted(
    layout: Layout, groups: Groups, rows: tuple[Tensor, ...], offsets: Tensor, **settings: object
) -> Tensor:
    method = GroupThresholds(**settings)  # type: ignore[arg-type]
    method.fit(layout, groups, *rows, None, offsets)
    return method.apply(rows[0], rows[2])


def test_a_hand_case() -> None:
    """Men are ranked and cut right; women are ranked right and all found wanting.

    Everybody's recall is 1/2; men's threshold rises to it and women's falls to it.
    """
    outputs = torch.tensor([[2.0], [1.0], [-1.0], [-2.0], [-2.0], [-3.0], [-5.0], [-6.0]])
    labels = torch.tensor([[1.0], [1.0], [0.0], [0.0]] * 2)
    codes = torch.tensor([[0]] * 4 + [[1]] * 4)
    rows, none = (outputs, labels, codes), torch.zeros(1)
    moved = shifted(LABEL, SEX, rows, none, notion="equal_opportunity", prior=0.0)
    torch.testing.assert_close(
        moved - outputs, torch.tensor([[-1.5]] * 4 + [[2.5]] * 4, dtype=torch.float32)
    )
    assert rates(
        LABEL, SEX, "equal_opportunity", moved, labels, codes, none
    ).flatten().tolist() == [
        0.5,
        0.5,
        0.5,
    ]


@pytest.mark.parametrize("notion", ["equal_opportunity", "demographic_parity"])
@pytest.mark.parametrize("groups", [SEX, BOTH])
def test_one_rate_is_reached_by_every_group(notion: str, groups: Groups) -> None:
    rows, offsets = made_up(LABEL, groups), torch.tensor([0.7])
    before = rates(LABEL, groups, notion, *rows, offsets)
    moved = shifted(LABEL, groups, rows, offsets, notion=notion, prior=0.0)
    after = rates(LABEL, groups, notion, moved, *rows[1:], offsets)
    assert float(gaps(LABEL, groups, notion, *rows, offsets).min()) > 0.1
    torch.testing.assert_close(after[1:], before[:1].expand_as(after[1:]), atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    ("task", "notion"),
    [
        (Detection("d", ("x", "y")), "equalized_odds"),
        (Classification("c", ("a", "b")), "equal_opportunity"),
        (Classification("c", ("a", "b", "c")), "equal_opportunity"),
        (Classification("c", ("a", "b", "c")), "demographic_parity"),
        (Classification("c", ("a", "b", "c")), "equalized_odds"),
        (Classification("c", ("a", "b", "c"), favourable="c"), "equal_opportunity"),
    ],
)
def test_several_rates_come_near(task: Detection | Classification, notion: str) -> None:
    layout = Layout((task,))
    rows, offsets = made_up(layout, BOTH), torch.zeros(layout.n_outputs)
    moved = shifted(layout, BOTH, rows, offsets, notion=notion)
    before = gaps(layout, BOTH, notion, *rows, offsets)
    after = gaps(layout, BOTH, notion, moved, *rows[1:], offsets)
    assert float(after.mean()) < 0.35 * float(before.mean())


def test_a_favourable_class_alone_is_moved() -> None:
    layout = Layout((Classification("c", ("a", "b", "c"), favourable="c"),))
    rows = made_up(layout, SEX)
    moved = shifted(layout, SEX, rows, torch.zeros(3), notion="equal_opportunity")
    assert torch.equal(moved[:, :2], rows[0][:, :2])
    assert not torch.equal(moved[:, 2], rows[0][:, 2])


@pytest.mark.parametrize("notion", ["equal_opportunity", "equalized_odds", "demographic_parity"])
def test_no_threshold_of_a_grid_is_better(notion: str) -> None:
    """The exact search against a fine grid, judged by the library's statistics."""
    rows, offsets = made_up(LABEL, SEX, 400), torch.tensor([0.3])
    method = GroupThresholds(notion=notion, prior=0.0)
    method.fit(LABEL, SEX, *rows, None, offsets)
    target = rates(LABEL, SEX, notion, *rows, offsets)[0]

    def distance(shift: Tensor) -> Tensor:
        found = rates(LABEL, SEX, notion, rows[0] + shift[rows[2][:, 0]], *rows[1:], offsets)
        return ((found[1:] - target) ** 2).sum(1)

    own = distance(method.state_dict()["shift"].float())
    for step in torch.linspace(-6, 6, 49):
        assert bool((own <= distance(step.expand(2, 1)) + 1e-9).all())


def test_mean_residuals_are_evened_for_every_attribute() -> None:
    layout = Layout((Regression("r", centre=(10.0,), scale=(4.0,)),))
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (500, 2), generator=g)
    codes[:, 0] = (torch.rand(500, generator=g) < 0.2 + 0.5 * codes[:, 1]).long()
    labels = 10 + 4 * torch.randn(500, 1, generator=g)
    outputs = torch.randn(500, 1, generator=g) + codes.sum(1, keepdim=True)
    labels[::7] = torch.nan
    none = torch.zeros(1)
    moved = shifted(layout, BOTH, (outputs, labels, codes), none, prior=0.0)
    assert float(gaps(layout, BOTH, "bias_parity", outputs, labels, codes, none).min()) > 0.5
    assert float(gaps(layout, BOTH, "bias_parity", moved, labels, codes, none).max()) < 0.01
    moved = shifted(
        layout, BOTH, (outputs, labels, codes), none, prior=0.0, notion="demographic_parity"
    )
    assert float(gaps(layout, BOTH, "demographic_parity", moved, labels, codes, none).max()) < 0.01


def test_few_rows_move_little() -> None:
    """n/(n + prior), with n the rows that the rate rests on."""
    layout = Layout((Regression("r"),))
    outputs = torch.tensor([[1.0]] * 5 + [[0.0]] * 5)
    labels, codes = torch.zeros(10, 1), torch.tensor([[0]] * 5 + [[1]] * 5)
    moved = shifted(layout, SEX, (outputs, labels, codes), torch.zeros(1), prior=15.0)
    torch.testing.assert_close(moved[0, 0], torch.tensor(1.0 - 0.25 * 0.5))


def test_a_group_without_labels_is_not_moved() -> None:
    rows = made_up(LABEL, SEX)
    rows[1][rows[2][:, 0] == 1] = torch.nan
    moved = shifted(LABEL, SEX, rows, torch.zeros(1))
    women = rows[2][:, 0] == 1
    assert torch.equal(moved[women], rows[0][women])


def test_what_is_refused() -> None:
    rows = made_up(LABEL, SEX, 50)
    with pytest.raises(ValueError, match=r"cannot serve notion 'calibration' of task 'd'"):
        GroupThresholds(notion="calibration").fit(LABEL, SEX, *rows)
    with pytest.raises(ValueError, match="prior"):
        GroupThresholds(prior=-1.0)
