"""`rpg sweep`: what is in its table is what the runs say; done again nothing is made; what cannot work is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import pytest
from commands import TINY, call, run

from killing import content
from rpg.devices import DEVICES
from rpg.reproduce.steps import Trained
from rpg.reproduce.sweeping import parse_grid, plan_grid, seeds_of
from zoo.errors import MissingData
from zoo.files import read_records
from zoo.recipe import load_method
from zoo.tasks.classification import Config as ClassificationConfig

SMALL = (
    "--set zoo.epochs=1 --set zoo.checkpoints=3 --set method.train.steps=4 --set generate.n=2 --set generate.steps=2"
)
SWEEP = f"rpg sweep {TINY} --grid method.train.learning_rate=1e-3,1e-2 --seeds 2 {SMALL}"
KEY = "method.train.learning_rate"


@pytest.fixture(scope="module", autouse=True)
def _known_device() -> Iterator[None]:
    """Measuring this one takes a second, each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rpg.api.measure", lambda _: DEVICES["h100"])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the sweep was made."""
    place = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "said.json").write_text(call(f"{SWEEP} --json"))
    return place


def result(place: Path) -> dict[str, object]:
    return json.loads((place / "said.json").read_text())


def test_the_table_is_mean_and_deviation_of_what_the_scores_say(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    found = result(made)
    trials: list[dict] = found["trials"]  # type: ignore[assignment]
    assert [(trial["point"], trial["seed"]) for trial in trials] == [
        *((["1e-3"], 0), (["1e-3"], 1), (["1e-2"], 0), (["1e-2"], 1))
    ]
    for trial in trials:
        origin = json.loads(Path(trial["run"], "run.json").read_text())["origin"]["settings"]["method"]["train"]
        assert origin["learning_rate"] == float(trial["point"][0])
        assert origin.get("seed", 0) == trial["seed"]
        (zoo,) = Path("zoos").glob(f"{Path(trial['run']).name}-generated*")
        manifest = json.loads((zoo / "manifest.json").read_text())
        assert manifest["origin"]["settings"]["generate"].get("seed", 0) == trial["seed"]
        scores = [r["metrics"]["top1"]["value"] for r in read_records(Path("scores", zoo.name, "scores.jsonl"))]
        assert len(scores) == 2
        assert trial["value"] == mean(scores)
        assert 0 < trial["originals"] < 100
    assert len({trial["run"] for trial in trials}) == 4
    rows = [line for line in Path(str(found["table"])).read_text().splitlines() if line.startswith("| 1e-")]
    for row, pair in zip(rows, (trials[:2], trials[2:]), strict=True):
        values = [trial["value"] for trial in pair]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:4] == [pair[0]["point"][0], "2", f"{mean(values):.2f}", f"{stdev(values):.2f}"]
    written = Path(str(found["table"])).parent
    assert {file.name for file in written.iterdir()} == {"sweep.md", "sweep.csv", "sweep.tex", "sweep.json"}
    assert (written / "sweep.csv").read_text().count("\n") == 1 + 4


def test_done_again_nothing_is_made_and_nothing_changes(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    before = content(made)
    assert f"all {2 + 3 * 4} steps are done" in call(f"{SWEEP} --dry-run")
    assert json.loads(call(f"{SWEEP} --json")) == result(made)
    assert content(made) == before


def test_without_data_it_is_the_last_training_loss(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    found = result(made)
    before = content(made / str(Path(str(found["table"])).parent))

    def no_data(*_: object) -> None:
        raise MissingData("no images of digits")

    monkeypatch.setattr(ClassificationConfig, "build", no_data)
    other = f"{SWEEP} --out elsewhere"
    said = json.loads(call(f"{other} --json"))
    assert said["measure"] == "training loss"
    for trial in said["trials"]:
        assert trial["value"] == read_records(Path(trial["run"], "metrics.jsonl"))[-1]["loss"]
        assert trial["originals"] is None
    assert "no images of digits" in call(other)
    assert content(made / str(Path(str(found["table"])).parent)) == before


def test_a_run_that_diverges_stops_no_other(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    code, out, _ = run(f"rpg sweep {TINY} --grid {KEY}=1e-3,1e30 {SMALL} --json")
    found = json.loads(out)
    assert code == 1
    good, bad = found["trials"]
    assert good["value"] == result(made)["trials"][0]["value"]  # type: ignore[index]
    assert bad["value"] is None
    assert "lower method.train.learning_rate" in bad["error"]
    page = Path(found["table"]).read_text()
    assert f"Failed: {bad['run']}" in page.replace("\\", "")


def test_a_grid() -> None:
    assert parse_grid(["a.b=1", "zoo.epochs=1, 2"][1:]) == {"zoo.epochs": ("1", "2")}
    assert parse_grid(["method.a=[1,2],[3,[4]],5", "task.b=x"]) == {
        "method.a": ("[1,2]", "[3,[4]]", "5"),
        "task.b": ("x",),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "an empty grid"),
        ("--grid method.train.steps=", "expected KEY=VALUE"),
        ("--grid method.train.steps=1,,2", "expected KEY=VALUE"),
        ("--grid =1", "expected KEY=VALUE"),
        ("--grid eval.n=1,2", "is no setting of task, zoo, method, generate"),
        ("--grid method.train.steps=1 --grid method.train.steps=2", "has values already"),
        ("--grid method.train.stepz=1,2", "did you mean steps?"),
        ("--grid method.train.steps=1,many", "method.train.steps"),
        ("--grid method.train.learning_rate=1e-2,0.01", "is the same as method.train.learning_rate=1e-2"),
        ("--grid method.train.seed=1,2", "--seeds takes several"),
        ("--grid generate.seed=1,2", "--seeds takes several"),
        ("--grid method.train.steps=1,2 --set method.train.steps=3", "expected one of the two"),
        ("--grid method.train.steps=1,2 --seeds 501", "expected 1 to 1000"),
        ("--grid method.generator.head_dim=32,31", "head_dim"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    options: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in call(f"rpg sweep {TINY} {options}", 2)
    assert list(tmp_path.iterdir()) == []


def test_names_that_mean_nothing_are_refused() -> None:
    assert "did you mean digits?" in call(f"rpg sweep digit --grid {KEY}=1,2", 2)
    assert "no method named" in call(f"rpg sweep digits --method gausian --grid {KEY}=1,2", 2)


def test_the_order_of_settings_does_not_matter_and_what_changes_nothing_is_left_out() -> None:
    grid = {KEY: ("1e-2",), "method.train.steps": ("5",)}
    turned = dict(reversed(grid.items()))
    (one,), (other,) = (plan_grid("digits", None, order, 1).planned for order in (grid, turned))
    assert one.cell == other.cell
    same = plan_grid("digits", None, {KEY: ("1e-3",), "generate.n": ("3",)}, 1).planned[0].cell
    assert same.run.place == Path("runs/digits")
    assert same.drawn.asked == {"n": 3}


def test_a_closed_form_is_learnt_once_and_drawn_with_each_seed() -> None:
    steps = plan_grid("digits", "gaussian", {"method.width": ("0.5",)}, 3).steps()
    assert len([step for step in steps if isinstance(step, Trained)]) == 1
    assert len([step for step in steps if step.stage == "generate"]) == 3


def test_seeds_go_on_from_the_recipes_own() -> None:
    planned = plan_grid("digits", None, {KEY: ("1e-2",)}, 2, ["method.train.seed=4", "generate.seed=7"]).planned
    seeds = [one.recipe.method.train.seed for one in planned]  # type: ignore[union-attr]
    assert seeds == [4, 5]
    assert [one.cell.drawn.asked["seed"] for one in planned] == [7, 8]
    assert dict(seeds_of(load_method("flow")[0], "method")) == {"method.velocity.seed": 0}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_make_what_one_process_makes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.json").write_text(call(f"{SWEEP} --json --workers 2 --engine {engine} --device cpu"))
    assert result(tmp_path)["trials"] == result(made)["trials"]
    zoos = [place.relative_to(made) for place in sorted((made / "zoos").iterdir())]
    assert len(zoos) == 5
    for zoo in zoos:
        found, expected = content(tmp_path / zoo), content(made / zoo)
        assert found.keys() == expected.keys()
        found.pop("manifest.json"), expected.pop("manifest.json")  # has what was spent
        assert found == expected
