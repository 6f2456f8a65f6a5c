"""Tables in: five kinds of source, one frame; what cannot be read is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairmt.data import TensorTable, read_table
from fairmt.data.table import as_text, check_finite, require_column

COLUMNS = {
    "age": [31.0, None, 52.5, 40.0],
    "children": [0, 2, 1, 3],
    "diagnosis": ["None", None, "mild", "severe"],
    "city": ["Oslo", "Bergen", "Oslo", None],
}


def _sources(folder: Path) -> dict[str, object]:
    frame = pd.DataFrame(COLUMNS)
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.tsv", index=False, sep="\t")
    frame.to_csv(folder / "t.csv.gz", index=False)
    pq.write_table(pa.table(COLUMNS), folder / "t.parquet")
    (folder / "parts").mkdir()
    pq.write_table(pa.table(COLUMNS).slice(0, 2), folder / "parts" / "a.parquet")
    pq.write_table(pa.table(COLUMNS).slice(2), folder / "parts" / "b.parquet")
    return {
        "pandas": frame,
        "polars": pl.DataFrame(COLUMNS),
        "arrow": pa.table(COLUMNS),
        "csv": folder / "t.csv",
        "csv by name": str(folder / "t.csv"),
        "tsv": folder / "t.tsv",
        "compressed csv": folder / "t.csv.gz",
        "parquet": folder / "t.parquet",
        "folder of parquet": folder / "parts",
    }


def test_every_kind_of_source_gives_the_same_frame(tmp_path: Path) -> None:
    sources = _sources(tmp_path)
    for name, source in sources.items():
        found = read_table(source)
        assert list(found.columns) == list(COLUMNS), name
        for column in COLUMNS:
            expected = as_text(pd.Series(COLUMNS[column])).tolist()
            texts = as_text(found[column]).tolist()
            assert [None if pd.isna(v) else v for v in texts] == [
                None if pd.isna(v) else v for v in expected
            ], f"{name}: {column}"


def test_numbers_stay_numbers_in_every_kind_of_source(tmp_path: Path) -> None:
    for name, source in _sources(tmp_path).items():
        found = read_table(source)
        np.testing.assert_array_equal(
            found["age"].to_numpy(dtype=float), [31.0, np.nan, 52.5, 40.0], err_msg=name
        )


def test_the_word_none_is_a_category_and_not_a_missing_cell(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a1c,n\nNone,1\n,2\nNA,3\n>7,4\n")
    column = read_table(tmp_path / "t.csv")["a1c"]
    assert column.iloc[0] == "None"
    assert column.isna().tolist() == [False, True, True, False]


@pytest.mark.parametrize("cell", ["", "NA", "NaN", "nan", "N/A", "NULL", "null"])
def test_empty_looking_cells_of_a_csv_are_missing(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f"a,b\n{cell},1\nx,2\n")
    assert read_table(tmp_path / "t.csv")["a"].isna().tolist() == [True, False]


def test_a_truncated_parquet_file_is_named_in_the_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table(COLUMNS), whole)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"Cannot read '.*cut\.parquet'"):
        read_table(cut)


def test_an_empty_csv_file_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(ValueError, match=r"Cannot read '.*t\.csv'"):
        read_table(tmp_path / "t.csv")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"neither CSV nor Parquet.*expected \.csv"):
        read_table(tmp_path / "t.xlsx")


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Cannot read a table from dict"):
        read_table({"a": [1]})


def test_duplicate_columns_of_a_frame_are_named() -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"Columns \['a'\] occur more than once"):
        read_table(frame)


def test_duplicate_columns_of_a_csv_file_are_named_and_not_renamed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(ValueError, match=r"Columns \['a'\] occur more than once"):
        read_table(tmp_path / "t.csv")


def test_columns_that_pandas_would_have_made_up_are_read_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,a.1\n1,2\n")
    assert list(read_table(tmp_path / "t.csv").columns) == ["a", "a.1"]


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        read_table(pd.DataFrame({"a": []}))


def test_one_row_is_a_table() -> None:
    assert len(read_table(pd.DataFrame({"a": [1]}))) == 1


def test_column_names_become_strings() -> None:
    assert list(read_table(pd.DataFrame([[1, 2]], columns=[0, "b"])).columns) == ["0", "b"]


def test_columns_whose_names_are_equal_as_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['1'\] occur more than once"):
        read_table(pd.DataFrame([[1, 2]], columns=[1, "1"]))


def test_an_unknown_column_is_answered_with_the_nearest_names() -> None:
    frame = pd.DataFrame({"income": [1], "age": [2]})
    with pytest.raises(ValueError, match=r"no column 'incme'. Did you mean \['income'\]"):
        require_column(frame, "incme")


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_value_is_reported_with_column_and_row(bad: float) -> None:
    column = pd.Series([1.0, 2.0, bad], name="income", index=[10, 20, 30])
    with pytest.raises(ValueError, match=r"Feature 'income' is infinite in row 30"):
        check_finite(column, "Feature")


def test_a_word_among_numbers_is_reported_with_column_and_row() -> None:
    column = pd.Series(["1", "many", "3"], name="children", index=[4, 5, 6])
    with pytest.raises(ValueError, match=r"'children' holds 'many' in row 5; expected a number"):
        check_finite(column, "Feature")


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.0, np.nan, 3.0]),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1, None, 3], dtype="int64[pyarrow]"),
        pd.Series(["1", None, "3"]),
        pd.Series([1, None, 3], dtype=object),
    ],
    ids=["float", "nullable", "arrow", "text", "object"],
)
def test_numbers_are_read_from_every_type_of_column(column: pd.Series) -> None:
    np.testing.assert_array_equal(check_finite(column, "Feature").to_numpy(), [1, np.nan, 3])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([1, 2]), ["1", "2"]),
        (pd.Series([1.0, 2.5]), ["1", "2.5"]),
        (pd.Series([True, False]), ["True", "False"]),
        (pd.Series([True, None], dtype=object), ["True", None]),
        (pd.Series([1, True, "1"], dtype=object), ["1", "True", "1"]),
        (pd.Series([1, None], dtype="Int64"), ["1", None]),
        (pd.Series(["b", "a"], dtype="category"), ["b", "a"]),
        (pd.Series(["None", None]), ["None", None]),
        (pd.Series([2**60 + 1, 2**60 + 3]), [str(2**60 + 1), str(2**60 + 3)]),
        (pd.Series([-0.0, 0.0]), ["0", "0"]),
    ],
    ids=["int", "float", "bool", "bool or none", "mixed", "nullable", "category", "none",
         "long identifiers", "zeros"],
)  # fmt: skip
def test_values_become_category_names(column: pd.Series, expected: list[object]) -> None:
    assert [None if pd.isna(v) else v for v in as_text(column)] == expected


@given(st.lists(st.one_of(st.integers(-5, 5), st.none()), min_size=1, max_size=20))
def test_a_category_has_one_name_whatever_the_type_of_its_column(values: list[int | None]) -> None:
    """Integers turn into floats when one is missing; the name must not."""
    expected = [None if v is None else str(v) for v in values]
    for dtype in ("float64", "Int64", "object"):
        column = pd.Series([np.nan if v is None else v for v in values], dtype="float64")
        column = pd.Series(values, dtype=dtype) if dtype != "float64" else column
        assert [None if pd.isna(v) else v for v in as_text(column)] == expected


def _tensors(n: int, first: int = 0, weights: bool = True, units: bool = True) -> TensorTable:
    rows = torch.arange(first, first + n, dtype=torch.float32)
    return TensorTable(
        rows[:, None],
        rows[:, None] * 10,
        rows[:, None].long(),
        rows + 1 if weights else None,
        np.arange(n) // 2 if units else None,
    )


def test_a_slice_and_a_list_of_rows_select_the_same() -> None:
    table = _tensors(6)
    a, b = table[1:4], table[[1, 2, 3]]
    assert torch.equal(a.features, b.features)
    assert a.units is not None
    assert b.units is not None
    assert a.units.tolist() == b.units.tolist() == [0, 1, 1]


def test_joined_tables_keep_rows_in_order_and_units_apart() -> None:
    table = TensorTable.joined([_tensors(4), _tensors(2, 4), _tensors(3, 6)])
    assert table.features[:, 0].tolist() == list(range(9))
    assert table.units is not None
    assert table.units.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert table.weights is not None
    assert table.weights.tolist() == [*range(1, 10)]


def test_joined_tables_drop_what_only_some_have() -> None:
    table = TensorTable.joined([_tensors(2), _tensors(2, weights=False, units=False)])
    assert table.weights is None
    assert table.units is None


def test_batches_hold_every_row_once_in_order() -> None:
    parts = [b["features"][:, 0] for b in _tensors(10).batches(4)]
    assert [len(p) for p in parts] == [4, 4, 2]
    assert torch.cat(parts).tolist() == list(range(10))
