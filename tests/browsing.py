"""Pages in headless Chromium: what the browser tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 800, 1300)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OUTSIDE = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, .plot')).map(e => [
  e.tagName + ' ' + e.textContent.slice(0, 30), e.getBoundingClientRect()
]).filter(([_, box]) => box.width && (box.left < -1 || box.right > innerWidth + 1)).map(([name]) => name)"""


@contextmanager
def chromium(playwright: Any) -> Iterator[Any]:
    """A running browser."""
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def visits(browser: Any, *allowed: str) -> Iterator[Callable[..., Any]]:
    """A function that opens an address at a width, in light or dark. At the end nothing may have been said on a page's
    console, or asked of a place whose address does not begin in an `allowed` way.
    """
    said: list[str] = []
    contexts = []

    def visit(address: str, width: int = 1300, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else said.append(asked.url))
        answer = page.goto(address)
        assert answer is None or answer.ok
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
