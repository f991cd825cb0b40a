"""RPG with a continuous latent: a network's principal components, with noise, in place of its number.

Files in the run, beside those of rpg.methods.vectors:

    components.safetensors   variances, and codes of the training networks
    generator.safetensors    the trained generator
    vectors.npy              tokens of the training networks, to encode others with

Legend: B networks, L tokens of a network, D token size, R values of a latent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn

from rpg.devices import Device
from rpg.diffusion import Objective, Scheduler, draw_noise, make_scheduler, sample, squared_error
from rpg.methods.base import About, DrawConfig, Estimate, Machine, TrainingSet
from rpg.methods.batches import distinct_rows
from rpg.methods.closed_form import check_rank
from rpg.methods.components import Components, piece_bytes
from rpg.methods.measured import DrawCost, StageCost, draw_cost, estimated, stage_cost
from rpg.methods.rpg_latent.config import Config, LatentDraw
from rpg.methods.rpg_latent.energy import energy_distance, spread_distance
from rpg.methods.rpg_latent.model import LatentGenerator
from rpg.methods.task_data import Behaviour, task_with_data
from rpg.methods.training import Trainer
from rpg.methods.vectors import Codec, Drawn, VectorMethod, Vectors
from rpg.tokens.layout import generated
from rpg.tokens.tokenisation import place, positions
from zoo.derive.mixtures import dimensions
from zoo.errors import Failed
from zoo.seeds import generator, global_seed
from zoo.structure import Structure
from zoo.tasks.base import Batch
from zoo.tasks.classification import ClassificationTask

if TYPE_CHECKING:
    from rpg.run import Run

log = logging.getLogger(__name__)

COMPONENTS = "components.safetensors"


@dataclass(frozen=True, eq=False)
class Step:
    """What a step computes with: `tokens` (B, L, D) of training networks with their `latents` (B, R); of all tokens
    `levels` int64 (B L,) and `noise` (B L, D); latents `drawn` (n, R), none where no term of the loss wants them.
    """

    tokens: Tensor
    latents: Tensor
    levels: Tensor
    noise: Tensor
    drawn: Tensor

    def to(self, device: torch.device) -> Step:
        return Step(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class RPGLatent(VectorMethod, Codec):
    """Whole networks go through the generator, so it is for small ones. Drawn latents are new: what comes of them is
    between and around the training networks, not one of these.
    """

    about: ClassVar[About] = About(
        what="RPG told a continuous latent, a network's principal components, which is drawn for new networks",
        source="this project; the generator is that of RPG, https://arxiv.org/abs/2501.11587",
        suits="networks of 1,000 to 100,000 values, aligned, from many seeds; for behaviour, classifiers of images",
        trained=True,
    )
    about_memory = "use --set method.model.d_model=128 or so"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_size, self.tokenisation = config.model.token_size, config.model.tokenisation

    # Refusing

    def refuse(self, data: TrainingSet) -> None:
        check_rank(self.config.rank, data.zoo, len(data.entries))
        if len(data.entries) < self.config.fewest:
            raise ValueError(
                f"each step compares {self.config.fewest} networks of the zoo or more, and there are "
                f"{len(data.entries)}; use --set method.groups={max(len(data.entries) // 2, 1)}"
            )

    def check(self, data: TrainingSet, machine: Machine) -> None:
        super().check(data, machine)
        if self.config.on_images:
            self._task(data, machine)
        for why in self.config.idle:
            log.warning(why)

    def _task(self, data: TrainingSet, machine: Machine) -> ClassificationTask:
        remedy = "use " + " ".join(f"--set method.{name}=0" for name in self.config.on_images)
        return task_with_data(data.zoo.manifest.origin, machine.device, remedy, machine.data_root)

    def _built(self, structure: Structure, rank: int) -> LatentGenerator:
        model = self.config.model
        places = place([spec.shape for spec in generated(structure)], model.tokenisation, model.token_size)
        return LatentGenerator(model, positions(places), rank)

    # Learning

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        path, settings = vectors.run.path / COMPONENTS, self.config.generator
        if not path.is_file():
            rank = check_rank(self.config.rank, data.zoo, len(data.entries))
            Components.fit(vectors.open(), rank).save(path)
        components = Components.load(vectors.open(), path)
        codes, spread = components.units.float(), self.config.spread(components.alive)
        trainer.keep(path, vectors.vectors_path)
        with global_seed(settings.seed, "generator"):
            model = self._built(data.zoo.structure, codes.shape[1])
        behaviour = None
        if self.config.on_images:
            task = self._task(data, Machine(trainer.device, data_root=trainer.data_root))
            behaviour = Behaviour(task, vectors.layout, data.zoo.frozen())
        trained = trainer.train(
            "generator", model, settings, self._loss(vectors, codes, spread, behaviour, trainer.device)
        )
        assert isinstance(trained, LatentGenerator)
        facts: dict[str, JsonValue] = {"rank": codes.shape[1], "num_parameters": trained.num_parameters}
        if not self.encodes:
            return facts
        return facts | {"reconstruction_error": self._reconstruction_error(trained, vectors, codes, trainer.device)}

    @property
    def encodes(self) -> bool:
        """Without the loss on training networks a code says nothing of its network."""
        return self.config.zoo > 0

    def _loss(
        self, vectors: Vectors, codes: Tensor, spread: Tensor, behaviour: Behaviour | None, device: torch.device
    ) -> Callable[[nn.Module, int], Tensor]:
        tokens, schedule, mask = vectors.open(), self._schedule(), vectors.layout.mask()
        values = mask.flatten().nonzero().flatten().to(device)
        seed = self.config.generator.seed

        def loss(model: nn.Module, step: int) -> Tensor:
            assert isinstance(model, LatentGenerator)
            rng = generator(seed, "batch", step)
            rows = distinct_rows(len(tokens), self.config.generator.batch_size, rng)
            given = torch.from_numpy(tokens[rows]).unflatten(1, mask.shape)
            drawn = self._step(given, codes[torch.from_numpy(rows)], spread, schedule, rng).to(device)
            batch = behaviour.batch(seed, step, self.config.images * self.config.groups) if behaviour else None
            return self._terms(model, schedule, drawn, values, behaviour, batch)

        return loss

    def _schedule(self) -> Scheduler:
        return make_scheduler(self.config.diffusion, "ddpm", self.config.diffusion.num_steps)

    def _step(self, tokens: Tensor, codes: Tensor, spread: Tensor, schedule: Scheduler, rng: torch.Generator) -> Step:
        """All that is random about a step. Tokens that are denoised jointly have one level, others their own."""
        count, length, size = tokens.shape
        latents = codes + self.config.noise * torch.randn(codes.shape, generator=rng)
        levels, noise = draw_noise(schedule, count * length, size, rng)
        if self.config.model.joint:
            levels = levels.view(count, length)[:, :1].expand(-1, length).flatten()
        wanted = self.config.drawn if self.config.draws else 0
        drawn = spread * torch.randn(wanted, codes.shape[1], generator=rng)
        return Step(tokens, latents, levels, noise, drawn)

    def _terms(
        self,
        model: LatentGenerator,
        schedule: Scheduler,
        step: Step,
        values: Tensor,
        behaviour: Behaviour | None = None,
        batch: Batch | None = None,
    ) -> Tensor:
        """The loss, a scalar: the mean error over values that are no padding, and what is asked for beside. `values`
        int64 (V,) says which of a network's tokens' L D values these are, tensor after tensor.
        """
        objective = Objective("sample", self.config.min_snr, self.config.prototype_loss)
        count, length, size = step.tokens.shape
        total = torch.zeros((), device=values.device)
        if self.config.zoo:
            kept = torch.zeros(length * size, dtype=torch.bool, device=values.device).index_fill(0, values, True)
            kept, tokens = kept.view(length, size).repeat(count, 1), step.tokens.flatten(0, 1)
            data = (tokens, kept, step.levels, step.noise, step.latents)
            error = squared_error(model.estimates, schedule, *data, objective=objective)
            total = self.config.zoo * error / (count * len(values))
        if not len(step.drawn):
            return total
        found, given = model.read_out(step.drawn)[1].flatten(1)[:, values], step.tokens.flatten(1)[:, values]
        if self.config.diversity:
            total = total + self.config.diversity * spread_distance(found, given)
        if behaviour and batch:
            parts = zip(*(x.tensor_split(self.config.groups) for x in (found, given, *batch)), strict=True)
            seen = [self._seen(behaviour, mine, theirs, (images, labels)) for mine, theirs, images, labels in parts]
            total = total + torch.stack(seen).mean()
        return total

    def _seen(self, behaviour: Behaviour, found: Tensor, given: Tensor, batch: Batch) -> Tensor:
        """What the loss asks of what the networks of vectors `found` (n, D) do, beside those of `given` (m, D)."""
        images, labels = batch
        logits = behaviour.all_logits(found, images)
        total = self.config.behaviour * F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(found)))
        if self.config.function_diversity:
            with torch.no_grad():
                theirs = behaviour.all_logits(given, images)
            mine, theirs = (outputs.softmax(-1).transpose(0, 1) for outputs in (logits, theirs))
            total = total + self.config.function_diversity * energy_distance(mine, theirs)
        return total

    @torch.no_grad()
    def _reconstruction_error(
        self, model: LatentGenerator, vectors: Vectors, codes: Tensor, device: torch.device
    ) -> float:
        """The mean squared error of the training networks read out of their codes, over their values."""
        tokens, error = vectors.open(), 0.0
        for rows in torch.arange(len(codes)).split(self.group):
            found = self._vectors(model.read_out(codes[rows].to(device))[1], vectors)
            error += float((found - torch.from_numpy(tokens[rows.numpy()])).square().sum())
        return error / (len(codes) * vectors.values)

    # Drawing

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        assert isinstance(request, LatentDraw)
        if request.sampler != "readout" and not self.config.zoo:
            raise ValueError(f"{run.path} learnt no denoiser (method.zoo = 0); use --set generate.sampler=readout")
        if request.guidance:
            self._guiding_task(run, machine.device, machine.data_root)
        return request.n

    def _guiding_task(self, run: Run, device: torch.device, data_root: Path | None) -> ClassificationTask:
        return task_with_data(run.record().origin, device, "use --set generate.guidance=0", data_root)

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        assert isinstance(request, LatentDraw)
        components, hashes = self._components(vectors), vectors.run.record().networks
        codes, spread = components.units.float(), self.config.spread(components.alive)
        drawn = [self._latent(codes, spread, request, k) for k in numbers]
        latents = torch.stack([latent for latent, _ in drawn]).to(device)
        model = self._trained(vectors, codes.shape[1], device)
        with torch.no_grad():
            prototypes, readouts = model.read_out(latents)
            tokens = readouts if request.sampler == "readout" else None
            if tokens is None:
                told = readouts if model.mixer else prototypes
                tokens = self._denoised(model, request, told, readouts, vectors, numbers)
        parents = [tuple(hashes[row] for row in rows) for _, rows in drawn]
        return Drawn(self._vectors(tokens, vectors), parents)

    def _latent(self, codes: Tensor, spread: Tensor, request: LatentDraw, k: int) -> tuple[Tensor, list[int]]:
        """Latent k, (R,), of a deviation `spread` (R,) or between training networks, by codes (N, R), and which."""
        rng = generator(request.seed, "latent", k)
        if request.latents == "interpolated":
            first, second = torch.randperm(len(codes), generator=rng)[:2].tolist()
            return torch.lerp(codes[first], codes[second], torch.rand((), generator=rng)), [first, second]
        return request.temperature * spread * torch.randn(codes.shape[1], generator=rng), []

    def _denoised(
        self,
        model: LatentGenerator,
        request: LatentDraw,
        told: Tensor,
        readouts: Tensor,
        vectors: Vectors,
        numbers: Sequence[int],
    ) -> Tensor:
        """Tokens (B, L, D) out of noise, those of network k from generators of (seed, k)."""
        assert request.sampler != "readout"
        (count, length, _), mask = readouts.shape, vectors.layout.mask()
        tokens = sample(
            model.sampled_with,
            make_scheduler(self.config.diffusion, request.sampler, request.steps),
            told.flatten(0, 1),
            mask.repeat(count, 1),
            [generator(request.seed, "noise", k, token) for k in numbers for token in range(length)],
            chunk_size=count * length,
            objective=Objective("sample", self.config.min_snr, self.config.prototype_loss),
            readouts=readouts.flatten(0, 1),
            guide=self._guide(request, vectors, readouts.device) if request.guidance else None,
        )
        return tokens.view_as(readouts)

    def _guide(self, request: LatentDraw, vectors: Vectors, device: torch.device) -> Callable[[Tensor, int], Tensor]:
        """What leads tokens (B L, D) of whole networks to better ones. Raises Failed where it leads too far."""
        task = self._guiding_task(vectors.run, device, vectors.data_root)
        behaviour, mask = Behaviour(task, vectors.layout, vectors.run.frozen()), vectors.layout.mask()
        values = mask.flatten().nonzero().flatten().to(device)

        def guide(clean: Tensor, level: int) -> Tensor:
            batch = behaviour.batch(request.seed, level, request.images)
            with torch.enable_grad():
                tokens = clean.detach().requires_grad_()
                networks = tokens.view(-1, mask.numel())[:, values]
                loss = behaviour.cross_entropy(networks, batch) * len(networks)  # of each, its own
                (gradient,) = torch.autograd.grad(loss, tokens)
            if not bool(gradient.isfinite().all()):
                raise Failed(f"guidance = {request.guidance:g} drives networks out of bounds; lower generate.guidance")
            return request.guidance * gradient

        return guide

    def _vectors(self, tokens: Tensor, vectors: Vectors) -> Tensor:
        """Tokens (B, L, D) as vectors on the CPU, zero in the padding, of which a read-out knows nothing."""
        return (tokens.cpu() * vectors.layout.mask()).flatten(1)

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        latents = self._components(vectors).encode_units(given).float()
        model = self._trained(vectors, latents.shape[1], device)
        with torch.no_grad():
            return self._vectors(model.read_out(latents.to(device))[1], vectors)

    def _components(self, vectors: Vectors) -> Components:
        return Components.load(vectors.open(), vectors.run.path / COMPONENTS)

    def _trained(self, vectors: Vectors, rank: int, device: torch.device) -> LatentGenerator:
        return self.trained(vectors, "generator", lambda: self._built(vectors.layout.structure, rank), device)

    # What it costs

    def _length(self, structure: Structure) -> int:
        """How many tokens a network has."""
        with torch.device("meta"):
            return len(self._built(structure, 1).positions)

    def _rank(self, checkpoints: int) -> int:
        """How many values the latent of so many networks has."""
        return min(self.config.rank or checkpoints - 1, checkpoints - 1)

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        """Without the networks that classify images for `behaviour`."""
        settings, length, size = self.config.generator, self._length(structure), self.token_size
        rows, rank, schedule = min(settings.batch_size, checkpoints), self._rank(checkpoints), self._schedule()

        def loss(model: LatentGenerator) -> Tensor:
            rng = torch.Generator()
            step = self._step(torch.zeros(rows, length, size), torch.zeros(rows, rank), torch.ones(rank), schedule, rng)
            total = self._terms(model, schedule, step, torch.arange(min(length * size, dimensions(structure))))
            return total if self.config.zoo else total + model.read_out(step.drawn)[1].sum()

        return [stage_cost("generator", partial(self._built, structure, rank), loss, settings)]

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        """With joint denoising, drawn networks and their diversity, but without the networks that classify images for
        `behaviour`, of which a structure does not say what they compute.
        """
        assert isinstance(request, LatentDraw)
        self._check_estimate(request, checkpoints)
        rank = self._rank(checkpoints)
        build, length, size = partial(self._built, structure, rank), self._length(structure), self.token_size
        group = min(self.group_of(length * size), request.n)

        def read_out(model: LatentGenerator) -> object:
            return model.read_out(torch.zeros(group, rank))

        def denoise(model: LatentGenerator) -> Tensor:
            tokens = torch.zeros(group * length, size)
            return model.sampled_with.denoise(tokens, torch.zeros(1, size), tokens)

        beside = 4 * 4 * group * length * size  # prototypes, tokens read out, and what a sampler remembers
        draw = draw_cost(build, read_out, group, beside=beside)
        if request.sampler != "readout":
            steps = draw_cost(build, denoise, group, times=request.steps, beside=beside)
            draw = DrawCost(max(draw.bytes, steps.bytes), draw.flops + steps.flops, draw.launches + steps.launches)
        stages = self.stages(structure, checkpoints)
        return estimated(stages, draw, device, dimensions(structure), beside=piece_bytes())

    def _check_estimate(self, request: LatentDraw, checkpoints: int) -> None:
        self.config.check_draw(request)
        if checkpoints < 2:
            raise ValueError(f"{checkpoints} network spans nothing; expected 2 or more")
