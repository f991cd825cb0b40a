"""Augmentation: the grouped AutoAugment against torchvision's own, image by image; flips; draws of its own per image."""

import pytest
import torch
from torchvision.transforms import AutoAugment as TorchvisionAutoAugment
from torchvision.transforms import AutoAugmentPolicy

from zoo.seeds import global_seed
from zoo.tasks.augment import AutoAugment, random_flip


def random_images(n: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_what_torchvision_makes_of_each_image_with_the_same_draws(channels, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    images = random_images(200, channels)
    policy = torch.arange(200) % 25  # every policy eight times
    chance, negative = torch.rand(200, 2, generator=rng), torch.rand(200, 2, generator=rng) < 0.5
    augmented = AutoAugment().apply_draws(images, policy, chance, negative)

    reference = TorchvisionAutoAugment(AutoAugmentPolicy.CIFAR10)
    for i, image in enumerate(images):
        draws = (int(policy[i]), chance[i], (~negative[i]).long())
        monkeypatch.setattr(reference, "get_params", lambda _policies, draws=draws: draws)
        assert torch.equal(augmented[i], reference(image)), f"image {i}, policy {policy[i]}"


def test_images_of_one_batch_get_draws_of_their_own():
    with global_seed(0):
        augmented = AutoAugment()(random_images(1).expand(100, 3, 32, 32))
    assert len({tuple(image.flatten().tolist()) for image in augmented}) > 30


def test_draws_are_a_function_of_the_global_seed_and_the_input_is_kept():
    images = random_images(50)
    before, threads = images.clone(), torch.get_num_threads()
    outputs = []
    for seed in (0, 0, 1):
        with global_seed(seed):
            outputs.append(AutoAugment()(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(images, before)
    assert torch.get_num_threads() == threads


def test_about_half_of_the_images_are_flipped_and_the_rest_kept():
    images = random_images(400)
    with global_seed(0):
        flipped = random_flip(images)
    kept_B = (flipped == images).flatten(1).all(1)
    mirrored_B = (flipped == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(kept_B, ~mirrored_B)
    assert 150 < int(mirrored_B.sum()) < 250
