"""Collects, trains and generates twice: in `whole` undisturbed, and in `killed` with SIGKILL for every command at
random moments, after which it is started again.

    python killer.py SEED KILLS RECIPE [collect | import | GROUP_VALUES]

With `collect` there is nothing but that. With `import` a zoo is imported from files that are made first, some of which
cannot be taken, and other tasks are held out of it. With GROUP_VALUES networks are generated in windows of that many
values and stored in files of their own, and only generating is killed.
Commands run in forks of this process, where everything is already imported, so that the kills fall into their work. The
moments are drawn from half the time that the command took undisturbed: on a fast machine, too, it takes several.
Prints how many kills there were.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import accelerate  # noqa: F401  # so that no kill falls into its import
import torch

import rpg.cli
import rpg.demo
import rpg.methods.rpg.generate
import zoo.cli
import zoo.derive.split
import zoo.formats.importing
import zoo.networks.classifiers
import zoo.tasks.classification
import zoo.writer
from zoo.console import run_cli

APPS = {"rpg-zoo": zoo.cli.app, "rpg": rpg.cli.app}
COMMANDS = (
    "rpg-zoo collect RECIPE --out zoo",
    "rpg train RECIPE --zoo zoo --out run",
    "rpg generate run --out generated",
)
IMPORTING = (
    "rpg-zoo import ../src --out zoo",
    "rpg-zoo split zoo --holdout published --out split",
)


def write_source(place: Path, count: int = 60) -> None:
    """Checkpoints as RPG's authors name those of binary tasks, two files that are none, one that is there twice."""
    place.mkdir()
    for number in range(250, 250 + count):
        tensors = {name: torch.full((40, 40), float(number)) for name in ("a.weight", "b.weight")}
        torch.save({"state_dict": tensors}, place / f"0001_acc0.9_class{number:04d}_condition_classinput_net.pth")
    torch.save({"state_dict": tensors}, place / "0002_copy.pth")
    torch.save({"c": torch.ones(1)}, place / "0003_other.pth")
    (place / "0004_cut.pth").write_bytes(b"PK")


def run(argv: list[str], place: str, kill_after: float | None = None) -> int | None:
    """Exit code of the command in a directory, or None when it was killed first."""
    child = os.fork()
    if child == 0:
        os.chdir(place)
        sys.argv = argv
        try:
            run_cli(APPS[argv[0]], argv[0])
        except SystemExit as exit:
            os._exit(int(exit.code or 0))
        except BaseException:
            os._exit(99)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main(seed: str, kills: str, recipe: str, group_values: str | None = None) -> None:
    commands = {"collect": COMMANDS[:1], "import": IMPORTING}.get(group_values or "", COMMANDS)
    if group_values == "import":
        write_source(Path("src"))
    group_values = None if group_values in ("collect", "import") else group_values
    if group_values is not None:
        rpg.methods.rpg.generate.GROUP_VALUES, zoo.writer.STACK_BELOW = int(group_values), 0
    rng = random.Random(int(seed))  # noqa: S311  # moments to kill at, not secrets
    killed = 0
    for place in ("whole", "killed"):
        Path(place).mkdir()
    for command in commands:
        argv = command.replace("RECIPE", recipe).split()
        times = int(kills) if group_values is None or "generate" in argv else 0
        start = time.monotonic()
        codes = [run(argv, "whole")]
        longest = (time.monotonic() - start) / 2
        codes += [run(argv, "killed", rng.uniform(0, longest)) for _ in range(times)]
        killed += codes.count(None)
        if run(argv, "killed") != 0 or codes[0] != 0 or not set(codes) <= {None, 0}:
            sys.exit(f"{command} failed: {codes}")
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
