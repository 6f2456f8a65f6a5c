"""Which statistics a ledger holds, and decisions, probabilities and truths in fused order."""

from __future__ import annotations

import pytest
import torch

from fairmt.ledger import Ledger, atoms_of, decide, probabilities, truths
from fairmt.notions import NOTIONS, Notion
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

from .hand_cases import NAN


def names(task: Task, *notions: str) -> list[str]:
    return [s.name for s in Ledger(Layout((task,)), {task.name: notions}).statistics]


THREE = Classification("job", ("a", "b", "c"))
TWO = Classification("home", ("no", "yes"))
LIKED = Classification("home", ("no", "yes"), favourable="no")


@pytest.mark.parametrize(
    ("task", "notion", "expected"),
    [
        (TWO, "equalized_odds", ["recall of no", "recall of yes"]),
        (TWO, "demographic_parity", ["predicted rate of yes"]),
        (TWO, "bias_parity", ["calibration in the large of yes"]),
        (TWO, "calibration", ["calibration error of yes"]),
        (TWO, "predictive_parity", ["precision of no", "precision of yes"]),
        (TWO, "accuracy_parity", ["accuracy"]),
        (LIKED, "equal_opportunity", ["recall of no"]),
        (LIKED, "demographic_parity", ["predicted rate of no"]),
        (LIKED, "equalized_odds", ["recall of no", "recall of yes"]),
        (THREE, "calibration", [f"calibration error of {c}" for c in "abc"]),
        (Detection("ill", ("x",)), "equalized_odds", ["recall", "true negative rate"]),
        (Regression("pay"), "error_parity", ["mean squared error"]),
    ],
)
def test_nothing_is_said_twice(task: Task, notion: str, expected: list[str]) -> None:
    assert names(task, notion) == expected


def test_measures_shared_by_two_notions_are_held_once() -> None:
    assert names(THREE, "equal_opportunity", "equalized_odds") == names(THREE, "equalized_odds")


def test_a_favourable_class_gives_parity_of_rates_a_direction() -> None:
    for task, orientation in ((TWO, 0), (LIKED, 1)):
        ledger = Ledger(Layout((task,)), {"home": ["demographic_parity"]})
        assert ledger.orientation.tolist() == [orientation]
        assert [s.orientation for s in ledger.statistics] == [orientation]


MIXED = Layout(
    (
        THREE,
        Regression("pay", ("wage", "bonus"), centre=(3.0, 5.0), scale=(2.0, 4.0)),
        TWO,
        Detection("ill", ("x", "y")),
        Classification("school", ("u", "v", "w")),
    )
)
NOTIONS_OF = {
    "job": ["equalized_odds", "accuracy_parity", "calibration"],
    "pay": ["bias_parity", "concordance_parity", "distribution_parity"],
    "home": ["predictive_parity"],
    "ill": ["equalized_odds"],
    "school": ["accuracy_parity", "equal_opportunity"],
}


def batch(n: int = 80) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(n, MIXED.n_outputs, generator=g, dtype=torch.float64)
    labels = MIXED.pack(
        {
            "job": torch.randint(3, (n,), generator=g).double(),
            "pay": torch.randn(n, 2, generator=g).double(),
            "home": torch.randint(2, (n,), generator=g).double(),
            "ill": torch.randint(2, (n, 2), generator=g).double(),
            "school": torch.randint(3, (n,), generator=g).double(),
        }
    )
    labels[torch.rand(labels.shape, generator=g) < 0.2] = NAN
    return outputs, labels, torch.ones(n, 1, dtype=torch.float64)


def test_a_statistic_has_the_rate_it_has_when_compiled_alone() -> None:
    outputs, labels, member = batch()
    together = Ledger(MIXED, NOTIONS_OF)
    rates = together.rates(together.moments(member, atoms_of(together, outputs, labels)).sums)
    found = {(s.task, s.name): rates[0, j] for j, s in enumerate(together.statistics)}
    assert len(found) == len(together)
    alone: dict[tuple[str, str], torch.Tensor] = {}
    for task in MIXED.tasks:
        layout = Layout((task,))
        for notion in NOTIONS_OF[task.name]:
            ledger = Ledger(layout, {task.name: [notion]})
            own = atoms_of(
                ledger, outputs[:, MIXED.outputs[task.name]], labels[:, MIXED.labels[task.name]]
            )
            single = ledger.rates(ledger.moments(member, own).sums)
            alone |= {(s.task, s.name): single[0, j] for j, s in enumerate(ledger.statistics)}
    assert set(found) == set(alone)
    for key, rate in alone.items():
        torch.testing.assert_close(found[key], rate, rtol=1e-12, atol=1e-12)


def test_columns_and_statistics_know_their_place() -> None:
    ledger = Ledger(MIXED, NOTIONS_OF)
    outputs, labels, _ = batch(3)
    atoms = atoms_of(ledger, outputs, labels, None, 0.5)
    assert ledger.columns(atoms).shape == (3, ledger.n_columns)
    assert ledger.evidence(atoms).shape == (3, len(ledger))
    assert len(ledger.statistic_of_column) == ledger.n_columns
    assert torch.bincount(ledger.statistic_of_column, minlength=len(ledger)).min() >= 2
    task_names = [t.name for t in MIXED.tasks]
    assert [task_names[i] for i in ledger.task_index] == [s.task for s in ledger.statistics]
    # A column moves the rate of the statistic it serves, and no other.
    sums = torch.rand(1, ledger.n_columns, dtype=torch.float64) + 1
    jacobian = torch.autograd.functional.jacobian(lambda s: ledger.rates(s)[0], sums)[:, 0]
    for column, j in enumerate(ledger.statistic_of_column.tolist()):
        assert set(jacobian[:, column].nonzero().flatten().tolist()) <= {j}


def test_a_notion_of_ones_own_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Notion("own", "A sentence.", {"detection": ("precision", "recall")})
    monkeypatch.setitem(NOTIONS, "own", own)
    assert names(Detection("ill", ("x",)), "own") == ["precision", "recall"]


# -- decisions ---------------------------------------------------------------------------------


def test_hard_decisions_take_the_largest_class_and_the_positive_label() -> None:
    layout = Layout((Detection("ill", ("x", "y")), THREE, Regression("pay")))
    outputs = torch.tensor([[0.2, -0.1, 1.0, 3.0, 2.0, 7.5], [-1.0, 4.0, 2.0, 1.0, 0.0, -7.5]])
    assert decide(layout, outputs).tolist() == [[1, 0, 0, 1, 0, 7.5], [0, 1, 1, 0, 0, -7.5]]
    offsets = torch.tensor([-0.5, 0.5, 0.0, -1.5, 0.0, 100.0])
    assert decide(layout, outputs, offsets).tolist() == [
        [0, 1, 0, 0, 1, 7.5],
        [0, 1, 1, 0, 0, -7.5],
    ]


def test_an_offset_is_the_logit_of_a_threshold() -> None:
    layout = Layout((Detection("ill", ("x",)),))
    p = torch.linspace(0.01, 0.99, 50)[:, None]
    threshold = torch.tensor([0.3])
    found = decide(layout, torch.logit(p), -torch.logit(threshold))
    assert torch.equal(found, (p > threshold).float())


def test_soft_decisions_are_centred_at_the_rule_and_sharpen_to_the_hard_ones() -> None:
    outputs, _, _ = batch(30)
    offsets = torch.randn(MIXED.n_outputs, generator=torch.Generator().manual_seed(1)).double()
    hard = decide(MIXED, outputs, offsets)
    for temperature, close in ((1.0, 1.0), (1e-4, 1e-6)):
        soft = decide(MIXED, outputs, offsets, temperature)
        assert float((soft - hard).abs().max()) <= close
        for task in MIXED.tasks:
            own = soft[:, MIXED.outputs[task.name]]
            if task.kind == "classification":
                torch.testing.assert_close(own.sum(1), torch.ones(30, dtype=torch.float64))
            if task.kind == "detection":
                assert torch.equal(own > 0.5, hard[:, MIXED.outputs[task.name]] == 1)


def test_probabilities_know_no_offsets() -> None:
    outputs, labels, _ = batch(30)
    ledger = Ledger(MIXED, {"job": ["calibration"]})
    atoms = atoms_of(ledger, outputs, labels, torch.full((MIXED.n_outputs,), 3.0), 0.5)
    torch.testing.assert_close(atoms.probability, probabilities(MIXED, outputs))
    span = MIXED.outputs["job"]
    torch.testing.assert_close(probabilities(MIXED, outputs)[:, span], outputs[:, span].softmax(1))


def test_truths_are_one_hot_and_standardised_and_zero_where_missing() -> None:
    layout = Layout((THREE, Regression("pay", centre=(3.0,), scale=(2.0,)), Detection("i", ("x",))))
    labels = layout.pack(
        {
            "job": torch.tensor([2.0, NAN]),
            "pay": torch.tensor([7.0, NAN]),
            "i": torch.tensor([1.0, NAN]),
        }
    )
    observed, actual = truths(layout, labels)
    assert observed.tolist() == [[1] * 5, [0] * 5]
    assert actual.tolist() == [[0, 0, 1, 2, 1], [0] * 5]


def test_an_empty_batch_has_no_mass() -> None:
    outputs, labels, member = (x[:0] for x in batch())
    ledger = Ledger(MIXED, NOTIONS_OF)
    for temperature in (None, 0.5):
        atoms = atoms_of(ledger, outputs, labels, None, temperature)
        moments = ledger.moments(member, atoms)
        assert float(moments.sums.abs().sum() + moments.mass.sum()) == 0
