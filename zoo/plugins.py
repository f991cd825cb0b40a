"""Code of the user's own: files and modules that `--import` names, what they register, and installed packages that
offer themselves as entry points (`rpg_zoo.tasks`, `rpg_zoo.methods`, `rpg_zoo.networks`).

Nothing in a recipe or a manifest lets code in: they may be anyone's. They hold names, which mean something only where
the user has imported, registered or installed what bears them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from zoo.errors import Corrupt, Failed, MissingData, MissingExtra, brief, suggest

log = logging.getLogger(__name__)

Group: TypeAlias = Literal["tasks", "methods", "networks"]
Schema = TypeVar("Schema")
NOUNS: dict[Group, str] = {"tasks": "task", "methods": "method", "networks": "network"}
REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")
FILE_REFERENCE = re.compile(r"(?:.*/)?(?P<stem>[A-Za-z_]\w*)\.py:(?P<attribute>[A-Za-z_]\w*)")
IMPORTED, PACKAGE = "--import ", "package "  # how `notes` begin
PRETRAINED = "pretrained "  # how notes on the weights that training starts from do (TaskConfig.started_from)
OURS = (Corrupt, Failed, MissingData, MissingExtra)


@dataclass(frozen=True)
class Code:
    """A module that the user let in. Of a file the source goes along, so that a worker elsewhere runs the same."""

    name: str
    path: str = ""
    source: bytes | None = None

    @property
    def note(self) -> tuple[str, str]:
        """How it was named, without its directory, and the head of its SHA-256."""
        source = self.source
        if source is None:
            file = getattr(sys.modules.get(self.name), "__file__", None)
            source = Path(file).read_bytes() if file and Path(file).is_file() else b""
        return IMPORTED + (Path(self.path).name or self.name), f"sha256 {hashlib.sha256(source).hexdigest()[:12]}"


# Filled by the user's word alone: `let_in`, `register`, and the use of an installed package.
_let_in: dict[str, Code] = {}
_registered: dict[Group, dict[str, Any]] = {"tasks": {}, "methods": {}, "networks": {}}
_packages: dict[str, str] = {}


def let_in(named: str) -> None:
    """Import a file, or a module by its dotted name, as `--import` does: the user trusts it. What it registers is known
    from then on, and `task.model` may name its classes.

    Raises ValueError, in one line, for what is not there, has the name of another module, or raises on import.
    """
    is_file = named.endswith(".py") or "/" in named
    if is_file:
        path = Path(named)
        if not path.is_file() or path.suffix != ".py":
            raise ValueError(f"--import {named}: no such file; expected a .py file, or the name of an installed module")
        run(Code(_module_name(path), str(path.resolve()), path.read_bytes()))
    else:
        run(Code(named))


def run(code: Code) -> None:
    """Import a module that was let in: here, or in a process that this one has work for. Raises ValueError."""
    if code != _let_in.get(code.name) or code.name not in sys.modules:
        with guarded(f"--import {Path(code.path).name or code.name}", code.path):
            if code.source is None:
                import_module(code.name)
            else:
                _run_file(code)
    _let_in[code.name] = code


def _module_name(path: Path) -> str:
    """The name of a file as a module. Raises ValueError where that is none, or another module has it, which whoever
    imports that one by its name would get instead.
    """
    name = path.stem
    if not name.isidentifier():
        raise ValueError(f"--import {path}: {name!r} is no name for a module; rename the file, as in my_net.py")
    if name not in _let_in:
        there = sys.modules[name] if name in sys.modules else importlib.util.find_spec(name)
        origin = getattr(there, "__file__", None) or getattr(there, "origin", None)
        if there is not None and (origin is None or Path(origin).resolve() != path.resolve()):
            raise ValueError(f"--import {path}: there is another module {name}; rename the file, as in my_{name}.py")
    return name


class _Source(SourceLoader):
    """Loads a module from a source that was read already."""

    def __init__(self, code: Code) -> None:
        self._code = code

    def get_filename(self, fullname: str) -> str:
        return self._code.path

    def get_data(self, path: str | bytes) -> bytes:
        if path != self._code.path:
            raise OSError(f"no file {path!r}")  # bytecode, of which none is kept
        return self._code.source or b""


def _run_file(code: Code) -> None:
    """Run the source as a module. It may import the files beside it; afterwards these go by no name of others."""
    spec = importlib.util.spec_from_loader(code.name, _Source(code), origin=code.path)
    assert spec
    assert spec.loader
    spec.has_location = True  # so that the module has its `__file__`
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(code.name)
    sys.modules[code.name] = module  # as for any module: classes find their own, pickles too
    folder = str(Path(code.path).parent)
    sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[code.name]
        if before is not None:
            sys.modules[code.name] = before
        raise
    finally:
        sys.path.remove(folder)


@contextmanager
def guarded(what: str, path: str = "") -> Iterator[None]:
    """Around code of the user's: what it prints goes to stderr, and whatever it raises becomes a ValueError of one line
    that says where in the file it happened.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except OURS:
        raise
    except (Exception, SystemExit) as error:
        files = {path, *(code.path for code in _let_in.values())} - {""}
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        where = f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
        raise ValueError(f"{what} failed: {type(error).__name__}: {brief(error)}{where}") from error


def register(group: Group, name: str, what: Any) -> None:
    """Give something of your own a name for recipes: a TaskConfig under `tasks`, a MethodConfig under `methods`, a
    class or function that makes a torch module under `networks`. To be called where it is defined.

    >>> import torch, zoo
    >>> zoo.register("networks", "my-linear", torch.nn.Linear)

    Raises ValueError for another group, or a name that something else has.
    """
    if group not in NOUNS:
        raise ValueError(f"nothing is registered under {group!r}{suggest(group, NOUNS)}")
    if not callable(what):
        raise ValueError(f"{NOUNS[group]} {name!r} is {what!r}; expected a class")
    known = _registered[group].get(name)
    if known is not None and _full_name(known) != _full_name(what):  # but a cell of a notebook may run again
        raise ValueError(f"{NOUNS[group]} {name!r} is {_full_name(known)} already; choose another name")
    _registered[group][name] = what


def _full_name(what: Any) -> str:
    return f"{what.__module__}.{getattr(what, '__qualname__', what)}"


def canonical(reference: str) -> str:
    """`my_net:MyNet` for `dir/my_net.py:MyNet`; any other text as it is."""
    found = FILE_REFERENCE.fullmatch(reference)
    return f"{found['stem']}:{found['attribute']}" if found else reference


def referred(reference: str, key: str) -> Any:
    """What `module:attribute` means. Raises ValueError unless the user let the module in, or if it has no such name."""
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError(f"{key} {reference!r}: expected module:Name, as in my_net:MyNet")
    name, attribute = found["module"], found["attribute"]
    if name not in _let_in:
        raise ValueError(
            f"{key} {reference} is code, which only you can let in; if you trust it, give --import {name}.py (the "
            f"file) or --import {name} (an installed module)"
        )
    module = sys.modules[name]
    if not hasattr(module, attribute):
        public = [other for other in vars(module) if not other.startswith("_")]
        raise ValueError(f"{key} {reference}: {name} has no {attribute}{suggest(attribute, public)}")
    return getattr(module, attribute)


def names(group: Group) -> list[str]:
    """The names that are registered, or that installed packages offer, without loading these."""
    return sorted({*_registered[group], *(found.name for found in _offers(group))})


@cache  # what is installed does not change while a process runs, and looking takes milliseconds
def _offers(group: Group) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"rpg_zoo.{group}"))


def find(group: Group, name: str, ours: Collection[str] = ()) -> Any:
    """What is registered, or offered by an installed package, under this name, which none of `ours` is.

    Raises ValueError for a name that means nothing or several things, Failed for a package that is broken.
    """
    if name in _registered[group]:
        return _registered[group][name]
    offers = list({found.value: found for found in _offers(group) if found.name == name}.values())
    if not offers:
        known = suggest(name, [*ours, *names(group)])
        raise ValueError(f"no {NOUNS[group]} named {name!r}{known} (one of your own needs --import FILE)")
    if len(offers) > 1:
        packages = " and ".join(_package(found) for found in offers)
        raise ValueError(f"{NOUNS[group]} {name!r} is offered by the packages {packages}; uninstall all but one")
    return _loaded(group, offers[0])


def schema(group: Group, name: str, ours: Mapping[str, str], base: type[Schema]) -> type[Schema]:
    """The schema of a section of recipes: `Config` of the module that one of `ours` is in, or what `find` finds.

    Raises ValueError for a name that means nothing, or no subclass of `base`, Failed for a package that is broken.
    """
    if name in ours:
        config: type[Schema] = import_module(ours[name]).Config
        return config
    found = find(group, name, ours)
    if not (isinstance(found, type) and issubclass(found, base)):
        expected = f"{base.__module__}.{base.__name__}"
        raise ValueError(f"{NOUNS[group]} {name!r} is {found!r}; expected a subclass of {expected}")
    return found


def _loaded(group: Group, offer: EntryPoint) -> Any:
    package = _package(offer)
    what = f"{NOUNS[group]} {offer.name!r} of package {package}"
    try:
        with guarded(f"loading {what}"):
            found = offer.load()
    except ValueError as error:
        raise Failed(f"{error}; repair or uninstall {package}") from error
    _packages[package] = offer.dist.version if offer.dist else "unknown"
    return found


def _package(offer: EntryPoint) -> str:
    return offer.dist.name if offer.dist else offer.value.partition(":")[0]


def code() -> tuple[Code, ...]:
    """All that a process which works for this one has to `run` first."""
    modules = {what.__module__ for group in _registered.values() for what in group.values()} - {"__main__"}
    return (*_let_in.values(), *(Code(name) for name in sorted(modules - set(_let_in))))


def notes() -> dict[str, str]:
    """What was let in, for the record of what is made with it: files and modules with their hashes, packages with
    their versions.
    """
    return dict(part.note for part in code()) | {PACKAGE + name: version for name, version in _packages.items()}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files, modules, packages and pretrained weights that differ between two records, of those that both have.
    What an artefact is does not depend on them: a comment may have changed, or what the networks compute.
    """
    return [
        name.removeprefix(IMPORTED)
        for name, version in before.items()
        if name.startswith((IMPORTED, PACKAGE, PRETRAINED)) and now.get(name, version) != version
    ]


def needed(versions: Mapping[str, str]) -> str:
    """What an artefact with this record was made with, to end a message with; empty where it does not say."""
    files = [name for name in versions if name.startswith(IMPORTED)]
    packages = [name for name in versions if name.startswith(PACKAGE)]
    wanted = [*files, *(f"pip install {name.removeprefix(PACKAGE)}" for name in packages)]
    return f"; it was made with {', '.join(wanted)}: if you trust that, give the same" if wanted else ""
