"""The report on made-up comparisons: its numbers, its verdict, its page."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from evaluators.metrics import summarize
from rpg.compare import Comparison, Group
from rpg.plots import marks
from rpg.report import score_table, similarity_table, table, write_report
from rpg.verdict import judge, standard_error

LOSSES = [(step, 2.0 / step) for step in range(10, 1010, 10)]
PROVENANCE = {"command": "rpg report --task 'a & <b>'", "commit": "0123456789ab"}
YARDSTICK_IOU = 0.9
SAMPLES = 1000


def group(name: str, accuracy: Sequence[float], iou: Sequence[float], ratio: Sequence[float]) -> Group:
    return Group(
        name=name,
        metrics={"top1": summarize(accuracy)},
        accuracy=tuple(accuracy),
        max_error_iou=tuple(iou),
        nearest=tuple(0.5 * value for value in ratio),
        nearest_ratio=tuple(ratio),
        spread=1.25,
        novel_and_good=40.0,
    )


def comparison(
    generated: tuple[float, float, float] = (97.0, 0.6, 2.0), mean_of_all: tuple[float, float] = (90.0, 0.95)
) -> Comparison:
    """A `generated` group around (accuracy, IoU, ratio) and a `mean_of_all` at (accuracy, IoU)."""
    rng = np.random.default_rng(0)

    def around(name: str, accuracy: float, iou: float, ratio: float, n: int = 10) -> Group:
        offsets = rng.uniform(-0.05, 0.05, n)
        return group(name, accuracy + 5 * offsets, iou + 0.1 * offsets, ratio + offsets)

    groups = (
        around("original", 97.2, YARDSTICK_IOU, 1.0, n=40),
        around("heldout", 97.1, 0.7, 1.8),
        around("generated", *generated),
        around("noised_0.01", 95.0, 0.97, 0.3),
        around("noised_0.1", 80.0, 0.3, 30.0),
        group("mean_of_all", [mean_of_all[0]], [mean_of_all[1]], [0.4]),
        around("average_of_16", 94.0, 0.93, 0.5),
        around("gaussian", 60.0, 0.2, 9.0),
    )
    return Comparison(
        recipe="made-up <recipe>",
        headline="top1",
        protocol="made-up/test",
        evaluator="classification/1",
        samples=SAMPLES,
        runs=1,
        leave_one_out_distance=0.5,
        leave_one_out_iou=YARDSTICK_IOU,
        good_from=95.2,
        groups=groups,
    )


class Page(HTMLParser):
    """Collects tags, their nesting and the text of table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_tables_hold_the_statistics_of_each_group() -> None:
    made = comparison()
    for row, similar, member in zip(score_table(made).rows, similarity_table(made).rows, made.groups, strict=True):
        accuracy, iou, ratio = map(np.array, (member.accuracy, member.max_error_iou, member.nearest_ratio))
        spread = accuracy.std(ddof=1) if len(accuracy) > 1 else 0.0
        numbers = [accuracy.max(), accuracy.mean(), np.median(accuracy), accuracy.min(), spread]
        assert row[0] == similar[0] == member.name
        assert list(map(float, row[1:6])) == pytest.approx(numbers, abs=0.00501)
        assert float(row[6]) == pytest.approx(standard_error(accuracy.mean(), SAMPLES), abs=0.00501)
        assert row[7] == str(len(accuracy))
        assert list(map(float, similar[1:3])) == pytest.approx([np.median(iou), iou.max()], abs=0.000501)
        assert list(map(float, similar[3:])) == pytest.approx([np.median(ratio), 1.25, 40], abs=0.00501)


def test_standard_error_is_that_of_a_proportion() -> None:
    correct = 100.0 * (np.arange(SAMPLES) < 300)
    assert standard_error(30.0, SAMPLES) == pytest.approx(correct.std() / np.sqrt(SAMPLES))


def test_markdown_tables_are_aligned_and_name_every_group() -> None:
    lines = [line for line in table(comparison()).splitlines() if line.startswith("|")]
    first, second = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    for rows in (first, second):
        assert len({len(row) for row in rows}) == 1
        assert [row.split("|")[1].strip() for row in rows[2:]] == [
            "original", "heldout", "generated", "noised 0.01", "noised 0.1", "mean of all", "average of 16", "gaussian"
        ]  # fmt: skip


def test_verdict_on_new_and_good_networks() -> None:
    headline = judge(comparison()).headline
    assert "points below the originals" in headline
    assert "not closer to a training checkpoint" in headline
    assert "No trivial baseline is at once" in headline


@pytest.mark.parametrize(
    ("iou", "ratio", "named"),
    [
        (0.6, 0.3, "By their weights they"),
        (0.98, 2.0, "By their errors they"),
        (0.98, 0.3, "By their weights and their errors they"),
    ],
)
def test_verdict_calls_copies_copies(iou: float, ratio: float, named: str) -> None:
    verdict = judge(comparison(generated=(97.0, iou, ratio)))
    assert f"{named} are near-copies" in verdict.headline
    findings = dict(verdict.findings)
    assert ("On this measure they are near-copies" in findings["Weights"]) == (ratio < 1)
    assert ("On this measure they are near-copies" in findings["Errors"]) == (iou > YARDSTICK_IOU)
    assert ("100% (10 of 10)" in findings["Weights"]) == (ratio < 1)


def test_verdict_on_networks_that_lie_like_the_originals() -> None:
    findings = dict(judge(comparison(generated=(97.0, YARDSTICK_IOU, 1.0))).findings)
    assert "as near as the training checkpoints lie to one another" in findings["Weights"]
    assert "as alike as the training checkpoints are among themselves" in findings["Errors"]


def test_verdict_names_a_baseline_that_does_as_well() -> None:
    wins = judge(comparison(mean_of_all=(97.5, 0.4)))
    assert "A trivial baseline does as well" in wins.headline
    assert wins.headline.endswith("training checkpoints: mean of all (97.50).")
    assert "averaging explains the score" in dict(wins.findings)["Baselines"]

    accurate_but_a_copy = judge(comparison(mean_of_all=(97.5, 0.95)))
    assert "No trivial baseline is at once" in accurate_but_a_copy.headline
    assert (
        "These reach the mean score of the generated networks: mean of all (97.50)"
        in dict(accurate_but_a_copy.findings)["Baselines"]
    )

    assert "averaging does not explain the score" in dict(judge(comparison()).findings)["Baselines"]


def test_a_baseline_within_one_test_sample_counts_as_equal() -> None:
    mean = summarize(comparison().group("generated").accuracy).mean
    sample = 100 / SAMPLES
    assert "averaging explains" in dict(judge(comparison(mean_of_all=(mean - 0.9 * sample, 0.4))).findings)["Baselines"]
    assert "not explain" in dict(judge(comparison(mean_of_all=(mean - 1.1 * sample, 0.4))).findings)["Baselines"]


def test_accuracy_is_set_beside_the_originals() -> None:
    findings = judge(comparison(generated=(99.0, 0.6, 2.0))).findings
    assert "points above the best of 40 originals" in dict(findings)["Accuracy"]
    assert "differ by more than that" in dict(findings)["Accuracy"]


def test_page_is_self_contained_and_well_formed(tmp_path: Path) -> None:
    made = comparison()
    path = write_report(made, LOSSES, PROVENANCE, tmp_path)
    text = path.read_text()
    page = Page(text)
    assert not page.open
    assert page.tags.count("svg") == 3
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"https?:|//|@import", text)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src", "xlink:href"))
    ids = [value for name, value in page.attributes if name == "id"]
    for _, value in page.attributes:
        for target in re.findall(r"url\(#(\w+)\)", value):
            assert target in ids
    assert "made-up &lt;recipe&gt;" in text
    assert "a &amp; &lt;b&gt;" in text
    assert page.cells == [
        cell for t in (score_table(made), similarity_table(made)) for row in t.rows for cell in row[1:]
    ]


def test_json_is_the_comparison(tmp_path: Path) -> None:
    made = comparison()
    write_report(made, LOSSES, PROVENANCE, tmp_path)
    assert Comparison.from_json((tmp_path / "report.json").read_bytes()) == made


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(comparison(), LOSSES, PROVENANCE, tmp_path / name)
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("losses", [[], [(10, 0.5)]])
def test_few_or_no_losses(losses: list[tuple[int, float]], tmp_path: Path) -> None:
    page = Page(write_report(comparison(), losses, {}, tmp_path).read_text())
    assert page.tags.count("svg") == 2 + len(losses)


def test_identical_checkpoints_and_exact_copies_are_drawn(tmp_path: Path) -> None:
    made = comparison()
    copies = [group(g.name, g.accuracy, [1.0] * len(g.accuracy), [0.0] * len(g.accuracy)) for g in made.groups]
    same = made.model_copy(update={"groups": tuple(copies), "leave_one_out_distance": 0.0, "leave_one_out_iou": 1.0})
    page = Page(write_report(same, LOSSES, {}, tmp_path).read_text())
    assert page.tags.count("svg") == 3
    assert "identical twin" in (tmp_path / "report.md").read_text()


def test_every_group_has_its_own_mark() -> None:
    found = marks(comparison().groups)
    assert len({(mark.colour, mark.marker) for mark in found.values()}) == len(found)
