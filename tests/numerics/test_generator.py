"""The generator: what enters the recurrent model, what is saved, and that prototypes depend on the past alone."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn

from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.models.positions import by_layer, by_number, sinusoid
from zoo.seeds import global_seed

POSITIONS = torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [2, 1]])
CONFIG = GeneratorConfig(token_size=12, d_model=32, d_state=8, head_dim=16, channels=(1, 4, 1))


def make_generator(config: GeneratorConfig = CONFIG, num_states: int = 5, seed: int = 0) -> Generator:
    with global_seed(seed):
        return Generator(config, POSITIONS, num_states)


class Remember(nn.Module):
    """Returns its input unchanged: what is common to all sequences plus what each adds to it."""

    def forward(self, inputs: Tensor, offsets: Tensor | None = None, picked: object = None) -> Tensor:
        return inputs if offsets is None else inputs + offsets[:, None]


def test_input_is_the_position_plus_a_one_hot_state_at_every_token() -> None:
    generator = make_generator()
    generator.recurrent = Remember()  # type: ignore[assignment]
    inputs = generator.prototypes(torch.tensor([3, 0]))
    expected = by_layer(POSITIONS, 32).repeat(2, 1, 1)
    expected[0, :, 3] += 1
    expected[1, :, 0] += 1
    torch.testing.assert_close(inputs, expected)


def test_fourier_states_are_fixed_codes_that_are_nearly_orthogonal_however_many() -> None:
    config = CONFIG.model_copy(update={"permutation_state": "fourier"})
    generator = make_generator(config, num_states=1000)
    assert dict(generator.named_parameters()).keys() == dict(make_generator().named_parameters()).keys()
    generator.recurrent = Remember()  # type: ignore[assignment]
    inputs = generator.prototypes(torch.tensor([3, 999]))
    torch.testing.assert_close(inputs, by_layer(POSITIONS, 32) + by_number(torch.tensor([3, 999]), 32)[:, None])
    codes = by_number(torch.arange(1000), 256)
    torch.testing.assert_close(codes.square().mean(1), torch.ones(1000))
    cosines = codes @ codes.T / 256 - torch.eye(1000)
    assert cosines.abs().max() < 0.5
    assert cosines.square().mean().sqrt() < 1.5 / 256**0.5  # those of random directions: 1 / 16


def test_without_permutation_state_all_states_are_alike() -> None:
    config = CONFIG.model_copy(update={"permutation_state": "none"})
    prototypes = make_generator(config, num_states=100).prototypes(torch.tensor([0, 99]))
    torch.testing.assert_close(prototypes[0], prototypes[1])
    with_states = make_generator().prototypes(torch.tensor([0, 4]))
    assert not torch.allclose(with_states[0], with_states[1])


def test_prototypes_have_the_size_of_tokens() -> None:
    assert make_generator().prototypes(torch.tensor([0, 1, 2])).shape == (3, 6, 12)


def test_positions_and_states_are_fixed_and_not_saved() -> None:
    generator = make_generator()
    assert all(name.startswith(("recurrent.", "denoiser.")) for name in generator.state_dict())
    assert {name.split(".")[0] for name, _ in generator.named_parameters()} == {"recurrent", "denoiser"}
    other = make_generator(seed=1)
    other.load_state_dict(generator.state_dict(), strict=True)
    torch.testing.assert_close(other.prototypes(torch.tensor([2])), generator.prototypes(torch.tensor([2])))


@pytest.mark.parametrize("position", range(len(POSITIONS)))
def test_prototypes_do_not_depend_on_later_positions(position: int) -> None:
    generator = make_generator()
    before = generator.prototypes(torch.tensor([1]))[0]
    generator.positions[position] += 1
    after = generator.prototypes(torch.tensor([1]))[0]
    assert torch.equal(before[:position], after[:position])
    changed = (before != after).any(-1)
    assert changed[position:].all()


def test_more_checkpoints_than_states_are_refused() -> None:
    make_generator(num_states=32)
    with pytest.raises(ValueError, match="33 checkpoints need as many one-hot permutation states, but d_model is 32"):
        make_generator(num_states=33)


def test_initialisation_is_a_function_of_the_seed() -> None:
    first, same, other = (make_generator(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["denoiser.stages.0.0.weight"], other["denoiser.stages.0.0.weight"])


def test_rpg_tiny_has_the_size_of_its_parts() -> None:
    generator = Generator(GeneratorConfig(), POSITIONS, 50)
    mamba, mlp = 2 * 415_064, 2 * (256 * 256 + 256)  # two blocks as in mamba_ssm; time and projection MLPs alike
    convolutions, norms = 144_129, 2 * (32 + 64 + 128 + 64 + 32)
    assert generator.num_parameters == mamba + mlp + mlp + convolutions + norms


def test_all_parameters_learn() -> None:
    generator = make_generator().train()
    prototypes = generator.prototypes(torch.tensor([0, 1])).flatten(0, 1)
    generator.denoiser(torch.ones_like(prototypes), torch.arange(len(prototypes)), prototypes).square().sum().backward()
    silent = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


RECURRENT = ["mamba", "lstm", "transformer", "none"]
STATES = ["one-hot", "learned", "none"]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 70])
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("recurrent", RECURRENT)
def test_picked_prototypes_are_those_of_the_plain_computation(recurrent: str, states: str, length: int) -> None:
    """Every position of every sequence is made, goes through all layers, and then the picked tokens are taken: the
    same values and gradients as when positions are projected once and the last block finishes picked tokens alone.
    """
    options = {"recurrent": recurrent, "permutation_state": states, "positions": "learned"}
    positions = torch.stack([torch.arange(length) // 3, torch.arange(length) % 3], dim=1)
    with global_seed(0):
        generator = Generator(with_options(**options), positions, 5).double()
        picked = torch.randperm(4 * length)[: 2 * length]
    batch, row, place = torch.tensor([4, 0, 0, 2]), picked // length, picked % length

    added = {"one-hot": torch.eye(5, 32).double(), "none": torch.zeros(5, 32).double()}
    states_BM = (generator.states if states == "learned" else added[states])[batch]
    plain = generator.positions + states_BM[:, None]
    for layer in generator.recurrent.layers:
        plain = layer(plain)
    plain = generator.recurrent.projection(plain)
    saved = generator.prototypes(batch, row, place)
    torch.testing.assert_close(generator.prototypes(batch), plain, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(saved, plain[row, place], rtol=1e-9, atol=1e-11)

    parameters = dict(generator.named_parameters())
    weights = [parameter for name, parameter in parameters.items() if not name.startswith("denoiser")]
    probe = torch.linspace(-1, 2, saved.numel(), dtype=torch.float64).view_as(saved)
    expected = torch.autograd.grad((plain[row, place] * probe).sum(), weights, allow_unused=True)
    found = torch.autograd.grad((saved * probe).sum(), weights, allow_unused=True)
    for name, one, other in zip(parameters, found, expected, strict=False):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=name)


def with_options(**options: object) -> GeneratorConfig:
    return CONFIG.model_copy(update=options)


def test_positions_by_index_count_tokens_from_front_to_back() -> None:
    generator = make_generator(with_options(positions="index", permutation_state="none"))
    generator.recurrent = Remember()  # type: ignore[assignment]
    inputs = generator.prototypes(torch.tensor([0]))[0]
    torch.testing.assert_close(inputs, sinusoid(torch.arange(len(POSITIONS)), 32))
    assert not any(name.startswith("positions") for name in generator.state_dict())


def test_learned_positions_begin_as_those_by_layer_and_are_saved() -> None:
    generator, fixed = make_generator(with_options(positions="learned")), make_generator()
    torch.testing.assert_close(generator.prototypes(torch.tensor([1])), fixed.prototypes(torch.tensor([1])))
    assert generator.state_dict().keys() - fixed.state_dict().keys() == {"positions"}
    generator.prototypes(torch.tensor([1])).square().sum().backward()
    gradient = generator.get_parameter("positions").grad
    assert gradient is not None
    assert gradient.any(-1).all()


def test_learned_states_begin_alike_and_learn_apart() -> None:
    generator = make_generator(with_options(permutation_state="learned"), num_states=40)  # more than d_model
    generator.recurrent = Remember()  # type: ignore[assignment]
    inputs = generator.prototypes(torch.tensor([39, 3]))
    torch.testing.assert_close(inputs, (by_layer(POSITIONS, 32) + 1 / 32).repeat(2, 1, 1))
    inputs.sum().backward()
    gradient = generator.get_parameter("states").grad
    assert gradient is not None
    assert gradient.any(-1).nonzero().flatten().tolist() == [3, 39]
    assert generator.state_dict()["states"].shape == (40, 32)


@pytest.mark.parametrize("token_size", [1024, 2048, 4096, 8192, pytest.param(16384, marks=pytest.mark.slow)])
def test_tokens_of_table_6_pass_through(token_size: int) -> None:
    generator = make_generator(with_options(token_size=token_size)).train()
    prototypes = generator.prototypes(torch.tensor([0]))[0]
    noise = generator.denoiser(torch.zeros_like(prototypes), torch.arange(len(prototypes)), prototypes)
    assert noise.shape == (6, token_size)
    assert noise.isfinite().all()


def test_options_leave_the_default_generator_alone() -> None:
    """Names, order and values of the freshly initialised default generator, as they were before there were options."""
    state = make_generator().state_dict()
    assert (
        hashlib.sha256(
            "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()).encode()
        ).hexdigest()[:16]
        == "b291d5734102ad4c"
    )
    total = sum(tensor.double().abs().sum().item() for tensor in state.values())
    assert total == pytest.approx(1661.563202210291, rel=1e-6)
