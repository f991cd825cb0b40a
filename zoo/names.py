"""Names of what comes with the package. It imports nothing heavy: a shell that completes a name does not wait."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def recipes_root() -> Path:
    """The directory of the recipes that come with the package."""
    return Path(str(resources.files("recipes")))


def recipe_names() -> dict[str, Path]:
    """Short names of all runnable recipes and their files. Those in `_methods` have no task, those in `tables` are the
    paper's (rpg.reproduce).
    """
    files = sorted(recipes_root().rglob("*.yaml"))
    return {file.stem: file for file in files if not {"_methods", "tables"} & set(file.parts)}


def method_names() -> dict[str, Path]:
    """Names of the settings that come with the package, for `--method` and `extends: _methods/NAME`."""
    return {file.stem: file for file in sorted((recipes_root() / "_methods").glob("*.yaml"))}


def short_name(source: str) -> str:
    """The name of a recipe or of settings that are given by name, which may hold dots, or as a YAML file."""
    return Path(source).name.removesuffix(".yaml").removesuffix(".yml")


def table_names() -> dict[str, Path]:
    """Names of the paper's tables and figures, in its order, and their files."""
    files = (recipes_root() / "tables").glob("*.yaml")
    kinds = ("table", "figure")

    def order(file: Path) -> tuple[int, int]:
        kind = next(kind for kind in kinds if file.stem.startswith(kind))
        return kinds.index(kind), int(file.stem.removeprefix(kind))

    return {file.stem: file for file in sorted(files, key=order)}


def typed(path: Path, room: str) -> str:
    """What to type for an artefact: its name where it is in the room of its kind, such as `zoos`, or else its path."""
    return path.name if path.parent == Path(room) else str(path)


def recipe_meant(name: str) -> str:
    """The recipe that a zoo or run of this name is most likely of, to type in a message: its own name, where that is
    one, or else the longest recipe that it begins with; RECIPE where there is none.
    """
    return max((known for known in recipe_names() if f"{name}-".startswith(f"{known}-")), key=len, default="RECIPE")


def training_meant(name: str) -> str:
    """The command that most likely makes a run of this name, RECIPE or RECIPE-METHOD, to type in a message."""
    recipe = recipe_meant(name)
    method = name.removeprefix(f"{recipe}-")
    return f"rpg train {recipe}" + (f" --method {method}" if method in method_names() else "")
