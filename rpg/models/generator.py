"""The generator: permutation state and positions -> recurrent model -> prototypes -> denoiser (paper, Figure 3)."""

from __future__ import annotations

from torch import Tensor, nn

from rpg.config import GeneratorConfig
from rpg.models.denoiser import Denoiser
from rpg.models.positions import by_layer
from rpg.models.recurrent import RecurrentModel


class Generator(nn.Module):
    """`positions` int64 (L, 2) are the tokens' places (Layout.positions); `num_states` is the number of training
    checkpoints. Positions and states are fixed, so they are computed and not part of the state dict.

    Raises ValueError when there are more checkpoints than one-hot states.
    """

    positions: Tensor

    def __init__(self, config: GeneratorConfig, positions: Tensor, num_states: int) -> None:
        super().__init__()
        if config.permutation_state == "one-hot" and num_states > config.d_model:
            raise ValueError(
                f"{num_states} checkpoints need as many one-hot permutation states, but d_model is {config.d_model}; "
                f"raise rpg.generator.d_model or set rpg.generator.permutation_state=none"
            )
        self.config = config
        self.num_states = num_states
        self.register_buffer("positions", by_layer(positions, config.d_model), persistent=False)
        self.recurrent = RecurrentModel(config)
        self.denoiser = Denoiser(config.token_size, config.channels, config.kernel_size)

    def prototypes(self, states: Tensor) -> Tensor:
        """Prototypes (B, L, token_size) for the permutation states int64 (B,)."""
        inputs_BLM = self.positions.expand(len(states), -1, -1)
        if self.config.permutation_state == "one-hot":
            one_hot = nn.functional.one_hot(states.to(inputs_BLM.device), self.config.d_model)
            inputs_BLM = inputs_BLM + one_hot[:, None, :].to(inputs_BLM.dtype)
        return self.recurrent(inputs_BLM)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
