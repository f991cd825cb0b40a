"""What made generated networks, for readers: settings by their name, and how long they were trained with."""

from __future__ import annotations

from typing import Any

from rpg.reports.compare import ABOUT
from rpg.reports.labels import kind_of
from rpg.run import Run, read_losses
from zoo.manifest import Origin, differences, settings_of
from zoo.names import method_names, recipe_names
from zoo.recipe import load_method, load_recipe
from zoo.store import Zoo

MOST = 3  # changed settings that are named


def made_by(zoo: Zoo, run: Run | None) -> str:
    """What its networks are, with training steps where the run is at hand; empty where no method of ours made them. Of
    seeds of one generator one speaks for all.
    """
    settings = settings_said(zoo.manifest.origin)
    if kind_of(zoo) != "generated" or not settings:
        return ""
    losses = read_losses(run) if run else []
    steps = f"{losses[-1][0]:,} training steps" if losses else ""
    return ", ".join(filter(None, (ABOUT["generated"], zoo.manifest.selection, steps, settings)))


def settings_said(origin: Origin) -> str:
    """The settings that come with the package, or the recipe's, which an artefact was made with; where they were
    changed, the nearest, and what is otherwise but seeds. Empty where no method is on record.
    """
    tree = origin.settings.get("method")
    if not isinstance(tree, dict):
        return ""
    name = str(tree.get("name"))
    known: dict[str, Any] = {
        f"settings {one}": load_method(one)[0] for one in method_names() if f"{one}-".startswith(f"{name}-")
    }
    if origin.name in recipe_names():
        known[f"settings of recipe {origin.name}"] = load_recipe(origin.name).method
    changes = {
        what: [line for line in differences(settings_of(config), tree) if not _is_seed(line)]
        for what, config in known.items()
        if config is not None and config.name == name
    }
    if not changes:
        return f"method {name}"
    nearest = min(changes, key=lambda what: len(changes[what]))
    changed = changes[nearest]
    more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
    return f"{nearest} but for {'; '.join(changed[:MOST])}{more}" if changed else nearest


def _is_seed(change: str) -> bool:
    return change.split(" ")[0].split(".")[-1] == "seed"
