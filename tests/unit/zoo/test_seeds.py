import random

import numpy as np
import torch

from zoo.seeds import derive_seed, generator, global_seed, library_seed


def test_streams_are_a_function_of_seed_and_path():
    draws = {
        path: torch.rand(3, generator=generator(*path)).tolist()
        for path in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1")]
    }
    assert draws[(0, "a", 1)] == torch.rand(3, generator=generator(0, "a", 1)).tolist()
    assert len({tuple(values) for values in draws.values()}) == len(draws)


def test_seeds_stay_the_same_from_version_to_version():
    assert derive_seed(20, "collect", 3) == 363628589299815821


def test_the_global_generator_is_seeded_inside_and_restored_after():
    before = torch.get_rng_state()
    with global_seed(3, "x"):
        first = torch.rand(2)
    with global_seed(3, "x"):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generators_of_libraries_are_seeded_inside_and_restored_after():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: S311

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    draws = []
    for seed in (3, 3, 4):
        with library_seed(seed, "x"):
            draws.append(draw())
    assert draws[0] == draws[1]
    assert not set(draws[0]) & set(draws[2])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
