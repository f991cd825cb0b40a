"""The recurrent model (Eq. 4): a sequence of position embeddings and states becomes prototypes, one per token."""

from __future__ import annotations

from torch import Tensor, nn

from rpg.config import GeneratorConfig
from rpg.models.ssd import Mamba2


class RecurrentModel(nn.Module):
    """Mamba-2 blocks in sequence, as published without residuals or norms between them, then the paper's projection
    MLP: (B, L, d_model) -> prototypes (B, L, token_size). Causal in L.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Mamba2(config.d_model, config.d_state, config.d_conv, config.expand, config.head_dim)
            for _ in range(config.num_layers)
        )
        # Two token_size-wide linears: with them the parameter counts of Table 12 come out.
        self.projection = nn.Sequential(
            nn.Linear(config.d_model, config.token_size), nn.SiLU(), nn.Linear(config.token_size, config.token_size)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return self.projection(inputs)
