"""`rpg reproduce`: a table of the tiny recipe, all the way; interrupted anywhere it ends in the same bytes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from commands import TINY, call

from evaluators.similarity import max_error_iou
from rpg.reproduce import plan as planning
from rpg.reproduce import stage
from rpg.reproduce.collected import Collected, Machine, values_of
from rpg.reproduce.crew import Alone
from rpg.reproduce.derived import Noised
from rpg.reproduce.measures import plus_signs, scores_of
from rpg.reproduce.paper import read_table
from rpg.reproduce.paper_page import paper_page, status
from rpg.reproduce.pictures import bars
from rpg.reproduce.plan import Plan, outlook
from rpg.reproduce.result import Result
from rpg.reproduce.stage import reproduce_all, reproduce_one
from rpg.reproduce.steps import Scored
from rpg.run import Run
from zoo.errors import MissingData
from zoo.store import Zoo

TABLE = f"""
title: "A table of the tiny recipe"
section: "0"
unit: "top-1, %"
base: {{recipe: {TINY}, set: [zoo.checkpoints=4, zoo.epochs=1, zoo.regime=independent, zoo.seeds=2]}}
columns:
  gaussian: {{method: gaussian, generate: {{n: 2}}}}
  noise: {{method: noise}}
  sane: {{method: no-such-method}}
rows:
  params: {{show: parameters}}
  original: {{show: original}}
  best: {{show: generated, statistic: best}}
  decline: {{show: decline}}
  noised: {{show: noised, sigma: 0.5}}
  by noise: {{show: decline of noise, sigma: 0.5}}
  likeness: {{show: likeness}}
  sensitivity: {{show: sensitivity, sigma: 0.5}}
  "0.5": {{show: swapped, share: 0.5, between: seeds}}
  GB: {{show: training memory}}
printed:
  best: [99.5, fail, OOM]
  params: [0.001, 0.001, "–"]
differs: "Everything."
small: "it is small"
"""


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "tiny-table.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture
def plan(table_file: Path) -> Plan:
    return Plan("tiny-table", read_table(table_file), small=False)


@pytest.fixture(scope="module")
def made(table_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A directory in which the table was made without interruption."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result, written, _ = reproduce_one(
            Plan("tiny-table", read_table(table_file), small=False), Alone(Machine("cpu")), Path("reproduced")
        )
    assert written == Path("reproduced/tiny-table/table.html")
    return place, result


def test_every_cell_is_what_its_artefacts_say(
    made: tuple[Path, Result], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, result = made
    monkeypatch.chdir(place)
    found = {(cell.row, cell.column): cell for cell in result.cells}
    cell = plan.cells["best", "gaussian"]

    def top1(of: Collected | Noised) -> list[float]:
        return [score.metrics["top1"].value for score in scores_of(of)]

    drawn = [score.metrics["top1"].value for score in scores_of(cell.drawn)]
    assert len(Zoo.open(cell.zoo.place)) == 8
    assert len(drawn) == 2
    assert found["best", "gaussian"].value == max(drawn)
    assert found["original", "gaussian"].value == pytest.approx(mean(top1(cell.zoo)))
    assert found["decline", "gaussian"].value == pytest.approx(mean(top1(cell.zoo)) - mean(drawn))
    noised = plan.cells["noised", "noise"].noised
    assert found["noised", "noise"].value == pytest.approx(mean(top1(noised)))
    assert found["by noise", "noise"].value == pytest.approx(mean(top1(cell.zoo)) - mean(top1(noised)))
    assert found["sensitivity", "noise"].value == "+"
    wrong, theirs = (
        ~np.stack([score.correct_per_sample() for score in scores_of(of)]) for of in (cell.drawn, cell.zoo)
    )
    assert found["likeness", "gaussian"].value == pytest.approx(float(max_error_iou(wrong, theirs).mean()))
    assert found["params", "gaussian"].value == pytest.approx(1010 / 1e6)
    swapped = plan.cells["0.5", "noise"].swapped
    assert {entry.parents for entry in Zoo.open(swapped.place).entries} == {
        tuple(Zoo.open(cell.zoo.place).entry(id).sha256 for id in ("seed00000-0003", "seed00001-0003"))
    }
    spent = Run(cell.run.place).spent
    value = found["GB", "gaussian"].value
    assert value == (None if spent is None else spent.host_bytes / 1e9)
    states = {cell.state for cell in result.cells if cell.column == "sane"}
    assert states == {"not available", "not run"}
    assert found["best", "sane"].state == "not run", "which the paper did not"
    assert not result.complete
    assert result.deviation == pytest.approx(mean([abs(max(drawn) - 99.5), *[abs(0.00101 - 0.001)] * 2]))


def test_the_table_stands_beside_the_papers(made: tuple[Path, Result]) -> None:
    place = made[0] / "reproduced/tiny-table"
    assert {path.name for path in place.iterdir()} == {
        *("table.md", "table.csv", "table.tex", "table.html", "table.json")
    }
    markdown = (place / "table.md").read_text()
    head = next(line for line in markdown.splitlines() if line.startswith("| top-1"))
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        *("top-1, %", "gaussian", "gaussian, paper", "noise", "noise, paper", "sane", "sane, paper")
    ]
    best = next(line for line in markdown.splitlines() if line.startswith("| best"))
    assert [cell.strip() for cell in best.strip("|").split("|")][2::2] == ["99.5", "fail", "OOM"]
    assert "| 0.001" in next(line for line in markdown.splitlines() if line.startswith("| params"))
    assert "method no-such-method does not exist yet" in markdown
    assert "`rpg reproduce tiny-table`" in markdown
    assert (place / "table.csv").read_text().count("\n") == 1 + 30
    assert json.loads((place / "table.json").read_text())["cells"][0]["printed"] == 0.001
    assert (place / "table.tex").read_text().startswith(r"\begin{tabular}")
    assert "<table>" in (place / "table.html").read_text()


def test_done_again_nothing_is_made_and_nothing_changes(
    made: tuple[Path, Result], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made[0])
    before = {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()}
    assert {step["there"] for step in outlook([plan], "h100").steps if step["step"] != "score"} == {"yes"}
    reproduce_one(plan, Alone(Machine("cpu")), Path("reproduced"))
    assert {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """As a kill between two steps, or within one."""


@pytest.mark.slow
def test_interrupted_after_any_step_it_ends_in_the_same_bytes(
    made: tuple[Path, Result], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = len(plan.steps)
    scored = Scored.carry_out
    alive = 0

    def dying(step: Scored, machine: Machine) -> None:
        nonlocal alive
        scored(step, machine)
        alive -= 1
        if alive < 0:
            raise Killed

    monkeypatch.setattr(Scored, "carry_out", dying)
    deaths = 0
    for allowed in range(steps):
        alive = allowed
        try:
            reproduce_one(plan, Alone(Machine("cpu")), Path("reproduced"))
            break
        except Killed:
            deaths += 1
            assert not (tmp_path / "reproduced").exists()
    assert deaths == len([step for step in plan.steps if isinstance(step, Scored)])
    expected, found = (root / "reproduced/tiny-table" for root in (made[0], tmp_path))
    for name in ("table.md", "table.csv", "table.tex", "table.html", "table.json"):
        mine, theirs = ((place / name).read_text().splitlines() for place in (found, expected))
        # But for the memory that the process had, which is no function of the work.
        different = [line for line, other in zip(mine, theirs, strict=True) if line != other]
        assert all("GB" in line or name == "table.json" for line in different), (name, different)
    zoos = sorted(path.parent.name for path in (made[0] / "zoos").glob("*/manifest.json"))
    assert zoos
    for name in zoos:
        assert Zoo.open(made[0] / "zoos" / name).sha256 == Zoo.open(tmp_path / "zoos" / name).sha256


def test_of_all_tables_one_that_fails_stops_no_other(
    made: tuple[Path, Result], plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(made[0])
    bad = Plan("table1", planning.load_table("table1"), small=True)

    def no_data(self: Collected, machine: Machine) -> None:
        raise MissingData(f"no images for {self.recipe}")

    monkeypatch.setattr(Collected, "carry_out", no_data)
    failed = reproduce_all([bad, plan], Alone(Machine("cpu")), tmp_path / "out", tmp_path / "paper.md")
    assert failed == {"table1": "no images for digits-resnet"}
    assert (tmp_path / "out/tiny-table/table.html").is_file()
    page = (tmp_path / "paper.md").read_text()
    assert "failed: no images for digits-resnet" in page
    assert status(plan.table, None, None, None) == "needs a GPU: it is small"
    assert "rpg reproduce table16" in page


def test_the_page_says_how_far_a_table_is(tmp_path: Path) -> None:
    result = Result(name="figure8", small=True, cells=())
    assert "runs in small" not in paper_page(tmp_path, {}).partition("| table1 ")[2]
    (tmp_path / "figure8-small").mkdir()
    (tmp_path / "figure8-small/table.json").write_text(result.to_json())
    line = next(line for line in paper_page(tmp_path, {}).splitlines() if line.startswith("| figure8 "))
    assert "runs in small" in line
    (tmp_path / "figure8").mkdir()
    full = result.model_copy(update={"small": False})
    (tmp_path / "figure8/table.json").write_text(full.to_json())
    line = next(line for line in paper_page(tmp_path, {}).splitlines() if line.startswith("| figure8 "))
    assert "measured" in line


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(call("rpg reproduce table15 --small --dry-run --device h100 --json"))
    assert [step["step"] for step in found["steps"]].count("train") == 8
    assert [step["step"] for step in found["steps"]].count("collect") == 4
    assert all(step["there"] == "no" and step["command"] for step in found["steps"])
    assert found["hours"] > 0
    assert "of disk" in call("rpg reproduce table15 --small --dry-run --device h100")
    assert list(tmp_path.iterdir()) == []
    out = call("rpg reproduce figure8 --rows 5 --rows 1 --json")
    values = {(cell["row"], cell["column"]): cell["value"] for cell in json.loads(out)["cells"]}
    assert values["5", "RPG"] > values["1", "RPG"] > 0
    assert values["5", "p-diff"] > 4 * values["1", "p-diff"] > 4 * values["1", "RPG"]
    assert "no engine named 'rey'" in call("rpg reproduce figure8 --engine rey --dry-run", 2)
    (tmp_path / "file").write_text("")
    assert "is a file" in call("rpg reproduce figure8 --out file/tables", 2)
    assert "both methods" in call("rpg estimate rpg-tiny --method p-diff --parameters 50000", 2)
    (drawn,) = (tmp_path / "reproduced").glob("figure8-*/lines.svg")
    assert "RPG goes from" in drawn.read_text()
    assert "did you mean table1?" in call("rpg reproduce tabel1", 2)
    assert "there is no row" in call("rpg reproduce table1 --rows ours", 2)
    assert "--rows are of one table" in call("rpg reproduce all --rows ours", 2)


def test_a_plan_survives_a_missing_extra_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    values_of.cache_clear()
    found = json.loads(call("rpg reproduce table2 --small --dry-run --json"))
    lacking = {step["place"] for step in found["steps"] if step["lacks"] and "needs detectron2" in step["lacks"]}
    assert lacking == {"zoos/digits-objects", "runs/digits-objects", "zoos/digits-objects-generated"}
    assert all(step["hours"] is None for step in found["steps"] if step["lacks"])
    text = call("rpg reproduce table2 --small --dry-run")
    assert "rpg-zoo collect digits-objects" in text
    assert "What is not installed" in text
    assert text.count("pip install 'rpg-zoo[det]'") == 1


def test_a_zoo_of_other_settings_is_refused(
    made: tuple[Path, Result], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a dry run; and a run that was trained on another zoo."""
    shutil.copytree(made[0], tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    cell = plan.cells["best", "gaussian"]
    shutil.rmtree(cell.zoo.place)
    call(f"rpg-zoo collect {TINY} --set zoo.checkpoints=3 --set zoo.epochs=1 --out {cell.zoo.place}")
    for carry_out in (lambda: reproduce_one(plan, Alone(Machine("cpu")), Path("out")), lambda: outlook([plan], "h100")):
        with pytest.raises(
            ValueError,
            match=r"holds another zoo: zoo\.checkpoints 3 -> 4; .* made where this is called, .* in another directory",
        ):
            carry_out()
    shutil.rmtree(cell.zoo.place)
    Collected(cell.zoo.recipe, (*cell.zoo.overrides[:-1], "zoo.seeds=3")).carry_out(Machine("cpu"))
    Path(Collected(cell.zoo.recipe, (*cell.zoo.overrides[:-1], "zoo.seeds=3")).place).rename(cell.zoo.place)
    with pytest.raises(ValueError, match="another"):
        cell.run.refuse_another(Machine("cpu"))


def test_bars_are_the_cells_that_have_numbers(made: tuple[Path, Result], plan: Plan) -> None:
    result = made[1]
    drawn = bars(plan.table, result).decode()
    for cell in result.cells:
        if isinstance(cell.value, float):
            assert f"{cell.row} {cell.value:.3g}" in drawn
    assert "sane: nothing" in drawn


def test_plus_signs() -> None:
    assert plus_signs([62.8, 5.4, None, 53.6]) == ["+++", "+", None, "++"]
    assert stage.ALL == "all"
