"""Trains with `rpg train` in several processes that gloo connects, as `accelerate launch` starts them on CPUs.

    python processes.py COLLECT LAUNCHES

First `rpg-zoo collect` with the arguments COLLECT, then the launches, JSON: [{"count": 2, "arguments": [...],
"environment": {...}}, ...]. With "kill_after": PATH the first process is killed as soon as that file is there. All are
forks of this process, where everything is already imported. Prints the exit codes of each launch as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  # imported before the forks, as all that follows
import diffusers  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
from hasty import measure_little

import rpg.api
import rpg.cli
import rpg.evaluation
import rpg.methods.rpg.train
import zoo.cli
import zoo.networks.classifiers
import zoo.tasks.classification
from zoo.console import run_cli

TIMEOUT = 120.0
LONGEST = 300  # seconds until the first process ends with SIGALRM, if something hangs


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fork(app: Any, argv: list[str], environment: dict[str, str]) -> int:
    """Run a command in a child; returns its process id."""
    child = os.fork()
    if child:
        return child
    os.environ |= environment
    sys.argv = argv
    try:
        run_cli(app, argv[0])
    except SystemExit as exit:
        os._exit(int(exit.code or 0))
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def run(launch: dict[str, Any]) -> list[int]:
    shared = {"WORLD_SIZE": str(launch["count"]), "LOCAL_WORLD_SIZE": str(launch["count"])}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **launch.get("environment", {})}
    argv = ["rpg", "train", *launch["arguments"]]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(launch["count"])]
    children = [fork(rpg.cli.app, argv, shared | rank) for rank in ranks]
    if "kill_after" in launch:
        state, end = Path(launch["kill_after"]), time.monotonic() + TIMEOUT
        while not state.is_file() and time.monotonic() < end:
            time.sleep(0.001)
        if not state.is_file():
            for child in children:
                os.kill(child, signal.SIGKILL)
            sys.exit(f"no {state} to kill at: {[wait(child) for child in children]}")
        os.kill(children[0], signal.SIGKILL)
    return [wait(child) for child in children]


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(collect: str, launches: str) -> None:
    signal.alarm(LONGEST)
    measure_little()
    if wait(fork(zoo.cli.app, ["rpg-zoo", "collect", *collect.split()], {})):
        sys.exit("collecting failed")
    print(json.dumps([run(launch) for launch in json.loads(launches)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
