"""benchmarks/learning_curve.py: a run for each method and number of steps, the share of the originals, and the plot."""

from __future__ import annotations

import json
from pathlib import Path

import learning_curve
import pytest
import trials
from commands import TINY

import rpg
import zoo

METHOD = """
extends: _methods/rpg-tiny
method:
  generator: {token_size: 64, d_model: 32, d_state: 8, head_dim: 32, channels: [1, 4, 8, 4, 1], permutation_state: KIND}
  train: {batch_size: 2, precision: float32, learning_rate: 1.0e-3}
generate: {sampler: dpm++, steps: 2}
"""


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("learned", "one-hot"):
        Path(f"{kind}.yaml").write_text(METHOD.replace("KIND", kind))


@pytest.fixture
def commands(settings, monkeypatch) -> list[str]:
    """What was run, in this process; runs of 7 steps fail."""
    zoo.collect(TINY, out="zoos/mine", epochs=1, checkpoints=3)
    done: list[str] = []

    def here(command: list[str], limit: float, log: Path) -> str:
        option = {word: command[k + 1] for k, word in enumerate(command) if word.startswith("-") and word != "--set"}
        done.append(f"{command[0]} {Path(option['--out']).name}")
        if command[0] == "generate":
            rpg.generate(command[1], n=int(option["-n"]), seed=int(option["--seed"]), out=option["--out"])
            return ""
        changed = [command[k + 1] for k, word in enumerate(command) if word == "--set"]
        if "method.train.steps=7" in changed:
            return "out of memory"
        rpg.train(option["--zoo"], option["--method"], out=option["--out"], overrides=changed)
        return ""

    monkeypatch.setattr(trials, "rpg", here)
    return done


def test_a_row_and_a_point_for_each_method_and_number_of_steps(commands) -> None:
    asked = ["zoos/mine", "--out", "out", "-n", "2", "--points", "learned.yaml=2,4"]
    assert learning_curve.main([*asked, "--points", "one-hot.yaml=3,7"]) == 1
    made = ["learned-2", "learned-4", "one-hot-3"]
    assert commands == [*(f"{verb} {name}{end}" for name in made for verb, end in (("train", ""), ("generate",
                        "-generated"))), "train one-hot-7"]  # fmt: skip
    originals, *rows, failed = json.loads(Path("out/learning_curve.json").read_text())
    assert failed["failed"] == "train: out of memory"
    assert [(row["method"], row["steps"]) for row in rows] == [
        ("learned.yaml", 2), ("learned.yaml", 4), ("one-hot.yaml", 3)
    ]  # fmt: skip
    known = {}
    for name in ("mine", *(f"{name}-generated" for name in made)):
        lines = Path(f"out/scores/{name}/scores.jsonl").read_text().splitlines()
        scores = [json.loads(line)["metrics"]["top1"]["value"] for line in lines]
        known[name] = sum(scores) / len(scores)
    assert originals["mean"] == pytest.approx(known["mine"], abs=1e-3)
    for name, row in zip(made, rows, strict=True):
        assert row["mean"] == pytest.approx(known[f"{name}-generated"], abs=1e-3)
        assert row["of the originals, %"] == pytest.approx(100 * known[f"{name}-generated"] / known["mine"], abs=1e-2)
        assert rpg.load(f"out/runs/{name}").config().train.steps == row["steps"]  # type: ignore[attr-defined]
    drawn = Path("out/learning_curve.svg").read_text()
    assert all(text in drawn for text in ("learned", "one-hot", "98% of the originals", "steps of training"))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (["learned.yaml=2,"], "has steps ''; expected numbers, with commas"),
        (["learned.yaml=0"], "has steps '0'"),
        (["learned.yaml"], "has no name"),
        (["gaussian=5"], "gaussian has no method.train.steps; expected settings of RPG"),
        (["learned.yaml=2", "learned.yaml=4"], "is there twice"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_any_work(points, message) -> None:
    words = [word for point in points for word in ("--points", point)]
    with pytest.raises(ValueError, match=message):
        learning_curve.main(["zoos/mine", "--out", "out", *words])  # not even the zoo is looked for
    assert not Path("out").exists()
