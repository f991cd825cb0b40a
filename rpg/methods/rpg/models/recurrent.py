"""The recurrent model (Eq. 4): a sequence of position embeddings and states becomes prototypes, one per token."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from rpg.methods.rpg.config import TRANSFORMER_HEADS, GeneratorConfig
from rpg.methods.rpg.models.blocks import LSTM, GatedMLP, TransformerBlock
from rpg.methods.rpg.models.recompute import Picked
from rpg.methods.rpg.models.ssd import Mamba2


class RecurrentModel(nn.Module):
    """Blocks in sequence, then the paper's projection MLP. Causal in L. Mamba-2 blocks have no residuals or norms
    between them, as published.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.widths
        self.layers = nn.ModuleList(
            _block(config, width_in, width) for width_in, width in itertools.pairwise((widths[0], *widths))
        )
        # Two token_size-wide linears: with them the parameter counts of Table 12 come out.
        self.projection = nn.Sequential(
            nn.Linear(widths[-1], config.token_size), nn.SiLU(), nn.Linear(config.token_size, config.token_size)
        )

    def forward(self, inputs: Tensor, offsets: Tensor | None = None, picked: Picked | None = None) -> Tensor:
        """inputs (B, L, width), or with `offsets` (B, width) inputs (L, width) common to all sequences, of which
        sequence b is `inputs + offsets[b]` -> prototypes (B, L, token_size), or (K, token_size) of the tokens `picked`.
        """
        first, last = self.layers[0], self.layers[-1]
        if offsets is not None and not isinstance(first, Mamba2):
            inputs, offsets = inputs + offsets[:, None], None
        for layer in self.layers:
            if isinstance(layer, Mamba2):
                inputs = layer(inputs, offsets if layer is first else None, picked if layer is last else None)
            else:
                inputs = layer(inputs)
        if picked is not None and not isinstance(last, Mamba2):
            inputs = inputs[picked]
        return self.projection(inputs)


def _block(config: GeneratorConfig, width_in: int, width: int) -> nn.Module:
    if config.recurrent == "lstm":
        return LSTM(width)
    if config.recurrent == "transformer":
        return TransformerBlock(width, TRANSFORMER_HEADS)
    if config.recurrent == "none":
        return GatedMLP(width)
    return Mamba2(width, config.d_state, config.d_conv, config.expand, config.head_dim, width_in=width_in)
