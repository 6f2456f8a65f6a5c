"""MTA-F: which negatives are whose, and where their gradient goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmt.groups import Attribute, Groups
from fairmt.kernel_distance import kernel_distance
from fairmt.methods import MTAF
from fairmt.models import LinearHeads, MultiTask, TaskHeads
from fairmt.tasks import Classification, Detection, Layout, Regression

from .test_adversarial import GROUPS, LAYOUT, NAN, people

pytestmark = pytest.mark.filterwarnings("ignore:Method 'mta_f' is not defined")
PAIR = Layout(
    (
        Classification("rich", ("no", "yes"), favourable="yes"),
        Classification("well", ("no", "yes"), favourable="yes"),
        Regression("pay"),
    )
)
SEX = Groups((Attribute("sex", ("m", "w")),))


def bound(layout: Layout, groups: Groups, kind: str = "linear", **settings: Any) -> MTAF:
    torch.manual_seed(0)
    heads: Any = LinearHeads(6, layout)
    if kind != "linear":
        heads = {t.name: nn.Linear(6, t.n_outputs) for t in layout.tasks}
        heads = TaskHeads(heads, layout)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    method = MTAF(**settings)
    method.setup(MultiTask(encoder, heads, layout).double(), groups)
    return method


def pair(n: int = 40) -> dict[str, Any]:
    data = people(n)
    g = torch.Generator().manual_seed(1)
    labels = {k: torch.randint(2, (n,), generator=g).double() for k in ("rich", "well")}
    labels["rich"][:5], labels["well"][3:8] = NAN, NAN
    return data | {
        "labels": labels | {"pay": data["labels"]["pay"]},
        "attributes": {"sex": data["attributes"]["sex"]},
    }


def test_shared_and_exclusive_negatives() -> None:
    layout = Layout(
        (
            Classification("rich", ("no", "yes")),
            Classification("job", ("a", "b", "c")),
            Detection("ill", ("x", "y")),
        )
    )
    method = bound(layout, GROUPS)
    labels = {
        "rich": torch.tensor([0.0, 0.0, 0.0, 1.0, NAN]),
        "job": torch.tensor([0.0, 1.0, 2.0, NAN, 0.0]),
        "ill": torch.tensor([[0.0, 0.0], [1.0, NAN], [NAN, 0.0], [0.0, 1.0], [0.0, 0.0]]),
    }
    data = people(5) | {"labels": labels}
    negative, exclusive = method.negatives(method.unpack(data))

    def of(found: Tensor, task: str) -> list[list[int]]:
        return found[:, layout.outputs[task]].int().tolist()

    assert of(negative, "rich") == [[0, 1], [0, 1], [0, 1], [1, 0], [0, 0]]
    # Row 1 is ill, row 3 too; job marks nobody, for no class of it is the favourable one.
    assert of(exclusive, "rich") == [[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]]
    assert of(negative, "job") == [[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert of(exclusive, "job") == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert of(negative, "ill") == [[1, 1], [0, 0], [0, 1], [1, 0], [1, 1]]
    # Only row 3 is rich; a label does not make the other label of its own task exclusive.
    assert of(exclusive, "ill") == [[0, 0], [0, 0], [0, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("kind", ["linear", "own"])
def test_trunk_and_heads_get_the_gradients_of_the_definition(kind: str) -> None:
    method, data = bound(PAIR, SEX, kind, strength=3.0, head_share=0.25), pair()
    batch = method.unpack(data)
    method.step(data)
    found = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    z = method.model.encoder(batch.features)
    outputs = method.model.heads(z)
    member = SEX.membership(batch.attributes, torch.float64)[:, 1:] * batch.weights[:, None]
    at_trunk = at_heads = method.task_losses(outputs, batch).sum()
    for name, other in (("rich", "well"), ("well", "rich")):
        scores = outputs[:, PAIR.outputs[name]].softmax(1)[:, 1]
        negative = data["labels"][name] == 0
        exclusive = negative & (data["labels"][other] == 1)
        e = int(exclusive.sum()) / int(negative.sum())
        assert 0 < e < 1

        def distance(rows: Tensor, scores: Tensor = scores) -> Tensor:
            return kernel_distance(scores[rows], member[rows], SEX, (0.1,))

        shared = distance(negative & ~exclusive)
        at_heads = at_heads + 3.0 * 0.25 * e * distance(exclusive)
        at_trunk = at_trunk + 3.0 * ((1 - e) * shared + 0.75 * e * distance(exclusive))
    trunk, heads = (list(m.parameters()) for m in (method.model.encoder, method.model.heads))
    expected = torch.autograd.grad(at_trunk, trunk, retain_graph=True)
    expected += torch.autograd.grad(at_heads, heads)
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q)


def test_one_task_is_left_to_the_trunk() -> None:
    layout = Layout((Classification("rich", ("no", "yes"), favourable="yes"),))
    method, data = bound(layout, SEX), pair()
    data["labels"] = {"rich": data["labels"]["rich"]}
    z = method.model.encoder(data["features"])
    penalty = method.penalty(z, method.model.heads(z), method.unpack(data))
    assert penalty is not None
    penalty.backward()
    assert all(p.grad is None or not p.grad.any() for p in method.model.heads.parameters())
    assert any(bool(p.grad.any()) for p in method.model.encoder.parameters() if p.grad is not None)


def test_it_sees_a_group_that_is_always_wrong() -> None:
    """Nobody is rich; men get .02, women .98. The distance is 2 (1 - k) of a kernel of width .1."""
    method = bound(PAIR, SEX)
    n = 20
    sex = torch.arange(n) % 2
    data = {
        "features": torch.zeros(n, 4).double(),
        "labels": {
            "rich": torch.zeros(n).double(),
            "well": torch.full((n,), NAN).double(),
            "pay": torch.full((n, 1), NAN).double(),
        },
        "attributes": {"sex": sex},
    }
    z = torch.zeros(n, 6).double()
    z[:, 0] = (sex * 2.0 - 1.0) * math.log(49)
    with torch.no_grad():
        for p in method.model.heads.parameters():
            p.zero_()
        method.model.heads.weight[PAIR.outputs["rich"].start + 1, 0] = 1.0
    outputs = method.model.heads(z)
    penalty = method.penalty(z, outputs, method.unpack(data))
    assert penalty is not None
    expected = 2 * (1 - math.exp(-(0.96**2) / 0.02))
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-9)


def test_numbers_alone_are_refused_and_beside_others_warned_of() -> None:
    with pytest.raises(ValueError, match="regression"):
        bound(Layout((Regression("pay"),)), SEX)
    with pytest.warns(UserWarning, match="pay"):
        bound(LAYOUT, GROUPS)
    with pytest.raises(ValueError, match="head_share"):
        MTAF(head_share=1.5)
