"""The chunked scan against the recurrence that it computes, and the Mamba-2 block against transformers, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rpg.methods.rpg.models.kernels import fast_scan
from rpg.methods.rpg.models.ssd import Mamba2, ssd_scan
from zoo.seeds import global_seed


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t and y_t = C_t h_t, one step after the other."""
    batch, length, heads, dim = x.shape
    state = x.new_zeros(batch, heads, dim, B.shape[-1])
    outputs = []
    for t in range(length):
        state = state * (dt[:, t] * A).exp()[..., None, None]
        state = state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None, :]
        outputs.append((state * C[:, t, None, None, :]).sum(-1))
    return torch.stack(outputs, dim=1)


def scan_inputs(length: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    batch, heads, dim, state = 2, 3, 4, 5
    inputs = [
        normal(batch, length, heads, dim),
        F.softplus(normal(batch, length, heads)),
        -normal(heads).exp(),
        normal(batch, length, state),
        normal(batch, length, state),
    ]
    return [tensor.requires_grad_() for tensor in inputs]


@pytest.mark.parametrize("length", [1, 5, 8, 9, 16, 31, 40])
@pytest.mark.parametrize("chunk_size", [1, 8, 256])
def test_scan_is_the_recurrence_with_its_gradients(length: int, chunk_size: int) -> None:
    inputs = scan_inputs(length)
    found, expected = ssd_scan(*inputs, chunk_size), recurrence(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found_gradients = torch.autograd.grad((found * weight).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(found_gradients, expected_gradients, rtol=1e-8, atol=1e-10)


def test_scan_survives_decays_that_underflow() -> None:
    x, dt, A, B, C = (tensor.detach().float() for tensor in scan_inputs(40))
    inputs = [x, dt * 50, A * 50, B, C]
    torch.testing.assert_close(ssd_scan(*inputs, 8), recurrence(*inputs), rtol=1e-4, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """The number of values in the largest tensor that is made inside."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize:
                self.numel = max(self.numel, tensor.numel())
        return result


def test_scan_makes_no_tensor_of_chunk_by_chunk_by_head_dimension() -> None:
    batch, length, heads, dim, state, chunk = 2, 64, 4, 128, 16, 16
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(batch, length, heads, dim, generator=rng, requires_grad=True)
    dt, A = torch.rand(batch, length, heads, generator=rng), -torch.rand(heads, generator=rng)
    B, C = torch.randn(2, batch, length, state, generator=rng)
    with LargestTensor() as largest:
        ssd_scan(x, dt, A, B, C, chunk).sum().backward()
    chunks = length // chunk
    allowed = batch * heads * max(length * chunk, length * dim, chunks * dim * state)
    assert largest.numel <= allowed < batch * heads * chunks * chunk * chunk * dim


@pytest.mark.gpu
@pytest.mark.parametrize("length", [1, 40, 256, 600])
def test_kernels_of_mamba_ssm_are_the_scan(length: int) -> None:
    scan = fast_scan()
    if scan is None:
        pytest.skip("mamba-ssm is not installed")
    rng = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 4, 64, generator=rng)
    dt, A = F.softplus(torch.randn(2, length, 4, generator=rng)), -torch.rand(4, generator=rng)
    B, C = torch.randn(2, 2, length, 32, generator=rng)
    results = []
    for function in (scan, lambda *inputs: ssd_scan(*inputs, 64)):
        inputs = [tensor.cuda().requires_grad_() for tensor in (x, dt, A, B, C)]
        y = function(*inputs)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < 5e-3 * expected.norm()  # the kernels multiply in TF32


@pytest.mark.parametrize("length", [1, 3, 16, 37])
def test_block_is_the_mamba2_of_transformers(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": 24, "num_heads": 6, "head_dim": 8, "state_size": 10, "conv_kernel": 4}
    config = Mamba2Config(**sizes, expand=2, n_groups=1, chunk_size=16, num_hidden_layers=1)
    with global_seed(0, length):
        reference = Mamba2Mixer(config, 0).double()
        block = Mamba2(d_model=24, d_state=10, d_conv=4, expand=2, head_dim=8, chunk_size=16).double()
        torch.nn.init.normal_(block.norm.weight)
        torch.nn.init.normal_(block.D)
        inputs = torch.randn(2, length, 24, dtype=torch.float64, requires_grad=True)
    reference.load_state_dict(block.state_dict(), strict=True)

    # transformers computes the scan and the norm in float32; here that name means float64.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)
    found, expected = block(inputs), reference(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    names = [name for name, _ in block.named_parameters()]
    found_gradients = torch.autograd.grad(found.square().sum(), [inputs, *map(block.get_parameter, names)])
    expected_gradients = torch.autograd.grad(expected.square().sum(), [inputs, *map(reference.get_parameter, names)])
    torch.testing.assert_close(found_gradients, expected_gradients, rtol=1e-8, atol=1e-10)


def test_parameters_are_those_of_mamba_ssm() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in Mamba2(256, 32).state_dict().items()}
    assert shapes == {
        "in_proj.weight": (1096, 256),
        "conv1d.weight": (576, 1, 4),
        "conv1d.bias": (576,),
        "dt_bias": (8,),
        "A_log": (8,),
        "D": (8,),
        "norm.weight": (512,),
        "out_proj.weight": (256, 512),
    }


def test_initialisation_covers_the_ranges_of_mamba_ssm() -> None:
    with global_seed(0):
        block = Mamba2(d_model=2048, d_state=4, head_dim=1)  # 4096 heads
    decay, dt = block.A_log.exp(), F.softplus(block.dt_bias)
    assert 1 <= decay.min() < 1.1
    assert 15.9 < decay.max() <= 16
    assert 0.999e-3 < dt.min() < 1.1e-3
    assert 0.09 < dt.max() < 0.1001
    assert dt.log().mean().item() == pytest.approx(torch.tensor([1e-3, 0.1]).log().mean().item(), abs=0.1)


def test_autocast_leaves_the_scan_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[object] = []

    def watched_scan(*inputs: Tensor | int) -> Tensor:
        y = ssd_scan(*inputs)
        inside.extend([torch.is_autocast_enabled("cpu"), y.dtype])
        return y

    monkeypatch.setattr("rpg.methods.rpg.models.ssd.ssd_scan", watched_scan)
    with global_seed(0):
        block, inputs = Mamba2(64, 16), torch.randn(2, 50, 64)
    exact = block(inputs)
    inside.clear()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = block(inputs)
    assert inside == [False, torch.float32]
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.02 * exact.norm()
