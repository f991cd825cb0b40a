"""The board in headless Chromium: `pytest -m browser tests/integration/test_board_browser.py` (see test_browser.py).
With RPG_SCREENSHOTS=docs/images it also takes the picture of the documentation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shown
from browsing import CHROMIUM, OUTSIDE, OVERFLOW, WIDTHS, chromium, visits

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytest.importorskip("uvicorn", reason="the board needs uvicorn")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium"),
]

GENERATED = "mine-gaussian-generated"
PAGES = (
    "",
    "curves",
    "methods",
    "zoos/mine",
    f"zoos/{GENERATED}/generated-0000",
    "zoos/mine/network-00000/tensor?name=first.weight",
    "runs/mine-gaussian",
    f"scores/{GENERATED}",
    "reports/made-up",
    "reports/tasks",
    "files/reports/made-up/report.html",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a board over a made-up directory."""
    place = shown.make(tmp_path_factory.mktemp("board") / "demo")
    command = [sys.executable, "-m", "rpg", "board", str(place), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as board:
        assert board.stdout
        yield board.stdout.readline().split()[0]
        board.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(playwright) as running:
        yield running


@pytest.fixture
def show(browser: Any, address: str) -> Iterator[Any]:
    """Opens a page of the board."""
    with visits(browser, address, "blob:", "data:") as visit:
        yield lambda page_of, *how: visit(address + page_of, *how)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_of", PAGES)
def test_no_page_is_wider_than_its_window(show: Any, page_of: str, scheme: str) -> None:
    page = show(page_of, WIDTHS[0], scheme)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) == 0, width
        assert page.evaluate(OUTSIDE) == [], width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(21, 24, 27)" if scheme == "dark" else "rgb(253, 253, 251)")
    if (folder := os.environ.get("RPG_SCREENSHOTS")) and (page_of, scheme) == ("methods", "light"):
        page.screenshot(path=Path(folder) / "board.jpg", type="jpeg", quality=70)


def test_the_table_sorts_and_filters(show: Any) -> None:
    page = show("")
    names = page.locator("tbody tr th")
    before = names.all_text_contents()
    page.locator("thead th", has_text="name").click()
    assert names.all_text_contents() == sorted(before, key=str.lower) != before
    sizes = page.locator("thead th", has_text="bytes")
    column = sizes.evaluate("cell => cell.cellIndex")
    for order in (1, -1):
        sizes.press("Enter")
        cells = page.locator("tbody tr").evaluate_all(f"rows => rows.map(r => Number(r.cells[{column}].textContent))")
        assert cells == sorted(cells)[::order]
        assert len(set(cells)) > 3
    page.get_by_role("searchbox").fill("run gaussian")
    page.get_by_role("button", name="filter").click()
    assert names.all_text_contents() == ["mine-gaussian"]
    names.first.locator("a").click()
    assert page.locator("h1").text_content() == "mine-gaussian"


def test_curves_are_chosen_by_a_click(show: Any) -> None:
    page = show("curves")
    assert page.locator("svg").get_attribute("aria-label").count(" goes from ") == 2
    page.get_by_role("checkbox", name="mine-gaussian").uncheck()
    page.get_by_role("button", name="show").click()
    assert page.locator("svg").get_attribute("aria-label").startswith("Training loss of other goes from")
    assert page.get_by_role("checkbox", name="other").is_checked()
    assert not page.get_by_role("checkbox", name="mine-gaussian").is_checked()


def test_a_heat_map_is_drawn(show: Any) -> None:
    """Its cells are a picture within the SVG, which the page's policy has to allow."""
    page = show("zoos/mine/network-00000/tensor?name=first.weight")
    assert page.locator("svg").count() == 2
    image = page.locator("svg image").first
    assert image.get_attribute("href").startswith("data:image/png;base64,")
    assert image.bounding_box()["width"] > 100


def test_a_report_works_in_its_sandbox_and_its_links_lead_back(show: Any) -> None:
    page = show("files/reports/made-up/report.html")
    assert page.evaluate("window.origin") == "null"
    page.locator("thead th.number").first.click()
    assert page.locator("thead th.number").first.get_attribute("aria-sort") == "ascending"
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").first.click()
    assert download.value.suggested_filename == "table.csv"


def test_without_script_everything_can_be_read(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    page.get_by_role("searchbox").fill("scores")
    page.get_by_role("button", name="filter").click()
    assert page.locator("tbody tr th").all_text_contents() == [GENERATED]
    context.close()
