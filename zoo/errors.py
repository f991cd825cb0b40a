"""What can go wrong for a user, by exit code of the command-line contract.

| exception       | exit | meaning                                                          |
|-----------------|------|------------------------------------------------------------------|
| `ValueError`    | 2    | bad input: what was given, what was expected, what to type       |
| `Corrupt`       | 1    | a file is not what its manifest says                             |
| `Failed`        | 1    | the work ran and its outcome is bad (NaN loss, full disk)        |
| `MissingExtra`  | 3    | an optional library is not installed                             |
| `MissingData`   | 4    | data or weights are not there                                    |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Corrupt(Exception):
    """A file on disk is not what its manifest says: truncated, changed, swapped or foreign."""


class Failed(Exception):
    """The work ran and its outcome is bad; what was finished before is kept."""


class MissingExtra(Exception):
    """An optional library is not installed; the message names the extra and the install line."""


class MissingData(Exception):
    """Data or weights are not there; the message gives the expected layout and where they come from."""


def brief(error: BaseException, limit: int = 200) -> str:
    """What an exception says, in one line of at most `limit` characters, to quote in a message of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def suggest(given: str, known: Iterable[str]) -> str:
    """`; did you mean X?` or a list of what is known, to end an error message with."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if len(known) <= 30 else ""
