"""Every recipe that comes with the package parses and says in `about:` what to expect of it (zoo.about)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpg.tokens.tokenisation import place
from zoo.errors import MissingExtra
from zoo.manifest import differences, settings_of
from zoo.recipe import load_method, load_recipe, recipe_names
from zoo.structure import Structure

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(path for path in RECIPES.rglob("*.yaml") if not {"_methods", "tables"} & set(path.parts))


# Parameters of the networks (buffers not counted): those of the paper's tables and of RPG's published code.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vit-tiny": 5_717_416,
    "vit-small": 22_050_664,
    "vit-base": 86_567_656,
    "convnext-atto": 3_695_520,
    "convnext-large": 197_767_336,
    "ade20k": 163_877_228,  # the paper's 176.5 million counts 12,607,500 indices, too
    "cifar10-cnn-small": 2_864,
    "cifar10-cnn-medium": 10_853,
    "cifar10-resnet18": 11_181_642,
    "cifar10-mobilenetv3": 4_214_842,
    "cifar10-vit-base": 85_806_346,
    "cifar100-resnet18-bn": 2_048,
    "vit-tiny-seeds": 5_526_346,
    "llama-7b-dora-r4": 7_888_896,
    "llama-7b-dora-r16": 28_925_952,
    "llama-7b-dora-r64": 113_074_176,
    "coco": 110_895_792,
}
BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")


def structure_of(recipe: str) -> Structure:
    """Skips the test where the library of the recipe's networks is not installed."""
    try:
        return load_recipe(recipe).task.structure()
    except MissingExtra as error:
        pytest.skip(str(error))


def test_there_are_recipes() -> None:
    assert {"digits", "cifar10-cnn-small", "cifar10-cnn-medium"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_parses(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    assert load_recipe(path.stem) == recipe


def test_short_names_are_unique() -> None:
    names = [path.stem for path in FILES]
    assert sorted(set(names)) == sorted(names)
    assert recipe_names() == {path.stem: path for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_says_what_it_is_about(path: Path) -> None:
    about = load_recipe(str(path)).about
    assert about, "its own: what it extends is about another recipe"
    assert f" {path.stem}" in about.command or about.command == "rpg demo"


@pytest.mark.parametrize("path", sorted((RECIPES.parent / "benchmarks/settings").iterdir()), ids=lambda path: path.stem)
def test_settings_of_benchmarks_are_those_of_a_method(path: Path) -> None:
    load_method(str(path))
    assert path.stem in (RECIPES.parent / "docs/results.md").read_text(), "which table needs it?"


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipes_network_has_the_papers_number_of_parameters(name: str) -> None:
    assert sum(spec.numel for spec in structure_of(name) if not spec.name.endswith(BUFFERS)) == PARAMETERS[name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipes_network_is_as_large_as_it_says(path: Path) -> None:
    found = sum(spec.numel for spec in structure_of(str(path)) if not spec.name.endswith(BUFFERS))
    about = load_recipe(str(path)).about
    assert about
    assert about.parameters == found > 0


@pytest.mark.parametrize(
    ("name", "tokens", "other"),
    [
        ("vit-tiny-by-index", 1396, {"tokenisation", "positions", "token_size", "d_model"}),  # 5,717,416 / 4096
        ("vit-tiny-by-channel", 12 * 584 + 645, {"tokenisation", "token_size", "diffusion_batch"}),
    ],
)
def test_ablations_of_figure_4_differ_from_the_default_in_tokens_alone(name: str, tokens: int, other: set[str]) -> None:
    recipe, default = load_recipe(name), load_recipe("vit-tiny")
    assert (recipe.task, recipe.zoo) == (default.task, default.zoo)  # so the zoo of vit-tiny is theirs
    found = differences({"method": settings_of(recipe.method)}, {"method": settings_of(default.method)})
    assert {line.split(" ")[0].rpartition(".")[2] for line in found} == other
    generator = recipe.method.generator
    shapes = [spec.shape for spec in structure_of(name)]
    assert sum(p.num_tokens for p in place(shapes, generator.tokenisation, generator.token_size)) == tokens
