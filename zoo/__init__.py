"""Checkpoints as data: collect, store, convert, score.

import zoo

originals = zoo.collect("digits")
mine = zoo.from_state_dicts([model.state_dict() for model in models], "mine")
theirs = zoo.open("hf://user/name")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.api import align, collect, from_state_dicts, open, polish, score, unalign
    from zoo.plugins import let_in, register
    from zoo.store import Zoo

__all__ = [
    "Zoo",
    "__version__",
    "align",
    "collect",
    "from_state_dicts",
    "let_in",
    "open",
    "polish",
    "register",
    "score",
    "unalign",
]

NAMES = {
    "Zoo": "zoo.store",
    "align": "zoo.api",
    "collect": "zoo.api",
    "from_state_dicts": "zoo.api",
    "let_in": "zoo.plugins",
    "open": "zoo.api",
    "polish": "zoo.api",
    "register": "zoo.plugins",
    "score": "zoo.api",
    "unalign": "zoo.api",
}
"""Where what this package offers is defined: imported when it is asked for."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rpg-zoo")
    if name not in NAMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    return __all__
