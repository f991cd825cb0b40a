"""What the groups of a report are called, and of which kind each is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rpg.listing import method_name
from zoo.manifest import Origin
from zoo.store import Zoo

GENERATED = "generated"  # a single kind of generated networks
BASELINES = ("gaussian", "mean_of_all")  # of their names those that a method could have


def kind_of(zoo: Zoo) -> Literal["generated", "baseline"]:
    """Whether its networks come from a generator, ours or another whose networks were imported, or are a baseline."""
    return "generated" if zoo.manifest.origin.kind in ("generated", "imported") else "baseline"


def labels(zoos: Sequence[Zoo], taken: Sequence[str] = ()) -> dict[str, str]:
    """What each zoo is called, by its hash. Zoos that differ in nothing but seeds are called alike. A single kind of
    generated networks is `generated`; several are called as their methods, or as their zoos where two have the same or
    the name is taken, and by their places where two zoos have the same name, too.
    """
    groups: dict[str, list[Zoo]] = {}
    for zoo in zoos:
        groups.setdefault(_without_seeds(zoo.manifest.origin), []).append(zoo)
    firsts = [members[0] for members in groups.values()]
    generated = [zoo for zoo in firsts if kind_of(zoo) == "generated"]
    methods = [method_name(zoo.manifest.origin) for zoo in firsts]
    names: dict[str, str] = {}
    for members, method in zip(groups.values(), methods, strict=True):
        first = members[0]
        unclear = method is None or methods.count(method) > 1 or method in taken
        alike = sum(other.name == first.name for other in firsts) > 1
        name = (str(first.path) if alike else first.name) if unclear else str(method)
        if len(generated) == 1 and first is generated[0]:
            name = GENERATED
        names |= {zoo.sha256: name for zoo in members}
    return names


def _without_seeds(origin: Origin) -> str:
    def strip(tree: Any) -> Any:
        return {k: strip(v) for k, v in sorted(tree.items()) if k != "seed"} if isinstance(tree, dict) else tree

    return repr([origin.kind, origin.task, strip(origin.settings), origin.source])
