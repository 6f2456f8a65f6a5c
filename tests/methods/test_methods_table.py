"""The page of methods says what the methods say, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairmt.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods" / "README.md"


def test_the_page_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "scripts/methods_table.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert PAGE.read_text() == made.stdout, "run: python scripts/methods_table.py > docs/methods/…"


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    m = METHODS[name]
    assert m.name == name
    assert m.kind in ("step", "pre-training", "post-processing", "estimator")
    assert m.summary
    assert m.limits
    assert set(m.tasks) <= {"classification", "detection", "regression"}
    assert m.attributes in ("none", "categorical", "categorical and continuous")
