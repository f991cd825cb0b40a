"""`index.parquet`: a row per checkpoint, for people and viewers. pyarrow is imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.files import atomic_path
from zoo.manifest import Entry


def write_index(path: Path, entries: Sequence[Entry]) -> None:
    """A row per checkpoint, as a parquet file."""
    import pyarrow
    import pyarrow.parquet

    metrics = sorted({name for entry in entries for name in entry.metrics})
    rows = [
        entry.model_dump(include={"id", "file", "row", "sha256", "seed", "step", "split", "condition"})
        | {"parents": list(entry.parents)}
        | {name: entry.metrics[name].value if name in entry.metrics else None for name in metrics}
        for entry in entries
    ]
    types = {
        "row": pyarrow.int64(),
        "seed": pyarrow.int64(),
        "step": pyarrow.int64(),
        "parents": pyarrow.list_(pyarrow.string()),
    }
    columns = list(rows[0]) if rows else []
    schema = pyarrow.schema(
        [(name, pyarrow.float64() if name in metrics else types.get(name, pyarrow.string())) for name in columns]
    )
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary)


def open_parquet(path: Path | str) -> Any:
    """A parquet file, of which nothing but its layout has been read. Raises what pyarrow raises."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path)
