"""The pages of the board but those of a zoo's networks (rpg.board.networks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rpg.board.plots import accuracy_plot
from rpg.board.shelf import DAMAGED, FOLDERS, KINDS, Item, Shelf, Unknown
from rpg.board.view import Linked, Links, Part, Press, View, address, listed
from rpg.listing import listing, method_name
from rpg.reports.comparisons import main_columns, read_comparison
from rpg.reports.inputs import REPORT, REPORT_BYTES
from rpg.reports.page import HTML
from rpg.reports.plots import distance_plot, loss_plot, similarity_plot
from rpg.reports.report import EXPLAINED, LOSS_CAPTION, SIMILARITY_CAPTION, tables, whole_table
from rpg.reports.task_report import gap_table, headline, task_table
from rpg.reports.tasks import TaskComparison
from rpg.reports.together import together
from rpg.reports.verdict import judge
from rpg.run import Run, read_losses
from zoo.errors import Corrupt, brief
from zoo.files import parse_json, read_limited
from zoo.scoring import score_table
from zoo.table import Record, Table

MOST_CURVES = 12  # in one plot, each with a line of its own
CURVE_POINTS = 1000
TOP = ("all artefacts", "/")
ACCURACY_CAPTION = (
    "A mark per group: its mean accuracy, and the median distance of its networks to the nearest training checkpoint. "
    "Up and right of the yardstick is better; clearly left of it are near-copies. Noise, too, moves networks right."
)


def overview(shelf: Shelf, search: str) -> View:
    """All artefacts of the directory."""
    rows: list[tuple[Record, Links]] = []
    for row in listing(shelf.place):
        kind, name = str(row["what"]), str(row["name"])
        rows.append(({"name": name, **row}, {"name": address(FOLDERS[kind], name)}))
    table, note = listed(rows, search)
    text = note if rows else "No zoos/, runs/, scores/ or reports/ here: `rpg demo` makes some."
    parts = [Part("Artefacts", text=[text], tables=[table])]
    return View(shelf.place.name or "/", "zoos, runs, scores and reports", parts, search=search)


def lineage(shelf: Shelf, kind: str, name: str) -> Part:
    """Links to what an artefact was made from, and to what was made from it."""
    kin = shelf.kin(kind, name)
    rows: list[tuple[Record, Links]] = []
    for relation, items in (("made from", kin.parents), ("led to", kin.children)):
        rows += [_relative(relation, item) for item in items]
    rows += [
        ({"relation": "made from", "what": "not in this directory", "name": sha[:12]}, {}) for sha in kin.elsewhere
    ]
    text = [] if rows else ["Nothing here was made from it, and it names no parents that are here."]
    return Part("Parents and children", text=text, tables=[listed(rows)[0]])


def _relative(relation: str, item: Item) -> tuple[Record, Links]:
    record: Record = {"relation": relation, "what": item.kind, "name": item.name}
    return record, {"name": address(FOLDERS[item.kind], item.name)}


def run_page(shelf: Shelf, press: Press, name: str) -> View:
    """A run: what it learnt from, how, and its losses."""
    run = Run(shelf.path("run", name))
    record = run.record()
    about = [
        ("method", method_name(record.origin) or "unknown"),
        ("state", "trained" if run.trained else "unfinished"),
        ("networks learnt", str(len(record.networks))),
        ("values of each", f"{record.structure.numel:,}"),
        ("command", " ".join(record.origin.command)),
    ]
    if run.trained:
        about += [(key, f"{value:,}" if type(value) is int else str(value)) for key, value in run.facts.items()]
    losses, text = _losses(run)
    curve = [(press.draw(partial(loss_plot, {name: thinned(losses)})), "")] if losses else []
    parts = [
        Part("What it is", about),
        lineage(shelf, "run", name),
        Part("Training", text=[text], drawings=curve),
        Part("Settings", code=record.origin.recipe_text()),
    ]
    return View(name, "run", parts, [TOP])


def _losses(run: Run) -> tuple[list[tuple[int, float]], str]:
    """The losses that can be drawn, and a line about them; none of a damaged file."""
    try:
        losses = read_losses(run)
    except (Corrupt, OSError) as error:
        return [], f"The losses are damaged: {brief(error)}"
    if not losses:
        return [], "It has recorded no losses."
    if any(loss <= 0 for _, loss in losses):
        return [], "Its losses are not all positive, so they are not drawn."
    return losses, f"{len(losses)} records up to step {losses[-1][0]:,}; the last loss is {losses[-1][1]:.4g}."


def thinned(losses: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most CURVE_POINTS of the records: means of equal numbers of them, each at the last one's step."""
    size = -(-len(losses) // CURVE_POINTS)
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [(part[-1][0], float(np.mean([loss for _, loss in part]))) for part in parts]


def curves(shelf: Shelf, press: Press, chosen: Sequence[str]) -> View:
    """Training losses of several runs in one plot; the first MOST_CURVES unless some are chosen. Raises Unknown for a
    run that is not there.
    """
    names = shelf.names("run", "metrics.jsonl")
    if unknown := set(chosen) - set(names):
        raise Unknown(f"no run named {min(unknown)} has losses")
    wanted = [name for name in names if name in chosen] or names
    rows: list[tuple[Record, Links]] = []
    drawn: dict[str, list[tuple[int, float]]] = {}
    for name in wanted:
        losses, text = _losses(Run(shelf.path("run", name)))
        record: Record = {"run": name, "steps": None, "first loss": None, "last loss": None, "note": text}
        if losses:
            values = [loss for _, loss in losses]
            record |= {"steps": losses[-1][0], "first loss": values[0], "last loss": values[-1]}
            if len(drawn) < MOST_CURVES:
                drawn[name] = thinned(losses)
        rows.append((record, {"run": address("runs", name)}))
    table, _ = listed(rows, digits={"first loss": 4, "last loss": 4})
    plots = [(press.draw(partial(loss_plot, drawn)), LOSS_CAPTION if len(drawn) > 1 else "")] if drawn else []
    note = f"{len(drawn)} of {len(names)} runs with losses are drawn, at most {MOST_CURVES} together."
    picks = [(name, name in drawn) for name in names]
    part = Part("Losses", text=[note], drawings=plots, tables=[table])
    return View("Training curves", "runs together", [part], [TOP], picks=picks)


def methods(shelf: Shelf, press: Press) -> View:
    """Groups of all reports: accuracy against distance, those of the same originals and protocol together."""
    found, skipped = [], []
    for name in shelf.names("report", REPORT):
        try:
            found.append((name, read_comparison(shelf.path("report", name))))
        except DAMAGED as error:
            skipped.append(f"{name} is left out: {brief(error)}")
    parts = []
    for merged in together(found):
        scoring = merged.scoring
        plots = [(press.draw(partial(accuracy_plot, merged.groups, scoring)), ACCURACY_CAPTION)] if scoring else []
        text = [f"Protocol {scoring.protocol}." if scoring else "Weights were compared alone."]
        table = Linked(main_columns(whole_table([merged])), explained=EXPLAINED)
        parts.append(Part(merged.originals, text=text, drawings=plots, tables=[table]))
    if not found:
        skipped.append("There are no reports that compare groups of networks; `rpg report` makes them.")
    if skipped:
        parts.append(Part("What is not shown", text=skipped))
    return View("Accuracy against distance", "methods side by side", parts, [TOP])


def scores_page(shelf: Shelf, name: str, search: str) -> View:
    """Scores on test data: statistics over networks, and every network."""
    scores = shelf.scores(name)
    if not scores:
        return View(name, "scores", [Part("Scores", text=["No network has been scored yet."])], [TOP])
    rows: list[tuple[Record, Links]] = []
    for score in scores:
        record: Record = {"id": score.id}
        if score.condition is not None:
            record["task"] = score.condition
        for metric in score.metrics.values():
            record |= {metric.name: metric.value, f"{metric.name} ±": metric.stderr}
        rows.append((record, {}))
    table, note = listed(rows, search)
    parts = [
        Part("Over networks", [("protocol", scores[0].protocol), ("evaluator", scores[0].evaluator)],
             tables=[Linked(score_table(scores))]),
        lineage(shelf, "scores", name),
        Part("Networks", text=[note], tables=[table]),
    ]  # fmt: skip
    return View(name, "scores", parts, [TOP], search=search)


def report_page(shelf: Shelf, press: Press, name: str) -> View:
    """A report: its verdicts, tables and plots, and links to its files."""
    path = shelf.path("report", name)
    content: Any = None
    if (path / REPORT).is_file():
        text = read_limited(path / REPORT, REPORT_BYTES)
        content = parse_json(text, path / REPORT)
    if isinstance(content, dict) and "groups" not in content and "rows" in content:
        parts = _tasks(TaskComparison.parse(text, path / REPORT))
    else:
        parts = _comparison(shelf, press, name)
    files = [file for file in (HTML, REPORT, "report.csv", "report.md") if (path / file).is_file()]
    places = {file: address("files", "reports", name, file) for file in files}
    wholes = Part("Files", [(file, "open") for file in files], places)
    return View(name, "report", [*parts, lineage(shelf, "report", name), wholes], [TOP])


def _comparison(shelf: Shelf, press: Press, name: str) -> list[Part]:
    comparison = read_comparison(shelf.path("report", name))
    verdicts = [(verdict.group, verdict.headline) for verdict in judge(comparison)]
    plots = [(press.draw(partial(distance_plot, comparison)), "")]
    if scoring := comparison.scoring:
        plots.insert(0, (press.draw(partial(similarity_plot, comparison, scoring)), SIMILARITY_CAPTION))
    found = [Part("Verdict", verdicts)] if verdicts else []
    found += [Part(title, tables=[Linked(table, explained=EXPLAINED)]) for title, table in tables(comparison)]
    return [*found, Part("Networks one by one", drawings=plots)]


def _tasks(comparison: TaskComparison) -> list[Part]:
    shown: list[tuple[str, Callable[[TaskComparison], Table]]] = [
        ("Means over tasks", gap_table),
        ("Tasks", task_table),
    ]
    found = [Part(title, tables=[Linked(make(comparison))]) for title, make in shown]
    return [Part("Verdict", text=[headline(comparison)]), *found]


def damaged(folder: str, name: str, error: Exception) -> View:
    """The page of an artefact that cannot be read."""
    what = KINDS.get(folder, "page")
    return View(name or folder or what, what, trail=[TOP], wrong=f"This {what} cannot be shown: {brief(error, 400)}")
