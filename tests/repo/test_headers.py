"""Recipe headers say what `rpg estimate` says."""

from __future__ import annotations

import pytest
from headers import MEMORY, SOURCE, TIME, quotes, renewed

from zoo.errors import MissingExtra
from zoo.recipe import recipe_names

QUOTING = {name: text for name, path in recipe_names().items() if quotes(text := path.read_text(encoding="utf-8"))}


def test_headers_quote_it() -> None:
    assert len(QUOTING) > 10
    for name, text in QUOTING.items():
        assert text.count(SOURCE) == len(MEMORY.findall(text)) + len(TIME.findall(text)), name


@pytest.mark.parametrize("name", QUOTING)
def test_headers_are_not_stale(name: str) -> None:
    try:
        assert renewed(name, QUOTING[name]) == QUOTING[name], "`make headers` renews it"
    except MissingExtra as error:
        pytest.skip(str(error))


def test_a_stale_header_is_found() -> None:
    text = f"# hours: train at least 999 s {SOURCE}\n# hardware: 0.001 GB of GPU memory to train {SOURCE}\n"
    new = renewed("cifar10-resnet18", text)
    assert "999 s" not in new
    assert "0.001 GB" not in new
    assert renewed("cifar10-resnet18", new) == new
