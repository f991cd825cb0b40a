"""Recipes: strict YAML that says what is made. What belongs to the machine (device, workers, data roots) is never in
a recipe.

extends: _base/rpg-tiny      # optional: another recipe, merged under this one
task: ...                    # what the networks do: model, data, loss, evaluator
zoo: ...                     # how checkpoints are collected
rpg: ...  generate: ...  eval: ...
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import AliasEvent, YAMLError

from zoo.errors import suggest
from zoo.manifest import RECIPE_CHARACTERS, Origin, OriginKind, versions
from zoo.structure import Frozen
from zoo.tasks import task_module

# Where each section's schema lives. Names, not imports: a typo in `rpg:` must stop `rpg-zoo collect` before hours of
# work, while zoo code stays unaware of generators.
SECTIONS = {
    "task": "zoo.tasks",  # a schema per task family
    "zoo": "zoo.collect:CollectConfig",
    "rpg": "rpg.config:RPGConfig",
    "generate": "rpg.config:GenerateConfig",
    "eval": "rpg.config:EvalConfig",
}

MAX_BRACKETS = 1000  # PyYAML takes time quadratic in their nesting
NOT_YAML = (YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, AssertionError)

Section = TypeVar("Section", bound=Frozen)


@dataclass(frozen=True)
class Recipe:
    """A resolved and validated recipe. `text` is the whole of it as YAML, `sha256` the hash of its content."""

    name: str
    text: str
    sha256: str
    sections: dict[str, Frozen]

    @property
    def task_name(self) -> str:
        """The task family, for example `classification`."""
        return str(self.sections["task"].model_dump()["name"])

    def origin(
        self,
        kind: OriginKind,
        command: tuple[str, ...],
        parents: tuple[str, ...] = (),
        settings: Frozen | None = None,
    ) -> Origin:
        """The origin of what `command` makes from this recipe, from `parents` and with `settings`."""
        return Origin(
            name=self.name,
            kind=kind,
            task=self.task_name,
            recipe=self.text,
            recipe_sha256=self.sha256,
            settings=settings.model_dump(mode="json") if settings else {},
            command=command,
            versions=versions(),
            parents=parents,
        )

    def section(self, name: str, kind: type[Section]) -> Section:
        section = self.sections[name]
        assert isinstance(section, kind)
        return section


def recipes_root() -> Path:
    """The directory of the recipes that come with the package."""
    return Path(str(resources.files("recipes")))


def recipe_names() -> dict[str, Path]:
    """Short names of all runnable recipes and their files. Those in `_base` only serve `extends:`."""
    files = sorted(recipes_root().rglob("*.yaml"))
    return {file.stem: file for file in files if not {"_base", "_methods"} & set(file.parts)}


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe with this short name or path, with `a.b=c` overrides applied under the same validation.

    Raises ValueError, in one line, for an unknown name, key, type or value.
    """
    path = _find(source)
    return _validated(path.stem, _merged(_read_extended(path, ()), overrides))


def base_names() -> list[str]:
    """The names in `_base`: what `extends:` can build on."""
    return sorted(file.stem for file in (recipes_root() / "_base").glob("*.yaml"))


def load_base(name: str, overrides: Sequence[str] = ()) -> dict[str, Frozen]:
    """The sections `rpg:`, `generate:` and `eval:` of a recipe in `_base`, which has no task. Raises ValueError as
    `load_recipe` does.
    """
    path = recipes_root() / "_base" / f"{name}.yaml"
    tree = _merged(_read_extended(path, ()), overrides)
    _known_sections(name, tree)
    return {key: _section(name, key, tree.get(key, {})) for key in SECTIONS if key not in ("task", "zoo")}


def recipe_from_text(name: str, text: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe as a manifest keeps it: resolved, so `extends` is not allowed.

    The text may be anyone's. It names no code but the registered tasks (zoo.tasks.FAMILIES), and nothing in it reads a
    file or the environment.
    """
    return _validated(name, _merged(_parse(text, f"the recipe of {name}"), overrides))


def recipe_of(origin: Origin, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a zoo or run carries. Raises ValueError when it is broken, or the zoo was imported without."""
    if not origin.recipe:
        raise ValueError(
            f"the zoo {origin.name} was imported without a recipe, so nobody knows what its networks do; import it "
            "again with --recipe NAME"
        )
    return recipe_from_text(origin.name, origin.recipe, overrides)


def _find(source: str) -> Path:
    if source.endswith((".yaml", ".yml")) or "/" in source:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"no recipe file {source}; `rpg-zoo recipes` lists the short names")
        return path
    names = recipe_names()
    if source not in names:
        raise ValueError(f"no recipe named {source!r}{suggest(source, names)}")
    return names[source]


def _read_extended(path: Path, seen: tuple[Path, ...]) -> Any:
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself")
    tree = _parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    base = tree.pop("extends", None)
    if base is None:
        return tree
    candidates = [path.parent / f"{base}.yaml", recipes_root() / f"{base}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            try:
                return OmegaConf.merge(_read_extended(candidate, (*seen, path.resolve())), tree)
            except OmegaConfBaseException as error:
                raise ValueError(
                    f"{path} does not fit onto {candidate}: {' '.join(str(error).split())[:200]}"
                ) from error
    raise ValueError(f"{path} extends {base!r}, which is neither {candidates[0]} nor {candidates[1]}")


def _parse(text: str, where: str) -> Any:
    if len(text) > RECIPE_CHARACTERS or sum(map(text.count, "[{")) > MAX_BRACKETS:
        raise ValueError(
            f"{where} is too large: more than {RECIPE_CHARACTERS:,} characters or {MAX_BRACKETS} brackets; expected a "
            "few thousand characters"
        )
    try:
        if any(isinstance(event, AliasEvent) for event in yaml.parse(text)):
            raise ValueError("aliases are not allowed: a few of them unfold to billions of values")
        tree = OmegaConf.create(text)
    except NOT_YAML as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not OmegaConf.is_dict(tree):
        raise ValueError(f"{where} must be a mapping with the sections {', '.join(SECTIONS)}")
    if reference := re.search(r"\$\{[^\n]{0,80}", text):
        raise ValueError(
            f"{where} holds {reference[0]}; values that refer to others, or to the environment, are refused"
        )
    return tree


def _merged(tree: Any, overrides: Sequence[str]) -> Any:
    """The tree with `a.b=c` pairs put over it, as plain dictionaries."""
    for pair in overrides:
        if "=" not in pair or "" in pair.partition("=")[0].split("."):
            raise ValueError(f"--set {pair}: expected key.path=value, for example --set rpg.train.steps=1000")
    try:
        return OmegaConf.to_container(OmegaConf.merge(tree, OmegaConf.from_dotlist(list(overrides))))
    except NOT_YAML as error:
        where = f"--set {' '.join(overrides)}" if overrides else "the recipe"
        raise ValueError(f"{where}: {' '.join(str(error).split())[:200]}") from error


def _known_sections(name: str, tree: Any) -> None:
    for key in tree:
        if key not in SECTIONS:
            raise ValueError(f"recipe {name}: unknown section {key!r}{suggest(str(key), SECTIONS)}")


def _validated(name: str, tree: Any) -> Recipe:
    _known_sections(name, tree)
    sections = {key: _section(name, key, tree.get(key, {})) for key in SECTIONS}
    text = OmegaConf.to_yaml(OmegaConf.create(tree))
    content = json.dumps({key: section.model_dump(mode="json") for key, section in sections.items()}, sort_keys=True)
    return Recipe(name, text, hashlib.sha256(content.encode()).hexdigest(), sections)


def _schema(key: str, tree: Mapping[str, Any]) -> type[Frozen]:
    if key == "task":
        if "name" not in tree:
            raise ValueError("task.name is required: the task family, as in `task: {name: classification}`")
        return task_module(str(tree.get("name"))).Config
    module, _, attribute = SECTIONS[key].partition(":")
    return getattr(import_module(module), attribute)


def _section(name: str, key: str, tree: Any) -> Frozen:
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {name}: {key} must be a mapping, not {tree!r}")
    return validate(_schema(key, tree), tree, f"recipe {name}: {key}")


def validate(schema: type[Section], tree: Mapping[str, Any], where: str) -> Section:
    """The tree as a `schema`. Raises ValueError with a line that says, for every fault, where and what was expected.

    `where` is the tree's own place; the paths of the faults continue it.
    """
    try:
        return schema.model_validate_json(json.dumps(tree))
    except TypeError as error:
        raise ValueError(f"{where}: {error}; expected plain numbers, text, lists and mappings") from error
    except ValidationError as error:
        prefix, _, root = where.rpartition(" ")
        faults = [_explain(schema, root, fault) for fault in error.errors(include_url=False)]
        raise ValueError(f"{prefix} {'; '.join(faults)}".strip()) from error


def _explain(schema: type[BaseModel], root: str, fault: ErrorDetails) -> str:
    """One validation fault as `path: what is wrong`."""
    path = ".".join(filter(None, [root, *map(str, fault["loc"])]))
    if fault["type"] == "extra_forbidden":
        return f"{path} is not a known key{suggest(str(fault['loc'][-1]), _fields(schema, fault['loc'][:-1]))}"
    if fault["type"] == "value_error":
        return f"{path}: {fault['ctx']['error']!s}"
    if fault["type"] == "missing":
        return f"{path} is required"
    return f"{path}: {fault['msg']}, got {json.dumps(fault['input'])[:80]}"


def _fields(schema: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    for part in path:
        annotation = schema.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        schema = annotation
    return list(schema.model_fields)
