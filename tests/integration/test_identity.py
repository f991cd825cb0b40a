"""What an artefact is depends on what made it and on nothing else: what may change beside it, and what may not."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from commands import call
from pydantic import create_model

import rpg
import zoo.manifest
from killing import content
from rpg.run import Run
from zoo.manifest import Origin, settings_of
from zoo.recipe import load_recipe
from zoo.store import Zoo
from zoo.structure import Frozen
from zoo.training.collect import Training

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo and a run in a directory."""
    place = tmp_path_factory.mktemp("identity")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        call(f"rpg-zoo collect {TINY}")
        call(f"rpg train {TINY}")
        call("rpg generate tiny")
    return place


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_half_a_zoo_is_finished_to_the_same_bytes_whatever_else_changes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, calls = Training.begin, []

    def stop(self: Training) -> None:
        calls.append(self)
        if len(calls) == 40:
            raise KeyboardInterrupt
        begun(self)

    one_command = ["rpg-zoo", "collect", str(TINY), "--out", "half"]  # the record of the first call is kept
    with monkeypatch.context() as patch:
        patch.setattr(Training, "begin", stop)
        call(" ".join(one_command), 130)
    assert 0 < len((place / "half/journal.jsonl").read_text().splitlines()) - 1 < 8
    recipe = tmp_path / "tiny.yaml"
    text = TINY.read_text().replace("task:", "# another comment\ntask:")
    recipe.write_text(
        text.replace("steps: 65", "steps: 3").replace("n: 3", "n: 7").replace("average_of: 4", "average_of: 2")
    )
    monkeypatch.setattr(zoo.manifest, "versions", lambda: {"torch": "99"})
    monkeypatch.setattr("zoo.recipe.versions", lambda: {"torch": "99"})
    call(f"rpg-zoo collect {recipe} --out half --device cpu")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    call(f"rpg-zoo collect {TINY} --out whole")
    half, whole = content(place / "half"), content(place / "whole")
    manifests = [json.loads(files.pop("manifest.json")) for files in (half, whole)]
    assert half == whole
    for manifest, out in zip(manifests, ("half", "whole"), strict=True):
        assert manifest["origin"].pop("command")[-2:] == ["--out", out]  # of the call that began it
    assert manifests[0] == manifests[1]


def test_an_option_that_is_new_changes_no_fingerprint() -> None:
    old = create_model("Section", __base__=Frozen, steps=(int, 10), inner=(load_recipe(str(TINY)).zoo.__class__, ...))
    new = create_model("Section", __base__=old, added=(float, 0.5), nested=(old, None))
    zoo_section = load_recipe(str(TINY)).zoo
    before, after = old(steps=3, inner=zoo_section), new(steps=3, inner=zoo_section)
    origins = [
        Origin(name="x", kind="collected", settings={"zoo": settings_of(section)}, command=("x",), versions={})
        for section in (before, after)
    ]
    assert origins[0].fingerprint == origins[1].fingerprint
    changed = Origin(
        name="x",
        kind="collected",
        settings={"zoo": settings_of(new(steps=3, inner=zoo_section, added=0.25))},
        command=("x",),
        versions={},
    )
    assert origins[0].differences(changed) == ["zoo.added (default) -> 0.25"]
    assert changed.fingerprint != origins[0].fingerprint


def test_a_recipe_for_other_networks_is_refused_before_any_work() -> None:
    message = call("rpg train cifar10-cnn-small --zoo zoos/tiny --out runs/wrong", 2)
    assert "zoos/tiny holds other networks than recipe cifar10-cnn-small is for" in message
    assert 'task.model "cnn_small" -> "cnn_digits"' in message
    assert not Path("runs/wrong").exists()
    assert call("rpg train digits --zoo zoos/tiny --dry-run")  # of the same task, though its zoo: differs


def test_networks_that_nobody_knows_are_learnt_and_compared_by_their_weights() -> None:
    source = Zoo.open("zoos/tiny")
    Path("theirs").mkdir()
    for entry in source.entries[:4]:
        torch.save(dict(source.load(entry)), f"theirs/{entry.id}.pth")
    call("rpg-zoo import theirs")
    assert "nobody said what the networks" in call(f"rpg train {TINY} --zoo zoos/theirs --out runs/wrong", 2)
    sets = "--set method.train.steps=2 --set method.generator.channels=[1,4,1] --set generate.steps=2"
    call(f"rpg train --zoo zoos/theirs {sets} --set generate.n=2")
    call("rpg generate theirs")
    report = json.loads(call("rpg report zoos/theirs-generated --json"))
    assert report["protocol"] is None
    assert "metrics" not in report["groups"]["generated"]
    assert "Weights were compared alone" in Path(report["report"]).read_text()
    assert "unknown: see where it comes from" in call("rpg-zoo push zoos/theirs user/x --dry-run", 2)


def test_a_run_is_the_same_by_whatever_command() -> None:
    call(f"rpg train {TINY} --out elsewhere")
    one, other = Run(Path("runs/tiny")), Run(Path("elsewhere"))
    assert one.sha256 == other.sha256
    files = [path.name for path in one.path.iterdir() if path.name not in ("run.json", "trained.json")]
    assert all((one.path / name).read_bytes() == (other.path / name).read_bytes() for name in files)
    call(f"rpg train {TINY} --out elsewhere")  # trained already: nothing to do
    changed = call(f"rpg train {TINY} --out elsewhere --set method.train.steps=70", 2)
    assert "elsewhere holds another run: method.train.steps 65 -> 70; choose another place with --out" in changed


def test_a_second_generation_knows_what_it_comes_from() -> None:
    first = Zoo.open("zoos/tiny-generated").manifest.origin
    assert first.source is not None
    assert (first.source.zoo, first.source.split) == (Zoo.open("zoos/tiny").sha256, "train")
    sets = "--set method.train.steps=2 --set method.generator.channels=[1,4,1] --set generate.n=2"
    call(f"rpg train zoos/tiny-generated --method rpg-tiny --split generated --out runs/second {sets}")
    call("rpg generate second --sampler ddim --steps 2")
    report = json.loads(call("rpg report zoos/second-generated --json"))
    assert report["groups"]["original"]["similarity"]["nearest_ratio"]["n"] == 3
    assert Path("reports/second-generated/report.json").is_file()


def test_what_stands_at_a_place_is_named_by_the_keys_that_differ() -> None:
    changed = call(f"rpg-zoo collect {TINY} --set zoo.epochs=5 --set task.augment=flip", 2)
    assert 'zoo.epochs 3 -> 5; task.augment (default) -> "flip"' in changed
    assert "generate.n 3 -> 5" in call("rpg generate tiny -n 5", 2)
    other = call(f"rpg train {TINY} --zoo zoos/tiny-generated --split generated --out runs/tiny", 2)
    assert 'split "train" -> "generated"; of another zoo, or of this one before it changed' in other


def test_methods_of_many_kinds_stand_in_one_table() -> None:
    for method in ("gaussian", "soup"):
        call(f"rpg train {TINY} --method {method} --set method.{'width=0.5' if method == 'gaussian' else 'of=2'}")
        call(f"rpg generate tiny-{method} -n 3")
    call(f"rpg train {TINY} --set method.train.seed=1 --out runs/other-seed")
    call("rpg generate other-seed")
    zoos = "zoos/tiny-generated zoos/other-seed-generated zoos/tiny-gaussian-generated zoos/tiny-soup-generated"
    found = json.loads(call(f"rpg report {zoos} --no-baselines --out reports/all --json"))["groups"]
    assert {name: group["seeds"] for name, group in found.items()} == {
        "original": 1,
        "rpg": 2,
        "gaussian": 1,
        "soup": 1,
    }
    rows = list(csv.DictReader(io.StringIO(call("rpg compare reports/all --format csv"))))
    assert [row["group"] for row in rows] == list(found)
    assert float(rows[1]["std of seeds"]) >= 0
    latex = call("rpg compare reports/all --format latex")
    assert latex.count(" & ") > 20
    assert "did you mean latex" in call("rpg compare reports/all --format latx", 2)
    apart = [f"tiny-{method}-generated" for method in ("gaussian", "soup")]
    for name in apart:
        call(f"rpg report zoos/{name} --no-baselines")
    shown = call("rpg report zoos/tiny-generated --no-baselines --out reports/one")
    assert re.search(r"\ngenerated: networks from a generator, [\d,]+ training steps, settings \S+", shown)
    assert "training checkpoints are of one run" in shown
    lines = call(f"rpg compare {' '.join(apart)}").splitlines()
    assert lines[0] == "Scores: accuracy (top1), %"
    assert [line.split()[0] for line in lines[1:]] == ["group", "original", *apart]
    listed = {row["name"]: row for row in json.loads(call("rpg ls --json"))["artefacts"]}
    assert listed["tiny-soup"]["method"] == "soup"
    assert listed["all"]["what"] == "report"
    refused = call("rpg report zoos/tiny-generated --no-baselines --out reports/all", 2)
    assert "reports/all holds another report" in refused


def test_keywords_and_names(tmp_path: Path) -> None:
    run = rpg.train("zoos/tiny", method="rpg-tiny", steps=2, channels=[1, 4, 1], out=tmp_path / "run")
    assert run.record().origin.settings["method"]["train"]["steps"] == 2
    made = rpg.generate(run, n=2, steps=2, out=tmp_path / "made")
    assert len(made) == 2
    assert set(made[0]) == {spec.name for spec in made.structure}
    assert len(list(made)) == 2
    with pytest.raises(ValueError, match="there is no setting stps; did you mean steps"):
        rpg.train("zoos/tiny", method="rpg-tiny", stps=2)
    soup = rpg.train("zoos/tiny", method="soup", of=4, out=tmp_path / "soup")
    with pytest.raises(ValueError, match="sampler is not a known key"):
        rpg.generate(soup, sampler="ddim")
    assert "no recipe and no zoo 'tinny'" in call("rpg train tinny", 2)
    assert "rpg train ZOO --method gaussian" in call("rpg train gaussian", 2)
    assert "did you mean gaussian" in call("rpg train zoos/tiny --method gausian", 2)
    assert "did you mean digits" in call("rpg eval --task digit", 2)
