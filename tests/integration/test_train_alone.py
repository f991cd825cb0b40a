"""`rpg train` without a recipe and a zoo: the newest collected zoo, and which one that is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from commands import TINY, call, run

import zoo


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("collected") / "zoo"
    zoo.collect(TINY, out=place, epochs=1, checkpoints=2)
    return place


@pytest.fixture
def zoos(collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two collected zoos, and a later one that was imported."""
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "mine"):
        shutil.copytree(collected, tmp_path / "zoos" / name)
    zoo.from_state_dicts(list(zoo.open("mine")), "imported")
    return tmp_path / "zoos"


def newest(zoos: Path, name: str) -> None:
    for number, path in enumerate([*sorted(zoos.glob("*/manifest.json")), zoos / name / "manifest.json"]):
        os.utime(path, (number, number))
    later = zoos / "imported/manifest.json"
    os.utime(later, (1000, 1000))


def test_the_newest_collected_zoo_is_learnt_and_named(zoos: Path) -> None:
    newest(zoos, "mine")
    code, out, err = run("rpg train --method gaussian --json")
    assert code == 0, err
    assert json.loads(out)["run"] == "runs/mine-gaussian"
    assert "learning the newest collected zoo, as `rpg train zoos/mine` does" in err


def test_one_with_the_name_of_a_recipe_is_learnt_as_the_recipe_says(zoos: Path) -> None:
    newest(zoos, "digits")
    code, out, err = run("rpg train --dry-run --json")
    assert code == 0, err
    assert "as `rpg train digits` does" in err
    assert json.loads(out) == json.loads(call("rpg train digits --dry-run --json"))
    assert json.loads(out)["zoo"] == "zoos/digits"


def test_one_that_a_recipe_collected_is_learnt_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    zoo.collect("digits", out=Path("zoos/digits-0123"), epochs=1, checkpoints=2)
    code, out, err = run("rpg train --dry-run --json")
    assert code == 0, err
    assert "as `rpg train digits --zoo zoos/digits-0123` does" in err
    assert json.loads(out) == json.loads(call("rpg train digits --zoo zoos/digits-0123 --dry-run --json"))


def test_a_zoo_that_is_named_is_taken_although_another_is_newer(zoos: Path) -> None:
    newest(zoos, "digits")
    code, out, err = run("rpg train --zoo mine --method gaussian --dry-run --json")
    assert code == 0, err
    assert json.loads(out)["zoo"] == "zoos/mine"
    assert "newest" not in err


def test_without_a_collected_zoo_it_says_how_to_make_one(zoos: Path) -> None:
    for name in ("digits", "mine"):
        shutil.rmtree(zoos / name)
    assert "no collected zoo under zoos/" in call("rpg train", 2)
    assert "`rpg-zoo collect RECIPE`" in call("rpg train --method gaussian --dry-run", 2)
    assert not Path("runs").exists()
