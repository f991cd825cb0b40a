"""Generators of neural networks: train them on zoos, draw new networks, compare these honestly.

import rpg, zoo

originals = zoo.collect("digits")
run = rpg.train(originals, method="rpg-tiny", steps=500)
new = rpg.generate(run, n=10)  # a zoo: new[0] is a state dict
rpg.report(originals, new).show()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpg.api import generate, load, train
    from rpg.evaluation import eval
    from rpg.reports.stage import report
    from rpg.run import Run

__all__ = ["Run", "__version__", "eval", "generate", "load", "report", "train"]

NAMES = {
    "Run": "rpg.run",
    "eval": "rpg.evaluation",
    "generate": "rpg.api",
    "load": "rpg.api",
    "report": "rpg.reports.stage",
    "train": "rpg.api",
}
"""Where what this package offers is defined: imported when it is asked for."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rpg-zoo")
    if name not in NAMES:
        raise AttributeError(f"module 'rpg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    return __all__
