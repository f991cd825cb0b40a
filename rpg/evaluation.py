"""Score weights: a zoo or a single file, and for binary tasks beside originals and baselines, task by task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rpg.reports.all_classes import classifier_of
from rpg.reports.task_report import tasks_json, tasks_text
from rpg.reports.tasks import TaskComparison, compare_tasks
from zoo import plugins
from zoo.api import PYTHON
from zoo.console import pick_device
from zoo.errors import Corrupt, MissingData, suggest
from zoo.manifest import settings_of
from zoo.recipe import is_recipe, load_recipe, recipe_names, task_of
from zoo.scoring import Score, score, score_file, table
from zoo.store import Zoo
from zoo.tasks import FAMILIES
from zoo.tasks.base import LabelledTask
from zoo.tasks.scripted import Script, with_script
from zoo.tasks.wrapped import build_to_score

Place = Path | str
OTHERS = 3  # zoos that might have been meant, in a message
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """The scores of a zoo's networks; `tasks` sets those generated for binary tasks beside the originals."""

    scores: list[Score]
    tasks: TaskComparison | None

    def text(self) -> str:
        tables = [table(self.scores), *([tasks_text(self.tasks)] if self.tasks else [])]
        return "\n\n".join(tables)

    def tasks_json(self) -> dict[str, Any]:
        return tasks_json(self.tasks) if self.tasks else {}


def eval(
    weights: Zoo | Place,
    *,
    task: str | None = None,
    out: Place | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> list[Score]:
    """The scores of all networks of a zoo on the test data of its task (default place: scores/<zoo>), or of a file that
    holds a network of recipe `task`.

    Raises ValueError when nobody knows what the networks do, MissingData when the data are not there.
    """
    if not isinstance(weights, Zoo) and Path(weights).is_file():
        return [eval_file(Path(weights), task, overrides, data_root, device, precision)]
    zoo = zoo_to_score(weights, task)
    target = Path(out or Path("scores") / zoo.name)
    return eval_zoo(zoo, target, None, overrides, data_root, device, precision, PYTHON).scores


def zoo_to_score(weights: Zoo | Place | None, task: str | None) -> Zoo:
    """The zoo that is meant: this one, of recipe or task family `task` where it is named, or else the newest generated
    one of `task`. Raises ValueError when neither is given, and when the zoo is of another task.
    """
    if weights is None:
        if task is None:
            raise ValueError("say which networks: a zoo or a file, or --task RECIPE for the newest of a recipe")
        return find_generated(task)
    zoo = weights if isinstance(weights, Zoo) else Zoo.open(weights)
    if task is not None:
        refuse_another_task(zoo, task)
    return zoo


def eval_file(
    path: Path,
    recipe: str | None,
    overrides: Sequence[str],
    data_root: Path | None,
    device: str,
    precision: str,
    script: Script | None = None,
) -> Score:
    """The score of one file, a whole network of the recipe's task. Raises ValueError without a recipe."""
    if recipe is None:
        raise ValueError(f"{path} does not say what its network does; name its recipe, as in --task digits")
    task = load_recipe(recipe, overrides).task.build(data_root, pick_device(device))
    return score_file(path, with_script(task, script), precision)


def eval_zoo(
    zoo: Zoo,
    out: Path,
    originals: Place | None,
    overrides: Sequence[str],
    data_root: Path | None,
    device: str,
    precision: str,
    command: tuple[str, ...],
    script: Script | None = None,
) -> Scored:
    """Scores of all networks, with what a script of the user's measures; where they were generated for binary tasks and
    their originals are at hand, or named, beside these.
    """
    section, chip = task_of(zoo.manifest.origin, overrides), pick_device(device)
    task = with_script(build_to_score(zoo.manifest.origin, section, data_root, chip), script)
    source, split = None, None
    if zoo.manifest.origin.kind == "generated" and task.conditions:
        source = Zoo.open(originals) if originals else find_source(zoo)
        split = split_learnt(zoo, source) if source else None
    elif originals:
        log.warning(f"--originals {originals} is ignored: it is for networks that were generated for binary tasks")
    scores = score(zoo, task, out, precision=precision)
    if source is None:
        return Scored(scores, None)
    origin = zoo.manifest.origin.model_copy(update={"command": command})
    classifier = classifier_of(section, data_root, chip)
    labelled = cast("LabelledTask", task)
    return Scored(scores, compare_tasks(source, zoo, labelled, origin, out, split or "train", classifier))


def refuse_another_task(zoo: Zoo, task: str) -> None:
    """Raise ValueError unless the zoo is of this recipe or task family."""
    origin = zoo.manifest.origin
    if recipe_name(task) not in (origin.name, origin.family):
        refuse_unknown(task)
        raise ValueError(f"{zoo.path} was made for {origin.name} ({origin.family}), not for --task {task}")


def recipe_name(task: str) -> str:
    """A recipe's own name, where a file is given; any other name as it is."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def refuse_unknown(task: str) -> None:
    """Raise ValueError for a name that is neither a recipe, nor a task family, nor what a zoo under zoos/ came from."""
    zoos = {zoo.manifest.origin.name for zoo in _zoos_under(Path("zoos"))}
    names = [*recipe_names(), *FAMILIES, *plugins.names("tasks"), *sorted(zoos)]
    if task not in names and not Path(task).is_file():
        raise ValueError(f"no recipe or task named {task!r}{suggest(task, names)}")


def find_generated(task: str) -> Zoo:
    """The newest generated zoo under zoos/ for this recipe or task. Raises MissingData when there is none, ValueError
    when the name means nothing.
    """
    found = [
        zoo
        for zoo in _zoos_under(Path("zoos"))
        if (origin := zoo.manifest.origin).kind == "generated" and recipe_name(task) in (origin.name, origin.family)
    ]
    if len(found) > 1:
        others = ", ".join(str(zoo.path) for zoo in found[1 : 1 + OTHERS])
        log.info(
            f"{found[0].path} is the newest of {len(found)} generated zoos for {task}; name another to choose it, "
            f"as in {others}"
        )
    if found:
        return found[0]
    refuse_unknown(task)
    raise MissingData(
        f"no generated zoo for {task!r} under zoos/; make one with `rpg generate {recipe_name(task)}`, or name one"
    )


def find_collected() -> tuple[str, str | None]:
    """What to give `rpg train` for the newest collected zoo under zoos/, and its --zoo: the recipe that collected it,
    where its networks are still that recipe's, or the zoo's place alone. Raises ValueError when there is none.
    """
    for zoo in _zoos_under(Path("zoos")):
        origin = zoo.manifest.origin
        if origin.kind == "collected":
            if is_recipe(zoo.name):
                return zoo.name, None
            known = origin.name in recipe_names() and settings_of(load_recipe(origin.name).task) == origin.task
            return (origin.name, str(zoo.path)) if known else (str(zoo.path), None)
    raise ValueError(
        "say what to learn, as there is no collected zoo under zoos/ yet: collect one with `rpg-zoo collect RECIPE` "
        "(`rpg-zoo recipes` lists them), or name one, as in rpg train --zoo DIR"
    )


def _zoos_under(place: Path) -> list[Zoo]:
    """The finished zoos in a directory, the newest first."""
    manifests = sorted(place.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    zoos = []
    for manifest in manifests:
        try:
            zoos.append(Zoo.open(manifest.parent))
        except Corrupt as error:
            log.warning("passing over a damaged zoo: %s", error)
    return zoos


def find_source(zoo: Zoo) -> Zoo | None:
    """The zoo that this one was learnt from, by its hash: beside this one, or under zoos/; None where it is not."""
    source = zoo.manifest.origin.source
    if source is None:
        return None
    for folder in (zoo.path.parent, Path("zoos")):
        for other in _zoos_under(folder):
            if other.sha256 == source.zoo:
                return other
    return None


def split_learnt(zoo: Zoo, originals: Zoo) -> str | None:
    """The split of the originals that a zoo was learnt from. Raises ValueError for one that was learnt from others."""
    source = zoo.manifest.origin.source
    if source is None:
        return None
    if source.zoo != originals.sha256:
        raise ValueError(
            f"{zoo.path} was learnt from another zoo than {originals.path}: from {source.name} ({source.zoo[:12]}); "
            "compare them apart"
        )
    return source.split
