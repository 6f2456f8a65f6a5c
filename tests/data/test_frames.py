"""The many forms of X, y and attributes, and the words in which tasks are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairmt import FairMTLearner
from fairmt.data.labels import complete_task
from fairmt.frames import (
    Table,
    as_features,
    assemble,
    checked_parts,
    infer_task,
    labels_of,
    parse_task,
    row_index,
)
from fairmt.tasks import Classification, Detection, Regression, Task

N = 60
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(size=N),
        "city": RNG.choice(["a", "b"], N),
        "sex": RNG.choice(["men", "women"], N),
        "home": np.arange(N) // 2,
        "w": RNG.random(N) + 0.5,
        "job": RNG.choice(["lead", "office"], N),
        "ill": RNG.integers(0, 2, N),
        "pay": RNG.normal(size=N),
    }
)
TASKS = ["job:classification", "ill:detection", "pay:regression"]


def _assemble(
    X: Any,
    y: Any = None,
    *,
    sensitive_features: Any = None,
    sample_weight: Any = None,
    groups: Any = None,
    **settings: Any,
) -> Table:
    learner = FairMTLearner(**settings)
    return assemble(learner, X, y, sensitive_features, sample_weight, groups)


# -- naming tasks ---------------------------------------------------------------------------


def test_a_task_is_named_by_name_and_kind() -> None:
    assert parse_task("job:classification") == Classification("job")
    assert parse_task("ill:detection") == Detection("ill", ("ill",))
    assert parse_task("pay: Regression ") == Regression("pay")


def test_columns_stand_behind_the_kind() -> None:
    assert parse_task("job:classification:ESR").columns == ("ESR",)
    assert parse_task("help:detection:rent, food").outputs == ("rent", "food")
    assert parse_task("help:detection:rent, food").columns == ("rent", "food")
    assert parse_task("money:regression:pay,debt").outputs == ("pay", "debt")


@pytest.mark.parametrize(
    ("spec", "name", "columns"),
    [
        ('"a:b":regression', "a:b", ("a:b",)),
        ('"pay, net":regression', "pay, net", ("pay, net",)),
        ('pay.net:regression:"x.1"', "pay.net", ("x.1",)),
        ('help:detection:"rent, flat","a:b",plain', "help", ("rent, flat", "a:b", "plain")),
        ('"say ""hi""":regression', 'say "hi"', ('say "hi"',)),
        (' spaced :regression: "in side" ', "spaced", ("in side",)),
    ],
)
def test_double_quotes_protect_names(spec: str, name: str, columns: tuple[str, ...]) -> None:
    task = parse_task(spec)
    assert (task.name, task.columns) == (name, columns)


@given(
    st.lists(
        st.text(alphabet="ab:,.\" '", min_size=1).filter(lambda s: s == s.strip()),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_any_name_survives_quoting(names: list[str]) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    task = parse_task(f"{quoted(names[0])}:detection:{','.join(map(quoted, names))}")
    assert task.name == names[0]
    assert task.columns == tuple(names)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pay", "expected NAME:KIND"),
        ("pay:regression:a:b", "expected NAME:KIND"),
        ("pay:regresion", r"kind must be one of \['classification', .* Found 'regresion'"),
        ('"pay:regression', "Unbalanced double quote"),
        (":regression", "A task needs a name"),
        ("help:detection:a,,b", "a column without a name"),
        ("pay:regression:", "a column without a name"),
        ("job:classification:a,b", r"one column. Found \['a', 'b'\]"),
        ("help:detection:a,a", "not distinct"),
    ],
)
def test_a_task_that_is_misspelt_is_answered(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_task(spec)


def test_a_task_object_passes_through() -> None:
    task = Regression("pay", loss="huber")
    assert parse_task(task) is task


@pytest.mark.parametrize("name", ["tasks", "sensitive", "drop"])
def test_one_word_in_place_of_a_list_is_answered(name: str) -> None:
    settings: dict[str, Any] = {"tasks": TASKS, "sensitive": ["sex"]} | {name: "pay:regression"}
    with pytest.raises(ValueError, match=rf"{name} must be a list; write {name}=\['pay:regress"):
        _assemble(FRAME, **settings)


# -- reading tasks off the values -----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, 1.5, 2.25], "regression"),
        (list(range(100)), "regression"),
        ([0, 1, 2] * 20, "classification"),
        ([0.0, 1.0, np.nan], "classification"),
        ([True, False], "classification"),
        (["a", "b"], "classification"),
        ([1.5, np.nan], "regression"),
    ],
)
def test_the_kind_of_a_task_is_read_off_its_values(values: list[object], kind: str) -> None:
    assert infer_task(pd.Series(values, name="y")).kind == kind


# -- one frame ------------------------------------------------------------------------------


def test_one_frame_gives_every_column_without_a_role_as_a_feature() -> None:
    table = _assemble(FRAME, tasks=TASKS, sensitive=["sex"], split_by="home", weight="w")
    assert table.features == ["x", "city"]
    assert table.names_in == ["x", "city"]
    assert (table.weight, table.split_by, table.single) == ("w", "home", False)


@pytest.mark.parametrize("form", ["polars", "arrow", "csv", "path", "parquet"])
def test_one_frame_may_come_in_any_form(form: str, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    FRAME.to_parquet(tmp_path / "t.parquet")
    sources = {
        "polars": pl.from_pandas(FRAME),
        "arrow": pa.Table.from_pandas(FRAME),
        "csv": str(tmp_path / "t.csv"),
        "path": tmp_path / "t.csv",
        "parquet": tmp_path / "t.parquet",
    }
    table = _assemble(sources[form], tasks=TASKS, sensitive=["sex"], drop=["home", "w"])
    assert table.features == ["x", "city"]
    np.testing.assert_allclose(table.frame["pay"], FRAME["pay"])


def test_classes_are_named_from_all_rows() -> None:
    """A class with one row may fall outside the training part."""
    frame = FRAME.assign(job=["rare", *FRAME["job"][1:]])
    table = _assemble(frame, tasks=TASKS, sensitive=["sex"])
    assert table.tasks[0].outputs == ("lead", "office", "rare")


@pytest.mark.parametrize("role", ["weight", "split_by"])
def test_an_unknown_role_is_answered_with_the_nearest_names(role: str) -> None:
    with pytest.raises(ValueError, match=r"no column 'hom'. Did you mean \['home'\]"):
        _assemble(FRAME, tasks=TASKS, sensitive=["sex"], **{role: "hom"})


def test_passed_weights_and_groups_take_no_columns_place() -> None:
    frame = FRAME.rename(columns={"x": "groups", "city": "sample_weight"})
    table = _assemble(
        frame, tasks=TASKS, sensitive=["sex"], sample_weight=np.ones(N), groups=np.arange(N)
    )
    assert table.frame["groups"].equals(FRAME["x"].rename("groups"))
    assert table.weight not in frame
    assert table.split_by not in frame
    assert table.features == ["groups", "sample_weight", "home", "w"]


def test_without_tasks_and_labels_there_is_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match="Name the tasks"):
        _assemble(FRAME)
    with pytest.raises(ValueError, match="requires y to be passed"):
        _assemble(FRAME[["x"]].to_numpy())


# -- X and y --------------------------------------------------------------------------------


def test_an_array_y_is_one_task_and_predictions_are_an_array() -> None:
    table = _assemble(
        FRAME[["x"]].to_numpy(), FRAME["pay"].to_numpy(), sensitive_features=FRAME["sex"]
    )
    assert table.single
    assert table.tasks == (Regression("y"),)
    assert table.sensitive == ("sex",)
    assert table.names_in is None


def test_a_matrix_y_is_a_task_per_column() -> None:
    y = np.column_stack([FRAME["ill"], FRAME["pay"]])
    table = _assemble(FRAME[["x"]], y)
    assert [(t.name, t.kind) for t in table.tasks] == [
        ("y0", "classification"),
        ("y1", "regression"),
    ]


def test_a_frame_y_keeps_its_names() -> None:
    table = _assemble(FRAME[["x", "city"]], FRAME[["job", "pay"]])
    assert [t.name for t in table.tasks] == ["job", "pay"]
    assert table.features == ["x", "city"]


def test_a_mapping_names_columns_or_tasks() -> None:
    tasks = [Detection("help", ("rent", "food")), Classification("job", columns=("ESR",))]
    help_, job = FRAME[["ill", "ill"]].to_numpy(), FRAME["job"].to_numpy()
    table = _assemble(FRAME[["x"]], {"help": help_, "job": job}, tasks=tasks)
    assert {"rent", "food", "ESR"} <= set(table.frame.columns)
    by_column = _assemble(
        FRAME[["x"]], {"rent": help_[:, 0], "food": help_[:, 1], "ESR": job}, tasks=tasks
    )
    pd.testing.assert_frame_equal(table.frame, by_column.frame)


def test_a_mapping_with_too_few_columns_for_its_task_is_answered() -> None:
    tasks = [Detection("help", ("rent", "food"))]
    with pytest.raises(ValueError, match=r"y\['help'\] has 1 columns; task 'help' has 2"):
        _assemble(FRAME[["x"]], {"help": FRAME["ill"].to_numpy()}, tasks=tasks)


def test_columns_with_a_role_are_not_features() -> None:
    X = FRAME[["x", "city", "sex", "home", "w"]]
    table = _assemble(X, FRAME[["pay"]], sensitive=["sex"], split_by="home", weight="w")
    assert table.features == ["x", "city"]


def test_a_column_in_both_x_and_y_is_refused() -> None:
    with pytest.raises(ValueError, match="'pay' stands in both X and y"):
        _assemble(FRAME[["x", "pay"]], FRAME["pay"])


def test_an_attribute_in_x_and_beside_it_must_be_the_same() -> None:
    X = FRAME[["x", "city"]]
    bands = FRAME["city"].map({"a": "north", "b": "south"})
    with pytest.raises(ValueError, match="'city' stands in X and in sensitive_features with diff"):
        _assemble(X, FRAME["pay"], sensitive_features={"city": bands}, features=["x", "city"])
    table = _assemble(X, FRAME["pay"], sensitive_features=X[["city"]], features=["x", "city"])
    assert table.sensitive == ("city",)


@pytest.mark.parametrize("given_as", ["series", "mapping", "array", "frame"])
def test_attributes_may_come_in_any_form(given_as: str) -> None:
    sex = FRAME["sex"]
    forms: dict[str, Any] = {
        "series": sex,
        "mapping": {"sex": sex.to_numpy()},
        "array": sex.to_numpy(),
        "frame": sex.to_frame(),
    }
    table = _assemble(
        FRAME[["x"]].to_numpy(), FRAME["pay"], sensitive=["sex"], sensitive_features=forms[given_as]
    )
    assert table.sensitive == ("sex",)
    assert table.frame["sex"].tolist() == sex.tolist()


def test_rows_are_matched_by_place_and_not_by_index() -> None:
    y = FRAME["pay"].iloc[::-1]
    table = _assemble(FRAME[["x"]], y, sensitive_features=FRAME["sex"].iloc[::-1])
    np.testing.assert_array_equal(table.frame["pay"], y)
    assert table.frame["sex"].tolist() == FRAME["sex"].tolist()[::-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": np.zeros(N - 1)}, "X has 60 rows, y 59"),
        ({"sensitive_features": np.zeros(N - 1)}, "X has 60 rows, sensitive_features 59"),
        ({"sample_weight": np.ones(N - 1)}, r"sample_weight must be \(60,\). Found shape \(59,\)"),
        ({"groups": np.ones((N, 2))}, r"groups must be \(60,\). Found shape \(60, 2\)"),
        ({"y": np.zeros((N, 2, 2))}, r"y must be \(N,\) or \(N, K\)"),
        ({"y": {"a": np.zeros(N), "b": np.zeros(3)}}, "samples in y: {'a': 60, 'b': 3}"),
        ({"y": np.full(N, np.inf)}, "y contains infinity"),
        ({"sensitive": ["race"]}, r"attributes \['race'\] are neither in X nor passed"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    given = {"y": FRAME["pay"].to_numpy()} | arguments
    with pytest.raises(ValueError, match=message):
        _assemble(FRAME[["x"]], **given)


# -- parts of one's own ---------------------------------------------------------------------

NAMES = ("train", "calibration", "validation")


def test_parts_may_be_positions_or_masks() -> None:
    found = checked_parts(
        {"train": [0, 1], "calibration": np.array([2]), "validation": np.arange(5) == 4}, NAMES, 5
    )
    assert [found[name].tolist() for name in NAMES] == [[0, 1], [2], [4]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"calibration": None}, r"parts lacks 'calibration'; found \['train', 'validation'\]"),
        ({"calibration": []}, r"parts\['calibration'\] must hold row positions from 0 to 9"),
        ({"validation": [3, 10]}, r"parts\['validation'\] must hold row positions from 0 to 9"),
        ({"validation": [-1]}, r"parts\['validation'\] must hold row positions"),
        ({"validation": ["a"]}, r"parts\['validation'\] must hold row positions"),
        ({"validation": [5, 1]}, "Row 1 stands in 'train' and in 'validation'"),
    ],
)
def test_parts_that_cannot_be_are_named(parts: dict[str, Any], message: str) -> None:
    given = {"train": [0, 1, 2], "calibration": [3], "validation": [4]} | parts
    given = {name: rows for name, rows in given.items() if rows is not None}
    with pytest.raises(ValueError, match=message):
        checked_parts(given, NAMES, 10)


# -- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (Classification("t"), [None] * 4, "Task 't' has no observed label"),
        (Classification("t"), ["a", None, "a", "a"], "Task 't' has one class only, 'a'"),
        (Classification("t"), [f"c{k}" for k in range(300)], "Task 't' has 300 classes, more than"),
        (Classification("t", ("a", "b")), ["a", "b", "c", "a"], "row 2 has the class 'c'"),
        (Classification("t", ("a", "b")), ["a", "a", None, "a"], "'t' has one value only"),
        (Detection("t", ("t",)), [np.nan] * 4, "Task 't' has no observed label"),
        (Detection("t", ("t",)), [1, 1, None, 1], "Task 't' has one value only"),
        (Detection("t", ("t",)), [0, 1, 2, 0], "label 't' holds '2' in row 2; detection labels"),
        (Detection("t", ("t",)), ["yes", "no", "maybe", "no"], "holds 'maybe' in row 2"),
        (Regression("t"), [None] * 4, "Task 't' has no observed label"),
        (Regression("t"), [3.0, 3.0, np.nan, 3.0], "Task 't' has one value only"),
        (Regression("t"), [1.0, 2.0, np.inf, 0.0], "Task 't': target 't' is infinite in row 2"),
        (Regression("t"), ["1", "2", "much", "0"], "holds 'much' in row 2; expected a number"),
    ],
)
def test_labels_that_cannot_be_learnt_are_named(
    task: Task, values: list[object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        complete_task(task, pd.DataFrame({"t": values}))


def test_one_output_of_several_is_named() -> None:
    frame = pd.DataFrame({"a": [0, 1, 0], "b": [1, 1, np.nan]})
    with pytest.raises(ValueError, match="Task 'help', output 'b', has one value only"):
        complete_task(Detection("help", ("a", "b")), frame)


@pytest.mark.parametrize(
    "values", [[True, False], ["yes", "no"], ["T", "F"], [1.0, 0.0], ["y", "n"]]
)
def test_detection_labels_may_be_words(values: list[object]) -> None:
    frame = pd.DataFrame({"t": [*values, None]})
    if values == ["T", "F"]:
        with pytest.raises(ValueError, match="holds 'T' in row 0"):
            complete_task(Detection("t", ("t",)), frame)
    else:
        complete_task(Detection("t", ("t",)), frame)


def _fitted(*tasks: Task, names: list[str] | None = None, width: int = 2) -> Any:
    """What `as_features` and `labels_of` look at of a fitted learner."""
    learner = FairMTLearner()
    learner.model_ = torch.nn.Identity()  # type: ignore[assignment]
    learner.schema_ = SimpleNamespace(tasks=tasks)  # type: ignore[assignment]
    learner.n_features_in_ = width
    if names is not None:
        learner.feature_names_in_ = np.asarray(names, dtype=object)
    return learner


def test_labels_come_packed_in_the_order_of_the_layout() -> None:
    learner = _fitted(Regression("pay"), Classification("job", ("lead", "office")))
    labels = labels_of(learner, FRAME, None)
    np.testing.assert_allclose(labels[:, 0], FRAME["pay"], rtol=1e-6)
    assert labels[:, 1].tolist() == (FRAME["job"] == "office").astype(float).tolist()


def test_the_labels_of_one_task_may_have_any_name() -> None:
    learner = _fitted(Regression("y"))
    for y in (FRAME["pay"], FRAME["pay"].to_numpy(), FRAME["pay"].tolist()):
        np.testing.assert_allclose(labels_of(learner, None, y)[:, 0], FRAME["pay"], rtol=1e-6)


def test_labels_may_be_given_by_task() -> None:
    learner = _fitted(Detection("help", ("rent", "food")), Regression("pay"))
    help_ = FRAME[["ill", "ill"]].to_numpy()
    labels = labels_of(learner, None, {"help": help_, "pay": FRAME["pay"].to_numpy()})
    np.testing.assert_allclose(labels[:, :2], help_)


def test_labels_that_are_absent_are_named() -> None:
    with pytest.raises(ValueError, match="no column 'pay'"):
        labels_of(_fitted(Regression("pay")), FRAME.drop(columns="pay"), None)


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (Classification("t", ("a", "b")), ["a", "z"], r"row 1 has the class 'z', expected one of"),
        (Detection("t", ("t",)), [1, 7], "holds '7' in row 1"),
        (Regression("t"), [1.0, -np.inf], "infinite in row 1"),
    ],
)
def test_labels_of_the_wrong_kind_are_named_with_their_row(
    task: Task, values: list[object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        labels_of(_fitted(task), pd.DataFrame({"t": values}), None)


# -- X at prediction ------------------------------------------------------------------------


def test_an_array_is_named_by_place_after_a_frame() -> None:
    frame = as_features(_fitted(names=["a", "b"]), np.ones((3, 2)))
    assert list(frame.columns) == ["a", "b"]


def test_a_frame_is_read_by_place_after_an_array() -> None:
    frame = as_features(_fitted(), pd.DataFrame({"p": [1.0, 2.0], "q": [3.0, 4.0]}))
    assert list(frame.columns) == ["x0", "x1"]
    assert frame["x1"].tolist() == [3.0, 4.0]


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="X has 3 features, but FairMTLearner is expecting 2"):
        as_features(_fitted(), np.ones((2, 3)))


def test_a_path_is_read(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    frame = as_features(_fitted(names=["x"]), str(tmp_path / "t.csv"))
    np.testing.assert_allclose(frame["x"], FRAME["x"])


def test_predictions_carry_the_index_of_a_frame_and_of_nothing_else() -> None:
    assert row_index(FRAME.iloc[5:8]).tolist() == [5, 6, 7]  # type: ignore[union-attr]
    assert row_index([[1.0, 2.0]]) is None
    assert row_index(pl.DataFrame({"a": [1]})) is None
