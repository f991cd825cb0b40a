"""What commands say while they work and of names that they do not know."""

import json
import re
from pathlib import Path

import pytest
from commands import TINY, call, make_tiny, run

import rpg
from zoo.store import Zoo


def call_json(command):
    return json.loads(call(f"{command} --json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory in which `tiny` was collected, trained and generated; the tests add to it."""
    place = tmp_path_factory.mktemp("made")
    make_tiny(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--sampler readout --steps 6", "--steps 6 are of diffusion, and sampler = readout takes none; leave them out"),
        ("--sampler readout --set generate.steps=6", "--steps 6 are of diffusion, and sampler = readout takes none"),
        ("--sampler read-out", "generate.sampler: Input should be 'ddpm', 'ddim', 'dpm++' or 'readout', got"),
    ],
)
def test_what_does_not_go_with_a_sampler_is_refused(place, options, said):
    code, _, err = run(f"rpg generate tiny {options} --out zoos/refused")
    assert code == 2
    assert said in err
    assert not Path("zoos/refused").exists()


def test_networks_are_scored_as_they_come(place):
    """To the same scores as afterwards; and a second call scores what is there."""
    code, out, err = run("rpg generate tiny --score --out zoos/scored")
    assert code == 0
    lines = [line for line in err.splitlines() if re.fullmatch(r"generated-000\d: top1 \d+\.\d\d", line)]
    assert len(lines) == 3
    made, took = out.splitlines()[-2:]
    assert made == "3 networks in zoos/scored"
    assert "networks a second" in took
    hashes = [[entry.sha256 for entry in Zoo.open(f"zoos/{name}").entries] for name in ("scored", "tiny-generated")]
    assert hashes[0] == hashes[1]
    kept = Path("scores/scored/scores.jsonl").read_bytes()
    again = call_json("rpg generate tiny --score --out zoos/scored")
    assert Path("scores/scored/scores.jsonl").read_bytes() == kept
    after = call_json("rpg eval zoos/tiny-generated --task tiny --out scores/after")
    assert again["scores"]["metrics"] == after["metrics"]
    assert [score["metrics"] for score in again["scores"]["checkpoints"]] == [
        score["metrics"] for score in after["checkpoints"]
    ]


def test_training_says_what_it_takes_before_it_begins(place):
    code, _, err = run(f"rpg train {TINY} --out runs/again --set method.train.steps=2")
    assert code == 0
    lines = err.splitlines()
    said = next(k for k, line in enumerate(lines) if line.startswith("it takes at least "))
    assert lines[said - 1].startswith("learning 8 checkpoints of ")
    assert any(line.startswith("training runs/again: 2 of 2") for line in lines[said:])
    assert "it takes" not in run(f"rpg train {TINY} --out runs/again --set method.train.steps=2")[2]
    assert "it takes" not in run("rpg train zoos/tiny --method gaussian --out runs/gaussian")[2]


@pytest.mark.parametrize("command", ["rpg eval zoos/tiny-generated", "rpg eval", "rpg report zoos/tiny-generated"])
def test_a_misspelt_task_is_bad_input(place, command):
    code, _, err = run(f"{command} --task digts")
    assert code == 2
    assert err.splitlines()[-1] == "rpg: no recipe or task named 'digts'; did you mean digits?"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rpg eval tiny-generated --task tiny --out zoos/tiny-generated", "is a zoo or a run, by its manifest.json"),
        ("rpg eval tiny-generated --task tiny --out runs/tiny", "is a zoo or a run, by its run.json; choose another"),
        ("rpg report tiny-generated --run nope --dry-run", "runs/nope"),
        ("rpg report tiny-generated --set foo=1 --dry-run", "foo"),
    ],
)
def test_places_and_names_are_looked_at_before_any_work(place, command, said):
    before = sorted(Path().rglob("*"))
    code, _, err = run(command)
    assert code in (2, 4)
    assert said in err
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


def test_originals_where_none_are_needed_are_said(place):
    code, _, err = run("rpg eval tiny-generated --task tiny --originals nope --out scores/nope")
    assert code == 0
    assert "--originals nope is ignored: it is for networks that were generated for binary tasks" in err


def test_nothing_to_learn_from_is_said():
    for nothing in ({}, {"zoo": ""}):
        with pytest.raises(ValueError, match="say what to learn: a recipe, or a zoo by its place or name"):
            rpg.train(None, "gaussian", **nothing)


@pytest.mark.parametrize(("warmup", "said"), [(50, True), (49, False)])
def test_a_learning_rate_that_is_never_reached_is_said(place, warmup, said):
    sets = f"--set method.denoiser.steps=50 --set method.denoiser.warmup={warmup}"
    code, _, err = run(f"rpg train zoos/tiny --method p-diff-small {sets} --dry-run")
    assert code == 0, err
    assert ("method.denoiser.learning_rate = 0.001 is never reached" in err) is said


@pytest.mark.parametrize(
    "command",
    [
        f"rpg-zoo collect {TINY} --dry-run --set generate.steps=1001",
        "rpg train zoos/tiny --method p-diff-small --dry-run --set generate.steps=1001",
        "rpg demo --dry-run --set method.diffusion.num_steps=10",
        "rpg generate tiny --dry-run --steps 1001",
    ],
)
def test_steps_that_no_schedule_has_are_refused_by_every_command(place, command):
    code, _, err = run(command)
    assert code == 2
    assert "sampling steps, but the schedule has" in err


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("sane --parameters 1000000000000", "give a recipe: rpg estimate digits --method sane"),
        ("hyper-representations-small", "give a recipe: rpg estimate digits --method hyper-representations-small"),
        ("digits --method sane-small --parameters 1000", "leave --parameters out"),
    ],
)
def test_methods_whose_tokens_are_neurons_are_not_estimated_by_a_number_of_values(asked, remedy):
    message = call(f"rpg estimate {asked}", 2)
    assert message.endswith(f"are neurons, of which a number of values says nothing; {remedy}")
