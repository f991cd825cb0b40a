"""SIGKILL of what publishes and fetches, at random moments: the same command ends with the same files, there and here.

That at certain moments nothing is sent twice is in test_hub_faults.py.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from hub_client import Client, complete, head, make_zoo, serving, using
from hub_server import HubServer

from killing import content

PATIENCE = 60.0  # seconds until a command must have asked the server for something, or ended
PUSH = "rpg-zoo push zoo user/zoo"
PUSH_RUN = "rpg push run user/run --license mit"
PULL = "rpg-zoo pull user/zoo --out back"
PULL_PART = "rpg-zoo pull user/zoo --select split==unseen --out back"


def killed(client: Client, command: str, after: int, delay: float) -> bool:
    """Start a command and kill it a moment after so many requests; whether it was still there."""
    log = client.server.log
    seen, end = len(log), time.monotonic() + PATIENCE
    process = client.start(*command.split())
    while len(log) < seen + after and time.monotonic() < end and not ended(process):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)  # which somebody who has ended, but is not waited for, does not notice
    code, _, err = client.wait(process)
    assert code in (0, -signal.SIGKILL), err
    return code != 0


def ended(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def files(command: str, server: HubServer, place: Path) -> dict[str, bytes]:
    """What the command made."""
    if command == PUSH:
        complete(server, place)
    repository = {PUSH: "datasets/user/zoo", PUSH_RUN: "models/user/run"}.get(command)
    return head(server, repository) if repository else content(place / "back")


def forget(command: str, client: Client, place: Path) -> None:
    """Nothing is left of what the command made, nor in the client's cache."""
    shutil.rmtree(client.place / "hf", ignore_errors=True)
    shutil.rmtree(place / "back", ignore_errors=True)
    if command in (PUSH, PUSH_RUN):
        for held in (client.server.repos, client.server.objects, client.server.parts):
            held.clear()


def kill_and_compare(client: Client, place: Path, seed: int, kills: int) -> int:
    """Each command undisturbed and then killed again and again; how many kills there were."""
    rng = random.Random(seed)  # noqa: S311  # moments to kill at, not secrets
    server, count = client.server, 0
    shutil.rmtree(place / "zoo")
    make_zoo(place / "zoo", values=12_000)  # a file of several parts
    client.ok("rpg train --zoo zoo --method gaussian --out run")
    for command in (PUSH_RUN, PUSH, PULL, PULL_PART):
        forget(command, client, place)
        seen = len(server.log)
        client.ok(command)
        requests = len(server.log) - seen
        expected = files(command, server, place)
        forget(command, client, place)
        for _ in range(kills):
            count += killed(client, command, rng.randint(1, requests), rng.uniform(0, 0.03))
        client.ok(command)
        assert files(command, server, place) == expected
    return count


@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 2), *(pytest.param(seed, 20, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_killed_pushes_and_pulls_end_with_the_same_files(tmp_path, seed, kills):
    with serving() as server, using(server, tmp_path) as client:
        assert kill_and_compare(client, tmp_path, seed, kills) >= kills
