"""`rpg estimate --sweep`: what a recipe costs over a setting (the paper's Figures 7 and 8), as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.files import write_bytes
from zoo.table import Record

PARAMETERS = "parameters"  # what --parameters sets, beside the settings
LONGEST = 1000  # values
DIGITS = {"TFLOP a step": 5, "hours": 4, "training GB": 3, "keeping GB": 3, "recomputing GB": 3, "sampling GB": 3}


def parse_sweep(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The keys and the values of `KEY[,KEY...]=VALUE,VALUE,...`: settings of the recipe, or `parameters`. Several keys
    take the same value, as width and token size do in Table 12; `A,...,B` doubles A until B.

    Raises ValueError for anything else.
    """
    names, _, given = text.partition("=")
    keys, words = tuple(names.split(",")), given.split(",")
    values: list[int] = []
    for number, word in enumerate(words):
        if word == "...":
            end = int(words[number + 1]) if number + 1 < len(words) and words[number + 1].isdecimal() else 0
            while values and 0 < 2 * values[-1] < end:
                values.append(2 * values[-1])
            if not values or 2 * values[-1] != end:
                raise ValueError(f"--sweep {text}: '...' doubles until the next value, as in 1024,...,16384")
        elif word.isdecimal() and int(word) > 0:
            values.append(int(word))
        else:
            raise ValueError(f"--sweep {text}: {word!r} is no value; expected KEY=1024,2048 or KEY=1024,...,16384")
    if not all(keys) or len(values) > LONGEST:
        raise ValueError(f"--sweep {text}: expected KEY=VALUE,VALUE,... with at most {LONGEST} values")
    return keys, tuple(values)


def check_plot(plot: Path | None, sweep: str | None) -> None:
    """Raise ValueError unless there is a sweep to draw into a new SVG, or nothing to draw."""
    if plot is None:
        return
    if sweep is None:
        raise ValueError(f"--plot {plot} draws a sweep; give one, too, as in --sweep parameters=1000,...,64000")
    if plot.suffix != ".svg":
        raise ValueError(f"--plot {plot}: expected a file with the suffix .svg")
    if plot.exists():
        raise ValueError(f"--plot {plot} is there already; expected a new file")


def row(value: int, figures: Mapping[str, Any]) -> Record:
    """What the estimate at one value says, in GB, TFLOP and hours; of RPG its tokens and both ways to train, too."""
    training, sampling = figures["training"], figures["sampling"]
    found: Record = {"value": value}
    if "tokens" in figures:
        found |= {"tokens": figures["tokens"]["count"]}
    found |= {"generator": figures["generator"]["parameters"], "training GB": training["bytes"] / 1e9}
    if "bytes_keeping" in training:
        keeping, recomputing = training["bytes_keeping"], training["bytes_recomputing"]
        found |= {"keeping GB": keeping / 1e9, "recomputing GB": recomputing / 1e9}
    return found | {
        "sampling GB": sampling["bytes"] / 1e9,
        "TFLOP a step": training["flops_per_step"] / 1e12,
        "hours": training["hours"],
    }


def draw(path: Path, key: str, rows: Sequence[Record], memory: int | None) -> None:
    """Memory of training over the value, for RPG both ways, beside what the device has, as SVG."""
    from rpg.reports.plots import render, sweep_plot

    titles = {"all kept": "keeping GB", "recomputing": "recomputing GB"}
    if "keeping GB" not in rows[0]:
        titles = {"training": "training GB"}
    lines = {name: [(float(str(r["value"])), float(str(r[title]))) for r in rows] for name, title in titles.items()}
    write_bytes(path, render(sweep_plot(key, lines, None if memory is None else memory / 1e9), "svg"))
