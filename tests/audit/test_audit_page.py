"""The page in a real browser: it stays alone, can be read, and works from the keyboard."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

import fairmt
from fairmt.auditing import compare

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium; set CHROMIUM"),
]
TASKS = ["job:classification", "benefits:detection", "income:regression"]


@pytest.fixture(scope="module")
def pages(people: pd.DataFrame, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    result = fairmt.audit(
        people, tasks=TASKS, sensitive=["sex", "region"], depth=2, tolerance=0.05, n_boot=50
    )
    result.search(2)
    result.to_html(folder / "audit.html")
    other = people.assign(job="lead")
    models = {"old": people, "new": other}
    compare(models, tasks=TASKS, sensitive=["sex"], n_boot=20).to_html(folder / "comparison.html")
    return {name: folder / f"{name}.html" for name in ("audit", "comparison")}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield opened
        opened.close()


def visit(browser, path: Path, width: int = 1000, scheme: str = "light"):
    """The page, and everything it asked for and complained about."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda r: requests.append(r.url))
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.goto(path.as_uri())
    return page, requests, complaints


@pytest.mark.parametrize("name", ["audit", "comparison"])
@pytest.mark.parametrize("width", [1000, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_loaded_and_axe_finds_no_fault(browser, pages, name, width, scheme) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, requests, complaints = visit(browser, pages[name], width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert requests == [pages[name].as_uri()]
    assert complaints == []
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_findings_and_the_map_come_first(browser, pages) -> None:
    page, _, _ = visit(browser, pages["audit"])
    headings = page.locator("h2").all_inner_texts()
    assert headings[:3] == ["Findings", "Where the gaps are", "Gaps with intervals"]
    cells = page.locator("table.map tbody tr")
    assert [c.split("\t")[0].split("\n")[0] for c in cells.all_inner_texts()] == [
        "job", "benefits", "income",
    ]  # fmt: skip
    page.close()


def test_tables_sort_by_number_from_the_keyboard(browser, pages) -> None:
    page, _, _ = visit(browser, pages["audit"])
    table = page.locator("#gap-table")
    button = table.get_by_role("button", name="gap", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    head = table.locator("thead th").nth(3)
    assert head.get_attribute("aria-sort") == "ascending"

    def values() -> list[float]:
        column = table.locator("tbody tr td:nth-child(4)")
        read = [v for v in column.evaluate_all("cs => cs.map(c => c.dataset.v)") if v]
        return [float(v) for v in read]

    assert values() == sorted(values())
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    page.close()


def test_tables_can_be_filtered_by_words(browser, pages) -> None:
    page, _, _ = visit(browser, pages["audit"])
    rows = page.locator("#gap-table tbody tr")
    every = rows.count()
    page.locator("input[aria-controls='gap-table']").fill("income region")
    shown = [r for r in rows.all() if r.is_visible()]
    assert 0 < len(shown) < every
    assert all("income" in r.inner_text() and "region" in r.inner_text() for r in shown)
    page.close()


def test_a_cell_of_the_map_opens_its_groups(browser, pages) -> None:
    page, _, _ = visit(browser, pages["audit"])
    closed = page.locator("details[id^='entry-']:not([open])").first.get_attribute("id")
    page.locator(f"table.map a[href='#{closed}']").click()
    assert page.locator(f"#{closed}").get_attribute("open") is not None
    page.close()


def test_verdicts_are_told_by_marks_and_words_and_not_by_colour_alone(browser, pages) -> None:
    page, _, _ = visit(browser, pages["audit"])
    for link in page.locator("table.map td a").all():
        assert any(mark in link.inner_text() for mark in "▲△✓")
        assert "your tolerance" in str(link.get_attribute("aria-label"))
    page.close()
