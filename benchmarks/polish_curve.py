"""What a little training makes of networks, by where they start: accuracy and distance over the steps of `rpg polish`.

    python benchmarks/polish_curve.py zoos/digits zoos/digits-gaussian zoos/digits-rpg --steps 0,20,100 --out polish

Every start is polished for each number of steps, and so are `-n` untrained networks; one report sets all of them
beside the originals. OUT has zoos/ and report/, and OUT/polish_curve.md and OUT/polish_curve.json: a row for each start
and number of steps, with the training samples that a network has seen; OUT/polish_curve.svg draws them. The same call
goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import zoo.api
from study import add_places, named, reported, table_of, write_curve, write_table
from zoo.console import pick_device, run_cli
from zoo.derive.polish import PolishConfig, images_seen
from zoo.recipe import task_of
from zoo.store import Zoo, derivation
from zoo.table import Record
from zoo.tasks.base import Task
from zoo.writer import ZooWriter

COLUMNS = (
    *(
        "start",
        "steps",
        "samples seen",
        "mean",
        "std",
        "ensemble of 16",
        "distance, median",
        "distance aligned, median",
    ),
    *(
        "error-IoU, median",
        "spread",
        "novel and good, %",
        "at .95, %",
        "novel and good aligned, %",
        "AUC",
        "AUC aligned",
    ),
    *("shift", "shift aligned"),
)
UNTRAINED = 10_000  # the first seed of untrained networks, far from those of zoos


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table, or the rest of it."""
    options = parser().parse_args(arguments)
    if options.n < 1:
        raise ValueError(f"-n is {options.n}; expected 1 untrained network or more")
    originals = Zoo.open(options.zoo)
    starts = named(options.starts, "starts", taken=["untrained"])
    task = task_of(originals.manifest.origin).build(options.data_root, pick_device(options.device))
    starts["untrained"] = untrained(originals, task, options.n, options.out / "zoos" / "untrained")
    zoos = {
        (name, steps): polished(start, name, steps, options)
        for name, start in starts.items()
        for steps in options.steps
    }
    records: list[Record] = []
    for key, group, record in reported(zoos, originals, options.out / "report", options):
        start, steps = key or (group, None)
        seen = images_seen(PolishConfig(steps=steps)) if steps else steps
        records.append({**record, "start": start, "steps": steps, "samples seen": seen})
    write_table(table_of(records, COLUMNS), options.out / "polish_curve")
    write_curve(records, "start", "steps", options.out / "polish_curve", joined=starts)
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("zoo", help="the originals, best with held-out seeds")
    found.add_argument("starts", nargs="+", help="zoos that were made of them")
    found.add_argument("--steps", type=numbers, default=(0, 5, 20, 50, 100, 200, 500), help="with commas")
    found.add_argument("-n", type=int, default=10, help="untrained networks; default 10")
    rate = PolishConfig.model_fields["learning_rate"].default
    found.add_argument("--learning-rate", type=float, default=rate, help=f"at the start; default {rate}")
    add_places(found)
    return found


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(int(number) for number in text.split(","))
    if min(found) < 0:
        raise ValueError
    return found


def untrained(originals: Zoo, task: Task, count: int, path: Path) -> Zoo:
    """As many networks as they are before training, from seeds that no original has. Raises ValueError for a zoo whose
    networks all started from the same weights: there are no others.
    """
    settings = originals.manifest.origin.settings.get("zoo")
    if isinstance(settings, dict) and settings.get("init") == "shared":
        raise ValueError(
            f"all networks of {originals.path} started from the same weights; expected a zoo of many seeds"
        )
    made_by = derivation(originals, originals.select("train"), "untrained", {"networks": count})
    origin = originals.manifest.origin.model_copy(update=made_by)
    with ZooWriter(path, origin, originals.structure, originals.frozen()) as writer:
        for k in range(count):
            if f"untrained-{k:04d}" not in writer.done:
                weights = task.weights(task.start(UNTRAINED + k))
                writer.add(f"untrained-{k:04d}", weights, seed=UNTRAINED + k, split="untrained")
        return writer.finish()


def polished(start: Zoo, name: str, steps: int, options: argparse.Namespace) -> Zoo:
    """The networks after so many steps; as they are after none."""
    if steps == 0:
        return start
    out = options.out / "zoos" / f"{name}-{steps}"
    return zoo.api.polish(
        start,
        steps,
        learning_rate=options.learning_rate,
        out=out,
        data_root=options.data_root,
        device=options.device,
    )


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "polish_curve")
