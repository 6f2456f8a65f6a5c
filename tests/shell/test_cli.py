"""The shell, end to end."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairmt import FairMTLearner
from fairmt.auditing import audit
from fairmt.config import test_rows as rows_of_test
from fairmt.data import generate, load

from .conftest import Shell

TASKS = (
    "--task", "job:classification",
    "--task", "benefits:detection:housing,health,transport",
    "--task", "income:regression",
)  # fmt: skip
QUICK = ("--epochs", 3, "--path-epochs", 3)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "people.parquet"
    generate(3000, seed=5).frame.to_parquet(path, index=False)
    return path


@pytest.fixture
def trained(shell: Shell, table: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    result = shell(
        "train", table, *TASKS, "--sensitive", "sex,origin", "--split-by", "household",
        *QUICK, "--seed", 2, "--out", folder,
    )  # fmt: skip
    assert result.status == 0, result.err
    return folder


def chart_of_path(page: str) -> str:
    return page.rsplit("Change of utility and shortfall of every candidate", 1)[1].split("</svg>")[
        0
    ]


def test_demo_prints_both_models_and_writes_a_page(shell: Shell, tmp_path: Path) -> None:
    result = shell("demo", "--out", tmp_path / "d", "--rows", 2500)
    assert result.status == 0, result.err
    assert "plain" in result.out
    assert "fairmt" in result.out
    assert "mean gap" in result.out
    page = (tmp_path / "d" / "report.html").read_text()
    assert "<svg" in page
    assert chart_of_path(page).count('class="trace"') == 1
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    again = shell("choose", tmp_path / "d", "--strength", 2)
    assert again.status == 0, again.err
    assert (tmp_path / "d" / "report.html").exists()


def test_metrics_hold_every_group_of_every_statistic(trained: Path) -> None:
    found = json.loads((trained / "metrics.json").read_text())
    assert found["schema"] == "fairmt.metrics/1"
    assert found["run"]["parts"]["test"] == found["test_rows"]
    recall = found["tasks"]["benefits"]["statistics"]["recall of health"]
    groups = recall["attributes"]["origin"]["groups"]
    assert set(groups) == {f"origin={o}" for o in ("north", "south", "east", "west")}
    assert sum(g["n"] for g in groups.values()) == recall["everybody"]["n"]
    values = [g["value"] for g in groups.values() if g["value"] is not None and g["n"] >= 30]
    gap = found["tasks"]["benefits"]["statistics"]["recall of health"]["attributes"]["sex"]["gap"]
    by_sex = recall["attributes"]["sex"]["groups"]
    men, women = by_sex["sex=men"]["value"], by_sex["sex=women"]["value"]
    assert gap == pytest.approx(abs(men - women))
    assert all(0 <= v <= 1 for v in values)
    assert {"accuracy", "macro_f1", "log_loss"} <= set(found["tasks"]["job"]["utilities"])
    assert {"rmse", "r2"} <= set(found["tasks"]["income"]["utilities"])


def test_an_audit_of_the_predictions_finds_what_metrics_say(
    shell: Shell, trained: Path, tmp_path: Path
) -> None:
    run = json.loads((trained / "run.json").read_text())
    frame = rows_of_test(run, None)
    assert frame is not None
    frame.to_parquet(tmp_path / "test.parquet", index=False)
    result = shell("predict", trained, tmp_path / "test.parquet", "--out", tmp_path / "p.parquet")
    assert result.status == 0, result.err
    found = json.loads((trained / "metrics.json").read_text())
    audited = audit(
        tmp_path / "p.parquet",
        truth=tmp_path / "test.parquet",
        tasks=["job:classification", "benefits:detection:housing,health,transport"],
        sensitive=["sex", "origin"],
        n_boot=0,
    )
    rates = audited.rates.set_index(["task", "statistic", "group"])["value"]
    compared = 0
    for task in ("job", "benefits"):
        for name, statistic in found["tasks"][task]["statistics"].items():
            for attribute in ("sex", "origin"):
                for group, entry in statistic["attributes"][attribute]["groups"].items():
                    value = rates.get((task, name, group))
                    if entry["n"] and entry["n"] >= 30 and value is not None:
                        assert value == pytest.approx(entry["value"], abs=2e-6), (name, group)
                        compared += 1
    assert compared > 30


def test_predictions_keep_the_order_and_the_documented_columns(
    shell: Shell, trained: Path, table: Path, tmp_path: Path
) -> None:
    frame = pd.read_parquet(table).sample(200, random_state=0)
    frame.drop(columns=["job", "income", "sex", "origin"]).to_csv(tmp_path / "t.csv", index=False)
    result = shell("predict", trained, tmp_path / "t.csv", "--out", tmp_path / "p.csv")
    assert result.status == 0, result.err
    p = pd.read_csv(tmp_path / "p.csv")
    assert list(p.columns) == [
        "job", "job.lead", "job.manual", "job.office",
        "benefits.housing", "benefits.housing.decision",
        "benefits.health", "benefits.health.decision",
        "benefits.transport", "benefits.transport.decision", "income",
    ]  # fmt: skip
    expected = FairMTLearner.load(trained / "model").predict_table(frame)
    assert (p["job"].to_numpy() == expected["job"].to_numpy()).all()
    assert np.allclose(p["income"], expected["income"], atol=1e-4)


def test_choosing_again_refreshes_metrics_and_page_without_the_trainer(
    shell: Shell, trained: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairmt.trainer import Trainer

    def never(*_: object, **__: object) -> None:
        raise AssertionError("choose must not train")

    monkeypatch.setattr(Trainer, "fit", never)
    before = json.loads((trained / "metrics.json").read_text())
    result = shell("choose", trained, "--strength", 100, "--json")
    assert result.status == 0, result.err
    after = json.loads((trained / "metrics.json").read_text())
    assert json.loads(result.out) == after
    assert after["chosen"]["strength"] == max(p["strength"] for p in before["path"])
    assert after["tasks"]["job"]["plain_utilities"] == before["tasks"]["job"]["plain_utilities"]
    plain = shell("choose", trained, "--strength", 0, "--json")
    assert json.loads(plain.out)["delta_m"] == 0


def test_what_follows_the_path_is_told_and_needs_the_attributes(
    shell: Shell, table: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    result = shell(
        "train", table, *TASKS, "--sensitive", "sex,origin", *QUICK, "--strength", 100,
        "--postprocessing", "group_thresholds", "--out", folder,
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "fairmt + group_thresholds" in result.out
    found = json.loads((folder / "metrics.json").read_text())
    assert found["method"] == "fairmt + group_thresholds"
    page = (folder / "report.html").read_text()
    assert "and decisions differ by them" in page
    # Candidates that are repaired alike are joined by a line.
    # The legend has a short one each.
    assert chart_of_path(page).count('class="trace"') == 2 * 3
    for words in ("as trained", "repaired by 50%", "repaired by 100%"):
        assert f">{words}</text>" in chart_of_path(page)
    assert {p["repair"] for p in found["path"]} == {0.0, 0.5, 1.0}
    assert found["chosen"]["repair"] == 1.0
    frame = pd.read_parquet(table)
    frame.drop(columns=["sex"]).to_csv(tmp_path / "t.csv", index=False)
    result = shell("predict", folder, tmp_path / "t.csv", "--out", tmp_path / "p.csv")
    assert result.status == 2
    assert "'sex'" in result.err
    assert not (tmp_path / "p.csv").exists()
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = shell("predict", folder, tmp_path / "t.csv", "--out", tmp_path / "p.csv")
    assert result.status == 0, result.err


def test_choosing_without_the_table_says_so_and_keeps_metrics(
    shell: Shell, trained: Path, table: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.parquet"
    table.rename(moved)
    try:
        result = shell("choose", trained, "--strength", 1)
        assert result.status == 0
        assert "--table" in result.err
        assert not (trained / "report.html").exists()
        result = shell("choose", trained, "--strength", 1, "--table", moved)
        assert (trained / "report.html").exists(), result.err
    finally:
        moved.rename(table)


def test_a_configuration_file_says_what_flags_say(
    shell: Shell, trained: Path, table: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"table: {table}\nsensitive: [sex, origin]\nsplit-by: household\nepochs: 3\n"
        "path_epochs: 3\nseed: 2\ntasks:\n- job:classification\n"
        "- benefits:detection:housing,health,transport\n- income:regression\n"
    )
    result = shell("train", "--config", config, "--out", tmp_path / "other")
    assert result.status == 0, result.err
    one = json.loads((trained / "metrics.json").read_text())
    two = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert one == two


def test_names_with_colons_commas_and_dots_are_quoted(
    shell: Shell, table: Path, tmp_path: Path
) -> None:
    frame = pd.read_parquet(table).rename(
        columns={"income": "in:come", "sex": "sex, legal", "housing": "hou.sing"}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = shell(
        "train", tmp_path / "t.csv", "--task", '"in:come":regression',
        "--task", "benefits:detection:hou.sing,health", "--sensitive", '"sex, legal",origin',
        "--drop", "job,transport,household", *QUICK, "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.status == 0, result.err
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(found["tasks"]) == {"in:come", "benefits"}
    assert "recall of hou.sing" in found["tasks"]["benefits"]["statistics"]


def test_interrupted_training_goes_on_to_the_same_model(
    shell: Shell, table: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairmt.methods import FairMT

    original, steps = FairMT.step, 0

    def interrupted(self: FairMT, *arguments: object, **named: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 40:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(FairMT, "step", interrupted)
    command = (
        "train", table, *TASKS, "--sensitive", "sex,origin", "--split-by", "household",
        *QUICK, "--seed", 2, "--out", tmp_path / "again",
    )  # fmt: skip
    result = shell(*command)
    assert result.status == 130
    assert "the same command goes on there" in result.err
    assert not (tmp_path / "again" / "metrics.json").exists()
    result = shell(*command)
    assert result.status == 0, result.err
    one = json.loads((trained / "metrics.json").read_text())
    two = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert one["tasks"] == two["tasks"]
    assert not (tmp_path / "again" / "checkpoint").exists()


BAD = [
    (["--sensitive", "sx"], "no column 'sx'. Did you mean"),
    (["--sensitive", "sex", "--features", "x0,x99"], "no column 'x99'"),
    (["--sensitive", "sex", "--tolerance", "0.1", "--utility-budget", "0.1"], "exactly one of"),
    (["--sensitive", "sex", "--tolerance", "3"], "tolerance must lie in [0, 1]"),
    (["--sensitive", "sex", "--method", "magic"], "Unknown method 'magic'"),
    (["--sensitive", "sex", "--notion", "niceness"], "niceness"),
    ([], "needs a sensitive attribute"),
    (["--sensitive", "sex", "--features", "x0,job"], "labels and features at once"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    shell: Shell, table: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    result = shell(
        "train", table, "--task", "job:classification", *flags, *QUICK, "--out", tmp_path / "run"
    )
    assert result.status == 2
    assert message in result.err.replace("\n", " ")
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_not_overwritten_unasked(
    shell: Shell, trained: Path, table: Path
) -> None:
    command = ("train", table, *TASKS, "--sensitive", "sex", *QUICK, "--out", trained)
    before = (trained / "metrics.json").read_text()
    result = shell(*command)
    assert result.status == 2
    assert "--overwrite" in result.err
    assert (trained / "metrics.json").read_text() == before
    assert shell(*command, "--overwrite").status == 0
    assert (trained / "metrics.json").read_text() != before


def test_kinds_and_words_that_do_not_exist_are_named(
    shell: Shell, table: Path, tmp_path: Path
) -> None:
    result = shell("train", table, "--task", "job:ranking", "--out", tmp_path / "r")
    assert "kind must be one of" in result.err
    config = tmp_path / "c.yaml"
    config.write_text("sensitve: [sex]\n")
    result = shell("train", table, "--config", config, "--out", tmp_path / "r")
    assert "unknown word 'sensitve'" in result.err
    assert "sensitive" in result.err
    assert shell("train", tmp_path / "no.csv", "--out", tmp_path / "r").status == 2
    assert "holds no finished run" in shell("choose", tmp_path, "--tolerance", 0.1).err


def test_a_tampered_model_is_refused(shell: Shell, trained: Path, table: Path) -> None:
    state = trained / "model" / "state.json"
    state.write_text(state.read_text().replace("manual", "Manual"))
    result = shell("predict", trained, table, "--out", trained / "p.parquet")
    assert result.status == 2
    assert "altered" in result.err
    assert not (trained / "p.parquet").exists()


def test_catalog_and_methods_are_listed(shell: Shell) -> None:
    names = [d["name"] for d in json.loads(shell("datasets", "list", "--json").out)]
    assert {"acs", "diabetes130", "nhanes", "adult", "compas", "lawschool"} <= set(names)
    shown = shell("datasets", "show", "diabetes130").out
    assert "Licence" in shown
    assert "Traps" in shown
    listed = {m["name"]: m for m in json.loads(shell("methods", "--json").out)}
    assert {"fairmt", "symmetric", "plain", "single", "group_dro"} <= set(listed)
    assert all(m["limits"] for m in listed.values())


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif("FAIRMT_DATA" not in os.environ, reason="FAIRMT_DATA is not set")
def test_real_census_records_through_the_shell(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "acs"
    result = shell(
        "train", "catalog:acs", "--rows", 9000, "--epochs", 3, "--path-epochs", 4,
        "--utility-budget", 0.02, "--out", folder,
    )  # fmt: skip
    assert result.status == 0, result.err
    found = json.loads((folder / "metrics.json").read_text())
    assert set(found["tasks"]) == {"income", "employment", "insurance", "moved"}
    assert set(found["tasks"]["employment"]["statistics"]["accuracy"]["attributes"]) == {
        "sex", "race", "age",
    }  # fmt: skip
    assert found["disparity"]["gap"] < found["plain_disparity"]["gap"]
    load("acs").frame.head(500).to_parquet(tmp_path / "some.parquet", index=False)
    result = shell("predict", folder, tmp_path / "some.parquet", "--out", tmp_path / "p.parquet")
    assert result.status == 0, result.err
    assert len(pd.read_parquet(tmp_path / "p.parquet")) == 500
    result = shell(
        "audit", tmp_path / "p.parquet", "--truth", tmp_path / "some.parquet",
        "--task", "employment:classification", "--task", "income:regression",
        "--sensitive", "sex,age", "--bins", "age:30,50,65", "--tolerance", 0.1,
        "--out", tmp_path / "audit.html",
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "Findings" in (tmp_path / "audit.html").read_text()
