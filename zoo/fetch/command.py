"""`rpg-zoo fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.command_help import MAKE, data_sets, examples
from zoo.console import emit, plain, say
from zoo.options import DryRun, Json
from zoo.program import app

if TYPE_CHECKING:
    from zoo.fetch.pieces import Found, Piece
    from zoo.fetch.sets import DataSet

Name = Annotated[
    str,
    typer.Argument(metavar="DATA", help="ade20k, coco, imagenet or commonsense.", autocompletion=data_sets),
]
Root = Annotated[Path, typer.Argument(metavar="DIR", help="Where data sets are: what --data-root names.")]


@app.command(
    rich_help_panel=MAKE,
    epilog=examples("rpg-zoo fetch ade20k DIR --dry-run", "rpg-zoo fetch coco DIR", "rpg-zoo fetch commonsense DIR"),
)
def fetch(name: Name, root: Root, dry_run: DryRun = False, as_json: Json = False) -> int:
    """Get a data set from where it was published, check it, and lay it out for --data-root. Run it again to continue.

    With --dry-run, say what is there and what is missing, from where, how large, checked how, and under which terms.
    """
    from zoo.fetch.sets import data_set

    wanted = data_set(name)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; expected a directory to put {name} into")
    found = [piece.look(root) for piece in wanted.pieces]
    if not dry_run:
        get(wanted, root, found)
        found = [piece.look(root) for piece in wanted.pieces]
    rows = [row(piece, one) for piece, one in zip(wanted.pieces, found, strict=True)]
    complete = all(one.state == "there" for one in found)
    result = {"data": name, "out": str(root), "complete": complete, "pieces": rows}
    emit({**result, "page": wanted.page, "terms": wanted.terms}, as_json, text(wanted, root, rows, complete))
    return 0 if complete or dry_run else 1


def get(wanted: DataSet, root: Path, found: list[Found]) -> None:
    """Get what is missing, a piece after the other. Raises ValueError for what is there and is something else, Failed
    for a disk that is too small; before any work.
    """
    from zoo.fetch.archives import check_room

    pairs = list(zip(wanted.pieces, found, strict=True))
    for piece, one in pairs:
        if one.state == "differs":
            raise ValueError(
                f"{root / piece.place} is there, but not as {piece.source} has it: {one.note}; move it away and run "
                "the same command again"
            )
    check_room(root, room(found), wanted.name)
    missing = [piece for piece, one in pairs if one.state != "there"]
    if missing:
        say(f"{wanted.name}: {plain(wanted.terms)}; {wanted.page}")
    for piece in missing:
        piece.get(root)


def room(found: list[Found]) -> int:
    """The most bytes that getting these takes at any time: archives are removed as soon as they are unpacked."""
    kept = most = 0
    for one in found:
        most = max(most, kept + one.download + one.unpacked)
        kept += one.unpacked or one.download
    return most


def row(piece: Piece, found: Found) -> dict[str, Any]:
    """A piece and what of it is there, as plain values."""
    about = {"place": piece.place, "state": found.state, "note": found.note, "bytes": piece.bytes, "exact": piece.exact}
    return {**about, "missing_bytes": found.download, "source": piece.source, "checked_by": piece.checked_by}


def text(wanted: DataSet, root: Path, rows: list[dict[str, Any]], complete: bool) -> str:
    """The same for people."""
    from zoo.table import Table

    shown = [
        {
            "place": one["place"],
            "state": one["state"] + (f" ({one['note']})" if one["note"] else ""),
            "size": ("" if one["exact"] else "about ") + size(one["bytes"]),
            "checked by": one["checked_by"],
        }
        for one in rows
    ]
    missing = sum(one["missing_bytes"] for one in rows)
    last = f"{wanted.name} is whole: --data-root {root}" if complete else f"{size(missing)} to download into {root}"
    sources = "\n".join(f"from {one['source']}" for one in rows)
    return f"{Table.of(shown).text()}\n{sources}\nterms: {wanted.terms}; {wanted.page}\n{last}"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
