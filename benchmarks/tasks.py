"""Methods side by side on tasks that they never saw: what their networks score beside those trained for these tasks,
and beside what needs no generator.

    python benchmarks/tasks.py zoos/binary-cifar10-cnn-no-neighbours --methods rpg-tiny-binary,tina-small --out tasks

Each method learns a zoo of binary tasks in a process of its own, at most `--limit` seconds, and each seed of it draws
`-n` networks for each task of split `unseen`. A report on the first of them makes and scores the baselines; the
networks of all others are scored beside these. OUT has runs/, zoos/, logs/, report/ and scores/; the table is
OUT/tasks.md and OUT/tasks.json. The same call goes on where it was, more methods may be added. A method that fails, or
is not finished within its limit, has a row that says so, and the exit code is 1.

Means are over tasks, so are standard errors; the seeds of a method count together, and `top1, seeds` has the mean of
each. `lead` is how far a method lies above the best baseline that makes a network for each task of those of others.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from trials import COSTS, DIGITS, Trial, add_methods, chosen, costs, failures, trials_of, trials_parser

from evaluators.metrics import summarize
from rpg.reports.stage import plan_report
from rpg.reports.task_report import gap_table
from rpg.reports.tasks import TaskComparison
from study import table_of, write_table
from zoo.console import pick_device, run_cli
from zoo.recipe import load_method, task_of
from zoo.scoring import Score, score
from zoo.store import Zoo
from zoo.table import Record, Table
from zoo.tasks.base import Task

SPLIT = "unseen"
COLUMNS = (
    *("method", "group", "seeds", "top1", "balanced", "gap", "error", "lead", "lead, error", "over", "top1, seeds"),
    *COSTS,
    "failed",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table, or the rest of it. Exit code 1 when a method failed."""
    options = parser().parse_args(arguments)
    methods, originals = chosen(options.methods.split(","), options), Zoo.open(options.zoo)
    require_tasks(originals, methods)
    trials = trials_of(methods, originals, options, ["--split", SPLIT])
    write_table(table(originals, trials, options), options.out / "tasks")
    return int(any(trial.failed for trial in trials))


def parser() -> argparse.ArgumentParser:
    found = trials_parser(__doc__, "a zoo of binary tasks, some of them held out", networks=3)
    add_methods(found)
    found.add_argument("--classifier", help="a network for all classes, as for `rpg report`")
    return found


def require_tasks(originals: Zoo, methods: Sequence[str]) -> None:
    """Raise ValueError where there are no tasks held out, or a method that is told none."""
    if not any(entry.split == SPLIT and entry.condition for entry in originals.entries):
        if not any(entry.condition for entry in originals.entries):
            raise ValueError(f"{originals.path} holds no networks of binary tasks; expected a zoo as of digits-binary")
        raise ValueError(f"{originals.path} holds no binary tasks out; hold some out with `rpg-zoo split --holdout`")
    for method in methods:
        if "conditions" not in type(load_method(method)[1]).model_fields:
            raise ValueError(f"{method} is told no task; expected methods that are, such as rpg-tiny-binary")


def table(originals: Zoo, trials: Sequence[Trial], options: argparse.Namespace) -> Table:
    """A row for the originals, each method and each baseline, and for each trial that has no networks."""
    good = [trial for trial in trials if not trial.failed]
    records: list[Record] = []
    if good:
        beside = baselines(good[0], originals, options)
        task = task_of(originals.manifest.origin).build(options.data_root, pick_device(options.device))
        groups = {str(row["group"]): row for row in records_of(beside)}
        records.append(groups.pop("original"))
        for method in dict.fromkeys(trial.method for trial in good):
            own = [trial for trial in good if trial.method == method]
            scored = [score_trial(trial, task, options.out) for trial in own]
            records.append(row(method, scored, beside) | costs(own, originals))
        records += [one for name, one in groups.items() if name in beside.baselines]
    return table_of([*records, *failures(trials)], COLUMNS, DIGITS)


def baselines(first: Trial, originals: Zoo, options: argparse.Namespace) -> TaskComparison:
    """The report on the networks of one trial, with all that stands beside them."""
    found = plan_report(
        [Zoo.open(first.zoo)],
        originals=originals,
        out=options.out / "report" / first.zoo.name,
        runs=[str(first.run)],
        data_root=options.data_root,
        device=options.device,
        classifier=options.classifier,
    ).carry_out()
    if not isinstance(found.comparison, TaskComparison):
        raise ValueError(f"{originals.path} is of one task; expected networks for many binary tasks")
    return found.comparison


def records_of(comparison: TaskComparison) -> list[Record]:
    """The rows of its table of means, without what is of its own generated networks."""
    table = gap_table(comparison)
    found = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    return [{k: v for k, v in one.items() if not k.startswith("lead")} for one in found if one["split"] == SPLIT]


def row(method: str, scored: Sequence[Sequence[Score]], beside: TaskComparison) -> Record:
    """The networks of all seeds of a method in place of those of the report."""
    mine = with_networks(beside, [one for own in scored for one in own])
    (found,) = (one for one in records_of(mine) if one["group"] == "generated")
    best = mine.best(SPLIT)
    lead, error = mine.lead(SPLIT, best)
    found |= {"method": method, "seeds": len(scored), "lead": lead, "lead, error": error, "over": best}
    found["top1, seeds"] = ", ".join(f"{mean(one.metrics['top1'].value for one in own):.2f}" for own in scored)
    return found


def score_trial(trial: Trial, task: Task, out: Path) -> list[Score]:
    """Each network on its own task."""
    zoo = Zoo.open(trial.zoo)
    return score(zoo, task, out / "scores" / zoo.name, zoo.entries)


def with_networks(comparison: TaskComparison, scores: Sequence[Score]) -> TaskComparison:
    """The comparison with these networks instead of its generated ones."""
    found = []
    for one in comparison.rows:
        own = [score for score in scores if score.condition == one.condition]
        update: Mapping[str, object] = {
            name: getattr(one, name) | {"generated": summarize([score.metrics[metric].value for score in own])}
            for name, metric in (("accuracy", "top1"), ("balanced", "balanced"))
        }
        found.append(one.model_copy(update=update))
    return comparison.model_copy(update={"rows": tuple(found)})


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "tasks")
