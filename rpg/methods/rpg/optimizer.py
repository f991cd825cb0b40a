"""The optimisers (paper, Table 11). bitsandbytes is imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn

from rpg.methods.rpg.config import TrainConfig
from zoo.errors import MissingExtra

SMALLEST_8BIT, BLOCK = 4096, 256  # bitsandbytes: smaller tensors stay in 32 bits; values that share a scale


def require_optimizer(settings: TrainConfig) -> None:
    """Raise MissingExtra when the optimiser's library is not installed."""
    if settings.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise MissingExtra(
            "method.train.optimizer = adamw8bit needs bitsandbytes: `pip install 'rpg-zoo[opt]'`, "
            "or --set method.train.optimizer=adamw with four times the memory for its moments"
        )


def make_optimizer(settings: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with torch's betas, fused: one pass over the weights, without copies of them. In 8 bits with
    `adamw8bit` (moments quantised in blocks; tensors below 4096 values stay in 32).
    """
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=decay, fused=True)
    import bitsandbytes

    kind = bitsandbytes.optim.AdamW8bit
    return kind(model.parameters(), settings.learning_rate, weight_decay=decay, min_8bit_size=SMALLEST_8BIT)


def moment_bytes(settings: TrainConfig, counts: Sequence[int]) -> int:
    """What the optimiser keeps of gradients of tensors with so many values: two float32 per weight, or two bytes and
    two scales per block.
    """
    if settings.optimizer == "adamw":
        return 8 * sum(counts)
    return sum(8 * n if n < SMALLEST_8BIT else 2 * n + 8 * -(-n // BLOCK) for n in counts)
