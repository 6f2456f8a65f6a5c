"""Every cell of the notion table: by hand, by other libraries, by differences, and in parts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from fairmt.constraint import Constraint
from fairmt.groups import Attribute, Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.measures import MEASURES
from fairmt.moments import Moments
from fairmt.notions import CONTRADICTIONS, DEFAULT_NOTIONS, NOTIONS, resolve_notions
from fairmt.tasks import Classification, Detection, Layout, Regression

from . import oracles
from .hand_cases import CELLS, GROUPS, HAND, NAN, TEMPERATURE, Table

MODES = ("hard", "soft")
cells = pytest.mark.parametrize(("kind", "notion"), CELLS, ids=lambda name: name)
modes = pytest.mark.parametrize("mode", MODES)


def temperature(mode: str) -> float | None:
    return None if mode == "hard" else TEMPERATURE


# -- random data -------------------------------------------------------------------------------

# Kinds alternate, so that the fused order differs from the order of the tasks.
LAYOUT = Layout(
    (
        Regression("pay", ("wage", "bonus"), centre=(30.0, 2.0), scale=(12.0, 0.5)),
        Classification("job", ("a", "b", "c")),
        Detection("drugs", ("insulin", "statin", "aspirin")),
        Classification("stay", ("short", "long")),
        Classification("school", ("none", "high", "college")),
        Regression("age", loss="huber", centre=(50.0,), scale=(9.0,)),
        Detection("home", ("yes",)),
    )
)
PEOPLE = Groups(
    (Attribute("sex", ("m", "w")), Attribute("race", ("x", "y", "z"))),
    depth=2,
)


class Sample:
    """Random rows: missing labels, missing attributes, weights and a decision rule in force."""

    def __init__(self, n: int, seed: int, layout: Layout = LAYOUT) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        def missing(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g) < 0.15

        self.layout = layout
        self.outputs = normal(n, layout.n_outputs)
        self.labels = torch.empty(n, layout.n_labels, dtype=torch.float64)
        noisy = self.outputs + normal(n, layout.n_outputs)
        for task in layout.tasks:
            own = noisy[:, layout.outputs[task.name]]
            if isinstance(task, Classification):
                own = own.argmax(1, keepdim=True).double()
            elif isinstance(task, Detection):
                own = (own > 0).double()
            elif isinstance(task, Regression):
                own = own * own.new_tensor(task.scale) + own.new_tensor(task.centre)
            self.labels[:, layout.labels[task.name]] = own
        self.labels[missing(n, layout.n_labels)] = NAN
        self.codes = torch.stack(
            [
                torch.randint(len(a.categories), (n,), generator=g).masked_fill(missing(n), -1)
                for a in PEOPLE.attributes
            ],
            1,
        )
        self.weights = normal(n).exp()
        self.offsets = 0.5 * normal(layout.n_outputs)

    def moments(self, ledger: Ledger, mode: str, rows: Tensor | slice = slice(None)) -> Moments:
        atoms = atoms_of(
            ledger, self.outputs[rows], self.labels[rows], self.offsets, temperature(mode)
        )
        member = PEOPLE.membership(self.codes[rows], torch.float64)
        return ledger.moments(member, atoms, self.weights[rows])

    def masks(self) -> list[np.ndarray]:
        """Everybody, and the rows of every group, named by the group."""
        known = []
        for name in PEOPLE.names:
            mask = np.ones(len(self.codes), bool)
            for part in name.split(" & "):
                attribute, category = part.split("=")
                position = [a.name for a in PEOPLE.attributes].index(attribute)
                code = PEOPLE.attributes[position].categories.index(category)
                mask &= self.codes[:, position].numpy() == code
            known.append(mask)
        return [np.ones(len(self.codes), bool), *known]


def ledger_of(kind: str, notion: str, layout: Layout = LAYOUT) -> Ledger:
    return Ledger(layout, resolve_notions(layout.tasks, {kind: notion}))


# -- (a) by hand -------------------------------------------------------------------------------


def rates_on(table: Table, notion: str, mode: str) -> dict[str, Sequence[float]]:
    """Rate of men and of women by name of the statistic."""
    ledger = Ledger(Layout((table.task,)), {table.task.name: (notion,)})
    # Soft distributions step smoothly only where a gradient is asked for.
    outputs = table.outputs.clone().requires_grad_(mode == "soft")
    atoms = atoms_of(ledger, outputs, table.labels, None, temperature(mode))
    member = GROUPS.membership(torch.tensor(table.codes)[:, None], torch.float64)
    rates = ledger.rates(ledger.moments(member, atoms).sums).detach()[1:]
    return {s.name: rates[:, j].tolist() for j, s in enumerate(ledger.statistics)}


@cells
@modes
def test_rates_equal_a_case_worked_out_by_hand(kind: str, notion: str, mode: str) -> None:
    assert (kind, notion) in HAND, f"work out a case for {notion} of {kind} in hand_cases.py"
    case = HAND[kind, notion]
    table, expected = case.table, case.hard
    if mode == "soft":
        table, expected = case.soft_table or case.table, case.soft
    assert table.task.kind == kind
    found = rates_on(table, notion, mode)
    assert set(found) == set(expected)
    for name, pair in expected.items():
        assert found[name] == pytest.approx([float(x) for x in pair], abs=1e-11), name


# -- (b) by other libraries --------------------------------------------------------------------


@cells
@modes
def test_rates_equal_those_of_other_libraries(kind: str, notion: str, mode: str) -> None:
    sample = Sample(700, seed=1)
    ledger = ledger_of(kind, notion)
    assert {s.task for s in ledger.statistics} == {t.name for t in LAYOUT.tasks if t.kind == kind}
    sample.outputs.requires_grad_(mode == "soft")
    rates = ledger.rates(sample.moments(ledger, mode).sums).detach().numpy()
    single = oracles.HARD if mode == "hard" else oracles.SOFT
    distances = oracles.HARD_DISTANCES if mode == "hard" else oracles.SOFT_DISTANCES
    masks = sample.masks()
    for j, statistic in enumerate(ledger.statistics):
        task = LAYOUT[statistic.task]
        output = None if statistic.measure == "accuracy" else 0
        if statistic.output is not None:
            output = task.outputs.index(statistic.output)
        rows = oracles.rows_of(
            task,
            output,
            sample.outputs[:, LAYOUT.outputs[task.name]].detach().numpy(),
            sample.labels[:, LAYOUT.labels[task.name]].numpy(),
            sample.weights.numpy(),
            sample.offsets[LAYOUT.outputs[task.name]].numpy(),
            temperature(mode),
        )
        assert statistic.measure in {**single, **distances}, "write an oracle for the new measure"
        for g, mask in enumerate(masks):
            if statistic.measure in distances:
                expected = distances[statistic.measure](rows.of(mask), rows)
            else:
                expected = single[statistic.measure](rows.of(mask))
            assert rates[g, j] == pytest.approx(expected, abs=1e-10), (statistic, g)


# -- (c) gradients -----------------------------------------------------------------------------

ONE_TASK = {
    "classification": Classification("job", ("a", "b", "c")),
    "detection": Detection("finding", ("x", "y")),
    "regression": Regression("score", ("u", "v"), centre=(1.0, 2.0), scale=(2.0, 3.0)),
}


@cells
def test_gradient_of_the_soft_rate_equals_differences(kind: str, notion: str) -> None:
    sample = Sample(30, seed=2, layout=Layout((ONE_TASK[kind],)))
    ledger = ledger_of(kind, notion, sample.layout)
    mix = torch.randn(
        1 + PEOPLE.n_groups,
        len(ledger),
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )

    def value(outputs: Tensor) -> Tensor:
        sample.outputs = outputs.detach().requires_grad_()
        return (mix * ledger.rates(sample.moments(ledger, "soft").sums)).sum()

    at = sample.outputs.clone()
    value(at).backward()
    gradient = sample.outputs.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 1e-3
    step = 1e-6
    for i in range(len(at)):
        for k in range(at.shape[1]):
            move = torch.zeros_like(at)
            move[i, k] = step
            slope = (value(at + move) - value(at - move)).item() / (2 * step)
            assert float(gradient[i, k]) == pytest.approx(slope, abs=1e-7, rel=1e-6)


@cells
def test_a_group_without_rows_leaves_gradients_finite(kind: str, notion: str) -> None:
    sample = Sample(30, seed=4, layout=Layout((ONE_TASK[kind],)))
    sample.codes[:, 1] = sample.codes[:, 1].clamp(max=1)
    ledger = ledger_of(kind, notion, sample.layout)
    sample.outputs.requires_grad_()
    rates = ledger.rates(sample.moments(ledger, "soft").sums)
    assert bool(rates.isfinite().all())
    known = ~torch.tensor(["race=z" in name for name in PEOPLE.names])
    rates[1:][known].sum().backward()
    assert sample.outputs.grad is not None
    assert bool(sample.outputs.grad.isfinite().all())


# -- (d) in parts ------------------------------------------------------------------------------


@cells
@modes
def test_parts_merged_in_any_order_give_the_sums_of_the_whole(
    kind: str, notion: str, mode: str
) -> None:
    sample = Sample(200, seed=5)
    ledger = ledger_of(kind, notion)
    whole = sample.moments(ledger, mode)
    shuffle = random.Random(6)
    for n_parts in (2, 5, 40):
        rows = list(range(200))
        shuffle.shuffle(rows)
        cuts = [0, 0, *sorted(shuffle.choices(range(200), k=n_parts - 2)), 200]
        parts = [rows[a:b] for a, b in itertools.pairwise(cuts)]
        merged = [sample.moments(ledger, mode, torch.tensor(p, dtype=torch.int64)) for p in parts]
        shuffle.shuffle(merged)
        while len(merged) > 1:
            merged.append(merged.pop(shuffle.randrange(len(merged))) + merged.pop(0))
        for name in ("sums", "mass", "mass2", "evidence"):
            torch.testing.assert_close(
                getattr(merged[0], name), getattr(whole, name), rtol=1e-12, atol=1e-12
            )


# -- the error that a mean over everybody hides ------------------------------------------------


def perfect_for_men(task: Classification | Detection, n: int = 120) -> tuple[Tensor, Tensor]:
    """Outputs and labels; rows of men (even) are all right, those of women (odd) all wrong."""
    rows = torch.arange(n)
    right = (rows % 2 == 0)[:, None]
    k = task.n_outputs
    if isinstance(task, Classification):
        label = (rows // 2) % k
        predicted = torch.where(right[:, 0], label, (label + 1) % k)
        outputs = 9.0 * torch.nn.functional.one_hot(predicted, k).double()
        return outputs, label[:, None].double()
    label = (rows[:, None] // 2 + torch.arange(k)) % 2
    return 9.0 * torch.where(right, 2 * label - 1, 1 - 2 * label).double(), label.double()


@pytest.mark.parametrize(
    "task",
    [
        Classification("job", ("a", "b", "c")),
        Classification("home", ("no", "yes")),
        Detection("finding", ("x", "y")),
        Detection("finding", ("x",)),
    ],
    ids=["three classes", "two classes", "two labels", "one label"],
)
@modes
def test_right_for_men_and_wrong_for_women_shows_the_full_gap(
    task: Classification | Detection, mode: str
) -> None:
    outputs, labels = perfect_for_men(task)
    codes = (torch.arange(len(outputs)) % 2)[:, None]
    notions = ("equalized_odds", "accuracy_parity")
    ledger = Ledger(Layout((task,)), {task.name: notions})
    atoms = atoms_of(ledger, outputs, labels, None, temperature(mode))
    moments = ledger.moments(GROUPS.membership(codes, torch.float64), atoms)
    rates = ledger.rates(moments.sums)
    aggregate = Constraint(ledger, GROUPS, tolerance=0.25, directionality=1.0).aggregate(moments)
    close = {"hard": 0.0, "soft": 1e-6}[mode]
    for j, statistic in enumerate(ledger.statistics):
        men, women = rates[1:, j].tolist()
        if statistic.measure == "false alarm rate":
            # A wrong class is one of two others: women are put into each half the time.
            men, women = women * 2, men * 2
        assert men == pytest.approx(1.0, abs=close, rel=0), statistic
        assert women == pytest.approx(0.0, abs=close), statistic
        if statistic.measure != "false alarm rate":
            assert float(rates[0, j]) == pytest.approx(0.5, abs=close, rel=0)
            assert aggregate.violations[:, j].tolist() == pytest.approx(
                [0.0, 0.75], abs=close, rel=0
            )


# -- the table itself --------------------------------------------------------------------------


def test_every_measure_is_judged_by_some_notion() -> None:
    used = {m for notion in NOTIONS.values() for names in notion.measures.values() for m in names}
    assert used == set(MEASURES)


def test_defaults_and_contradictions_name_notions_of_the_table() -> None:
    assert set(DEFAULT_NOTIONS) == {"classification", "detection", "regression"}
    for kind, names in DEFAULT_NOTIONS.items():
        assert all(kind in NOTIONS[name].measures for name in names)
    assert {name for pair in CONTRADICTIONS for name in pair} <= set(NOTIONS)


@modes
def test_rates_called_bounded_stay_between_0_and_1(mode: str) -> None:
    sample = Sample(300, seed=7)
    notions = {t.name: [n for n, cell in NOTIONS.items() if cell.judges(t)] for t in LAYOUT.tasks}
    ledger = Ledger(LAYOUT, notions)
    rates = ledger.rates(sample.moments(ledger, mode).sums)
    inside = ((rates >= 0) & (rates <= 1)).all(0)
    assert {s.measure for s in ledger.statistics} == set(MEASURES)
    assert bool(inside[ledger.bounded].all())
    for measure in MEASURES.values():
        if measure.distance:
            assert (measure.orientation, measure.centre) == (0, "zero")


@pytest.mark.parametrize(
    ("kind", "notion"),
    [cell for cell in CELLS if NOTIONS[cell[1]].needs_labels],
    ids=lambda name: name,
)
def test_being_right_is_the_better_benefit_and_the_centre_of_what_has_none(
    kind: str, notion: str
) -> None:
    sample = Sample(400, seed=8, layout=Layout((ONE_TASK[kind],)))
    task = ONE_TASK[kind]
    truth = torch.nan_to_num(sample.labels, nan=0.0)
    if isinstance(task, Classification):
        right = 9.0 * torch.nn.functional.one_hot(truth[:, 0].long(), 3).double()
        first = torch.arange(len(right))[:, None] % 2 == 0
        wrong = torch.where(first, right.roll(1, 1), right.roll(2, 1))
    elif isinstance(task, Detection):
        right = 18.0 * truth - 9.0
        wrong = -right
    else:
        assert isinstance(task, Regression)
        right = task.standardise(truth)
        wrong = -right
    ledger = ledger_of(kind, notion, sample.layout)
    sample.offsets = torch.zeros(task.n_outputs)
    sample.outputs = right
    at_best = ledger.rates(sample.moments(ledger, "hard").sums)
    sample.outputs = wrong
    at_worst = ledger.rates(sample.moments(ledger, "hard").sums)
    oriented = ledger.orientation != 0
    better = ledger.orientation * (at_best - at_worst)
    assert bool((better[:, oriented] > 0.1).all())
    assert bool(ledger.centred_at_zero[~oriented].all())
    assert float(at_best[:, ~oriented].abs().sum()) == pytest.approx(0.0, abs=1e-2)


# -- which notion judges which task ------------------------------------------------------------

TASKS = LAYOUT.tasks


def test_a_notion_leaves_kinds_alone_that_it_does_not_judge() -> None:
    resolved = resolve_notions(TASKS, "equal_opportunity")
    assert resolved["job"] == resolved["drugs"] == ("equal_opportunity",)
    assert resolved["pay"] == ()


def test_the_default_asks_of_each_kind_its_own_notion() -> None:
    resolved = resolve_notions(TASKS, "default")
    assert {t.name: resolved[t.name] for t in TASKS} == {
        t.name: DEFAULT_NOTIONS[t.kind] for t in TASKS
    }


def test_a_task_by_name_comes_before_its_kind_and_unnamed_tasks_go_free() -> None:
    resolved = resolve_notions(
        TASKS, {"classification": "equal_opportunity", "stay": ["accuracy_parity", "calibration"]}
    )
    assert resolved["job"] == ("equal_opportunity",)
    assert resolved["stay"] == ("accuracy_parity", "calibration")
    assert resolved["drugs"] == resolved["pay"] == ()


def test_notions_said_twice_are_asked_once() -> None:
    resolved = resolve_notions(TASKS, ["default", "bias_parity", "none"])
    assert resolved["pay"] == ("bias_parity",)


@pytest.mark.parametrize(
    ("notion", "message"),
    [
        ("equal_oportunity", "Unknown notion 'equal_oportunity'; expected one of"),
        ({"jbo": "calibration"}, r"\['jbo'\], which are neither tasks nor kinds"),
        ({"pay": "calibration"}, r"not defined for task 'pay' \(regression\); these are: \['demog"),
        (["equalized_odds", "predictive_parity"], "Task 'job': 'equalized_odds' and"),
    ],
)
def test_notions_that_cannot_be_are_named(notion: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_notions(TASKS, notion)  # type: ignore[arg-type]
