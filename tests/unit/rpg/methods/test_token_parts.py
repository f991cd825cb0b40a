"""Attention against torch's, NT-Xent against two loops, samples of densities against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity
from torch import nn

from evaluators.metrics import Metric
from rpg.methods.attention import Block, check_heads
from rpg.methods.contrastive import nt_xent
from rpg.methods.density import KernelDrawConfig, best, draw_code, placed
from zoo.manifest import Entry


@pytest.mark.parametrize(("activation", "bias"), [("relu", True), ("gelu", False)])
def test_a_block_is_torchs_encoder_layer(activation, bias):
    torch.manual_seed(0)
    block = Block(12, 3, 20, activation, bias, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=True, bias=bias
    )
    names = {
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.out": "self_attn.out_proj",
        "rise": "linear1",
        "fall": "linear2",
    }

    def named(name: str) -> str:
        for ours, their in names.items():
            if name.startswith(ours):
                return name.replace(ours, their)
        return name

    theirs.load_state_dict({named(name): value for name, value in block.state_dict().items()})
    tokens = torch.randn(2, 7, 12)
    torch.testing.assert_close(block(tokens), theirs(tokens))


def test_heads_have_to_share_the_width():
    with pytest.raises(ValueError, match="width = 10 is no multiple of heads = 4"):
        check_heads(10, 4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nt_xent_is_the_double_loop(count):
    rng = torch.Generator().manual_seed(count)
    first, second = torch.randn(2, count, 4, generator=rng, dtype=torch.float64)
    views = [*first, *second]

    def similar(a, b) -> float:
        return math.exp(float(a @ b / a.norm() / b.norm()) / 0.3)

    losses = []
    for i in range(2 * count):
        other = (i + count) % (2 * count)
        everyone = sum(similar(views[i], views[j]) for j in range(2 * count) if j != i)
        losses.append(-math.log(similar(views[i], views[other]) / everyone))
    assert float(nt_xent(first, second, 0.3)) == pytest.approx(sum(losses) / len(losses))


# Densities. Their shapes are those that the published code fits: for every value (hyper-representations), for every
# token (SANE) or one for all, each drawn from by scikit-learn with the same seed.

ANCHORS = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BANDWIDTH, DRAWS = 0.2, 40


def published(scope: str) -> np.ndarray:
    """scikit-learn's draws (DRAWS, 3, 4), every density seeded with 42."""
    anchors = ANCHORS.numpy()

    def drawn(values: np.ndarray) -> np.ndarray:
        return KernelDensity(kernel="gaussian", bandwidth=BANDWIDTH).fit(values).sample(DRAWS, random_state=42)

    if scope == "joint":
        return drawn(anchors.reshape(5, -1)).reshape(-1, 3, 4)
    if scope == "token":
        return np.stack([drawn(anchors[:, t]) for t in range(3)], 1)
    columns = [drawn(anchors[:, t, c : c + 1]) for t in range(3) for c in range(4)]
    return np.concatenate(columns, 1).reshape(-1, 3, 4)


@pytest.mark.parametrize(("scope", "shape"), [("joint", (3, 4)), ("token", (1, 4)), ("individual", (1, 1))])
def test_published_seeds_repeat_one_kernel_and_one_draw(scope, shape):
    """scikit-learn's own stream, put through `placed`, gives its samples; and ours have the same form."""
    rng = np.random.RandomState(42)
    picks = (rng.uniform(0, 1, DRAWS) * 5).astype(int)
    noise = rng.normal(size=(DRAWS, math.prod(shape)))
    expected = published(scope)
    for k in range(DRAWS):
        found = placed(ANCHORS, torch.tensor([[picks[k]]]), torch.tensor(noise[k]).view(shape), BANDWIDTH)
        np.testing.assert_allclose(found.numpy(), expected[k], atol=1e-12)
    request = KernelDrawConfig(bandwidth=BANDWIDTH, seeds="published")
    for k in range(5):
        code, (parent,) = draw_code(ANCHORS.float(), request, scope, k)
        jitter = (code - ANCHORS[parent]) / BANDWIDTH
        torch.testing.assert_close(jitter, jitter[: shape[0], : shape[1]].expand(3, 4), atol=1e-4, rtol=0)


def test_independent_seeds_draw_from_each_density():
    """Each value's mean and variance are those of its density, and values do not move together."""
    request = KernelDrawConfig(bandwidth=BANDWIDTH, seeds="independent")
    anchors = ANCHORS.float()
    codes = torch.stack([draw_code(anchors, request, "individual", k)[0] for k in range(4000)]).flatten(1)
    expected = anchors.flatten(1)
    variance = expected.var(0, correction=0) + BANDWIDTH**2
    assert ((codes.mean(0) - expected.mean(0)).abs() < 4 * (variance / 4000).sqrt()).all()
    torch.testing.assert_close(codes.var(0), variance, rtol=0.15, atol=0)
    correlations = torch.corrcoef(codes.T) - torch.eye(12)
    assert correlations.abs().max() < 5 / 4000**0.5
    token, parents = draw_code(anchors, request, "token", 0)
    assert len(parents) > 1
    joint, of_one = draw_code(anchors, request, "joint", 0)
    assert len(of_one) == 1
    alike = draw_code(anchors, request.model_copy(update={"seeds": "published"}), "joint", 0)[0]
    assert torch.equal(joint, alike)
    assert not torch.equal(joint, token)


def test_a_code_is_a_function_of_seed_and_number():
    request = KernelDrawConfig(bandwidth=0.1, seeds="independent", n=3)
    again = request.model_copy(update={"n": 9})
    codes = [draw_code(ANCHORS.float(), given, "token", 2)[0] for given in (request, again)]
    assert torch.equal(*codes)
    other = request.model_copy(update={"seed": 1})
    assert not torch.equal(codes[0], draw_code(ANCHORS.float(), other, "token", 2)[0])


def entry(k: int, **metrics: float) -> Entry:
    named = {name: Metric(name, value, 10, 0.0, name != "loss") for name, value in metrics.items()}
    return Entry(id=f"n{k}", file="f", sha256="0" * 64, seed=k, split="train", metrics=named)


def test_the_best_are_those_at_or_above_the_quantile():
    scores = np.random.RandomState(0).permutation(20).astype(float)
    entries = [entry(k, top1=score, loss=score) for k, score in enumerate(scores)]
    assert best(entries, 0.3) == list(np.flatnonzero(scores >= np.quantile(scores, 0.7)))
    losses = [entry(k, loss=score) for k, score in enumerate(scores)]
    assert best(losses, 0.3) == list(np.flatnonzero(-scores >= np.quantile(-scores, 0.7)))
    assert best([entry(0), entry(1)], 1.0) == [0, 1]
    imported = [entry(k, train_acc=-score, val_acc=score, test_acc=-score) for k, score in enumerate(scores)]
    assert best(imported, 0.3) == best(entries, 0.3)
    with pytest.raises(ValueError, match=r"no validation scores"):
        best([entry(k, acc=score, test_acc=score) for k, score in enumerate(scores)], 0.3)
    with pytest.raises(ValueError, match=r"no validation scores.*--set method\.best=1"):
        best([entry(0, top1=1.0), entry(1, other=1.0)], 0.3)
