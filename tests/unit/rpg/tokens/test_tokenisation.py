"""The three ways to cut tensors into tokens against brute force, value by value, and their inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rpg.tokens.layout import Layout
from rpg.tokens.tokenisation import place, positions, useful
from zoo.structure import Structure

RULES = ("layer", "flatten", "channel")
SHAPES = st.lists(st.lists(st.integers(0, 7), max_size=3).map(tuple), max_size=6)


def channel_pieces(values: NDArray, size: int) -> list[list[float]]:
    """The published rule: the values of each token of a tensor, by slicing the tensor itself."""
    if values.size <= size:
        return [values.ravel().tolist()] if values.size else []
    channels, width = values.shape[0], values[0].size
    if width > size:
        return [piece for channel in values for piece in channel_pieces(channel, size)]
    groups = next(
        i for i in range(int(values.size / size), channels + 1) if channels % i == 0 and channels // i * width <= size
    )
    return [part.ravel().tolist() for part in np.split(values, groups)]


def brute_force(tensors: list[NDArray], rule: str, size: int) -> tuple[list[list[float]], list[tuple[int, int]]]:
    """The values of every token, unpadded, and the layer and number in the layer of its first value."""
    if rule == "flatten":
        pairs = [(value, layer) for layer, tensor in enumerate(tensors) for value in tensor.ravel().tolist()]
        tokens = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        layers = [token[0][1] for token in tokens]
        return [[value for value, _ in token] for token in tokens], [
            (layer, layers[:i].count(layer)) for i, layer in enumerate(layers)
        ]
    pieces, places = [], []
    for layer, tensor in enumerate(tensors):
        flat = tensor.ravel().tolist()
        own = (
            channel_pieces(tensor, size)
            if rule == "channel"
            else [flat[i : i + size] for i in range(0, len(flat), size)]
        )
        pieces += own
        places += [(layer, number) for number in range(len(own))]
    return pieces, places


@pytest.mark.parametrize("rule", RULES)
@given(shapes=SHAPES, size=st.integers(1, 12))
@example(shapes=[(7, 3), (5,), (2, 3, 4)], size=4)
@example(shapes=[(6, 2, 2)], size=8)  # three groups of two channels
@example(shapes=[(4, 7)], size=5)  # channels wider than a token
def test_places_are_those_of_brute_force(rule, shapes, size):
    count = sum(math.prod(shape) for shape in shapes)
    values = np.arange(1.0, count + 1)
    parts = np.split(values, np.cumsum([math.prod(shape) for shape in shapes])[:-1]) if shapes else []
    tensors = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    expected, where = brute_force(tensors, rule, size)

    places = place(shapes, rule, size)
    tokens = torch.zeros(len(expected), size, dtype=torch.float64)
    assert sum(p.num_tokens for p in places) == len(expected)
    for p, tensor in zip(places, tensors, strict=True):
        p.put(tokens, torch.from_numpy(tensor.ravel()))
    assert tokens.tolist() == [piece + [0.0] * (size - len(piece)) for piece in expected]
    assert positions(places).tolist() == [list(pair) for pair in where]
    assert useful(places, size) == pytest.approx(count / max(len(expected) * size, 1))
    for p, tensor in zip(places, tensors, strict=True):
        assert p.take(tokens).tolist() == tensor.ravel().tolist()


@pytest.mark.parametrize("rule", RULES)
@given(shapes=SHAPES, size=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_checkpoint_comes_back(rule, shapes, size, seed):
    rng = torch.Generator().manual_seed(seed)
    names = [f"{k}.running_var" if k % 3 == 2 else f"{k}.weight" for k in range(len(shapes))]
    weights = {name: torch.rand(shape, generator=rng) for name, shape in zip(names, shapes, strict=True)}
    weights["steps"] = torch.tensor(7)
    layout = Layout.fit(Structure.of(weights), lambda: [weights], size, rule)
    tokens, mask = layout.encode(weights), layout.mask()
    assert int(mask.sum()) == sum(math.prod(shape) for shape in shapes)
    assert not tokens[~mask].any()
    noisy_padding = tokens.masked_fill(~mask, 1e9)  # what a generator leaves in the padding is ignored
    for name, tensor in layout.decode(noisy_padding, {"steps": weights["steps"]}).items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-5, atol=1e-6)
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize(
    ("shape", "size", "tokens"),
    [
        ((64, 3, 7, 7), 8192, 2),  # 9408 values: two groups of 32 channels of 147
        ((768, 768), 768, 768),
        ((1000, 512), 8192, 100),  # the first divisor of 1000 from 62 on
        ((768,), 768, 1),
        ((3, 1000), 768, 6),  # each of the channels in two groups of 500
    ],
)
def test_the_published_rule_on_known_tensors(shape, size, tokens):
    assert len(channel_pieces(np.zeros(shape), size)) == tokens
    assert place([shape], "channel", size)[0].num_tokens == tokens


def test_vit_tiny_has_the_tokens_of_the_published_code():
    with torch.device("meta"):
        shapes = [tensor.shape for tensor in timm.create_model("vit_tiny_patch16_224").state_dict().values()]
    counted = {1024: (5654, 98.8), 2048: (2878, 97.0), 4096: (1490, 93.7), 8192: (808, 86.4), 16384: (461, 75.7)}
    for size, (length, share) in counted.items():
        places = place(shapes, "layer", size)
        assert len(positions(places)) == length
        assert 100 * useful(places, size) == pytest.approx(share, abs=0.05)


def test_a_layout_file_of_before_the_rules_is_by_layer():
    weights = {"weight": torch.arange(6.0)}
    layout = Layout.fit(Structure.of(weights), lambda: [weights], 4)
    assert Layout.from_json(layout.to_json().replace('"tokenisation":"layer",', "")) == layout
