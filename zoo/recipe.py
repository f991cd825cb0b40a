"""Recipes: strict YAML that says what is made. What belongs to the machine (device, workers, data roots) is never in
a recipe.

about: ...                   # for people: what it is and what to expect of it (zoo.about); in no fingerprint
extends: _methods/rpg-tiny   # optional: another recipe, merged under this one, but for its `about:`
task: ...                    # what the networks do: model, data, loss, evaluator
zoo: ...                     # how checkpoints are collected
method: ...  generate: ...   # what learns them, and how it draws new ones; files in _methods hold these two alone
eval: ...                    # what generated networks are compared with
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import AliasEvent, YAMLError

from zoo import plugins
from zoo.about import About
from zoo.errors import brief, suggest
from zoo.manifest import Origin, settings_of, versions
from zoo.names import method_names, recipe_names, recipes_root
from zoo.structure import Frozen
from zoo.tasks import config_class
from zoo.tasks.base import TaskConfig
from zoo.training.collect import CollectConfig

# Where the schemas of generators live. Names, not imports: a typo in `method:` must stop `rpg-zoo collect` before hours
# of work, while zoo code stays unaware of generators.
METHODS = "rpg.methods"
EVAL = "rpg.config:EvalConfig"
SECTIONS = ("about", "task", "zoo", "method", "generate", "eval")

RECIPE_CHARACTERS = 2**16
MAX_BRACKETS = 1000  # PyYAML takes time quadratic in their nesting
NOT_YAML = (YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, AssertionError)

Section = TypeVar("Section", bound=Frozen)


@dataclass(frozen=True)
class Recipe:
    """A resolved and validated recipe. `method` and `generate` are rpg.methods' MethodConfig and DrawConfig, None in a
    recipe without a method; `eval` is rpg.config.EvalConfig. `about` is for people, and no part of what is made.
    """

    name: str
    task: TaskConfig
    zoo: CollectConfig
    method: Frozen | None
    generate: Frozen | None
    eval: Frozen
    about: About | None = None

    def collected(self, command: tuple[str, ...]) -> Origin:
        """The origin of the zoo that `command` collects."""
        return Origin(
            name=self.name,
            kind="collected",
            task=settings_of(self.task),
            settings={"zoo": settings_of(self.zoo)},
            command=command,
            versions=versions(),
        )


def is_recipe(name: str) -> bool:
    """Whether this is a recipe's short name, or the name of a YAML file."""
    return name.endswith((".yaml", ".yml")) or name in recipe_names()


def load_recipe(source: str, overrides: Sequence[str] = (), method: str | None = None) -> Recipe:
    """The recipe with this short name or path, with `a.b=c` overrides applied under the same validation. `method` is
    the name of settings in `_methods`, or a file, that take the place of the recipe's `method:` and, but for `n` and
    `seed`, its `generate:`.

    Raises ValueError, in one line, for an unknown name, key, type or value.
    """
    path = _find(source)
    tree = _read_extended(path, ())
    if method is not None:
        tree.pop("method", None)
        asked = tree.pop("generate", None) or {}
        kept = {key: asked[key] for key in ("n", "seed") if key in asked}  # which any method has
        tree = OmegaConf.merge(tree, _read_method(method), {"generate": kept})
    return _validated(path.stem, _merged(tree, overrides))


@dataclass(frozen=True)
class Purpose:
    """What networks do, and the name of the recipe that says so."""

    name: str
    task: TaskConfig


def load_purpose(source: str, overrides: Sequence[str] = ()) -> Purpose:
    """The task of the recipe with this short name or path, which need not say how to collect or learn its networks.
    Raises ValueError as `load_recipe` does.
    """
    path = _find(source)
    tree = _merged(_read_extended(path, ()), overrides)
    _known_sections(path.stem, tree)
    return Purpose(path.stem, _task(path.stem, tree.get("task", {})))


def load_method(name: str, overrides: Sequence[str] = ()) -> tuple[Frozen, Frozen]:
    """The sections `method:` and `generate:` of settings in `_methods`, or of a file. Raises ValueError as
    `load_recipe` does.
    """
    tree = _merged(_read_method(name), overrides)
    for key in tree:
        if key not in ("method", "generate"):
            raise ValueError(
                f"{key} is not a setting of method {name}; expected method. or generate., as in method.name"
            )
    config, draw = _method(name, tree)
    assert config is not None
    assert draw is not None
    return config, draw


def task_of(origin: Origin, overrides: Sequence[str] = ()) -> TaskConfig:
    """What the networks of this origin do, with `task.a=b` overrides. The origin may be anyone's: it names no code but
    the tasks that are known here (zoo.tasks.config_class), and nothing in it reads a file or the environment.

    Raises ValueError when it is broken, or nobody said what the networks do.
    """
    if not origin.task:
        raise ValueError(
            f"nobody said what the networks of {origin.name} do; import them again with `rpg-zoo import --recipe NAME`"
        )
    if "${" in json.dumps(origin.task):
        raise ValueError(f"the task of {origin.name} refers to other values, or to the environment, which is refused")
    tree = _merged(OmegaConf.create({"task": origin.task}), overrides)
    if unknown := [key for key in tree if key != "task"]:
        raise ValueError(f"--set {unknown[0]} changes nothing here; expected task., as in task.image_size=32")
    try:
        config_class(origin.family)
    except ValueError as error:
        raise ValueError(f"what the networks of {origin.name} do: {error}{plugins.needed(origin.versions)}") from error
    return _task(origin.name, tree["task"])


def eval_of(overrides: Sequence[str]) -> Frozen:
    """The section `eval:` out of `eval.a=b` overrides alone."""
    return _section("--set", "eval", _merged(OmegaConf.create({}), overrides).get("eval", {}))


def drawn_of(overrides: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the section `generate:` by overrides and by options of their own. Raises ValueError for keys of
    another section, and for one that is given both ways.
    """
    tree = _merged({}, overrides)
    if others := [key for key in tree if key != "generate" or not isinstance(tree[key], dict)]:
        raise ValueError(f"--set {others[0]}: a run is drawn from by its section generate; expected generate.KEY=VALUE")
    settings = tree.get("generate", {})
    if twice := sorted(settings.keys() & flags.keys()):
        raise ValueError(f"generate.{twice[0]} is given by --set and by an option of its own; expected one of the two")
    return {**settings, **flags}


def keyword_overrides(sections: Mapping[str, type[BaseModel] | BaseModel], keywords: Mapping[str, Any]) -> list[str]:
    """Keywords of the Python API as `a.b=c` overrides: `steps=500` is `method.train.steps=500` where no other field of
    the `sections`, schemas or settings by name, is called so. Raises ValueError for a name that no field has, or
    several.
    """
    paths = [path for name, section in sections.items() for path in field_paths(section, name)]
    found = []
    for name, value in keywords.items():
        fitting = [path for path in paths if path.rpartition(".")[2] == name]
        if not fitting:
            raise ValueError(f"there is no setting {name}{suggest(name, {path.rpartition('.')[2] for path in paths})}")
        if len(fitting) > 1:
            raise ValueError(f"{name} could be {' or '.join(fitting)}; give overrides=['{fitting[0]}=...']")
        try:
            found.append(f"{fitting[0]}={json.dumps(value)}")
        except TypeError as error:
            raise ValueError(f"{name} is a {type(value).__name__}; expected a plain number, text or list") from error
    return found


def field_paths(section: type[BaseModel] | BaseModel, prefix: str) -> Iterator[str]:
    """The dotted paths of all fields of a schema, those of nested schemas included, but for optional ones; or of
    settings, those of all sections that are there.
    """
    schema = section if isinstance(section, type) else type(section)
    for name, field in schema.model_fields.items():
        path = f"{prefix}.{name}"
        yield path
        inner = field.annotation if isinstance(section, type) else getattr(section, name)
        if isinstance(inner, BaseModel) or (isinstance(inner, type) and issubclass(inner, BaseModel)):
            yield from field_paths(inner, path)


def _read_method(name: str) -> Any:
    names = method_names()
    if name not in names and name in plugins.names("methods"):
        return OmegaConf.create({"method": {"name": name}})
    if name not in names and not name.endswith((".yaml", ".yml")):
        own = [known for known in names if known.startswith(f"{name}-")]  # `rpg` is a method, `rpg-tiny` its settings
        if own:
            raise ValueError(f"no settings are named {name!r} alone; expected one of {', '.join(own)}")
        raise ValueError(f"no method named {name!r}{suggest(name, names) or '; `rpg methods` lists them'}")
    path = names.get(name) or Path(name)
    if not path.is_file():
        raise ValueError(f"no file {path} with a method's settings; `rpg methods` lists the names")
    return _read_extended(path, ())


def _find(source: str) -> Path:
    if source.endswith((".yaml", ".yml")) or "/" in source:
        path = Path(source)
        if not _is_file(path):
            raise ValueError(f"no recipe file {source}; `rpg-zoo recipes` lists the short names")
        return path
    names = recipe_names()
    if source not in names:
        raise ValueError(f"no recipe named {source!r}{suggest(source, names)}")
    return names[source]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have, as one that is too long
        return False


def _read_extended(path: Path, seen: tuple[Path, ...]) -> Any:
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself")
    tree = _parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    base = tree.pop("extends", None)
    if base is None:
        return tree
    name, root = str(base).removesuffix(".yaml"), recipes_root()
    named = recipe_names().get(name)  # by its short name, which a file beside goes before
    candidates = [path.parent / f"{name}.yaml", root / f"{name}.yaml"]
    candidates += [named] if named and named.resolve() != path.resolve() else []
    for candidate in [*candidates, root / "_methods" / f"{name}.yaml"]:
        if _is_file(candidate):
            try:
                under = _read_extended(candidate, (*seen, path.resolve()))
                under.pop("about", None)  # which is about that recipe
                return OmegaConf.merge(under, tree)
            except OmegaConfBaseException as error:
                raise ValueError(f"{path} does not fit onto {candidate}: {brief(error)}") from error
    raise ValueError(
        f"{path} extends {str(base)[:80]!r}, which is neither a file beside it, nor one in {root}, nor the short name "
        f"of a recipe{suggest(str(base), recipe_names())}"
    )


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
        raise ValueError(f"{where} is not YAML: {brief(error)}") from error
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
            raise ValueError(f"--set {pair}: expected key.path=value, for example --set method.train.steps=1000")
    try:
        return OmegaConf.to_container(OmegaConf.merge(tree, OmegaConf.from_dotlist(list(overrides))))
    except NOT_YAML as error:
        where = f"--set {' '.join(overrides)}" if overrides else "the recipe"
        why = "a list stands where a section is; expected SECTION.KEY=VALUE" if "Cannot merge" in str(error) else ""
        raise ValueError(f"{where}: {why or brief(error)}") from error


def _known_sections(name: str, tree: Any) -> None:
    for key in tree:
        if key not in SECTIONS:
            raise ValueError(f"recipe {name}: unknown section {key!r}{suggest(str(key), SECTIONS)}")


def _validated(name: str, tree: Any) -> Recipe:
    _known_sections(name, tree)
    task, zoo = _task(name, tree.get("task", {})), _section(name, "zoo", tree.get("zoo", {}))
    assert isinstance(zoo, CollectConfig)
    method, draw = _method(name, tree)
    about = _section(name, "about", tree["about"]) if "about" in tree else None
    assert about is None or isinstance(about, About)
    return Recipe(name, task, zoo, method, draw, _section(name, "eval", tree.get("eval", {})), about)


def _task(name: str, tree: Any) -> TaskConfig:
    section = _section(name, "task", tree)
    assert isinstance(section, TaskConfig)
    return section


def _method(name: str, tree: Any) -> tuple[Frozen | None, Frozen | None]:
    """The sections `method:` and `generate:`, which depends on the method."""
    if "method" not in tree:
        if "generate" in tree:
            raise ValueError(f"recipe {name}: generate needs a method; set method.name or leave generate out")
        return None, None
    section: Any = _section(name, "method", tree["method"])
    draw = _validate_section(section.draw_config, name, "generate", tree.get("generate", {}))
    section.check_draw(draw)
    return section, draw


def _schema(key: str, tree: Mapping[str, Any]) -> type[Frozen]:
    if key == "about":
        return About
    if key == "zoo":
        return CollectConfig
    if key == "eval":
        module, _, attribute = EVAL.partition(":")
        return getattr(import_module(module), attribute)
    if "name" not in tree:
        example = {"task": "`task: {name: classification}`", "method": "`method: {name: rpg}`"}[key]
        raise ValueError(f"{key}.name is required, as in {example}")
    if key == "task":
        return config_class(str(tree["name"]))
    return import_module(METHODS).method_schema(str(tree["name"]))


def _section(name: str, key: str, tree: Any) -> Frozen:
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {name}: {key} must be a mapping, not {tree!r}")
    return _validate_section(_schema(key, tree), name, key, tree)


def _validate_section(schema: type[Frozen], name: str, key: str, tree: Any) -> Frozen:
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {name}: {key} must be a mapping, not {tree!r}")
    return validate(schema, tree, f"recipe {name}: {key}")


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
        return _unknown(schema, root, fault)
    if fault["type"] == "value_error":
        return f"{path}: {fault['ctx']['error']!s}".removeprefix(": ")
    if fault["type"] == "missing":
        return f"{path} is required"
    return f"{path}: {fault['msg']}, got {json.dumps(fault['input'])[:80]}"


def _unknown(schema: type[BaseModel], root: str, fault: ErrorDetails) -> str:
    """That there is no such key, and where one of its name is, or what there is beside it."""
    *above, first = map(str, fault["loc"])
    below, everything = _said(fault["input"]), list(_paths(schema))
    key = [first, *below][-1]
    places = [".".join(filter(None, [root, *path])) for path in everything if path[-1] == key]
    known = suggest(first, [path[-1] for path in everything if path[:-1] == tuple(above)])
    there = f"; there is {' and '.join(places)}" if places else known
    return f"{'.'.join(filter(None, [root, *above, first, *below]))} is not a known key{there}"


def _said(tree: Any) -> list[str]:
    """The names on the way to the one setting in a tree, where it holds one only."""
    names = []
    while isinstance(tree, dict) and len(tree) == 1:
        [(name, tree)] = tree.items()
        names.append(str(name))
    return names


def _paths(schema: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """All keys of a schema and of the sections in it."""
    for name, field in schema.model_fields.items():
        yield (name,)
        for section in get_args(field.annotation) or [field.annotation]:
            if isinstance(section, type) and issubclass(section, BaseModel):
                yield from ((name, *path) for path in _paths(section))
