"""The paper's four sizes of the generator (Table 12): what they are for, and how many parameters the paper counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rpg.methods.rpg.config import GeneratorConfig


@dataclass(frozen=True)
class Size:
    """A column of Table 12. It is adequate for networks of `smallest` to `largest` parameters (an empirical range);
    `recurrent` and `denoiser` are the paper's parameter counts, in millions as printed there.
    """

    name: str
    smallest: float
    largest: float
    widths: tuple[int, ...]
    d_state: int
    token_size: int
    channels: tuple[int, ...]
    recurrent: str
    denoiser: str


NARROW, WIDE = (1, 32, 64, 128, 64, 32, 1), (1, 64, 96, 64, 1)
SIZES = (
    Size("RPG-Tiny", 0, 50e3, (256, 256), 32, 256, NARROW, "1.3", "0.3"),
    Size("RPG-Small", 50e3, 10e6, (4096, 4096), 128, 4096, NARROW, "256", "17"),
    Size("RPG-Base", 5e6, 50e6, (8192, 8192), 128, 8192, NARROW, "1018", "69"),
    Size("RPG-Large", 50e6, math.inf, (12288, 16384), 128, 16384, WIDE, "3076", "273"),
)
CHECKPOINTS = 50  # of the paper's zoos (Table 11)


def adequate_sizes(parameters: int) -> list[str]:
    """The sizes that Table 12 calls adequate for a network with this many parameters; the ranges overlap."""
    return [size.name for size in SIZES if size.smallest <= parameters <= size.largest]


def size_of(config: GeneratorConfig) -> Size | None:
    """The size that has this architecture, if any has."""
    mine = (config.widths, config.d_state, config.token_size, config.channels)
    if (config.recurrent, config.d_conv, config.expand, config.kernel_size) != ("mamba", 4, 2, 7):
        return None
    return next((s for s in SIZES if (s.widths, s.d_state, s.token_size, s.channels) == mine), None)


def beside_the_paper(config: GeneratorConfig, recurrent: int, denoiser: int) -> list[str]:
    """Parameter counts beside those of Table 12, a line each, with the reason where they differ."""
    size = size_of(config)
    if size is None:
        return ["no column of Table 12 has this architecture"]
    everything = recurrent + denoiser + CHECKPOINTS * size.widths[0]
    return [
        f"recurrent {recurrent / 1e6:.2f}M, in the paper {size.recurrent}M: the paper counts the denoiser and "
        f"{CHECKPOINTS} learned permutation states in; with them {everything / 1e6:.2f}M here, "
        f"{_agreement(everything, size.recurrent)}",
        f"denoiser {denoiser / 1e6:.2f}M, in the paper {size.denoiser}M: {_agreement(denoiser, size.denoiser)}",
    ]


def _agreement(count: int, printed: str) -> str:
    digits = len(printed.partition(".")[2])
    unit = 10.0**-digits
    if f"{count / 1e6:.{digits}f}" == printed:
        return "the same number, rounded"
    if f"{count / 1e6 // unit * unit:.{digits}f}" == printed:
        return "the same number, cut off"
    return "another number"
