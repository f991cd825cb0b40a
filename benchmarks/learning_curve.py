"""How fast methods learn the same networks: what the networks that they generate score, over steps of training.

    python benchmarks/learning_curve.py zoos/m-10 --points supervised.yaml=200,1000 --points plain.yaml=5000 --out curve

For each of these settings of RPG and each number of steps a run of its own, whose rate falls to the end of it, and `-n`
networks, all counted. OUT/learning_curve.md and OUT/learning_curve.json have a row for each, with the share of what the
originals score on average and the seconds of training; OUT/learning_curve.svg draws them. The same call goes on where
it was, more points may be added. A point that fails, or is not finished within `--limit` seconds, has a row that says
so, and the exit code is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from trials import attempt, chosen, costs, failures, trials_parser

from evaluators.metrics import summarize
from rpg.methods.rpg.config import RPGConfig
from rpg.reports.plots import COLOURS, GUIDE, label, laid_out, render, scatter
from study import table_of, write_table
from zoo.console import pick_device, run_cli
from zoo.files import write_bytes
from zoo.names import short_name
from zoo.recipe import load_method, task_of
from zoo.scoring import score
from zoo.store import Zoo
from zoo.table import Record
from zoo.tasks.base import Task

COLUMNS = ("method", "steps", "seeds", "mean", "best", "std", "of the originals, %", "seconds to train", "failed")
DIGITS = {"of the originals, %": 1, "seconds to train": 0}
GOAL = 0.98  # of what the originals score


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table and the curve, or the rest of them. Exit code 1 when a point failed."""
    options = parser().parse_args(arguments)
    asked = points(options)
    originals = Zoo.open(options.zoo)
    task = task_of(originals.manifest.origin).build(options.data_root, pick_device(options.device))
    top = summarize(scores_of(originals, "train", task, options.out)).mean
    records: list[Record] = [{"method": "originals", "mean": top}]
    for method, steps in asked:
        name, sets = f"{short_name(method)}-{steps}", [f"method.train.steps={steps}"]
        trials = [attempt(name, method, seed, originals, options, sets=sets) for seed in range(options.seeds)]
        if good := [trial for trial in trials if not trial.failed]:
            scores = [scores_of(Zoo.open(trial.zoo), "generated", task, options.out) for trial in good]
            found = summarize([value for own in scores for value in own])
            record: Record = {"method": method, "steps": steps, "seeds": len(good), **costs(good, originals)}
            record |= {"mean": found.mean, "best": found.best, "std": found.std}
            records.append(record | {"of the originals, %": 100 * found.mean / top})
        records += failures(trials)
    write_table(table_of(records, COLUMNS, DIGITS), options.out / "learning_curve")
    draw([record for record in records if record.get("steps")], top, options.out / "learning_curve.svg")
    return int(any(record.get("failed") for record in records))


def parser() -> argparse.ArgumentParser:
    found = trials_parser(__doc__, "the originals", networks=20)
    found.add_argument("--points", action="append", required=True, metavar="METHOD=STEPS,...", help="can be repeated")
    return found


def points(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Methods and steps. Raises ValueError for what cannot be tried, before any work."""
    pairs = [text.rpartition("=") for text in options.points]
    found = []
    for method, (_, _, steps) in zip(chosen([name for name, _, _ in pairs], options), pairs, strict=True):
        if not isinstance(load_method(method)[0], RPGConfig):
            raise ValueError(f"{method} has no method.train.steps; expected settings of RPG")
        for number in steps.split(","):
            if not number.strip().isdecimal() or int(number) < 1:
                raise ValueError(f"--points {method}={steps} has steps {number!r}; expected numbers, with commas")
            found.append((method, int(number)))
    return found


def scores_of(zoo: Zoo, split: str, task: Task, out: Path) -> list[float]:
    """The main score of each network of a split."""
    scores = score(zoo, task, out / "scores" / zoo.name, zoo.select(split))
    return [one.metrics[task.main_metric].value for one in scores]


def draw(records: Sequence[Record], top: float, place: Path) -> None:
    """Mean score over steps, a line for each method, and where it has the goal's share of the originals' mean."""
    methods = list(dict.fromkeys(str(record["method"]) for record in records))
    texts = []
    with scatter(len(methods) + 1) as figure:
        axes = figure.subplots()
        axes.axhline(GOAL * top, label=f"{GOAL:.0%} of the originals", zorder=1, **GUIDE)
        styles = zip(cycle(COLOURS["generated"] + COLOURS["baseline"]), cycle("Dphs^*XPv<"), strict=False)
        for method, (colour, marker) in zip(methods, styles, strict=False):
            own = [record for record in records if record["method"] == method]
            mine = sorted((int(str(one["steps"])), float(str(one["mean"]))) for one in own)
            steps, means = zip(*mine, strict=True)
            axes.plot(steps, means, label=label(short_name(method)), color=colour, marker=marker, markersize=6)
            texts.append(f"{short_name(method)}: " + ", ".join(f"{mean:.1f} after {step:,}" for step, mean in mine))
        axes.set(xscale="log", xlabel="steps of training", ylabel="mean score, %")
        axes.grid(True)
        axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.45, -0.17), borderaxespad=0)
        said = f"Mean score over steps of training; the originals have {top:.1f}. {'; '.join(texts)}."
        write_bytes(place, render(laid_out("curve", figure, said), "svg"))


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "learning_curve")
