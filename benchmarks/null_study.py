"""What any generator must beat: accuracy over distance of networks that take no generator, of one zoo or several.

    python benchmarks/null_study.py zoos/cifar10-cnn-small-seeds zoos/cifar10-cnn-small-seeds-aligned --out null

Of every zoo each closed form of FORMS learns the training networks and draws `-n`; one report sets all beside the
originals and those held out. OUT has a directory for each zoo, with runs/, zoos/ and report/, and OUT/null_study.md and
OUT/null_study.json: a row for each form and zoo; OUT/null_study.svg draws them. The same call goes on where it was. A
form that needs more networks than the zoo has is left out and named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rpg.api
from rpg.run import Run
from study import add_places, named, reported, require_task, table_of, write_curve, write_table
from zoo.console import pick_device, run_cli
from zoo.store import Zoo
from zoo.table import Record

FORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{f"noise-{sigma:g}": ("noise", {"sigma": sigma}) for sigma in (0.05, 0.1, 0.2)},
    **{f"soup-of-{count}": ("soup", {"of": count}) for count in (2, 4, 16)},
    "soup-of-16-rescaled": ("soup", {"of": 16, "rescale": True}),
    "positive-mix": ("soup", {"of": None, "mix": "positive"}),
    "positive-mix-rescaled": ("soup", {"of": None, "mix": "positive", "rescale": True}),
    **{f"crossover-of-{count}": ("crossover", {"of": count}) for count in (2, 4, 16)},
    **{f"gaussian-{width:g}": ("gaussian", {"width": width}) for width in (0.25, 0.5, 0.7, 0.85, 1.0)},
    **{f"pca-{rank}": ("pca-gaussian", {"rank": rank}) for rank in (99, 300)},
    "pca-full": ("pca-gaussian", {}),
    "ppca-32": ("pca-gaussian", {"rank": 32, "residual": True}),
    "kde-0.1": ("kde", {"bandwidth": 0.1}),
}
COLUMNS = (
    *("zoo", "networks", "form", "mean", "std", "ensemble of 16", "distance, median", "distance aligned, median"),
    *("error-IoU, median", "spread", "novel and good, %", "novel and good aligned, %", "AUC", "AUC aligned"),
    *("energy distance", "energy distance aligned", "shift", "shift aligned"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table, or the rest of it."""
    options = parser().parse_args(arguments)
    records: list[Record] = []
    if options.n < 1:
        raise ValueError(f"-n is {options.n}; expected 1 or more networks of each form")
    pick_device(options.device)  # refuses one that is not there, before any work
    zoos = named(options.zoos, "zoos")
    for zoo in zoos.values():
        require_task(zoo)
    for name, zoo in zoos.items():
        records += rows(zoo, options.out / name, options)
    write_table(table_of(records, COLUMNS), options.out / "null_study")
    write_curve(records, "zoo", "form", options.out / "null_study")
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("zoos", nargs="+", help="collected zoos, best with held-out seeds, as they are and aligned")
    found.add_argument("-n", type=int, default=20, help="networks of each form; default 20")
    add_places(found)
    return found


def rows(originals: Zoo, out: Path, options: argparse.Namespace) -> list[Record]:
    """The rows of one zoo: those of its report."""
    forms = {name: zoo for name in FORMS if (zoo := drawn(name, originals, out, options))}
    about: Record = {"zoo": originals.path.name, "networks": len(originals.select("train"))}
    found = reported(forms, originals, out / "report", options)
    return [{**record, **about, "form": form or group} for form, group, record in found]


def drawn(name: str, originals: Zoo, out: Path, options: argparse.Namespace) -> Zoo | None:
    """The networks of a form; None, said on stderr, where it needs more networks than the zoo has."""
    method, settings = FORMS[name]
    there, needed = len(originals.select("train")), least(method, settings)
    if there < needed:
        print(f"{originals.path.name}: no {name}: it needs {needed} networks, and there are {there}", file=sys.stderr)
        return None
    run, zoo = out / "runs" / name, out / "zoos" / name
    require_same(run, zoo, originals, options.n)
    if not Run(run).trained:
        rpg.api.train(originals, method, out=run, device=options.device, **settings)
    return rpg.api.generate(run, out=zoo, n=options.n, device=options.device)


def least(method: str, settings: Mapping[str, Any]) -> int:
    """How many training networks a form needs: a soup of all is one network, and N of them have N - 1 components."""
    count: int = settings.get("of") or settings.get("rank") or 1
    return count if method == "crossover" else count + 1


def require_same(run: Path, zoo: Path, originals: Zoo, count: int) -> None:
    """Raise ValueError where an earlier call made these of other networks, or another number of them."""
    if Run(run).trained and list(Run(run).record().networks) != [entry.sha256 for entry in originals.select("train")]:
        raise ValueError(f"{run} learnt other networks than those of {originals.path}; choose another place with --out")
    if (zoo / "manifest.json").is_file() and (there := len(Zoo.open(zoo))) != count:
        raise ValueError(f"{zoo} has {there} networks, not -n {count}; choose another place with --out")


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "null_study")
