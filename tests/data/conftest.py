"""Shared by the tests of the data room: real data, loaded once, and small tables."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest

from fairmt.data import Bundle, load


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not os.environ.get("FAIRMT_DATA"):
        pytest.skip("needs real data: FAIRMT_DATA is not set")


@pytest.fixture(scope="session")
def real() -> Callable[..., Bundle]:
    """`load`, remembering what it has read."""
    return functools.cache(load)
