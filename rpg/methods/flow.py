"""Flow matching on whole networks: an ordinary differential equation from noise to networks, or to their PCA codes.

DeepWeightFlow (Gupta et al. 2026, https://arxiv.org/abs/2601.05052). What differs from the published code stands at
`Flow`. Alignment is not a part of it: learn from an aligned zoo (`rpg-zoo align`).

Files in the run, beside those of rpg.methods.vectors:

    velocity.safetensors     the velocity field
    components.safetensors   of PCA codes: variances, and codes of the training networks
    vectors.npy              of PCA codes: the training networks, whose combinations new ones are

Legend: N networks, n of them at a time, k values of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rpg.methods.base import About, DrawConfig, Estimate, MethodConfig, TrainingSet
from rpg.methods.batches import check_several
from rpg.methods.closed_form import check_rank
from rpg.methods.components import Components, piece_bytes
from rpg.methods.measured import StageCost, draw_cost, estimated, stage_cost
from rpg.methods.training import Optimisation, Trainer
from rpg.methods.vectors import Codec, Drawn, Statistics, VectorMethod, Vectors
from zoo.derive.mixtures import dimensions
from zoo.seeds import generator, global_seed
from zoo.structure import Structure

if TYPE_CHECKING:
    from rpg.devices import Device

COMPONENTS = "components.safetensors"
Sampler: TypeAlias = Literal["euler", "midpoint", "rk4"]
EVALUATIONS: dict[Sampler, int] = {"euler": 1, "midpoint": 2, "rk4": 4}  # of the velocity in a step
PROBED = 64  # pairs of noise and network that the trained velocity is looked at with


class FlowDrawConfig(DrawConfig):
    """Section `generate:`. The equation is solved in `steps` equal steps of Euler's method, the midpoint method or the
    classical Runge-Kutta method.
    """

    sampler: Sampler = "rk4"
    steps: Annotated[int, Field(gt=0, le=2**16)] = 99


class VelocityConfig(Optimisation):
    """Section `method.velocity`: a multilayer perceptron with these `hidden` widths, and how it is trained. The time is
    embedded in `time_width` numbers.
    """

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (512, 256, 512)
    time_width: PositiveInt = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Config(MethodConfig):
    """`codes` are what flows: the values of `networks`, or their coordinates along the first `rank` principal
    components (None: all), with `unit_codes` over the root mean square of their deviations. `statistics` standardise
    networks before anything else.

    The flow begins at noise of deviation `source_sigma`, of which training knows N samples drawn `once`, or `fresh`
    ones in each step. Points of training paths have noise of deviation `path_noise`.
    """

    draw_config: ClassVar[type[DrawConfig]] = FlowDrawConfig

    name: Literal["flow"]
    codes: Literal["networks", "pca"] = "pca"
    rank: PositiveInt | None = None
    unit_codes: bool = False
    statistics: Statistics = "none"
    source_sigma: PositiveFloat = 0.01
    source: Literal["once", "fresh"] = "once"
    path_noise: Annotated[float, Field(ge=0)] = 0.001
    velocity: VelocityConfig

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.codes == "networks" and (self.rank is not None or self.unit_codes):
            raise ValueError("rank and unit_codes belong to codes: pca; whole networks have statistics: tensor")
        return self

    def build(self) -> Flow:
        return PCAFlow(self) if self.codes == "pca" else Flow(self)


class Velocity(nn.Module):
    """The velocity (n, k) at points (n, k) of times (n,) in [0, 1]. It is zero before training."""

    def __init__(self, size: int, config: VelocityConfig) -> None:
        super().__init__()
        width = config.time_width
        self.time = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))
        layers: list[nn.Module] = []
        for before, after in pairwise((size + width, *config.hidden)):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(config.dropout)]
        last = nn.Linear(config.hidden[-1], size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, points: Tensor, times: Tensor) -> Tensor:
        found: Tensor = self.layers(torch.cat([points, self.time(times[:, None])], 1))
        return found


def flow_loss(velocity: nn.Module, source: Tensor, clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Conditional flow matching along straight lines (Lipman et al. 2023, https://arxiv.org/abs/2210.02747): the mean
    squared error of the velocity at (1 - t) source + t clean + noise, a scalar. All (n, k), but times (n,).
    """
    along = times[:, None]
    points = (1 - along) * source + along * clean + noise
    return (velocity(points, times) - (clean - source)).square().mean()


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int, sampler: Sampler) -> Tensor:
    """Where the flow carries `start` (n, k) from time 0 to 1."""
    h, points = 1 / steps, start

    def slope(at: Tensor, time: float) -> Tensor:
        return velocity(at, at.new_full((len(at),), time))

    for step in range(steps):
        t = step * h
        first = slope(points, t)
        if sampler == "euler":
            points = points + h * first
            continue
        second = slope(points + h / 2 * first, t + h / 2)
        if sampler == "midpoint":
            points = points + h * second
            continue
        third = slope(points + h / 2 * second, t + h / 2)
        fourth = slope(points + h * third, t + h)
        points = points + h / 6 * (first + 2 * second + 2 * third + fourth)
    return points


class Flow(VectorMethod):
    """Flow matching on whole networks, as DeepWeightFlow, but for this: tensors are taken in the structure's order
    (there: weights before biases; buffers not at all, and BatchNorm's statistics are measured on test images); the
    learning rate falls to 0 (there: to 1e-6); what the last step leaves is kept (there: the weights that had the lowest
    loss of a single batch); rows of a batch are drawn with replacement.
    """

    about: ClassVar[About] = About(
        what="flow matching: a velocity field carries noise to networks, whole or as PCA codes",
        source="DeepWeightFlow, Gupta et al. 2026, https://arxiv.org/abs/2601.05052",
        suits="any task and architecture; networks that are aligned, or of one run; two at least",
        trained=True,
    )
    about_memory: ClassVar[str] = "use --set method.codes=pca, or smaller method.velocity.hidden"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.statistics = config.statistics

    def refuse(self, data: TrainingSet) -> None:
        check_several(data)

    def code_size(self, structure: Structure, checkpoints: int) -> int:
        """How many values flow."""
        return dimensions(structure)

    @property
    def pass_bytes(self) -> int:
        """What a pass over the training networks takes before anything is trained."""
        return 0

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        return self.train_velocity(vectors.open()[:, : vectors.values], trainer)

    def train_velocity(self, codes: np.ndarray, trainer: Trainer) -> dict[str, JsonValue]:
        """Train on codes float32 (N, k), which may be memory-mapped. How long the trained velocities are beside those
        that were to be learnt: where training goes on for too long, they die and samples are noise.
        """
        config = self.config
        count, size, device = len(codes), codes.shape[1], trainer.device

        def known(row: int) -> Tensor:
            return torch.randn(size, generator=generator(config.velocity.seed, "flow", "source", row))

        def pairs(n: int, *path: str | int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            rng = generator(config.velocity.seed, "flow", *path)
            clean = torch.from_numpy(codes[torch.randint(count, (n,), generator=rng).numpy()])
            if config.source == "once":
                source = torch.stack([known(row) for row in torch.randint(count, (n,), generator=rng).tolist()])
            else:
                source = torch.randn(n, size, generator=rng)
            times = torch.rand(n, generator=rng)
            noise = torch.randn(n, size, generator=rng) * config.path_noise
            source *= config.source_sigma
            return source.to(device), clean.to(device), times.to(device), noise.to(device)

        def loss(model: nn.Module, step: int) -> Tensor:
            batch = pairs(config.velocity.batch_size, "batch", step)
            with global_seed(config.velocity.seed, "flow", "dropout", step):
                return flow_loss(model, *batch)

        with global_seed(config.velocity.seed, "flow", "velocity"):
            velocity = Velocity(size, config.velocity)
        trained = trainer.train("velocity", velocity, config.velocity, loss)
        source, clean, times, _ = pairs(PROBED, "probe")
        with torch.no_grad():
            found = trained(torch.lerp(source, clean, times[:, None]), times)
        share = float(found.norm(dim=1).mean() / (clean - source).norm(dim=1).mean())
        return {"codes": size, "velocity": round(share, 4)}

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        found = self.flowed(vectors, vectors.values, request, numbers, device)
        whole = nn.functional.pad(found, (0, vectors.size - vectors.values))
        return Drawn(whole, [()] * len(numbers))

    def flowed(
        self, vectors: Vectors, size: int, request: DrawConfig, numbers: Sequence[int], device: torch.device
    ) -> Tensor:
        """New codes (n, k), each from the noise of its number."""
        assert isinstance(request, FlowDrawConfig)
        velocity = self.trained(vectors, "velocity", lambda: Velocity(size, self.config.velocity), device)
        noise = [torch.randn(size, generator=generator(request.seed, "flow", "network", k)) for k in numbers]
        start = torch.stack(noise).to(device) * self.config.source_sigma
        with torch.no_grad():
            return integrate(velocity, start, request.steps, request.sampler).cpu()

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        size, values = self.code_size(structure, checkpoints), dimensions(structure)
        assert isinstance(request, FlowDrawConfig)
        group = min(self.group_of(values), request.n)

        def step(model: Velocity) -> Tensor:
            with torch.no_grad():
                return integrate(model, torch.randn(group, size), 1, request.sampler)

        build, decoded = partial(Velocity, size, self.config.velocity), 4 * group * values
        draw = draw_cost(build, step, group, times=request.steps, beside=decoded)
        return estimated(self.stages(structure, checkpoints), draw, device, values, self.pass_bytes)

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        size, config = self.code_size(structure, checkpoints), self.config.velocity

        def loss(model: Velocity) -> Tensor:
            source, clean, noise = (torch.randn(config.batch_size, size) for _ in range(3))
            return flow_loss(model, source, clean, torch.rand(config.batch_size), noise)

        return [stage_cost("velocity", partial(Velocity, size, config), loss, config)]


class PCAFlow(Flow, Codec):
    """The same on the codes of principal components. Published is the basis of scikit-learn's incremental PCA; here it
    is that of the Gram matrix, the same subspace.
    """

    def refuse(self, data: TrainingSet) -> None:
        check_rank(self.config.rank, data.zoo, len(data.entries))

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        path = vectors.run.path / COMPONENTS
        if not path.is_file():
            rank = check_rank(self.config.rank, data.zoo, len(data.entries))
            Components.fit(vectors.open(), rank).save(path)
        components = Components.load(vectors.open(), path)
        trainer.keep(path, vectors.vectors_path)
        codes = (components.codes / self._unit(components)).float()
        return self.train_velocity(codes.numpy(), trainer)

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        components = self._components(vectors)
        size = len(components.principal.variances)
        codes = self.flowed(vectors, size, request, numbers, device)
        return Drawn(components.decode(codes * self._unit(components)), [()] * len(numbers))

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        components = self._components(vectors)
        return components.decode(components.encode(given))

    def code_size(self, structure: Structure, checkpoints: int) -> int:
        return min(self.config.rank or checkpoints - 1, checkpoints - 1)

    @property
    def pass_bytes(self) -> int:
        return piece_bytes()

    def _components(self, vectors: Vectors) -> Components:
        return Components.load(vectors.open(), vectors.run.path / COMPONENTS)

    def _unit(self, components: Components) -> float:
        """What codes are divided by before they flow."""
        return float(components.principal.variances.mean().sqrt()) or 1.0 if self.config.unit_codes else 1.0
