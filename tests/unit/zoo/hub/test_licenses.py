"""Licences of what is published: never a guess."""

import pytest

from zoo.hub.licenses import DATA, PLACEHOLDER, ingredients, license_for, license_or_placeholder
from zoo.recipe import load_recipe


def origin(recipe: str, *overrides: str):
    return load_recipe(recipe, overrides).collected(("rpg-zoo", "collect", recipe))


def test_one_known_licence_is_taken() -> None:
    assert license_for(origin("digits"), None) == "cc-by-4.0"
    assert [part.name for part in ingredients(origin("digits"))] == ["digits"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("cifar10-cnn-small", [], ["cifar10: its authors state no licence"]),
        ("resnet18", [], ["imagenet: non-commercial research", "resnet18.tv_in1k: bsd-3-clause"]),
        ("digits", ["task.model=resnet18.a1_in1k", "task.pretrained=true"], ["CC BY 4.0", "a1_in1k: apache-2.0"]),
        ("digits", ["task.pretrained=exports/mine"], ["exports/mine: see where it comes from"]),
    ],
)
def test_no_or_several_licences_are_refused_and_named(recipe: str, overrides: list[str], words: list[str]) -> None:
    made = origin(recipe, *overrides)
    with pytest.raises(ValueError, match=r"--license") as caught:
        license_for(made, None)
    assert [word for word in words if word not in str(caught.value)] == []
    assert license_for(made, "mit") == "mit"
    assert license_or_placeholder(made, None) == PLACEHOLDER  # on a card that is only looked at
    assert license_or_placeholder(made, "mit") == "mit"


def test_weights_of_unknown_origin_are_refused() -> None:
    made = origin("digits").model_copy(update={"task": {}})
    with pytest.raises(ValueError, match="unknown: see where it comes from"):
        license_for(made, None)


def test_the_data_sets_of_all_recipes_have_terms() -> None:
    from zoo.recipe import recipe_names

    data = {load_recipe(name).task.model_dump()["data"] for name in recipe_names()}
    assert data <= set(DATA)
