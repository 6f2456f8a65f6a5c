"""Labels among the features: what gives one away is found, and what does not is left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fairmt import FairMTLearner, generate
from fairmt.data import Bundle, LeakageError, check_leakage, datasets, proxy_strength
from fairmt.data.attributes import encode_groups, fit_groups
from fairmt.data.leakage import SAMPLE, find_leakage
from fairmt.tasks import Classification, Detection, Regression, Task

N = 2000
RNG = np.random.default_rng(0)
SCORE = RNG.normal(size=N)
FRAME = pd.DataFrame(
    {
        "good": SCORE + RNG.normal(size=N),
        "job": np.where(SCORE + RNG.normal(size=N) > 0.3, "office", "manual"),
        "a": (SCORE + RNG.normal(size=N) > 0).astype(float),
        "b": (SCORE + RNG.normal(size=N) > 0.7).astype(float),
        "pay": 30 + 5 * SCORE + 5 * RNG.normal(size=N),
    }
)
TASKS: tuple[Task, ...] = (Classification("job"), Detection("help", ("a", "b")), Regression("pay"))


def _found(**columns: object) -> list[tuple[str, bool]]:
    """Findings for one more feature beside a harmless one."""
    frame = FRAME.assign(**columns)  # type: ignore[arg-type]
    found = find_leakage(frame, TASKS, ["good", *columns])
    return [(f.column, f.severe) for f in found]


def test_an_honest_feature_is_left_alone() -> None:
    assert _found() == []


def test_a_copy_of_a_class_is_severe() -> None:
    assert _found(copy=FRAME["job"].str.upper()) == [("copy", True)]


def test_a_copy_of_one_label_is_severe() -> None:
    assert _found(copy=FRAME["b"].map({1.0: "yes", 0.0: "no"})) == [("copy", True)]


def test_whether_any_label_holds_is_severe() -> None:
    assert _found(some=FRAME[["a", "b"]].max(axis=1)) == [("some", True)]


def test_deciles_of_a_target_are_severe() -> None:
    deciles = pd.qcut(FRAME["pay"], 20, labels=False)
    assert _found(twentieth=deciles) == [("twentieth", True)]


def test_a_rescaled_target_is_severe() -> None:
    assert _found(cents=FRAME["pay"] * 100 + 3) == [("cents", True)]


def test_a_noisy_version_of_a_target_is_a_warning() -> None:
    noise = 0.45 * FRAME["pay"].std() * np.random.default_rng(1).normal(size=N)
    assert _found(earlier=FRAME["pay"] + noise) == [("earlier", False)]


def test_a_value_that_settles_a_class_for_many_rows_is_severe() -> None:
    """A work variable is observed only for those at work."""
    hours = pd.Series(40.0, index=FRAME.index).where(FRAME["job"] == "office")
    random = np.random.default_rng(2).random(N)
    assert _found(hours=hours.where(random < 0.9)) == [("hours", True)]


def test_missingness_of_a_feature_can_settle_a_label() -> None:
    shift = pd.Series("night", index=FRAME.index).where(FRAME["a"] == 1)
    assert _found(shift=shift) == [("shift", True)]


def test_a_few_rows_without_an_exception_are_a_warning_and_no_proof() -> None:
    frame = FRAME.head(700)
    student = np.where(frame["job"] == "manual", np.arange(700) % 2, 0)
    found = find_leakage(frame.assign(student=student), TASKS, ["good", "student"])
    assert [(f.column, f.severe) for f in found] == [("student", False)]


def test_a_rare_class_is_not_settled_by_chance() -> None:
    job = FRAME["job"].mask(np.arange(N) < 5, "rare")
    frame = FRAME.assign(job=job, room=np.where(np.arange(N) < 5, "z", "a"))
    assert find_leakage(frame, (Classification("job"),), ["good", "room"]) == []


@pytest.mark.parametrize("name", ["dnn_pred", "prediction_2", "yhat", "prob_job"])
def test_another_models_prediction_is_found_by_name_and_skill(name: str) -> None:
    skilled = SCORE + 0.3 * np.random.default_rng(3).normal(size=N)
    assert _found(**{name: skilled}) == [(name, True)]


def test_a_name_alone_does_not_make_a_prediction() -> None:
    assert _found(predicted=np.random.default_rng(4).normal(size=N)) == []
    assert _found(predator=SCORE) == []


def test_an_identifier_is_no_leak() -> None:
    assert _found(id=[f"p{k}" for k in range(N)]) == []


def test_a_strong_feature_is_no_leak() -> None:
    assert _found(score=SCORE) == []


def test_labels_that_are_missing_are_left_out_of_the_comparison() -> None:
    frame = FRAME.assign(copy=FRAME["pay"])
    frame.loc[::2, "pay"] = np.nan
    (found,) = find_leakage(frame, TASKS, ["good", "copy"])
    assert found.column == "copy"


def test_a_leak_in_a_label_too_rare_for_the_sample_does_not_stop_the_check() -> None:
    n = SAMPLE + 20_000
    frame = pd.DataFrame({"x": np.arange(n) % 7, "rare": np.zeros(n)})
    frame.loc[5, "rare"] = 1.0
    assert find_leakage(frame, (Detection("rare"),), ["x"]) == []


def test_the_error_names_the_columns_and_how_to_leave_them_out() -> None:
    frame = FRAME.assign(copy=FRAME["job"], cents=FRAME["pay"] * 100)
    with pytest.raises(LeakageError, match=r"'copy'.*'cents'.*drop=copy,cents"):
        check_leakage(frame, TASKS, ["good", "copy", "cents"])


def test_a_warning_asks_whether_the_feature_is_known_in_time() -> None:
    noise = 0.45 * FRAME["pay"].std() * np.random.default_rng(1).normal(size=N)
    frame = FRAME.assign(earlier=FRAME["pay"] + noise)
    with pytest.warns(UserWarning, match="'earlier' explains .* Is it known when the model predic"):
        check_leakage(frame, TASKS, ["good", "earlier"])


def test_the_learner_refuses_a_leak_before_it_trains() -> None:
    bundle = generate(800, seed=0, missing=0.0)
    learner = FairMTLearner(bundle.tasks, bundle.sensitive, split_by="household")
    with pytest.raises(LeakageError, match="'pay'"):
        learner.fit(bundle.frame.assign(pay=bundle.frame["income"] * 12))
    assert not hasattr(learner, "model_")


def test_made_up_people_have_no_leak_however_strong_the_bias() -> None:
    for bias in (0.0, 1.0, 2.0):
        bundle = generate(4000, seed=1, bias=bias)
        assert find_leakage(bundle.frame, bundle.tasks, list(bundle.features)) == []


def test_proxy_strength_is_a_half_without_and_near_one_with_a_proxy() -> None:
    bundle = generate(4000, seed=2, bias=0.0)
    groups = fit_groups(bundle.frame, bundle.sensitive)
    codes = encode_groups(bundle.frame, groups)
    x = bundle.frame[[f"x{k}" for k in range(12)]].to_numpy()
    assert proxy_strength(x, codes, groups)["sex"] == pytest.approx(0.5, abs=0.05)
    told = np.column_stack([x, codes[:, 0].numpy()])
    assert proxy_strength(told, codes, groups)["sex"] > 0.99


def test_proxies_are_sought_among_columns_that_are_nearly_alike() -> None:
    """As neighbouring pixels are; no word of ill-conditioned equations."""
    bundle = generate(4000, seed=2, bias=0.0)
    groups = fit_groups(bundle.frame, bundle.sensitive)
    codes = encode_groups(bundle.frame, groups)
    random = np.random.default_rng(0)
    alike = 5 * random.normal(size=(4000, 1)) + 0.001 * random.normal(size=(4000, 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = proxy_strength(alike.astype(np.float32), codes, groups)
    assert found["sex"] == pytest.approx(0.5, abs=0.05)


# -- real data ------------------------------------------------------------------------------


def _severe(bundle: Bundle, features: list[str]) -> set[str]:
    return {f.column for f in find_leakage(bundle.frame, bundle.tasks, features) if f.severe}


def _columns(bundle: Bundle) -> list[str]:
    """Features of the table; texts and pictures are not looked through."""
    return [f for f, kind in bundle.features.items() if kind in ("numeric", "categorical")]


@pytest.mark.data
@pytest.mark.parametrize("name", datasets())
def test_recommended_features_raise_no_alarm(real: Callable[..., Bundle], name: str) -> None:
    bundle = real(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_leakage(bundle.frame, bundle.tasks, _columns(bundle))


@pytest.mark.data
@pytest.mark.parametrize("name", datasets())
def test_recommended_features_raise_no_error_in_small_samples(
    real: Callable[..., Bundle], name: str
) -> None:
    bundle = real(name)
    for seed in range(6):
        frame = bundle.frame.sample(min(1500, len(bundle.frame) // 2), random_state=seed)
        found = find_leakage(frame, bundle.tasks, _columns(bundle))
        assert [str(f) for f in found if f.severe] == []


@pytest.mark.data
def test_insurance_that_is_derived_from_the_labels_is_found(real: Callable[..., Bundle]) -> None:
    bundle = real("acs", raw=True)
    derived = ["PUBCOV", "PRIVCOV", "HINS1", "HINS4"]
    assert _severe(bundle, [*derived, "AGEP", "MAR"]) == set(derived)


@pytest.mark.data
def test_work_variables_are_found_by_the_people_they_are_missing_for(
    real: Callable[..., Bundle],
) -> None:
    bundle = real("acs", raw=True)
    settled = ["JWTR", "JWMNP", "POWPUMA", "COW", "OCCP", "ESR"]
    told = ["WKHP", "PERNP"]  # of the past year, so that they settle today's work nearly
    found = find_leakage(bundle.frame, bundle.tasks, [*settled, *told, "SCHL"])
    assert {f.column for f in found if f.severe} == set(settled)
    assert {f.column for f in found if not f.severe} == set(told)


@pytest.mark.data
def test_whether_any_drug_was_given_is_found(real: Callable[..., Bundle]) -> None:
    bundle = real("diabetes130", raw=True)
    found = find_leakage(bundle.frame, bundle.tasks, ["diabetesMed", "number_inpatient"])
    assert [(f.column, f.severe) for f in found] == [("diabetesMed", True)]
    assert "drugs" in str(found[0])


@pytest.mark.data
def test_deciles_and_copies_and_anothers_predictions_are_found(
    real: Callable[..., Bundle],
) -> None:
    bundle = real("lawschool", raw=True)
    leaks = ["decile1", "decile1b", "decile3", "dnn_bar_pass_prediction", "zfygpa", "zgpa",
             "bar1", "pass_bar", "cluster"]  # fmt: skip
    assert _severe(bundle, [*leaks, "lsat", "ugpa", "fam_inc"]) == set(leaks)


@pytest.mark.data
def test_earlier_grades_are_a_warning(real: Callable[..., Bundle]) -> None:
    bundle = real("student", grades=True)
    found = find_leakage(bundle.frame, bundle.tasks, list(bundle.features))
    assert {(f.column, f.severe) for f in found} == {("G1", False), ("G2", False)}
    with pytest.warns(UserWarning, match="'G2' explains"):
        check_leakage(bundle.frame, bundle.tasks, ["G2", "absences"])
