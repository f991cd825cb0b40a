"""Recomputing gives the gradients, the statistics and the curve of not recomputing, and takes less memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler, squared_error
from rpg.meter import cost_of, peak_of
from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.rpg.costs import Pass, parts_of, peak
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.models.recompute import recompute_in
from rpg.methods.rpg.models.ssd import Mamba2, ssd_scan
from zoo.seeds import global_seed

B, L, D, K = 3, 70, 8, 20
CASES: dict[str, dict[str, Any]] = {
    "one-hot": {},
    "three": {"num_layers": 3, "d_model": (32, 32, 48)},
    "learned": {"positions": "learned", "permutation_state": "learned"},
    "no state": {"permutation_state": "none"},
    "lstm": {"recurrent": "lstm"},
    "transformer": {"recurrent": "transformer"},
    "none": {"recurrent": "none"},
    "condition": {"permutation_state": "none", "condition": "binary"},
    "head": {"permutation_state": "none", "condition": "binary", "condition_scope": "head"},
    "fixed": {"permutation_state": "none", "condition": "binary", "condition_embedding": "fixed"},
    "deep": {"channels": (1, 4, 8, 4, 1)},
    "even": {"channels": (1, 4, 4, 1)},
}


@pytest.fixture
def double() -> Iterator[None]:
    """In float64 rounding hides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator(**options: Any) -> Generator:
    settings = {"token_size": D, "d_model": 32, "d_state": 8, "head_dim": 16, "channels": (1, 4, 6, 8, 6, 4, 1)}
    with global_seed(0):
        made = Generator(GeneratorConfig.model_validate(settings | options), torch.arange(2 * L).view(L, 2), 7)
        with torch.no_grad():
            for module in made.modules():
                if isinstance(module, nn.BatchNorm1d):  # not the ones and zeros of the start
                    module.weight.uniform_(0.5, 2)
                    module.bias.uniform_(-1, 1)
    return made.to(torch.get_default_dtype()).train()


def step(model: Generator, seed: int = 1, half: bool = False, rows: int = B, picks: int = K) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    length, size = len(model.positions), model.config.token_size
    picked = torch.randperm(rows * length, generator=rng)[:picks]
    conditions = torch.rand(rows, 10, generator=rng).round()
    states = torch.randint(7, (rows,), generator=rng)
    tokens, noise = torch.randn(2, picks, size, generator=rng)
    levels = torch.randint(1000, (picks,), generator=rng)
    index = (conditions if model.config.condition == "binary" else states, picked // length, picked % length)
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = squared_error(model, schedule, tokens, torch.ones(picks, size, dtype=torch.bool), levels, noise, *index)
    (loss / picks / size).backward()
    return loss.detach() / picks / size


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("case", "together"), [*((case, 500) for case in CASES), ("one-hot", 1), ("one-hot", 10_000)])
def test_gradients_and_statistics_are_the_same(case: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`together` 1: sequence by sequence, token by token; 500: some tokens; 10,000: two sequences, and all tokens."""
    monkeypatch.setattr("rpg.methods.rpg.models.recompute.VALUES_AT_ONCE", together)
    kept = generator(**CASES[case])
    again = copy.deepcopy(kept)
    recompute_in(again)
    for seed in (1, 2):  # the second adds to the first's
        torch.testing.assert_close(step(again, seed), step(kept, seed), rtol=1e-9, atol=0)
    for (name, mine), theirs in zip(again.named_parameters(), kept.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-9)
    for mine, theirs in zip(again.buffers(), kept.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_the_loss_curve_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpg.methods.rpg.models.recompute.VALUES_AT_ONCE", 1000)
    curves = []
    for on in (False, True):
        model = generator(permutation_state="learned")
        recompute_in(model, on)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        curve = []
        for _ in range(8):
            optimizer.zero_grad()
            curve.append(step(model).item())
            optimizer.step()
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert curves[0][-1] < curves[0][0]


def test_sampling_knows_nothing_of_it() -> None:
    model = generator().eval()
    states = torch.tensor([2, 0])
    with torch.no_grad():
        before = model.prototypes(states)
        recompute_in(model)
        torch.testing.assert_close(model.prototypes(states), before)


SIZES = [  # sequences, length, tokens in the loss, width and token size, channels
    (6, 70, 60, 64, (1, 8, 16, 8, 1)),
    (8, 130, 40, 128, (1, 4, 1)),
    (6, 60, 300, 64, (1, 16, 32, 16, 1)),
]


@pytest.mark.parametrize("recurrent", ["mamba", "transformer"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("half", [False, True])
def test_memory_is_what_the_closed_forms_say(
    recurrent: str, size: tuple[Any, ...], half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpg.methods.rpg.models.recompute.VALUES_AT_ONCE", 2**14)
    rows, length, picks, width, channels = size
    options = {"token_size": width, "d_model": width, "channels": channels, "recurrent": recurrent}
    with global_seed(0):
        config = GeneratorConfig.model_validate({"d_state": 16, "head_dim": 32, **options})
        model = Generator(config, torch.zeros(length, 2, dtype=torch.int64), 7)
    found, ratios = {}, []
    for on in (False, True):
        recompute_in(model, on)
        model.zero_grad(set_to_none=True)
        found[on] = peak_of(lambda: step(model, half=half, rows=rows, picks=picks))
        parts = parts_of(config, 7, Pass(rows, length, picks, half, recompute=on))
        print(recurrent, size, half, on, found[on], round(peak(parts) / found[on], 3), flush=True)
        ratios.append(peak(parts) / found[on])
    assert ratios == pytest.approx([1, 1], rel=0.2)
    assert found[True] < 0.7 * found[False]


class _Kernel(torch.autograd.Function):
    """Keeps what mamba-ssm's kernels keep for the backward pass, their inputs, their result and the decays, and makes
    the rest again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y = ssd_scan(x, dt, A, B, C, 32)
        ctx.save_for_backward(x, dt, A, B, C, y, (dt * A).cumsum(1))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors[:5]]
        with torch.enable_grad():
            return torch.autograd.grad(ssd_scan(*inputs, 32), inputs, gradient)


class _Frugal(_Kernel):
    """Its backward pass takes no more than its results, as nearly the kernels' do; they are wrong."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(tensor) for tensor in ctx.saved_tensors[:5])


def with_kernels(monkeypatch: pytest.MonkeyPatch, kernel: type[_Kernel]) -> None:
    monkeypatch.setattr(Mamba2, "_kernel", lambda self, mixed: kernel.apply)


@pytest.mark.usefixtures("double")
def test_with_kernels_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generator(d_model=(32, 32, 48), num_layers=3)
    lean = copy.deepcopy(plain)
    loss = step(plain)
    with_kernels(monkeypatch, _Kernel)
    assert step(lean).item() == pytest.approx(loss.item(), rel=1e-12)
    for (name, one), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("half", [False, True])
def test_memory_with_kernels_is_what_the_closed_forms_say(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, length, picks = 8, 130, 60
    options = {"token_size": 128, "d_model": 128, "d_state": 16, "head_dim": 32, "channels": (1, 8, 16, 8, 1)}
    config = GeneratorConfig.model_validate(options)
    model = Generator(config, torch.zeros(length, 2, dtype=torch.int64), 7)
    found = {}
    for kernels in (False, True):
        if kernels:
            with_kernels(monkeypatch, _Frugal)
        model.zero_grad(set_to_none=True)
        found[kernels] = peak_of(lambda: step(model, half=half, rows=rows, picks=picks))
        expected = peak(parts_of(config, 7, Pass(rows, length, picks, half, kernels=kernels)))
        assert expected == pytest.approx(found[kernels], rel=0.1)
    assert found[True] < 0.6 * found[False]


class _Launches(TorchDispatchMode):
    """Counts operations that make or change a tensor, each a kernel at least."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        changed = function._schema.is_mutable
        self.count += changed or any(id(leaf.untyped_storage()) not in before for leaf in made)
        return result


@pytest.mark.parametrize("recurrent", ["mamba", "transformer", "lstm", "none"])
def test_flops_are_what_the_closed_forms_say(recurrent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpg.methods.rpg.models.recompute.VALUES_AT_ONCE", 2**12)
    model = generator(recurrent=recurrent)
    recompute_in(model)
    parts = parts_of(model.config, 7, Pass(B, L, K, recompute=True))
    kept = parts_of(model.config, 7, Pass(B, L, K))
    counter = _Launches()
    with counter:
        found = cost_of(lambda: step(model)).flops
    least = 0.1 if recurrent == "lstm" else 0.3  # of an LSTM there are fewer with CUDA's kernels
    assert least * counter.count < sum(part.launches for part in parts) < counter.count
    assert sum(part.flops for part in parts) == pytest.approx(found, rel=1e-3)
    assert 1 < found / sum(part.flops for part in kept) < 1.5  # of a width where the scan counts more than it does
