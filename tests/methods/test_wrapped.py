"""The packages fairret and cooper: what is asked of them, and what comes back."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from fairret.loss import LSELoss, NormLoss
from fairret.statistic import FalsePositiveRate, PositiveRate, TruePositiveRate
from torch import Tensor

from fairmt.groups import Attribute, Groups
from fairmt.ledger import atoms_of
from fairmt.methods import METHODS, StepMethod
from fairmt.methods.cooper_constraint import Cooper
from fairmt.methods.fairret_penalty import Fairret
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.tasks import Classification, Detection, Layout, Regression

LAYOUT = Layout(
    (
        Classification("job", ("low", "mid", "high")),
        Regression("pay"),
        Detection("aid", ("food", "rent")),
        Classification("moved", ("no", "yes")),
    )
)
GROUPS = Groups((Attribute("sex", ("f", "m")), Attribute("race", ("x", "y", "z"))))
ONE = Layout((Classification("moved", ("no", "yes")),))
SEX = Groups(GROUPS.attributes[:1])


pytestmark = pytest.mark.filterwarnings("ignore:Method 'fairret' is not defined:UserWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def bound(method: Any, layout: Layout = LAYOUT, groups: Groups = GROUPS) -> Any:
    method.setup(MultiTask(MLP(5, (6,)), LinearHeads(6, layout), layout), groups)
    return method


def rows(n: int = 200, layout: Layout = LAYOUT, groups: Groups = GROUPS) -> dict[str, Any]:
    labels = torch.cat(
        [
            torch.randn(n, f.labels.stop - f.labels.start)
            if f.kind == "regression"
            else torch.randint(0, f.tasks[0].n_outputs if f.kind == "classification" else 2,
                               (n, f.labels.stop - f.labels.start)).float()
            for f in layout.families
        ],
        1,
    )  # fmt: skip
    codes = [torch.randint(0, len(a.categories), (n,)) for a in groups.attributes]
    return {
        "features": torch.randn(n, 5),
        "labels": labels.double(),
        "attributes": torch.stack(codes, 1),
    }


def value(method: StepMethod, outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    found = method.penalty(torch.zeros(len(outputs), 6), outputs, method.unpack(batch))
    assert found is not None
    return found


# -- fairret ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("NormLoss", NormLoss), ("LSELoss", LSELoss)])
def test_one_binary_task_is_fairrets_own_loss(name: str, kind: Any) -> None:
    method, batch = bound(Fairret(loss=name), ONE, SEX), rows(layout=ONE, groups=SEX)
    outputs = torch.randn(200, 2).double()
    member = torch.nn.functional.one_hot(batch["attributes"][:, 0], 2).double()
    logit = (outputs[:, 1] - outputs[:, 0])[:, None]
    y = batch["labels"]
    expected = [kind(s())(logit, member, y) for s in (TruePositiveRate, FalsePositiveRate)]
    torch.testing.assert_close(value(method, outputs, batch), sum(expected) / 2 / 2)
    parity = bound(Fairret(loss=name, statistic="PositiveRate"), ONE, SEX)
    expected_parity = kind(PositiveRate())(logit, member)
    torch.testing.assert_close(value(parity, outputs, batch), expected_parity / 2)


def test_it_is_the_mean_over_classes_labels_and_attributes_with_weights() -> None:
    """By loops over rows, with missing labels, missing attributes, weights, and an empty group."""
    method, batch = bound(Fairret()), rows()
    batch["labels"][torch.rand(batch["labels"].shape) < 0.3] = torch.nan
    batch["attributes"][torch.rand(200, 2) < 0.2] = -1
    batch["attributes"][batch["attributes"] == 2] = 1
    batch["weights"] = torch.rand(200).double() + 0.5
    outputs = torch.randn(200, LAYOUT.n_outputs).double()
    o, labels = LAYOUT.split(outputs), LAYOUT.unpack(batch["labels"])
    cells = [(o["job"].softmax(1)[:, k], labels["job"], k) for k in range(3)]
    cells += [(o["aid"][:, k].sigmoid(), labels["aid"][:, k], 1) for k in range(2)]
    cells += [(o["moved"].softmax(1)[:, 1], labels["moved"], 1)]
    total = 0.0
    for position, attribute in enumerate(GROUPS.attributes):
        codes = batch["attributes"][:, position]
        for chance, y, answer in cells:
            for positive in (True, False):
                among = ~y.isnan() & (codes >= 0) & ((y == answer) == positive)

                def rate(chosen: Tensor, p: Tensor = chance) -> Tensor:
                    w = batch["weights"][chosen]
                    return (w * p[chosen]).sum() / w.sum()

                groups = [among & (codes == g) for g in range(len(attribute.categories))]
                gaps = [(rate(g) / rate(among) - 1).abs() for g in groups if g.any()]
                total += float(sum(gaps)) / len(attribute.categories) / 2
    assert float(value(method, outputs, batch)) == pytest.approx(total / len(cells) / 2)


def test_a_fairret_has_its_derivative_and_survives_empty_batches() -> None:
    method, batch = bound(Fairret(loss="LSELoss")), rows(16)
    outputs = torch.randn(16, LAYOUT.n_outputs).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: value(method, o, batch), outputs)
    batch["labels"][:] = torch.nan
    assert float(value(method, outputs, batch)) == 0
    method.step({**batch, "labels": batch["labels"].float()})


def test_what_fairret_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown statistic"):
        Fairret(statistic="Recall")
    with pytest.raises(ValueError, match="loss must be one of"):
        Fairret(loss="KLProjectionLoss")
    with pytest.raises(ValueError, match=r"fairret.*regression"):
        bound(Fairret(), Layout((Regression("pay"),)))


# -- cooper -------------------------------------------------------------------------------------


def plain_cooper(**settings: Any) -> Any:
    """Without memory, so that the batch is all there is."""
    return bound(Cooper(max_decay=0.0, notion="equalized_odds", **settings), ONE, SEX)


def gaps(method: Any, outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    """|rate of the group − everybody's| on soft decisions, (G, J), with gradient."""
    atoms = atoms_of(method.ledger, outputs, batch["labels"], torch.zeros(2), method.temperature)
    member = SEX.membership(batch["attributes"], outputs.dtype)
    rates = method.ledger.rates(method.ledger.moments(member, atoms).sums)
    return (rates[1:] - rates[:1]).abs()


def test_multipliers_ascend_by_the_violations_within_their_bounds() -> None:
    method, batch = plain_cooper(dual_rate=2.0, tolerance=0.05), rows(layout=ONE, groups=SEX)
    outputs = torch.randn(200, 2).double()
    outputs[batch["attributes"][:, 0] == 1, 1] += 2
    violations = gaps(method, outputs, batch) - 0.05
    assert float(violations.min()) > 0
    # The price of a step is the one before it.
    assert float(value(method, outputs, batch)) == 0
    mu = method.multiplier.weight.detach().view(2, -1)
    torch.testing.assert_close(mu.double(), 2 * violations, rtol=1e-5, atol=1e-6)
    expected = (mu.double() * violations).mean()
    torch.testing.assert_close(value(method, outputs, batch), expected, rtol=1e-5, atol=1e-6)
    for _ in range(30):
        value(method, outputs, batch)
    assert bool((method.multiplier.weight == 1).all())
    fair = torch.zeros(200, 2).double()
    for _ in range(30):
        value(method, fair, batch)
    assert bool((method.multiplier.weight == 0).all())


def test_the_gradient_is_that_of_the_lagrangian() -> None:
    method, batch = plain_cooper(), rows(layout=ONE, groups=SEX)
    mu = torch.rand(method.multiplier.weight.shape)
    with torch.no_grad():
        method.multiplier.weight.copy_(mu)
    outputs = torch.randn(200, 2).double().requires_grad_()
    (found,) = torch.autograd.grad(value(method, outputs, batch), outputs)
    lagrangian = (mu.double().view(2, -1) * (gaps(method, outputs, batch) - 0.02)).mean()
    (expected,) = torch.autograd.grad(lagrangian, outputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_groups_without_evidence_have_no_price() -> None:
    method, batch = plain_cooper(min_evidence=10.0), rows(layout=ONE, groups=SEX)
    batch["attributes"][:] = 0
    batch["attributes"][:3] = 1
    outputs = torch.randn(200, 2).double() * 5
    for _ in range(5):
        value(method, outputs, batch)
    mu = method.multiplier.weight.detach().view(2, -1)
    assert float(mu[1].abs().max()) == 0


def test_strength_zero_leaves_the_multipliers_alone() -> None:
    method = plain_cooper()
    batch = rows(layout=ONE, groups=SEX)
    batch["labels"] = batch["labels"].float()
    method.strength = 0.0
    method.step(batch)
    assert not bool(method.multiplier.weight.any())
    method.strength = 5.0
    method.step(batch)
    assert bool(method.multiplier.weight.any())


def test_cooper_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="judges none"):
        bound(Cooper(notion="equalized_odds"), Layout((Regression("pay"),)))
    with pytest.raises(ValueError, match="tolerance"):
        Cooper(tolerance=-0.1)
    with pytest.raises(ValueError, match="dual_rate"):
        Cooper(dual_rate=0.0)


@pytest.mark.parametrize(("name", "modules"), [
    ("fairret", ("fairret", "fairret.loss", "fairret.statistic")), ("cooper", ("cooper",)),
])  # fmt: skip
def test_without_the_package_the_method_is_listed_and_says_what_to_install(
    name: str, modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    assert name in METHODS
    with pytest.raises(ImportError, match=rf"pip install 'fairmt\[{name}\]'"):
        METHODS[name]()
