"""Random augmentation, with a draw of its own for every image: of small images as a batch, of photographs one by one.
torchvision is imported here only.

All draws come from torch's global generator; callers seed it around a batch or an image (zoo.seeds.cpu_seed).

Shape suffixes: B images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

Name = Literal["none", "flip", "autoaugment", "randaugment"]


def of_batch(name: Name, crop_padding: int) -> Callable[[Tensor], Tensor]:
    """The augmentation of small images: uint8 (B, C, H, W) -> same.

    `autoaugment` and `randaugment` flip, too; a crop of the padded image, where asked for, comes first. RandAugment
    goes through the batch image by image.
    """
    steps: list[Callable[[Tensor], Tensor]] = []
    if crop_padding:
        steps.append(lambda images: random_crop(images, crop_padding))
    if name != "none":
        steps.append(random_flip)
    if name == "autoaugment":
        steps.append(AutoAugment())
    if name == "randaugment":
        one = v2.RandAugment()
        steps.append(lambda images: torch.stack([one(image) for image in images]))

    def augment(images: Tensor) -> Tensor:
        for step in steps:
            images = step(images)
        return images

    return augment


def of_photo(name: Name, size: int, interpolation: str) -> Callable[[Image.Image], Tensor]:
    """The augmentation of photographs of any size: PIL image -> uint8 (3, size, size).

    The shorter side is resized to `size`, then a random crop; as RPG's published code does, and unlike timm's, whose
    crops down to 8% of the picture serve training from scratch. `none` takes the centre.
    """
    steps: list[Callable[[Image.Image], Image.Image]] = [v2.Resize(size, InterpolationMode(interpolation))]
    steps.append(v2.CenterCrop(size) if name == "none" else v2.RandomCrop(size))
    if name != "none":
        steps.append(v2.RandomHorizontalFlip())
    if name == "autoaugment":
        steps.append(v2.AutoAugment(AutoAugmentPolicy.IMAGENET))
    if name == "randaugment":
        steps.append(v2.RandAugment())
    return v2.Compose([*steps, v2.PILToTensor()])


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Pad each image with black by `padding` on every side and cut its old size out of it, anywhere:
    (B, C, H, W) -> same, a new tensor.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [padding] * 4)
    corner_B2 = torch.randint(2 * padding + 1, (len(images), 2)).tolist()
    crops = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corner_B2, strict=True)]
    return torch.stack(crops)


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2: (B, C, H, W) -> same, a new tensor."""
    flipped_B = torch.rand(len(images)) < 0.5
    return torch.where(flipped_B[:, None, None, None], images.flip(-1), images)


class AutoAugment(v2.AutoAugment):
    """AutoAugment with the CIFAR-10 policy (Cubuk et al., 2019, https://arxiv.org/abs/1805.09501).

    torchvision's class treats a batch as one image: one draw for all. Here every image has its own, and the images
    that drew the same operation go through it together, which is several times faster than one by one.
    """

    def __init__(self) -> None:
        super().__init__(AutoAugmentPolicy.CIFAR10)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) -> same, a new tensor."""
        policy_B = torch.randint(len(self._policies), (len(images),))
        chance_B2 = torch.rand(len(images), 2)
        negative_B2 = torch.rand(len(images), 2) < 0.5
        with _one_thread():
            return self.apply_draws(images, policy_B, chance_B2, negative_B2)

    def apply_draws(self, images: Tensor, policy: Tensor, chance: Tensor, negative: Tensor) -> Tensor:
        """Augment with given draws: `policy` int64 (B,); for its two operations, `chance` float (B, 2), which uses
        the operation if it is at most the operation's probability, and `negative` bool (B, 2), the magnitude's sign.
        """
        images = images.clone()
        for number, operations in enumerate(self._policies):
            for slot, (name, probability, level) in enumerate(operations):
                magnitude, signed = self._magnitude(name, level, images)
                used_B = (policy == number) & (chance[:, slot] <= probability)
                minus_B = used_B & negative[:, slot] & signed
                for value, chosen_B in ((magnitude, used_B & ~minus_B), (-magnitude, minus_B)):
                    index = chosen_B.nonzero().squeeze(1)
                    if len(index):
                        images[index] = self._apply_image_or_video_transform(
                            images[index], name, value, self.interpolation, self._fill
                        )
        return images

    def _magnitude(self, name: str, level: int | None, images: Tensor) -> tuple[float, bool]:
        """An operation's magnitude, and whether it comes with both signs."""
        magnitudes, signed = self._AUGMENTATION_SPACE[name]
        bins = magnitudes(10, *images.shape[-2:])
        return (0.0 if bins is None else float(bins[level])), signed


@contextmanager
def _one_thread() -> Iterator[None]:
    """For many small operations: they take longer on several threads, and far longer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
