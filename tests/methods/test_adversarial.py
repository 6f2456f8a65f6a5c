"""Adversarial debiasing: what the adversary is asked, and who moves which way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmt.groups import Attribute, Groups
from fairmt.methods import Adversarial
from fairmt.methods.adversarial import representation_width
from fairmt.models import LinearHeads, MultiTask, TaskHeads
from fairmt.tasks import Classification, Detection, Layout, Regression

LAYOUT = Layout(
    (Classification("job", ("a", "b", "c")), Detection("ill", ("x", "y")), Regression("pay"))
)
GROUPS = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
NAN = float("nan")


def people(n: int = 40) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(n, 4, generator=g).double(),
        "labels": {
            "job": torch.randint(3, (n,), generator=g).double(),
            "ill": torch.randint(2, (n, 2), generator=g).double(),
            "pay": torch.randn(n, 1, generator=g).double(),
        },
        "attributes": {
            "sex": torch.randint(-1, 2, (n,), generator=g),
            "race": torch.randint(-1, 3, (n,), generator=g),
        },
        "weights": torch.rand(n, generator=g).double() + 0.5,
    }


def bound(groups: Groups = GROUPS, **settings: Any) -> Adversarial:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    model = MultiTask(encoder, LinearHeads(6, LAYOUT), LAYOUT).double()
    method = Adversarial(**settings)
    method.setup(model, groups)
    with torch.no_grad():
        for adversary in method.adversaries:
            for p in adversary.parameters():
                p.copy_(torch.randn(p.shape))
    return method


def advantage(method: Adversarial, data: dict[str, Any], guesses: Tensor, rows: Tensor) -> Tensor:
    """By hand: mean over attributes of log K less the mean over groups of weighted means."""
    parts = []
    for name, start in (("sex", 0), ("race", 2)):
        codes = data["attributes"][name]
        groups = list(range(start, start + (2 if start == 0 else 3)))
        means = []
        for g in groups:
            own = rows & (codes == g - start)
            log_p = guesses[own][:, groups].log_softmax(1)[:, g - start]
            w = data["weights"][own]
            means.append(-(w * log_p).sum() / w.sum())
        parts.append(math.log(len(groups)) - torch.stack(means).mean())
    return torch.stack(parts).mean()


def test_the_advantage_is_that_of_the_definition() -> None:
    method, data = bound(), people()
    batch = method.unpack(data)
    z = method.model.encoder(batch.features)
    guesses = method.adversaries[0].layers(z)
    expected = advantage(method, data, guesses, torch.ones(40, dtype=torch.bool))
    torch.testing.assert_close(method.contest(z, batch), expected)


def test_equalized_odds_asks_every_task_given_its_labels() -> None:
    method, data = bound(notion="equalized_odds"), people()
    data["labels"]["job"][:10] = NAN
    data["labels"]["ill"][5:20] = NAN
    data["labels"]["ill"][20:25, 0] = NAN
    batch = method.unpack(data)
    z = method.model.encoder(batch.features)
    parts = []
    for i, task in enumerate(LAYOUT.tasks):
        y = data["labels"][task.name].reshape(40, -1)
        known = ~y.isnan()
        if task.name == "job":
            code = nn.functional.one_hot(y[:, 0].nan_to_num().long(), 3) * known
            seen = known.expand(-1, 3)
        else:
            code, seen = y.nan_to_num(), known
        guesses = method.adversaries[i].layers(torch.cat([z, code, seen.double()], 1))
        parts.append(advantage(method, data, guesses, known.any(1)))
    torch.testing.assert_close(method.contest(z, batch), torch.stack(parts).mean())


def test_the_model_descends_what_the_adversary_climbs() -> None:
    """At the model the gradient is that of L + λ A, at the adversary that of -A, whatever λ."""
    method, data = bound(strength=3.0), people()
    batch = method.unpack(data)
    method.step(data)
    found = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    z = method.model.encoder(batch.features)
    loss = method.task_losses(method.model.heads(z), batch).sum()
    a = advantage(method, data, method.adversaries[0].layers(z), torch.ones(40, dtype=torch.bool))
    model = list(method.model.parameters())
    expected = torch.autograd.grad(loss + 3.0 * a, model, retain_graph=True)
    expected += torch.autograd.grad(-a, list(method.adversaries.parameters()))
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q)


def test_an_adversary_at_its_start_knows_nothing() -> None:
    method = Adversarial()
    torch.manual_seed(0)
    method.setup(MultiTask(nn.Linear(4, 6), LinearHeads(6, LAYOUT), LAYOUT).double(), GROUPS)
    batch = method.unpack(people())
    z = method.model.encoder(batch.features)
    torch.testing.assert_close(method.contest(z, batch), torch.tensor(0.0).double())


def test_the_adversary_learns_to_read_a_group_that_shows() -> None:
    """The model stands still. Two equal groups, told by a feature: the advantage nears log 2."""
    torch.manual_seed(0)
    sex = torch.arange(60) % 2
    data = {
        "features": torch.stack([2.0 * sex - 1, torch.randn(60)], 1),
        "labels": {"ill": torch.zeros(60, 1)},
        "attributes": {"sex": sex},
    }
    layout = Layout((Detection("ill", ("x",)),))
    groups = Groups((Attribute("sex", ("m", "w")),))
    method = Adversarial(nn.Linear(2, 4), LinearHeads(4, layout), layout, groups)
    optimiser = torch.optim.Adam(method.adversaries.parameters(), lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        log = method.step(data)
        optimiser.step()
    assert math.log(2) - 0.05 < float(log["penalty"]) < math.log(2)


def test_the_width_of_a_representation_is_asked_of_whoever_knows() -> None:
    heads = TaskHeads({t.name: nn.Linear(6, t.n_outputs) for t in LAYOUT.tasks}, LAYOUT)
    model = MultiTask(nn.Linear(4, 6), heads, LAYOUT)

    class Rows:
        features = torch.zeros(3, 4)

    assert representation_width(model, Rows()) == 6
    with pytest.raises(ValueError, match="n_features"):
        representation_width(model)


@pytest.mark.parametrize(
    ("settings", "word"), [({"notion": "x"}, "notion"), ({"width": 0}, "width")]
)
def test_wrong_settings_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Adversarial(**settings)


def test_without_an_attribute_it_refuses() -> None:
    with pytest.raises(ValueError, match="sensitive attribute"):
        bound(Groups(()))
