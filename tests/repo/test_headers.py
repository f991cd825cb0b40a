"""Recipes quote what `rpg estimate` says."""

from __future__ import annotations

import pytest
from headers import QUOTE, quotes, renewed

from zoo.errors import MissingExtra
from zoo.recipe import load_recipe, recipe_names

QUOTING = {name: text for name, path in recipe_names().items() if quotes(text := path.read_text(encoding="utf-8"))}


def test_recipes_quote_it_as_it_is_renewed() -> None:
    assert len(QUOTING) > 10
    for name, text in QUOTING.items():
        assert len(QUOTE.findall(text)) == 1, name
    for name in recipe_names():
        about = load_recipe(name).about
        assert about
        assert (about.estimate is not None) == (name in QUOTING), name


@pytest.mark.parametrize("name", QUOTING)
def test_quotes_are_not_stale(name: str) -> None:
    try:
        assert renewed(name, QUOTING[name]) == QUOTING[name], "`make headers` renews it"
    except MissingExtra as error:
        pytest.skip(str(error))


def test_a_stale_quote_is_found() -> None:
    text = "about:\n  estimate: {hours: 999, memory_gb: 0.001}\ntask: {}\n"
    new = renewed("cifar10-resnet18", text)
    assert "999" not in new
    assert "0.001" not in new
    assert new.endswith("\ntask: {}\n")
    assert renewed("cifar10-resnet18", new) == new
