"""Who belongs to which group, and what an attribute may be."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairmt.groups import MAX_CATEGORIES, Attribute, Groups

sizes = st.lists(st.integers(2, 4), min_size=1, max_size=3)


@st.composite
def groups_and_codes(draw: st.DrawFn) -> tuple[Groups, torch.Tensor]:
    n = draw(sizes)
    attributes = tuple(
        Attribute(f"a{i}", tuple(f"c{j}" for j in range(k))) for i, k in enumerate(n)
    )
    depth = draw(st.integers(1, len(n)))
    rows = draw(st.lists(st.tuples(*(st.integers(-1, k - 1) for k in n)), max_size=20))
    return Groups(attributes, depth), torch.tensor(rows, dtype=torch.int64).reshape(-1, len(n))


@given(groups_and_codes())
def test_a_row_is_a_member_of_exactly_the_groups_that_its_names_say(
    case: tuple[Groups, torch.Tensor],
) -> None:
    groups, codes = case
    member = groups.membership(codes)
    assert member.shape == (len(codes), 1 + groups.n_groups)
    assert bool((member[:, 0] == 1).all())
    for row, flags in zip(codes.tolist(), member[:, 1:].tolist(), strict=True):
        for name, flag in zip(groups.names, flags, strict=True):
            parts = [part.split("=") for part in name.split(" & ")]
            assert flag == all(row[int(a[1:])] == int(c[1:]) for a, c in parts)


@given(groups_and_codes())
def test_groups_of_a_partition_exclude_each_other_and_cover_those_whose_attributes_are_known(
    case: tuple[Groups, torch.Tensor],
) -> None:
    groups, codes = case
    member = groups.membership(codes)[:, 1:]
    covered = 0
    for partition in groups.partitions:
        known = (codes[:, list(partition.members)] >= 0).all(1)
        assert torch.equal(member[:, partition.groups].sum(1), known.float())
        covered += partition.groups.stop - partition.groups.start
    assert covered == groups.n_groups
    index = groups.partition_of_group()
    assert all(bool((index[p.groups] == i).all()) for i, p in enumerate(groups.partitions))


@given(groups_and_codes())
def test_index_names_the_member_column(case: tuple[Groups, torch.Tensor]) -> None:
    groups, codes = case
    index, member = groups.index(codes), groups.membership(codes)[:, 1:]
    rebuilt = torch.zeros_like(member)
    for row, column in zip(*torch.nonzero(index >= 0, as_tuple=True), strict=True):
        rebuilt[row, index[row, column]] = 1
    assert torch.equal(rebuilt, member)


@given(groups_and_codes())
def test_intersections_add_up_to_their_attribute_where_the_others_are_known(
    case: tuple[Groups, torch.Tensor],
) -> None:
    groups, codes = case
    deep = Groups(groups.attributes, len(groups.attributes))
    known = codes[(codes >= 0).all(1)]
    member = deep.membership(known)[:, 1:]
    whole = deep.partitions[-1].groups
    cells = list(product(*(range(len(a.categories)) for a in deep.attributes)))
    for position, partition in enumerate(deep.partitions[: len(deep.attributes)]):
        for code, g in enumerate(range(*partition.groups.indices(deep.n_groups))):
            inside = [i for i, cell in enumerate(cells) if cell[position] == code]
            assert torch.equal(member[:, g], member[:, whole][:, inside].sum(1))


def test_membership_of_a_small_example() -> None:
    groups = Groups((Attribute("sex", ("m", "w")), Attribute("old", ("no", "yes"))), depth=2)
    assert groups.names == (
        "sex=m",
        "sex=w",
        "old=no",
        "old=yes",
        "sex=m & old=no",
        "sex=m & old=yes",
        "sex=w & old=no",
        "sex=w & old=yes",
    )
    assert [p.name for p in groups.partitions] == ["sex", "old", "sex × old"]
    codes = groups.pack({"old": torch.tensor([1, -1, 0]), "sex": torch.tensor([1, 0, -1])})
    assert groups.membership(codes).tolist() == [
        [1, 0, 1, 0, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, 0, 0],
    ]
    assert groups.pack(codes) is codes


@given(groups_and_codes())
def test_groups_come_back_from_their_description(case: tuple[Groups, torch.Tensor]) -> None:
    groups, _ = case
    assert Groups.from_dict(groups.to_dict()) == groups
    banded = Groups((Attribute("age", ("young", "mid", "old"), (30, 60)),))
    assert Groups.from_dict(banded.to_dict()) == banded


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Attribute("sex", ("m",)), r"'sex' has 1 group\(s\) \['m'\]; a comparison needs"),
        (lambda: Attribute("sex", ("m", "m")), "'sex' names a group twice"),
        (lambda: Attribute("age", ("a", "b", "c"), (3.0,)), "'age': 1 edges for 3 bands"),
        (
            lambda: Attribute("id", tuple(str(i) for i in range(MAX_CATEGORIES + 1))),
            "'id' has 101 groups, more than 100; cut it into bands",
        ),
        (lambda: Groups((Attribute("s", ("a", "b")),) * 2), r"distinct. Found \['s', 's'\]"),
        (lambda: Groups((Attribute("s", ("a", "b")),), depth=2), "between 1 and .* Found 2"),
        (lambda: Groups((Attribute("s", ("a", "b")),), depth=0), "between 1 and .* Found 0"),
    ],
)
def test_attributes_that_cannot_be_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_codes_that_do_not_fit_are_named() -> None:
    groups = Groups((Attribute("sex", ("m", "w")), Attribute("old", ("no", "yes"))))
    groups.check(torch.tensor([[0, -1], [1, 1]]))
    with pytest.raises(ValueError, match=r"'old' has codes from 0 to 2; expected -1 .* to 1"):
        groups.check(torch.tensor([[0, 0], [1, 2]]))
    with pytest.raises(ValueError, match="'sex' has codes from -2 to 1"):
        groups.check(torch.tensor([[-2, 0], [1, 1]]))
    with pytest.raises(ValueError, match=r"must be \(B, 2\). Found \(3, 1\)"):
        groups.pack(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"No codes for sensitive attributes \['old'\]"):
        groups.pack({"sex": torch.zeros(3)})
