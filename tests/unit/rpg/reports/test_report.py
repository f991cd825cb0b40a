"""The report on made-up comparisons: its numbers, its verdict, its page."""

import csv
import re
from collections.abc import Callable, Sequence
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from evaluators.metrics import summarize
from killing import content
from made_up import SAMPLES, YARDSTICK_IOU, comparison, group, replaced
from rpg.reports.compare import Comparison
from rpg.reports.plots import COLOURS, FORMS, distance_plot, marks, similarity_plot
from rpg.reports.report import (
    EXPLAINED,
    interval,
    measures,
    score_table,
    seed_table,
    similarity_table,
    summary,
    write_report,
)
from rpg.reports.verdict import judge
from zoo.derive.worth import Behaviour, Pair, Worth
from zoo.hub.card import read_plots

LOSSES = {"generated": [(step, 2.0 / step) for step in range(10, 1010, 10)]}
PROVENANCE = {"command": "rpg report --task 'a & <b>'", "commit": "0123456789ab"}


Change: TypeAlias = Callable[[Comparison], Comparison]


def unchanged(made: Comparison) -> Comparison:
    return made


def weights_alone(made: Comparison) -> Comparison:
    groups = tuple(g.model_copy(update={"behaviour": None}) for g in made.groups)
    return made.model_copy(update={"groups": groups, "scoring": None})


def with_seeds(made: Comparison) -> Comparison:
    return replaced(made, "mine", seeds=(6, 4))


def with_second(made: Comparison) -> Comparison:
    """And another generator's group, whose name is none of LaTeX's, HTML's or matplotlib's."""
    second = made.group("mine").model_copy(update={"name": "_other$ & <b>$^2"})
    return made.model_copy(update={"groups": (*made.groups[:3], second, *made.groups[3:])})


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
        behaviour = member.scored
        accuracy, iou, ratio = map(np.array, (behaviour.accuracy, behaviour.max_error_iou, member.nearest_ratio))
        spread = accuracy.std(ddof=1) if len(accuracy) > 1 else 0.0
        numbers = [np.median(accuracy), accuracy.min(), spread, 0.625, len(accuracy)]
        assert row[0] == similar[0] == member.name
        assert row[1:3] == pytest.approx([accuracy.max(), accuracy.mean()])
        assert row[3] == interval(summarize(behaviour.accuracy))
        assert row[4:] == pytest.approx(numbers)
        assert made.scoring
        nearly = 100 * np.mean((ratio > 0.95) & (accuracy >= made.scoring.good_from))
        assert similar[1:] == pytest.approx([np.median(iou), iou.max(), 12.5, np.median(ratio), 1.25, 40, nearly])


def test_the_interval_of_the_mean_is_students() -> None:
    values = np.random.default_rng(1).normal(97, 1, 7)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(summarize(values.tolist())) == pytest.approx((high - low) / 2)
    assert interval(summarize([97.0])) is None


def test_every_mark_says_which_network_it_is(tmp_path: Path) -> None:
    """And where networks of a group lie on the same point, how many do."""
    made = comparison()
    same = replaced(made, "gaussian", behaviour=made.group("gaussian").scored.model_copy(
        update={"accuracy": (96.0,) * 9 + (97.0,), "max_error_iou": (0.5,) * 10}
    ))  # fmt: skip
    write(same, tmp_path)
    root = ElementTree.fromstring((tmp_path / "plots/similarity.svg").read_bytes())  # noqa: S314  # our own
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    names = [line.split(",")[0] for title in titles for line in title.splitlines()]
    for member in made.groups:
        if member.name != "gaussian":
            assert names.count(member.name) == len(member.nearest)
    assert sum("gaussian, " in title for title in titles) == 2
    assert any(title.endswith("and 4 more here") for title in titles)
    mine = made.group("mine")
    expected = f"top1 {mine.scored.accuracy[3]:.2f}, error-IoU {mine.scored.max_error_iou[3]:.3f}, distance"
    assert any(title.startswith(f"mine, mine-3: {expected}") for title in titles)
    assert "×9" in (tmp_path / "plots/similarity.svg").read_text()
    uses = {id(title): None for use in root.iter("{http://www.w3.org/2000/svg}use") for title in use}
    assert len(uses) == len(titles)


def luminance(colour: str) -> float:
    """Of sRGB, as WCAG 2 defines it."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("paper", ["#fdfdfb", "#15181b"])
def test_every_colour_stands_out_in_light_and_dark(paper: str) -> None:
    for colour in (colour for colours in COLOURS.values() for colour in colours):
        bright, dim = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3, colour


@pytest.mark.parametrize("far", [3.0, 40.0, 5e6])
def test_bars_of_distances_stand_where_the_distances_are(far: float) -> None:
    """However far one group is, and no two ticks are printed over one another."""
    made = comparison()
    behind = made.group("gaussian").model_copy(update={"nearest_ratio": tuple(far + k for k in range(10))})
    figure = distance_plot(replaced(made, "gaussian", **dict(behind))).figure
    for axes, member in zip(figure.axes, replaced(made, "gaussian", **dict(behind)).groups, strict=True):
        low, high = axes.get_xlim()
        shares = np.zeros(len(member.nearest_ratio))
        for bar in axes.patches:
            left, right = bar.get_x(), bar.get_x() + bar.get_width()
            inside = [left * 0.999 <= ratio <= right * 1.001 for ratio in member.nearest_ratio]
            assert bar.get_height() == 0 or any(inside)
            shares += np.array(inside) * bar.get_height()
        assert all(low <= ratio <= high for ratio in member.nearest_ratio)
        assert (shares > 0).all()
    last = figure.axes[-1]
    boxes = [label.get_window_extent() for label in last.get_xticklabels() if label.get_text()]
    shown = [box for box in boxes if last.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= last.bbox.x1 + 1]
    assert len(shown) >= 2
    for one, other in pairwise(shown):
        assert one.x1 < other.x0


def test_seeds_have_their_own_means_and_deviations() -> None:
    assert seed_table(comparison()).rows == ()
    made = with_seeds(comparison())
    (row,) = seed_table(made).rows
    accuracy, ratio = np.array(made.group("mine").scored.accuracy), np.array(made.group("mine").nearest_ratio)
    expected = []
    for values in (accuracy, ratio):
        means = [values[:6].mean(), values[6:].mean()]
        expected += [np.mean(means), np.std(means, ddof=1)]
    assert row[:2] == ("mine", 2)
    assert row[2:] == pytest.approx(expected)
    assert measures(made, made.group("gaussian"))["std of seeds"] is None
    assert "They come from 2 seeds" in dict(judge(made)[0].findings)["Seeds"]
    assert "Seeds" not in dict(judge(comparison())[0].findings)


def test_the_terminal_shows_every_group_in_columns() -> None:
    text = summary(comparison())
    scores, similarity = text.split("\n\n")[:2]
    for block in (scores, similarity):
        title, *lines = block.splitlines()
        assert title in ("Scores: top1, %", "Similarity to the training checkpoints")
        assert [line.split("  ")[0] for line in lines[1:]] == [
            "original", "heldout", "mine", "noised_0.01", "noised_0.1", "mean_of_all", "average_of_16", "gaussian"
        ]  # fmt: skip
    assert text.endswith(judge(comparison())[0].headline)


def test_verdict_on_new_and_good_networks() -> None:
    headline = judge(comparison())[0].headline
    assert "points below the originals" in headline
    assert "not closer to a training checkpoint" in headline
    assert "No trivial baseline is at once" in headline


@pytest.mark.parametrize(
    ("iou", "ratio", "named"),
    [
        (0.6, 0.3, "but their errors are others: no copies."),
        (0.98, 2.0, "though their weights lie apart: such networks do what a training checkpoint does."),
        (0.98, 0.3, "They are near-copies: in weights and in errors closer to a training checkpoint than"),
    ],
)
def test_copies_are_near_and_err_alike(iou: float, ratio: float, named: str) -> None:
    verdict = judge(comparison(generated=(97.0, iou, ratio)))[0]
    assert named in verdict.headline
    assert ("near-copies" in verdict.headline) == (ratio < 1 and iou > YARDSTICK_IOU)
    findings = dict(verdict.findings)
    assert ("They lie near: copies, if" in findings["Weights"]) == (ratio < 1)
    assert ("They err alike: copies, if" in findings["Errors"]) == (iou > YARDSTICK_IOU)
    assert ("100% (10 of 10)" in findings["Weights"]) == (ratio < 1)


def test_networks_that_are_near_and_not_good_are_not_cleared_of_being_copies() -> None:
    headline = judge(comparison(generated=(60.0, 0.6, 0.3)))[0].headline
    assert "that they err otherwise says little, as most of them are not good: copies may have failed." in headline
    assert "no copies" not in headline


def test_chance_and_the_margin_come_first() -> None:
    made = comparison()
    verdict = judge(made)[0]
    assert "points below the originals (chance 10.00); 100% (10 of 10) are good, at least 95.20." in verdict.headline
    assert [topic for topic, _ in verdict.findings][:2] == ["Health", "Accuracy"]
    assert "Better than that, above 11.90, are 100% (40 of 40) of the originals" in verdict.findings[0][1]
    scoring = made.scoring
    assert scoring
    unknown = scoring.model_copy(update={"chance": None, "works_from": None})
    silent = judge(made.model_copy(update={"scoring": unknown}))[0]
    assert "chance" not in silent.headline
    assert "It is not known what guessing scores" in silent.findings[0][1]


@pytest.mark.parametrize("ratio", [0.3, 0.87, 2.0])
@pytest.mark.parametrize("iou", [0.6, 0.98])
def test_dead_networks_are_called_dead_and_nothing_else(iou: float, ratio: float) -> None:
    verdict = judge(comparison(generated=(9.2, iou, ratio)))[0]
    assert re.fullmatch(
        r"These networks do not work: 9\.\d\d on average, chance 10\.00; the originals score 97\.\d\d\. "
        r"Similarity says nothing\.",
        verdict.headline,
    )
    assert [topic for topic, _ in verdict.findings] == ["Health", "Accuracy", "Held-out originals"]
    assert "0% (0 of 10) of the generated networks" in verdict.findings[0][1]
    assert "cop" not in summary(comparison(generated=(9.2, iou, ratio)))


def test_verdict_on_networks_that_lie_like_the_originals() -> None:
    findings = dict(judge(comparison(generated=(97.0, YARDSTICK_IOU, 1.0)))[0].findings)
    assert "as near as the training checkpoints lie to one another" in findings["Weights"]
    assert "as alike as the training checkpoints are among themselves" in findings["Errors"]


def test_verdict_names_a_baseline_that_does_as_well() -> None:
    (wins,) = judge(comparison(mean_of_all=(97.5, 0.4)))
    assert "A trivial baseline does as well" in wins.headline
    assert wins.headline.endswith("training checkpoints: mean_of_all (97.50).")
    baselines = dict(wins.findings)["Baselines"]
    assert "The most accurate trivial baseline is mean_of_all: 97.50 on average" in baselines
    assert "Accuracy alone is then no evidence" in baselines

    (accurate_but_a_copy,) = judge(comparison(mean_of_all=(97.5, 0.95)))
    assert "No trivial baseline is at once" in accurate_but_a_copy.headline
    assert (
        "These reach their mean score, to within one test sample: mean_of_all (97.50)"
        in dict(accurate_but_a_copy.findings)["Baselines"]
    )

    baselines = dict(judge(comparison())[0].findings)["Baselines"]
    assert "None reaches their mean score" in baselines
    assert "trivial baseline is noised_0.01: " in baselines


def test_a_baseline_is_what_the_caller_calls_one() -> None:
    """Not what its name says."""
    made = comparison(mean_of_all=(97.5, 0.4))
    renamed = replaced(made, "mean_of_all", name="generated")
    assert "A trivial baseline does as well" in judge(renamed)[0].headline
    assert judge(replaced(made, "mean_of_all", kind="heldout"))[0].headline.count("No trivial baseline is at once") == 1


def test_without_baselines_a_score_shows_little() -> None:
    made = comparison()
    (verdict,) = judge(made.model_copy(update={"groups": made.groups[:3]}))
    assert "No trivial baseline was set beside them, so this shows little" in verdict.headline
    assert "A score alone is no evidence" in dict(verdict.findings)["Baselines"]


def test_a_baseline_within_one_test_sample_counts_as_equal() -> None:
    mean = summarize(comparison().group("mine").scored.accuracy).mean
    sample = 100 / SAMPLES
    near = judge(comparison(mean_of_all=(mean - 0.9 * sample, 0.4)))[0]
    far = judge(comparison(mean_of_all=(mean - 1.1 * sample, 0.4)))[0]
    assert "These reach" in dict(near.findings)["Baselines"]
    assert "None reaches" in dict(far.findings)["Baselines"]


def test_every_generated_group_has_its_verdict() -> None:
    made = with_second(comparison())
    verdicts = judge(made)
    assert [verdict.group for verdict in verdicts] == ["mine", "_other$ & <b>$^2"]
    assert verdicts[0].headline == verdicts[1].headline
    assert summary(made).splitlines()[-3].startswith("mine: The generated networks score")
    assert judge(made.model_copy(update={"groups": made.groups[:2]})) == ()


@pytest.mark.parametrize(
    ("ratio", "words"), [(2.0, "They are not closer"), (0.3, "to one another: copies, unless they err otherwise.")]
)
def test_weights_alone_say_nothing_of_scores(ratio: float, words: str) -> None:
    made = weights_alone(comparison(generated=(97.0, 0.98, ratio)))
    (verdict,) = judge(made)
    assert "Weights were compared alone" in verdict.headline
    assert words in verdict.headline
    assert [topic for topic, _ in verdict.findings] == ["Weights", "Variety", "Held-out originals"]
    assert "97." not in summary(made)
    assert "score " not in " ".join(text for _, text in verdict.findings)


def test_accuracy_is_set_beside_the_originals() -> None:
    findings = judge(comparison(generated=(99.0, 0.6, 2.0)))[0].findings
    assert "points above the best of 40 originals" in dict(findings)["Accuracy"]
    assert "differ by more than that" in dict(findings)["Accuracy"]


def write(made: Comparison, out: Path, plots: Sequence[str] = ()) -> Path:
    return write_report(made, LOSSES, PROVENANCE, out, plots)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Change], Path]:
    """The directory of the report on a changed comparison, written once for all tests that only read it."""

    @cache
    def place(change: Change) -> Path:
        return write(change(comparison()), tmp_path_factory.mktemp("report")).parent

    return place


@pytest.mark.parametrize("change", [unchanged, with_seeds, with_second])
def test_page_is_self_contained_and_well_formed(change: Change, written: Callable[[Change], Path]) -> None:
    made = change(comparison())
    text = (written(change) / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert page.tags.count("svg") == 3
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert not re.search(r"https?:|//|@import|fetch|XMLHttp", text)
    places = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert {place for place in places if not place.startswith("#")} == {"report.json", "report.csv", "report.md"}
    assert page.attributes.count(("title", EXPLAINED["± of mean"])) == 1
    ids = [value for name, value in page.attributes if name == "id"]
    for _, value in page.attributes:
        for target in re.findall(r"url\(#(\w+)\)", value):
            assert target in ids
    assert "made-up &lt;recipe&gt;" in text
    assert "a &amp; &lt;b&gt;" in text
    assert "what &lt;noised&gt; is" in text
    assert "<b>" not in text
    shown = [score_table(made), similarity_table(made), seed_table(made)]
    assert page.cells == [cell for t in shown for row in t.cells() for cell in row[1:]]


def test_plots_are_files_and_the_page_holds_them(written: Callable[[Change], Path]) -> None:
    place = written(unchanged)
    page = (place / "report.html").read_text()
    files = sorted((place / "plots").iterdir())
    assert [path.name for path in files] == ["distance.svg", "loss.svg", "similarity.svg"]
    for path in files:
        root = ElementTree.fromstring(path.read_bytes())  # noqa: S314  # our own; a file of its own has to be XML
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-label")
        assert path.read_text().replace(' xmlns="http://www.w3.org/2000/svg"', "", 1) in page
    assert [svg for _, svg in read_plots(place)] == [path.read_bytes() for path in files]
    assert [alt.split()[0] for alt, _ in read_plots(place)] == ["Distances", "Training", "Accuracy"]


def test_plots_for_papers_when_asked(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write(comparison(), tmp_path / place, ["png", "pdf"])
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {path.name for path in files if path.parent.name == "plots"} == {
        f"{name}.{form}" for name in ("loss", "similarity", "distance") for form in FORMS
    }
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert (tmp_path / "a/plots/loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a/plots/loss.pdf").read_bytes().startswith(b"%PDF")
    write_report(comparison(), {}, PROVENANCE, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a/plots").iterdir()) == ["distance.svg", "similarity.svg"]
    with pytest.raises(ValueError, match="no plot format named 'jpg'; expected svg, png, pdf"):
        write(comparison(), tmp_path / "c", ["jpg"])
    assert not (tmp_path / "c").exists()


def test_names_are_drawn_as_they_are(written: Callable[[Change], Path]) -> None:
    """Not as mathematics, which fails for some names; and an underscore in front hides no group."""
    made = with_second(comparison())
    for name in ("similarity", "distance"):
        text = (written(with_second) / "plots" / f"{name}.svg").read_text()
        assert "_other$ &amp; &lt;b&gt;$^2" in text
    scoring = made.scoring
    assert scoring
    long = replaced(made, "mine", name="x" * 400)
    figure = similarity_plot(long, scoring).figure
    assert [text.get_text()[-2:] for text in figure.axes[0].get_legend().get_texts()].count("x…") == 1


def test_the_range_of_noised_copies_is_shaded() -> None:
    made = comparison()
    assert made.scoring
    noised = [
        group("noised_0.01", [95.0, 97.0], [0.8, 0.9], [0.5, 0.6]),
        group("noised_0.1", [95.5, 96.0], [0.5, 0.6], [1.0, 1.2]),
    ]
    others = tuple(one for one in made.groups if not one.name.startswith("noised"))
    one = made.model_copy(update={"groups": (*others, noised[0])})
    assert not similarity_plot(one, made.scoring).figure.axes[0].collections, "one amount of noise has no range"
    both = made.model_copy(update={"groups": (*others, *noised)})
    (shade,) = similarity_plot(both, made.scoring).figure.axes[0].collections
    corners = shade.get_paths()[0].vertices
    for copies in noised:
        here = corners[np.isclose(corners[:, 0], np.mean(copies.scored.max_error_iou))][:, 1]
        assert (here.min(), here.max()) == pytest.approx((min(copies.scored.accuracy), max(copies.scored.accuracy)))


def test_json_and_csv_are_the_comparison(written: Callable[[Change], Path]) -> None:
    made, place = with_seeds(comparison()), written(with_seeds)
    assert Comparison.from_json((place / "report.json").read_bytes()) == made
    rows = list(csv.DictReader((place / "report.csv").read_text().splitlines()))
    for row, member in zip(rows, made.groups, strict=True):
        for title, value in measures(made, member).items():
            assert row[title] == ("" if value is None else str(value))


def test_markdown_has_all_tables_and_verdicts(tmp_path: Path) -> None:
    made = with_seeds(with_second(comparison()))
    write(made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for table in (score_table(made), similarity_table(made), seed_table(made)):
        assert table.markdown() in text
    assert text.startswith("# made-up \\<recipe\\>: ")
    assert "## Verdict on mine" in text
    assert "- command: `rpg report --task 'a & <b>'`" in text


@pytest.mark.parametrize(
    "change", [pytest.param(unchanged, marks=pytest.mark.slow), with_seeds, with_second, weights_alone]
)
def test_same_input_gives_the_same_bytes(change: Change, written: Callable[[Change], Path], tmp_path: Path) -> None:
    """In another directory, and where the report is there already."""
    expected = content(written(change))
    assert len(expected) >= 6
    for _ in range(2):
        write(change(comparison()), tmp_path)
        assert content(tmp_path) == expected


def test_weights_alone_have_no_scores_on_the_page(written: Callable[[Change], Path]) -> None:
    place = written(weights_alone)
    page = Page((place / "report.html").read_text())
    assert page.tags.count("svg") == 2
    assert page.tags.count("table") == 1
    assert "error-IoU" not in (place / "report.md").read_text()
    assert "error-IoU" not in (place / "report.csv").read_text()


def test_another_report_is_not_overwritten(written: Callable[[Change], Path]) -> None:
    place = written(unchanged)
    before = content(place)
    other = comparison().model_copy(
        update={"inputs": {"original": "40 networks 01", "generated new": "10 networks 45"}}
    )
    with pytest.raises(
        ValueError, match="generated new: none there, 10 networks 45 now; generated mine: 10 networks 23"
    ):
        write(other, place)
    assert content(place) == before


def test_few_no_or_several_losses(tmp_path: Path) -> None:
    for losses, count in (({}, 2), ({"a": [(10, 0.5)]}, 3), ({"a": [(10, 0.5)], "b": LOSSES["generated"]}, 3)):
        page = Page(write_report(comparison(), losses, {}, tmp_path).read_text())
        assert page.tags.count("svg") == count
    assert "Losses of different methods" in (tmp_path / "report.html").read_text()


def test_identical_checkpoints_and_exact_copies_are_drawn(tmp_path: Path) -> None:
    made = comparison()
    copies = [
        group(g.name, g.scored.accuracy, [1.0] * len(g.nearest), [0.0] * len(g.nearest), g.kind) for g in made.groups
    ]
    scoring = made.scoring
    assert scoring
    changed = {"leave_one_out_distance": 0.0, "scoring": scoring.model_copy(update={"leave_one_out_iou": 1.0})}
    same = made.model_copy(update={"groups": tuple(copies), **changed})
    page = Page(write(same, tmp_path).read_text())
    assert page.tags.count("svg") == 3
    assert "identical twin" in (tmp_path / "report.md").read_text()


def test_every_group_has_its_own_mark() -> None:
    member = comparison().group("gaussian")
    groups = [member.model_copy(update={"name": f"b{i}"}) for i in range(56)]
    groups += [member.model_copy(update={"name": f"g{i}", "kind": "generated"}) for i in range(12)]
    found = marks([*comparison().groups[:2], *groups])
    assert len({(mark.colour, mark.marker) for mark in found.values()}) == len(found) == 70


def test_what_alignment_is_worth_has_its_table_and_its_plot(tmp_path):
    behaviour = Behaviour(
        accuracy=97.0,
        midpoint=Pair(raw=40.0, aligned=91.5),
        mean=Pair(raw=11.0, aligned=88.0),
        soup=Pair(raw=12.0, aligned=89.0),
        codes={32: Pair(raw=50.0, aligned=90.0)},
        raw_line=(0.1, 2.0, 0.1),
        aligned_line=(0.1, 0.3, 0.1),
        barrier=Pair(raw=1.9, aligned=0.2),
    )
    found = Worth(
        raw="0" * 64,
        aligned="1" * 64,
        protocol="made-up/test",
        networks=100,
        held_out=20,
        objective=Pair(raw=0.01, aligned=0.5),
        participation=Pair(raw=90.0, aligned=70.0),
        behaviour=behaviour,
    )
    text = write_report(comparison(), LOSSES, PROVENANCE, tmp_path, worth=found).read_text()
    assert "What alignment is worth" in text
    assert all(name in text for name in ("midpoint of two, accuracy", "held out through PCA-32, accuracy"))
    assert {"40.00", "91.50"} <= set(Page(text).cells)
    assert "it rises by 1.9 above the line, after alignment by 0.2" in text
    assert (tmp_path / "plots" / "barrier.svg").is_file()
    alone = write_report(comparison(), LOSSES, PROVENANCE, tmp_path, worth=found.model_copy(update={"behaviour": None}))
    assert "objective" in alone.read_text()
    assert not (tmp_path / "plots" / "barrier.svg").exists()
