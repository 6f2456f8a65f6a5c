"""FairCOCCO: its penalty by the Gram form, what rows it counts, its memory, and numbers as
attributes from the table to the learner."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from fairmt import FairMTLearner
from fairmt.auditing import dependence_score
from fairmt.dependence import RIDGE, Variable, gram_dependence
from fairmt.groups import Attribute, Groups
from fairmt.methods import FairCOCCO
from fairmt.models import LinearHeads
from fairmt.tasks import Classification, Detection, Layout, Regression

B = 50
NAN = float("nan")
LAYOUT = Layout(
    (
        Regression("pay", centre=(3.0,), scale=(2.0,), weight=0.5),
        Classification("job", ("a", "b", "c"), weight=2.0),
        Detection("ill", ("x", "y")),
    )
)
GROUPS = Groups(
    (
        Attribute("sex", ("m", "w")),
        Attribute("age", ("young", "old")),
        Attribute("race", ("p", "q", "r")),
    )
)
Data = dict[str, Any]


def build(groups: Groups = GROUPS, layout: Layout = LAYOUT, **settings: Any) -> FairCOCCO:
    """A method whose model's outputs are its features."""
    heads = LinearHeads(layout.n_outputs, layout).double()
    with torch.no_grad():
        heads.weight.copy_(torch.eye(layout.n_outputs))
        heads.bias.zero_()
    settings = {"max_decay": 0.0} | settings
    return FairCOCCO(nn.Identity(), heads, layout, groups, **settings)


def data(seed: int = 0, n: int = B) -> Data:
    g = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(2 + (k == 2), (n,), generator=g) for k in range(3)], 1)
    outputs = torch.randn(n, LAYOUT.n_outputs, generator=g, dtype=torch.float64)
    labels = torch.randint(2, (n, LAYOUT.n_labels), generator=g).double()
    values = torch.full((n, 3), NAN, dtype=torch.float64)
    values[:, 1] = torch.randn(n, generator=g, dtype=torch.float64)
    return {
        "features": outputs + 0.5 * codes[:, :1],
        "labels": labels,
        "attributes": codes,
        "values": values,
    }


def penalty(step: FairCOCCO, batch: Data) -> float:
    found = step.penalty(batch["features"], step.model(batch["features"]), step.unpack(batch))
    assert found is not None
    return found.item()


def gradient(step: FairCOCCO, batch: Data) -> Tensor:
    """Of the penalty, at the outputs."""
    outputs = batch["features"].clone().requires_grad_()
    found = step.penalty(outputs, outputs, step.unpack(batch))
    assert found is not None
    return torch.autograd.grad(found, outputs)[0]


def gram(variable: Variable, per_number: int = 8) -> Tensor:
    f = variable.features(torch.float64, per_number)[:, 1:]
    return f @ f.T / (f**2).sum(1).mean()


def predicted(outputs: Tensor) -> list[tuple[str, int, Tensor]]:
    """Task, position of the output in it, and the output as the measure takes it (B, 1)."""
    by_task = LAYOUT.split(outputs)
    found = [("pay", 0, by_task["pay"][:, :1])]
    found += [("job", k, 2 * by_task["job"].softmax(1)[:, [k]]) for k in range(3)]
    found += [("ill", k, 2 * by_task["ill"].sigmoid()[:, [k]]) for k in range(2)]
    return found


WEIGHTS = {"pay": 0.5, "job": 2.0 / 3, "ill": 0.5}
"""A task's weight, shared among its outputs."""


@pytest.mark.parametrize("continuous", [(), ("age",)])
def test_the_penalty_is_the_sum_of_scores_by_gram_matrices(continuous: tuple[str, ...]) -> None:
    batch = data()
    sex, age, race = batch["attributes"].T
    if continuous:
        a = Variable(sex * 3 + race, 6, batch["values"][:, [1]])
    else:
        a = Variable((sex * 2 + age) * 3 + race, 12)
    expected = 0.0
    for task, _, y in predicted(batch["features"]):
        score = gram_dependence(gram(a), gram(Variable(numbers=y)), ridge=RIDGE).score
        expected += WEIGHTS[task] * score.item()
    assert penalty(build(continuous=continuous), batch) == pytest.approx(expected, rel=1e-8)


def test_equalized_odds_is_the_sum_of_conditional_scores() -> None:
    """Each output given its own label, a class against the others, over rows that have it."""
    batch = data()
    labels = LAYOUT.unpack(batch["labels"])
    labels["job"][:7] = NAN
    labels["pay"][5:9] = NAN
    labels["ill"][::6, 1] = NAN
    sex, _, race = batch["attributes"].T
    expected = 0.0
    for task, k, y in predicted(batch["features"]):
        label = labels[task] if task == "job" else labels[task][:, k]
        rows = ~label.isnan()
        if task == "pay":
            given = Variable(numbers=((label - 3) / 2)[rows, None])
        else:
            given = Variable((label == k if task == "job" else label)[rows].long(), 2)
        a = Variable((sex * 3 + race)[rows], 6, batch["values"][rows, 1:2])
        own, other = a.join(given), Variable(numbers=y[rows]).join(given)
        found = gram_dependence(gram(own), gram(other), gram(given), RIDGE).score
        expected += WEIGHTS[task] * found.item()
    step = build(continuous=("age",), notion="equalized_odds")
    assert penalty(step, batch | {"labels": LAYOUT.pack(labels)}) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("notion", ["demographic_parity", "equalized_odds"])
def test_rows_of_unknown_attributes_contribute_nothing(notion: str) -> None:
    batch = data()
    rows = {k: v[:40] for k, v in batch.items()}
    batch["attributes"] = batch["attributes"].clone()
    batch["attributes"][40:45, 2] = -1
    batch["values"][45:, 1] = NAN
    one, two = (build(continuous=("age",), notion=notion) for _ in range(2))
    a, b = gradient(one, batch), gradient(two, rows)
    torch.testing.assert_close(a[:40], b)
    assert bool((a[40:] == 0).all())


def test_equalized_odds_leaves_rows_without_labels_alone() -> None:
    batch = data()
    rows = {k: v[:40] for k, v in batch.items()}
    batch["labels"][40:] = NAN
    one, two = (build(continuous=("age",), notion="equalized_odds") for _ in range(2))
    a, b = gradient(one, batch), gradient(two, rows)
    torch.testing.assert_close(a[:40], b)
    assert bool((a[40:] == 0).all())


def test_a_weight_of_two_is_a_row_that_occurs_twice() -> None:
    batch = data()
    twice = torch.cat([torch.arange(B), torch.arange(10)])
    weights = torch.ones(B, dtype=torch.float64)
    weights[:10] = 2
    repeated = {k: v[twice] for k, v in batch.items()}
    assert penalty(build(), batch | {"weights": weights}) == pytest.approx(
        penalty(build(), repeated)
    )


def test_right_for_one_group_and_wrong_for_the_other_shows_given_the_label_alone() -> None:
    """Both groups get as many yeses, so that decisions alone say nothing of the group."""
    layout = Layout((Detection("ill", ("ill",)),))
    groups = Groups((Attribute("sex", ("m", "w")),))
    sex, label = torch.arange(2).repeat(40), torch.arange(2).repeat_interleave(40)
    right = torch.where(sex == 0, label, 1 - label)
    batch = {
        "features": (8.0 * right - 4)[:, None].double(),
        "labels": label[:, None].double(),
        "attributes": sex[:, None],
    }
    assert penalty(build(groups, layout), batch) == pytest.approx(0.0, abs=1e-9)
    assert penalty(build(groups, layout, notion="equalized_odds"), batch) > 0.3


# -- memory -------------------------------------------------------------------------------


def test_a_batch_seen_again_is_the_same_with_memory() -> None:
    """The same rows again: the score of one batch, and a gradient of the size it has alone."""
    batch = data()
    memory, alone = build(max_decay=0.9, evidence_target=1000.0), build()
    assert penalty(memory, batch) == pytest.approx(penalty(alone, batch))
    for _ in range(3):
        torch.testing.assert_close(gradient(memory, batch), gradient(alone, batch))


def test_memory_steadies_the_score_of_small_batches() -> None:
    """Independent outputs and attributes: what is seen is noise, and less of it with memory."""
    memory, alone = build(evidence_target=4000.0, max_decay=0.99), build()
    seen: dict[str, list[float]] = {"memory": [], "alone": []}
    for seed in range(40):
        batch = data(seed)
        batch["features"] = data(1000 + seed)["features"]
        seen["memory"].append(penalty(memory, batch))
        seen["alone"].append(penalty(alone, batch))
    assert np.mean(seen["memory"][-10:]) < np.mean(seen["alone"]) / 5


def test_memory_comes_back_with_the_state() -> None:
    one, two = (build(max_decay=0.9, continuous=("age",)) for _ in range(2))
    penalty(one, data(1))
    two.load_state_dict(one.state_dict())
    for seed in (2, 3):
        assert torch.equal(gradient(one, data(seed)), gradient(two, data(seed)))


def test_plain_training_at_strength_zero() -> None:
    step = build()
    step.strength = 0.0
    log = step.step(data())
    assert "penalty" not in log
    assert step.state_dict()["memories"][0]["sums"] == []


# -- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"notion": "calibration"}, "notion must be one of"),
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"features": 0}, "features must be positive"),
        ({"max_decay": 1.0}, "max_decay must lie in"),
        ({"continuous": ("height",)}, r"continuous names \['height'\], which are no sensitive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_too_many_combinations_are_refused_with_what_to_do() -> None:
    many = tuple(Attribute(a, tuple(map(str, range(30)))) for a in ("u", "v"))
    with pytest.raises(ValueError, match=r"\['u', 'v'\] have 900 combinations.*continuous="):
        build(Groups(many))
    build(Groups(many), continuous=("u",))


def test_a_batch_without_the_numbers_is_refused() -> None:
    batch = data()
    del batch["values"]
    with pytest.raises(ValueError, match=r"The batch lacks 'values', and \['age'\]"):
        build(continuous=("age",)).step(batch)


# -- from a table -------------------------------------------------------------------------


FEATURES = ("x0", "x1", "x2")


def people(n: int = 3000) -> pd.DataFrame:
    """Pay that comes from two numbers, which the first features tell, and from a third one."""
    r = np.random.default_rng(0)
    age, income = r.normal(size=n), r.normal(size=n)
    x = r.normal(size=(n, 3))
    x[:, 0] += age
    x[:, 1] += income
    pay = x.sum(1) + r.normal(size=n)
    columns = dict(zip(FEATURES, x.T, strict=True))
    return pd.DataFrame(columns | {"age": age, "income": income, "pay": pay, "ok": pay > 0})


def test_a_learner_uses_several_numbers_at_once() -> None:
    frame = people()
    settings: dict[str, Any] = {
        "tasks": ["pay:regression", "ok:classification"],
        "sensitive": ["age", "income"],
        "features": list(FEATURES),
        "widths": (16,),
        "epochs": 3,
        "path_epochs": 4,
        "batch_size": 64,
        "learning_rate": 1e-2,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fair = FairMTLearner(
            method="faircocco",
            continuous=["age", "income"],
            strengths=(1.0, 20.0),
            strength=20.0,
            **settings,
        ).fit(frame[:2000])
        with pytest.raises(ValueError, match=r"'group_dro' cannot use \['age'\] as numbers"):
            FairMTLearner(method="group_dro", continuous=["age"], **settings).fit(frame)
    test = frame[2000:]

    def score() -> float:
        pay = fair.predict(test)["pay"]
        return dependence_score(pay, test[["age", "income"]], n_boot=0, permutations=0).score

    left = score()
    fair._use(fair.path_.candidates[fair.path_.plain])
    assert left < 0.4 * score()
