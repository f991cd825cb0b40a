"""Refinement on images: orders only, never worse on images that were not used, and better where units were mixed up."""

from dataclasses import replace
from itertools import count, repeat

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from symmetry_cases import case, copies, random_weights
from zoo.seeds import generator
from zoo.symmetry.action import act, identity, random_element
from zoo.symmetry.assignment import assign
from zoo.symmetry.refine import Images, Refinement, mean_loss, refine, sinkhorn


def test_sinkhorn_gives_doubly_stochastic_matrices_near_an_order():
    logits = torch.randn((3, 5, 5), generator=generator(0, "logits"), dtype=torch.float64)
    soft = sinkhorn(logits)
    torch.testing.assert_close(soft.sum(1), torch.ones(3, 5, dtype=torch.float64))
    torch.testing.assert_close(soft.sum(2), torch.ones(3, 5, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    order = assign(logits)
    hard = torch.zeros_like(soft).scatter_(2, order[..., None], 1)
    torch.testing.assert_close(sinkhorn(logits + 40 * hard), hard, rtol=0, atol=1e-6)


def setting(mixed_up):
    """Copies of one network; in half of them two hidden units have changed places, if they are mixed up."""
    network, build, _ = case("relu")
    specification = build(network)
    networks = copies(random_weights(network), 6, noise=0.02)
    element = identity(specification, 6)
    if mixed_up:
        name = next(iter(specification.groups))
        element[name][::2, [0, 1]] = element[name][::2, [1, 0]]
    inputs = torch.randn((600, 12), generator=generator(1, "inputs"), dtype=torch.float64)
    first = {name: tensor[0] for name, tensor in networks.items()}
    labels = functional_call(network, first, (inputs,)).argmax(1)

    def loss(weights, x, y):
        return F.cross_entropy(functional_call(network, weights, (x,)), y)

    def batches(first):
        for step in count(first):
            chosen = torch.randint(400, (100,), generator=generator(2, "batches", step))
            yield inputs[chosen], labels[chosen]

    return specification, networks, element, Images(loss, batches, (inputs[400:], labels[400:]))


def test_units_that_changed_places_are_put_back():
    specification, networks, element, images = setting(mixed_up=True)
    refined, before, after = refine(specification, networks, element, images, Refinement(steps=150), seed=0)
    assert after < before
    assert mean_loss(specification, networks, refined, images, seed=0) == pytest.approx(after)
    never_mixed = mean_loss(specification, networks, identity(specification, 6), images, seed=0)
    assert after - never_mixed < 0.3 * (before - never_mixed)
    moved = act(specification, refined, networks)
    one, other = (
        functional_call(case("relu")[0].double(), {n: t[3] for n, t in w.items()}, images.held_out[:1])
        for w in (moved, networks)
    )
    torch.testing.assert_close(one, other)  # still the same functions


def test_what_is_not_better_is_not_kept():
    specification, networks, element, images = setting(mixed_up=False)
    calls = []

    def useless(weights, x, y):  # rewards movement in training, and is worse for any other order on held-out images
        calls.append(len(x))
        first = weights["1.weight"]
        drift = (first - networks["1.weight"].mean(0)).square().sum()
        return drift if len(x) == len(images.held_out[0]) else -drift

    refined, before, after = refine(
        specification,
        networks,
        element,
        Images(useless, images.batches, images.held_out),
        Refinement(steps=60, learning_rate=0.5),
        seed=0,
    )
    assert after == before
    assert all(torch.equal(refined[name], element[name]) for name in element)
    assert len(calls) > 60


def test_interrupted_it_goes_on_to_the_same_orders(tmp_path, monkeypatch):
    specification, networks, element, images = setting(mixed_up=True)
    config = Refinement(steps=40, learning_rate=0.3)
    whole, *losses = refine(specification, networks, element, images, config, 0)
    monkeypatch.setattr("zoo.symmetry.refine.STATE_SECONDS", 0)
    state, left = tmp_path / "state.safetensors", []

    def ends(first):
        for step, batch in enumerate(images.batches(first), first):
            if step == 17:
                raise KeyboardInterrupt
            yield batch

    def goes_on(first):
        left.append(first)
        return images.batches(first)

    with pytest.raises(KeyboardInterrupt):
        refine(specification, networks, element, replace(images, batches=ends), config, 0, state)
    parts, *others = refine(specification, networks, element, replace(images, batches=goes_on), config, 0, state)
    assert left == [17]
    assert others == losses
    assert not torch.equal(whole["1"], element["1"])
    assert all(torch.equal(parts[name], whole[name]) for name in element)


def test_heads_and_rotations_stay_as_they_were():
    network, build, _ = case("vit")
    specification = build(network)
    networks = copies(random_weights(network), 3, noise=0.1)
    element = random_element(specification, 3, generator(0, "element"))
    images = torch.randn((4, 3, 32, 32), generator=generator(0, "images"), dtype=torch.float64)

    def loss(weights, x, y):
        return F.cross_entropy(functional_call(network, weights, (x,)), y)

    batch = images, torch.tensor([0, 1, 2, 3])
    refined, *_ = refine(
        specification, networks, element, Images(loss, lambda first: repeat(batch), batch), Refinement(steps=2), seed=0
    )
    kept = [name for name in element if "attn" in name]
    assert kept
    assert all(torch.equal(refined[name], element[name]) for name in kept if name.endswith(("heads", "qk", "vo")))
