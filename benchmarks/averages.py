"""What averages of a zoo's networks keep of their accuracy as they are: midpoints, soups, the mean of all, a line.

    python benchmarks/averages.py zoos/asymmetric zoos/aligned --data-root DIR --out averages

`rpg-zoo align --measure` says this of a zoo before and after. Here are any number of zoos of image classifiers, such as
those that need no alignment (`task.asymmetry`), with the same draws and test data. OUT.md and OUT.json have a row for
each, OUT.lines.json the loss along the lines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from study import add_places, write_table
from zoo.console import pick_device, run_cli
from zoo.derive.on_images import measure_of
from zoo.derive.worth import SOUP, Kept, averages, looked_at
from zoo.files import write_bytes
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.table import Record, Table

DIGITS = {"loss barrier": 3, "participation ratio": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table."""
    options = parser().parse_args(arguments)
    if options.draws < 1:
        raise ValueError(f"--draws is {options.draws}; expected 1 or more")
    found = {given: of_zoo(given, options) for given in options.zoos}
    write_table(Table.of([record for record, _ in found.values()], DIGITS), options.out)
    lines = {name: kept.line for name, (_, kept) in found.items()}
    write_bytes(options.out.with_suffix(".lines.json"), json.dumps(lines, indent=1).encode())
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("zoos", nargs="+", help="zoos of image classifiers")
    found.add_argument("--draws", type=int, default=4, help="midpoints, soups and networks of each; default 4")
    add_places(found)
    return found


def of_zoo(given: str, options: argparse.Namespace) -> tuple[Record, Kept]:
    """A row, and what it was made of."""
    zoo = Zoo.open(given)
    training, others = looked_at(zoo)
    task = task_of(zoo.manifest.origin).build(options.data_root, pick_device(options.device))
    found = averages(zoo, training, others[: options.draws], measure_of(zoo, task), options.draws, 0)
    kept = found.behaviour
    assert kept is not None  # it was measured
    row: Record = {
        "zoo": given,
        "networks": len(training),
        "accuracy": kept.accuracy,
        "midpoint of two": kept.midpoint,
        "mean of all": kept.mean,
        f"soup of {min(SOUP, len(training))}": kept.soup,
        **{f"held out through PCA-{k}": value for k, value in kept.codes.items()},
        "loss barrier": kept.barrier,
        "participation ratio": found.participation,
    }
    return row, kept


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "averages")
