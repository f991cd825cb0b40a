"""Task by task: the comparison's numbers on networks whose accuracies are known, its tables and its page."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.classification import balanced_accuracy
from evaluators.metrics import Evaluation, proportion, summarize
from made_up import task_comparison
from rpg.reports.all_classes import AllClasses
from rpg.reports.answers import NewClasses
from rpg.reports.task_plots import HEAD_TASKS, head_plot
from rpg.reports.task_report import (
    class_table,
    gap_table,
    headline,
    new_classes_table,
    slope_table,
    task_table,
    tasks_text,
    write_task_report,
)
from rpg.reports.tasks import BASELINES, TaskComparison, compare_tasks, principal_axes
from zoo.conditions import all_conditions, bits, distance, flipped, neighbours
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
UNSEEN, OTHER = "0100010111", "0000011111"
TRAIN = ("0100010110", "1100010111", OTHER)


class LookupTask:
    """Ten samples, one of each class; a network answers with its ten head weights, rounded."""

    evaluator, protocol, main_metric = "lookup/1", "ten samples", "top1"
    chance = {"balanced": 50.0}  # noqa: RUF012
    conditions = (UNSEEN, flipped(UNSEEN), *TRAIN)
    labels = torch.zeros(10)

    def for_condition(self, condition: str) -> LookupTask:
        task = copy.copy(self)
        task.labels = bits(condition)
        return task

    def classes(self, split: str) -> torch.Tensor:
        return torch.arange(10)

    def build(self, seed: int) -> nn.Module:
        model = nn.Module()
        model.register_buffer("answers", torch.zeros(10))
        return model

    def start(self, seed: int) -> nn.Module:
        return self.build(seed)

    def weights(self, model: Any) -> dict[str, torch.Tensor]:
        """Of the start: undecided on every class."""
        return {"body.weight": torch.zeros(3), "head.weight": torch.full((10,), 0.5)}

    def load(self, model: Any, weights: Any) -> None:
        model.answers.copy_(weights["head.weight"])

    def evaluate(self, model: Any, split: str) -> Evaluation:
        correct = (model.answers.round() == self.labels).numpy()
        balanced = balanced_accuracy(correct, self.labels.numpy().astype(np.int64))
        return Evaluation((proportion("top1", correct), balanced), correct)


def network(condition: str, wrong: int = 0) -> dict[str, torch.Tensor]:
    answers = bits(condition).clone()
    answers[:wrong] = 1 - answers[:wrong]
    return {"body.weight": torch.zeros(3), "head.weight": answers}


def zoo_of(path: Path, entries: list[tuple[str, str, int]], origin: Origin = ORIGIN) -> Zoo:
    with ZooWriter(path, origin, Structure.of(network(UNSEEN))) as writer:
        for k, (condition, split, wrong) in enumerate(entries):
            writer.add(f"n{k:02d}", network(condition, wrong), seed=0, split=split, step=k, condition=condition)
        return writer.finish()


@pytest.fixture
def comparison(tmp_path: Path) -> TaskComparison:
    originals = zoo_of(
        tmp_path / "originals", [*((c, "train", 0) for c in TRAIN), (UNSEEN, "unseen", 0), (UNSEEN, "unseen", 1)]
    )
    generated = zoo_of(
        tmp_path / "made",
        [*((UNSEEN, "generated", wrong) for wrong in (1, 2, 3)), (flipped(UNSEEN), "generated", 1)],
    )
    task: Any = LookupTask()
    return compare_tasks(originals, generated, task, ORIGIN, tmp_path / "out")


def test_numbers_of_a_task(comparison: TaskComparison) -> None:
    row, complement = comparison.rows
    assert (row.condition, row.split, complement.split) == (UNSEEN, "unseen", "new")
    assert row.accuracy["original"].mean == 95
    generated = row.accuracy["generated"]
    assert (generated.best, generated.mean, generated.std, generated.n) == (90, 80, 10, 3)
    assert row.gaps["generated"] == 15
    assert row.accuracy["nearest"].mean == 90  # a one-bit neighbour's network is wrong on one class
    assert row.flipped is not None
    assert complement.flipped is not None
    assert row.flipped.mean == 100 - complement.accuracy["generated"].mean == 10
    assert complement.flipped.mean == 100 - generated.mean
    assert complement.gaps == {}
    # Five classes are labelled 0, and the first, on which the best network is wrong, is one of them.
    assert row.balanced["generated"].best == pytest.approx(100 * (4 / 5 + 5 / 5) / 2)
    assert comparison.mean_gaps("unseen") == row.gaps


def test_what_is_linear_in_the_bits_needs_no_generator(tmp_path: Path) -> None:
    """Each network's weights are the bits of its task, half a unit up or down from the start that they all share."""
    seen = [c for c in all_conditions()[::11] if c not in (UNSEEN, flipped(UNSEEN))]
    seen = list(dict.fromkeys([*seen, *neighbours(UNSEEN)[:4]]))
    origin = ORIGIN.model_copy(update={"settings": {"zoo": {"init": "shared"}}})
    entries = [*((c, "train", 0) for c in seen), (UNSEEN, "unseen", 0)]
    generated = zoo_of(tmp_path / "made", [(UNSEEN, "generated", 0), (seen[0], "generated", 0)])
    task: Any = LookupTask()
    probabilities = np.eye(10, dtype=np.float32)[None] * 0.4 + 0.06  # of each of ten samples, one of each class
    classifier = AllClasses(probabilities, np.arange(10), ("0" * 64,))
    zoo = zoo_of(tmp_path / "originals", entries, origin)
    found = compare_tasks(zoo, generated, task, ORIGIN, tmp_path / "out", classifier=classifier)
    assert found.absent == {}
    assert found.baselines == list(BASELINES)
    row = found.rows[0]
    accuracy = {name: summary.mean for name, summary in row.accuracy.items()}
    perfect = ("original", "generated", "vote", "regression", "ridge", "arithmetic")
    assert {accuracy[name] for name in perfect} == {100.0}
    assert accuracy["nearest"] == 90
    # The class itself counts 0.46 and the nine others 0.06 each: five of ten labelled 1, so the own class decides.
    assert accuracy["classifier"] == 100
    assert accuracy["random"] == 100 - 10 * distance(UNSEEN, seen[0])
    assert all(slope is None or slope.value == 1 for slope in found.slopes["generated"])
    assert all(slope and slope.value == 1 for slope in found.slopes["original"] if slope)
    other = AllClasses(probabilities, np.arange(10)[::-1].copy(), ("1" * 64,))
    with pytest.raises(ValueError, match="other test images"):
        compare_tasks(zoo, generated, task, ORIGIN, tmp_path / "another", classifier=other)
    write_task_report(found, {}, {}, tmp_path / "report")
    plain = zoo_of(tmp_path / "plain", entries)  # the same networks, of which nobody says that they share a start
    with pytest.raises(ValueError, match=r"another report \(start: \w{16} there, none now\)"):
        compare_tasks(plain, generated, task, ORIGIN, tmp_path / "report", classifier=classifier)


def test_slopes_as_a_table(comparison: TaskComparison) -> None:
    """The generated networks are of a task and its complement, wrong on the first classes as the fixture says."""
    table = slope_table(comparison)
    rows = {cells[0]: dict(zip(table.columns, cells, strict=True)) for cells in table.rows}
    assert rows["generated"]["9"] == 1  # nobody is wrong on the last class
    # Bit 0 is 0 in the task, whose three networks all answer 1, and 1 in the complement, whose network answers 0.
    assert rows["generated"]["0"] == -1
    assert rows["generated"]["1"] == pytest.approx(1 - 2 / 3, abs=1e-6)
    assert rows["original"]["all"] is None  # originals of one task only


def test_accuracy_class_by_class(comparison: TaskComparison) -> None:
    row, complement = comparison.rows
    assert row.classes["original"] == (50.0, *[100.0] * 9)  # one of two networks is wrong on the first class
    assert row.classes["generated"] == pytest.approx((0, 100 / 3, 200 / 3, *[100] * 7), abs=1e-3)
    assert row.classes["flipped"] == (100.0, *[0.0] * 9)  # that network is wrong on the first class of its own task
    assert "original" not in complement.classes
    own = np.array(row.classes["generated"])
    np.testing.assert_allclose(complement.classes["flipped"], 100 - own, atol=1e-3)
    table = class_table(comparison)
    assert [cells[:2] for cells in table.rows[:3]] == [(UNSEEN, g) for g in ("original", "generated", "flipped")]
    assert table.rows[0][2:] == (50.0, *[100.0] * 9)


def test_classes_that_no_task_learnt_labels_1(comparison: TaskComparison) -> None:
    """Classes 2, 3, 4, which the complement labels 1: its network is wrong on one of the seven others."""
    table = new_classes_table(comparison)
    assert table.columns == ("group", "classes 2, 3, 4", "all others")
    assert table.rows[0] == ("generated", 100.0, pytest.approx(600 / 7, abs=1e-3))
    assert "Classes that no task learnt labels 1" in tasks_text(comparison)
    plain = comparison.model_copy(update={"new": NewClasses(classes=(), accuracy={})})
    assert "Classes that no task learnt labels 1" not in tasks_text(plain)


def test_tables_and_page(comparison: TaskComparison, tmp_path: Path) -> None:
    table = task_table(comparison)
    assert dict(zip(table.columns, table.rows[0], strict=True))["gap"] == 15
    assert dict(zip(table.columns, table.rows[1], strict=True))["gap"] is None
    means = {
        cells[:2]: dict(zip(gap_table(comparison).columns, cells, strict=True)) for cells in gap_table(comparison).rows
    }
    assert means["unseen", "original"]["top1"] == 95
    assert means["unseen", "generated"] == {
        "split": "unseen", "group": "generated", "top1": 80, "balanced": means["unseen", "generated"]["balanced"],
        "gap": 15, "error": None, "lead": None, "lead, error": None, "tasks": 1,
    }  # fmt: skip
    assert means["new", "generated"]["gap"] is None
    assert (means["unseen", "nearest"]["lead"], means["unseen", "nearest"]["lead, error"]) == (80 - 90, None)
    assert ("unseen", "classifier") not in means
    assert "Not here: classifier. None is known." in tasks_text(comparison)
    assert "Not here: arithmetic. The zoo does not say" in tasks_text(comparison)
    assert "0100010111  unseen" in tasks_text(comparison)
    assert "no better than the best baseline" in headline(comparison)
    curves = {"generated": [(1, 1.0), (2, 0.5)]}
    page = write_task_report(comparison, curves, {"command": "a & b"}, tmp_path / "report")
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "a &amp; b" in text
    assert UNSEEN in (tmp_path / "report" / "report.md").read_text()
    again = TaskComparison.parse((tmp_path / "report" / "report.json").read_bytes(), page)
    assert again == comparison
    rows = list(csv.DictReader((tmp_path / "report" / "report.csv").read_text().splitlines()))
    assert [row["task"] for row in rows] == [UNSEEN, flipped(UNSEEN)]
    assert sorted(path.name for path in (tmp_path / "report" / "plots").iterdir()) == [
        "head.svg", "loss.svg", "picture.svg"
    ]  # fmt: skip


def test_the_report_of_other_networks_is_not_overwritten(comparison: TaskComparison, tmp_path: Path) -> None:
    write_task_report(comparison, {}, {}, tmp_path / "report")
    before = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    other = comparison.model_copy(update={"inputs": comparison.inputs | {"generated": "4 networks 0123"}})
    with pytest.raises(ValueError, match=r"another report \(generated: 4 networks \w+ there, 4 networks 0123 now\)"):
        write_task_report(other, {}, {}, tmp_path / "report")
    assert {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()} == before
    write_task_report(comparison, {}, {}, tmp_path / "report")


def test_pictures_are_of_unseen_tasks_in_units_of_the_seen_spread(comparison: TaskComparison) -> None:
    assert {picture.condition for picture in comparison.picture} == {UNSEEN}
    seen = np.stack([bits(c).numpy() for c in TRAIN])
    spread = seen.std(0)
    expected = (bits(UNSEEN).numpy() - seen.mean(0)) / np.where(spread > 0, spread, 1)
    np.testing.assert_allclose(comparison.picture[0].values, expected, atol=1e-3)
    assert [len(comparison.head[group]) for group in ("original", "generated", "heldout")] == [3, 4, 2]
    assert {condition for condition, *_ in comparison.head["heldout"]} == {UNSEEN}


def test_a_learnt_task_is_pictured_before_unseen_ones(tmp_path: Path) -> None:
    originals = zoo_of(tmp_path / "originals", [*((c, "train", 0) for c in TRAIN), (UNSEEN, "unseen", 0)])
    generated = zoo_of(tmp_path / "made", [(c, "generated", 1) for c in (UNSEEN, *TRAIN)])
    task: Any = LookupTask()
    found = compare_tasks(originals, generated, task, ORIGIN, tmp_path / "out").picture
    assert list(dict.fromkeys(picture.condition for picture in found)) == [TRAIN[0], UNSEEN]


def test_networks_of_unseen_tasks_have_the_colour_of_their_task() -> None:
    made = task_comparison()
    plot = head_plot(made.head)
    tasks = list(dict.fromkeys(condition for condition, *_ in made.head["heldout"]))[:HEAD_TASKS]
    drawn = {line.get_gid(): line for line in plot.figure.axes[1].lines}
    for number, task in enumerate(tasks):
        pair = [drawn[f"task-{number}-{name}"] for name in ("heldout", "generated")]
        assert len({line.get_color() for line in pair}) == 1
        for name, line in zip(("heldout", "generated"), pair, strict=True):
            expected = [(x, y) for condition, x, y in made.head[name] if condition == task]
            assert sorted(zip(*line.get_data(), strict=True)) == sorted(expected)
    assert len({drawn[f"task-{n}-heldout"].get_color() for n in range(len(tasks))}) == len(tasks)


def test_principal_axes_are_those_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 6)) * [1, 5, 1, 1, 9, 1]
    axes = principal_axes(values)
    _, vectors = np.linalg.eigh(np.cov(values.T))
    np.testing.assert_allclose(np.abs(axes), np.abs(vectors[:, [-1, -2]]), atol=1e-8)
    assert bool((axes[np.abs(axes).argmax(0), [0, 1]] > 0).all())
    assert principal_axes(values[:1] * 0 + 1).shape == (6, 2)


@pytest.mark.parametrize(("group", "who"), [("original", "The originals"), ("generated", "The generated networks")])
def test_networks_that_guess_are_the_headline(group: str, who: str) -> None:
    """By their balanced accuracy: on unequal labels the others flatter."""
    made = task_comparison()
    assert headline(made).startswith("On 7 tasks of split unseen")
    guessing = {group: summarize([50.4, 49.9])}
    rows = tuple(row.model_copy(update={"balanced": row.balanced | guessing}) for row in made.rows)
    text = headline(made.model_copy(update={"rows": rows}))
    assert text.startswith(f"{who} do not work: their balanced accuracy is 50.15 on average, chance 50.00.")
    unknown = made.model_copy(update={"rows": rows, "chance": None})
    assert headline(unknown).startswith("On 7 tasks")


def test_without_originals_there_is_a_verdict_and_no_empty_column(comparison: TaskComparison) -> None:
    rows = [
        row.model_copy(update={"split": "new", "accuracy": {k: v for k, v in row.accuracy.items() if k != "original"}})
        for row in comparison.rows[:1]
    ]
    alone = comparison.model_copy(
        update={"rows": tuple(rows), "slopes": {"generated": (None,) * 10}, "absent": {}, "chance": None}
    )
    assert headline(alone) == (
        "On 1 task of split new, of which the zoo has no originals, the generated networks reach 80.00: no better than "
        "the best baseline without a generator (regression: 100.00; lead -20.00)."
    )
    text = tasks_text(alone)
    assert "gap" not in text
    assert "Slope" not in text
    assert "flipped" in tasks_text(comparison)


def test_a_lead_is_paired_by_task() -> None:
    """Tasks are unequal, and so are their scores; what counts is by how much networks differ on the same task."""
    made = task_comparison()
    scores = {"generated": [60, 71, 82, 93, 64, 75, 86], "vote": [59, 70, 80, 90, 61, 73, 85]}  # 1 1 2 3 3 2 1
    unseen = [row for row in made.rows if row.split == "unseen"]
    others = {name: summarize([50]) for name in made.baselines}
    rows = [
        row.model_copy(
            update={"accuracy": {**row.accuracy, **others, **{n: summarize([v[k]]) for n, v in scores.items()}}}
        )
        for k, row in enumerate(unseen)
    ]
    found = made.model_copy(update={"rows": tuple(rows)})
    lead, error = found.lead("unseen", "vote")
    assert lead == pytest.approx(13 / 7)
    assert error == pytest.approx(np.std([1, 1, 2, 3, 3, 2, 1], ddof=1) / 7**0.5)
    assert "better than the best baseline without a generator (vote:" in headline(found)
    assert f"lead +1.86 ± {error:.2f})" in headline(found)
    # Ahead on one task by far, level on all others: within two errors of 0, and so not better.
    level = [
        row.model_copy(update={"accuracy": row.accuracy | {"vote": row.accuracy["generated"]}}) for row in rows[1:]
    ]
    scattered = found.model_copy(update={"rows": (rows[0], *level)})
    assert scattered.lead("unseen", "vote") == (pytest.approx(1 / 7), pytest.approx(1 / 7))
    assert "no better than the best baseline" in headline(scattered)
