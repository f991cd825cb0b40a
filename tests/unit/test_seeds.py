import torch

from zoo.seeds import derive_seed, generator, global_seed


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
