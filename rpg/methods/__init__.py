"""Methods: what learns the networks of a zoo and draws new ones. One room or file for each, with its `Config`."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import Any

from rpg.methods.base import MethodConfig
from zoo.errors import suggest
from zoo.recipe import load_method, method_names

METHODS = {
    "gaussian": "rpg.methods.gaussian",
    "kde": "rpg.methods.kde",
    "noise": "rpg.methods.noise",
    "pca-gaussian": "rpg.methods.pca_gaussian",
    "rpg": "rpg.methods.rpg.config",
    "soup": "rpg.methods.soup",
}
"""Names and modules. A module has `Config`, the schema of the recipe's section `method:`, which builds the method."""


def method_schema(name: str) -> type[MethodConfig]:
    """The schema of a method's section `method:`. Raises ValueError for a method that does not exist."""
    if name not in METHODS:
        raise ValueError(f"no method named {name!r}{suggest(name, METHODS)}")
    schema: type[MethodConfig] = import_module(METHODS[name]).Config
    return schema


def describe_methods() -> list[dict[str, Any]]:
    """All methods, with what they say of themselves (rpg.methods.base.About) and the names of their settings."""
    settings: dict[str, list[str]] = {name: [] for name in METHODS}
    abouts = {}
    for name in method_names():
        config: Any = load_method(name)[0]
        settings[config.name].append(name)
        abouts[config.name] = asdict(config.build().about)
    return [{"name": name, **abouts[name], "settings": settings[name]} for name in METHODS]
