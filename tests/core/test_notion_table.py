"""docs/notions.md says what the code says, and names tests that exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from fairmt.notions import NOTIONS

from .hand_cases import CELLS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "notions.md"


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "notion_table.py"))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == script()["render"](), (
        "run: python scripts/notion_table.py > docs/notions.md"
    )


def test_every_notion_has_its_sentence_and_every_cell_its_row() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for notion in NOTIONS.values():
        assert f"## {notion.name}\n\n{notion.sentence}\n" in page
        assert notion.sentence.endswith(".")
        assert notion.sentence.count(". ") == 0
    for kind, name in CELLS:
        (row,) = re.findall(rf"^\| {name} \| {kind} \| .*$", page, re.MULTILINE)
        assert row.count("`[") == 7


def test_the_tests_that_the_page_names_exist(request: pytest.FixtureRequest) -> None:
    table = script()
    module = pytest.Module.from_parent(request.session, path=ROOT / table["TEST_FILE"])
    known = {item.name for item in module.collect()}
    page = PAGE.read_text(encoding="utf-8")
    for check, test in table["CHECKS"].items():
        assert f"- {check}: `{table['TEST_FILE']}::{test}`" in page
        for kind, notion in CELLS:
            for parameters in table["test_ids"](kind, notion, check):
                assert f"`[{parameters}]`" in page
                assert f"{test}[{parameters}]" in known
