"""Runs command lines as forks of one process that has imported the heavy libraries, but not huggingface_hub: that reads
its environment when it is imported.

A JSON object per line on stdin, another in answer. {"argv": [...], "environment": {...}, "folder": PATH, "out": PATH,
"err": PATH, "limit": BYTES or null, "patch": {"zoo.hub.client.COMMIT_FILES": 2}} starts a command, with files limited
to that many bytes; the answer has its `pid`. {"pid": ...} waits for it; the answer has its `code`. The program is rpg,
rpg-zoo, or python with a source text as its only argument.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from typing import Any

import rpg.cli
import rpg.publish
import zoo.cli
import zoo.hub.publish
import zoo.scoring  # imported before the forks
import zoo.training.collect
from zoo.console import run_cli

SLEEP = time.sleep
LONGEST = 0.05  # seconds that waiting takes here


def start(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ.clear()
        os.environ.update(asked["environment"])
        tempfile.tempdir = None  # it may have been looked up before the fork
        os.chdir(asked["folder"])
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        if asked["limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], resource.RLIM_INFINITY))
        time.sleep = wait_less
        for name, value in asked["patch"].items():
            module, _, attribute = name.rpartition(".")
            setattr(importlib.import_module(module), attribute, value)
        code = run(asked["argv"])
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_less(seconds: float) -> None:
    """Waits in tests are short; how long they would be goes to a file."""
    with open("waited", "a") as file:  # noqa: PTH123
        file.write(f"{seconds}\n")
    SLEEP(min(seconds, LONGEST))


def run(argv: list[str]) -> int:
    sys.argv = argv
    if argv[0] == "python":
        exec(argv[1], {"__name__": "__main__"})  # noqa: S102  # the tests' own text
        return 0
    try:
        run_cli((zoo.cli if argv[0] == "rpg-zoo" else rpg.cli).app, argv[0])
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def main() -> None:
    assert "huggingface_hub" not in sys.modules
    for line in sys.stdin:
        asked = json.loads(line)
        if "pid" in asked:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1])}
        else:
            answer = {"pid": start(asked)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
