"""Reports in headless Chromium: `pytest -m browser tests/integration/test_browser.py`, with `pip install playwright`
and a Chromium of the system. With RPG_SCREENSHOTS=docs/images it also takes the pictures of the documentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsing import CHROMIUM, OUTSIDE, OVERFLOW, WIDTHS, chromium, visits
from made_up import comparison, replaced, task_comparison
from rpg.reports.report import write_report
from rpg.reports.task_report import write_task_report

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium"),
]

LOSSES = {"generated": [(step, 2.0 / step) for step in range(10, 1010, 10)]}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind, by its name."""
    place = tmp_path_factory.mktemp("reports")
    provenance = {"command": "rpg report made-up", "date": "2026-01-01 00:00 UTC"}
    good = replaced(comparison(), "mine", name="generated")
    return {
        "report": write_report(good, LOSSES, provenance, place / "report"),
        "binary-report": write_task_report(task_comparison(), LOSSES, provenance, place / "binary"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(playwright) as running:
        yield running


@pytest.fixture
def show(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Opens a page of a kind."""
    with visits(browser, "file:", "blob:") as visit:
        yield lambda kind, *how: visit(pages[kind].as_uri(), *how)


@pytest.mark.parametrize("kind", ["report", "binary-report"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window(show: Any, kind: str, scheme: str) -> None:
    for width in WIDTHS:
        page = show(kind, width, scheme)
        assert page.evaluate(OVERFLOW) == 0, width
        assert page.evaluate(OUTSIDE) == [], width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == ("rgb(21, 24, 27)" if scheme == "dark" else "rgb(253, 253, 251)")
        if (folder := os.environ.get("RPG_SCREENSHOTS")) and (width, scheme) == (1300, "light"):
            page.screenshot(path=Path(folder) / f"{kind}.jpg", type="jpeg", quality=70)


def test_wide_tables_use_the_window_that_there_is(show: Any) -> None:
    """The binary report's many columns are all visible at 1300 px, without scrolling."""
    page = show("binary-report", 1300)
    hidden = "[...document.querySelectorAll('.wide')].map(e => e.scrollWidth - e.clientWidth)"
    assert page.evaluate(hidden) == [0] * page.locator("table").count()
    assert page.locator("table").first.locator("xpath=..").bounding_box()["x"] >= 0


@pytest.mark.parametrize("kind", ["report", "binary-report"])
def test_tables_sort_both_ways_by_pointer_and_key(show: Any, kind: str) -> None:
    page = show(kind)
    table = page.locator("table").first
    numbers = table.locator("thead th.number").first
    column = numbers.evaluate("cell => cell.cellIndex")

    def values() -> list[float]:
        cells = table.locator("tbody tr").evaluate_all(f"rows => rows.map(r => r.cells[{column}].textContent)")
        return [float(cell) for cell in cells if cell.strip() != "-"]

    before = values()
    numbers.click()
    assert values() == sorted(before)
    assert numbers.get_attribute("aria-sort") == "ascending"
    numbers.press("Enter")
    assert values() == sorted(before, reverse=True)
    assert numbers.get_attribute("aria-sort") == "descending"
    first = table.locator("thead th").first
    first.click()
    names = table.locator("tbody tr th").all_text_contents()
    assert names == sorted(names, key=str.lower)


def test_a_table_is_saved_as_it_is_sorted(show: Any) -> None:
    page = show("report")
    table = page.locator("table").first
    table.locator("thead th.number").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").first.click()
    lines = Path(download.value.path()).read_text().splitlines()
    titles = table.locator("thead th").all_text_contents()
    assert lines[0] == ",".join(f'"{title.strip()}"' for title in titles)
    assert [line.split('"')[1] for line in lines[1:]] == table.locator("tbody tr th").all_text_contents()


def test_titles_marks_and_links_say_what_they_are(show: Any, pages: dict[str, Path]) -> None:
    page = show("report")
    assert page.locator("abbr[title]").count() == page.locator("thead th").count()
    assert page.locator("svg use > title").count() >= sum(len(group.nearest) for group in comparison().groups)
    for place in page.locator("header a").evaluate_all("links => links.map(link => link.getAttribute('href'))"):
        assert (pages["report"].parent / place).is_file()


def test_without_script_everything_can_be_read(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    assert page.locator("button").count() == 0
    assert page.locator("tbody tr").count() == 2 * len(comparison().groups)
    assert page.get_by_text("points below the originals (chance 10.00)").count() == 1
    context.close()
