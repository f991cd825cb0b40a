"""benchmarks/table8.py: all methods in one table with what they cost, those that fail too, and nothing done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import table8
import trials

import rpg
import rpg.reports.stage
import zoo
from zoo.recipe import load_method

RECIPE = """
task: {name: classification, model: cnn_digits, data: digits, augment: none}
zoo:
  {regime: independent, seeds: 4, heldout: 0.25, checkpoints: 1, save_every: 1, optimizer: sgd, learning_rate: 0.1,
   weight_decay: 1.0e-4, batch_size: 100, epochs: 1, save_learning_rate: 1.0e-3}
"""
TINY = """
extends: _methods/flow
method: {velocity: {hidden: [8], batch_size: 2, steps: 3}}
generate: {steps: 2}
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    (tmp_path / "seeds.yaml").write_text(RECIPE)
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    zoo.collect("seeds.yaml")
    return tmp_path


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """What was run, here and in this process; the method `soup` is never finished."""
    done: list[str] = []

    def here(command: list[str], limit: float, log: Path) -> str:
        done.append(f"{command[0]} {Path(option(command, '--out')).name}")
        if command[0] == "generate":
            rpg.generate(command[1], n=int(option(command, "-n")), seed=int(option(command, "--seed")),
                         out=option(command, "--out"))  # fmt: skip
        elif option(command, "--method") == "soup":
            return f"not finished within {limit:g} s"
        else:
            changed = [command[k + 1] for k, word in enumerate(command) if word == "--set"]
            rpg.train(
                option(command, "--zoo"), option(command, "--method"), out=option(command, "--out"), overrides=changed
            )
        return ""

    monkeypatch.setattr(trials, "rpg", here)
    monkeypatch.setattr(rpg.reports.stage, "write_report", lambda *_: Path("report.html"))  # plots take the longest
    return done


def test_methods_stand_in_one_table_with_their_costs(place, commands, capsys) -> None:
    asked = ["zoos/seeds", "--out", "out", "-n", "2", "--seeds", "2", "--methods"]
    assert table8.main([*asked, "gaussian"]) == 0
    assert commands == [
        "train gaussian",
        "generate gaussian-generated",
        "train gaussian-1",
        "generate gaussian-1-generated",
    ]
    commands.clear()
    drawn = Path("out/zoos/gaussian-generated/manifest.json").read_bytes()
    assert table8.main([*asked, "gaussian,tiny.yaml,soup"]) == 1
    assert Path("out/zoos/gaussian-generated/manifest.json").read_bytes() == drawn  # what is there is only looked at
    rows = {row["group"]: row for row in json.loads(Path("out/table8.json").read_text())}
    assert {
        "original",
        "heldout",
        "gaussian-generated",
        "flow",
        "reconstructed by flow",
        "gaussian",
        "seed 0",
        "seed 1",
    } <= rows.keys()
    flow, normal = rows["flow"], rows["gaussian-generated"]
    assert (flow["method"], flow["seeds"], flow["networks"]) == ("tiny.yaml", 2, 4)
    assert normal["parameters"] == 3 * 1042
    assert flow["seconds to train"] > 0
    assert flow["peak GB"] > 0.05
    assert rows["gaussian"]["method"] is None  # the baseline of the report
    assert rows["seed 0"]["failed"] == "train: not finished within 3600 s"
    title, _, legend, _, head = Path("out/table8.md").read_text().splitlines()[:5]
    assert title == "# Methods on seeds"
    assert "2 networks of each seed" in legend
    assert head.startswith("| method")
    assert "not finished" in capsys.readouterr().out
    # The second seed is another one, in training and in drawing.
    assert "seed" not in json.dumps(rpg.load("out/runs/tiny").record().origin.settings)
    assert rpg.load("out/runs/tiny-1").record().origin.settings["method"]["velocity"]["seed"] == 1  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "tiny.yaml,"], "has no name"),
        (["--methods", "tiny.yaml, tiny.yaml"], "is there twice"),
        (["--methods", "tiny.yaml,other/tiny.yaml"], "is there twice"),
        (["--methods", "tiny.yaml,gausian"], "gausian"),
        (["--methods", "tiny.yaml", "--seeds", "0"], "seeds = 0; expected a number above 0"),
        (["--methods", "tiny.yaml", "-n", "-1"], "n = -1; expected a number above 0"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_any_work(tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other").mkdir()
    for name in ("tiny.yaml", "other/tiny.yaml"):
        Path(name).write_text(TINY)
    with pytest.raises(ValueError, match=message):
        table8.main(["zoos/seeds", "--out", "out", *words])  # not even the zoo is looked for


def test_a_method_with_other_settings_than_its_run_is_a_row_that_says_so(place, commands, monkeypatch) -> None:
    asked = ["zoos/seeds", "--out", "out", "-n", "2", "--methods", "tiny.yaml"]
    assert table8.main(asked) == 0
    (place / "tiny.yaml").write_text(TINY.replace("steps: 3", "steps: 4"))
    here = trials.rpg

    def said(command, limit, log) -> str:
        """As the command line says it."""
        try:
            return here(command, limit, log)
        except ValueError as error:
            return str(error)

    monkeypatch.setattr(trials, "rpg", said)
    assert table8.main(asked) == 1
    (row,) = json.loads(Path("out/table8.json").read_text())
    assert "holds another run: method.velocity.steps 3 -> 4" in row["failed"]


def test_a_call_with_fewer_methods_does_not_lose_the_table(place, commands) -> None:
    asked = ["zoos/seeds", "--out", "out", "-n", "2", "--methods"]
    assert table8.main([*asked, "gaussian,kde"]) == 0
    there = Path("out/table8.json").read_bytes()
    commands.clear()
    with pytest.raises(ValueError, match=r"table8.json has kde, too; name all methods in --methods, or another --out"):
        table8.main([*asked, "gaussian,tiny.yaml"])
    assert not commands
    assert Path("out/table8.json").read_bytes() == there


def test_seeds_are_found_in_any_method() -> None:
    assert [key for key, _ in trials.seeds_of(load_method("flow")[0], "method")] == ["method.velocity.seed"]
    assert [key for key, _ in trials.seeds_of(load_method("rpg-tiny")[0], "method")] == ["method.train.seed"]
    assert [key for key, _ in trials.seeds_of(load_method("gaussian")[0], "method")] == []


@pytest.mark.slow
def test_a_method_has_a_process_of_its_own(place) -> None:
    """With the command line as users have it: one that is refused says why, and one takes longer than its limit."""
    script, call = Path(table8.__file__), ["zoos/seeds", "--out", "out", "-n", "2", "--methods"]
    done = subprocess.run(
        [sys.executable, script, *call, "tiny.yaml,nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nothing" in done.stderr
    done = subprocess.run([sys.executable, script, *call, "tiny.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, script, *call, "tiny.yaml,noise", "--limit", "0.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    rows = {row["method"]: row for row in json.loads(Path("out/table8.json").read_text())}
    assert rows["noise"]["failed"].startswith("train: not finished within 0.1 s")
    assert rows["tiny.yaml"].get("failed") is None
