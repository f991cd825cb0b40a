"""Methods: what learns the networks of a zoo and draws new ones. One room or file for each, with its `Config`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from rpg.methods.base import MethodConfig
from zoo import plugins
from zoo.errors import Failed
from zoo.recipe import load_method, method_names

log = logging.getLogger(__name__)

METHODS = {
    "cond-p-diff": "rpg.methods.cond_p_diff",
    "crossover": "rpg.methods.crossover",
    "d2nwg": "rpg.methods.d2nwg.config",
    "flow": "rpg.methods.flow",
    "g.pt": "rpg.methods.g_pt.config",
    "gaussian": "rpg.methods.gaussian",
    "hyper-representations": "rpg.methods.hyper_representations.method",
    "kde": "rpg.methods.kde",
    "noise": "rpg.methods.noise",
    "p-diff": "rpg.methods.p_diff.method",
    "pca-gaussian": "rpg.methods.pca_gaussian",
    "rpg": "rpg.methods.rpg.config",
    "rpg-latent": "rpg.methods.rpg_latent.config",
    "sane": "rpg.methods.sane.method",
    "shift": "rpg.methods.shift",
    "soup": "rpg.methods.soup",
    "tina": "rpg.methods.tina.config",
}
"""Names and modules. A module has `Config`, the schema of the recipe's section `method:`, which builds the method."""


def method_schema(name: str) -> type[MethodConfig]:
    """The schema of a method's section `method:`: one of ours, or one that is registered or offered by a package
    (zoo.plugins). Raises ValueError for a method that does not exist, Failed for a package that is broken.
    """
    return plugins.schema("methods", name, METHODS, MethodConfig)


def describe_methods() -> list[dict[str, Any]]:
    """All methods, with what they say of themselves (rpg.methods.base.About) and the names of their settings. Those of
    others that cannot be loaded are left out, with a warning.
    """
    settings: dict[str, list[str]] = {name: [] for name in METHODS}
    abouts = {}
    for name in method_names():
        config: Any = load_method(name)[0]
        settings[config.name].append(name)
        abouts[config.name] = asdict(config.build().about)
    for name in plugins.names("methods"):
        try:
            theirs: Any = load_method(name)[0]
            with plugins.guarded(f"method {name!r}"):
                abouts[name], settings[name] = asdict(theirs.build().about), []
        except (ValueError, Failed) as error:
            log.warning("%s", error)
    return [{"name": name, **abouts[name], "settings": settings[name]} for name in abouts]
