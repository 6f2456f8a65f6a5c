"""Sensitive attributes as numbers: declared, standardised, carried with the rows, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairmt.data import ParquetTable, Schema, TensorTable
from fairmt.streaming import ParquetSource
from fairmt.tasks import Regression

N = 120
SENSITIVE = ("sex", "age", "income")


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.normal(40, 10, N).round(1)
    age[:10] = np.nan
    return pd.DataFrame(
        {
            "x": rng.normal(size=N),
            "sex": rng.choice(["men", "women"], N),
            "age": age,
            "income": rng.integers(10, 99, N),
            "pay": rng.normal(100, 20, N),
        }
    )


def _schema(continuous: Any = ("age",), **settings: Any) -> Schema:
    settings = {"features": ["x"]} | settings
    return Schema.infer(_frame(), [Regression("pay")], SENSITIVE, continuous=continuous, **settings)


def _values(table: TensorTable) -> torch.Tensor:
    assert table.values is not None
    return table.values


def test_values_are_standardised_by_the_training_rows() -> None:
    frame, schema = _frame(), _schema()
    values = _values(schema.encode(frame))
    assert values.shape == (N, 3)
    assert values.dtype == torch.float32
    expected = (frame["age"] - frame["age"].mean()) / frame["age"].std(ddof=0)
    np.testing.assert_allclose(values[:, 1].numpy(), expected.to_numpy(), rtol=1e-5, atol=1e-6)
    # Later rows are put on the scale of the training rows.
    older = _values(schema.encode(frame.assign(age=frame["age"] + 10)))
    shift = older[10:, 1] - values[10:, 1]
    np.testing.assert_allclose(shift.numpy(), 10 / frame["age"].std(ddof=0), rtol=1e-4)


def test_missing_and_undeclared_attributes_are_nan() -> None:
    values = _values(_schema().encode(_frame()))
    assert bool(values[:10, 1].isnan().all())
    assert not bool(values[10:, 1].isnan().any())
    assert bool(values[:, [0, 2]].isnan().all())


def test_without_a_declaration_there_are_no_values() -> None:
    table = _schema(()).encode(_frame())
    assert table.values is None
    assert "values" not in table.batch(slice(0, 5))


def test_a_continuous_attribute_is_still_judged_in_bands() -> None:
    one, two = _schema(()), _schema(("age", "income"))
    assert one.groups == two.groups
    assert two.groups.attributes[1].edges
    assert torch.equal(one.encode(_frame()).attributes, two.encode(_frame()).attributes)


def test_values_go_with_their_rows() -> None:
    table = _schema(("income",)).encode(_frame())
    values = _values(table)
    rows = [5, 3, 50]
    assert torch.equal(_values(table[rows])[:, 2], values[rows, 2])
    assert torch.equal(_values(table[2:9])[:, 2], values[2:9, 2])
    assert torch.equal(table.batch(torch.tensor(rows))["values"][:, 2], values[rows, 2])
    batches = [b["values"][:, 2] for b in table.batches(50)]
    assert torch.equal(torch.cat(batches), values[:, 2])
    assert torch.equal(_values(table[:4].join(table[7:9]))[:, 2], values[[0, 1, 2, 3, 7, 8], 2])


def test_joined_tables_drop_values_that_only_some_have() -> None:
    one, two = _schema().encode(_frame()), _schema(()).encode(_frame())
    assert one.join(two).values is None


def test_rows_encoded_without_attributes_have_no_values() -> None:
    frame = _frame().drop(columns=list(SENSITIVE))
    assert _schema().encode(frame, labels=False, attributes=False).values is None


def test_a_schema_comes_back_from_json() -> None:
    schema = _schema(("age", "income"))
    config = json.loads(json.dumps(schema.to_dict()))
    assert Schema.from_dict(config) == schema
    assert Schema.from_dict(config).continuous == schema.continuous
    del config["continuous"]  # as saved before there were any
    assert Schema.from_dict(config).continuous == ()


@pytest.mark.parametrize(
    ("continuous", "message"),
    [
        (("x",), "continuous names 'x', which is not among the sensitive attributes"),
        (("sex",), "continuous names 'sex', whose column holds .*; expected numbers"),
        ("age", r"continuous must be a list; write continuous=\['age'\]"),
    ],
    ids=["not sensitive", "text", "no list"],
)
def test_what_cannot_be_a_number_is_refused(continuous: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _schema(continuous)


def test_infinite_values_are_refused_by_row() -> None:
    frame = _frame()
    frame.loc[17, "age"] = np.inf
    with pytest.raises(ValueError, match="Sensitive attribute 'age' is infinite in row 17"):
        _schema().encode(frame)


def test_streamed_rows_have_the_values_of_rows_in_memory(tmp_path: Path) -> None:
    frame = _frame().assign(row=np.arange(N, dtype=float))
    frame.to_parquet(tmp_path / "rows.parquet")
    table = ParquetTable(tmp_path / "rows.parquet", fractions=(0.7, 0.1, 0.1, 0.1))
    schema = Schema.infer(
        frame, [Regression("pay")], SENSITIVE, features=["row"], continuous=("age",)
    )
    feature = schema.numeric[0]
    expected = _values(schema.encode(frame))[:, 1]
    for batch in ParquetSource(table, schema, batch_size=16).batches(0):
        rows = (batch["features"][:, 0] * feature.sd + feature.mean).round().long()
        assert torch.equal(batch["values"][:, 1].nan_to_num(9), expected[rows].nan_to_num(9))
