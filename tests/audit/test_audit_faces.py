"""Results as frames, JSON, Markdown, model card, MetricFrame, MLflow and W&B."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import fairmt
from fairmt.auditing import AuditResult, audit_model

HOSTILE = "<script>alert('x')</script>"
FORMULA = '=HYPERLINK("http://example.org","click")'


@pytest.fixture(scope="module")
def result(people: pd.DataFrame) -> AuditResult:
    tasks = ["job:classification", "benefits:detection", "income:regression"]
    return fairmt.audit(people, tasks=tasks, sensitive=["sex", "region"], tolerance=0.05, n_boot=50)


def test_json_names_everything_and_reads_back(result: AuditResult, tmp_path) -> None:
    path = tmp_path / "audit.json"
    text = result.to_json(path)
    assert path.read_text(encoding="utf-8") == text
    stored = json.loads(text)
    assert stored["schema"] == "fairmt.audit/1"
    gap = stored["tasks"]["job"]["statistics"]["recall of lead"]["region"]
    row = result.gaps.query("statistic == 'recall of lead' and attribute == 'region'").iloc[0]
    assert gap["gap"] == row["gap"]
    assert gap["groups"]["region=south"]["n"] == (
        result.rates.query("statistic == 'recall of lead' and group == 'region=south'")["n"].item()
    )
    assert "NaN" not in text
    again = AuditResult.from_json(path)
    assert again.to_json() == text
    assert again.findings == result.findings
    assert again.to_html() == result.to_html()


@pytest.mark.parametrize("schema", [None, "fairmt.audit/0", "other/1"])
def test_other_schemas_are_refused(schema: str | None) -> None:
    with pytest.raises(ValueError, match=r"schema .*, expected fairmt\.audit/1"):
        AuditResult.from_dict({"schema": schema})


def test_frames_by_name(result: AuditResult) -> None:
    assert result.to_frame().equals(result.gaps)
    for table in ("rates", "utilities", "observation", "scores"):
        assert len(result.to_frame(table)) > 0
    assert result.to_frame("subgroups").empty
    with pytest.raises(ValueError, match="table must be one of"):
        result.to_frame("groups")


def test_frames_are_copies(result: AuditResult) -> None:
    frame = result.to_frame()
    frame["gap"] = 7.0
    assert not (result.gaps["gap"] == 7.0).any()


def test_markdown_and_model_card_have_their_sections_in_order(result, tmp_path) -> None:
    text = result.to_markdown(tmp_path / "audit.md")
    assert (tmp_path / "audit.md").read_text(encoding="utf-8") == text
    assert text.startswith("# Audit\n")
    card = result.to_model_card()
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# Model Card for Audit",
        "## Model Details",
        "## Uses",
        "## Bias, Risks, and Limitations",
        "## Evaluation",
        "### Testing Data, Factors & Metrics",
        "#### Testing Data",
        "#### Factors",
        "#### Metrics",
        "### Results",
        "#### Summary",
    ]
    table = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in table}
    assert widths <= {4, 10}


def test_names_from_the_data_stay_text_everywhere(people: pd.DataFrame, tmp_path) -> None:
    frame = people.rename(columns={"sex": HOSTILE, "job": FORMULA, "job.true": f"{FORMULA}.true"})
    frame[HOSTILE] = frame[HOSTILE].replace({"men": "<img src=x onerror=alert(1)>", "women": "a|b"})
    frame[f"{FORMULA}.true"] = frame[f"{FORMULA}.true"].replace({"lead": "[link](javascript:x)"})
    frame[FORMULA] = frame[FORMULA].replace({"lead": "[link](javascript:x)"})
    from fairmt.tasks import Classification

    outputs = ("[link](javascript:x)", "manual", "office")
    result = fairmt.audit(
        frame, tasks=[Classification(FORMULA, outputs)], sensitive=[HOSTILE], tolerance=0.01,
        title=f"{HOSTILE}", n_boot=10,
    )  # fmt: skip
    result.search(1)
    for page in (result.to_html(), result._repr_html_()):
        assert HOSTILE not in page
        assert "<img" not in page
        assert "&lt;img src=x onerror" in page
    for text in (result.to_markdown(), result.to_model_card()):
        assert "<script" not in text
        assert "](javascript" not in text
        assert "a\\|b" in text
    assert json.loads(result.to_json())["title"] == HOSTILE


def test_notebooks_get_findings_and_a_table(result: AuditResult) -> None:
    page = result._repr_html_()
    assert result.findings[0] in page
    assert page.count("<tr") == 11


@pytest.mark.parametrize("output", ["lead", "office"])
def test_a_metric_frame_has_the_same_values(people: pd.DataFrame, output: str) -> None:
    fairlearn = pytest.importorskip("fairlearn.metrics")
    own = fairmt.audit(people, tasks=["job:classification"], sensitive=["region"], n_boot=0)
    frame = own.to_metric_frame("job", output)
    assert isinstance(frame, fairlearn.MetricFrame)
    known = people.dropna(subset=["job.true", "region"])
    expected = fairlearn.MetricFrame(
        metrics=fairlearn.true_positive_rate,
        y_true=known["job.true"] == output,
        y_pred=known["job"] == output,
        sensitive_features=known["region"],
    )
    np.testing.assert_allclose(frame.by_group["recall"], expected.by_group, atol=1e-12)
    rates = own.rates.set_index(["statistic", "group"])["value"]
    for group, value in frame.by_group["precision"].items():
        assert value == pytest.approx(rates[f"precision of {output}", f"region={group}"], abs=1e-12)


def test_metric_frames_of_what_is_none_are_refused(result: AuditResult) -> None:
    pytest.importorskip("fairlearn.metrics")
    with pytest.raises(ValueError, match="is a regression task"):
        result.to_metric_frame("income")
    with pytest.raises(ValueError, match="No task 'jobs'"):
        result.to_metric_frame("jobs")
    with pytest.raises(ValueError, match="name one of its outputs"):
        result.to_metric_frame("job")
    with pytest.raises(ValueError, match="has no output 'pilot'"):
        result.to_metric_frame("job", "pilot")


def test_mlflow_gets_flat_names_and_files(result: AuditResult, monkeypatch) -> None:
    logged: dict = {}
    stub = ModuleType("mlflow")
    stub.log_metrics = logged.update
    stub.log_text = lambda text, path: logged.update({path: text})
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    result.to_mlflow()
    assert logged["audit/gap/job/recall of lead/region"] == pytest.approx(
        result.gaps.query("statistic == 'recall of lead' and attribute == 'region'")["gap"].item()
    )
    assert logged["audit/utility/income/r2"] > 0
    assert logged["audit/audit.html"].startswith("<!doctype html>")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")
    assert all(set(name) <= allowed for name in logged)


def test_wandb_gets_tables_and_the_page(result: AuditResult, monkeypatch) -> None:
    logged: dict = {}
    stub = ModuleType("wandb")
    stub.run = None
    stub.Table = lambda dataframe: dataframe
    stub.Html = lambda page, inject: page
    monkeypatch.setitem(sys.modules, "wandb", stub)
    with pytest.raises(ValueError, match="No run is active"):
        result.to_wandb()
    result.to_wandb(SimpleNamespace(log=logged.update))
    assert logged["audit/page"].startswith("<!doctype html>")
    assert len(logged["audit/gaps"]) == len(result.gaps)


def test_trackers_that_are_not_installed_are_named(result: AuditResult, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install mlflow"):
        result.to_mlflow()
    with pytest.raises(ImportError, match="pip install wandb"):
        result.to_wandb()


def test_importing_the_audit_imports_no_tracker_and_no_engine() -> None:
    import subprocess

    code = (
        "import sys, fairmt.auditing; "
        "print([m for m in ('mlflow', 'wandb', 'ibis', 'duckdb', 'fairlearn', 'jinja2', 'polars') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scikit_learn_models_are_audited(people: pd.DataFrame) -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    known = people.dropna(subset=["job.true", "income.true", "sex"])
    X = known[["weight", "income"]]
    model = LogisticRegression(max_iter=500).fit(X, known["job.true"])
    found = audit_model(model, X, known["job.true"], sensitive=known["sex"], n_boot=0)
    accuracy = found.utilities.set_index("metric").loc["accuracy", "value"]
    assert accuracy == pytest.approx(model.score(X, known["job.true"]))
    assert "auc" in set(found.utilities["metric"])
    line = LinearRegression().fit(X[["weight"]], known["income.true"])
    found = audit_model(
        line, X[["weight"]], known["income.true"], sensitive=known[["sex", "region"]], n_boot=0
    )
    r2 = found.utilities.set_index("metric").loc["r2", "value"]
    assert r2 == pytest.approx(line.score(X[["weight"]], known["income.true"]))
    both = LinearRegression().fit(X, known[["income.true", "weight"]])
    found = audit_model(both, X, known[["income.true", "weight"]], sensitive=known["sex"], n_boot=0)
    assert [t["kind"] for t in found.tasks] == ["regression", "regression"]
    with pytest.raises(ValueError, match="y has 1 columns"):
        audit_model(both, X, known["income.true"], sensitive=known["sex"])


def test_fairlearn_models_are_audited_with_their_own_arguments(people: pd.DataFrame) -> None:
    postprocessing = pytest.importorskip("fairlearn.postprocessing")
    from sklearn.linear_model import LogisticRegression

    known = people.dropna(subset=["sex"])
    X, y = known[["income"]], (known["income"] > 30).astype(int)
    model = postprocessing.ThresholdOptimizer(estimator=LogisticRegression(), prefit=False)
    model.fit(X, y, sensitive_features=known["sex"])
    arguments = {"sensitive_features": known["sex"], "random_state": 0}
    found = audit_model(model, X, y, sensitive=known["sex"], predict=arguments, n_boot=0)
    expected = (model.predict(X, **arguments) == y).mean()
    accuracy = found.utilities.set_index("metric").loc["accuracy", "value"]
    assert accuracy == pytest.approx(expected)


def test_what_a_training_run_adds_is_shown(people: pd.DataFrame) -> None:
    points = [
        {
            "segment": segment, "delta_m": -0.01 * i, "shortfall": 0.1 - 0.01 * i, "gap": 0.2,
            "epoch": i, "strength": 0.5, "chosen": i == 2,
        }
        for i, segment in enumerate(["warmup", "plain", "path", "path"])
    ]  # fmt: skip
    rows = [{"name": "gap", "plain": 0.2, "fair": 0.1}]
    extra = {
        "path": points,
        "comparison": {"method": "<b>ours</b>", "reason": "budget", "rows": rows},
        "model": "A small network.",
    }
    found = fairmt.audit(
        people, tasks=["job:classification"], sensitive=["sex"], n_boot=0, extra=extra
    )
    page = found.to_html()
    assert "The path" in page
    assert "A small network." in page
    assert "Plain model and &lt;b&gt;ours&lt;/b&gt;" in page
    assert json.loads(found.to_json())["extra"]["path"][2]["chosen"] is True


def test_bins_of_probabilities_are_left_out_where_they_would_fill_the_memory(monkeypatch, people):
    monkeypatch.setattr("fairmt.auditing.cube._HELD", 100)
    for engine in ("memory", "duckdb"):
        if engine == "duckdb":
            pytest.importorskip("ibis")
        found = fairmt.audit(
            people, tasks=["benefits:detection"], sensitive=["sex"], n_boot=0, engine=engine
        )
        assert found.scores.empty
        assert "reliability" not in found.to_html().lower().split("<main>")[1].split("words")[0]
