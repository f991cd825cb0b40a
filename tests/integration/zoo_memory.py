"""Makes a zoo of COUNT networks of VALUES values at PLACE, goes through it and makes networks of it; prints
how far resident memory rose meanwhile, in bytes.

    python zoo_memory.py COUNT VALUES PLACE

Columns hold 2**18 values of all networks together here, so that what depends on the size of the zoo shows beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import zoo.derive.mixtures
import zoo.writer
from zoo.derive.mixtures import gram_of
from zoo.derive.perturb import PerturbConfig, perturb
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
VALUES = 2**18


def main(count: int, values: int, place: Path) -> None:
    zoo.writer.STACK_BELOW = 0  # a file for each network, as for large ones
    zoo.derive.mixtures.COLUMN_VALUES = VALUES
    made = make(count, values, place)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which was that of the imports, is forgotten
    before = resident("VmRSS")
    for column in made.columns(made.entries, VALUES):
        assert column.block.numel() <= VALUES
    gram_of(made, made.entries)
    for kind in ("noise", "soup", "gaussian"):
        config = PerturbConfig.model_validate({"kind": kind, "n": 3})
        perturb(config, made, made.entries, ORIGIN, place.with_name(f"{place.name}-{kind}"))
    print(resident("VmHWM") - before)


def make(count: int, values: int, place: Path) -> Zoo:
    """Opened anew, so that nothing is known of its files."""
    rng = torch.Generator().manual_seed(0)

    def network(seed: int) -> dict[str, torch.Tensor]:
        return {
            "weight": torch.randn(values, generator=rng),
            "norm.running_var": torch.rand(100, generator=rng),
            "steps": torch.tensor(seed),
        }

    with ZooWriter(place, ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(count):
            writer.add(f"net-{seed:03d}", network(seed), seed=seed, split="train")
        writer.finish()
    return Zoo.open(place)


def resident(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
