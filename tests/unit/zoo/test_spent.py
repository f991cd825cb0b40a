"""What making an artefact took is on record, and no part of what it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from zoo.errors import Corrupt
from zoo.links import link_zoo
from zoo.manifest import Manifest, Origin
from zoo.spent import Spent, Stopwatch, host_peak
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

CPU = torch.device("cpu")
NETWORK = {"weight": torch.arange(6.0)}


def write(path: Path, watched: bool) -> Zoo:
    origin = Origin(name="toy", kind="generated", command=("x",), versions={})
    with ZooWriter(path, origin, Structure.of(NETWORK)) as writer:
        if watched:
            writer.stopwatch = Stopwatch(CPU)
            writer.stopwatch.note(scan="pytorch", steps_per_second=2.0)
        writer.add("a", NETWORK, seed=0, split="generated")
        return writer.finish()


def test_what_it_took_changes_no_identity(tmp_path: Path) -> None:
    plain, watched = write(tmp_path / "plain", False), write(tmp_path / "watched", True)
    assert "spent" not in (tmp_path / "plain/manifest.json").read_text()
    assert plain.manifest.spent is None
    spent = watched.manifest.spent
    assert spent is not None
    assert (spent.scan, spent.steps_per_second, spent.device, spent.attention) == ("pytorch", 2.0, "cpu", None)
    assert spent.seconds > 0
    assert watched.sha256 == plain.sha256
    assert Zoo.open(tmp_path / "watched").manifest == watched.manifest
    linked = link_zoo(watched, tmp_path / "linked")
    assert (linked.sha256, linked.manifest.spent) == (plain.sha256, None)
    assert (tmp_path / "linked/manifest.json").read_bytes() == (tmp_path / "plain/manifest.json").read_bytes()


def test_a_call_that_continues_another_adds_to_what_it_took(tmp_path: Path) -> None:
    first = Stopwatch(CPU, tmp_path / "spent.json")
    time.sleep(0.05)
    first.save()
    second = Stopwatch(CPU, tmp_path / "spent.json")
    assert second.spent().seconds >= 0.05
    assert second.seconds < second.spent().seconds
    (tmp_path / "spent.json").write_text("{")
    assert Stopwatch(CPU, tmp_path / "spent.json").before is None


def test_memory_of_the_host_is_that_of_the_process() -> None:
    filled = torch.ones(10**8)  # 400 MB
    assert host_peak() > filled.nbytes
    assert Stopwatch(CPU).spent().device_bytes is None


def test_text_says_everything_in_a_line() -> None:
    of_device = {"device": "H100", "device_bytes": 2 * 10**9, "scan": "mamba-ssm", "recompute": True}
    text = Spent.model_validate({"seconds": 1.5, "host_bytes": 10**9, **of_device}).text()
    for words in ("1.5 s on H100", "2.00 GB of the device, 1.00 GB of the host", "scan: mamba-ssm", "recomputing"):
        assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("spent", [{"seconds": -1, "device": "x", "host_bytes": 1}, {"seconds": 1, "device": "\x1b"}])
def test_what_others_wrote_is_checked(tmp_path: Path, spent: dict[str, object]) -> None:
    text = json.loads(write(tmp_path / "zoo", True).file("manifest.json").read_text())
    with pytest.raises(Corrupt, match="spent"):
        Manifest.parse(json.dumps(text | {"spent": {"host_bytes": 1, **spent}}), "manifest.json")
