"""The snippets of docs/audit.md run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def test_snippets_run_in_their_order(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("ibis")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 4
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {
        "audit.html", "comparison.html", "predictions.parquet",
    }  # fmt: skip
    assert "outside your tolerance of 0.05" in capsys.readouterr().out
    assert len(names["large"].gaps) == len(names["result"].gaps)


def test_pictures_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures
    assert all((PAGE.parent / p).exists() for p in pictures)
