"""What every step method must do, whatever its idea."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fairmt.methods import STEPS, StepMethod

from .steps import (
    CASES,
    build,
    case,
    mean_gap,
    people,
    relabelled,
    train,
    trained,
    utility_change,
)

CLAIMING = [name for name, m in STEPS.items() if m.claims]


def gradients(step: StepMethod, batch: dict[str, object]) -> list[torch.Tensor]:
    for p in step.parameters():
        p.grad = None
    torch.manual_seed(5)
    step.step(batch)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in step.parameters()]


def test_every_method_with_a_strength_has_a_case() -> None:
    schema, table = people(1.0, 0)
    with_strength = {n for n in STEPS if build(n, schema, table).strength is not None}
    assert with_strength <= set(CASES)


@pytest.mark.parametrize("name", STEPS)
def test_missing_labels_contribute_nothing(name: str) -> None:
    """Rows without labels change no gradient, but for the part that says it needs no labels."""
    schema, table = people(1.0, 0)
    short, long = (build(name, schema, table) for _ in range(2))
    for step in (short, long):
        if step.strength is not None:
            step.strength = 0.0 if step.label_free else case(name).strength
    rows = table[:200]
    bare = replace(table[200:260], labels=torch.full_like(table[200:260].labels, torch.nan))
    a = gradients(short, rows.batch(torch.arange(200)))
    b = gradients(long, rows.join(bare).batch(torch.arange(260)))
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", STEPS)
def test_groups_may_be_relabelled(name: str) -> None:
    schema, table = people(1.0, 0)
    groups, codes = relabelled(schema.groups, table.attributes)
    other_table = replace(table, attributes=codes)
    one = build(name, schema, table)
    two = build(name, replace(schema, groups=groups), other_table)
    for step in (one, two):
        if step.strength is not None:
            step.strength = case(name).strength
    # Whatever a method learns of its own must have had the occasion to differ.
    train(one, table[:512], 1)
    train(two, other_table[:512], 1)
    rows = torch.arange(512, 768)
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    a = gradients(one, table.batch(rows))[:2]
    b = gradients(two, other_table.batch(rows))[:2]
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", STEPS)
def test_a_saved_method_goes_on_where_it_was(name: str) -> None:
    schema, table = people(1.0, 0)
    one, two = (build(name, schema, table) for _ in range(2))
    for step in (one, two):
        if step.strength is not None:
            step.strength = case(name).strength
    train(one, table[:1024], 1)
    two.load_state_dict(one.state_dict())
    two.model.load_state_dict(one.model.state_dict())
    with torch.no_grad():
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            q.copy_(p)
    batch = table.batch(torch.arange(1024, 1280))
    for _ in range(2):
        for p, q in zip(gradients(one, batch), gradients(two, batch), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("name", CLAIMING)
def test_a_planted_bias_goes_down(name: str) -> None:
    schema, table = people(1.0, 1)
    claims = STEPS[name].claims
    plain = mean_gap(trained("plain", 1.0, None), table, schema, claims)
    own = mean_gap(trained(name, 1.0, case(name).strength), table, schema, claims)
    assert own < 0.85 * plain


@pytest.mark.parametrize("name", CLAIMING)
def test_a_fair_predictor_is_left_alone(name: str) -> None:
    schema, table = people(0.0, 1)
    own = trained(name, 0.0, case(name).strength)
    assert utility_change(own, trained("plain", 0.0, None), table, schema) > -0.02
