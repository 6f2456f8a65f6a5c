"""Sums of batches: what a row adds, what a missing entry does not, and what counts as evidence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fairmt.groups import Attribute, Groups
from fairmt.ledger import Ledger, atoms_of
from fairmt.moments import Moments, group_sums
from fairmt.notions import NOTIONS
from fairmt.tasks import Classification, Detection, Layout, Regression

from .hand_cases import GROUPS, NAN

LAYOUT = Layout(
    (
        Detection("finding", ("x", "y")),
        Regression("score", centre=(1.0,), scale=(2.0,)),
        Classification("job", ("a", "b", "c")),
    )
)
ALL = Ledger(
    LAYOUT, {t.name: [n for n, notion in NOTIONS.items() if notion.judges(t)] for t in LAYOUT.tasks}
)
PEOPLE = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))), depth=2)

Person = tuple[list[float], list[float], list[int], float]

logits = st.sampled_from([-1.5, -0.3, 0.2, 0.9, 2.0])
yes_no = st.sampled_from([0.0, 1.0, NAN])
people = st.lists(
    st.tuples(
        st.lists(logits, min_size=6, max_size=6),
        st.tuples(
            yes_no,
            yes_no,
            st.sampled_from([-3.0, 1.0, 2.5, NAN]),
            st.sampled_from([0.0, 1.0, 2.0, NAN]),
        ).map(list),
        st.tuples(st.integers(-1, 1), st.integers(-1, 2)).map(list),
        st.sampled_from([0.25, 1.0, 3.0]),
    ),
    min_size=1,
    max_size=30,
)


def moments_of(rows: list[Person], groups: Groups = PEOPLE, soft: bool = True) -> Moments:
    outputs, labels, codes, weights = (
        torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in range(4)
    )
    atoms = atoms_of(ALL, outputs, labels, None, 0.5 if soft else None)
    return ALL.moments(groups.membership(codes.long(), torch.float64), atoms, weights)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def same(a: Moments, b: Moments) -> None:
    close(a.sums, b.sums)
    close(a.mass, b.mass)
    close(a.mass2, b.mass2)


LABEL_COLUMN = {"finding": slice(0, 2), "score": slice(2, 3), "job": slice(3, 4)}
NEEDS_LABELS = torch.tensor(
    [
        s.measure not in ("predicted rate", "mean prediction") and "distance" not in s.measure
        for s in ALL.statistics
    ]
)


@given(people, people)
def test_rows_without_a_label_change_no_statistic_that_needs_it(
    rows: list[Person], more: list[Person]
) -> None:
    unlabelled = [(outputs, [NAN] * 4, codes, weight) for outputs, _, codes, weight in more]
    before, after = moments_of(rows), moments_of(rows + unlabelled)
    column = NEEDS_LABELS[ALL.statistic_of_column]
    close(after.sums[:, column], before.sums[:, column])
    close(after.mass[:, NEEDS_LABELS], before.mass[:, NEEDS_LABELS])
    close(after.mass2[:, NEEDS_LABELS], before.mass2[:, NEEDS_LABELS])
    people_added = sum(weight for *_, weight in more)
    added = (after.mass - before.mass)[0, ~NEEDS_LABELS]
    close(added, torch.full_like(added, people_added))


@given(people, people, st.sampled_from(["finding", "score", "job"]))
def test_a_missing_label_of_one_task_leaves_the_other_tasks_alone(
    rows: list[Person], more: list[Person], task: str
) -> None:
    blanked = []
    for outputs, labels, codes, weight in more:
        labels = list(labels)
        labels[LABEL_COLUMN[task]] = [NAN] * len(labels[LABEL_COLUMN[task]])
        blanked.append((outputs, labels, codes, weight))
    full, holed = moments_of(rows + more), moments_of(rows + blanked)
    others = torch.tensor([s.task != task for s in ALL.statistics]) | ~NEEDS_LABELS
    column = others[ALL.statistic_of_column]
    close(holed.sums[:, column], full.sums[:, column])
    close(holed.mass[:, others], full.mass[:, others])


@given(people, people)
def test_rows_without_an_attribute_change_none_of_its_groups(
    rows: list[Person], more: list[Person]
) -> None:
    nobody = [(o, labels, [-1, codes[1]], w) for o, labels, codes, w in more]
    before, after, added = moments_of(rows), moments_of(rows + nobody), moments_of(nobody)
    by_sex = torch.tensor([False, *("sex" in name for name in PEOPLE.names)])
    close(after.sums[by_sex], before.sums[by_sex])
    close(after.mass[by_sex], before.mass[by_sex])
    # Everybody, and the groups of race, do see them.
    close(after.sums[~by_sex], (before + added).sums[~by_sex])


@given(people, st.permutations(["p", "q", "r"]))
def test_relabelling_the_groups_permutes_the_result(rows: list[Person], order: list[str]) -> None:
    renamed = Groups((PEOPLE.attributes[0], Attribute("race", tuple(order))), depth=2)
    code = [order.index(category) for category in ("p", "q", "r")]
    recoded = [
        (o, labels, [sex, code[race] if race >= 0 else -1], w) for o, labels, (sex, race), w in rows
    ]
    found = moments_of(recoded, renamed)
    position = [0, *(1 + renamed.names.index(name) for name in PEOPLE.names)]
    same(
        Moments(found.sums[position], found.mass[position], found.mass2[position]),
        moments_of(rows),
    )


@given(people, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Person], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    same(moments_of(shuffled), moments_of(rows))


@given(people, st.integers(0, 30), st.booleans())
def test_moments_of_two_parts_add_up(rows: list[Person], cut: int, soft: bool) -> None:
    cut = min(cut, len(rows))
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    total = moments_of(parts[0], soft=soft)
    for part in parts[1:]:
        total = total + moments_of(part, soft=soft)
    same(total, moments_of(rows, soft=soft))


@given(people)
def test_a_weight_of_three_is_three_rows_but_not_three_times_the_evidence(
    rows: list[Person],
) -> None:
    tripled = moments_of([(o, labels, codes, 3.0) for o, labels, codes, _ in rows])
    single = moments_of([(o, labels, codes, 1.0) for o, labels, codes, _ in rows])
    repeated = moments_of([(o, labels, codes, 1.0) for o, labels, codes, _ in rows] * 3)
    close(tripled.sums, repeated.sums)
    close(tripled.evidence, single.evidence)


def test_evidence_is_a_count_of_rows_without_weights_and_of_kish_with_them() -> None:
    task = Detection("finding", ("x",))
    ledger = Ledger(Layout((task,)), {"finding": ["equal_opportunity", "predictive_parity"]})
    outputs = torch.tensor([2.0, -2.0, 2.0, 2.0, -2.0, 2.0])[:, None]
    labels = torch.tensor([1.0, 1.0, 0.0, 1.0, NAN, NAN])[:, None]
    codes = torch.tensor([0, 1, 0, 0, 1, 1])[:, None]
    member = GROUPS.membership(codes)
    for temperature in (None, 0.5):
        # Recall: those with the label. Precision: those decided for whose label is known, even
        # where decisions are soft.
        atoms = atoms_of(ledger, outputs, labels, None, temperature)
        plain = ledger.moments(member, atoms)
        assert plain.evidence.tolist() == [[3, 3], [2, 3], [1, 0]]
        weights = torch.tensor([1.0, 5.0, 2.0, 3.0, 7.0, 7.0])
        kish = ledger.moments(member, atoms, weights).evidence
        assert kish[1].tolist() == pytest.approx([16 / 10, 36 / 14])
        assert kish[2].tolist() == [1, 0]


def test_gradients_of_sums_reach_the_rows_of_the_group_alone() -> None:
    columns = torch.ones(4, 1, requires_grad=True)
    member = GROUPS.membership(torch.tensor([[0], [1], [-1], [1]]))
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    sums = group_sums(member, columns, weights)
    assert sums[:, 0].tolist() == [15, 1, 10]
    (gradient,) = torch.autograd.grad(sums[2, 0], columns)
    assert gradient[:, 0].tolist() == [0, 2, 0, 8]
