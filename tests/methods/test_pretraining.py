"""What every method of the kind pre-training must do, whatever its idea."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmt.data import Schema, TensorTable, generate
from fairmt.groups import Groups
from fairmt.methods import METHODS, PreTraining, pretraining
from fairmt.models import MLP
from fairmt.store import StoreError
from fairmt.tasks import Layout

from .steps import relabelled

SHORT: dict[str, dict[str, Any]] = {
    "dualfair": {"steps": 7, "generator_steps": 7, "batch_size": 128},
    "pmrl": {"blocks": {"a": range(6), "b": range(6, 16)}, "steps": 7, "batch_size": 128},
}
"""A line for every method: settings for a few steps on the people below."""
NAMES = [name for name, m in METHODS.items() if issubclass(m, PreTraining)]


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "ROUND", 3)


@functools.cache
def people() -> tuple[Schema, TensorTable]:
    bundle = generate(400, seed=0)
    schema = Schema.infer(
        bundle.frame, bundle.tasks, bundle.sensitive, features=dict(bundle.features)
    )
    table = schema.encode(bundle.frame)
    table.attributes[:20, 0] = -1
    return schema, table


def method(name: str) -> PreTraining:
    found = METHODS[name](**SHORT[name])
    assert isinstance(found, PreTraining)
    return found


def fitted(
    name: str, table: TensorTable, groups: Groups, seed: int = 0, checkpoint: Path | None = None
) -> nn.Module:
    torch.manual_seed(3)
    encoder = MLP(table.features.shape[1], (16, 8), dropout=0.1)
    return method(name).fit(encoder, table, groups, seed=seed, checkpoint=checkpoint)


@functools.cache
def whole(name: str) -> dict[str, Tensor]:
    schema, table = people()
    return fitted(name, table, schema.groups).state_dict()


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert list(one) == list(two)
    for key in one:
        assert torch.equal(one[key], two[key]), key


def test_every_method_of_the_kind_has_a_case() -> None:
    assert set(NAMES) == set(SHORT)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_never_read(name: str) -> None:
    schema, table = people()
    bare = replace(table, labels=torch.full_like(table.labels, torch.nan))
    assert_same(fitted(name, bare, schema.groups).state_dict(), whole(name))


@pytest.mark.parametrize("name", NAMES)
def test_groups_may_be_relabelled(name: str) -> None:
    """Groups are numbered by the rows, so that even rounding is the same."""
    schema, table = people()
    groups, codes = relabelled(schema.groups, table.attributes)
    found = fitted(name, replace(table, attributes=codes), groups)
    assert_same(found.state_dict(), whole(name))


@pytest.mark.parametrize("name", NAMES)
def test_attributes_seeds_and_steps_matter(name: str) -> None:
    """The equalities above would hold of a method that does nothing, too."""
    schema, table = people()
    shuffled = table.attributes[torch.randperm(len(table), generator=torch.Generator())]
    other = fitted(name, replace(table, attributes=shuffled), schema.groups).state_dict()
    again = fitted(name, table, schema.groups, seed=1).state_dict()
    for found in (other, again):
        assert any(not torch.equal(found[k], v) for k, v in whole(name).items())


@pytest.mark.parametrize("saves", [1, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_fit_goes_on_bitwise(
    name: str, saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, table = people()
    save = pretraining.save_state
    left = [saves]

    def interrupted(path: Any, state: Any) -> None:
        save(path, state)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "save_state", interrupted)
    try:
        fitted(name, table, schema.groups, checkpoint=tmp_path / "run")
    except KeyboardInterrupt:
        monkeypatch.setattr(pretraining, "save_state", save)
    else:
        assert saves > 3
    found = fitted(name, table, schema.groups, checkpoint=tmp_path / "run")
    assert_same(found.state_dict(), whole(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_run_is_refused(name: str, tmp_path: Path) -> None:
    schema, table = people()
    fitted(name, table, schema.groups, checkpoint=tmp_path / "run")
    with pytest.raises(StoreError, match="seed"):
        fitted(name, table, schema.groups, seed=1, checkpoint=tmp_path / "run")
    other = replace(table, features=table.features + 0.1 * (table.features > 1))
    with pytest.raises(StoreError, match="features"):
        fitted(name, other, schema.groups, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_left_as_it_was(name: str) -> None:
    schema, table = people()
    encoder = MLP(table.features.shape[1], (16, 8))
    before = torch.get_rng_state()
    method(name).fit(encoder, table, schema.groups)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_fits_the_shape_that_the_method_names(name: str) -> None:
    schema, table = people()
    trained = fitted(name, table, schema.groups)
    empty = method(name).network(MLP(table.features.shape[1], (16, 8), dropout=0.1))
    empty.load_state_dict(trained.state_dict())
    trained.eval(), empty.eval()
    z = trained(table.features)
    assert torch.equal(empty(table.features), z)
    assert z.shape == (len(table), trained.n_features)


@pytest.mark.parametrize("name", NAMES)
def test_settings_make_the_method_again(name: str) -> None:
    settings = method(name).settings()
    again = METHODS[name](**json.loads(json.dumps(settings)))
    assert isinstance(again, PreTraining)
    assert again.settings() == settings


REFUSED: dict[str, tuple[Callable[[Schema, TensorTable], tuple[TensorTable, Groups]], str]] = {
    "no attribute": (
        lambda s, t: (replace(t, attributes=t.attributes[:, :0]), Groups(())),
        "needs a sensitive attribute",
    ),
    "one group": (
        lambda s, t: (replace(t, attributes=t.attributes * 0), s.groups),
        "'sex' has fewer than two groups",
    ),
    "a code out of range": (
        lambda s, t: (replace(t, attributes=t.attributes + 1), s.groups),
        "'sex' has codes",
    ),
    "other rows than the encoder takes": (
        lambda s, t: (replace(t, features=t.features[:, 1:]), s.groups),
        "takes 16 inputs; the rows have 15",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", NAMES)
def test_rows_it_cannot_use_are_refused_by_name(name: str, case: str) -> None:
    schema, table = people()
    change, message = REFUSED[case]
    rows, groups = change(schema, table)
    with pytest.raises(ValueError, match=message):
        method(name).fit(MLP(16, (16, 8)), rows, groups)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_of_itself_is_checked_before_training(name: str) -> None:
    schema, _ = people()
    with pytest.raises(ValueError, match=f"'{name}' needs a sensitive attribute"):
        METHODS[name].check(Layout(schema.tasks), Groups(()))
    with pytest.raises(ValueError, match=f"'{name}' cannot use"):
        METHODS[name].check(Layout(schema.tasks), schema.groups, ["age"])


def test_every_cell_has_its_share_of_every_batch() -> None:
    _, table = people()
    batches = pretraining.StratifiedBatches(table.attributes, 100, seed=0)
    epochs = [[batches(epoch * 4 + k) for k in range(4)] for epoch in (0, 1)]
    for own in epochs:
        assert torch.equal(torch.cat(own).sort().values, torch.arange(400))
        for column in table.attributes.T:
            for g in column.unique():
                counts = torch.tensor([int((column[rows] == g).sum()) for rows in own])
                # One row more or less in each of the attribute's cells.
                assert counts.max() - counts.min() <= 5
    assert not torch.equal(epochs[0][0], epochs[1][0])


def test_numbering_follows_the_rows() -> None:
    codes = torch.tensor([-1, 2, 2, 0, -1, 2])
    number = pretraining.numbering(codes, 4)
    assert number.tolist() == [1, 2, 0, 3]
    assert pretraining.renumbered(codes[:, None], [number])[:, 0].tolist() == [-1, 0, 0, 1, -1, 0]
