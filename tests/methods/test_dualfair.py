"""DualFair: the generator's counterfactuals, the terms of the loss, and what training does."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fairmt.auditing.counterfactual import counterfactual_parity
from fairmt.data import Schema, TensorTable, generate
from fairmt.groups import Attribute, Groups
from fairmt.methods.counterfactual import (
    Columns,
    CounterfactualGenerator,
    fit_generator,
    new_generator,
)
from fairmt.methods.dualfair import DualFair, pooled, tab_mix, to_gaussian, w2_to_normal
from fairmt.models import MLP
from fairmt.tasks import Layout

KINDS = Groups((Attribute("kind", ("a", "b", "c")),))


# -- columns ------------------------------------------------------------------------------------


def test_columns_are_told_by_their_values() -> None:
    x = torch.tensor(
        [
            # number, flag, category of three, number, category of two and an empty column
            [0.3, 0.0, 1.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.0],
            [1.0, 1.0, 0.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.0],
            [1.0, 0.0, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0, 0.0],
        ]
    )
    found = Columns.of(x)
    assert found == Columns((0, 5), (1, 8), ((2, 5), (6, 8)))
    assert found.parts() == [(0, 1), (1, 2), (2, 5), (5, 6), (6, 8), (8, 9)]


def test_the_columns_of_a_schema_are_found() -> None:
    bundle = generate(300, seed=0)
    frame = bundle.frame.copy()
    frame.loc[:10, "x3"] = np.nan
    frame.loc[20:30, "region"] = None
    schema = Schema.infer(frame, bundle.tasks, bundle.sensitive, features=dict(bundle.features))
    names, found = schema.input_names, Columns.of(schema.encode(frame).features)
    assert [names[c] for c in found.numeric] == [f"x{i}" for i in range(12)]
    assert [names[c] for c in found.binary] == ["x3 is missing", "region=(other)"]
    ((start, stop),) = found.blocks
    assert names[start:stop] == ["region=a", "region=b", "region=c", "region is missing"]


# -- the generator ------------------------------------------------------------------------------


def planted(n: int, seed: int, missing: bool = False) -> TensorTable:
    """A number and a category that follow the group, a number that does not; three groups."""
    r = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (n,), generator=r)
    own = torch.randn(n, 3, generator=r)
    follows = 2.0 * kind + 0.6 * own[:, 0]
    p = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])[kind]
    category = torch.nn.functional.one_hot(torch.multinomial(p, 1, generator=r)[:, 0], 3)
    answer = (torch.rand(n, generator=r) < torch.tensor([0.2, 0.5, 0.9])[kind]).float()
    x = torch.cat([follows[:, None] - 2, own[:, 1:], category, answer[:, None]], 1)
    codes = kind.clone()
    if missing:
        codes[: n // 10] = -1
    return TensorTable(x.float(), torch.zeros(n, 0), codes[:, None])


@functools.cache
def generator() -> CounterfactualGenerator:
    return fit_generator(planted(3000, 0), KINDS, steps=300, seed=0)


def flipped(table: TensorTable, target: int) -> Tensor:
    torch.manual_seed(0)
    other = torch.full_like(table.attributes, target)
    return generator().counterfactual(table.features, table.attributes, other)


def test_counterfactuals_have_the_other_group_s_distribution() -> None:
    """The planted truth, group by group: means of the number, shares of categories and answers."""
    table = planted(3000, 1)
    x, kind = table.features, table.attributes[:, 0]
    for source in range(3):
        for target in range(3):
            own = flipped(table, target)[kind == source]
            truth = x[kind == target]
            assert own[:, 0].mean() == pytest.approx(float(truth[:, 0].mean()), abs=0.2)
            torch.testing.assert_close(own[:, 3:].mean(0), truth[:, 3:].mean(0), atol=0.1, rtol=0)


def test_what_does_not_follow_the_group_stays() -> None:
    table = planted(3000, 1)
    change = flipped(table, 0)[:, 1:3] - table.features[:, 1:3]
    assert change.abs().mean() < 0.12
    # The person's own part of the number is carried over.
    kind = table.attributes[:, 0]
    before, after = table.features[kind == 1, 0], flipped(table, 0)[kind == 1, 0]
    assert np.corrcoef(before, after)[0, 1] > 0.9


def test_an_unchanged_attribute_gives_the_row_itself() -> None:
    table = planted(200, 2)
    found = generator().counterfactual(table.features, table.attributes, table.attributes)
    torch.testing.assert_close(found, table.features, atol=1e-6, rtol=0)


def test_counterfactual_rows_are_rows() -> None:
    found = flipped(planted(500, 3), 2)
    assert torch.equal(found[:, 3:6].sum(1), torch.ones(500))
    assert bool(((found[:, 3:] == 0) | (found[:, 3:] == 1)).all())


@pytest.mark.parametrize("n", [2, 3])
def test_the_adversary_finds_groups_in_the_code_and_drives_them_out(n: int) -> None:
    """For two groups as for three; the published adversary is idle for two."""
    groups = Groups((Attribute("kind", tuple("abc"[:n])),))
    table = planted(500, 0)
    codes = table.attributes.clamp(max=n - 1)
    codes[:50] = -1
    made = new_generator(TensorTable(table.features, table.labels, codes), groups)
    known = codes[:, 0] >= 0
    number = made.numbered(codes)
    counts = number[known, 0].bincount().float()
    share = counts / counts.sum()
    entropy = -float((share * share.log()).sum())
    leak = torch.nn.Parameter(2 * torch.eye(n, made.latent))
    opponent = torch.optim.Adam(made.adversaries.parameters(), lr=5e-3)
    encoder = torch.optim.Adam([leak], lr=2e-2)

    def pursue(steps: int, obeyed: bool) -> float:
        for _ in range(steps):
            z = torch.randn(500, made.latent) + leak[number[:, 0].clamp(min=0)]
            opponent.zero_grad()
            guess = made._guess(z.detach(), number, None)[0]
            guess.backward()
            opponent.step()
            if obeyed:
                encoder.zero_grad()
                made._informed(z, number, [counts], None).backward()
                encoder.step()
        return guess.item()

    torch.manual_seed(0)
    assert pursue(60, obeyed=False) < 0.6 * entropy
    pursue(200, obeyed=True)
    assert torch.pdist(leak.detach()).max() < 0.4 * 2 * math.sqrt(2)


def test_flips_change_one_attribute_to_another_group() -> None:
    g, codes = generator(), torch.tensor([[0], [1], [2], [-1]])
    drawn = torch.cat([g.another(codes, 0) for _ in range(50)], 1)
    assert [set(row.tolist()) for row in drawn] == [{1, 2}, {0, 2}, {0, 1}, {-1}]
    both = torch.cat([g.another(codes, 0, torch.full((4,), k)) for k in (1, 2)], 1)
    assert [set(row.tolist()) for row in both[:3]] == [{1, 2}, {0, 2}, {0, 1}]


def test_groups_without_a_row_are_no_target() -> None:
    table = planted(300, 0)
    table = TensorTable(table.features, table.labels, 2 * (table.attributes > 0).long())
    made = fit_generator(table, KINDS, steps=3)
    drawn = made.another(torch.tensor([[0], [2]]).repeat(30, 1), 0)
    assert set(drawn[:, 0].tolist()) == {0, 2}


def test_missing_features_are_refused() -> None:
    table = planted(50, 0)
    table.features[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"Features \[1\] hold NaN"):
        fit_generator(table, KINDS, steps=1)


# -- terms --------------------------------------------------------------------------------------


def test_w2_is_the_integral_over_quantiles() -> None:
    r = np.random.default_rng(0)
    values, weights = r.normal(0.5, 2, 7), r.uniform(0.2, 2, 7)
    order = np.argsort(values)
    edges = np.concatenate([[0], np.cumsum(weights[order]) / weights.sum()])
    expected = sum(
        integrate.quad(lambda u, x=x: (x - stats.norm.ppf(u)) ** 2, a, b)[0]
        for x, a, b in zip(values[order], edges[:-1], edges[1:], strict=True)
    )
    found = w2_to_normal(torch.tensor(values)[:, None], torch.tensor(weights))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_w2_weights_are_repetitions_and_gradients_are_right() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([1, 2, 3, 1, 1, 2])
    repeated = w2_to_normal(x.repeat_interleave(counts, 0), torch.ones(10, dtype=torch.float64))
    assert torch.allclose(w2_to_normal(x, counts.double()), repeated)
    assert torch.autograd.gradcheck(lambda v: w2_to_normal(v, counts.double()), x)


def test_parties_are_matched_apart() -> None:
    """Two groups that are normal together, and neither by itself, are seen; indexing is right."""
    torch.manual_seed(0)
    z = torch.randn(4000, 1).double()
    party = (z[:, 0] > 0).long()[:, None]
    ones = torch.ones(4000).double()
    together = to_gaussian(z, torch.zeros_like(party), ones)
    apart = to_gaussian(z, party, ones)
    # W₂² of a half-normal distribution: E x² + 1 - 2 ∫ x(u) Φ⁻¹(u) du.
    overlap = integrate.quad(lambda u: stats.halfnorm.ppf(u) * stats.norm.ppf(u), 0, 1)[0]
    assert float(together) < 0.01
    assert float(apart) == pytest.approx(2 - 2 * overlap, abs=0.03)
    mixed = torch.randperm(4000)
    assert torch.allclose(to_gaussian(z[mixed], party[mixed], ones), apart)
    assert float(to_gaussian(z, -torch.ones_like(party), ones)) == 0


def test_small_groups_are_pooled() -> None:
    number = torch.tensor([0] * 900 + [1] * 60 + [2] * 10 + [3] * 30 + [-1] * 24)
    # Expected rows of 256: 225, 15, 2.5, 7.5: the three small ones reach 16 together.
    party = pooled(number, 256, 16)
    assert party[1] == party[2] == party[3] != party[0]
    assert len(pooled(number, 256, 2).unique()) == 4
    # Even so few rows that everybody is pooled leave one party.
    assert len(pooled(number, 8, 16).unique()) == 1


def test_views_mix_whole_features() -> None:
    torch.manual_seed(0)
    table = planted(2000, 0)
    x = table.features
    others = x.clone()
    others[:, :3] += 100
    found = tab_mix(x, others, Columns.of(x))
    assert torch.equal(found[:, 3:6].sum(1), torch.ones(2000))
    swapped = (found[:, :3] > 50).float()
    torch.testing.assert_close(swapped.mean(0), torch.full((3,), 0.5), atol=0.05, rtol=0)
    # All that was swapped in a row comes from one row.
    twice = swapped[:, :2].all(1)
    source = {tuple(np.round(row, 3)) for row in others[:, :2].numpy()}
    assert all(tuple(np.round(row, 3)) in source for row in found[twice, :2].numpy())


@pytest.mark.parametrize("setting", ["alignment", "distribution", "distillation"])
def test_settings_are_checked(setting: str) -> None:
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match=setting):
            DualFair(**{setting: value})


# -- training -----------------------------------------------------------------------------------


@functools.cache
def encoded(bias: float, seed: int) -> tuple[Schema, TensorTable]:
    bundle = generate(2000, seed=seed, bias=bias, missing=0.0)
    schema = (
        encoded(bias, 0)[0]
        if seed
        else Schema.infer(
            bundle.frame, bundle.tasks, bundle.sensitive, features=dict(bundle.features)
        )
    )
    return schema, schema.encode(bundle.frame)


@functools.cache
def pretrained(bias: float, features: int) -> torch.nn.Module:
    schema, table = encoded(bias, 0)
    torch.manual_seed(0)
    method = DualFair(steps=250, generator_steps=150, features=features)
    return method.fit(MLP(schema.n_inputs, (64, 32)), table, schema.groups)


def probes(bias: float, represent: object) -> tuple[float, list[float], list[float]]:
    """AUC of a linear probe for a label, its soft gaps, and how well groups can be told."""
    schema, table = encoded(bias, 0)
    fresh = encoded(bias, 1)[1]
    with torch.no_grad():
        z, z_new = represent(table.features), represent(fresh.features)  # type: ignore[operator]
    column = Layout(schema.tasks).labels["benefits"].start
    y, y_new = table.labels[:, column], fresh.labels[:, column]
    p = LogisticRegression(max_iter=2000).fit(z, y).predict_proba(z_new)[:, 1]
    gaps, told = [], []
    for a, attribute in enumerate(schema.groups.attributes):
        codes = fresh.attributes[:, a].numpy()
        means = [p[codes == g].mean() for g in range(len(attribute.categories))]
        gaps.append(max(means) - min(means))
        probe = LogisticRegression(max_iter=2000).fit(z, table.attributes[:, a] == 0)
        told.append(roc_auc_score(codes == 0, probe.predict_proba(z_new)[:, 1]))
    return float(roc_auc_score(y_new, p)), gaps, told


def test_planted_bias_goes_down() -> None:
    auc, gaps, told = probes(1.0, lambda x: x)
    own_auc, own_gaps, own_told = probes(1.0, pretrained(1.0, 16))
    assert told[0] > 0.9
    assert own_told[0] < 0.8
    assert sum(own_gaps) < 0.8 * sum(gaps)
    assert own_auc > auc - 0.05


def test_a_fair_population_keeps_its_utility() -> None:
    assert probes(0.0, pretrained(0.0, 24))[0] > probes(0.0, lambda x: x)[0] - 0.05


# -- the audit ----------------------------------------------------------------------------------


def test_counterfactual_parity_has_its_control() -> None:
    """A score that reads what follows the group, one that does not, and one of pure detail."""
    table = planted(1500, 4, missing=True)

    def score(x: Tensor) -> Tensor:
        return torch.stack([(x[:, 0] / 2).sigmoid(), x[:, 1].sigmoid(), torch.ones(len(x))], 1)

    result = counterfactual_parity(
        score, table, KINDS, generator(), outputs=("follows", "own", "constant"), replicates=200
    )
    frame = result.to_frame().set_index("output")
    assert frame["n"].tolist() == [1350.0] * 3
    kind, number = table.attributes[150:, 0], table.features[150:, 0]
    truth = [
        ((number / 2).sigmoid() - ((number + 2 * (target - kind)) / 2).sigmoid()).abs()
        for target in range(3)
    ]
    # Every row has two other groups, and no distance to its own.
    expected = float(torch.stack(truth).sum(0).mean() / 2)
    assert frame.loc["follows", "effect"] == pytest.approx(expected, abs=0.03)
    assert frame.loc["follows", "effect"] > 3 * frame.loc["follows", "control"]
    # A score without the group moves by reconstruction alone, as its control says.
    own = frame.loc["own"]
    assert own["effect"] < 0.35 * own["control"]
    assert abs(own["flipped"] - own["control"]) < 0.02
    assert frame.loc["constant", ["flipped", "control", "effect"]].tolist() == [0, 0, 0]
    for figure in ("flipped", "control", "effect"):
        assert (frame[f"{figure}_low"] <= frame[figure]).all()
        assert (frame[f"{figure}_high"] >= frame[figure]).all()


def test_intervals_have_the_width_of_a_mean_s() -> None:
    table = planted(1500, 4)

    def score(x: Tensor) -> Tensor:
        return x[:, 0]

    one = counterfactual_parity(score, table, KINDS, generator()).flips[0]
    g, codes = generator(), table.attributes
    z = g.code(table.features)[0]
    means = [g.decode(z, g.another(codes, 0, torch.full((1500,), k))).means[:, 0] for k in (1, 2)]
    distance = torch.stack([(table.features[:, 0] - m).abs() for m in means]).mean(0).detach()
    assert one.flipped == pytest.approx(float(distance.mean()), rel=1e-5)
    width = 2 * 1.96 * float(distance.std()) / math.sqrt(1500)
    assert one.flipped_high - one.flipped_low == pytest.approx(width, rel=0.2)
    twin = TensorTable(*(torch.cat([t, t]) for t in (table.features, table.labels, codes)))
    twin.units = np.tile(np.arange(1500), 2)
    again = counterfactual_parity(score, twin, KINDS, generator()).flips[0]
    assert again.flipped == pytest.approx(one.flipped, rel=1e-5)
    assert again.flipped_high - again.flipped_low == pytest.approx(width, rel=0.2)


def test_weights_count_rows() -> None:
    table = planted(600, 5)
    weights = torch.zeros(600)
    weights[:200] = 2.0
    weighted = TensorTable(table.features, table.labels, table.attributes, weights)

    def score(x: Tensor) -> Tensor:
        return x[:, 0]

    a = counterfactual_parity(score, weighted, KINDS, generator()).flips[0]
    b = counterfactual_parity(score, table[:200], KINDS, generator()).flips[0]
    assert (a.n, b.n) == (200, 200)
    assert a.flipped == pytest.approx(b.flipped)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="names 2 scores; the model gives 1"):
        counterfactual_parity(
            lambda x: x[:, 0], planted(20, 0), KINDS, generator(), outputs=("a", "b")
        )
