"""Position embeddings against the formula of Vaswani et al. 2017, channel by channel."""

from __future__ import annotations

import math

import pytest
import torch

from rpg.methods.rpg.models.positions import by_layer, sinusoid


@pytest.mark.parametrize("index", [0, 1, 17, 12_345])
def test_sines_at_even_and_cosines_at_odd_channels(index: int) -> None:
    dim = 12
    found = sinusoid(torch.tensor(index), dim)
    for channel in range(dim):
        angle = index / 10_000 ** (2 * (channel // 2) / dim)
        expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
        assert found[channel].item() == pytest.approx(expected, abs=1e-6)
    assert found.dtype == torch.float32


def test_sinusoid_keeps_the_shape_of_the_indices() -> None:
    index = torch.arange(6).view(2, 3)
    assert sinusoid(index, 4).shape == (2, 3, 4)
    torch.testing.assert_close(sinusoid(index, 4)[1, 2], sinusoid(torch.tensor(5), 4))


def test_first_half_is_the_layer_and_second_half_the_token() -> None:
    positions = torch.tensor([[0, 0], [0, 1], [3, 0], [3, 7]])
    embedding = by_layer(positions, 16)
    torch.testing.assert_close(embedding[:, :8], sinusoid(positions[:, 0], 8))
    torch.testing.assert_close(embedding[:, 8:], sinusoid(positions[:, 1], 8))


def test_an_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="dim = 5 must be even"):
        sinusoid(torch.arange(3), 5)
