"""Hyper-representations with kernel density sampling, S_KDE30 (Schürholt et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from rpg.devices import Device
from rpg.methods.base import About, DrawConfig, Estimate, TrainingSet
from rpg.methods.batches import distinct_rows, padded
from rpg.methods.contrastive import ContrastiveConfig, ContrastiveMethod, nt_xent
from rpg.methods.density import KernelDrawConfig, best, draw_code, load_anchors, parents_of, save_anchors
from rpg.methods.hyper_representations.model import Autoencoder, Model
from rpg.methods.measured import StageCost, draw_cost, estimated, stage_cost
from rpg.methods.training import Trainer
from rpg.methods.vectors import Drawn, Vectors
from rpg.tokens.layers import Layers
from zoo.seeds import generator, global_seed
from zoo.structure import Structure

ERASED = (0.02, 0.33)  # of a network's values, the least and the most that an erasure takes
LEAST_DEVIATION = 1e-4


class GenerateConfig(KernelDrawConfig):
    """Section `generate:`. Every value of a code has a density of its own."""

    bandwidth: Annotated[float, Field(ge=0)] = 0.002


class Config(ContrastiveConfig):
    """Section `method:`, beside what ContrastiveConfig has.

    - Two views of a network have their hidden units in orders of their own (`permutations`); without, they differ by
      `noise` (deviation, in those of a layer's values) and by erasures (`erasing`: how often) alone.

    Networks whose autoencoder does not fit into memory are refused: attention sees all neurons at once, and the maps of
    the code grow with their number.
    """

    draw_config = GenerateConfig

    name: Literal["hyper-representations"]
    model: Model
    noise: Annotated[float, Field(ge=0)] = 0.1
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.5
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.1

    def build(self) -> HyperRepresentations:
        return HyperRepresentations(self)


class HyperRepresentations(ContrastiveMethod):
    """A token for each neuron (its incoming weights and bias), a transformer autoencoder with one code for a network,
    trained to give back two permuted views of each network and to find one by the other; new codes from a kernel
    density of the best networks' codes. A network's parents are those whose codes it was drawn around.

    Unlike the published code: an erasure takes a run of a vector's values, not a rectangle of its tokens; the target is
    the view before noise and erasure; both views pass the projection together; the learning rate falls along half a
    cosine instead of on plateaus; permutations are drawn anew in each step instead of from 25,000.
    """

    about: ClassVar[About] = About(
        what="a transformer autoencoder of whole networks, a token per neuron; a kernel density over the best's codes",
        source="Hyper-Representations as Generative Models, Schürholt et al. 2022, https://arxiv.org/abs/2209.14733",
        suits="networks of a few thousand values and one architecture, from many seeds, with validation scores",
        trained=True,
    )
    about_memory = "use --set method.model.width=64 method.model.latent=32 or so"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config

    def autoencoder(self, structure: Structure) -> Autoencoder:
        return Autoencoder(Layers(structure), self.config.model)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        settings, networks, layers = self.config.autoencoder, vectors.open(), Layers(data.zoo.structure)
        with global_seed(settings.seed, "autoencoder"):
            model = self.autoencoder(data.zoo.structure)
        _, deviations = layers.statistics(lambda: map(torch.tensor, networks))
        model.deviations.copy_(deviations.clamp_min(LEAST_DEVIATION))
        permutations = self.permutations(data)

        def loss(module: nn.Module, step: int) -> Tensor:
            assert isinstance(module, Autoencoder)
            rng = generator(settings.seed, "batch", step)
            rows = distinct_rows(len(networks), settings.batch_size, rng)
            given = torch.from_numpy(networks[rows])[:, : layers.values].repeat(2, 1)
            views = permutations.view(given, rng) if permutations else given
            seen = self._augmented(views, layers.spread(deviations.float()), rng)
            with global_seed(settings.seed, "dropout", step):
                return self._objective(module, seen.to(trainer.device), views.to(trainer.device))

        trainer.train("autoencoder", model, settings, loss)
        codes, error = [], 0.0
        with torch.no_grad():
            for row in networks:
                vector = torch.tensor(row)[None, : layers.values].to(trainer.device)
                codes.append(model.encode(vector))
                error += float(model.error(model.decode(codes[-1]), vector)) / len(networks)
        rows = best(data.entries, self.config.best)
        trainer.files.append(save_anchors(vectors.run, torch.cat(codes)[rows][:, None], rows))
        return {"anchors": len(rows), "reconstruction_error": error}

    def _augmented(self, views: Tensor, deviations: Tensor, rng: torch.Generator) -> Tensor:
        """What the encoder sees of views (B, D): with noise, and some with a run of values erased."""
        seen = views + self.config.noise * deviations * torch.randn(views.shape, generator=rng)
        least, most = ERASED
        lengths = (least + (most - least) * torch.rand(len(views), 1, generator=rng)) * views.shape[1]
        starts = torch.rand(len(views), 1, generator=rng) * (views.shape[1] - lengths)
        place, chosen = torch.arange(views.shape[1]), torch.rand(len(views), 1, generator=rng) < self.config.erasing
        return seen.masked_fill(chosen & (place >= starts) & (place < starts + lengths), 0.0)

    def _objective(self, model: Autoencoder, seen: Tensor, views: Tensor) -> Tensor:
        """The loss of first and second views (2B, D) of B networks, as they are and as the encoder sees them."""
        codes, contrast = model.encode(seen), self.config.contrast
        first, second = model.head(codes).chunk(2)
        error = model.error(model.decode(codes), views)
        return contrast * nt_xent(first, second, self.config.temperature) + (1 - contrast) * error

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, GenerateConfig)
        model = self._model(vectors, device)
        anchors, hashes = load_anchors(vectors.run, (1, self.config.model.latent))
        made, parents = [], []
        for k in numbers:  # one at a time, so that a network is the same whatever is asked for beside it
            code, chosen = draw_code(anchors, request, "individual", k)
            made.append(self._decoded(model, code.to(device), vectors))
            parents.append(parents_of(hashes, chosen))
        return Drawn(torch.cat(made), parents)

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        model = self._model(vectors, device)
        with torch.no_grad():
            codes = [model.encode(vector[None].to(device)) for vector in given]
        return torch.cat([self._decoded(model, code, vectors) for code in codes])

    @torch.no_grad()
    def _decoded(self, model: Autoencoder, code: Tensor, vectors: Vectors) -> Tensor:
        return padded(model.decode(code), vectors)

    def _model(self, vectors: Vectors, device: torch.device) -> Autoencoder:
        return self.trained(vectors, "autoencoder", lambda: self.autoencoder(vectors.layout.structure), device)

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        values, settings = Layers(structure).values, self.config.autoencoder
        rows = 2 * max(2, min(settings.batch_size, checkpoints))

        def loss(model: Autoencoder) -> Tensor:
            views = torch.zeros(rows, values)
            return self._objective(model, views, views)

        return [stage_cost("autoencoder", lambda: self.autoencoder(structure), loss, settings)]

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        layers = Layers(structure)

        def network(model: Autoencoder) -> Tensor:
            return model.decode(torch.zeros(1, self.config.model.latent))

        draw = draw_cost(lambda: self.autoencoder(structure), network, 1)
        return estimated(self.stages(structure, checkpoints), draw, device, layers.values)
