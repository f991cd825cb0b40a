"""What tests of publishing share: zoos to publish, and a user of the command lines with a token and a loopback Hub."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hub_server import TOKEN, HubServer

from killing import content
from zoo.recipe import load_recipe
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ROOT = Path(__file__).parents[2]
ORIGIN = load_recipe("digits").collected(("rpg-zoo", "collect", "digits"))


def make_zoo(path: Path, count: int = 6, values: int = 2000, seed: int = 0) -> Zoo:
    """A zoo in one stack, with two splits."""
    generator = torch.Generator().manual_seed(seed)
    nets = [
        {"w": torch.randn(values, generator=generator), "b": torch.randn(3, generator=generator)} for _ in range(count)
    ]
    with ZooWriter(path, ORIGIN, Structure.of(nets[0])) as writer:
        for i, net in enumerate(nets):
            writer.add(f"net-{i}", net, seed=i, split="unseen" if i % 3 == 0 else "train")
        return writer.finish()


class Forks:
    """The process of hub_forks.py."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hub_forks.py"))],
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, **asked: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


forks = cache(Forks)


class Client:
    """Runs commands against a server, as a user with a token would."""

    def __init__(self, server: HubServer, place: Path) -> None:
        self.server, self.place = server, place
        self.printed = ""
        (place / "tmp").mkdir()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(place / "hf"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "0" if server.xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",  # instead of 3 s
            "TMPDIR": str(place / "tmp"),
        }

    def start(self, *argv: str, limit: int | None = None, **patch: Any) -> int:
        """Start a command; returns its process id."""
        names = {"folder": self.place, "out": self.place / "stdout", "err": self.place / "stderr"}
        asked = {name: str(path) for name, path in names.items()}
        patch = {name.replace("__", "."): value for name, value in patch.items()}
        return int(forks().ask(argv=argv, environment=self.environment, limit=limit, patch=patch, **asked)["pid"])

    def wait(self, pid: int) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that was started."""
        code = int(forks().ask(pid=pid)["code"])
        out, err = ((self.place / name).read_text() for name in ("stdout", "stderr"))
        self.printed += out + err
        return code, out, err

    def ok(self, command: str, **options: Any) -> Any:
        """The JSON that a command answers."""
        code, out, err = self.wait(self.start(*command.split(), "--json", **options))
        assert code == 0, err
        return json.loads(out)

    def fails(self, command: str, code: int, *words: str, **options: Any) -> None:
        """The command ends with this code and one line of explanation, with these words."""
        found, out, err = self.wait(self.start(*command.split(), **options))
        assert (found, out) == (code, ""), (found, out, err)
        lines = [line for line in err.splitlines() if line.startswith(("rpg:", "rpg-zoo:"))]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        assert [word for word in words if word not in lines[0]] == [], lines[0]

    def python(self, source: str) -> str:
        """What a program of somebody else prints."""
        code, out, err = self.wait(self.start("python", source))
        assert code == 0, err
        return out.strip()

    def waited(self) -> list[float]:
        """For how long commands would have waited, in seconds, one after the other."""
        path = self.place / "waited"
        return [float(line) for line in path.read_text().split()] if path.exists() else []


@contextmanager
def serving(xet: Path | None = None) -> Iterator[HubServer]:
    server = HubServer()
    server.xet = xet
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def using(server: HubServer, place: Path) -> Iterator[Client]:
    """A client with a zoo to publish at `place`/zoo; in the end its token must be nowhere but in its environment."""
    server.sources = place
    make_zoo(place / "zoo")
    client = Client(server, place)
    yield client
    assert TOKEN not in client.printed
    files = [path for path in place.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    pushed = [data for repo in server.repos.values() for _, files in repo.commits for data in files.values()]
    assert not any(TOKEN.encode() in data for data in pushed)


def head(server: HubServer, name: str = "datasets/user/zoo", branch: str = "main") -> dict[str, bytes]:
    found = server.repos[name].at(branch)
    assert found
    return found[1]


def complete(server: HubServer, place: Path, branch: str = "main") -> None:
    """The repository holds the zoo, and every commit with a manifest holds all that the manifest names."""
    held = {name: data for name, data in head(server, branch=branch).items() if name != "README.md"}
    assert held == content(place / "zoo")
    for _, files in server.repos["datasets/user/zoo"].commits:
        if "manifest.json" in files:
            listed = json.loads(files["manifest.json"])["files"]
            assert all(hashlib.sha256(files[name]).hexdigest() == record["sha256"] for name, record in listed.items())
