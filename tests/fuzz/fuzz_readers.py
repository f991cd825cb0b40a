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
    example = readers.examples()[name]
    (corpus / "example").write_bytes(b"\0" + example)
    (corpus / "choices").write_bytes(b"\1" + bytes(range(64)))
    read = readers.readers(folder)[name]

    def one(data: bytes) -> None:
        structured, data = data[:1] > b"\0" and name not in readers.BINARY, data[1:]
        if structured:  # the bytes choose mutations of the example
            choices = atheris.FuzzedDataProvider(data)
            data = readers.mutated(name, example, lambda n: choices.ConsumeIntInRange(0, n - 1))
        with contextlib.suppress(*readers.OURS):
            read(data)

    atheris.Setup([*sys.argv, "-max_len=65536", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
