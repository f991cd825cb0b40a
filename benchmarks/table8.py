"""Methods side by side on one zoo (the paper's Table 8 on equal terms): scores, similarity, and what each costs.

    python benchmarks/table8.py zoos/cifar10-cnn-small-seeds --methods gaussian,pca-gaussian,flow-small --out table8

Each method learns the zoo's training networks in a process of its own, at most `--limit` seconds, and draws `-n`
networks; one report then sets all of them beside the originals, those held out, the baselines, and what their codecs
keep. "best 3" is the mean of a group's best three by the test data, which is D2NWG's statistic: a selection. OUT has
runs/, zoos/, logs/ and report/; the table is OUT/table8.md and OUT/table8.json. The same call goes on where it was:
what is there is not done again. The table is of the methods that are named, so a call that leaves out one of OUT's
table is refused. A method that fails, or is not finished within its limit, has a row that says so, and the exit code
is 1.

`rpg compare` sets reports side by side; this trains, and adds what the records of runs and zoos say: seconds to train
and for a network, learnt parameters, and the most memory that a process had.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trials import COSTS, DIGITS, Trial, add_methods, chosen, costs, failures, trials_of, trials_parser

from evaluators.metrics import best_3
from rpg.reports.compare import Comparison, Group
from rpg.reports.comparisons import MAIN
from rpg.reports.inputs import discard
from rpg.reports.labels import BASELINES, labels
from rpg.reports.report import measures
from rpg.reports.stage import plan_report
from study import table_of, write_table
from zoo.console import run_cli
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.table import Record, Table

COLUMNS = (
    "method",
    *MAIN[MAIN.index("group") : MAIN.index("mean")],
    "best 3",
    *MAIN[MAIN.index("mean") :],
    *COSTS,
    "failed",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table, or the rest of it. Exit code 1 when a method failed."""
    options = parser().parse_args(arguments)
    methods, originals = chosen(options.methods.split(","), options), Zoo.open(options.zoo)
    place = options.out / "table8"
    refuse_tasks(originals)
    refuse_fewer(methods, place)
    trials = trials_of(methods, originals, options)
    write_table(table(originals, trials, options), place, title_of(originals, options))
    return int(any(trial.failed for trial in trials))


def refuse_tasks(originals: Zoo) -> None:
    """Raise ValueError for networks of many tasks, whose reports have other columns (benchmarks/tasks.py)."""
    if originals.manifest.origin.task and task_of(originals.manifest.origin).conditions():
        raise ValueError(f"{originals.path} is for many binary tasks; expected networks of one task")


def refuse_fewer(methods: Sequence[str], place: Path) -> None:
    """Raise ValueError where the table that is there has methods which these leave out."""
    there = place.with_suffix(".json")
    if not there.is_file():
        return
    rows = json.loads(there.read_text())
    lost = dict.fromkeys(str(row["method"]) for row in rows if row.get("method") not in (None, *methods))
    if lost:
        raise ValueError(f"{there} has {', '.join(lost)}, too; name all methods in --methods, or another --out")


def title_of(originals: Zoo, options: argparse.Namespace) -> str:
    """What the table is of, and how its columns are meant."""
    return (
        f"# Methods on {originals.name}\n\nScores in percent, of {options.n} networks of each seed of a method, all "
        "counted. Distances over the yardstick, the median distance of an original to its nearest one (of another run, "
        "where there are several). AUC and shift: against those held out. Peak GB: of the process."
    )


def parser() -> argparse.ArgumentParser:
    found = trials_parser(__doc__, "a collected zoo, best with held-out seeds", networks=10)
    add_methods(found)
    return found


def table(originals: Zoo, trials: Sequence[Trial], options: argparse.Namespace) -> Table:
    """A row for each group of the report, and for each method that has no networks."""
    good = [trial for trial in trials if not trial.failed]
    records: list[Record] = []
    if good:
        comparison, names = reported(originals, good, options)
        own = {name: [trial for trial in good if names[trial.zoo] == name] for name in names.values()}
        records = [row(comparison, group, own.get(group.name, []), originals) for group in comparison.groups]
    records += failures(trials)
    return table_of(records, COLUMNS, DIGITS)


def reported(
    originals: Zoo, trials: Sequence[Trial], options: argparse.Namespace
) -> tuple[Comparison, Mapping[Path, str]]:
    """The comparison of all networks, and the group of each zoo. Scores and baselines of an earlier one are used."""
    place, zoos = options.out / "report", [Zoo.open(trial.zoo) for trial in trials]
    discard(place)
    runs = [str(trial.run) for trial in trials]
    plan = plan_report(
        zoos, originals=originals, out=place, runs=runs, data_root=options.data_root, device=options.device
    )
    found = plan.carry_out().comparison
    assert isinstance(found, Comparison)  # not of tasks: refuse_tasks
    called = labels(zoos, BASELINES)
    return found, {trial.zoo: called[zoo.sha256] for trial, zoo in zip(trials, zoos, strict=True)}


def row(comparison: Comparison, group: Group, trials: Sequence[Trial], originals: Zoo) -> Record:
    """What is known of a group, and, where it is a method's, what that took."""
    found: Record = {"method": trials[0].method if trials else None, **measures(comparison, group)}
    if group.behaviour:
        found["best 3"] = best_3(group.behaviour.accuracy)
    return found | costs(trials, originals) if trials else found


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "table8")
