"""Runs Python programs as forks of one process that has imported the heavy libraries: they take seconds each time.

Tests start a `Program`. The process has a JSON object per line on stdin, and answers with a number. {"argv": [...],
"folder": PATH, "apart": false} starts a program there, with its output in the files `stdout` and `stderr`; the answer
is its process id (where it is `apart`, that of its process group, too). {"pid": ...} waits for it; the answer is its
exit code. A program is what `python` takes: a file or `-m` and a module, with arguments.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Forks:
    """The process, for tests."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.process.communicate)

    def ask(self, **asked: Any) -> int:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return int(json.loads(self.process.stdout.readline()))


forks = cache(Forks)


class Program:
    """A program that was started in a directory; `apart`: in a process group of its own, which one can send signals."""

    def __init__(self, *argv: str, folder: Path, apart: bool = False) -> None:
        self._folder = folder
        self.pid = forks().ask(argv=argv, folder=str(folder), apart=apart)

    def ended(self) -> bool:
        """Whether it has ended, without waiting for it; `wait` still has to be called."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def wait(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        code = forks().ask(pid=self.pid)
        out, err = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        return code, out, err


def start(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if asked["apart"]:
            os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # even where the tests ignore it
        os.chdir(asked["folder"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        run(asked["argv"])
        code = 0
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(argv: list[str]) -> None:
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__")
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


def main() -> None:
    import killer  # noqa: F401  # with all that it imports, as the next
    import processes  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "pid" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1]), flush=True)
        else:
            print(start(asked), flush=True)


if __name__ == "__main__":
    main()
