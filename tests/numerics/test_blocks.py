"""The other recurrent models against explicit computations in float64, and the widths of Mamba blocks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.rpg.models.blocks import LSTM, GatedMLP, TransformerBlock
from rpg.methods.rpg.models.recurrent import RecurrentModel
from zoo.seeds import global_seed

WIDTH, HEADS, LENGTH = 16, 4, 7


def made(block: type[nn.Module], *sizes: int) -> tuple[nn.Module, Tensor]:
    """A block with random weights (norms too) and an input, in float64."""
    with global_seed(0):
        module = block(*sizes).double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
        return module, torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def test_transformer_block_is_scaled_causal_attention_and_a_residual_mlp() -> None:
    block, inputs = made(TransformerBlock, WIDTH, HEADS)
    assert isinstance(block, TransformerBlock)
    dim = WIDTH // HEADS
    normed = layer_norm(inputs, block.attention_norm)
    q, k, v = (normed @ weight.T for weight in block.qkv.weight.split(WIDTH))
    expected = inputs.clone()
    for b, t, head in itertools.product(range(2), range(LENGTH), range(HEADS)):
        own = slice(head * dim, (head + 1) * dim)
        scores = torch.stack([(q[b, t, own] * k[b, s, own]).sum() / math.sqrt(dim) for s in range(t + 1)])
        shares = scores.exp() / scores.exp().sum()
        expected[b, t, own] += sum(share * v[b, s, own] for s, share in enumerate(shares))
    up, _, down = block.mlp
    hidden = layer_norm(expected, block.mlp_norm) @ up.weight.T + up.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    expected = expected + hidden @ down.weight.T + down.bias
    torch.testing.assert_close(block(inputs), expected, rtol=1e-10, atol=1e-10)


def test_lstm_blocks_are_an_lstm_of_several_layers() -> None:
    with global_seed(1):
        reference = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True).double()
        blocks = [LSTM(WIDTH).double() for _ in range(2)]
        inputs = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    for layer, block in enumerate(blocks):
        block.load_state_dict(
            {name: getattr(reference, name.replace("_l0", f"_l{layer}")) for name in block.state_dict()}
        )
    torch.testing.assert_close(blocks[1](blocks[0](inputs)), reference(inputs)[0], rtol=1e-10, atol=1e-10)


def test_lstm_block_is_the_recurrence() -> None:
    block, inputs = made(LSTM, WIDTH)
    hidden = cell = torch.zeros(2, WIDTH, dtype=torch.float64)
    for t in range(LENGTH):
        gates = (
            inputs[:, t] @ block.weight_ih_l0.T + block.bias_ih_l0 + hidden @ block.weight_hh_l0.T + block.bias_hh_l0
        )
        i, f, g, o = gates.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        torch.testing.assert_close(block(inputs)[:, t], hidden, rtol=1e-10, atol=1e-10)


def test_gated_mlp_is_its_formula() -> None:
    block, inputs = made(GatedMLP, WIDTH)
    value, gate = inputs @ block.value.weight.T, inputs @ block.gate.weight.T
    output = (value / (1 + (-gate).exp())) @ block.output.weight.T + block.output.bias
    torch.testing.assert_close(block(inputs), layer_norm(output, block.norm), rtol=1e-10, atol=1e-10)


def model(recurrent: str, **settings: object) -> RecurrentModel:
    config = GeneratorConfig.model_validate(
        {"recurrent": recurrent, "token_size": 12, "d_model": 32, "d_state": 8, "head_dim": 16, **settings}
    )
    with global_seed(2):
        return RecurrentModel(config).double()


@pytest.mark.parametrize("recurrent", ["mamba", "lstm", "transformer", "none"])
@pytest.mark.parametrize("place", range(5))
def test_a_prototype_sees_the_past_and_no_more(recurrent: str, place: int) -> None:
    network = model(recurrent)
    with global_seed(3):
        inputs = torch.randn(1, 5, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(inputs)[0, place].square().sum(), inputs)
    seen = gradient[0].abs().amax(-1) > 0
    past = [place == t if recurrent == "none" else t <= place for t in range(5)]
    assert seen.tolist() == past
    changed = inputs.detach().clone()
    changed[0, place] += 1
    differs = (network(changed) != network(inputs))[0].any(-1)
    assert differs.tolist() == [place == t if recurrent == "none" else t >= place for t in range(5)]


@pytest.mark.parametrize(
    ("recurrent", "count"),
    # rpg_official, section 3: two blocks of width 8192
    [("mamba", 813.9e6), ("lstm", 2 * 537e6), ("transformer", 2 * 470e6), ("none", 2 * 403e6)],
)
def test_blocks_have_the_published_sizes(recurrent: str, count: float) -> None:
    config = GeneratorConfig.model_validate({"recurrent": recurrent, "d_model": 8192, "d_state": 128})
    with torch.device("meta"):
        layers = RecurrentModel(config).layers
    assert sum(parameter.numel() for parameter in layers.parameters()) == pytest.approx(count, rel=1e-3)


def test_a_width_per_block_widens_on_the_way() -> None:
    config = GeneratorConfig(d_model=(12288, 16384), d_state=128, token_size=16384)
    with torch.device("meta"):
        network = RecurrentModel(config)
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in network.layers]
    assert counts == [pytest.approx(913.98e6, rel=1e-5), pytest.approx(1351.81e6, rel=1e-5)]  # published, section 3

    small = model("mamba", d_model=(32, 48))
    assert [tuple(layer.out_proj.weight.shape) for layer in small.layers] == [(32, 64), (48, 96)]
    assert small.layers[1].in_proj.weight.shape[1] == 32
    assert small(torch.randn(1, 5, 32, dtype=torch.float64)).shape == (1, 5, 12)


def test_one_width_and_as_many_equal_ones_are_the_same_model() -> None:
    one, many = model("mamba").state_dict(), model("mamba", d_model=(32, 32)).state_dict()
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
