"""Neurons and chunks of a vector and back; views of a network compute what it computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenised import TASK, digits_networks

from rpg.tokens.layers import Chunks, Layers, windows
from rpg.tokens.layout import Layout
from rpg.tokens.permutations import Permutations, permutations_of
from zoo.manifest import Origin
from zoo.structure import Structure
from zoo.tasks.classification import Config


def network() -> dict[str, torch.Tensor]:
    """A value of every tensor is its place in the vector."""
    shapes = {"a.weight": (3, 2, 2), "a.bias": (3,), "scale": (), "b.weight": (2, 3), "b.more": (5, 1), "b.bias": (2,)}
    start, tensors = 0, {"steps": torch.tensor(3)}
    for name, shape in shapes.items():
        size = torch.Size(shape).numel()
        tensors[name] = torch.arange(start, start + size).float().view(shape)
        start += size
    return tensors | {"none": torch.zeros(0, 4)}


def test_a_row_is_a_neuron_with_its_bias():
    layers = Layers(Structure.of(network()))
    vector = torch.arange(layers.values).float()[None]
    first, scale, linear, more = layers.matrices(vector)
    assert first.tolist() == [[[0, 1, 2, 3, 12], [4, 5, 6, 7, 13], [8, 9, 10, 11, 14]]]
    assert scale.tolist() == [[[15]]]
    assert linear.tolist() == [[[16, 17, 18, 27], [19, 20, 21, 28]]]
    assert more.flatten().tolist() == [22, 23, 24, 25, 26]
    assert layers.rows == 11
    assert torch.equal(layers.vectors([first, scale, linear, more]), vector)
    assert layers.spread(torch.arange(4.0))[[0, 12, 15, 22, 27]].tolist() == [0, 0, 1, 3, 2]


@given(size=st.integers(1, 9), count=st.integers(1, 3))
def test_tokens_give_back_the_vector(size, count):
    chunks = Chunks(Layers(Structure.of(network())), size)
    vectors = torch.rand(count, chunks.layers.values + 7) + 1  # longer, as they are padded
    tokens = chunks.split(vectors)
    assert tokens.shape == (count, chunks.count, size)
    assert torch.equal(chunks.join(tokens), vectors[:, : chunks.layers.values])
    assert int(chunks.mask().sum()) == chunks.layers.values
    assert not tokens[:, ~chunks.mask()].any()
    positions = chunks.positions()
    assert positions[:, 0].tolist() == list(range(chunks.count))
    assert (positions.max(0).values + 1).tolist() == list(chunks.most)
    per_neuron = positions[:, 1:].unique(dim=0)
    assert len(per_neuron) == chunks.layers.rows


def test_statistics_are_those_of_a_layers_values_in_all_networks():
    layers = Layers(Structure.of(network()))
    vectors = torch.randn(4, layers.values + 2, generator=torch.Generator().manual_seed(0)) * 3 + 100
    mean, deviation = layers.statistics(lambda: iter(vectors))
    for found, number in zip(layers.matrices(vectors), range(4), strict=True):
        assert float(mean[number]) == pytest.approx(float(found.double().mean()))
        assert float(deviation[number]) == pytest.approx(float(found.double().std(correction=0)), rel=1e-9)


@given(count=st.integers(1, 40), core=st.integers(1, 9), halo=st.integers(0, 5))
def test_windows_answer_for_every_token_once(count, core, halo):
    found = windows(count, core + 2 * halo, halo)
    answered = [token for seen, own in found for token in list(range(count))[seen][own]]
    assert answered == list(range(count))
    for seen, own in found:
        assert seen.stop - seen.start <= max(core + 2 * halo, 1)
        assert own.start in (halo, seen.start + own.start)  # a whole halo, or the first token
        assert seen.stop - (seen.start + own.stop) == halo or seen.stop == count


def test_a_view_is_the_same_function():
    config, weights = Config.model_validate(TASK), digits_networks(1)[0]
    structure = Structure.of(weights)
    layout = Layout.fit(structure, lambda: iter([weights]), 64, "flatten")
    plain = tuple(t if t.log_scale else t.model_copy(update={"mean": 0.0, "std": 1.0}) for t in layout.tensors)
    layout = layout.model_copy(update={"tensors": plain})
    vector = layout.encode(weights).view(1, -1)
    permutations = permutations_of(
        Origin(name="x", kind="collected", task=TASK, command=(), versions={}), structure, ""
    )
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = config.network(0, pretrained=False).eval()

    def outputs(values: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros_like(vector)
        filled[0, : permutations.values] = values
        model.load_state_dict(layout.decode(filled.view(-1, 64), {"x": torch.tensor(0)} | weights))
        return model(images)

    rng = torch.Generator().manual_seed(2)
    views = permutations.view(vector.repeat(3, 1), rng)
    expected = outputs(vector[0, : permutations.values])
    for view in views:
        assert not torch.equal(view, vector[0, : permutations.values])
        assert torch.equal(view.sort().values, vector[0, : permutations.values].sort().values)
        torch.testing.assert_close(outputs(view), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(views[0], views[1])
    order = permutations.draw(1, rng)[0]
    assert order.sort().values.tolist() == list(range(permutations.values))


def test_views_that_nobody_knows_are_refused():
    structure = Structure.of(network())
    origin = Origin(name="mine", kind="imported", command=(), versions={})
    with pytest.raises(ValueError, match=r"nobody knows which units of the networks of mine may be permuted.*do this"):
        permutations_of(origin, structure, "do this")
    known = Config.model_validate(TASK).symmetries()
    assert known is not None
    with pytest.raises(ValueError, match="does not fit"):
        Permutations(known, structure)
