"""What making an artefact took: time, memory, and what computed. A record for people, and no part of any identity."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from zoo import cuda
from zoo.errors import Corrupt
from zoo.files import read_limited, write_bytes
from zoo.structure import Frozen

Label = Annotated[str, Field(max_length=200, pattern=r"^[ -~]*$")]
RECORD_BYTES = 2**16


class Spent(Frozen):
    """Seconds, of interrupted calls too, up to their last saved state; the most bytes that the device gave and that the
    process had in memory; steps of training, or networks made, per second; the device; which scan and which attention
    ran, where the method has them, and whether training recomputed.
    """

    seconds: NonNegativeFloat
    device: Label
    host_bytes: NonNegativeInt
    device_bytes: NonNegativeInt | None = None
    steps_per_second: NonNegativeFloat | None = None
    networks_per_second: NonNegativeFloat | None = None
    scan: Label | None = None
    attention: Label | None = None
    recompute: bool | None = None

    def text(self) -> str:
        """In a line."""
        memory = f"{self.host_bytes / 1e9:.2f} GB of the host"
        if self.device_bytes is not None:
            memory = f"{self.device_bytes / 1e9:.2f} GB of the device, {memory}"
        rates = {"steps": self.steps_per_second, "networks": self.networks_per_second}
        rate = "".join(f", {value:.3g} {what} a second" for what, value in rates.items() if value is not None)
        kinds = {"scan": self.scan, "attention": self.attention}
        which = [f"{name}: {kind}" for name, kind in kinds.items() if kind is not None]
        which += ["recomputing"] * bool(self.recompute)
        return "; ".join([f"{self.seconds:.1f} s on {self.device}{rate}", memory, *which])


class Stopwatch:
    """Measures a stage from here on. What interrupted calls took is kept in `path` by `save`, and added."""

    def __init__(self, device: torch.device, path: Path | None = None) -> None:
        self.device, self.path = device, path
        self.start = time.perf_counter()
        self.before = self._read()
        self.noted: dict[str, Any] = {}
        cuda.reset_peak(device)

    @property
    def seconds(self) -> float:
        """Of this call."""
        return time.perf_counter() - self.start

    def note(self, **facts: float | str | bool) -> None:
        """Say what is known but to the method: fields of Spent."""
        self.noted |= facts

    def spent(self) -> Spent:
        """Everything so far."""
        seconds, host, held = self.seconds, host_peak(), cuda.peak(self.device)
        if self.before:
            seconds += self.before.seconds
            host = max(host, self.before.host_bytes)
            held = None if held is None else max(held, self.before.device_bytes or 0)
        return Spent(
            seconds=round(seconds, 3),
            device=cuda.name_of(self.device),
            host_bytes=host,
            device_bytes=held,
            **self.noted,
        )

    def save(self) -> None:
        """Keep what was spent so far, for the call that continues this one."""
        assert self.path is not None
        write_bytes(self.path, self.spent().to_json().encode())

    def _read(self) -> Spent | None:
        """What earlier calls spent; nothing where that is damaged: nobody needs it to go on."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            return Spent.parse(read_limited(self.path, RECORD_BYTES), self.path)
        except Corrupt:
            return None


def host_peak() -> int:
    """The most bytes that this process has had in memory since it began."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
