"""Settings shared by the tests of the core."""

from __future__ import annotations

from hypothesis import settings

# Derandomised: a failure must come back when the test is run again.
settings.register_profile("core", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("core")
