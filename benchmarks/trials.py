"""Trials of methods: each learns a zoo and draws networks in processes of its own; what is there is not done again.

OUT has runs/, zoos/ and logs/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rpg.devices import DEVICES
from rpg.methods.base import DrawConfig, MethodConfig
from rpg.reproduce.sweeping import seeds_of
from rpg.run import Run
from study import add_places
from zoo.names import short_name
from zoo.recipe import load_method
from zoo.store import Zoo
from zoo.table import Record

DIGITS = {"seconds to train": 1, "seconds a network": 3, "peak GB": 2}
COSTS = ("seconds to train", "seconds a network", "parameters", "peak GB")


@dataclass(frozen=True)
class Trial:
    """One method with one seed: where its run and its networks are, or why there are none."""

    method: str
    seed: int
    run: Path
    zoo: Path
    failed: str = ""


def add_methods(parser: argparse.ArgumentParser) -> None:
    """The option that says which methods are tried."""
    parser.add_argument("--methods", required=True, help="names of settings (`rpg methods`) or YAML files, with commas")


def trials_parser(description: str | None, zoo: str, networks: int) -> argparse.ArgumentParser:
    """For a zoo and trials on it: `zoo` says which one, `networks` how many each seed draws if nobody says it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", help=zoo)
    parser.add_argument(
        "--limit",
        type=float,
        default=3600,
        help="seconds of a training, or of drawing, in one call; default 3600",
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each method, in training and drawing; default 1")
    parser.add_argument("-n", type=int, default=networks, help=f"networks of each seed; default {networks}")
    add_places(parser)
    return parser


def chosen(words: Sequence[str], options: argparse.Namespace) -> list[str]:
    """The methods of these names, all of which exist. Raises ValueError for what cannot be tried, before any work."""
    for name in ("seeds", "n", "limit"):
        if not getattr(options, name) > 0:  # nor NaN
            raise ValueError(f"{name} = {getattr(options, name)}; expected a number above 0")
    methods = [word.strip() for word in words]
    if not all(methods):
        raise ValueError(f"one of the methods {', '.join(words)!r} has no name; expected `rpg methods` or YAML files")
    if len({short_name(method) for method in methods}) < len(methods):
        raise ValueError(
            f"one of the methods {', '.join(words)} is there twice; expected different ones, by file name, too"
        )
    for method in methods:
        load_method(method)
    return methods


def trials_of(
    methods: Sequence[str], originals: Zoo, options: argparse.Namespace, drawn: Sequence[str] = ()
) -> list[Trial]:
    """All of them, drawn with these further words of `rpg generate`."""
    return [
        attempt(short_name(method), method, seed, originals, options, drawn=drawn)
        for method in methods
        for seed in range(options.seeds)
    ]


def attempt(
    name: str,
    method: str,
    seed: int,
    originals: Zoo,
    options: argparse.Namespace,
    *,
    sets: Sequence[str] = (),
    drawn: Sequence[str] = (),
) -> Trial:
    """Train, with these settings changed, and draw. The commands find what is there, and refuse it where it was made
    with other settings.
    """
    name += f"-{seed}" if seed else ""
    run, zoo = options.out / "runs" / name, options.out / "zoos" / f"{name}-generated"
    where = ["--device", options.device, *(["--data-root", str(options.data_root)] if options.data_root else [])]
    train = ["train", "--zoo", str(originals.path), "--method", method, "--out", str(run), *where]
    seeds = seeds_of(load_method(method)[0], "method") if seed else ()
    for pair in (*sets, *(f"{key}={seed}" for key, _ in seeds)):
        train += ["--set", pair]
    draw = ["generate", str(run), "-n", str(options.n), *drawn, "--seed", str(seed), "--out", str(zoo), *where]
    for command in (train, draw):
        log = options.out / "logs" / f"{name}-{command[0]}.log"
        if failed := rpg(command, options.limit, log):
            print(f"{name}: {command[0]}: {failed}", file=sys.stderr)
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


def costs(trials: Sequence[Trial], originals: Zoo) -> Record:
    """What seeds of one method took: seconds are means over them, memory is the most."""
    learnt = [spent for trial in trials if (spent := Run(trial.run).spent)]
    drawn = [(spent, len(zoo)) for trial in trials if (spent := (zoo := Zoo.open(trial.zoo)).manifest.spent)]
    (config, request), count = load_method(trials[0].method), len(Run(trials[0].run).record().networks)
    assert isinstance(config, MethodConfig)
    assert isinstance(request, DrawConfig)
    estimated = config.build().estimate(originals.structure, count, request, DEVICES["h100"])
    found: Record = {"parameters": estimated.parameters}
    if learnt:
        found["seconds to train"] = sum(spent.seconds for spent in learnt) / len(learnt)
    if drawn:
        found["seconds a network"] = sum(spent.seconds / n for spent, n in drawn) / len(drawn)
    memory = [spent.device_bytes or spent.host_bytes for spent in (*learnt, *(spent for spent, _ in drawn))]
    if memory:
        found["peak GB"] = max(memory) / 1e9
    return found


def failures(trials: Sequence[Trial]) -> list[Record]:
    """A row for each that has no networks."""
    return [
        {"method": trial.method, "group": f"seed {trial.seed}", "failed": trial.failed}
        for trial in trials
        if trial.failed
    ]
