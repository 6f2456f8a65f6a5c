"""The encoding of a table: fitted on training rows, the same for every later row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairmt.data import Schema, generate
from fairmt.data.schema import RARE, WIDEST, SchemaFit
from fairmt.tasks import Classification, Detection, Regression

N = 200


def _frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.normal(40, 10, N),
            "income": np.where(rng.random(N) < 0.3, np.nan, rng.normal(0, 1, N)),
            "city": rng.choice(["Oslo", "Bergen", "Moss"], N),
            "sex": rng.choice(["men", "women"], N),
            "job": rng.choice(["manual", "office", "lead"], N),
            "ill": rng.integers(0, 2, N).astype(float),
            "pay": rng.normal(100, 20, N),
        }
    )


TASKS = (Classification("job"), Detection("ill"), Regression("pay"))


def _schema(frame: pd.DataFrame | None = None, **settings: Any) -> Schema:
    settings = {"tasks": TASKS, "sensitive": ("sex",)} | settings
    return Schema.infer(_frame() if frame is None else frame, **settings)


def test_features_are_the_columns_without_another_role() -> None:
    schema = _schema(drop=("city",))
    assert schema.feature_names == ["age", "income"]


def test_numbers_are_numeric_and_everything_else_is_categorical() -> None:
    frame = _frame().assign(
        smokes=np.arange(N) % 2 == 0,
        smokes_or_unknown=[True, None] * (N // 2),
        when=pd.Timestamp("2020-01-01"),
    )
    schema = _schema(frame)
    assert [f.name for f in schema.numeric] == ["age", "income"]
    categorical = [f.name for f in schema.categorical]
    assert categorical == ["city", "smokes", "smokes_or_unknown", "when"]


def test_a_declared_kind_overrules_the_type() -> None:
    frame = _frame().assign(zip=np.arange(N) % 3)
    schema = _schema(frame, features={"age": "numeric", "zip": "categorical"})
    assert schema.categorical[0].categories == ("0", "1", "2")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Feature 'age': kind must be 'numeric', 'cat"):
        _schema(features={"age": "ordinal"})


def test_classes_centre_and_scale_are_taken_from_the_rows() -> None:
    frame = _frame()
    job, _ill, pay = _schema(frame).tasks
    assert job.outputs == ("lead", "manual", "office")
    assert isinstance(pay, Regression)
    assert pay.centre[0] == pytest.approx(frame["pay"].mean())
    assert pay.scale[0] == pytest.approx(frame["pay"].std(ddof=0))


def test_numeric_classes_are_in_the_order_of_their_values() -> None:
    frame = _frame().assign(job=np.arange(N) % 11)
    assert _schema(frame).tasks[0].outputs == tuple(str(k) for k in range(11))


def test_numeric_features_are_standardised_by_the_training_rows() -> None:
    frame = _frame()
    schema = _schema(frame)
    at = schema.input_names.index("age")
    x = schema.encode(frame).features[:, at]
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-5)
    other = schema.encode(frame.assign(age=frame["age"] + 7)).features[:, at]
    torch.testing.assert_close(other - x, torch.full((N,), 7 / frame["age"].std(ddof=0)))


def test_a_missing_number_becomes_the_mean_and_a_flag() -> None:
    frame = _frame()
    schema = _schema(frame)
    x = schema.encode(frame).features
    missing = torch.tensor(frame["income"].isna().tolist())
    value = x[:, schema.input_names.index("income")]
    flag = x[:, schema.input_names.index("income is missing")]
    assert value[missing].eq(0).all()
    assert torch.equal(flag.bool(), missing)


def test_a_number_that_never_lacked_in_training_has_no_flag_but_may_lack_later() -> None:
    frame = _frame()
    schema = _schema(frame)
    assert "age is missing" not in schema.input_names
    frame.loc[0, "age"] = np.nan
    assert schema.encode(frame).features[0, schema.input_names.index("age")] == 0


def test_categories_get_one_input_each() -> None:
    frame = _frame()
    schema = _schema(frame)
    names = [n for n in schema.input_names if n.startswith("city=")]
    assert names == ["city=Bergen", "city=Moss", "city=Oslo", "city=(other)"]
    start = schema.input_names.index(names[0])
    x = schema.encode(frame).features[:, start : start + 4]
    assert torch.equal(x.sum(1), torch.ones(N))
    assert torch.equal(x[:, 2].bool(), torch.tensor((frame["city"] == "Oslo").tolist()))


def test_unseen_and_rare_categories_are_other() -> None:
    frame = _frame()
    frame.loc[0, "city"] = "Halden"
    schema = _schema(frame)
    other = schema.input_names.index("city=(other)")
    assert schema.encode(frame).features[0, other] == 1
    later = _frame().assign(city="Rome")
    assert schema.encode(later).features[:, other].eq(1).all()


def test_a_missing_category_has_an_input_of_its_own() -> None:
    frame = _frame()
    frame.loc[:49, "city"] = None
    schema = _schema(frame)
    x = schema.encode(frame).features
    at = schema.input_names.index("city is missing")
    assert x[:, at].tolist() == [1.0] * 50 + [0.0] * (N - 50)
    assert x[:50, schema.input_names.index("city=(other)")].eq(0).all()


def test_the_word_none_is_encoded_as_a_category() -> None:
    frame = _frame().assign(city=["None"] * 100 + ["Oslo"] * 100)
    schema = _schema(frame)
    x = schema.encode(frame).features
    assert x[:100, schema.input_names.index("city=None")].eq(1).all()


def test_a_category_is_kept_from_the_stated_number_of_rows_on() -> None:
    n = 1000
    frame = pd.concat([_frame(s) for s in range(5)], ignore_index=True)
    frame["city"] = ["often"] * (n - 2 * RARE + 1) + ["just"] * RARE + ["rare"] * (RARE - 1)
    assert _schema(frame).categorical[0].categories == ("just", "often")


def test_no_feature_gets_more_inputs_than_the_limit() -> None:
    n = (WIDEST + 50) * RARE
    rows = pd.DataFrame({"zip": [f"z{k % (WIDEST + 50)}" for k in range(n)], "y": range(n)})
    rows["g"] = rows["y"] % 2
    schema = Schema.infer(rows, (Regression("y"),), ("g",))
    assert len(schema.categorical[0].categories) == WIDEST


def test_a_constant_feature_does_not_blow_up_on_other_values() -> None:
    frame = _frame().assign(age=0.1)
    schema = _schema(frame)
    x = schema.encode(frame.assign(age=0.2)).features[:, schema.input_names.index("age")]
    assert x.abs().max() < 1


def test_columns_may_stand_in_another_order_at_prediction() -> None:
    frame = _frame()
    schema = _schema(frame)
    torch.testing.assert_close(
        schema.encode(frame[frame.columns[::-1]]).features, schema.encode(frame).features
    )


def test_prediction_needs_neither_labels_nor_attributes() -> None:
    frame = _frame()
    schema = _schema(frame)
    bare = schema.encode(frame[["age", "income", "city"]], labels=False, attributes=False)
    assert torch.equal(bare.features, schema.encode(frame).features)
    assert bare.labels.isnan().all()
    assert bare.attributes.eq(-1).all()


def test_a_missing_feature_column_is_named_with_its_neighbours() -> None:
    schema = _schema()
    with pytest.raises(ValueError, match=r"no column 'age'. Did you mean \['ages'\]"):
        schema.encode(_frame().rename(columns={"age": "ages"}))


def test_an_infinite_feature_is_named_with_its_row() -> None:
    frame = _frame()
    frame.loc[17, "income"] = np.inf
    with pytest.raises(ValueError, match="Feature 'income' is infinite in row 17"):
        _schema(frame)


def test_rows_are_named_by_the_index_when_a_part_of_a_table_is_encoded() -> None:
    frame = _frame()
    schema = _schema(frame)
    frame.loc[150, "age"] = np.inf
    with pytest.raises(ValueError, match="in row 150"):
        schema.encode(frame.iloc[100:])


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_label_masks_are_never_inputs(missing: float) -> None:
    """Neither labels nor whether they are there may reach the model."""
    frame = _frame()
    schema = _schema(frame)
    hidden = frame.copy()
    rng = np.random.default_rng(1)
    for column in ("job", "ill", "pay"):
        hidden[column] = hidden[column].where(rng.random(N) >= missing)
    assert not any(c in n for n in schema.input_names for c in ("job", "ill", "pay"))
    assert _schema(hidden).input_names == schema.input_names
    assert torch.equal(schema.encode(hidden).features, schema.encode(frame).features)


def test_missing_labels_are_nan_entry_by_entry() -> None:
    frame = _frame()
    frame.loc[3, "pay"] = np.nan
    frame.loc[4, "job"] = None
    labels = _schema(frame).encode(frame).labels
    assert labels[3].isnan().sum() == 1
    assert labels[4].isnan().sum() == 1
    assert labels.isnan().sum() == 2


def test_labels_come_out_in_the_users_units() -> None:
    frame = _frame()
    schema = _schema(frame)
    from fairmt.tasks import Layout

    span = Layout(schema.tasks).labels["pay"]
    np.testing.assert_allclose(
        schema.encode(frame).labels[:, span].squeeze(1), frame["pay"], rtol=1e-6
    )


def test_a_column_cannot_be_label_and_feature() -> None:
    with pytest.raises(ValueError, match=r"Columns \['pay'\] are labels and features at once"):
        _schema(features=("age", "pay"))


@pytest.mark.parametrize("codes", [["men", "women"], [0, 1]], ids=["names", "codes"])
def test_an_attribute_is_no_feature_unless_that_is_said(codes: list[object]) -> None:
    frame = _frame().assign(sex=(codes * N)[:N])
    with pytest.raises(ValueError, match=r"Columns \['sex'\] are sensitive attributes and feat"):
        _schema(frame, features=("age", "sex"))
    schema = _schema(frame, features=("age", "sex"), attributes_as_inputs=True)
    assert f"sex={codes[0]}" in schema.input_names


def test_age_may_be_a_feature_beside_its_bands() -> None:
    schema = _schema(sensitive=("sex", "age"), features=("age",), bins={"age": (30, 50)})
    assert schema.input_names == ["age"]
    assert schema.groups.attributes[1].categories == ("below 30", "30 to 50", "50 and above")


def test_attributes_as_inputs_stand_at_the_end_and_are_zero_where_unknown() -> None:
    frame = _frame()
    schema = _schema(frame, attributes_as_inputs=True)
    assert schema.input_names[-2:] == ["sex=men", "sex=women"]
    frame.loc[0, "sex"] = None
    x = schema.encode(frame).features[:, -2:]
    assert x[0].tolist() == [0, 0]
    assert torch.equal(x[1:].sum(1), torch.ones(N - 1))


def test_without_any_feature_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="No feature is left"):
        _schema(drop=("age", "income", "city"))


def test_one_row_is_too_few_to_train_on() -> None:
    frame = _frame().iloc[:1]
    with pytest.raises(ValueError, match="at least two rows"):
        _schema(frame)


def test_weights_have_mean_one_in_the_rows_they_are_given_for() -> None:
    frame = _frame().assign(w=np.arange(N) + 1.0)
    weights = _schema(frame, weight="w").encode(frame).weights
    assert weights is not None
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "missing or negative in row 5"), (np.nan, "missing or negative in row 5")],
)
def test_a_bad_weight_is_named_with_its_row(value: float, message: str) -> None:
    frame = _frame().assign(w=1.0)
    frame.loc[5, "w"] = value
    with pytest.raises(ValueError, match=f"Weight column 'w' is {message}"):
        _schema(frame, weight="w").encode(frame)


def test_weights_that_are_all_zero_are_refused() -> None:
    frame = _frame().assign(w=0.0)
    with pytest.raises(ValueError, match="Every weight in column 'w' is zero"):
        _schema(frame, weight="w").encode(frame)


def test_rows_without_a_unit_are_units_of_their_own() -> None:
    frame = _frame().assign(home=np.arange(N) // 2 * 1.0)
    frame.loc[[0, 1, 7], "home"] = np.nan
    units = _schema(frame, split_by="home").encode(frame).units
    assert units is not None
    assert len(set(units[[0, 1, 7]])) == 3
    assert len(np.unique(units)) == N // 2 - 1 + 3
    assert units[2] == units[3]


def test_a_schema_survives_json() -> None:
    bundle = generate(500, seed=1)
    schema = Schema.infer(
        bundle.frame,
        bundle.tasks,
        (*bundle.sensitive, "x1"),
        features=dict(bundle.features),
        bins={"x1": (-1, 0.5)},
        depth=2,
        split_by="household",
    )
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    a, b = schema.encode(bundle.frame), again.encode(bundle.frame)
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.attributes, b.attributes)
    torch.testing.assert_close(a.labels, b.labels, equal_nan=True)


def test_a_schema_fitted_in_pieces_is_that_of_the_whole_table() -> None:
    frame = pd.concat([_frame(s) for s in range(6)], ignore_index=True)
    frame["years"] = np.random.default_rng(3).integers(1940, 2005, len(frame))
    sensitive = ("sex", "years")
    settings: dict[str, Any] = {"drop": ("city",)}
    whole = Schema.infer(frame, TASKS, sensitive, **settings)
    fit = SchemaFit(frame, TASKS, sensitive, **settings)
    for start in range(0, len(frame), 173):
        fit.add(frame.iloc[start : start + 173])
    pieces = fit.finish()
    assert pieces.groups == whole.groups
    assert pieces.categorical == whole.categorical
    assert [t.outputs for t in pieces.tasks] == [t.outputs for t in whole.tasks]
    for a, b in zip(pieces.numeric, whole.numeric, strict=True):
        assert (a.name, a.flag) == (b.name, b.flag)
        assert a.mean == pytest.approx(b.mean, rel=1e-12, abs=1e-12)
        assert a.sd == pytest.approx(b.sd, rel=1e-12)


def test_the_spread_of_large_numbers_in_pieces_is_exact() -> None:
    """Sums of raw squares would lose it."""
    frame = _frame().assign(age=1e9 + np.arange(N))
    fit = SchemaFit(frame, TASKS, ("sex",))
    for start in range(0, N, 7):
        fit.add(frame.iloc[start : start + 7])
    assert fit.finish().numeric[0].sd == pytest.approx(frame["age"].std(ddof=0), rel=1e-9)


def test_classes_of_rows_that_are_not_trained_on_can_be_named() -> None:
    frame = _frame()
    fit = SchemaFit(frame, TASKS, ("sex",))
    fit.add(frame)
    fit.add_classes(frame.head(3).assign(job="retired"))
    assert fit.finish().tasks[0].outputs == ("lead", "manual", "office", "retired")
