"""Where generators lie beside what needs none: mean score over aligned distance, of tables that other studies wrote.

    python benchmarks/frontier.py null/null_study.json latents/table8.json polish/polish_curve.json --out frontier.svg

Tables of null_study.py, table8.py and polish_curve.py on one zoo that has symmetries; polish is drawn as lines over
its steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study import write_curve
from zoo.console import run_cli
from zoo.names import short_name
from zoo.table import Record

ALIGNED = "distance aligned, median"
FORMS = "closed forms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, help="tables of studies, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="the drawing, NAME.svg")
    options = parser.parse_args(arguments)
    records = [named for path in options.tables for row in rows(path) if (named := place_of(row)) is not None]
    if not records:
        raise ValueError(f"{options.tables[0]} has no networks with a {ALIGNED}; expected a study of an aligned zoo")
    lines = {str(record["series"]) for record in records if record.get("steps") is not None}
    write_curve(records, "series", "name", options.out.with_suffix(""), lines, ALIGNED)
    return 0


def rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a table. Raises ValueError where it is none."""
    found = json.loads(path.read_text())
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{path} is no table; expected the .json of null_study, table8 or polish_curve")
    return found


def place_of(row: Mapping[str, Any]) -> Record | None:
    """The row under the name of its series and its own; nothing for baselines of reports and rows without distance."""
    if row.get(ALIGNED) is None:
        return None
    if "form" in row:
        original = row["form"] in ("original", "heldout")
        series, name = (row["form"], "seeds") if original else (FORMS, row["form"])
    elif "start" in row:
        if row.get("steps") is None:
            return None
        series, name = f"polished {row['start']}", f"{row['steps']} steps"
    elif row.get("method"):
        series = name = short_name(row["method"])
    else:
        return None
    return {**row, "series": series, "name": name}


if __name__ == "__main__":
    run_cli(lambda arguments, **_: main(arguments), "frontier")
