"""The generator told by conditions: where they enter, what they cannot reach, and that it learns to use them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler, squared_error
from rpg.methods.rpg.config import GeneratorConfig, TrainConfig
from rpg.methods.rpg.models.generator import HEAD_TOKENS, Generator
from rpg.methods.rpg.models.positions import by_bits
from rpg.methods.rpg.train import Batches
from rpg.processes import Processes
from zoo.conditions import BITS, all_conditions, bits

LENGTH = 12
SMALL: dict[str, Any] = {
    **{"token_size": 16, "d_model": 16, "d_state": 8, "head_dim": 8, "channels": (1, 4, 1)},
    **{"condition": "binary", "permutation_state": "none"},
}
TOLD = torch.stack([bits(c) for c in ("0100010111", "1011101000", "0100010110")])


def generator(**settings: Any) -> Generator:
    positions = torch.stack([torch.zeros(LENGTH, dtype=torch.int64), torch.arange(LENGTH)], dim=1)
    torch.manual_seed(0)
    return Generator(GeneratorConfig.model_validate(SMALL | settings), positions, 3).eval()


def by_hand(model: Generator, cond: Tensor) -> Tensor:
    """Positions plus the embedding, written out token by token, through the recurrent model one sequence at a time."""
    if model.config.condition_embedding == "fixed":
        directions = by_bits(torch.eye(BITS), model.config.d_model) - by_bits(
            torch.zeros(BITS, BITS), model.config.d_model
        )
        signs = torch.where(cond > 0, 0.5, -0.5)
        embedded = torch.stack([sum(s * d for s, d in zip(row, directions, strict=True)) for row in signs])
    else:
        first, _, second = model.condition
        embedded = second(torch.nn.functional.silu(first(cond)))
    sequences = []
    for row in embedded:
        sequence = model.positions.clone()
        start = LENGTH - HEAD_TOKENS if model.config.condition_scope == "head" else 0
        for token in range(start, LENGTH):
            sequence[token] = sequence[token] + row
        sequences.append(model.recurrent(sequence[None])[0])
    return torch.stack(sequences)


@pytest.mark.parametrize("recurrent", ["mamba", "lstm", "transformer", "none"])
@pytest.mark.parametrize("scope", ["all", "head"])
@pytest.mark.parametrize("embedding", ["learned", "fixed"])
def test_the_condition_is_added_to_the_positions(recurrent: str, scope: str, embedding: str) -> None:
    model = generator(recurrent=recurrent, condition_scope=scope, condition_embedding=embedding)
    expected = by_hand(model, TOLD)
    torch.testing.assert_close(model.prototypes(TOLD), expected, rtol=1e-4, atol=1e-5)
    row, place = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 11, 3, 8])
    torch.testing.assert_close(model.prototypes(TOLD, row, place), expected[row, place], rtol=1e-4, atol=1e-5)


def test_scope_head_leaves_the_first_tokens_alone() -> None:
    prototypes = generator(condition_scope="head").prototypes(TOLD)
    before = LENGTH - HEAD_TOKENS
    assert torch.equal(prototypes[0, :before], prototypes[1, :before])
    assert bool((prototypes[0, before:] - prototypes[1, before:]).abs().amax(1).gt(0).all())
    everywhere = generator().prototypes(TOLD)
    assert bool((everywhere[0] - everywhere[1]).abs().amax(1).gt(0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"permutation_state": "one-hot"}, r"set method\.generator\.permutation_state to none"),
        ({"condition": "none", "condition_scope": "head"}, r"set method\.generator\.condition to binary"),
        ({"condition": "none", "condition_embedding": "fixed"}, r"set method\.generator\.condition to binary"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratorConfig.model_validate(SMALL | settings)


def batches(cond: Tensor, tokens: Tensor, settings: TrainConfig) -> Batches:
    mask = torch.ones(tokens.shape[1:], dtype=torch.bool)
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    return Batches(settings, tokens.numpy(), mask, schedule, Processes(torch.device("cpu")), cond)  # type: ignore[arg-type]


def test_a_batch_carries_the_condition_of_each_of_its_checkpoints() -> None:
    cond = torch.stack([bits(c) for c in all_conditions()])
    number = torch.arange(len(cond), dtype=torch.float32)
    tokens = number[:, None, None].expand(-1, 3, 4).contiguous()  # every value says whose it is
    settings = TrainConfig(batch_size=8, diffusion_batch=20, accumulation=2, precision="float32")
    seen = 0
    for step in range(20):
        for part in batches(cond, tokens, settings).parts(step)[0]:
            assert part.states.shape == (4, BITS)
            owners = part.tokens[:, 0].to(torch.int64)
            assert torch.equal(part.states[part.row], cond[owners])
            seen += len(owners)
    assert seen == 20 * 20


def test_training_learns_what_conditions_say_of_tasks_never_seen() -> None:
    """Tokens are a linear function of the bits. For conditions that were held out, noise in their tokens must be easier
    to find when the generator is told these conditions than when it is cond others.
    """
    cond = torch.stack([bits(c) for c in all_conditions()])
    rng = torch.Generator().manual_seed(0)
    tokens = ((2 * cond - 1) @ torch.randn(BITS, 2 * 16, generator=rng)).view(-1, 2, 16) / 4
    held = torch.arange(len(cond)) % 10 == 0
    torch.manual_seed(0)
    settings = TrainConfig(batch_size=32, diffusion_batch=64, precision="float32")
    model = Generator(GeneratorConfig.model_validate(SMALL), torch.tensor([[0, 0], [0, 1]]), int((~held).sum()))
    source = batches(cond[~held], tokens[~held].contiguous(), settings)
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for step in range(300):
        optimizer.zero_grad()
        source.backward(model, step)
        optimizer.step()
    model.eval()

    def error(condition: Tensor) -> float:
        row = torch.arange(int(held.sum())).repeat_interleave(2)
        place = torch.arange(2).repeat(int(held.sum()))
        clean, levels = tokens[held].flatten(0, 1), torch.full((len(row),), 200)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(clean, dtype=torch.bool)
        with torch.no_grad():
            return squared_error(model, source.schedule, clean, mask, levels, noise, condition, row, place).item()

    assert error(cond[held]) < 0.6 * error(1 - cond[held])
    assert error(cond[held]) < 0.8 * error(cond[held].roll(1, 0))


def test_fixed_codes_are_as_strong_as_positions_and_far_apart() -> None:
    codes = by_bits(torch.stack([bits(c) for c in all_conditions()]), 256)
    assert codes.square().mean().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(codes, by_bits(torch.stack([bits(c) for c in all_conditions()]), 256))
    assert torch.cdist(codes, codes).fill_diagonal_(torch.inf).min() > 5  # of norms of 11
    torch.testing.assert_close(by_bits(torch.ones(1, BITS), 256), -by_bits(torch.zeros(1, BITS), 256))
