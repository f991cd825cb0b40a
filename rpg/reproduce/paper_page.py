"""The page that says of every table and figure: which command, how far it is reproduced, what differs."""

from __future__ import annotations

from pathlib import Path

from rpg.reproduce.paper import PaperTable, Small, load_table
from rpg.reproduce.result import RESULT, Result, place_of, side_by_side
from zoo.files import read_limited
from zoo.names import table_names
from zoo.table import Record, Table, markdown_text

RESULT_BYTES = 2**24
INTRODUCTION = """\
# The paper, table by table

`rpg reproduce all --small` writes this page. Each table and figure of the paper is a file of `recipes/tables/` and one
command; `--small` fills the same grid with small networks of the same families on two cores, whose numbers are not the
paper's. *Measured*: in full. *Runs in small*: its small version was made with this code, the full one was not. A
*deviation* is the mean distance of a full table's numbers from the printed ones.
"""


def read_result(name: str, small: bool, out: Path) -> Result | None:
    """What was written of a table, if it was. Raises Corrupt for a damaged file."""
    path = place_of(out, Result(name=name, small=small, cells=())) / RESULT
    return Result.parse(read_limited(path, RESULT_BYTES), path) if path.is_file() else None


def status(table: PaperTable, full: Result | None, small: Result | None, error: str | None) -> str:
    """How far a table is reproduced, in a few words."""
    if full:
        return "measured" if full.complete else "measured in part"
    if error:
        return f"failed: {error}"
    if small:
        return "runs in small" if small.complete else "runs in small, in part"
    return "not run yet" if isinstance(table.small, Small) else f"needs a GPU: {table.small}"


def paper_page(out: Path, errors: dict[str, str]) -> str:
    """The page as Markdown: one table of all, then what was found. `errors` are those of tables that failed."""
    records: list[Record] = []
    found = []
    for name in table_names():
        table = load_table(name)
        full, small = (read_result(name, small, out) for small in (False, True))
        records.append(
            {
                "": name,
                "what": table.title,
                "command": f"rpg reproduce {name}",
                "status": status(table, full, small, errors.get(name)),
                "deviation": full.deviation if full else None,
                "what differs": table.differs,
            }
        )
        best = full or small
        if best:
            grid = side_by_side(table, best).markdown()
            found.append(f"## {markdown_text(table.title)}\n\n`{best.command}`\n\n{grid}")
            if best.small and isinstance(table.small, Small):
                found.append(markdown_text(table.small.differs))
    return "\n\n".join([INTRODUCTION.rstrip(), Table.of(records).markdown(), *found]) + "\n"
