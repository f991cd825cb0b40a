"""G.pt behind the door for methods: from a network, its metric and the one that is wanted to another network.

Files in the run, beside those of every method on vectors (rpg.methods.vectors):

    prompts.json              the metric and its range, and what weights are multiplied by
    transformer.safetensors

Legend: N networks, D values of a padded vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from rpg.diffusion import Objective, make_scheduler
from rpg.methods.base import About, DrawConfig, Machine, TrainingSet
from rpg.methods.chunked import ChunkedMethod, token_sizes
from rpg.methods.g_pt.config import Config, GPTDraw
from rpg.methods.g_pt.model import Denoiser, Prompted
from rpg.methods.g_pt.prompts import Prompts, Trainings, prompts_path, trainings
from rpg.methods.g_pt.starts import Start, Starts
from rpg.methods.latents import DiffusionDraw, noise_error, rows, sample_latents
from rpg.methods.measured import DrawCost, StageCost, draw_cost, stage_cost
from rpg.methods.training import Trainer
from rpg.methods.vectors import Drawn, Vectors
from rpg.tokens.permutations import reordered
from zoo.conditions import MetricTarget, require_read
from zoo.seeds import generator, global_seed
from zoo.structure import Structure

if TYPE_CHECKING:
    from rpg.run import Run

CLEAN = Objective("sample")


class GPT(ChunkedMethod):
    """A diffusion of later networks of a training, told an earlier one, its metric and the later one's. The parents of
    what is made are the checkpoints that it was made from.
    """

    about: ClassVar[About] = About(
        what="a diffusion transformer from a network, its metric and the metric that is wanted to a better network",
        source="Learning to Learn with Generative Models of Neural Network Checkpoints (G.pt), Peebles et al. 2022, "
        "https://arxiv.org/abs/2209.12892",
        suits="small networks of many trainings, with checkpoints along them (zoo.save.along)",
        trained=True,
    )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self._starts: dict[tuple[Path, str], Starts] = {}

    def refuse(self, data: TrainingSet) -> None:
        trainings(data.entries, self.config.metric)
        self.permutations(data)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        settings, known = self.config.transformer, trainings(data.entries, self.config.metric)
        prompts = self._prompts(vectors, known)
        trainer.keep(prompts_path(vectors.run))
        given, told = vectors.open(), prompts.scaled(known.metric).float()
        mask, permutations = vectors.layout.mask().view(-1), self.permutations(data)
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        def loss(model: nn.Module, step: int) -> Tensor:
            rng = generator(settings.seed, "transformer", step)
            early, late = known.pairs(settings.batch_size, rng)
            pair = torch.stack([rows(given, early), rows(given, late)]) * prompts.factor
            if permutations:
                pair = reordered(pair, mask, permutations, rng)
            prompt = torch.stack([told[early], told[late]], 1)
            now, later, prompt = (part.to(trainer.device) for part in (*pair, prompt))
            return noise_error(model, schedule, later, rng, now, prompt, mask=mask.to(trainer.device), objective=CLEAN)

        trainer.train("transformer", self._denoiser(data.zoo.structure), settings, loss)
        return {
            "trainings": len(known.rows),
            "metric": prompts.target.metric,
            "lowest": prompts.target.low,
            "highest": prompts.target.high,
        }

    def _prompts(self, vectors: Vectors, known: Trainings) -> Prompts:
        path = prompts_path(vectors.run)
        if not path.is_file():
            low, high = known.metric.min().item(), known.metric.max().item()
            target = MetricTarget(metric=self.config.metric, low=low, high=high)
            factor = self.config.deviation / _deviation(vectors.open(), vectors.values)
            vectors.run.write_json(path, Prompts(target=target, first=known.first, factor=factor, shared=known.shared))
        return Prompts.of(vectors.run)

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        assert isinstance(request, GPTDraw)
        target = Prompts.of(run).target
        if not request.conditions:
            raise ValueError(
                f"{run.path} makes networks for a value of {target.metric}; say which, in training {target.low:.4g} to "
                f"{target.high:.4g}: --condition {target.metric}={target.low:.2g}"
            )
        require_read(target, request.conditions)
        self._begin(run, request, machine.data_root, machine.device)
        return super().requested(run, request, machine)

    def _begin(self, run: Run, request: GPTDraw, data_root: Path | None, device: torch.device) -> Starts:
        key = run.path, f"{request.seed} {request.start} {request.chosen} {request.rounds}"
        if key not in self._starts:
            self._starts[key] = Starts(run, request, data_root, device)
        return self._starts[key]

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, GPTDraw)
        starts, prompts = self._begin(vectors.run, request, vectors.data_root, device), Prompts.of(vectors.run)
        (condition,), constants = request.conditions, vectors.run.constants()
        wanted, begun = prompts.target.value(condition), [starts[k] for k in numbers]
        current = begun
        for turn in range(request.rounds):
            noise = [generator(request.seed, "g.pt", condition, k, turn) for k in numbers]
            made = self._later(vectors, prompts, request, current, wanted, noise, device)
            if turn + 1 < request.rounds:
                assert starts.measure
                networks = [vectors.weights(vector, constants) for vector in made]
                current = [Start(weights, starts.measure(weights)) for weights in networks]
        return Drawn(made, [start.parents for start in begun])

    @torch.no_grad()
    def _later(
        self,
        vectors: Vectors,
        prompts: Prompts,
        request: GPTDraw,
        starts: Sequence[Start],
        wanted: float,
        noise: Sequence[torch.Generator],
        device: torch.device,
    ) -> Tensor:
        """The vectors (N, D) that are made of these networks."""
        model = self.trained(vectors, "transformer", partial(self._denoiser, vectors.layout.structure), device)
        told = torch.tensor([[start.metric, wanted] for start in starts], dtype=torch.float64)
        now = torch.stack([vectors.of(start.weights) for start in starts]).to(device) * prompts.factor
        prompted = Prompted(model, prompts.scaled(told).float().to(device))
        mask = vectors.layout.mask().view(-1).to(device)
        found = sample_latents(prompted, self.diffusion, request, now, noise, mask=mask, objective=CLEAN)
        return (found * mask).cpu() / prompts.factor

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        settings, build = self.config.transformer, partial(self._denoiser, structure)
        schedule = make_scheduler(self.diffusion, "ddpm", self.diffusion.num_steps)

        def denoising(model: Denoiser) -> Tensor:
            now, later = (torch.zeros(settings.batch_size, model.values) for _ in range(2))
            prompt = torch.zeros(settings.batch_size, 2)
            return noise_error(model, schedule, later, torch.Generator(), now, prompt, objective=CLEAN)

        return [stage_cost("transformer", build, denoising, settings)]

    def draw_cost(self, structure: Structure, request: DiffusionDraw) -> DrawCost:
        assert isinstance(request, GPTDraw)
        group = self.group

        def estimate(model: Denoiser) -> Tensor:
            noisy, now = (torch.zeros(group, model.values) for _ in range(2))
            return model(noisy, torch.zeros(1), now, torch.zeros(group, 2))

        times = request.steps * request.rounds
        return draw_cost(partial(self._denoiser, structure), estimate, group, times)

    def _denoiser(self, structure: Structure) -> Denoiser:
        settings = self.config.transformer
        with global_seed(settings.seed, "transformer"):
            return Denoiser(token_sizes(structure, settings.chunk), self.diffusion.num_steps, settings)


def _deviation(networks: np.ndarray, values: int) -> float:
    """That of all values of networks (N, D), of which so many of each are its own and the others zero; 1 if it is 0."""
    total = squares = 0.0
    for network in networks:
        total += float(network.sum(dtype=np.float64))
        squares += float(np.square(network, dtype=np.float64).sum())
    mean, count = total / (len(networks) * values), len(networks) * values
    return max(squares / count - mean**2, 0.0) ** 0.5 or 1.0
