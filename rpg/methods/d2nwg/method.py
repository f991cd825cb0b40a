"""D2NWG behind the door for methods: a variational autoencoder of whole vectors and a diffusion of its codes that is
told the data set.

Files in the run, beside those of every method on vectors (rpg.methods.vectors):

    images.safetensors        training images of every class, from which drawing takes its own
    autoencoder.safetensors
    scale.safetensors         mean and deviation of the codes
    denoiser.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from rpg.diffusion import make_scheduler
from rpg.methods.base import About, DrawConfig, Machine, TrainingSet
from rpg.methods.d2nwg.config import Config
from rpg.methods.d2nwg.dataset import NAME, embeddings, kept_images, load_bank, task_with_images
from rpg.methods.d2nwg.networks import Autoencoder, Denoiser, variational_loss
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
from rpg.methods.training import Trainer
from rpg.methods.vectors import Drawn, Vectors
from zoo.checkpoint import save_tensors
from zoo.seeds import generator, global_seed
from zoo.structure import Structure

if TYPE_CHECKING:
    from rpg.run import Run


class D2NWG(LatentMethod):
    """Data-set-conditioned diffusion. A network is drawn for a data set, of which the denoiser sees a few images: here
    the zoo's own, since a zoo has one task, drawn anew for every network.

    The published numbers are the mean of the best 3 of 50 draws, by their accuracy on test images: a selection, which
    says what 50 tries give and not what the generator gives. What is drawn here is all counted.
    """

    about: ClassVar[About] = About(
        what="latent diffusion told the data set: a convolutional VAE of whole vectors, a U-Net, means of class images",
        source="Diffusion-based Neural Network Weights Generation (D2NWG), Soro et al. 2024, "
        "https://arxiv.org/abs/2402.18153",
        suits="zoos of one data set of small labelled images, up to some 10 million values in chunks",
        trained=True,
    )
    about_memory = "set method.autoencoder.chunk, or a smaller width or batch_size"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.diffusion = config.diffusion

    def refuse(self, data: TrainingSet) -> None:
        task_with_images(data)

    def check(self, data: TrainingSet, machine: Machine) -> None:
        super().check(data, machine)
        kept_images(data, self.config.dataset, machine.data_root, self.config.denoiser.seed)  # are they there?

    def fit(self, data: TrainingSet, run: Run, machine: Machine) -> None:
        path = bank_path(run)
        if not path.is_file():
            bank = kept_images(data, self.config.dataset, machine.data_root, self.config.denoiser.seed)
            save_tensors(path, {NAME: bank})
            run.finish([path])
        super().fit(data, run, machine)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        autoencoder = self._train_autoencoder(vectors, trainer)

        def encode(batch: Tensor) -> Tensor:
            return torch.stack(autoencoder.encode(batch), dim=1)

        def decode(codes: Tensor) -> Tensor:
            return autoencoder.decode(codes[:, 0])

        size = self.config.autoencoder.batch_size
        codes, error = encoded(vectors, encode, decode, size, trainer.device)
        noise = float(np.exp(codes[:, 1], dtype=np.float64).mean())  # that of the encoder, as wide as the codes or more
        scale = fitted_scale(scale_path(vectors.run), codes[:, 0], rescale=True, noise=noise)
        bank, settings = load_bank(bank_path(vectors.run)), self.config.denoiser
        trainer.keep(bank_path(vectors.run), scale_path(vectors.run))
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        def loss(model: nn.Module, step: int) -> Tensor:
            rng = generator(settings.seed, "denoiser", step)
            mean, log_variance = rows(codes, batch_of(len(codes), settings.batch_size, rng)).unbind(1)
            drawn = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=rng)
            told = embeddings(bank, self.config.dataset.drawn, [rng] * len(drawn)).to(trainer.device)
            return noise_error(model, schedule, scale.standardise(drawn).to(trainer.device), rng, told)

        trainer.train("denoiser", self._denoiser(bank[:, 0].numel()), settings, loss)
        return {"autoencoder_error": error, **code_facts(codes[:, 0], rescaled=True)}

    def _train_autoencoder(self, vectors: Vectors, trainer: Trainer) -> Autoencoder:
        given, settings = vectors.open(), self.config.autoencoder

        def loss(model: nn.Module, step: int) -> Tensor:
            assert isinstance(model, Autoencoder)
            rng = generator(settings.seed, "autoencoder", step)
            batch = rows(given, batch_of(len(given), settings.batch_size, rng)).to(trainer.device)
            return variational_loss(model, batch, settings.kl, settings.squared_error, rng)

        model = self._autoencoder(vectors.size)
        trainer.train("autoencoder", model, settings, loss)
        return model

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, DiffusionDraw)
        bank = load_bank(bank_path(vectors.run))
        size = bank[:, 0].numel()
        denoiser = self.trained(vectors, "denoiser", lambda: self._denoiser(size), device)
        images = [generator(request.seed, "d2nwg", "images", k) for k in numbers]
        noise = [generator(request.seed, "d2nwg", "noise", k) for k in numbers]
        with torch.no_grad():
            told = denoiser.dataset(embeddings(bank, self.config.dataset.drawn, images).to(device))
            latents = sample_latents(denoiser, self.diffusion, request, told, noise)
            codes = Scale.load(scale_path(vectors.run), self.config.autoencoder.code).restore(latents)
            found = self._trained_autoencoder(vectors, device).decode(codes)
        return Drawn(found, [()] * len(numbers))

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        model = self._trained_autoencoder(vectors, device)
        with torch.no_grad():
            return model.decode(model.encode(given.to(device))[0])

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        size, autoencoder, denoiser = vector_size(structure), self.config.autoencoder, self.config.denoiser
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)
        embedding = self.config.dataset.typical_size()

        def reconstruction(model: Autoencoder) -> Tensor:
            vectors = torch.zeros(autoencoder.batch_size, size)
            return variational_loss(model, vectors, autoencoder.kl, autoencoder.squared_error, torch.Generator())

        def denoising(model: Denoiser) -> Tensor:
            latents, told = (torch.zeros(denoiser.batch_size, n) for n in (autoencoder.code, embedding))
            return noise_error(model, schedule, latents, torch.Generator(), told)

        codes = 4 * 2 * checkpoints * autoencoder.code
        return [
            stage_cost("autoencoder", lambda: self._autoencoder(size), reconstruction, autoencoder),
            stage_cost("denoiser", lambda: self._denoiser(embedding), denoising, denoiser, codes),
        ]

    def draw_cost(self, structure: Structure, request: DiffusionDraw) -> DrawCost:
        """Beside what is measured, embedding the images is nothing."""
        size, code, group = vector_size(structure), self.config.autoencoder.code, self.group
        embedding = self.config.dataset.typical_size()

        def estimate(model: Denoiser) -> Tensor:
            return model.denoise(
                *(torch.zeros(group, code), model.time_embedding(torch.zeros(1)), torch.zeros(group, code))
            )

        return draw_cost(lambda: self._denoiser(embedding), estimate, group, request.steps).then(
            draw_cost(lambda: self._autoencoder(size), lambda model: model.decode(torch.zeros(group, code)), group)
        )

    def _autoencoder(self, size: int) -> Autoencoder:
        s = self.config.autoencoder
        with global_seed(s.seed, "autoencoder"):
            return Autoencoder(size, s.chunk or size, s.projection, s.side, s.width, s.multipliers, s.blocks)

    def _trained_autoencoder(self, vectors: Vectors, device: torch.device) -> Autoencoder:
        return self.trained(vectors, "autoencoder", lambda: self._autoencoder(vectors.size), device)

    def _denoiser(self, embedding: int) -> Denoiser:
        s = self.config.denoiser
        with global_seed(s.seed, "denoiser"):
            return Denoiser(
                self.config.autoencoder.code, embedding, s.width, s.multipliers, s.blocks, s.attention_from, s.heads
            )


def bank_path(run: Run) -> Path:
    """Where a run keeps images of every class."""
    return run.path / f"{NAME}.safetensors"
