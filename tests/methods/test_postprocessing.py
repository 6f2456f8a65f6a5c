"""What every post-processing method must do, whatever its idea."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fairmt.data import TensorTable, generate
from fairmt.groups import Groups
from fairmt.methods import METHODS, PostProcessing
from fairmt.tasks import Detection, Layout, Regression

from .steps import build as build_step
from .steps import mean_gap, people, relabelled, train, utility_change

NAMES = [name for name, m in METHODS.items() if issubclass(m, PostProcessing)]


def build(name: str) -> PostProcessing:
    found = METHODS[name]()
    assert isinstance(found, PostProcessing)
    return found


@functools.cache
def rows(bias: float) -> tuple[Layout, Groups, Tensor, TensorTable]:
    """A plain model's outputs on people whom it has not seen."""
    schema, table = people(bias, 0)
    step = build_step("plain", schema, table)
    train(step, table, 4)
    fresh = schema.encode(generate(12_000, seed=2, bias=bias).frame)
    step.model.eval()
    with torch.no_grad():
        return Layout(schema.tasks), schema.groups, step.model(fresh.features), fresh


def fitted(name: str, bias: float = 1.0) -> tuple[PostProcessing, Tensor, TensorTable]:
    """Fitted on the first half; outputs and table of the second."""
    layout, groups, outputs, table = rows(bias)
    method, n = build(name), len(table) // 2
    method.fit(layout, groups, outputs[:n], table.labels[:n], table.attributes[:n])
    return method, outputs[n:], table[n:]


def test_there_are_methods() -> None:
    assert {"barycentre", "group_thresholds"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_that_it_needs_the_attributes(name: str) -> None:
    assert "needs the attributes at prediction" in METHODS[name].limits


@pytest.mark.parametrize("name", NAMES)
def test_strength_0_is_the_identity_and_others_lie_between(name: str) -> None:
    method, outputs, table = fitted(name)
    assert torch.equal(method.apply(outputs, table.attributes, 0.0), outputs)
    steps = [
        float((method.apply(outputs, table.attributes, s) - outputs).abs().mean())
        for s in (0.0, 0.3, 0.7, 1.0)
    ]
    assert steps == sorted(steps)
    assert steps[-1] > 2 * steps[1]
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="strength must lie between"):
            method.apply(outputs, table.attributes, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_missing_labels_contribute_nothing(name: str) -> None:
    """A method that looks at labels ignores rows without any; others ignore labels."""
    layout, groups, outputs, table = rows(1.0)
    blank = table.labels.clone()
    blank[1000:2000] = torch.nan
    one, two = build(name), build(name)
    n = 2000 if METHODS[name].label_free else 1000
    one.fit(layout, groups, outputs[:n], table.labels[:n], table.attributes[:n])
    two.fit(layout, groups, outputs[:2000], blank[:2000], table.attributes[:2000])
    a, b = (m.apply(outputs[2000:], table.attributes[2000:]) for m in (one, two))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_weight_0_contribute_nothing_and_weights_have_no_unit(name: str) -> None:
    layout, groups, outputs, table = rows(1.0)
    w = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    w[1000:] = 0
    one, two = build(name), build(name)
    part = slice(0, 1000)
    one.fit(layout, groups, outputs[part], table.labels[part], table.attributes[part], w[part])
    part = slice(0, 2000)
    two.fit(layout, groups, outputs[part], table.labels[part], table.attributes[part], 7 * w)
    a, b = (m.apply(outputs[2000:], table.attributes[2000:]) for m in (one, two))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_groups_may_be_relabelled(name: str) -> None:
    layout, groups, outputs, table = rows(1.0)
    others, codes = relabelled(groups, table.attributes)
    one, two = build(name), build(name)
    one.fit(layout, groups, outputs, table.labels, table.attributes)
    two.fit(layout, others, outputs, table.labels, codes)
    torch.testing.assert_close(one.apply(outputs, table.attributes), two.apply(outputs, codes))


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(plain(v) for v in value)
    return isinstance(value, Tensor | int | float)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_method_is_restored_exactly(name: str) -> None:
    method, outputs, table = fitted(name)
    assert plain(method.state_dict())
    other = build(name)
    other.load_state_dict(method.state_dict())
    for strength in (0.5, 1.0):
        a, b = (m.apply(outputs, table.attributes, strength) for m in (method, other))
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_bias_goes_down(name: str) -> None:
    method, outputs, table = fitted(name)
    schema = people(1.0, 0)[0]
    claims = METHODS[name].claims
    before = mean_gap(outputs, table, schema, claims)
    assert mean_gap(method.apply(outputs, table.attributes), table, schema, claims) < 0.6 * before


@pytest.mark.parametrize("name", NAMES)
def test_a_fair_predictor_is_left_alone(name: str) -> None:
    method, outputs, table = fitted(name, 0.0)
    moved = method.apply(outputs, table.attributes)
    assert utility_change(moved, outputs, table, people(0.0, 0)[0]) > -0.01
    assert float((moved - outputs).abs().mean()) < 0.15 * float(outputs.std())


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_missing_attributes(name: str) -> None:
    """Some, all, and in calibration too; a row's outputs never depend on other rows."""
    layout, groups, outputs, table = rows(1.0)
    codes = table.attributes.clone()
    gone = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    codes[gone] = -1
    method = build(name)
    method.fit(layout, groups, outputs[:2000], table.labels[:2000], codes[:2000])
    moved = method.apply(outputs[2000:], codes[2000:])
    assert bool((codes[2000:] == -1).all(1).any())
    assert bool(moved.isfinite().all())
    one_by_one = torch.cat(
        [method.apply(outputs[i : i + 1], codes[i : i + 1]) for i in range(2000, 2040)]
    )
    torch.testing.assert_close(one_by_one, moved[:40])


@pytest.mark.parametrize("name", NAMES)
def test_unseen_cells_and_groups(name: str) -> None:
    layout, groups, outputs, table = rows(1.0)
    seen = table.attributes[:, 1] != 3
    method = build(name)
    method.fit(layout, groups, outputs[seen], table.labels[seen], table.attributes[seen])
    assert bool(method.apply(outputs[~seen], table.attributes[~seen]).isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_codes_out_of_range_are_missing_ones(name: str) -> None:
    method, outputs, table = fitted(name)
    wrong, missing = table.attributes.clone(), table.attributes.clone()
    wrong[::3, 0], missing[::3, 0] = 2, -1
    assert torch.equal(method.apply(outputs, wrong), method.apply(outputs, missing))
    with pytest.raises(ValueError, match="Attribute codes must be"):
        method.apply(outputs, table.attributes[:, :1])


@pytest.mark.parametrize("name", NAMES)
def test_order_within_a_group_is_kept(name: str) -> None:
    """Of labels and values; beyond the range of calibration too."""
    layout, groups, outputs, table = rows(1.0)
    method = build(name)
    method.fit(layout, groups, outputs, table.labels, table.attributes)
    wide = torch.linspace(-12, 12, 500)[:, None].expand(-1, layout.n_outputs)
    columns = [
        k
        for t in layout.tasks
        if isinstance(t, Detection | Regression)
        for k in range(layout.outputs[t.name].start, layout.outputs[t.name].stop)
    ]
    for cell in ([0, 0], [1, 3], [-1, 2], [-1, -1]):
        codes = torch.tensor([cell]).expand(500, -1)
        for strength in (0.4, 1.0):
            moved = method.apply(wide, codes, strength)[:, columns]
            assert bool((moved.diff(dim=0) >= 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused(name: str) -> None:
    layout, groups, outputs, table = rows(1.0)
    method = build(name)
    with pytest.raises(ValueError, match="needs a sensitive attribute"):
        method.fit(layout, Groups(()), outputs, table.labels, table.attributes[:, :0])
    with pytest.raises(ValueError, match="labels must be"):
        method.fit(layout, groups, outputs, table.labels[:5], table.attributes)
    with pytest.raises(ValueError, match="needs calibration rows"):
        method.fit(layout, groups, outputs[:0], table.labels[:0], table.attributes[:0])
    bad = replace(table, attributes=torch.full_like(table.attributes, 9))
    with pytest.raises(ValueError, match="has codes"):
        method.fit(layout, groups, outputs, table.labels, bad.attributes)
    with pytest.raises(ValueError, match="must be finite"):
        method.fit(layout, groups, outputs * torch.nan, table.labels, table.attributes)
    with pytest.raises(ValueError, match="weights must be"):
        method.fit(layout, groups, outputs, table.labels, table.attributes, torch.zeros(len(table)))
