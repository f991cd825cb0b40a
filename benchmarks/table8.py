"""Methods side by side on one zoo (the paper's Table 8 on equal terms): scores, similarity, and what each costs.

    python benchmarks/table8.py zoos/cifar10-cnn-small-seeds --methods gaussian,pca-gaussian,flow-small --out table8

Each method learns the zoo's training networks in a process of its own, at most `--limit` seconds, and draws `-n`
networks; one report then sets all of them beside the originals, those held out, the baselines, and what their codecs
keep. OUT has runs/, zoos/, logs/ and report/; the table is OUT/table8.md and OUT/table8.json. The same call goes on
where it was: what is there is not done again, more methods may be added. A method that fails, or is not finished within
its limit, has a row that says so, and the exit code is 1.

`rpg compare` sets reports side by side; this trains, and adds what the records of runs and zoos say: seconds to train
and for a network, learnt parameters, and the most memory that a process had.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rpg.devices import DEVICES
from rpg.methods.base import DrawConfig, MethodConfig
from rpg.reports.compare import Comparison, Group
from rpg.reports.comparisons import MAIN
from rpg.reports.inputs import REPORT
from rpg.reports.report import measures
from rpg.reports.stage import BASELINES, labels, plan_report
from rpg.reproduce.sweeping import seeds_of
from rpg.run import Run
from study import add_places, table_of, write_table
from zoo.console import run_cli
from zoo.recipe import load_method
from zoo.store import Zoo
from zoo.table import Record, Table

COLUMNS = (
    "method",
    *MAIN[MAIN.index("group") :],
    "seconds to train",
    "seconds a network",
    "parameters",
    "peak GB",
    "failed",
)
DIGITS = {"seconds to train": 1, "seconds a network": 3, "peak GB": 2}


@dataclass(frozen=True)
class Trial:
    """One method with one seed: where its run and its networks are, or why there are none."""

    method: str
    seed: int
    run: Path
    zoo: Path
    failed: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table, or the rest of it. Exit code 1 when a method failed."""
    options = parser().parse_args(arguments)
    originals = Zoo.open(options.zoo)
    trials = []
    for method in options.methods.split(","):
        for seed in range(options.seeds):
            trials.append(attempt(method, seed, originals, options))
            if trials[-1].failed:
                print(f"{method}, seed {seed}: {trials[-1].failed}", file=sys.stderr)
    write_table(table(originals, trials, options), options.out / "table8")
    return int(any(trial.failed for trial in trials))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("zoo", help="a collected zoo, best with held-out seeds")
    found.add_argument("--methods", required=True, help="names of settings (`rpg methods`) or YAML files, with commas")
    found.add_argument("--limit", type=float, default=3600, help="seconds of a training in one call; default 3600")
    found.add_argument("-n", type=int, default=10, help="networks of each seed of a method; default 10")
    found.add_argument("--seeds", type=int, default=1, help="seeds of each method, in training and drawing; default 1")
    add_places(found)
    return found


def attempt(method: str, seed: int, originals: Zoo, options: argparse.Namespace) -> Trial:
    """Train and draw, but for what is there."""
    name = Path(method).stem + (f"-{seed}" if seed else "")
    run, zoo = options.out / "runs" / name, options.out / "zoos" / f"{name}-generated"
    train = ["train", "--zoo", str(originals.path), "--method", method, "--out", str(run), "--device", options.device]
    train += ["--data-root", str(options.data_root)] if options.data_root else []
    for key, _ in seeds_of(load_method(method)[0], "method") if seed else ():
        train += ["--set", f"{key}={seed}"]
    draw = ["generate", str(run), "-n", str(options.n), "--seed", str(seed), "--out", str(zoo)]
    draw += ["--device", options.device]
    for command, done in ((train, run / "trained.json"), (draw, zoo / "manifest.json")):
        log = options.out / "logs" / f"{name}-{command[0]}.log"
        if not done.is_file() and (failed := rpg(command, options.limit, log)):
            return Trial(method, seed, run, zoo, f"{command[0]}: {failed}")
    return Trial(method, seed, run, zoo)


def rpg(command: Sequence[str], limit: float, log: Path) -> str:
    """Run a command of ours in a process of its own, so that its memory is its own; why it failed, or nothing. What it
    says goes to `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"rpg {' '.join(command)}  (what it says: {log})", file=sys.stderr)
    with log.open("w") as file:
        line = [sys.executable, "-m", "rpg", *command]
        try:
            code = subprocess.run(line, stdout=file, stderr=file, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            return f"not finished within {limit:g} s; the same call continues it"
    if code == 0:
        return ""
    return ([text for text in log.read_text().splitlines() if text.strip()] or [f"exit code {code}"])[-1]


def table(originals: Zoo, trials: Sequence[Trial], options: argparse.Namespace) -> Table:
    """A row for each group of the report, and for each method that has no networks."""
    good = [trial for trial in trials if not trial.failed]
    records: list[Record] = []
    if good:
        comparison, names = reported(originals, good, options)
        own = {name: [trial for trial in good if names[trial.zoo] == name] for name in names.values()}
        records = [row(comparison, group, own.get(group.name, []), originals) for group in comparison.groups]
    records += [
        {"method": trial.method, "group": "-", "seeds": trial.seed, "failed": trial.failed}
        for trial in trials
        if trial.failed
    ]
    return table_of(records, COLUMNS, DIGITS)


def reported(
    originals: Zoo, trials: Sequence[Trial], options: argparse.Namespace
) -> tuple[Comparison, Mapping[Path, str]]:
    """The comparison of all networks, and the group of each zoo. Scores and baselines of an earlier one are used."""
    place, zoos = options.out / "report", [Zoo.open(trial.zoo) for trial in trials]
    for name in (REPORT, "report.csv", "report.md", "report.html"):
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "plots", ignore_errors=True)
    runs = [str(trial.run) for trial in trials]
    plan = plan_report(
        zoos, originals=originals, out=place, runs=runs, data_root=options.data_root, device=options.device
    )
    found = plan.carry_out().comparison
    if not isinstance(found, Comparison):
        raise ValueError(f"{originals.path} is for many binary tasks; expected networks of one task")
    called = labels(zoos, BASELINES)
    return found, {trial.zoo: called[zoo.sha256] for trial, zoo in zip(trials, zoos, strict=True)}


def row(comparison: Comparison, group: Group, trials: Sequence[Trial], originals: Zoo) -> Record:
    """What is known of a group; seconds are means over seeds, memory is the most."""
    found: Record = {"method": trials[0].method if trials else None, **measures(comparison, group)}
    if not trials:
        return found
    learnt = [spent for trial in trials if (spent := Run(trial.run).spent)]
    drawn = [(spent, len(zoo)) for trial in trials if (spent := (zoo := Zoo.open(trial.zoo)).manifest.spent)]
    (config, request), count = load_method(trials[0].method), len(Run(trials[0].run).record().networks)
    assert isinstance(config, MethodConfig)
    assert isinstance(request, DrawConfig)
    found["parameters"] = config.build().estimate(originals.structure, count, request, DEVICES["h100"]).parameters
    if learnt:
        found["seconds to train"] = sum(spent.seconds for spent in learnt) / len(learnt)
    if drawn:
        found["seconds a network"] = sum(spent.seconds / n for spent, n in drawn) / len(drawn)
    memory = [spent.device_bytes or spent.host_bytes for spent in (*learnt, *(spent for spent, _ in drawn))]
    if memory:
        found["peak GB"] = max(memory) / 1e9
    return found


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "table8")
