"""The licence that weights are published under: that of the data and weights they were made of, or the one given."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.fetch.released import RELEASED
from zoo.manifest import Origin
from zoo.recipe import task_of
from zoo.tasks.base import TaskConfig


@dataclass(frozen=True)
class Ingredient:
    """A data set or pretrained weights. `license` is its identifier on the Hub, None where there is none that others
    can pass on; `terms` is for people.
    """

    name: str
    license: str | None
    terms: str

    def __str__(self) -> str:
        return f"{self.name}: {self.terms}"


PLACEHOLDER = "unknown"
RESEARCH = "non-commercial research and education"
DATA = {
    "digits": ("cc-by-4.0", "CC BY 4.0 (UCI, optical recognition of handwritten digits)"),
    "commonsense_170k": ("odc-by", "ODC-By (LLM-Adapters)"),
    "made_questions": ("mit", "made by rpg-zoo"),
    "cifar10": (None, "its authors state no licence"),
    "cifar100": (None, "its authors state no licence"),
    "imagenet": (None, f"{RESEARCH} (ImageNet's terms of access)"),
    "ade20k": (None, f"{RESEARCH} (ADE20K's terms of use)"),
    "coco": (None, "annotations CC BY 4.0, images under Flickr's terms"),
}
"""License and terms of data sets, as who made them states them."""

BASES = {
    "yahma/llama-7b-hf": (None, "Meta's LLaMA licence, for research; not to be passed on"),
    "made:tiny-llama": ("mit", "made by rpg-zoo, random"),
}
"""The same of pretrained weights; timm states those of its own."""


def ingredients(origin: Origin) -> list[Ingredient]:
    """What weights of this origin were made of: a data set, and pretrained weights if any."""
    task = task_of(origin) if origin.task else None
    data = str(getattr(task, "source", getattr(task, "data", origin.family)))
    found = [Ingredient(data, *DATA.get(data, (None, "see where it comes from")))]
    if task is None:
        return found
    pretrained = getattr(task, "pretrained", None)
    if task.library == "peft":
        base = task.library_config()["base_model_name_or_path"]
        found.append(Ingredient(base, *BASES.get(base, (None, "see where it comes from"))))
    elif pretrained is True and task.library == "timm":
        license = task.library_config()["pretrained_cfg"].get("license")
        found.append(Ingredient(getattr(task, "model", ""), license, license or "timm states no licence"))
    elif pretrained is True and (known := RELEASED.get((str(task.library), _network(task)))):
        found.append(Ingredient(known.name, None, known.terms))
    elif pretrained:
        found.append(Ingredient(str(pretrained), None, "see where it comes from"))
    return found


def _network(task: TaskConfig) -> str:
    return str(getattr(task, "size", getattr(task, "model", "")))


def license_or_placeholder(origin: Origin, given: str | None) -> str:
    """`license_for`, and PLACEHOLDER where there is none: for a card that is looked at, not published."""
    try:
        return license_for(origin, given)
    except ValueError:
        return PLACEHOLDER


def license_for(origin: Origin, given: str | None) -> str:
    """The licence of weights of this origin: the given one, or else the one that all their ingredients have. Raises
    ValueError when there is none.
    """
    if given:
        return given
    found = ingredients(origin)
    licenses = {part.license for part in found}
    if len(licenses) == 1 and (license := licenses.pop()):
        return license
    raise ValueError(
        f"the licence of these weights is not known, which were made of {'; '.join(map(str, found))}. Say which one it "
        "is with --license, as in --license cc-by-4.0 (or --license other)"
    )
