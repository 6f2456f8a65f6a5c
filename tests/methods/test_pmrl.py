"""PMRL: singular values, signs, missing blocks, parity, and what training does."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from fairmt.data import Schema, TensorTable, generate
from fairmt.groups import Attribute, Groups
from fairmt.methods import PMRL, PMRLJoint
from fairmt.methods.pmrl import (
    Objective,
    alignment,
    alignment_parity,
    dominance_loss,
    parity_loss,
    partner_loss,
    singular_values,
    units,
)
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.models.blocks import Block, BlockEncoder, schema_blocks
from fairmt.tasks import Layout, Regression

BLOCKS = {"a": range(4), "b": range(4, 9), "c": range(9, 12)}
PAIR = Groups((Attribute("group", ("one", "two")),))


def embeddings(n: int = 5, k: int = 3, d: int = 4, seed: int = 0) -> Tensor:
    z = torch.randn(n, k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z / z.norm(dim=2, keepdim=True)


# -- the singular value -------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "d"), [(2, 5), (3, 4), (4, 2)])
def test_singular_values_are_those_of_the_matrices(k: int, d: int) -> None:
    z = embeddings(6, k, d)
    expected = torch.zeros(6, k, dtype=torch.float64)
    for i in range(6):
        found = torch.linalg.svd(z[i], full_matrices=False).S
        expected[i, : len(found)] = found
    torch.testing.assert_close(singular_values(z), expected, atol=2e-4, rtol=0)


def test_alignment_runs_from_orthogonal_to_parallel() -> None:
    parallel = torch.ones(1, 3, 3).double() / 3**0.5
    z = torch.cat([torch.eye(3).double()[None], parallel])
    there = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(
        alignment(singular_values(z), there), torch.tensor([0.0, 1.0]).double()
    )
    # Two of three blocks: what the third would have been plays no part.
    some = torch.tensor([[True, True, False], [True, False, False]])
    found = alignment(singular_values(parallel.expand(2, 3, 3) * some[:, :, None]), some)
    assert float(found[0]) == pytest.approx(1.0)
    assert bool(found[1].isnan())


def test_missing_blocks_leave_the_loss_of_the_others() -> None:
    z = embeddings()
    there = torch.ones(5, 3, dtype=torch.bool)
    there[:, 1] = False
    masked = dominance_loss(singular_values(z * there[:, :, None]), there, 0.3)
    two = dominance_loss(singular_values(z[:, [0, 2]]), there[:, [0, 2]], 0.3)
    torch.testing.assert_close(masked, two)
    cell = torch.tensor([0, 0, 1, 1, 1])
    torch.testing.assert_close(
        partner_loss(z * there[:, :, None], there, 0.3, cell),
        partner_loss(z[:, [0, 2]], there[:, [0, 2]], 0.3, cell),
    )
    # Rows with one block are in no mean, and nobody's counterpart.
    there = torch.ones(5, 3, dtype=torch.bool)
    there[3:, 1:] = False
    full = there[:3]
    for loss in (
        lambda z, t, c: dominance_loss(singular_values(z), t, 0.3),
        lambda z, t, c: partner_loss(z, t, 0.3, c),
    ):
        torch.testing.assert_close(
            loss(z * there[:, :, None], there, cell), loss(z[:3], full, cell[:3])
        )


def test_the_gradient_is_right_with_missing_blocks() -> None:
    x = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    x.requires_grad_()
    there = torch.ones(20, 3, dtype=torch.bool)
    there[:4, 0] = there[3:6, 2] = False
    codes = (torch.arange(20) % 2)[:, None]
    # The best aligned group's level is fixed in the gradient, and so left out here.
    objective = Objective(1.0, 1.0, 0.0, 0.5)
    assert torch.autograd.gradcheck(lambda v: objective(v, there, codes, codes[:, 0]), x)


def test_dominance_falls_into_the_sign_trap_and_the_partner_does_not() -> None:
    """-z counts as aligned with z for singular values; the partner term tells them apart."""
    z = embeddings(8, 1, 4)
    same, opposite = torch.cat([z, z], 1), torch.cat([z, -z], 1)
    there = torch.ones(8, 2, dtype=torch.bool)
    cell = torch.zeros(8, dtype=torch.int64)
    for loss in (alignment, lambda s, t: dominance_loss(s, t, 0.3)):
        torch.testing.assert_close(
            loss(singular_values(same), there), loss(singular_values(opposite), there)
        )
    apart = partner_loss(opposite, there, 0.3, cell) - partner_loss(same, there, 0.3, cell)
    assert float(apart) > 2.0


def test_the_partner_term_by_hand() -> None:
    """Two blocks and two rows of different cells: in its own cell, a row has no rival."""
    z = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]).double()
    there = torch.ones(2, 2, dtype=torch.bool)
    rival = torch.log1p(torch.exp(torch.tensor(-1 / 0.5))).item()
    together = partner_loss(z, there, 0.5, torch.tensor([0, 0]))
    apart = partner_loss(z, there, 0.5, torch.tensor([0, 1]))
    assert float(together) == pytest.approx(rival)
    assert float(apart) == pytest.approx(rival / 2)


def test_parity_compares_groups_and_lifts_the_worst() -> None:
    """Rows of the groups lie mixed; the best group is not pulled down."""
    mixed = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    codes = (torch.arange(40) >= 20).long()[mixed][:, None]
    levels = torch.where(codes[:, 0] == 1, 0.9, 0.3).requires_grad_()
    loss = parity_loss(levels, codes)
    assert loss.item() == pytest.approx(0.6**2 / 2)
    (gradient,) = torch.autograd.grad(loss, levels)
    assert bool((gradient[codes[:, 0] == 0] < 0).all())
    assert bool((gradient[codes[:, 0] == 1] == 0).all())
    assert parity_loss(levels, -torch.ones_like(codes)).item() == 0
    few = torch.zeros_like(codes)
    few[:5] = 1
    assert parity_loss(levels, few).item() == 0


# -- the encoder --------------------------------------------------------------------------------


def test_a_missing_block_is_not_read() -> None:
    torch.manual_seed(0)
    encoder = BlockEncoder(
        {"a": Block((0, 1), (1,)), "b": (2, 3)}, 4, shared=3, private=2, widths=(5,)
    )
    assert encoder.n_features == 10
    x = torch.randn(4, 4)
    x[1, 2:] = torch.nan
    x[:, 1] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    x[3, 0] = 55.0
    z = encoder(x)
    assert encoder.present(x).tolist() == [
        [True, True],
        [True, False],
        [False, True],
        [False, True],
    ]
    assert bool(torch.isfinite(z).all())
    parts = encoder.parts(x)
    torch.testing.assert_close(z.view(4, 2, 5)[:, :, :3], parts.shared)
    torch.testing.assert_close(z.view(4, 2, 5)[:, :, 3:], parts.private)
    assert bool((z[1].view(2, 5)[1] == 0).all())
    assert bool((z[2:].view(2, 2, 5)[:, 0] == 0).all())
    z.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in encoder.parameters())


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"a": range(4)}, r"two or more: with \['a'\]"),
        ({"a": range(2), "b": range(1, 4)}, "Column 1 belongs to the blocks 'a' and 'b'"),
        ({"a": range(2), "b": (3,)}, r"Columns \[2\] belong to no block"),
        ({"a": range(4), "b": ()}, "Block 'b' has no column"),
        ({"a": range(2), "b": (2, 3, 4)}, "Block 'b' names column 4; there are 4"),
        ({"a": Block((0, 1), (2,)), "b": (2, 3)}, "flags of block 'a'"),
    ],
)
def test_blocks_are_checked_by_name(blocks: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockEncoder(blocks, 4)


def test_one_modality_is_refused_by_name() -> None:
    for blocks in (None, {"all": range(12)}):
        with pytest.raises(ValueError, match=r"'pmrl' aligns blocks .* needs two or more"):
            PMRL(blocks)


def test_a_block_that_is_missing_in_part_is_refused() -> None:
    table = planted(100, 0)[0]
    table.features[7, 5] = torch.nan
    with pytest.raises(ValueError, match="Block 'b' is NaN in some of its columns in row 7"):
        PMRL(BLOCKS, steps=1).fit(MLP(12), table, PAIR)


def test_blocks_of_a_schema_are_found_by_column_names() -> None:
    bundle = generate(300, seed=0)
    frame = bundle.frame.copy()
    frame.loc[:10, ["x0", "x1", "region"]] = None
    features = {"x0": "numeric", "x1": "numeric", "x2": "numeric", "region": "categorical"}
    schema = Schema.infer(frame, bundle.tasks, bundle.sensitive, features=features)
    found = schema_blocks(schema, {"left": ["x0", "region"], "right": ["x1", "x2"]})
    names = schema.input_names
    assert [names[c] for c in found["left"].columns] == [
        "x0", "x0 is missing", "region=a", "region=b", "region=c", "region is missing",
        "region=(other)",
    ]  # fmt: skip
    assert [names[c] for c in found["left"].flags] == ["x0 is missing", "region is missing"]
    # x2 is never missing, and so the block is not.
    assert found["right"].flags == ()
    present = BlockEncoder(found, schema.n_inputs).present(schema.encode(frame).features)
    assert (~present[:, 0]).nonzero().flatten().tolist() == list(range(11))
    with pytest.raises(ValueError, match=r"'regions' is not a feature. Did you mean \['region'\]"):
        schema_blocks(schema, {"left": ["regions"], "right": ["x1"]})
    with pytest.raises(ValueError, match=r"\['x2', 'region'\] belong to no block"):
        schema_blocks(schema, {"left": ["x0"], "right": ["x1"]})


# -- training -----------------------------------------------------------------------------------


def planted(n: int, seed: int) -> tuple[TensorTable, Tensor]:
    """Three views of a latent of 3 dimensions, noisier for the second group; some are missing."""
    world = torch.Generator().manual_seed(9)
    maps = [torch.randn(3, len(c), generator=world) for c in BLOCKS.values()]
    r = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 3, generator=r)
    codes = (torch.rand(n, generator=r) < 0.4).long()
    noise = torch.where(codes == 1, 0.9, 0.3)[:, None]
    views = [latent @ m + noise * torch.randn(n, m.shape[1], generator=r) for m in maps]
    lost = torch.rand(n, generator=r) < 0.2
    views[2][lost] = torch.nan
    codes[:10] = -1
    return TensorTable(torch.cat(views, 1), torch.zeros(n, 0), codes[:, None]), latent


@functools.cache
def trained(parity: float) -> BlockEncoder:
    table, _ = planted(1000, 0)
    method = PMRL(BLOCKS, parity=parity, steps=150, batch_size=128, shared=8, private=4)
    return method.fit(MLP(12), table, PAIR)


def untrained() -> BlockEncoder:
    torch.manual_seed(0)
    return BlockEncoder(BLOCKS, 12, shared=8, private=4)


def test_alignment_goes_up_and_signs_are_right() -> None:
    table, _ = planted(600, 1)
    before = alignment_parity(untrained(), table, PAIR).iloc[0]
    after = alignment_parity(trained(0.0), table, PAIR).iloc[0]
    assert after["alignment"] > before["alignment"] + 0.2
    assert after["cosine"] > 0.7
    assert after["retrieval"] > before["retrieval"] + 0.1
    parts = trained(0.0).parts(table.features)
    z = units(parts.shared, parts.present)
    assert float(((z[:, 0] * z[:, 1]).sum(1) < 0).double().mean()) < 0.1


def test_parity_of_alignment_goes_up_where_it_was_planted() -> None:
    table, _ = planted(600, 1)
    levels = {
        parity: alignment_parity(trained(parity), table, PAIR)["alignment"][1:].to_numpy()
        for parity in (0.0, 60.0)
    }
    assert levels[0.0][0] > levels[0.0][1] + 0.05
    gap = {parity: abs(float(x[0] - x[1])) for parity, x in levels.items()}
    assert gap[60.0] < 0.75 * gap[0.0]


def test_the_report_counts_groups_and_missing_blocks() -> None:
    table, _ = planted(600, 1)
    table.features[:50, 4:] = torch.nan
    found = alignment_parity(trained(0.0), table, PAIR)
    assert found["group"].tolist() == ["", "group=one", "group=two"]
    codes = table.attributes[50:, 0]
    assert found["n"].tolist() == [550, int((codes == 0).sum()), int((codes == 1).sum())]
    everybody, *groups = found["alignment"]
    mean = sum(n * x for n, x in zip(found["n"][1:], groups, strict=True)) / sum(found["n"][1:])
    assert everybody == pytest.approx(mean)


# -- the joint loss -----------------------------------------------------------------------------


def joint_step(strength: float, codes: Tensor, labels: Tensor) -> tuple[PMRLJoint, list[Tensor]]:
    layout = Layout((Regression("y"),))
    encoder = untrained()
    torch.manual_seed(1)
    model = MultiTask(encoder, LinearHeads(encoder.n_features, layout), layout)
    method = PMRLJoint(strength=strength)
    method.setup(model, PAIR)
    table = planted(200, 2)[0]
    method.step({"features": table.features, "labels": labels, "attributes": codes})
    return method, [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def test_the_joint_loss_moves_shared_parts_without_labels() -> None:
    codes, nothing = planted(200, 2)[0].attributes, torch.full((200, 1), torch.nan)
    _, idle = joint_step(0.0, codes, nothing)
    assert all(bool((g == 0).all()) for g in idle)
    method, moved = joint_step(1.0, codes, nothing)
    encoder = method.model.encoder
    out = encoder.encoders[0][1].weight.grad
    assert bool((out[:8].abs().sum(1) > 0).all())
    assert bool((out[8:] == 0).all())
    assert all(bool(torch.isfinite(g).all()) for g in moved)
    # The penalty is the objective on the encoder's parts, times the strength.
    table = planted(200, 2)[0]
    parts = untrained().parts(table.features)
    expected = Objective(1.0, 1.0, 1.0, 0.1)(parts.shared, parts.present, codes, codes[:, 0])
    z = untrained()(table.features)
    found = method.penalty(z, z, method.unpack(table.batch(slice(None)) | {"labels": nothing}))
    torch.testing.assert_close(found, expected)


def test_the_joint_loss_does_not_mind_names_of_groups() -> None:
    codes, labels = planted(200, 2)[0].attributes, torch.randn(200, 1)
    swapped = torch.where(codes >= 0, 1 - codes, codes)
    for a, b in zip(
        joint_step(1.0, codes, labels)[1], joint_step(1.0, swapped, labels)[1], strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_joint_loss_needs_a_block_encoder() -> None:
    layout = Layout((Regression("y"),))
    with pytest.raises(ValueError, match=r"'pmrl_joint' needs a BlockEncoder.* Found MLP"):
        PMRLJoint().setup(MultiTask(MLP(12), LinearHeads(64, layout), layout), PAIR)
