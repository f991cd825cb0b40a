"""What methods share that diffuse whole networks or codes of them: the codes' scale, a diffusion's loss and its
samples, refusing networks too large for a machine, and requests for binary tasks.

Legend: N networks, L values of a code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field, JsonValue
from torch import Tensor

from rpg.config import DiffusionConfig, Sampler
from rpg.devices import Device
from rpg.diffusion import PUBLISHED, Denoiser, Objective, Scheduler, draw_noise, make_scheduler, sample, squared_error
from rpg.methods.base import Asked, DrawConfig, Estimate, Machine
from rpg.methods.measured import DrawCost, estimated
from rpg.methods.vectors import PAD, Codec, VectorMethod, Vectors
from zoo.checkpoint import load_tensors, save_tensors
from zoo.conditions import check_condition
from zoo.derive.mixtures import dimensions
from zoo.errors import Corrupt
from zoo.structure import Structure

if TYPE_CHECKING:
    from rpg.run import Run


class DiffusionDraw(DrawConfig):
    """Section `generate:` of methods that diffuse: `sampler` with so many `steps` (`rpg.diffusion.make_scheduler`)."""

    sampler: Sampler = "ddpm"
    steps: Annotated[int, Field(gt=0, le=2**20)] = 1000


class TaskDraw(DiffusionDraw):
    """The same of methods that are told a binary task: `n` networks for each of these `conditions`."""

    conditions: tuple[Annotated[str, AfterValidator(check_condition)], ...] = ()

    def asked(self) -> Sequence[Asked]:
        return [
            Asked(self.model_copy(update={"conditions": (condition,)}), f"generated-{condition}", condition)
            for condition in dict.fromkeys(self.conditions)
        ]


@dataclass(frozen=True, eq=False)
class Scale:
    """codes = mean + deviation * latents; mean float32 (L,), deviation float32 ()."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, codes: Iterable[Tensor], noise: float = 0.0) -> Scale:
        """Of codes (L,): the mean of each value, and one deviation for all of them over the networks, in float64; 1 for
        codes that are all equal. One for each value would blow up those that hold nothing but an encoder's noise.
        `noise` is the variance of what will be added to codes, as a VAE does.
        """
        total, squares, count = torch.zeros(()), torch.zeros(()), 0
        for count, code in enumerate(codes, 1):
            value = code.double()
            before = total / max(count - 1, 1)
            total = total + value
            squares = squares + (value - before) * (value - total / count)  # Welford 1962
        deviation = (squares.mean() / count + noise).sqrt().float()
        return cls((total / count).float(), deviation if deviation > 0 else torch.ones(()))

    @classmethod
    def plain(cls, size: int) -> Scale:
        """Latents are the codes of `size` values themselves."""
        return cls(torch.zeros(size), torch.ones(()))

    def standardise(self, codes: Tensor) -> Tensor:
        """Codes (N, L) -> latents (N, L)."""
        return (codes - self.mean) / self.deviation

    def restore(self, latents: Tensor) -> Tensor:
        """The inverse, on the latents' device."""
        return self.mean.to(latents.device) + self.deviation.to(latents.device) * latents

    def save(self, path: Path) -> None:
        save_tensors(path, {"mean": self.mean, "deviation": self.deviation})

    @classmethod
    def load(cls, path: Path, size: int) -> Scale:
        """Raises Corrupt for anything but the scale of codes of `size` values."""
        tensors = load_tensors(path)
        if {name: tensor.shape for name, tensor in tensors.items()} != {"mean": (size,), "deviation": ()}:
            raise Corrupt(f"{path} is not the scale of codes of {size} values; remove {path.parent} and train again")
        return cls(**tensors)


def noise_error(
    denoiser: Callable[..., Tensor],
    schedule: Scheduler,
    latents: Tensor,
    rng: torch.Generator,
    *condition: Tensor,
    mask: Tensor | None = None,
    objective: Objective = PUBLISHED,
) -> Tensor:
    """The mean squared error of what is estimated, by default the noise, over the values of latents (N, L) at random
    levels, a scalar: of those that `mask`, bool (L,), keeps, where there is one.
    """
    levels, noise = (drawn.to(latents.device) for drawn in draw_noise(schedule, len(latents), latents.shape[1], rng))
    kept = torch.ones_like(latents, dtype=torch.bool) if mask is None else mask.expand_as(latents)
    count = len(latents) * (latents.shape[1] if mask is None else int(mask.sum()))
    total = squared_error(denoiser, schedule, latents, kept, levels, noise, *condition, objective=objective)
    return total / count


def sample_latents(
    denoiser: Denoiser,
    diffusion: DiffusionConfig,
    request: DiffusionDraw,
    given: Tensor,
    generators: Sequence[torch.Generator],
    mask: Tensor | None = None,
    objective: Objective = PUBLISHED,
) -> Tensor:
    """Latents (N, L) out of noise, all together, each from its own generator; `given` (N, L) is what the denoiser is
    told, `mask` and `objective` those of `noise_error`.
    """
    scheduler = make_scheduler(diffusion, request.sampler, request.steps)
    kept = torch.ones(1, dtype=torch.bool) if mask is None else mask
    return sample(denoiser, scheduler, given, kept, generators, chunk_size=len(given), objective=objective)


def batch_of(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Which of `count` networks a step takes: int64 (size,), with replacement."""
    return torch.randint(count, (size,), generator=rng)


def vector_size(structure: Structure) -> int:
    """How long the vectors of networks of this structure are (rpg.methods.vectors)."""
    return -(-dimensions(structure) // PAD) * PAD


class DiffusionMethod(VectorMethod):
    """A VectorMethod that trains modules one after the other, of which the last one diffuses what the first make of
    vectors, or vectors themselves.
    """

    diffusion: DiffusionConfig

    @abstractmethod
    def draw_cost(self, structure: Structure, request: DiffusionDraw) -> DrawCost:
        """What drawing costs."""

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        return sum(asked.request.n for asked in request.asked())

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        assert isinstance(request, DiffusionDraw)
        stages, draw = self.stages(structure, checkpoints), self.draw_cost(structure, request)
        return estimated(stages, draw, device, dimensions(structure))


class LatentMethod(DiffusionMethod, Codec):
    """A DiffusionMethod that encodes vectors first."""


def scale_path(run: Run) -> Path:
    """Where a run keeps the scale of its codes."""
    return run.path / "scale.safetensors"


@torch.no_grad()
def encoded(
    vectors: Vectors,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
) -> tuple[np.ndarray, float]:
    """What `encode` makes of the training networks' vectors (n, D), so many at a time, float32 (N, ...), and the mean
    squared error of what `decode` makes of it, over the networks' values.
    """
    given, found, error, values = vectors.open(), [], 0.0, vectors.layout.mask().flatten().to(device)
    for index in torch.arange(len(given)).split(batch_size):
        batch = rows(given, index).to(device)
        codes = encode(batch)
        error += (decode(codes) - batch)[:, values].square().sum().item()  # not of padding
        found.append(codes.cpu())
    return torch.cat(found).numpy(), error / (len(given) * vectors.values)


def fitted_scale(path: Path, codes: np.ndarray, rescale: bool, noise: float = 0.0) -> Scale:
    """The scale of codes (N, L) to which noise of this variance is added, or that of latents which are the codes
    themselves; kept at `path`.
    """
    scale = Scale.of(_each(codes), noise) if rescale else Scale.plain(codes.shape[1])
    if not path.is_file():
        scale.save(path)
    return scale


def code_facts(codes: np.ndarray, rescaled: bool) -> dict[str, JsonValue]:
    """What codes (N, L) were like, for people: users of latent diffusion fail most often where these are far from 1."""
    deviation = Scale.of(_each(codes)).deviation.item()
    largest = max(code.abs().max().item() for code in _each(codes))
    return {"latent_deviation": deviation, "largest_latent": largest, "latents_rescaled": rescaled}


def _each(codes: np.ndarray) -> Iterator[Tensor]:
    return (rows(codes, torch.tensor([k]))[0] for k in range(len(codes)))


def rows(array: np.ndarray, index: Tensor) -> Tensor:
    """These rows of an array, which may be a file: (len(index), ...)."""
    return torch.from_numpy(array[index.numpy()])
