"""The generator: permutation state and positions -> recurrent model -> prototypes -> denoiser (paper, Figure 3).

For tasks never seen, a condition takes the place of the permutation state (section 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpg.methods.rpg.config import TRANSFORMER_HEADS, GeneratorConfig
from rpg.methods.rpg.models.denoiser import Denoiser
from rpg.methods.rpg.models.kernels import attention_kernel, fast_scan
from rpg.methods.rpg.models.positions import by_bits, by_index, by_layer, by_number
from rpg.methods.rpg.models.recurrent import RecurrentModel
from zoo.conditions import BITS

CONDITION_HIDDEN = 1024  # width between the two layers of the condition's embedding, as published
HEAD_TOKENS = 8  # that the condition is added to with `condition_scope: head`, as published


def check_states(config: GeneratorConfig, num_states: int) -> None:
    """Raise ValueError when there are more checkpoints than one-hot states."""
    width = config.widths[0]
    if config.permutation_state == "one-hot" and num_states > width:
        raise ValueError(
            f"{num_states} checkpoints need as many one-hot permutation states, but d_model is {width}; "
            f"raise method.generator.d_model or set method.generator.permutation_state to fourier, learned or none"
        )


def embedding(values: int, width: int) -> nn.Sequential:
    """What the generator is told of a network, (B, values), in the width of positions, (B, width)."""
    return nn.Sequential(nn.Linear(values, CONDITION_HIDDEN), nn.SiLU(), nn.Linear(CONDITION_HIDDEN, width))


class Generator(nn.Module):
    """`positions` int64 (L, 2) are the tokens' places (Layout.positions); `num_states` is the number of training
    checkpoints. What is fixed of positions and states is computed and not part of the state dict; what is learned is.

    With `readout`, a linear map estimates the clean token from its prototype alone.

    Raises ValueError when there are more checkpoints than one-hot states.
    """

    positions: Tensor
    states: Tensor

    def __init__(
        self, config: GeneratorConfig, positions: Tensor, num_states: int, readout: bool = False, bits: int = BITS
    ) -> None:
        super().__init__()
        width = config.widths[0]
        check_states(config, num_states)
        self.config = config
        self.num_states = num_states
        if config.positions == "learned":
            self.positions = nn.Parameter(by_layer(positions, width))
        else:
            embed = by_index if config.positions == "index" else by_layer
            self.register_buffer("positions", embed(positions, width), persistent=False)
        if config.permutation_state == "learned":
            self.states = nn.Parameter(torch.full((num_states, width), 1 / width))  # all alike at first, as published
        elif config.permutation_state == "fourier":
            self.register_buffer("states", by_number(torch.arange(num_states), width), persistent=False)
        if config.condition == "binary" and config.condition_embedding == "learned":
            self.condition = embedding(bits, width)
        self.recurrent = RecurrentModel(config)
        self.denoiser = Denoiser(config.token_size, config.channels, config.kernel_size)
        self.readout = nn.Linear(config.token_size, config.token_size) if readout else None

    def forward(
        self, noisy: Tensor, timesteps: Tensor, states: Tensor, row: Tensor, place: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What training computes: the denoiser's estimate (K, token_size) of the noisy tokens (K, token_size) at
        timesteps int64 (K,); token k is the one at place[k] of the sequence of states[row[k]], states int64 (B,). With
        a read-out, also the clean tokens read out, of all that `row` and `place` name: the noisy ones and more.
        """
        prototypes = self.prototypes(states, row, place)
        if self.readout is None:
            return self.denoiser(noisy, timesteps, prototypes)
        # What the denoiser would have the prototypes be only disturbs what the read-out has them be (docs/log.md).
        return self.denoiser(noisy, timesteps, prototypes[: len(noisy)].detach()), self.readout(prototypes).float()

    def prototypes(self, states: Tensor, row: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """Prototypes (B, L, token_size) for the permutation states int64 (B,), or for conditions float32 (B, bits)
        where the generator takes these; of the tokens `place` of the sequences `row`, int64 (K,) each, alone:
        (K, token_size).
        """
        added = self.added(states.to(self.positions.device))
        picked = None if row is None or place is None else (row, place)
        if self.config.condition_scope == "head":
            assert added is not None
            return self.recurrent(self._at_the_end(added), None, picked)
        if added is not None:
            return self.recurrent(self.positions, added, picked)
        if picked is None:
            return self.recurrent(self.positions[None]).expand(len(states), -1, -1)
        # all sequences are the same one
        return self.recurrent(self.positions[None], None, (torch.zeros_like(picked[0]), picked[1]))

    def added(self, states: Tensor) -> Tensor | None:
        """What is added to the positions of each sequence, (B, width); nothing where all are the same one."""
        if self.config.condition == "binary":
            fixed = self.config.condition_embedding == "fixed"
            return by_bits(states, self.config.widths[0]) if fixed else self.condition(states)
        if self.config.permutation_state == "one-hot":
            return nn.functional.one_hot(states, self.config.widths[0]).to(self.positions.dtype)
        if self.config.permutation_state in ("learned", "fourier"):
            return self.states[states]
        return None

    def _at_the_end(self, added: Tensor) -> Tensor:
        """The positions with `added` (B, width) on the last tokens: (B, L, width)."""
        length = len(self.positions)
        last_L1 = (torch.arange(length, device=added.device) >= length - HEAD_TOKENS)[:, None]
        return self.positions + added[:, None] * last_L1

    def kernels(self, dtype: torch.dtype) -> dict[str, str]:
        """Which scan or attention runs where the generator is, with products in `dtype`."""
        config, device = self.config, self.positions.device
        if config.recurrent == "mamba":
            return {"scan": "mamba-ssm" if device.type == "cuda" and fast_scan() else "pytorch"}
        if config.recurrent == "transformer":
            heads, width = TRANSFORMER_HEADS, config.widths[0]
            shape = (1, heads, len(self.positions), width // heads)
            return {"attention": attention_kernel(device, dtype, shape)}
        return {}

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
