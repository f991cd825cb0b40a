"""benchmarks/tasks.py: methods beside one another on tasks never seen, with baselines and costs, nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest
import table8
import tasks
import trials

import rpg
import rpg.reports.stage
import zoo

BINARY = Path(__file__).parent / "binary.yaml"
METHOD = """
extends: _methods/rpg-tiny
method:
  generator:
    {token_size: 64, d_model: 32, d_state: 8, head_dim: 32, channels: [1, 4, 8, 4, 1], condition: binary,
     permutation_state: none}
  train: {batch_size: 4, steps: STEPS, precision: float32}
generate: {sampler: dpm++, steps: 2}
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, steps in (("few", 5), ("more", 6)):
        Path(f"{name}.yaml").write_text(METHOD.replace("STEPS", str(steps)))
    zoo.collect(str(BINARY), overrides=["zoo.epochs=0.2"])
    return tmp_path


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """What was run, in this process; `cond-p-diff` fails."""
    done: list[str] = []

    def here(command: list[str], limit: float, log: Path) -> str:
        option = {word: command[k + 1] for k, word in enumerate(command) if word.startswith("-") and word != "--set"}
        done.append(f"{command[0]} {Path(option['--out']).name}")
        if option.get("--method") == "cond-p-diff":
            return "out of memory"
        if command[0] == "generate":
            unseen = rpg.load(command[1]).record().conditions[option["--split"]]
            rpg.generate(
                command[1], n=int(option["-n"]), seed=int(option["--seed"]), out=option["--out"], conditions=unseen
            )
        else:
            changed = [command[k + 1] for k, word in enumerate(command) if word == "--set"]
            rpg.train(option["--zoo"], option["--method"], out=option["--out"], overrides=changed)
        return ""

    monkeypatch.setattr(trials, "rpg", here)
    monkeypatch.setattr(rpg.reports.stage, "write_task_report", lambda *_: Path("report.html"))  # plots take longest
    return done


def test_methods_stand_beside_the_baselines_of_their_tasks(place, commands) -> None:
    asked = ["zoos/binary", "--out", "out", "-n", "2", "--seeds", "2", "--methods"]
    assert tasks.main([*asked, "few.yaml"]) == 0
    assert commands == ["train few", "generate few-generated", "train few-1", "generate few-1-generated"]
    drawn = Path("out/zoos/few-generated/manifest.json").read_bytes()
    assert tasks.main([*asked, "few.yaml,more.yaml,cond-p-diff"]) == 1
    assert Path("out/zoos/few-generated/manifest.json").read_bytes() == drawn  # what is there is only looked at
    rows = json.loads(Path("out/tasks.json").read_text())
    assert [row["group"] for row in rows[:3]] == ["original", "generated", "generated"]
    few, more = rows[1:3]
    assert (few["method"], few["seeds"], more["method"]) == ("few.yaml", 2, "more.yaml")
    assert {"nearest", "neighbours", "vote", "ridge"} < {row["group"] for row in rows}
    assert {row["group"]: row["failed"] for row in rows[-2:]} == dict.fromkeys(
        ("seed 0", "seed 1"), "train: out of memory"
    )
    assert few["seconds to train"] > 0
    for method, row in (("few", few), ("more", more)):
        scores = {}
        for seed, name in enumerate((method, f"{method}-1")):
            lines = Path(f"out/scores/{name}-generated/scores.jsonl").read_text().splitlines()
            scores[seed] = [json.loads(line)["metrics"]["top1"]["value"] for line in lines]
        assert len(scores[0]) == len(scores[1]) == 3 * 2
        assert row["top1"] == pytest.approx(mean([*scores[0], *scores[1]]), abs=1e-3)
        assert row["top1, seeds"] == f"{mean(scores[0]):.2f}, {mean(scores[1]):.2f}"
        # The same tasks count in a lead, so it is the difference of the means.
        best = max(row["top1"] for row in rows if row["group"] in ("nearest", "neighbours", "vote", "ridge",
                                                                  "regression", "arithmetic"))  # fmt: skip
        assert row["lead"] == pytest.approx(row["top1"] - best, abs=1e-3)
        assert row["lead, error"] > 0


def test_methods_and_zoos_that_know_no_tasks_are_refused_before_any_work(place, commands) -> None:
    with pytest.raises(ValueError, match="gaussian is told no task"):
        tasks.main(["zoos/binary", "--out", "out", "--methods", "few.yaml,gaussian"])
    made = rpg.train("zoos/binary", "gaussian", out="runs/normal")
    with pytest.raises(ValueError, match="holds no networks of binary tasks"):
        tasks.main([str(rpg.generate(made, out="zoos/normal").path), "--out", "out", "--methods", "few.yaml"])
    assert commands == []


def test_networks_of_many_tasks_have_a_table_of_their_own(place, commands) -> None:
    with pytest.raises(ValueError, match=r"zoos/binary is for many binary tasks; expected networks of one task"):
        table8.main(["zoos/binary", "--out", "out", "--methods", "few.yaml"])
    assert not commands
