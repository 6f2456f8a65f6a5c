"""The scikit-learn face."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fairmt import Classification, Detection, FairMTLearner, Regression
from fairmt.data import Bundle
from fairmt.path import predict_outputs
from fairmt.store import StoreError

EXPECTED_FAILURES = {
    "check_positive_only_tag_during_fit": (
        "the label of this check is computed from a feature, which is refused as leakage"
    ),
    "check_sample_weight_equivalence_on_dense_data": (
        "weights scale losses, repeated rows change the batches: the two trainings differ"
    ),
}


def quick(**settings: object) -> FairMTLearner:
    return FairMTLearner(method="plain", epochs=2, path_epochs=1, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_scikit_learn_checks_with_few_expected_failures() -> None:
    assert len(EXPECTED_FAILURES) <= 5
    results = check_estimator(
        FairMTLearner(method="plain", epochs=3, path_epochs=1, patience=None),
        expected_failed_checks=EXPECTED_FAILURES,
        on_fail=None,
    )
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    assert failed == []


def test_clone_keeps_every_parameter(people: Bundle) -> None:
    learner = FairMTLearner(**people.learner_settings(), tolerance=0.1, options={"rho": 0.5})
    copy = clone(learner)
    assert copy.get_params() == learner.get_params()


def test_mapping_of_targets_and_separate_attributes_give_what_one_frame_gives(
    people: Bundle,
) -> None:
    frame = people.frame.head(1500)
    tasks = [
        Classification("job"),
        Detection("benefits", ("housing", "health", "transport")),
        Regression("income"),
    ]
    labels = ["job", "housing", "health", "transport", "income"]
    x = frame[[f"x{i}" for i in range(12)]]
    whole = quick(tasks=tasks, features=list(x), seed=1).fit(frame)
    apart = quick(tasks=tasks, seed=1).fit(x, frame[labels])
    pd.testing.assert_frame_equal(whole.predict(frame), apart.predict(x))


def test_predict_probabilities_and_rule_agree(fitted: FairMTLearner, people: Bundle) -> None:
    frame = people.frame.head(500)
    table, decided = fitted.predict_table(frame), fitted.predict(frame)
    p, rule = fitted.predict_proba(frame), fitted.decision_rule()
    for label in ("housing", "health", "transport"):
        by_rule = (p["benefits"][label] > rule["benefits"][label]).astype(int)
        assert (by_rule == decided[f"benefits.{label}"]).mean() > 0.999
        assert np.allclose(table[f"benefits.{label}"], p["benefits"][label])
        assert (table[f"benefits.{label}.decision"] == decided[f"benefits.{label}"]).all()
    scaled = p["job"] * pd.Series(rule["job"])
    assert (scaled.idxmax(axis=1) == decided["job"]).mean() > 0.999
    assert np.allclose(p["job"].sum(axis=1), 1.0)


def test_recalibration_changes_probabilities_and_not_decisions(people: Bundle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner = FairMTLearner(
            **people.learner_settings(), epochs=4, path_epochs=4, recalibration=True
        ).fit(people.frame)
    frame = people.frame.head(800)
    after, decided = learner.predict_proba(frame), learner.predict(frame)
    rule = learner.decision_rule()
    kept, learner.recalibration_ = learner.recalibration_, None
    assert kept is not None
    before = learner.predict_proba(frame)
    pd.testing.assert_frame_equal(decided, learner.predict(frame))
    assert not np.allclose(before["benefits"], after["benefits"])
    above = (after["benefits"]["health"] > rule["benefits"]["health"]).astype(int)
    assert (above == decided["benefits.health"]).mean() > 0.999


def test_prediction_needs_no_attribute_and_no_label(fitted: FairMTLearner, people: Bundle) -> None:
    features = [f"x{i}" for i in range(12)] + ["region"]
    bare = people.frame[features].head(100)
    pd.testing.assert_frame_equal(fitted.predict(bare), fitted.predict(people.frame.head(100)))


def test_the_wider_the_rows_the_fewer_are_predicted_at_once(
    fitted: FairMTLearner, people: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = fitted.schema_.encode(people.frame.iloc[:103]).features
    sizes: list[int] = []
    hook = fitted.model_.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    whole = predict_outputs(fitted.model_, features)
    monkeypatch.setattr("fairmt.path.VALUES", 10 * features.shape[1] + 1)
    parts = predict_outputs(fitted.model_, features)
    hook.remove()
    assert sizes == [103] + [10] * 10 + [3]
    torch.testing.assert_close(parts, whole)


def test_attributes_as_inputs_are_needed_at_prediction(people: Bundle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # no warning of proxies: it was chosen
        learner = quick(**people.learner_settings(), attributes_as_inputs=True).fit(people.frame)
    assert "sex=women" in learner.schema_.input_names
    with pytest.raises(ValueError, match="'sex'"):
        learner.predict(people.frame.drop(columns="sex"))


def test_label_masks_are_never_inputs(people: Bundle) -> None:
    frame = people.frame.copy()
    learner = quick(**people.learner_settings()).fit(frame)
    hidden = frame.assign(job=None, income=np.nan)
    pd.testing.assert_frame_equal(learner.predict(frame), learner.predict(hidden))
    assert not any("job" in n or "income" in n for n in learner.schema_.input_names)


def test_features_that_give_an_attribute_away_are_told(people: Bundle) -> None:
    with pytest.warns(UserWarning, match=r"give sensitive attributes away: sex \(0\.9"):
        quick(**people.learner_settings()).fit(people.frame)


def test_regression_comes_back_in_its_own_units(people: Bundle) -> None:
    tasks = ["income:regression"]
    features = [f"x{i}" for i in range(12)]
    a = quick(tasks=tasks, features=features).fit(people.frame)
    b = quick(tasks=tasks, features=features).fit(
        people.frame.assign(income=1000 * people.frame["income"] + 5)
    )
    left, right = a.predict(people.frame)["income"], b.predict(people.frame)["income"]
    assert np.allclose(1000 * left + 5, right, rtol=1e-3)
    assert abs(left.mean() - people.frame["income"].mean()) < 1.5


def test_saved_and_loaded_learner_predicts_and_chooses_alike(
    fitted: FairMTLearner, people: Bundle, tmp_path: object
) -> None:
    folder = f"{tmp_path}/model"
    fitted.save(folder)
    loaded = FairMTLearner.load(folder)
    frame = people.frame.head(300)
    pd.testing.assert_frame_equal(fitted.predict_table(frame), loaded.predict_table(frame))
    assert loaded.choice_.reason == fitted.choice_.reason
    ours, theirs = loaded.choose(strength=1.0), fitted.path_.choose(strength=1.0)
    assert ours.point.index == theirs.point.index


def test_choosing_again_trains_nothing(fitted: FairMTLearner) -> None:
    before = [c.weights for c in fitted.path_.candidates]
    generous = fitted.path_.choose(utility_budget=0.5).point
    strict = fitted.path_.choose(utility_budget=0.0).point
    assert generous.disparity.shortfall <= strict.disparity.shortfall
    assert all(a is b.weights for a, b in zip(before, fitted.path_.candidates, strict=True))


def test_no_task_pays_more_than_three_times_the_budget(fitted: FairMTLearner) -> None:
    budget = 0.02
    path = fitted.path_
    dear = path.choose(utility_budget=budget).point
    kept = [min(p.change.values()) for p in path.points]
    assert min(dear.change.values()) + path.optimism >= -3 * budget
    # A task that pays much for the others rules the same candidate out.
    dear.change["income"] = -3 * budget - path.optimism - 0.001
    try:
        assert path.choose(utility_budget=budget).point.index != dear.index
    finally:
        dear.change["income"] = kept[dear.index]


def test_utility_budget_is_kept_on_validation(fitted: FairMTLearner) -> None:
    for budget in (0.002, 0.01, 0.05):
        point = fitted.path_.choose(utility_budget=budget).point
        assert point.index == fitted.path_.plain or point.delta_m_low >= -budget


def test_the_task_that_pays_most_is_named(fitted: FairMTLearner) -> None:
    choice = fitted.path_.choose(utility_budget=0.001)
    generous = fitted.path_.choose(utility_budget=0.3)
    for budget, found in ((0.001, choice), (0.3, generous)):
        task, change = min(found.point.change.items(), key=lambda item: item[1])
        told = f"paid by {task} ({change:+.1%})" in found.reason
        assert told == (change < -budget and found.point.index != fitted.path_.plain)


def test_tolerance_out_of_reach_is_told_with_what_stays_outside(fitted: FairMTLearner) -> None:
    choice = fitted.path_.choose(tolerance=0.0)
    assert not choice.reached
    assert "was not reached" in choice.reason
    assert any(task in choice.reason for task in ("benefits:", "job:"))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"tolerance": 0.1, "utility_budget": 0.1}, "exactly one"),
        ({}, "exactly one"),
        ({"tolerance": 1.5}, r"tolerance must lie in \[0, 1\]"),
        ({"utility_budget": -0.1}, "utility_budget must lie"),
        ({"utility_budget": 1.0}, "utility_budget must lie"),
        ({"strength": -1.0}, "must not be negative"),
    ],
)
def test_wishes_out_of_range_name_the_argument(
    fitted: FairMTLearner, wish: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted.path_.choose(**wish)


def test_fair_training_closes_gaps_of_biased_people(fitted: FairMTLearner) -> None:
    path = fitted.path_
    plain, last = path.points[path.plain], path.points[-1]
    own = [p.disparity.shortfall for p in path.points if p.candidate.segment == "path"]
    assert last.disparity.gap < 0.85 * plain.disparity.gap
    assert min(own) < plain.disparity.shortfall


@pytest.mark.parametrize(
    ("method", "high"), [("fairmt", 60.0), ("symmetric", 20.0), ("gap", 100.0)]
)
def test_a_path_runs_through_the_strengths_of_its_method(
    people: Bundle, method: str, high: float
) -> None:
    settings = {**people.learner_settings(), "method": method, "epochs": 1, "path_epochs": 4}
    for given, end in ((None, high), ((0.5, 2.0), 2.0)):
        learner = FairMTLearner(**settings, strengths=given).fit(people.frame)
        found = [c.strength for c in learner.path_.candidates if c.segment == "path"]
        assert found == sorted(found)
        # λ as of the last batch, one before the end of the range.
        assert 0.9 * end < found[-1] <= end
        assert len(found) >= 24
        assert max(b / a for a, b in pairwise(found)) < 1.21


@pytest.mark.parametrize("given", [(0.0, 1.0), (1.0, -2.0)])
def test_strengths_of_a_path_must_be_positive(people: Bundle, given: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="strengths must be positive"):
        FairMTLearner(**people.learner_settings(), strengths=given).fit(people.frame)


def test_dual_names_what_it_cannot_reach(people: Bundle) -> None:
    with pytest.warns(UserWarning, match="out of reach"):
        learner = FairMTLearner(
            **people.learner_settings(), controller="dual", tolerance=0.0, epochs=3,
            path_epochs=8, options={"dual_rate": 100.0},
        ).fit(people.frame)  # fmt: skip
    assert learner.binding_
    assert all(e.violation > 0 for e in learner.binding_)
    strengths = [c.strength for c in learner.path_.candidates if c.segment == "path"]
    assert all(0 < s < 4.0 for s in strengths)
    assert strengths[-1] > strengths[0]


def test_dual_relaxes_when_the_tolerance_is_generous(people: Bundle) -> None:
    learner = FairMTLearner(
        **people.learner_settings(), controller="dual", tolerance=0.9, epochs=3, path_epochs=5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner.fit(people.frame)
    strengths = [c.strength for c in learner.path_.candidates if c.segment == "path"]
    assert strengths[-1] < strengths[0] < 0.3


def test_settings_that_contradict_name_themselves(people: Bundle) -> None:
    with pytest.raises(ValueError, match="needs a sensitive attribute"):
        FairMTLearner(tasks=people.tasks, features=dict(people.features)).fit(people.frame)
    with pytest.raises(ValueError, match="controller must be"):
        FairMTLearner(**people.learner_settings(), controller="both").fit(people.frame)
    with pytest.raises(ValueError, match="give tolerance"):
        FairMTLearner(**people.learner_settings(), controller="dual").fit(people.frame)
    with pytest.raises(ValueError, match="belong to 'fairmt'"):
        quick(**people.learner_settings(), floors=0.1).fit(people.frame)
    with pytest.raises(ValueError, match="Unknown method"):
        FairMTLearner(**people.learner_settings() | {"method": "fairest"}).fit(people.frame)
    with pytest.raises(ValueError, match="niceness"):
        FairMTLearner(**people.learner_settings(), notion="niceness").fit(people.frame)


def test_a_damaged_model_is_refused(fitted: FairMTLearner, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(f"{tmp_path}/model")
    fitted.save(folder)
    tensors = folder / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(StoreError, match="truncated"):
        FairMTLearner.load(folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FairMTLearner.load(folder / "nowhere")


def test_cross_validation_routes_attributes_and_weights(people: Bundle) -> None:
    import sklearn

    frame = people.frame.dropna(subset=["income"]).head(900)
    x, y = frame[[f"x{i}" for i in range(12)]].to_numpy(), frame["income"].to_numpy()
    with sklearn.config_context(enable_metadata_routing=True):
        learner = (
            quick()
            .set_fit_request(sensitive_features=True, sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        scores = cross_val_score(
            make_pipeline(StandardScaler().set_fit_request(sample_weight=False), learner),
            x,
            y,
            cv=3,
            params={
                "sensitive_features": frame["sex"].to_numpy(),
                "sample_weight": np.ones(len(frame)),
            },
        )
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_polars_and_arrow_predict_alike(fitted: FairMTLearner, people: Bundle) -> None:
    pl = pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    frame = people.frame.head(50)
    expected = fitted.predict_table(frame)
    for other in (pl.from_pandas(frame), pa.Table.from_pandas(frame, preserve_index=False)):
        found = fitted.predict_table(other)
        pd.testing.assert_frame_equal(expected, found, check_dtype=False)
