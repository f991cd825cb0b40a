"""`rpg-zoo align` on networks that were really trained: seeds of the digits' network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import TINY, call, run

from zoo.derive import aligning
from zoo.derive.align import read_alignment
from zoo.derive.aligning import known_symmetries
from zoo.derive.on_images import check_images
from zoo.store import Zoo
from zoo.symmetry.action import act, parts_of
from zoo.symmetry.matching import Problem, match
from zoo.symmetry.specification import Specification

SEEDS = (
    "--set zoo.regime=independent --set zoo.seeds=5 --set zoo.heldout=0.2 --set zoo.checkpoints=1 --set zoo.epochs=1"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("seeds")
    call(f"rpg-zoo collect {TINY} {SEEDS} --out {place / 'zoos' / 'seeds'}")
    return place


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("RPG_DATA", raising=False)
    return made


def content(zoo):
    return {entry.id: entry.sha256 for entry in zoo.entries}


def test_what_it_is_worth_is_printed_and_measured_once(place, monkeypatch):
    text = call("rpg-zoo align seeds --match both --refine 3")
    for name in ("4 networks, 1 held out", "objective", "midpoint", "mean of all", "soup of 4", "loss barrier"):
        assert any(line.startswith(name) for line in text.splitlines()), name
    aligned = Zoo.open("seeds-aligned")
    titles = [call(f"rpg-zoo card {zoo}").partition("\n# ")[2].partition(":")[0] for zoo in ("seeds", "seeds-aligned")]
    assert titles == ["tiny", "tiny (align)"]
    about = read_alignment(aligned)
    assert about.config.match == "both"
    assert about.refined
    assert about.refined[1] <= about.refined[0]
    assert about.shares[-1] > about.before
    assert not list((aligned.path / "alignment").glob(".*"))
    monkeypatch.setattr(aligning, "worth", None)
    again = json.loads(call("rpg-zoo align seeds --match both --refine 3 --json"))
    assert again["worth"] == json.loads(Path("scores/seeds-aligned/worth.json").read_text())
    assert again["worth"]["objective"] == {"raw": about.before, "aligned": about.shares[-1]}
    code, _, err = run("rpg-zoo align seeds-aligned --undo --match both --out zoos/back")
    assert code == 0
    assert "--match ignored: --undo takes back what was done" in err
    assert content(Zoo.open("back")) == content(Zoo.open("seeds"))


def test_without_measuring_weights_alone_are_compared(place):
    found = json.loads(call("rpg-zoo align seeds --no-measure --restarts 1 --out zoos/plain --json"))
    assert found["worth"]["behaviour"] is None
    assert found["worth"]["participation"]["raw"] > 1


@pytest.mark.slow
def test_what_was_not_measured_is_measured_when_asked_again(place):
    call("rpg-zoo align seeds --no-measure --restarts 1 --out zoos/plain")
    assert json.loads(Path("scores/plain/worth.json").read_text())["behaviour"] is None
    call("rpg-zoo align seeds --restarts 1 --out zoos/plain")
    assert json.loads(Path("scores/plain/worth.json").read_text())["behaviour"]["accuracy"] > 20


def test_without_data_it_aligns_and_says_what_is_not_measured(place, monkeypatch):
    def gone(*_):
        raise aligning.MissingData("no images")

    monkeypatch.setattr("zoo.tasks.classification.Config.build", gone)
    code, _, err = run("rpg-zoo align seeds --restarts 1 --out zoos/bare")
    assert code == 0
    assert "accuracies of averages are not measured: no images" in err
    assert call("rpg-zoo align seeds --match activations --out zoos/none", 4).endswith("no images")


def test_checkpoints_of_one_run_have_nothing_to_be_aligned_with(place):
    call(f"rpg-zoo collect {TINY} --set zoo.epochs=1 --set zoo.checkpoints=2 --out zoos/run")
    code, out, err = run("rpg-zoo align run --restarts 1 --json")
    assert (code, json.loads(out)["worth"]) == (0, None)
    assert "there is nothing to align them with" in err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("seeds --match magic", 2, "'weights', 'activations' or 'both', got \"magic\""),
        ("seeds --refine 10 --to medoid", 2, "expected --to universe, got medoid"),
        ("seeds --refine -1", 2, "'--refine'"),
        ("seeds --to nobody", 2, "nobody is no checkpoint of"),
        ("seeds --to seed00004-0000", 2, "is not of split train"),
        ("seeds --device nonsense", 2, "--device nonsense cannot be used here"),
        ("seeds --undo", 4, "is not aligned"),
        ("nowhere", 4, "no zoo at zoos/nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(place, options, code, words):
    assert words in call(f"rpg-zoo align {options} --out zoos/wrong", code)
    assert words in call(f"rpg-zoo align {options} --out zoos/wrong --dry-run", code)
    assert not Path("zoos/wrong").exists()


def test_only_classifiers_of_one_task_have_images_to_align_by(place):
    zoo = Zoo.open("seeds")
    with pytest.raises(ValueError, match="--match is for image classifiers, not for networks of task classification"):
        check_images(zoo, object(), "--match")  # type: ignore[arg-type]
    entries = tuple(entry.model_copy(update={"condition": "0000000001"}) for entry in zoo.entries)
    zoo.manifest = zoo.manifest.model_copy(update={"entries": entries})
    task = aligning.task_of(zoo.manifest.origin).build(None, torch.device("cpu"))
    check_images(zoo, task, "--match")
    with pytest.raises(ValueError, match="--refine takes means of networks"):
        check_images(zoo, task, "--refine")


@pytest.mark.slow
def test_a_report_says_what_alignment_is_worth_and_measures_distances_after_it(place):
    call("rpg-zoo align seeds --restarts 1 --out zoos/shown")
    call("rpg-zoo perturb shown --kind noise --sigma 0.1 -n 2 --out zoos/noised")
    found = json.loads(call("rpg report noised --originals shown --no-baselines --out report --json"))
    for group in found["groups"].values():
        assert group["similarity"]["aligned"]["nearest_ratio"]["median"] > 0
    text = Path("report/report.html").read_text()
    assert "What alignment is worth" in text
    assert "distance aligned, median" in text
    assert Path("report/plots/barrier.svg").is_file()


def test_on_real_pairs_the_objective_of_git_rebasin_is_reached(place):
    """Ainsworth et al., 2023, Algorithm 1 (test_align.py), on trained networks: permutations, plain inner products."""
    from test_align import rebasin

    zoo = Zoo.open("seeds")
    whole: Specification = known_symmetries(zoo)
    specification = whole.without(whole.diagonals)
    problem = Problem(specification, tuple(part for part in parts_of(specification) if part.cost))
    loaded = list(zoo.checkpoints(zoo.entries))
    networks = {n: torch.stack([w[n] for w in loaded]).double() for n in specification.tensors}
    values = [part.view(networks[part.name]) for part in problem.parts]
    for a in range(len(loaded)):
        b = (a + 1) % len(loaded)
        theirs = rebasin(specification, *({n: t[k : k + 1] for n, t in networks.items()} for k in (a, b)), seed=0)
        element, ours = match(problem, [v[a : a + 1] for v in values], [v[b : b + 1] for v in values], 0, restarts=8)
        assert float(ours) >= theirs - 1e-9, (a, b)
        moved = act(specification, element, {n: t[b : b + 1] for n, t in networks.items()})
        there = sum(float((networks[p.name][a] * moved[p.name][0]).sum()) for p in problem.parts)
        assert there == pytest.approx(float(ours))
