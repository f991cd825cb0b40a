"""p-diff behind the door for methods: an autoencoder of flat vectors and a diffusion of its codes.

Files in the run, beside those of every method on vectors (rpg.methods.vectors):

    autoencoder.safetensors   unless there is none
    scale.safetensors         mean and deviation of the codes
    denoiser.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rpg.config import DiffusionConfig, check_steps
from rpg.diffusion import make_scheduler
from rpg.methods.base import About, DrawConfig, MethodConfig, TrainingSet
from rpg.methods.batches import check_several
from rpg.methods.latents import (
    DiffusionDraw,
    LatentMethod,
    Scale,
    batch_of,
    code_facts,
    encoded,
    fitted_scale,
    noise_error,
    rows,
    sample_latents,
    scale_path,
    vector_size,
)
from rpg.methods.measured import DrawCost, StageCost, draw_cost, stage_cost
from rpg.methods.p_diff.modules import Autoencoder, Denoiser, reconstruction_error
from rpg.methods.training import Optimisation, Trainer
from rpg.methods.vectors import Drawn, Vectors
from zoo.seeds import generator, global_seed
from zoo.structure import Structure

Width: TypeAlias = Annotated[int, Field(gt=0, le=2**16)]
Noise: TypeAlias = Annotated[float, Field(ge=0)]
MOST_HALVINGS = 6  # of vectors, which are a multiple of 64 long


class AutoencoderConfig(Optimisation):
    """The autoencoder and how it is trained: `channels` of the encoder's convolutions, `code` values of a code, noise
    on vectors and codes while training (deviations). `batch_statistics` is what the published code does by mistake
    (rpg.methods.p_diff.modules.Autoencoder).
    """

    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_HALVINGS)] = (64, 128, 256, 256, 32)
    code: Annotated[int, Field(gt=0, le=2**20)] = 128
    kernel_size: Width = 7
    input_noise: Noise = 1e-3
    latent_noise: Noise = 0.1
    batch_statistics: bool = False

    @model_validator(mode="after")
    def _odd(self) -> Self:
        _check_kernel(self.kernel_size)
        return self


class DenoiserConfig(Optimisation):
    """The denoiser of the codes and how it is trained."""

    channels: Annotated[tuple[Width, ...], Field(min_length=3, max_length=256)] = (
        1,
        64,
        128,
        256,
        512,
        256,
        128,
        64,
        1,
    )
    kernel_size: Width = 7

    @model_validator(mode="after")
    def _mirrored(self) -> Self:
        if self.channels[0] != 1 or self.channels != self.channels[::-1]:
            raise ValueError(f"channels = {list(self.channels)} must start and end with 1 and read the same backwards")
        _check_kernel(self.kernel_size)
        return self


def _check_kernel(size: int) -> None:
    if size % 2 == 0:
        raise ValueError(f"kernel_size = {size} must be odd, so that lengths stay")


class PDiffConfig(MethodConfig):
    """What methods have that diffuse codes of this autoencoder; `autoencoder: null` diffuses the vectors themselves.
    `rescale_latents` takes the mean of each value off the codes and divides by their deviation, so that they are what a
    diffusion expects; the published code leaves them as they are.
    """

    draw_config: ClassVar[type[DrawConfig]] = DiffusionDraw

    autoencoder: AutoencoderConfig | None
    denoiser: DenoiserConfig
    diffusion: DiffusionConfig = DiffusionConfig()
    rescale_latents: bool = True

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        assert isinstance(request, DiffusionDraw)
        check_steps(self.diffusion, request.steps)


class Config(PDiffConfig):
    """Section `method:`."""

    name: Literal["p-diff"]

    def build(self) -> PDiff:
        return PDiff(self)


class PDiff(LatentMethod):
    """Neural network diffusion: a network is a vector, an autoencoder makes codes of vectors, a diffusion model learns
    the codes, and new networks are decoded from codes that it makes.
    """

    about: ClassVar[About] = About(
        what="latent diffusion on flat vectors: a 1-D convolutional autoencoder and a diffusion of its codes",
        source="Neural Network Diffusion (p-diff), Wang et al. 2024, https://arxiv.org/abs/2402.13144",
        suits="any task and architecture up to some 100,000 values, or a part of a network (task.trainable)",
        trained=True,
    )
    about_memory = "set smaller method.autoencoder.channels, code or batch_size"
    typical: ClassVar[int] = 0
    """How many values the denoiser is told of a network, for an estimate, which knows no zoo."""

    def __init__(self, config: PDiffConfig) -> None:
        super().__init__()
        self.config = config
        self.diffusion = config.diffusion

    def refuse(self, data: TrainingSet) -> None:
        check_several(data)
        settings, size = self.config.autoencoder, vector_size(data.zoo.structure)
        if settings and settings.batch_statistics and size >> len(settings.channels) < 2:
            raise ValueError(
                f"{len(settings.channels)} autoencoder.channels halve vectors of {size} values down to one, of which a "
                "network alone has no batch statistics; set fewer, or use "
                "--set method.autoencoder.batch_statistics=false"
            )

    def told(self, data: TrainingSet) -> Tensor | None:
        """What the denoiser is told of each training network, float32 (N, values): nothing."""
        return None

    def denoiser(self, code: int, told: int) -> Denoiser:
        """One for codes of so many values, not yet trained, which is told so many."""
        settings = self.config.denoiser
        with global_seed(settings.seed, "denoiser"):
            return Denoiser(code, settings.channels, settings.kernel_size)

    def stream(self, request: DiffusionDraw) -> tuple[str, ...]:
        """What the random numbers of a network that is drawn are named, beside its number."""
        return ("p-diff",)

    def drawing(
        self, vectors: Vectors, request: DiffusionDraw, code: int, device: torch.device
    ) -> tuple[Denoiser, Tensor]:
        """The trained denoiser, and what it is told of a network that is drawn, (1, L): nothing."""
        denoiser = self.trained(vectors, "denoiser", lambda: self.denoiser(code, 0), device)
        return denoiser, torch.zeros(1, code, device=device)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        codes, facts = self._codes(vectors, trainer)
        scale = fitted_scale(scale_path(vectors.run), codes, self.config.rescale_latents)
        trainer.keep(scale_path(vectors.run))
        settings, mask = self.config.denoiser, self._mask(vectors, trainer.device)
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        told = self.told(data)

        def loss(model: nn.Module, step: int) -> Tensor:
            rng = generator(settings.seed, "denoiser", step)
            index = batch_of(len(codes), settings.batch_size, rng)
            latents = scale.standardise(rows(codes, index)).to(trainer.device)
            about = [] if told is None else [told[index].to(trainer.device)]
            return noise_error(model, schedule, latents, rng, *about, mask=mask)

        denoiser = self.denoiser(codes.shape[1], 0 if told is None else told.shape[1])
        trainer.train("denoiser", denoiser, settings, loss)
        return {**facts, **code_facts(codes, self.config.rescale_latents)}

    def _codes(self, vectors: Vectors, trainer: Trainer) -> tuple[np.ndarray, dict[str, JsonValue]]:
        """The training networks' codes, float32 (N, L), by an autoencoder that is trained first, and what is worth
        knowing of it.
        """
        given, settings = vectors.open(), self.config.autoencoder
        if settings is None:
            return given, {}

        def loss(model: nn.Module, step: int) -> Tensor:
            assert isinstance(model, Autoencoder)
            rng = generator(settings.seed, "autoencoder", step)
            batch = rows(given, batch_of(len(given), settings.batch_size, rng)).to(trainer.device)
            return reconstruction_error(model, batch, settings.input_noise, settings.latent_noise, rng)

        model = self._autoencoder(vectors.size)
        trainer.train("autoencoder", model, settings, loss)
        codes, error = encoded(vectors, model.encode, model.decode, settings.batch_size, trainer.device)
        return codes, {"autoencoder_error": error}

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, DiffusionDraw)
        settings, count = self.config.autoencoder, len(numbers)
        if settings and settings.batch_statistics:  # a network depends on its whole group, whatever `n` is
            numbers = range(numbers[0], numbers[0] + self.group)
        size = settings.code if settings else vectors.size
        scale = Scale.load(scale_path(vectors.run), size)
        denoiser, told = self.drawing(vectors, request, size, device)
        streams = [generator(request.seed, *self.stream(request), k) for k in numbers]
        with torch.no_grad():
            latents = sample_latents(
                denoiser,
                self.diffusion,
                request,
                told.expand(len(numbers), -1),
                streams,
                mask=self._mask(vectors, device),
            )
            found = scale.restore(latents)
            if settings:
                found = self._trained_autoencoder(vectors, device).decode(found)
        return Drawn(found[:count], [()] * count)

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        """All of it, where there is no autoencoder."""
        if self.config.autoencoder is None:
            return given
        model = self._trained_autoencoder(vectors, device)
        with torch.no_grad():
            return model.decode(model.encode(given.to(device)))

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        size, found = vector_size(structure), []
        self._check_batches(size)
        if settings := self.config.autoencoder:

            def reconstruction(model: Autoencoder) -> Tensor:
                vectors = torch.zeros(settings.batch_size, size)
                return reconstruction_error(
                    model, vectors, settings.input_noise, settings.latent_noise, torch.Generator()
                )

            found.append(stage_cost("autoencoder", lambda: self._autoencoder(size), reconstruction, settings))
        code = settings.code if settings else size
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        def denoising(model: Denoiser) -> Tensor:
            latents = torch.zeros(self.config.denoiser.batch_size, code)
            about = [torch.zeros(len(latents), self.typical)] if self.typical else []
            return noise_error(model, schedule, latents, torch.Generator(), *about)

        kept = 4 * checkpoints * code if settings else 0  # codes; vectors stay on disk
        denoiser = partial(self.denoiser, code, self.typical)
        return [*found, stage_cost("denoiser", denoiser, denoising, self.config.denoiser, kept)]

    def _check_batches(self, size: int) -> None:
        """Raise ValueError where a batch holds one value, of which BatchNorm knows no deviation."""
        settings, denoiser = self.config.autoencoder, self.config.denoiser
        if settings and settings.batch_size * (size >> len(settings.channels)) == 1:
            raise ValueError(
                f"{len(settings.channels)} autoencoder.channels halve vectors of {size} values down to one, of which a "
                "batch of one network has no batch statistics; use --set method.autoencoder.batch_size=2, or more"
            )
        if denoiser.batch_size * (settings.code if settings else size) == 1:
            raise ValueError(
                "a code of one value in batches of one network has no batch statistics; use "
                "--set method.denoiser.batch_size=2, or more, or a larger method.autoencoder.code"
            )

    def draw_cost(self, structure: Structure, request: DiffusionDraw) -> DrawCost:
        settings, size = self.config.autoencoder, vector_size(structure)
        code, group = settings.code if settings else size, self.group

        def estimate(model: Denoiser) -> Tensor:
            noisy, told = (torch.zeros(group, code) for _ in range(2))
            return model.denoise(noisy, model.time_embedding(torch.zeros(1)), told)

        found = draw_cost(partial(self.denoiser, code, self.typical), estimate, group, request.steps)
        if settings is None:
            return found
        decoded = draw_cost(
            lambda: self._autoencoder(size), lambda model: model.decode(torch.zeros(group, code)), group
        )
        return found.then(decoded)

    def _autoencoder(self, size: int) -> Autoencoder:
        settings = self.config.autoencoder
        assert settings
        with global_seed(settings.seed, "autoencoder"):
            return Autoencoder(size, settings.channels, settings.code, settings.kernel_size, settings.batch_statistics)

    def _trained_autoencoder(self, vectors: Vectors, device: torch.device) -> Autoencoder:
        return self.trained(vectors, "autoencoder", lambda: self._autoencoder(vectors.size), device)

    def _mask(self, vectors: Vectors, device: torch.device) -> Tensor | None:
        """Which values of what is diffused are a network's, bool (L,), where some are padding."""
        return None if self.config.autoencoder else vectors.layout.mask().view(-1).to(device)
