"""Tables 2 and 3 in small go the whole way: their original networks learn what they are for, and generated ones are
made and scored. With a few checkpoints and a generator that hardly learns, which other tests are about.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rpg.reproduce.collected import Machine, recipe_of
from rpg.reproduce.crew import Alone
from rpg.reproduce.paper import Small, Spec, load_table
from rpg.reproduce.plan import Plan
from rpg.reproduce.result import Result
from rpg.reproduce.stage import reproduce_one
from zoo.structure import Structure
from zoo.tasks.commonsense import CommonsenseTask

CPU = torch.device("cpu")
FEWER = Spec(set=("zoo.checkpoints=3", "method.train.steps=20"), generate={"n": 2})
EXTRAS = {"table2": ("mmseg", "detectron2"), "table3": ("peft", "lm_eval")}


def shortened(name: str) -> Plan:
    """The plan of a table in small with fewer checkpoints."""
    table = load_table(name)
    assert isinstance(table.small, Small)
    base = (table.small.base or table.base).under(FEWER)
    return Plan(name, table.model_copy(update={"small": table.small.model_copy(update={"base": base})}), small=True)


def reproduced(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    for library in EXTRAS[name]:
        pytest.importorskip(library, reason="an extra is not installed")
    monkeypatch.chdir(place)
    monkeypatch.delenv("RPG_DATA", raising=False)
    result, written, _ = reproduce_one(shortened(name), Alone(Machine("cpu")), Path("reproduced"))
    assert result.complete
    assert written.is_file()
    return result


@pytest.mark.slow
def test_table_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {(cell.row, cell.column): cell.value for cell in reproduced("table2", tmp_path, monkeypatch).cells}
    # One class everywhere has an mIoU of 18 and a mean accuracy of 25; without training no object is found.
    for column, least in (("mIoU (%)", 28), ("mAcc (%)", 40), ("mAP Bbox (%)", 10), ("mAP Seg (%)", 10)):
        assert values["original", column] > least, column
        assert values["ours", column] >= 0


@pytest.mark.slow
def test_table_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {(cell.row, cell.column): cell.value for cell in reproduced("table3", tmp_path, monkeypatch).cells}
    task = recipe_of("tiny-llama-dora", ()).task
    assert values["params. (M)", "original"] == pytest.approx(task.structure().numel / 1e6)
    sets = {row: value for (row, column), value in values.items() if column == "original" and row != "params. (M)"}
    assert len(sets) == 7
    assert sum(sets.values()) / 7 > task.chance()["mean"] + 15


def test_the_tiny_llama_is_made_without_files_and_the_same_every_time() -> None:
    pytest.importorskip("peft", reason="language models need the extra [llm]")
    from zoo.networks import adapters

    config = recipe_of("tiny-llama-dora", ()).task
    one, other = (adapters.load_base(config.adapter.base, "float32", CPU) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True))
    task = config.build(None, CPU)
    assert isinstance(task, CommonsenseTask)
    assert Structure.of(task.weights(task.build(0))) == config.structure()
    ids, labels = next(iter(task.batches(0, 0, 4)))
    assert one.tokenizer.unk_token_id not in ids[:, -8:], "all words are known"
    assert [one.tokenizer.decode(row[row >= 0]).partition("answer is ")[2].split()[-1] for row in labels] == [
        "</s>"
    ] * 4
