"""Tina behind the door for methods: networks of binary tasks, told by their classes.

Files in the run, beside those of every method on vectors (rpg.methods.vectors):

    classes.safetensors       the vectors of the zoo's classes
    values.safetensors        what networks are scaled by
    transformer.safetensors

Legend: N networks, D values of a padded vector, K classes, F values of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from rpg.conditions.bits import classes_of, conditions_of, require_conditions
from rpg.conditions.classes import NAME, load_features, signed
from rpg.conditions.frozen import text_features
from rpg.diffusion import Objective, make_scheduler
from rpg.methods.base import About, DrawConfig, Machine, TrainingSet
from rpg.methods.chunked import ChunkedMethod, token_sizes
from rpg.methods.latents import DiffusionDraw, batch_of, noise_error, rows, sample_latents
from rpg.methods.measured import DrawCost, StageCost, draw_cost, stage_cost
from rpg.methods.tina.config import Config, TinaDraw
from rpg.methods.tina.model import Denoiser, Told
from rpg.methods.training import Trainer
from rpg.methods.vectors import Drawn, Vectors
from rpg.tokens.permutations import reordered
from rpg.tokens.values import ValueStatistics
from zoo.checkpoint import load_tensors, save_tensors
from zoo.conditions import BITS, ClassTexts, is_text, require_read, sides
from zoo.seeds import generator, global_seed
from zoo.structure import Structure

if TYPE_CHECKING:
    from rpg.run import Run

CLEAN = Objective("sample")
OTHERWISE = "take another method, such as rpg, which is told nothing"
SAME_READING = 1e-3  # of two unit vectors, whatever machine they were computed on
TYPICAL = BITS, 512  # classes and values of each that an estimate, which knows no zoo, takes


class Tina(ChunkedMethod):
    """A diffusion of whole networks in which noisy weights and classes attend to one another."""

    about: ClassVar[About] = About(
        what="a diffusion transformer of whole networks among tokens of the classes they are for, learned or of text",
        source="Text-to-Model: Text-Conditioned Neural Network Diffusion for Train-Once-for-All Personalization "
        "(Tina), Li et al. 2024, https://arxiv.org/abs/2405.14132",
        suits="zoos of binary tasks, networks up to some 100,000 values; tasks never seen, and other words",
        trained=True,
    )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def refuse(self, data: TrainingSet) -> None:
        self._conditions(data)
        self.permutations(data)
        # Reading the names now finds a missing encoder before any work.
        self._features(data)

    def _conditions(self, data: TrainingSet) -> tuple[str, ...]:
        return conditions_of(data.zoo, data.entries, "tina", OTHERWISE)

    def _features(self, data: TrainingSet) -> Tensor:
        """Of the zoo's classes, float32 (K, F): one of the unit vectors each, where they are to be learned."""
        from rpg.run import bits_of_zoo

        names = bits_of_zoo(data.zoo.manifest.origin, len(self._conditions(data)[0])).names
        if self.config.encoder is None:
            return torch.eye(len(names))
        return text_features(self.config.encoder, names)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        settings, run = self.config.transformer, vectors.run
        if not (path := _classes(run)).is_file():
            save_tensors(path, {NAME: self._features(data)})
        features, scale = load_features(path), self._fit_scale(vectors, data)
        trainer.keep(path, _values(run))
        told, given = signed(self._conditions(data), features), vectors.open()
        mask, permutations = vectors.layout.mask().view(-1), self.permutations(data)
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        def loss(model: nn.Module, step: int) -> Tensor:
            rng = generator(settings.seed, "transformer", step)
            index = batch_of(len(given), settings.batch_size, rng)
            clean = scale.standardise(rows(given, index).unflatten(1, (-1, self.token_size))).flatten(1)
            if permutations:
                clean = reordered(clean[None], mask, permutations, rng)[0]
            clean, about = clean.to(trainer.device), told[index].to(trainer.device)
            return noise_error(model, schedule, clean, rng, about, mask=mask.to(trainer.device), objective=CLEAN)

        trainer.train("transformer", self._denoiser(features.shape[1], data.zoo.structure), settings, loss)
        return {"classes": len(features), "tasks": len(set(self._conditions(data)))}

    def _fit_scale(self, vectors: Vectors, data: TrainingSet) -> ValueStatistics:
        path, layout = _values(vectors.run), vectors.layout
        if not path.is_file():
            found = ValueStatistics.fit(layout, data.zoo.checkpoints(data.entries))
            if self.config.deviation is not None:
                mask = layout.mask()
                mean = found.mean[mask].double().mean()
                variance = (found.std[mask].double().square() + (found.mean[mask] - mean).square()).mean()
                factor = variance.sqrt().item() / self.config.deviation or 1.0
                found = ValueStatistics(torch.zeros_like(found.mean), mask * factor)
            save_tensors(path, found.tensors())
        return _scale(vectors)

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        assert isinstance(request, TinaDraw)
        record, texts = run.record(), [condition for condition in request.conditions if is_text(condition)]
        if texts and self.config.encoder is None:
            raise ValueError(f"{run.path} was told classes by their numbers, and cannot read {texts[0]!r}")
        bits = [condition for condition in request.conditions if not is_text(condition)]
        if bits or not texts:
            require_conditions(record.origin.name, bits, classes_of(record))
        if texts:
            self._check_texts(run, texts)
        return super().requested(run, request, machine)

    def _check_texts(self, run: Run, texts: Sequence[str]) -> None:
        """Raise ValueError for texts that the encoder cannot read, and for another encoder than that of training."""
        from rpg.run import class_bits

        assert self.config.encoder is not None
        classes = class_bits(run)
        require_read(ClassTexts(classes=classes), texts)
        known, found = load_features(_classes(run)), text_features(self.config.encoder, classes.names)
        if found.shape != known.shape or not torch.allclose(found, known, atol=SAME_READING):
            raise ValueError(
                f"{self.config.encoder} does not read the classes of {run.path} as it did in training; expected the "
                "same encoder"
            )
        for text in texts:
            text_features(self.config.encoder, sides(text))

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, TinaDraw)
        (condition,), features = request.conditions, load_features(_classes(vectors.run))
        told = self._told(condition, features).expand(len(numbers), -1, -1)
        streams = [generator(request.seed, "tina", condition, k) for k in numbers]
        build = partial(self._denoiser, features.shape[1], vectors.layout.structure)
        model = self.trained(vectors, "transformer", build, device)
        mask, nothing = vectors.layout.mask().view(-1).to(device), torch.zeros(len(numbers), vectors.size)
        with torch.no_grad():
            found = sample_latents(
                Told(model, told.to(device)),
                self.diffusion,
                request,
                nothing.to(device),
                streams,
                mask=mask,
                objective=CLEAN,
            )
        tokens = (found * mask).cpu().unflatten(1, (-1, self.token_size))
        made = _scale(vectors).restore(tokens, range(vectors.layout.num_tokens)).flatten(1)
        return Drawn(made, [()] * len(numbers))

    def _told(self, condition: str, features: Tensor) -> Tensor:
        """What is told of one network, (1, K, F)."""
        if not is_text(condition):
            return signed((condition,), features)
        assert self.config.encoder is not None
        return signed(("10",), text_features(self.config.encoder, sides(condition)))

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        settings, build = self.config.transformer, partial(self._denoiser, TYPICAL[1], structure)
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        def denoising(model: Denoiser) -> Tensor:
            clean, told = torch.zeros(settings.batch_size, model.values), torch.zeros(settings.batch_size, *TYPICAL)
            return noise_error(model, schedule, clean, torch.Generator(), told, objective=CLEAN)

        return [stage_cost("transformer", build, denoising, settings)]

    def draw_cost(self, structure: Structure, request: DiffusionDraw) -> DrawCost:
        group = self.group

        def estimate(model: Denoiser) -> Tensor:
            return model(torch.zeros(group, model.values), torch.zeros(1), torch.zeros(group, *TYPICAL))

        return draw_cost(partial(self._denoiser, TYPICAL[1], structure), estimate, group, request.steps)

    def _denoiser(self, features: int, structure: Structure) -> Denoiser:
        settings = self.config.transformer
        with global_seed(settings.seed, "transformer"):
            return Denoiser(token_sizes(structure, settings.chunk), self.diffusion.num_steps, settings, features)


def _classes(run: Run) -> Path:
    return run.path / f"{NAME}.safetensors"


def _values(run: Run) -> Path:
    return run.path / "values.safetensors"


def _scale(vectors: Vectors) -> ValueStatistics:
    return ValueStatistics.from_tensors(load_tensors(_values(vectors.run)), vectors.layout)
