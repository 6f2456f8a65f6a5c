"""A small fitted learner, shared by the tests that only look at it."""

import warnings

import pytest

from fairmt import FairMTLearner
from fairmt.data import Bundle, generate


@pytest.fixture(scope="session")
def people() -> Bundle:
    return generate(8000, seed=3)


@pytest.fixture(scope="session")
def fitted(people: Bundle) -> FairMTLearner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return FairMTLearner(**people.learner_settings(), epochs=5, path_epochs=6).fit(people.frame)
