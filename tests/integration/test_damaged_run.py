"""Runs whose files changed: between two calls of one training, and when it is finished. And networks that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import TINY, call

import rpg
import zoo
from rpg.run import Run
from zoo.errors import Corrupt

SETS = "--set method.train.steps=20 --set method.generator.channels=[1,4,1] --set method.state_per=seed"
TRAIN = f"rpg train {TINY} --zoo zoos/mine --out run {SETS}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo and a run of it, and the same run as it is after a kill in its last step."""
    place = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        zoo.collect(TINY, out="zoos/mine", epochs=1, checkpoints=3)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # leaves tokens and state
        call(TRAIN)
    return place


@pytest.fixture(autouse=True)
def there(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_finished_run_that_is_damaged_is_not_called_learnt(damage: str) -> None:
    path = Path("run/generator.safetensors")
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    message = call(TRAIN, 1)
    assert "generator.safetensors" in message
    assert "remove run and train again" in message


@pytest.mark.parametrize(("file", "key"), [("run.json", "networks"), ("rpg.json", "states")])
def test_records_of_an_unfinished_run_are_held_against_the_zoo(file: str, key: str) -> None:
    Path("run/trained.json").unlink()
    record = json.loads(Path("run", file).read_text())
    record[key] = [*record[key][:-1], record[key][0] if key == "networks" else 1]
    Path("run", file).write_text(json.dumps(record))
    assert f"run/{file} has changed; remove run and train again" in call(TRAIN, 1)


def test_an_untouched_unfinished_run_goes_on(place: Path) -> None:
    Path("run/trained.json").unlink()
    call(TRAIN)
    assert Run(Path("run")).sha256 == Run(place / "run").sha256


def test_a_run_of_a_zoo_that_was_collected_anew_says_so() -> None:
    shutil.rmtree("zoos/mine")
    zoo.collect(TINY, out="zoos/mine", epochs=1, checkpoints=3, seed=5)
    assert "run holds another run: of another zoo, or of this one before it changed; choose another" in call(TRAIN, 2)


@pytest.mark.parametrize("method", ["gaussian", "rpg-tiny-supervised"])
def test_networks_that_are_not_finite_are_named_and_nothing_is_begun(method: str) -> None:
    networks = [{"weight": torch.full((4, 3), float(k))} for k in range(3)]
    networks[1]["weight"][2, 1] = torch.inf
    made = zoo.from_state_dicts(networks, "infinite")
    with pytest.raises(ValueError, match=rf"^weight of {made.entries[1].id} of .*infinite holds values that are NaN"):
        rpg.train(made, method, out="new")
    assert not Path("new").exists()


def test_a_method_without_a_name_is_refused() -> None:
    assert "the name of the method is empty" in call("rpg train --zoo zoos/mine --method= --out new", 2)


def odd(change: str) -> zoo.Zoo:
    """A zoo that no method can learn, which shows when a run of it was begun."""
    networks = [
        {"fc.weight": torch.full((4, 3), float(k), dtype=torch.float64), "bn.running_var": torch.ones(4)}
        for k in range(3)
    ]
    if change == "negative":
        networks[2]["bn.running_var"] *= -1
    else:
        networks[2]["fc.weight"] += 1e200
    return zoo.from_state_dicts(networks, "odd")


@pytest.mark.parametrize("method", ["p-diff-small", "rpg-tiny-supervised"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("negative", "bn.running_var holds values that are .* negative"),
        ("huge", "fc.weight of training checkpoint 3 holds values too large to square"),
    ],
)
def test_networks_that_cannot_be_learnt_leave_no_run(method: str, change: str, message: str) -> None:
    made = odd(change)
    with pytest.raises(ValueError, match=message):
        rpg.train(made, method, out="new")
    assert not Path("new").exists()
    Path("new").mkdir()
    Path("new/.mine").touch()
    with pytest.raises(ValueError, match=message):
        rpg.train(made, method, out="new")
    assert [path.name for path in Path("new").iterdir()] == [".mine"]


def test_a_run_that_was_begun_before_stays_when_its_zoo_has_changed() -> None:
    for name in ("trained.json", "metrics.jsonl", "rpg.json"):
        Path("run", name).unlink()
    before = sorted(Path("run").iterdir())
    (path,) = Path("zoos/mine/checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    call(TRAIN, 1)
    assert sorted(Path("run").iterdir()) == before


def test_a_generator_that_changes_while_it_is_asked_leaves_no_zoo() -> None:
    plan = rpg.api.plan_generation("run", {"n": 1})
    path = Path("run/generator.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Corrupt):
        plan.carry_out()
    assert not plan.path.exists()
