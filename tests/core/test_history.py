"""Decayed sums: how long they remember, what they keep, and what memory does to a noisy gap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairmt.groups import Attribute, Groups
from fairmt.history import DecayedMoments
from fairmt.ledger import Ledger, atoms_of
from fairmt.methods import FairMT
from fairmt.models import LinearHeads, MultiTask
from fairmt.moments import Moments
from fairmt.tasks import Detection, Layout

LEDGER = Ledger(
    Layout((Detection("ill", ("x", "y")),)), {"ill": ["equal_opportunity", "demographic_parity"]}
)
GROUPS = Groups((Attribute("sex", ("m", "w")), Attribute("race", ("p", "q", "r"))))
RACE = slice(3, 6)  # among the rows of moments, after everybody, m and w


def batch(seed: int, n: int = 64, weight: float | None = None) -> tuple[Moments, Tensor]:
    """Moments of random rows, and the outputs that carry their gradient."""
    g = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, 2, generator=g, dtype=torch.float64).requires_grad_()
    labels = torch.randint(2, (n, 2), generator=g).double()
    # Race r is the scarcest group.
    codes = torch.stack(
        [
            torch.randint(2, (n,), generator=g),
            torch.multinomial(torch.tensor([0.5, 0.4, 0.1]), n, True, generator=g),
        ],
        1,
    )
    weights = None if weight is None else torch.full((n,), weight, dtype=torch.float64)
    atoms = atoms_of(LEDGER, outputs, labels, None, 0.5)
    return LEDGER.moments(GROUPS.membership(codes, torch.float64), atoms, weights), outputs


def test_without_memory_the_batch_passes_through() -> None:
    moments, _ = batch(0)
    assert DecayedMoments(LEDGER, GROUPS, max_decay=0.0).update(moments) is moments


def test_sums_are_a_geometric_series_of_batches() -> None:
    beta = 0.8
    history = DecayedMoments(LEDGER, GROUPS, target=1e12, max_decay=beta)
    batches = [batch(seed)[0] for seed in range(6)]
    for moments in batches:
        found = history.update(moments)
    for name, decay in (("sums", beta), ("mass", beta), ("mass2", beta**2)):
        expected = sum(
            decay**age * getattr(moments, name) for age, moments in enumerate(reversed(batches))
        )
        torch.testing.assert_close(getattr(found, name), expected)


@pytest.mark.parametrize("weight", [None, 1.0, 50.0])
def test_memory_is_as_long_as_the_evidence_of_the_scarcest_group_needs(
    weight: float | None,
) -> None:
    history = DecayedMoments(LEDGER, GROUPS, target=200.0, max_decay=0.999)
    evidence = torch.stack(
        [history.update(batch(seed, weight=weight)[0]).evidence for seed in range(400)]
    )[200:].mean(0)
    # Recall of race r stands on 64 · .1 · .5 = 3.2 rows a batch, its predicted rate on 6.4.
    assert evidence[RACE][2].tolist() == pytest.approx([200.0] * 4, rel=0.15)
    # Groups that are compared share one memory, so the larger ones stand on more.
    ratio = evidence[RACE][0] / evidence[RACE][2]
    assert ratio.tolist() == pytest.approx([5.0] * 4, rel=0.25)
    # Sex has no scarce group and remembers less; whoever has rows enough remembers nothing.
    assert evidence[1:3].mean(0).tolist() == pytest.approx([200.0] * 4, rel=0.1)


def test_evidence_that_suffices_needs_no_memory() -> None:
    history = DecayedMoments(LEDGER, GROUPS, target=2.0)
    for seed in range(5):
        moments, _ = batch(seed, n=640)
        torch.testing.assert_close(history.update(moments).sums, moments.sums)


def test_memory_is_at_most_an_epoch_old() -> None:
    """An epoch of four batches: β = 4/5, whose mean age is β / (1 - β) = 4 batches."""
    limited = DecayedMoments(LEDGER, GROUPS, target=1e12, max_decay=0.99)
    limited.set_epoch(4)
    by_hand = DecayedMoments(LEDGER, GROUPS, target=1e12, max_decay=0.8)
    for seed in range(6):
        a, b = limited.update(batch(seed)[0]), by_hand.update(batch(seed)[0])
        torch.testing.assert_close(a.sums, b.sums)
    # A long epoch sets no limit, and a short memory is not lengthened.
    limited.set_epoch(1e6)
    assert torch.equal(limited._decay(), torch.full_like(limited._decay(), 0.99))
    by_hand.set_epoch(1e6)
    assert torch.equal(by_hand._decay(), torch.full_like(by_hand._decay(), 0.8))


def test_a_method_that_knows_its_training_rows_remembers_an_epoch_of_them() -> None:
    model = MultiTask(nn.Identity(), LinearHeads(2, LEDGER.layout), LEDGER.layout)
    g = torch.Generator().manual_seed(0)
    rows: dict[str, Tensor] = {
        "features": torch.randn(64, 2, generator=g),
        "labels": torch.randint(2, (64, 2), generator=g).float(),
        "attributes": torch.stack([torch.arange(64) % 2, torch.arange(64) % 3], 1),
    }
    remembered = []
    for data in (None, range(4 * 64)):
        fair = FairMT(strength=1.0, evidence_target=1e12, max_decay=0.99)
        fair.setup(model, GROUPS, data)
        for _ in range(400):
            fair.step(rows)
        sums = fair.history.state_dict()["memory"]
        remembered.append(float(sums.max()))
    # Σ β^s for β = .99 and, with four batches to an epoch, for β = 4/5.
    assert remembered[0] == pytest.approx((1 - 0.99**400) / 0.01, rel=1e-3)
    assert remembered[1] == pytest.approx(5.0, rel=1e-3)


def test_a_group_that_never_comes_does_not_lengthen_the_memory_of_the_others() -> None:
    wider = Groups((Attribute("sex", ("m", "w", "never")),))
    plain = Groups((Attribute("sex", ("m", "w")),))
    found = []
    for groups in (plain, wider):
        history = DecayedMoments(LEDGER, groups, target=300.0)
        for seed in range(10):
            moments, _ = batch(seed)
            rows = [0, 1, 2]
            cut = Moments(moments.sums[rows], moments.mass[rows], moments.mass2[rows])
            if groups is wider:
                cut = Moments(*(torch.cat([x, 0 * x[:1]]) for x in (cut.sums, cut.mass, cut.mass2)))
            kept = history.update(cut)
        found.append(kept.sums[:3])
    torch.testing.assert_close(found[0], found[1])


def test_the_gradient_flows_through_the_batch_alone_with_the_size_it_has_without_memory() -> None:
    history = DecayedMoments(LEDGER, GROUPS, target=1e12, max_decay=0.9)
    mix = torch.randn(6, len(LEDGER), generator=torch.Generator().manual_seed(9)).double()
    for step in range(4):
        moments, outputs = batch(3)
        kept = history.update(moments)
        # The same rows again and again: sums grow, rates and their gradients stay.
        rates, own = LEDGER.rates(kept.sums), LEDGER.rates(moments.sums)
        torch.testing.assert_close(rates, own)
        (found,) = torch.autograd.grad((mix * rates).sum(), outputs, retain_graph=True)
        (wanted,) = torch.autograd.grad((mix * own).sum(), outputs)
        torch.testing.assert_close(found, wanted)
        memory = sum(0.9**s for s in range(step + 1))
        torch.testing.assert_close(kept.sums.detach(), memory * moments.sums.detach())


def test_a_state_goes_on_where_it_was_saved() -> None:
    first = DecayedMoments(LEDGER, GROUPS)
    for seed in range(5):
        first.update(batch(seed)[0])
    second = DecayedMoments(LEDGER, GROUPS)
    state = first.state_dict()
    second.load_state_dict(state)
    for seed in range(5, 8):
        a, b = first.update(batch(seed)[0]), second.update(batch(seed)[0])
        assert torch.equal(a.sums, b.sums)
        assert torch.equal(a.mass2, b.mass2)
    # What was saved is a copy.
    assert state["steps"] == 5
    second.load_state_dict(state)
    third = DecayedMoments(LEDGER, GROUPS)
    third.load_state_dict(state)
    assert torch.equal(second.update(batch(5)[0]).sums, third.update(batch(5)[0]).sums)
    second.load_state_dict(DecayedMoments(LEDGER, GROUPS).state_dict())
    second.update(batch(0)[0])
    first.reset()
    assert torch.equal(first.update(batch(1)[0]).sums, batch(1)[0].sums)


def test_memory_must_fade() -> None:
    with pytest.raises(ValueError, match=r"max_decay must lie in \[0, 1\). Found 1.0"):
        DecayedMoments(LEDGER, GROUPS, max_decay=1.0)


FOUR = Groups((Attribute("group", ("a", "b", "c", "d")),))
SHARES = torch.tensor([0.5, 0.3, 0.18, 0.02])


def mean_gap_of_a_fair_predictor(max_decay: float) -> float:
    """Mean max-min gap of a recall that is 1/2 in truth for each of four groups.

    The smallest group holds 2 % of the rows, 30 % of them have the label; batches of 256.
    """
    ledger = Ledger(Layout((Detection("ill", ("x",)),)), {"ill": ["equal_opportunity"]})
    history = DecayedMoments(ledger, FOUR, target=1e12, max_decay=max_decay)
    g = torch.Generator().manual_seed(0)
    gaps = []
    for step in range(900):
        outputs = torch.randn(256, 1, generator=g)
        labels = (torch.rand(256, 1, generator=g) < 0.3).float()
        codes = torch.multinomial(SHARES, 256, True, generator=g)[:, None]
        moments = history.update(
            ledger.moments(FOUR.membership(codes), atoms_of(ledger, outputs, labels))
        )
        if step >= 300:
            rates, known = ledger.rates(moments.sums)[1:, 0], moments.evidence[1:, 0] > 0
            gaps.append(rates[known].max() - rates[known].min())
    return float(torch.stack(gaps).mean())


def test_memory_takes_most_of_the_bias_from_the_gap_of_a_fair_predictor() -> None:
    alone, short, long = (mean_gap_of_a_fair_predictor(decay) for decay in (0.0, 0.9, 0.99))
    assert 0.3 < alone < 0.5
    assert short < 0.35 * alone
    assert long < 0.12 * alone
