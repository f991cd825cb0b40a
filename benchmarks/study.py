"""What studies of a zoo share: one report of all networks, read back if it is there, the table of its rows, and their
curve: accuracy over distance.
"""

from __future__ import annotations

import argparse
from collections.abc import Container, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rpg.reports.compare import HELDOUT
from rpg.reports.comparisons import read_comparison
from rpg.reports.inputs import REPORT, discard, networks
from rpg.reports.labels import labels
from rpg.reports.plots import COLOURS, MARKERS, add_guides, label, laid_out, render, scatter
from rpg.reports.report import measures
from rpg.reports.stage import plan_report
from zoo.console import pick_device
from zoo.files import write_bytes
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.table import Record, Table
from zoo.tasks.base import Task

DISTANCE = "distance, median"
Key = TypeVar("Key", bound=Hashable)


def add_places(parser: argparse.ArgumentParser) -> None:
    """The options that say where things are and go."""
    parser.add_argument("--out", type=Path, required=True, help="where everything goes")
    parser.add_argument("--data-root", type=Path, help="where the task's data are")
    parser.add_argument("--device", default="auto")


def reported(
    zoos: Mapping[Key, Zoo], originals: Zoo, place: Path, options: argparse.Namespace
) -> list[tuple[Key | None, str, Record]]:
    """Of each group of a report on these zoos, without baselines: the key of its zoo (None: originals), its name, and
    all that is known of it.
    """
    given = list(zoos.values())
    called, keys = labels(given), dict[str, Key]()
    for key, zoo in zoos.items():
        name = called[zoo.sha256]
        if name in keys:
            raise ValueError(
                f"{zoos[keys[name]].path} and {zoo.path} differ in their seeds alone, and are one group; give one"
            )
        keys[name] = key
    where = {"data_root": options.data_root, "device": options.device}
    require_task(originals)
    task = task_of(originals.manifest.origin).build(options.data_root, pick_device(options.device))
    if not is_of(place, originals, given, task):
        discard(place)
        plan_report(given, originals=originals, out=place, baselines=False, **where).carry_out()
    comparison = read_comparison(place)
    return [(keys.get(group.name), group.name, measures(comparison, group)) for group in comparison.groups]


def require_task(originals: Zoo) -> None:
    """Raise ValueError where nobody says what the networks do, so that nothing can be scored."""
    if not originals.manifest.origin.task:
        raise ValueError(f"{originals.path} does not say what its networks do; expected a zoo that was collected")


def is_of(place: Path, originals: Zoo, zoos: Sequence[Zoo], task: Task) -> bool:
    """Whether the report there, if there is one, is of these networks on this task's data, as they are now."""
    if not (place / REPORT).is_file():
        return False
    inputs = read_comparison(place).inputs
    own = [[entry for entry in originals.entries if entry.split == split] for split in ("train", HELDOUT)]
    groups = [*own, *(zoo.entries for zoo in zoos)]
    expected = {networks([entries]) for entries in groups if entries}
    return set(inputs.values()) == {*expected, task.evaluator, task.protocol}


def named(places: Sequence[str | Path], what: str, taken: Sequence[str] = ()) -> dict[str, Zoo]:
    """The zoos at these places by the names of their directories. Raises ValueError where two have the same."""
    found: dict[str, Zoo] = {}
    for place in places:
        zoo = Zoo.open(place)
        if zoo.path.name in (*found, *taken):
            raise ValueError(f"two {what} are called {zoo.path.name}; give their directories different names")
        found[zoo.path.name] = zoo
    return found


def table_of(records: Sequence[Record], titles: Sequence[str], digits: Mapping[str, int] | None = None) -> Table:
    """A row for each record, with the columns of these titles that there are."""
    everything = Table.of(records, digits or {})
    return everything.only([title for title in titles if title in everything.columns])


def write_table(table: Table, place: Path, title: str = "") -> None:
    """Print it, and write it beside `place`, as .json and, below its title, .md."""
    write_bytes(place.with_suffix(".json"), table.json_text().encode())
    write_bytes(place.with_suffix(".md"), ("\n\n".join(filter(None, (title, table.markdown()))) + "\n").encode())
    print(table.text())


def write_curve(
    records: Sequence[Record],
    series: str,
    point: str,
    place: Path,
    joined: Container[str] = (),
    distance: str = DISTANCE,
) -> None:
    """Write mean score over the median distance of column `distance` as `place`.svg: a colour for each value of the
    column `series`, a mark for each record, which says what its column `point` holds; those of series that are
    `joined` by lines in the records' order.
    """
    names = list(dict.fromkeys(str(record[series]) for record in records))
    colours = [*COLOURS["generated"], *COLOURS["original"], *COLOURS["baseline"]]
    titles, texts = {}, []
    with scatter(len(names)) as figure:
        axes = figure.subplots()
        for number, name in enumerate(names):
            mine = [one for one in records if str(one[series]) == name and one.get(distance) is not None]
            x, y = [float(str(one[distance])) for one in mine], [float(str(one["mean"])) for one in mine]
            style: dict[str, Any] = {
                "color": colours[number % len(colours)],
                "marker": MARKERS["baseline"][number % len(MARKERS["baseline"])],
                "markersize": 6,
            }
            axes.plot(
                x, y, linestyle="-" if name in joined else "none", label=label(name), gid=f"series-{number}", **style
            )
            titles[f"series-{number}"] = [
                f"{name}, {one[point]}: {b:.2f} at {a:.2f}" for one, a, b in zip(mine, x, y, strict=True)
            ]
            texts.append(f"{name}: {min(y):.1f} to {max(y):.1f} at distances {min(x):.2f} to {max(x):.2f}")
        axes.set(
            xlabel=f"{distance.partition(',')[0]} to the nearest training network, over the yardstick",
            ylabel="mean score, %",
        )
        add_guides(axes, None, 1.0)
        said = f"Mean score over distance. {'; '.join(texts)}."
        write_bytes(place.with_suffix(".svg"), render(laid_out("curve", figure, said, titles), "svg"))
