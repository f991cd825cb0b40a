"""SANE, sequential autoencoding of networks (Schürholt et al. 2024), and what it learns from networks' outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, JsonValue, PositiveInt
from torch import Tensor, nn

from rpg.devices import Device
from rpg.methods.base import About, DrawConfig, Estimate, Machine, TrainingSet
from rpg.methods.batches import distinct_rows, padded
from rpg.methods.contrastive import ContrastiveConfig, ContrastiveMethod, nt_xent
from rpg.methods.density import best, load_anchors, save_anchors
from rpg.methods.measured import StageCost, draw_cost, estimated, stage_cost
from rpg.methods.sane.model import Autoencoder, Model
from rpg.methods.sane.sampling import GenerateConfig, Sampler
from rpg.methods.task_data import Behaviour, image_task, task_with_data
from rpg.methods.training import Trainer
from rpg.methods.vectors import Drawn, Vectors
from rpg.tokens.layers import Chunks, Layers, windows
from rpg.tokens.permutations import Permutations
from zoo.seeds import generator, global_seed
from zoo.structure import Structure
from zoo.tasks.classification import ClassificationTask
from zoo.writer import ZooWriter

if TYPE_CHECKING:
    from rpg.run import Run

log = logging.getLogger(__name__)

LEAST_DEVIATION = 1e-8


class Config(ContrastiveConfig):
    """Section `method:`, beside what ContrastiveConfig has.

    - The first of two views of a network has its hidden units in another order (`permutations`).
    - `noise`: what both views are multiplied by, 1 plus noise of this deviation.
    - `behaviour`: the share, in what is not contrast, of the difference between what the network and its reconstruction
      answer to `queries` training images. Structure and behaviour are divided by what they are at first.
    """

    draw_config = GenerateConfig

    name: Literal["sane"]
    model: Model
    noise: Annotated[float, Field(ge=0)] = 0.1
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.05
    behaviour: Annotated[float, Field(ge=0, le=1)] = 0.0
    queries: PositiveInt = 256

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        assert isinstance(request, GenerateConfig)
        if data is not None and request.looks(data.zoo.structure):
            image_task(data.zoo.manifest.origin, request.remedy)

    def build(self) -> SANE:
        return SANE(self)


class SANE(ContrastiveMethod):
    """Neurons are cut into tokens, which know their place; a transformer encodes each token for itself, looking at a
    window around it, so memory does not grow with the network. It is trained to give back two views of each window, one
    of them permuted, and to find one by the other. New codes come from a kernel density, token by token.

    Learn from an aligned zoo (`rpg-zoo align`), as the paper does. Unlike the published code: the learning rate climbs
    along a line and falls along half a cosine instead of OneCycle's two; all parameters decay; permutations are drawn
    anew in each step instead of five for a network; its CNN run permutes no view at all, by a setting given twice.
    """

    about: ClassVar[About] = About(
        what="a transformer autoencoder of tokens of networks, window by window; a kernel density over tokens' codes",
        source="Towards Scalable and Versatile Weight Space Learning, Schürholt et al. 2024, "
        "https://arxiv.org/abs/2406.09997",
        suits="networks of any size and one architecture, aligned, from many seeds, with validation scores",
        trained=True,
    )
    about_memory = "use --set method.model.width=256 or so"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self._samplers: dict[tuple[Path, str], Sampler] = {}

    def autoencoder(self, structure: Structure) -> Autoencoder:
        return Autoencoder(Layers(structure), self.config.model)

    def check(self, data: TrainingSet, machine: Machine) -> None:
        super().check(data, machine)
        if self.config.behaviour:
            self._task(data, machine.device, machine.data_root)
        elif self.config.queries != type(self.config).model_fields["queries"].default:
            log.warning(f"method.queries = {self.config.queries} is ignored: method.behaviour is 0")

    def refuse(self, data: TrainingSet) -> None:
        super().refuse(data)
        tokens, window = (
            Chunks(Layers(data.zoo.structure), self.config.model.token_size).count,
            self.config.model.window,
        )
        if self.config.behaviour and tokens > window:
            raise ValueError(
                f"method.behaviour compares whole networks, but these have {tokens} tokens and a window has {window}; "
                f"use --set method.model.window={tokens} method.model.halo=0, or method.behaviour=0"
            )

    def _task(self, data: TrainingSet, device: torch.device, data_root: Path | None) -> ClassificationTask:
        """What `behaviour` compares networks on."""
        return task_with_data(data.zoo.manifest.origin, device, "use --set method.behaviour=0", data_root)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        settings, networks, layers = self.config.autoencoder, vectors.open(), Layers(data.zoo.structure)
        with global_seed(settings.seed, "autoencoder"):
            model = self.autoencoder(data.zoo.structure)
        mean, deviation = layers.statistics(lambda: map(torch.tensor, networks))
        model.mean.copy_(mean)
        model.deviation.copy_(deviation.clamp_min(LEAST_DEVIATION))
        loss = self._loss(vectors, data, model, trainer)
        trainer.train("autoencoder", model, settings, loss)
        rows, codes, error = best(data.entries, self.config.best), [], 0.0
        with torch.no_grad():
            for k, row in enumerate(networks):
                vector = torch.tensor(row)[None].to(trainer.device)
                code = model.codes_of(vector)
                wrong = model.tokens(model.vectors_of(code)) - model.tokens(vector)
                error += float(wrong.square().sum()) / layers.values / len(networks)
                if k in rows:
                    codes.append(code.cpu())
        trainer.files.append(save_anchors(vectors.run, torch.cat(codes), rows))
        return {"anchors": len(rows), "reconstruction_error": error}

    def _loss(
        self, vectors: Vectors, data: TrainingSet, model: Autoencoder, trainer: Trainer
    ) -> Callable[[nn.Module, int], Tensor]:
        """The loss of a step. `model` is as before training: what it loses at first is the unit of later losses."""
        networks, permutations, settings = vectors.open(), self.permutations(data), self.config.autoencoder
        device, behaviour = trainer.device, None
        if self.config.behaviour:
            behaviour = Behaviour(self._task(data, device, trainer.data_root), vectors.layout, data.zoo.frozen())

        def terms(module: Autoencoder, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
            rng = generator(settings.seed, "batch", step)
            rows = distinct_rows(len(networks), settings.batch_size, rng)
            tokens, positions = (part.to(device) for part in self._windows(module, networks, rows, permutations, rng))
            tokens = tokens * (1 + self.config.noise * torch.randn(tokens.shape, generator=rng).to(device))
            contrast, structure, found = self._terms(module, tokens, positions)
            if behaviour is None:
                return contrast, structure, None
            given = torch.from_numpy(networks[rows]).to(device)
            images = behaviour.images(settings.seed, step, self.config.queries)
            return contrast, structure, behaviour.distance(module.vectors(found[len(rows) :]), given, images)

        units: list[Tensor] = []
        if behaviour:
            with torch.no_grad():
                first = terms(model.to(device), 0)
            assert first[2] is not None
            units = [first[1], first[2]]

        def loss(module: nn.Module, step: int) -> Tensor:
            assert isinstance(module, Autoencoder)
            contrast, structure, behaved = terms(module, step)
            rest, share = structure, self.config.behaviour
            if behaved is not None:
                rest = (1 - share) * structure / units[0] + share * behaved / units[1]
            return self.config.contrast * contrast + (1 - self.config.contrast) * rest

        return loss

    def _windows(
        self,
        model: Autoencoder,
        networks: np.ndarray,
        rows: np.ndarray,
        permutations: Permutations | None,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (2B, W, S) and positions (2B, W, 3) of a window of each network: of its first views, then of its
        second ones. One network at a time, since it may be large.
        """
        device, values = model.mean.device, model.chunks.layers.values
        views: list[list[Tensor]] = [[], []]
        places: list[Tensor] = []
        for row in rows:
            second = torch.tensor(networks[row])[None, :values]
            first = permutations.view(second, rng) if permutations else second
            start = int(torch.randint(model.chunks.count - model.seen + 1, (), generator=rng))
            seen = slice(start, start + model.seen)
            places.append(model.positions[seen])
            for view, found in zip((first, second), views, strict=True):
                found.append(model.tokens(view.to(device))[0, seen].cpu())
        return torch.stack([*views[0], *views[1]]), torch.stack([*places, *places])

    def _terms(self, model: Autoencoder, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The contrastive loss and the mean squared error of two views, and the tokens that were found."""
        codes = model.encode(tokens, positions)
        found = model.decode(codes, positions)
        first, second = model.head(codes.flatten(1)).chunk(2)
        return nt_xent(first, second, self.config.temperature), model.error(found, tokens, positions), found

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        assert isinstance(request, GenerateConfig)
        if not request.selects and request.kept != type(request).model_fields["kept"].default:
            log.warning(f"generate.kept = {request.kept} is ignored: it is of candidates, and none are asked for")
        self._sampler(Vectors(run, machine.data_root), request, machine.device)
        return request.n

    def draw(self, run: Run, request: DrawConfig, writer: ZooWriter, machine: Machine) -> None:
        assert isinstance(request, GenerateConfig)
        if request.selects:
            log.info(
                f"these networks are the best {request.kept} of {request.candidates} by their validation scores, "
                "a selection: their mean is not that of what the method makes"
            )
        super().draw(run, request, writer, machine)

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, GenerateConfig)
        return self._sampler(vectors, request, device).make(numbers)

    def _sampler(self, vectors: Vectors, request: GenerateConfig, device: torch.device) -> Sampler:
        key = vectors.run.path, f"{device} {request.to_json()}"
        if key not in self._samplers:
            model = self._model(vectors, device)
            anchors, hashes = load_anchors(vectors.run, (model.chunks.count, self.config.model.latent))
            self._samplers[key] = Sampler(vectors, request, model, anchors, hashes, device)
        return self._samplers[key]

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        model = self._model(vectors, device)
        with torch.no_grad():
            found = [model.vectors_of(model.codes_of(vector[None].to(device))) for vector in given]
        return padded(torch.cat(found), vectors)

    def _model(self, vectors: Vectors, device: torch.device) -> Autoencoder:
        return self.trained(vectors, "autoencoder", lambda: self.autoencoder(vectors.layout.structure), device)

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        """Without the networks whose outputs `behaviour` compares."""
        settings, size = self.config.autoencoder, self.config.model.token_size
        rows = 2 * max(2, min(settings.batch_size, checkpoints))

        def loss(model: Autoencoder) -> Tensor:
            places = torch.zeros(rows, model.seen, 3, dtype=torch.int64)
            contrast, kept, _ = self._terms(model, torch.zeros(rows, model.seen, size), places)
            return self.config.contrast * contrast + (1 - self.config.contrast) * kept

        return [stage_cost("autoencoder", lambda: self.autoencoder(structure), loss, settings)]

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        """Without the networks whose outputs `behaviour` compares, and those that a selection scores."""
        layers, sizes = Layers(structure), self.config.model
        count = Chunks(layers, sizes.token_size).count

        def window(model: Autoencoder) -> Tensor:
            places = torch.zeros(1, model.seen, 3, dtype=torch.int64)
            return model.decode(torch.zeros(1, model.seen, sizes.latent), places)

        number = len(windows(count, sizes.window, sizes.halo))
        whole = 4 * count * (sizes.latent + 2 * sizes.token_size) + 4 * 3 * layers.values
        draw = draw_cost(lambda: self.autoencoder(structure), window, 1, times=number, beside=whole)
        found = estimated(self.stages(structure, checkpoints), draw, device, layers.values)
        if not self.config.behaviour:
            return found
        looked = f"{self.config.queries} images a step cost, each through a batch of networks and of reconstructions"
        return replace(found, text=f"{found.text}\nnot counted what {looked} (method.behaviour)")
