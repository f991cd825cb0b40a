"""Augmentation: the grouped AutoAugment against torchvision's own, image by image; flips; a draw for every image."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import AutoAugment as TorchvisionAutoAugment
from torchvision.transforms import AutoAugmentPolicy

from zoo.data.augment import AutoAugment, of_photo, random_crop, random_flip
from zoo.seeds import global_seed


def random_images(n: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def random_draws(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(n)
    policy = torch.arange(n) % 25  # all of them, equally often
    return policy, torch.rand(n, 2, generator=rng), torch.rand(n, 2, generator=rng) < 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_share_a_batch_do_not_touch_each_other(channels):
    images, (policy, chance, negative) = random_images(200, channels), random_draws(200)
    augmented = AutoAugment().apply_draws(images, policy, chance, negative)
    for i in range(200):
        one = slice(i, i + 1)
        alone = AutoAugment().apply_draws(images[one], policy[one], chance[one], negative[one])
        assert torch.equal(augmented[one], alone)


def test_each_image_gets_what_torchvision_makes_of_it_with_the_same_draws(monkeypatch):
    images, (policy, chance, negative) = random_images(400), random_draws(400)
    augmented = AutoAugment().apply_draws(images, policy, chance, negative)
    reference = TorchvisionAutoAugment(AutoAugmentPolicy.CIFAR10)  # transforms v1, which has a place to set the draws
    for i, image in enumerate(images):
        draws = (int(policy[i]), chance[i], (~negative[i]).long())
        monkeypatch.setattr(reference, "get_params", lambda _policies, draws=draws: draws)
        difference = (augmented[i].float() - reference(image).float()).abs().mean()
        assert difference < 0.5, (
            f"image {i}, {reference.policies[policy[i]]}"
        )  # grey levels: v1 and v2 round differently


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


def test_a_random_crop_is_a_window_of_the_padded_image_and_takes_them_all():
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand(600, 1, 4, 4)
    with global_seed(0, "crop"):
        crops = random_crop(images, 1)
    padded = torch.zeros(6, 6, dtype=torch.uint8)
    padded[1:5, 1:5] = images[0, 0]
    windows = {tuple(padded[y : y + 4, x : x + 4].flatten().tolist()) for y in range(3) for x in range(3)}
    assert {tuple(crop.flatten().tolist()) for crop in crops} == windows


def test_a_photo_comes_out_square_with_its_shorter_side_kept():
    pixels = torch.arange(60 * 40 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(60, 40, 3)
    photo = Image.fromarray(pixels.numpy())
    for name in ("none", "flip", "autoaugment", "randaugment"):
        image = of_photo(name, 40, "bilinear")(photo)
        assert (image.dtype, image.shape) == (torch.uint8, (3, 40, 40))
    centre = pixels.permute(2, 0, 1)[:, 10:50]
    assert torch.equal(of_photo("none", 40, "bilinear")(photo), centre)
