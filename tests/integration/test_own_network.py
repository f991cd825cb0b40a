"""Networks, data, tasks and measures of the user's own, through the command lines; and the page that explains them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import mean, median

import pytest
import yaml
from commands import call, run

from zoo import plugins
from zoo.store import Zoo
from zoo.tasks.classification import Config

PAGE = Path(__file__).parents[2] / "docs" / "your-own-network.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)

NET = """
from torch import nn

print("a line from the module")

class MyNet(nn.Sequential):
    def __init__(self, width=3):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))
        print("a line from the constructor")
"""
RECIPE = """
extends: digits
task: {model: "my_net:MyNet"}
zoo: {regime: independent, seeds: 2, checkpoints: 2, epochs: 1}
"""
TASK = """
from typing import Literal
import zoo
from zoo.tasks.classification import Config as Base

class Config(Base):
    name: Literal["mine"]

zoo.register("tasks", "mine", Config)
"""
SCORE = """
def scale(state_dict):
    return {"scale": state_dict["3.weight"].abs().mean(), "tensors": len(state_dict)}
"""


@pytest.fixture
def place(own_code, monkeypatch):
    monkeypatch.delenv("RPG_DATA", raising=False)
    for name, text in {"my_net.py": NET, "mine.yaml": RECIPE, "my_task.py": TASK, "score.py": SCORE}.items():
        (own_code / name).write_text(text)
    return own_code


def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of a test share a process; what was let in by one is unknown to the next."""
    monkeypatch.setattr(plugins, "_let_in", {})
    monkeypatch.setattr(plugins, "_registered", {group: {} for group in plugins.NOUNS})
    for name in ("my_net", "my_task", "score"):
        sys.modules.pop(name, None)


def test_every_command_that_builds_networks_takes_the_users_word(place, monkeypatch):
    made = json.loads(call("rpg-zoo collect mine.yaml --import my_net.py --json"))
    assert made["checkpoints"] == 4
    as_in_a_new_process(monkeypatch)
    line = call("rpg-zoo score zoos/mine", code=2)
    assert "task.model my_net:MyNet is code, which only you can let in" in line
    assert "--import my_net.py" in line
    scores = json.loads(call("rpg-zoo score zoos/mine --import my_net.py --json"))
    assert len(scores["checkpoints"]) == 4
    call("rpg train mine.yaml --method noise --set generate.n=2 --import my_net.py")
    as_in_a_new_process(monkeypatch)
    call("rpg generate mine-noise -n 2")  # builds no network
    call("rpg report zoos/mine-noise-generated --import my_net.py --set eval.n=2 --set eval.average_of=2")
    one = Zoo.open("zoos/mine").entries[0].id
    line = call(f"rpg-zoo export zoos/mine {one} --format timm --import my_net.py", code=2)
    assert "are of no library; export them with --format safetensors or pth" in line


def test_a_changed_class_is_refused_with_the_tensors_that_differ(place, monkeypatch):
    call("rpg-zoo collect mine.yaml --import my_net.py")
    as_in_a_new_process(monkeypatch)
    (place / "my_net.py").write_text(NET.replace("width=3", "width=4"))
    line = call("rpg-zoo score zoos/mine --import my_net.py", code=2)
    assert "1.weight" in line
    line = call("rpg train mine.yaml --method noise --import my_net.py", code=2)
    assert "1.weight" in line


def test_a_zoo_begun_with_another_version_of_the_file_says_so_and_keeps_its_bytes(place, monkeypatch):
    call("rpg-zoo collect mine.yaml --import my_net.py")
    before = {path: path.read_bytes() for path in Path("zoos/mine").rglob("*") if path.is_file()}
    code, _, err = run("rpg-zoo collect mine.yaml --import my_net.py")
    assert (code, "was begun with another" in err) == (0, False)
    as_in_a_new_process(monkeypatch)
    (place / "my_net.py").write_text(NET.replace("Tanh", "ReLU"))
    code, _, err = run("rpg-zoo collect mine.yaml --import my_net.py")
    assert (code, "zoos/mine was begun with another my_net.py: what is there stays as it is" in err) == (0, True)
    assert {path: path.read_bytes() for path in Path("zoos/mine").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_workers_make_the_same_bytes_of_a_task_and_a_network_of_ones_own(place, monkeypatch):
    (place / "mine.yaml").write_text(RECIPE.replace("{model:", "{name: mine, model:"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for workers, out in ((1, "alone"), (2, "spread")):
        call(f"rpg-zoo collect mine.yaml --import my_net.py --import my_task.py --workers {workers} --out {out}")
    files = [
        {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(Path(out).rglob("*.safetensors"))}
        for out in ("alone", "spread")
    ]
    assert len(files[0]) >= 1
    assert files[0] == files[1]
    as_in_a_new_process(monkeypatch)
    line = call("rpg-zoo score alone", code=2)
    assert "no task named 'mine'" in line
    assert "it was made with --import my_net.py, --import my_task.py" in line
    code, out, _ = run("rpg-zoo verify alone")
    assert (code, "no task named 'mine'" in out) == (1, True)
    call("rpg-zoo verify alone --import my_task.py")


@pytest.mark.slow
def test_a_ray_worker_gets_the_code(place, monkeypatch):
    pytest.importorskip("ray")
    (place / "mine.yaml").write_text(RECIPE.replace("{model:", "{name: mine, model:"))
    call("rpg-zoo collect mine.yaml --import my_net.py --import my_task.py --engine ray --workers 1")
    assert len(Zoo.open("zoos/mine").entries) == 4


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("rpg-zoo collect mine.yaml --import nowhere.py", "--import nowhere.py: no such file"),
        ("rpg train mine.yaml --import broken.py", "RuntimeError: no (broken.py, line 1)"),
        ("rpg methods --import broken.py", "RuntimeError: no (broken.py, line 1)"),
        ("rpg eval zoos/mine --task digits --script score.py", "expected a file and a function in it"),
        ("rpg eval zoos/mine --task digits --script score.py:scala", "score has no scala; did you mean scale?"),
        ("rpg eval zoos/mine --task digits --script wants.py:it", "it wants 'data'; known: model, state_dict, task"),
        ("rpg eval zoos/mine --task digits --script os:system", "expected a file and a function in it"),
    ],
)
def test_what_is_wrong_with_the_users_code_is_one_line(place, command, words):
    (place / "broken.py").write_text("raise RuntimeError('no')\n")
    (place / "wants.py").write_text("def it(data):\n    return {}\n")
    assert words in call(command, code=2)


def test_a_script_measures_networks_and_its_hash_is_in_the_protocol(place, monkeypatch):
    call("rpg-zoo collect digits --set zoo.epochs=1 --set zoo.checkpoints=3")
    (place / "score.py").write_text(
        "def scale(model, state_dict):\n    assert not model.training\n"
        "    return {'scale': state_dict['head.0.weight'].abs().mean(), 'tensors': len(state_dict)}\n"
    )
    command = "rpg eval zoos/digits --task digits --json"
    plain = json.loads(call(command))
    scores = json.loads(call(f"{command} --script score.py:scale"))
    zoo = Zoo.open("zoos/digits")
    for entry, row, before in zip(zoo.entries, scores["checkpoints"], plain["checkpoints"], strict=True):
        expected = float(zoo.load(entry)["head.0.weight"].abs().mean())
        assert row["metrics"]["scale"]["value"] == pytest.approx(expected)
        assert row["metrics"]["tensors"]["value"] == len(zoo.structure)
        assert row["metrics"]["top1"] == before["metrics"]["top1"]
    assert re.search(r", score.py:scale sha256 [0-9a-f]{12}$", scores["protocol"])
    lines = (place / "scores/digits/scores.jsonl").read_text().splitlines()
    assert len(lines) == 6
    as_in_a_new_process(monkeypatch)
    assert json.loads(call(f"{command} --script score.py:scale")) == scores
    assert (place / "scores/digits/scores.jsonl").read_text().splitlines() == lines  # none was scored again
    with (place / "score.py").open("a") as file:
        file.write("# changed\n")
    as_in_a_new_process(monkeypatch)
    assert json.loads(call(f"{command} --script score.py:scale"))["protocol"] != scores["protocol"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", "gave 3; expected a dict"),
        ("return {}", "gave {}; expected a dict"),
        ("return {'a': float('nan')}", "gave 'a': nan; expected a finite number"),
        ("return {'a': 'high'}", "expected a finite number"),
        ("return {1: 2.0}", "expected a finite number"),
        ("return {'top1': 100.0}", "gave 'top1', which the task measures; rename it"),
        ("return {'a': model.nothing}", "failed: AttributeError"),
        ("import sys; sys.exit(0)", "failed: SystemExit"),
    ],
)
def test_what_a_script_gives_is_checked(place, body, words):
    call("rpg-zoo collect digits --set zoo.epochs=1 --set zoo.checkpoints=1")
    (place / "score.py").write_text(f"def fn(model):\n    {body}\n")
    assert words in call("rpg eval zoos/digits --task digits --script score.py:fn", code=2)


def test_a_report_has_the_scripts_metrics(place):
    call("rpg-zoo collect mine.yaml --import my_net.py")
    call("rpg train zoos/mine --method noise --import my_net.py")
    call("rpg generate mine-noise -n 2")
    command = "rpg report zoos/mine-noise-generated --import my_net.py --no-baselines --script score.py:scale --json"
    groups = json.loads(call(command))["groups"]
    assert all("scale" in group["metrics"] and "top1" in group["metrics"] for group in groups.values())


def test_the_page_runs_as_it_stands(own_code, monkeypatch):
    """Every file is written, every Python block run and every command called, in their order."""
    monkeypatch.delenv("RPG_DATA", raising=False)
    done = {"files": 0, "python": 0, "commands": 0}
    for language, title, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if title:
            Path(title).write_text(text)
            done["files"] += 1
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {"__name__": "page"})  # noqa: S102  # our own page
            done["python"] += 1
        elif language == "yaml":
            Config.model_validate_json(json.dumps({"name": "classification", "model": "x", **yaml.safe_load(text)}))
        elif language == "sh":
            for command in text.splitlines():
                call(command)
                done["commands"] += 1
    assert done == {"files": 3, "python": 2, "commands": 6}
    report = json.loads(Path("reports/shapes-pca-gaussian-generated/report.json").read_text())
    assert {group["kind"] for group in report["groups"]} == {"original", "heldout", "generated", "baseline"}
    scores = [json.loads(line) for line in Path("scores/noisy/scores.jsonl").read_text().splitlines()]
    assert len(scores) == 12
    top1 = [score["metrics"]["top1"]["value"] for score in scores]
    assert median(top1) > 70  # chance is 33
    accuracy = {group["kind"]: mean(group["behaviour"]["accuracy"]) for group in report["groups"]}
    print(top1, accuracy)
    assert accuracy["generated"] < accuracy["original"] - 10  # as the page says one should see
    assert all(0 <= score["metrics"]["noisy"]["value"] <= 100 for score in scores)
