"""Parquet that need not fit into memory: parts by unit, batches by row group, one pass to fit."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fairmt import FairMTLearner, generate
from fairmt.data import LeakageError, ParquetTable, Schema
from fairmt.data.split import PARTS
from fairmt.groups import Groups
from fairmt.history import DecayedMoments
from fairmt.methods import Plain
from fairmt.models import MLP, LinearHeads, MultiTask
from fairmt.streaming import ParquetSource, open_stream
from fairmt.tasks import Layout
from fairmt.trainer import Segment, Trainer

N = 2400


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    frame = generate(N, seed=5).frame
    return frame.assign(row=np.arange(N).astype(float), w=1.0 + np.arange(N) % 3)


@pytest.fixture
def folder(people: pd.DataFrame, tmp_path: Path) -> Path:
    """Three files of unequal length with row groups of 170 rows."""
    for k, (start, stop) in enumerate([(0, 900), (900, 1000), (1000, N)]):
        people.iloc[start:stop].to_parquet(
            tmp_path / f"part-{k}.parquet", row_group_size=170, index=False
        )
    return tmp_path


def _table(path: Path, **settings: Any) -> ParquetTable:
    return ParquetTable(path, **{"split_by": "household", "buffer_rows": 256} | settings)


def _source(table: ParquetTable, batch_size: int = 37, **settings: Any) -> ParquetSource:
    """A source whose only feature is the row's number, unscaled."""
    frame = table.frame("validation")
    bundle = generate(10)
    schema = Schema.infer(frame, bundle.tasks, bundle.sensitive, features=["row"])
    raw = schema.numeric[0]
    plain = type(raw)(raw.name, 0.0, 1.0, False)
    schema = Schema(schema.tasks, schema.groups, (plain,), ())
    return ParquetSource(table, schema, batch_size, **settings)


def _rows(batches: Iterator[dict[str, Any]]) -> list[list[int]]:
    return [b["features"][:, 0].long().tolist() for b in batches]


# -- parts ----------------------------------------------------------------------------------


def test_the_parts_cover_every_row_once(folder: Path, people: pd.DataFrame) -> None:
    table = _table(folder)
    frames = {part: table.frame(part) for part in PARTS}
    assert {part: len(f) for part, f in frames.items()} == table.rows
    together = pd.concat(frames.values())
    assert sorted(together["row"]) == people["row"].tolist()
    assert list(together.columns) == list(people.columns)


def test_no_unit_is_torn_apart(folder: Path) -> None:
    table = _table(folder)
    homes = [set(table.frame(part, ["household"])["household"]) for part in PARTS]
    assert sum(map(len, homes)) == len(set().union(*homes))


def test_the_parts_have_their_shares(folder: Path) -> None:
    table = _table(folder, fractions=(0.5, 0.1, 0.15, 0.25))
    shares = np.array(list(table.rows.values())) / N
    np.testing.assert_allclose(shares, [0.5, 0.1, 0.15, 0.25], atol=0.01)


def test_no_held_out_part_is_larger_than_the_limit(folder: Path) -> None:
    table = _table(folder, held_out=50)
    assert all(40 < table.rows[part] <= 50 for part in PARTS[1:])
    assert sum(table.rows.values()) == N


def test_the_parts_do_not_depend_on_how_the_files_are_cut(
    folder: Path, people: pd.DataFrame, tmp_path: Path
) -> None:
    three = _table(folder)
    people.to_parquet(tmp_path / "one.pq", row_group_size=1000)
    one = _table(tmp_path / "one.pq")
    for part in PARTS:
        a, b = three.frame(part, ["row"]), one.frame(part, ["row"])
        assert a["row"].tolist() == b["row"].tolist()


def test_the_parts_do_not_depend_on_the_order_of_the_rows(
    people: pd.DataFrame, tmp_path: Path
) -> None:
    people.to_parquet(tmp_path / "a.parquet")
    people.sample(frac=1, random_state=0).to_parquet(tmp_path / "b.parquet")
    found = [set(_table(tmp_path / f"{k}.parquet").frame("test")["row"]) for k in "ab"]
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["float64", "Int64", "str", "category"])
def test_the_parts_do_not_depend_on_the_type_of_the_unit(
    people: pd.DataFrame, tmp_path: Path, dtype: str
) -> None:
    people.to_parquet(tmp_path / "a.parquet")
    people.astype({"household": dtype}).to_parquet(tmp_path / "b.parquet")
    found = [
        ParquetTable(tmp_path / f"{k}.parquet", split_by="household").frame("test")["row"].tolist()
        for k in "ab"
    ]
    assert found[0] == found[1]


def test_another_seed_gives_other_parts(folder: Path) -> None:
    a, b, c = (_table(folder, seed=s).frame("test", ["row"]) for s in (0, 0, 1))
    assert a.equals(b)
    assert not a.equals(c)


def test_rows_without_a_unit_do_not_stay_together(people: pd.DataFrame, tmp_path: Path) -> None:
    people.assign(household=None).to_parquet(tmp_path / "t.parquet")
    table = ParquetTable(tmp_path / "t.parquet", split_by="household")
    assert table.rows["test"] == pytest.approx(0.2 * N, abs=5)


def test_without_a_unit_rows_are_divided_one_by_one(folder: Path) -> None:
    table = ParquetTable(folder)
    assert table.rows == {"train": 1440, "calibration": 240, "validation": 240, "test": 480}


def test_a_folder_named_by_a_value_adds_a_column(people: pd.DataFrame, tmp_path: Path) -> None:
    for state, rows in (("HI", people.head(1000)), ("NM", people.tail(1400))):
        (tmp_path / f"state={state}").mkdir()
        rows.to_parquet(tmp_path / f"state={state}" / "t.parquet")
    table = ParquetTable(tmp_path, split_by="household")
    train = table.frame("train", ["state", "row"])
    assert set(train["state"]) == {"HI", "NM"}
    assert train.loc[train["row"] < 1000, "state"].eq("HI").all()
    by_state = ParquetTable(tmp_path, split_by="state", fractions=(0.4, 0, 0, 0.6))
    assert sorted((by_state.rows["train"], by_state.rows["test"])) == [1000, 1400]


def test_frames_are_indexed_by_file_and_row(folder: Path, people: pd.DataFrame) -> None:
    frame = _table(folder).frame("test", ["row"])
    start = {"part-0.parquet": 0, "part-1.parquet": 900, "part-2.parquet": 1000}
    for (file, row), number in frame["row"].items():  # type: ignore[misc]
        assert start[file] + row == number
    single = _table(folder / "part-2.parquet").frame("test", ["row"])
    assert (single.index + 1000).tolist() == single["row"].tolist()


# -- what cannot be read --------------------------------------------------------------------


def test_a_truncated_file_is_named(folder: Path) -> None:
    damaged = folder / "part-1.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"Cannot read '.*part-1\.parquet'"):
        _table(folder)


def test_a_damaged_page_is_named_when_it_is_read(folder: Path) -> None:
    damaged = folder / "part-1.parquet"
    content = bytearray(damaged.read_bytes())
    content[4:2000] = b"\xff" * 1996
    damaged.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"Cannot read '.*part-1\.parquet'"):
        _table(folder).frame("train")


def test_a_file_that_lacks_a_column_is_named(folder: Path, people: pd.DataFrame) -> None:
    people.head(50).drop(columns="x3").to_parquet(folder / "part-9.parquet")
    with pytest.raises(ValueError, match=r"part-9\.parquet': no column \['x3'\]"):
        _table(folder)


def test_a_column_of_another_type_is_named(folder: Path, people: pd.DataFrame) -> None:
    people.head(50).assign(x3="many").to_parquet(folder / "part-9.parquet")
    with pytest.raises(ValueError, match=r"Cannot read '.*part-9\.parquet'.*many"):
        _table(folder).frame("train")


def test_a_folder_without_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    with pytest.raises(FileNotFoundError, match=r"ends in \.parquet"):
        ParquetTable(tmp_path)
    with pytest.raises(FileNotFoundError, match="No table at"):
        ParquetTable(tmp_path / "none")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        ParquetTable(tmp_path / "t.parquet")


def test_too_few_units_cannot_fill_the_parts(people: pd.DataFrame, tmp_path: Path) -> None:
    people.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"cannot fill the parts .*too few units \(split_by\)"):
        ParquetTable(tmp_path / "t.parquet", split_by="sex")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by": "houshold"}, r"no column 'houshold'. Did you mean \['household'\]"),
        ({"fractions": (0.5, 0.5)}, "fractions must be four shares"),
        ({"held_out": 0}, "held_out must be at least 1. Found 0"),
        ({"lanes": 0}, "lanes must lie between 1 and buffer_rows, 256. Found 0"),
        ({"lanes": 300}, "lanes must lie between 1 and buffer_rows, 256. Found 300"),
    ],
)
def test_bad_settings_are_named(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _table(folder, **settings)


# -- batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 5, 64])
@pytest.mark.parametrize("buffer_rows", [64, 256, 100_000])
def test_every_training_row_is_seen_once_an_epoch(
    folder: Path, lanes: int, buffer_rows: int
) -> None:
    table = _table(folder, lanes=lanes, buffer_rows=buffer_rows)
    source = _source(table)
    expected = sorted(table.frame("train", ["row"])["row"].astype(int))
    batches = _rows(source.batches(0))
    assert sorted(row for batch in batches for row in batch) == expected
    assert len(batches) == source.n_batches == -(-len(expected) // 37)
    assert {len(b) for b in batches} <= {36, 37}


def test_epochs_and_seeds_have_orders_of_their_own(folder: Path) -> None:
    table = _table(folder)
    first = _rows(_source(table).batches(0))
    assert _rows(_source(table).batches(0)) == first
    assert _rows(_source(table).batches(1)) != first
    assert _rows(_source(table, seed=1).batches(0)) != first


@pytest.mark.parametrize(("lanes", "buffer_rows"), [(1, 64), (2, 256), (3, 500)])
def test_a_run_goes_on_in_the_middle_of_an_epoch_bitwise(
    folder: Path, lanes: int, buffer_rows: int
) -> None:
    source = _source(_table(folder, lanes=lanes, buffer_rows=buffer_rows))
    whole = list(source.batches(3))
    for start in (1, 2, 9, 16, len(whole) - 1, len(whole)):
        rest = list(source.batches(3, start))
        assert len(rest) == len(whole) - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert a.keys() == b.keys()
            for key in a:
                assert torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)), key


def test_processes_share_every_batch(folder: Path) -> None:
    source = _source(_table(folder))
    whole = _rows(source.batches(0))
    shares = [_rows(source.batches(0, rank=r, world=3)) for r in range(3)]
    for i, batch in enumerate(whole):
        assert sorted(shares[0][i] + shares[1][i] + shares[2][i]) == sorted(batch)


def test_rows_of_several_places_meet_in_a_batch(folder: Path) -> None:
    """170 rows a group: without lanes a buffer of 64 rows would hold one place only."""
    for lanes, places in ((1, 2), (4, 4)):
        source = _source(_table(folder / "part-2.parquet", lanes=lanes, buffer_rows=64), 64)
        groups = [len({(row - 1000) // 170 for row in batch}) for batch in _rows(source.batches(0))]
        assert max(groups) <= 2 * places
        assert np.mean(groups[:8]) >= (places if lanes > 1 else 1)


def test_a_batch_is_what_encoding_its_rows_in_memory_gives(
    folder: Path, people: pd.DataFrame
) -> None:
    table = _table(folder)
    bundle = generate(10)
    train = table.frame("train")
    schema = Schema.infer(
        train, bundle.tasks, bundle.sensitive, features=[*bundle.features, "row"], weight="w"
    )
    source = ParquetSource(table, schema, 50, mean_weight=float(train["w"].mean()))
    at = schema.input_names.index("row")
    number = schema.numeric[-1]
    whole = schema.encode(people, mean_weight=float(train["w"].mean()))
    seen = 0.0
    for batch in source.batches(0):
        rows = (batch["features"][:, at].double() * number.sd + number.mean).round().long()
        expected = whole.batch(rows)
        for key in ("features", "labels", "attributes", "weights"):
            torch.testing.assert_close(batch[key], expected[key], equal_nan=True)
        seen += float(batch["weights"].sum())
    assert seen / table.rows["train"] == pytest.approx(1, abs=1e-5)


def test_a_table_that_changed_meanwhile_is_noticed(folder: Path, people: pd.DataFrame) -> None:
    source = _source(_table(folder))
    people.iloc[1000:N].assign(household=7).to_parquet(
        folder / "part-2.parquet", row_group_size=170, index=False
    )
    with pytest.raises(ValueError, match="has changed since it was opened"):
        list(source.batches(0))


@pytest.mark.parametrize("rows", [100, 20])
def test_a_table_that_became_shorter_is_noticed(
    folder: Path, people: pd.DataFrame, rows: int
) -> None:
    """Fewer rows in a row group, or fewer row groups."""
    table = _table(folder)
    file = folder / "part-2.parquet"
    people.tail(10 * rows).to_parquet(file, row_group_size=rows, index=False)
    with pytest.raises(ValueError, match=r"Cannot read '.*part-2\.parquet'"):
        table.frame("train", ["row"])


def test_unknown_columns_and_parts_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'rows'. Did you mean \['row'\]"):
        _table(folder).frame("test", ["rows"])
    with pytest.raises(ValueError, match="Unknown part 'tests'; expected one of"):
        _table(folder).frame("tests")


# -- fitting in one pass --------------------------------------------------------------------


def _learner(**settings: Any) -> FairMTLearner:
    bundle = generate(10)
    usual = bundle.learner_settings() | {"epochs": 1, "path_epochs": 1, "batch_size": 64}
    return FairMTLearner(**usual | settings)


def test_an_epoch_of_a_stream_is_that_of_its_rows_and_not_of_the_sample(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of FairMT is at most an epoch old, and the training table is a sample here."""
    epochs: list[float] = []
    set_epoch = DecayedMoments.set_epoch

    def noted(self: DecayedMoments, n_batches: float) -> None:
        epochs.append(n_batches)
        set_epoch(self, n_batches)

    monkeypatch.setattr("fairmt.streaming.SAMPLE", 100)
    monkeypatch.setattr(DecayedMoments, "set_epoch", noted)
    table = _table(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _learner().fit(table)
    assert np.mean(epochs) == pytest.approx(table.rows["train"] / 64, rel=0.1)


def test_the_schema_of_one_pass_is_that_of_the_training_rows(folder: Path) -> None:
    table = _table(folder)
    learner = _learner(sensitive=("sex", "origin", "row"))
    stream = open_stream(learner, table, {})
    whole = Schema.infer(
        table.frame("train"),
        generate(10).tasks,
        ("sex", "origin", "row"),
        features=learner.features,
        split_by="household",
    )
    assert stream.schema.groups == whole.groups
    assert stream.schema.categorical == whole.categorical
    for a, b in zip(stream.schema.numeric, whole.numeric, strict=True):
        assert (a.name, a.flag) == (b.name, b.flag)
        assert (a.mean, a.sd) == pytest.approx((b.mean, b.sd), rel=1e-10, abs=1e-12)
    income, expected = stream.schema.tasks[2], whole.tasks[2]
    assert income.centre == pytest.approx(expected.centre)  # type: ignore[attr-defined]
    assert income.scale == pytest.approx(expected.scale)  # type: ignore[attr-defined]


def test_held_out_rows_are_kept_whole(folder: Path) -> None:
    table = _table(folder)
    stream = open_stream(_learner(), table, {})
    for part in ("calibration", "validation"):
        expected = stream.schema.encode(table.frame(part))
        assert torch.equal(stream.tables[part].features, expected.features)
        assert np.array_equal(stream.tables[part].units, expected.units)  # type: ignore[arg-type]
    assert len(stream.tables["train"]) == table.rows["train"]


def test_by_default_every_column_without_a_role_is_a_feature(folder: Path) -> None:
    stream = open_stream(_learner(features=None, drop=["w"], split_by=None), _table(folder), {})
    assert stream.schema.feature_names == [*(f"x{k}" for k in range(12)), "row", "region"]


def test_a_stored_index_is_no_feature(people: pd.DataFrame, tmp_path: Path) -> None:
    people.iloc[::-1].to_parquet(tmp_path / "t.parquet", index=True)
    assert list(_table(tmp_path / "t.parquet").columns) == list(people.columns)


def test_a_class_that_only_held_out_rows_have_is_known(folder: Path) -> None:
    table = _table(folder)
    file, row = table.frame("validation").query("job.notna()").index[0]
    frame = pd.read_parquet(folder / file)
    frame.loc[row, "job"] = "rare"
    frame.to_parquet(folder / file, row_group_size=170, index=False)
    stream = open_stream(_learner(tasks=["job:classification"]), _table(folder), {})
    assert stream.schema.tasks[0].outputs == ("lead", "manual", "office", "rare")


def test_an_infinite_value_is_named_with_its_file_and_row(folder: Path) -> None:
    frame = pd.read_parquet(folder / "part-1.parquet")
    rows = [r for f, r in _table(folder).frame("train").index if f == "part-1.parquet"]
    frame.loc[rows[5], "x3"] = np.inf
    frame.to_parquet(folder / "part-1.parquet", index=False)
    message = rf"'x3' is infinite in row {rows[5]} of 'part-1\.parquet'"
    with pytest.raises(ValueError, match=message):
        _learner().fit(_table(folder))


def test_a_leak_is_found_before_training(folder: Path, people: pd.DataFrame) -> None:
    people.assign(pay=people["income"] * 12).to_parquet(folder / "leak.pq", index=False)
    with pytest.raises(LeakageError, match="'pay' explains"):
        _learner(features=["x0", "pay"]).fit(_table(folder / "leak.pq"))


@pytest.mark.filterwarnings("ignore")
def test_a_learner_trains_predicts_and_is_audited(folder: Path, tmp_path: Path) -> None:
    table = _table(folder)
    learner = _learner(epochs=3).fit(table)
    test = table.frame("test")
    assert list(learner.feature_names_in_) == [*(f"x{k}" for k in range(12)), "region"]
    assert learner.score(test) > 0.35
    assert set(learner.audit(test, n_boot=20).gaps["task"]) == {"job", "benefits", "income"}
    again = _learner(epochs=3).fit(_table(folder))
    pd.testing.assert_frame_equal(again.predict(test), learner.predict(test))
    learner.save(tmp_path / "model")
    loaded = FairMTLearner.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.predict(test), learner.predict(test))


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({}, {"y": np.zeros(3)}, r"\['y'\] cannot be passed beside a ParquetTable"),
        ({}, {"groups": np.zeros(3)}, r"\['groups'\] cannot be passed"),
        ({"tasks": None}, {}, "Name the tasks"),
        ({"split_by": "origin"}, {}, "split_by is 'origin' in the learner and 'household' in the"),
        ({"balance": 0.1}, {}, "balance draws rows from all over the table"),
        ({"sensitive": ["race"]}, {}, "no column 'race'"),
        ({"sensitive": ["row"], "bins": {"row": ()}}, {}, "bins of 'row' must be finite and rise"),
    ],
)
def test_what_a_stream_cannot_do_is_named(
    folder: Path, settings: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _learner(**settings).fit(_table(folder), **given)


class _Stop(Exception):
    pass


def _train(source: Any, checkpoint: Path | None) -> dict[str, torch.Tensor]:
    """Two epochs of plain training, with a checkpoint every five steps."""
    torch.manual_seed(0)
    layout, groups = Layout(source.schema.tasks), source.schema.groups
    assert isinstance(groups, Groups)
    encoder = MLP(source.schema.n_inputs, (8,))
    method = Plain()
    method.setup(MultiTask(encoder, LinearHeads(8, layout), layout), groups)
    trainer = Trainer(checkpoint=checkpoint, checkpoint_every=5, progress=False)
    trainer.fit(method, source, [Segment("warmup", 2)])
    return {k: v.clone() for k, v in method.model.state_dict().items()}


class _Interrupted:
    """A source that breaks off in its second epoch."""

    def __init__(self, source: ParquetSource) -> None:
        self.source, self.schema = source, source.schema
        self.n_batches = source.n_batches

    def batches(self, epoch: int, start: int = 0, *rest: int) -> Iterator[dict[str, Any]]:
        batches = self.source.batches(epoch, start, *rest)
        if epoch == 0:
            yield from batches
            return
        yield from islice(batches, 13)
        raise _Stop


def test_an_interrupted_training_ends_bitwise_where_it_would_have(
    folder: Path, tmp_path: Path
) -> None:
    source = open_stream(_learner(batch_size=32), _table(folder), {}).source
    expected = _train(source, None)
    place = tmp_path / "state"
    with pytest.raises(_Stop):
        _train(_Interrupted(source), place)
    found = _train(source, place)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# -- memory ---------------------------------------------------------------------------------

_PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fairmt import FairMTLearner
from fairmt.data import ParquetTable
from fairmt.streaming import open_stream

table = ParquetTable(sys.argv[1], held_out=2_000, buffer_rows=8_192)
learner = FairMTLearner(["y:regression"], ["g"], batch_size=512)
stream = open_stream(learner, table, {})
for batch in stream.source.batches(0):
    pass
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory in /proc")
def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Ten times the rows may not cost half of what they would take in a frame."""
    peaks, columns, sizes = [], 40, (64_000, 640_000)
    rng = np.random.default_rng(0)
    for n in sizes:
        x = rng.normal(size=(n, columns))
        table = {f"x{k}": x[:, k] for k in range(columns)}
        table["y"] = x[:, 0] + rng.normal(size=n)
        table["g"] = (np.arange(n) % 2).astype(float)
        path = tmp_path / f"{n}.parquet"
        pq.write_table(pa.table(table), path, row_group_size=32_000)
        found = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(path)], check=True, capture_output=True, text=True
        )
        peaks.append(int(found.stdout.split()[-1]))
    added = (sizes[1] - sizes[0]) * (columns + 2) * 8 / 2**20
    assert peaks[1] - peaks[0] < added / 2, peaks
