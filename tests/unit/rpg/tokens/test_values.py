"""Statistics of every value: against numpy over all tokens, and generated networks land where they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rpg.tokens.files import open_tokens, write_tokens
from rpg.tokens.layout import Layout
from rpg.tokens.values import ValueStatistics
from zoo.errors import Corrupt
from zoo.structure import Structure


def network(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    start = torch.Generator().manual_seed(99)
    weight = 100 + torch.randn(5, 7, generator=start) + 0.01 * torch.randn(5, 7, generator=rng)
    return {"weight": weight, "same": torch.randn(9, generator=start), "norm.running_var": torch.rand(6, generator=rng)}


ZOO = [network(seed) for seed in range(6)]


@pytest.fixture
def layout() -> Layout:
    return Layout.fit(Structure.of(ZOO[0]), lambda: ZOO, token_size=8)


def test_tokens_have_mean_zero_and_deviation_one_value_by_value(layout, tmp_path):
    values = ValueStatistics.fit(layout, iter(ZOO))
    plain = torch.stack([layout.encode(weights) for weights in ZOO]).double().numpy()
    np.testing.assert_allclose(values.mean, plain.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(values.std, plain.std(0), rtol=1e-5, atol=1e-7)
    write_tokens(tmp_path / "tokens.npy", layout, ZOO, len(ZOO), values)
    tokens = np.asarray(open_tokens(tmp_path / "tokens.npy", layout, len(ZOO)))
    varies = (layout.mask() & (values.std > 0)).numpy()
    assert varies.sum() == 5 * 7 + 6
    np.testing.assert_allclose(tokens.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(tokens.std(0), varies, atol=1e-4)


def test_restoring_is_the_inverse_in_any_window_and_what_never_changes_is_exact(layout):
    values = ValueStatistics.fit(layout, ZOO)
    for weights in ZOO:
        tokens = values.standardise(layout.encode(weights))
        windows = [range(3), range(3, layout.num_tokens)]
        restored = torch.cat([values.restore(tokens[w.start : w.stop], w) for w in windows])
        decoded = layout.decode(restored, {})
        for name, tensor in weights.items():
            torch.testing.assert_close(decoded[name], tensor, rtol=1e-5, atol=1e-6)
    noise = torch.randn(2, *tokens.shape)
    made = [layout.decode(t, {})["same"] for t in values.restore(noise, range(layout.num_tokens))]
    assert torch.equal(made[0], made[1])


def test_statistics_of_another_layout_are_corrupt(layout):
    values = ValueStatistics.fit(layout, ZOO)
    assert torch.equal(ValueStatistics.from_tensors(values.tensors(), layout).std, values.std)
    broken = [
        {"mean": values.mean},
        values.tensors() | {"std": values.std[1:]},
        values.tensors() | {"std": values.std.double()},
        values.tensors() | {"mean": torch.full_like(values.mean, torch.nan)},
    ]
    for tensors in broken:
        with pytest.raises(Corrupt, match="statistics of values"):
            ValueStatistics.from_tensors(tensors, layout)
