"""Runs the commands of a chain twice: in `whole` undisturbed, and in `killed` with SIGKILL for each of them at random
moments, after which it is started again. In the end both hold the same files, to the byte, or it exits with 1.

    python killer.py SEED KILLS RECIPE [CHAIN | GROUP_VALUES]

Chains are in CHAINS; of `reproduce` RECIPE is the file of a table. With GROUP_VALUES networks are generated in windows
of that many values and stored in files of their own, and only generating is killed.
Commands run in forks of this process, where everything is already imported, and hardly measure how fast the machine is,
so that the kills fall into their work. The moments are drawn from half the time that the command took undisturbed: on a
fast machine, too, it takes several.
Prints a line for every command, and at last how many kills there were.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import accelerate  # noqa: F401  # imported so that no kill falls into it, as all that follows
import diffusers  # noqa: F401
import jinja2  # noqa: F401
import matplotlib.figure  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import timm  # noqa: F401
import torch

import rpg.cli
import rpg.demo
import rpg.evaluation
import rpg.methods.rpg.generate
import rpg.reports.stage
import rpg.reproduce.paper
import rpg.reproduce.stage
import rpg.reproduce.sweeping
import zoo.cli
import zoo.derive.align
import zoo.derive.split
import zoo.formats.exporting
import zoo.formats.importing
import zoo.networks.classifiers
import zoo.symmetry.tracing
import zoo.tasks.classification
import zoo.writer
from zoo.console import run_cli

sys.path.insert(0, str(Path(__file__).parents[1]))
from hasty import measure_little  # as tests find it

from learning import content

APPS = {"rpg-zoo": zoo.cli.app, "rpg": rpg.cli.app}
LEARN = (
    "rpg-zoo collect RECIPE --out zoo",
    "rpg train RECIPE --zoo zoo --out run",
    "rpg generate run --out generated",
)
IMPORT = (
    "rpg-zoo import ../src --out zoo",
    "rpg-zoo split zoo --holdout published --out split",
)
DERIVE = (
    "rpg-zoo perturb zoo --kind noise --out noised",
    "rpg-zoo perturb zoo --kind soup --of 3 --out soups",
    "rpg-zoo perturb zoo --kind gaussian --out gaussian",
    "rpg-zoo align zoo --restarts 1 --out aligned",
    "rpg-zoo align aligned --undo --out original",
    "rpg-zoo export zoo seed00000-0000 --format timm --out exported",
)
REPORT = (
    "rpg-zoo score zoo --out scores",
    "rpg eval generated --task RECIPE --out evaluated",
    "rpg report generated --run run --out report",
)
CHAINS = {
    "learn": (LEARN[:1], LEARN[1:]),
    "collect": ((), LEARN[:1]),
    "import": ((), IMPORT),
    "derive": ((), LEARN[:1] + DERIVE),
    "report": (LEARN, REPORT),
    "reproduce": ((), ("rpg reproduce table",)),
    "sweep": ((), ("rpg sweep RECIPE --grid method.train.steps=20,30 --seeds 2",)),
}
"""Commands that are run first, and those that are killed."""


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
            traceback.print_exc()
            os._exit(99)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def kill_command(argv: list[str], kills: int, rng: random.Random) -> int:
    """Run it in `whole`, and in `killed` until it ends by itself; how often it was killed. Exits with 1 when it failed
    or left anything else.
    """
    start = time.monotonic()
    codes = [run(argv, "whole")]
    longest = (time.monotonic() - start) / 2
    codes += [run(argv, "killed", rng.uniform(0, longest)) for _ in range(kills)]
    codes.append(run(argv, "killed"))
    if codes[0] != 0 or codes[-1] != 0 or not set(codes) <= {None, 0}:
        sys.exit(f"{argv} failed: {codes}")
    expected, found = content(Path("whole")), content(Path("killed"))
    if odd := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        sys.exit(f"{argv} left other files after {codes.count(None)} kills: {odd}")
    return codes.count(None)


def main(seed: str, kills: str, recipe: str, chain: str = "learn") -> None:
    before, commands = CHAINS.get(chain, (LEARN[:2], LEARN[2:]))
    if chain not in CHAINS:
        rpg.methods.rpg.generate.GROUP_VALUES, zoo.writer.STACK_BELOW = int(chain), 0
    if chain == "import":
        write_source(Path("src"))
    if chain == "reproduce":
        rpg.reproduce.paper.table_names = lambda: {"table": Path(recipe)}
    measure_little()
    rpg.reports.stage.provenance_of = lambda command: {"command": " ".join(command)}  # without the date
    Path("whole").mkdir()
    for command in before:
        if run(command.replace("RECIPE", recipe).split(), "whole") != 0:
            sys.exit(f"{command} failed")
    shutil.copytree("whole", "killed")
    rng = random.Random(int(seed))  # noqa: S311  # moments to kill at, not secrets
    killed = 0
    for command in commands:
        argv = command.replace("RECIPE", recipe).split()
        count = kill_command(argv, int(kills), rng)
        print(f"seed {seed}: {command}: the same bytes after {count} kills")
        killed += count
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
