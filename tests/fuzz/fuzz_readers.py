"""Fuzz the readers of other people's files with atheris (`pip install atheris`), by hand:

    python tests/fuzz/fuzz_readers.py manifest -max_total_time=600 -rss_limit_mb=3000 -timeout=20

The first argument names a reader (readers.py), the others are libFuzzer's. It stops at the first input that a reader
answers with an exception that is not ours, with too much memory or too late, and writes that input to a file.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["zoo", "rpg"]):
    import readers


def main() -> None:
    name = sys.argv.pop(1)
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "example").write_bytes(readers.examples()[name])
    read = readers.readers(folder)[name]

    def one(data: bytes) -> None:
        with contextlib.suppress(*readers.OURS):
            read(data)

    atheris.Setup([*sys.argv, "-max_len=65536", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
