"""Generates one network of VALUES values into PLACE; prints how far resident memory rose meanwhile, in bytes.

    python memory.py VALUES PLACE

The prototypes take no memory here, so that what remains is that of sampling, decoding and writing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

import rpg.methods.rpg.generate
import rpg.methods.rpg.windows
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.learnt import RPGRecord
from rpg.methods.rpg.models.denoiser import Denoiser
from rpg.tokens.layout import Layout, TensorLayout
from zoo.manifest import Origin
from zoo.structure import Structure, TensorSpec
from zoo.writer import ZooWriter

TOKEN_SIZE = 1024


def main(values: int, place: Path) -> None:
    rpg.methods.rpg.generate.GROUP_VALUES = rpg.methods.rpg.windows.GROUP_VALUES = 2**19
    tokens = -(-values // TOKEN_SIZE)
    spec = TensorSpec(name="weight", shape=(1, values), dtype="float32", kind="float")
    where = TensorLayout(
        **spec.model_dump(exclude={"tied_to"}), mean=0.0, std=1.0, log_scale=None, first_token=0, num_tokens=tokens
    )
    layout = Layout(token_size=TOKEN_SIZE, structure=Structure(tensors=(spec,)), tensors=(where,))

    def prototypes(states: Tensor) -> Tensor:
        return torch.zeros(1, 1, 1).expand(1, tokens, TOKEN_SIZE)

    run = SimpleNamespace(
        record=lambda: SimpleNamespace(networks=("0" * 64,), origin=SimpleNamespace(name="x")), constants=dict
    )
    learnt = SimpleNamespace(
        run=run,
        layout=lambda: layout,
        values=lambda layout: None,
        record=lambda: RPGRecord(num_parameters=1, files={}),
        config=lambda: RPGConfig(name="rpg"),
        generator=lambda device: SimpleNamespace(
            denoiser=Denoiser(TOKEN_SIZE, (1, 2, 1), 3).eval(), prototypes=prototypes, readout=None
        ),
    )
    rpg.methods.rpg.generate.Learnt = lambda run: learnt  # type: ignore[misc,assignment]
    origin = Origin(name="x", kind="generated", command=("x",), versions={})
    config = GenerateConfig(n=1, steps=1, sampler="ddim")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which was that of the imports, is forgotten
    before = resident("VmRSS")
    with ZooWriter(place, origin, layout.structure) as writer:
        rpg.methods.rpg.generate.draw(run, config, writer, torch.device("cpu"))  # type: ignore[arg-type]
        writer.finish()
    print(resident("VmHWM") - before)


def resident(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
