"""The real test files of BoolQ, PIQA, SIQA, ARC and OBQA, whole, with a tiny LLaMA of random weights: by log-likelihood
it is right about as often as chance, by generation it hardly ever answers.

RPG_DATA=DIR pytest -m slow tests/integration/test_commonsense_data.py       # minutes on one core
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import call
from tiny_llama import save_llama

from evaluators.questions import SETS, compose, parse
from zoo.tasks import commonsense

pytest.importorskip("peft", reason="language models need the extra [llm]")
pytest.importorskip("lm_eval", reason="scoring language models needs the extra [llm]")

COUNTS = {"boolq": 3270, "piqa": 1838, "siqa": 1954, "arc_e": 2376, "arc_c": 1172, "obqa": 500}
CHANCE = {"boolq": 50, "piqa": 50, "siqa": 100 / 3, "arc_e": 25, "arc_c": 25, "obqa": 25}
RECIPE = """
task: {name: commonsense, model: llama, dtype: float32, rank: 2, alpha: 4, cutoff: 768, train_on_inputs: false,
       sets: [boolq, piqa, siqa, arc_e, arc_c, obqa], beams: 1}
zoo: {checkpoints: 1, optimizer: adamw, learning_rate: 1.0e-4, batch_size: 2000, epochs: 0, save_learning_rate: 1.0e-4}
"""


@pytest.fixture
def source() -> Path:
    place = Path(os.environ.get("RPG_DATA", "")) / "commonsense"
    if not (place / "boolq" / "test.json").is_file():
        pytest.skip("RPG_DATA is not set to a directory with commonsense/<set>/test.json")
    return place


def rows_to_learn(source: Path) -> list[dict[str, str]]:
    """Short instructions of the training files; some of them put as PIQA's, of which there is no such file."""
    found = []
    for name in ("boolq", "arc_e", "obqa"):
        for k, row in enumerate(json.loads((source / SETS[name].folder / "train.json").read_text())[:1500]):
            question = parse(name, row)
            if name == "obqa" and k % 2:
                question = compose("piqa", question.question, question.choices[:2], k // 2 % 2)
            output = f"the correct answer is {question.word}"
            found.append({"instruction": question.instruction, "input": "", "output": output})
    return [row for row in found if len(row["instruction"]) < 300]


@pytest.mark.slow
def test_the_real_files_are_parsed_and_scored(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commonsense, "EVALUATION_BATCH", 64)
    rows = rows_to_learn(source)
    data = tmp_path / "data" / "commonsense"
    data.mkdir(parents=True)
    for name in COUNTS:
        (data / SETS[name].folder).symlink_to(source / SETS[name].folder)
    (data / "commonsense_170k.json").write_text(json.dumps(rows[:200]))
    Path("real.yaml").write_text(RECIPE)
    save_llama(tmp_path / "llama", hidden_size=32, intermediate_size=64)
    call("rpg-zoo collect real.yaml --data-root data --set zoo.batch_size=8")
    for answer_by in ("generate", "loglikelihood"):
        scored = call(f"rpg-zoo score zoos/real --data-root data --set task.answer_by={answer_by} --json")
        metrics = json.loads(scored)["checkpoints"][0]["metrics"]
        with capsys.disabled():
            print(
                answer_by, {name: (round(m["value"], 1), round(m["stderr"], 1), m["n"]) for name, m in metrics.items()}
            )
        assert {name: metrics[name]["n"] for name in COUNTS} == COUNTS
        if answer_by == "loglikelihood":
            assert {name: metrics[name]["value"] for name in COUNTS} == pytest.approx(CHANCE, abs=15)
        else:
            assert metrics["mean"]["value"] <= metrics["answered"]["value"] < 50
