"""D2NWG's section `method:`. Defaults of networks are the published ones for small networks, of CIFAR-10 and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from rpg.config import DiffusionConfig, check_steps
from rpg.methods.base import DrawConfig, MethodConfig, TrainingSet
from rpg.methods.d2nwg.dataset import DatasetConfig
from rpg.methods.latents import DiffusionDraw
from rpg.methods.training import Optimisation

if TYPE_CHECKING:
    from rpg.methods.d2nwg.method import D2NWG

Width: TypeAlias = Annotated[int, Field(gt=0, le=2**16)]
Multipliers: TypeAlias = Annotated[tuple[Annotated[int, Field(gt=0, le=64)], ...], Field(min_length=1, max_length=8)]
Blocks: TypeAlias = Annotated[int, Field(gt=0, le=16)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]


class AutoencoderConfig(Optimisation):
    """The variational autoencoder and how it is trained (rpg.methods.d2nwg.networks). Without `chunk` a vector is one
    chunk; `kl` and `squared_error` weigh parts of the loss.
    """

    chunk: Annotated[int, Field(gt=0, le=2**24)] | None = None
    projection: Width = 4096
    side: Annotated[int, Field(gt=0, le=2**12)] = 64
    width: Width = 128
    multipliers: Multipliers = (1, 1, 2)
    blocks: Blocks = 2
    kl: Weight = 1e-6
    squared_error: Weight = 1000.0

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.side % 2 ** (len(self.multipliers) - 1):
            raise ValueError(f"side = {self.side} cannot be halved {len(self.multipliers) - 1} times; see multipliers")
        return self

    @property
    def code(self) -> int:
        """How many values a code has: 4 channels of the side, halved once less than there are multipliers."""
        return 4 * (self.side >> (len(self.multipliers) - 1)) ** 2


class DenoiserConfig(Optimisation):
    """The denoiser of the codes, a U-Net, and how it is trained (rpg.methods.d2nwg.networks)."""

    width: Width = 256
    multipliers: Multipliers = (1, 1, 1, 2)
    blocks: Blocks = 2
    attention_from: Annotated[int, Field(ge=0)] = 2
    heads: PositiveInt = 2

    @model_validator(mode="after")
    def _heads(self) -> Self:
        for multiplier in self.multipliers:
            if self.width * multiplier % self.heads:
                raise ValueError(f"width = {self.width} times {multiplier} does not divide among {self.heads} heads")
        return self


class Config(MethodConfig):
    """`dataset` says what the denoiser is told. Codes are rescaled: their mean is taken off, and they are divided by
    their deviation.
    """

    draw_config: ClassVar[type[DrawConfig]] = DiffusionDraw

    name: Literal["d2nwg"]
    autoencoder: AutoencoderConfig
    denoiser: DenoiserConfig
    dataset: DatasetConfig = DatasetConfig()
    diffusion: DiffusionConfig = DiffusionConfig(
        num_steps=1024, beta_start=0.0015, beta_end=0.0155, schedule="root-linear"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        side, halvings = round(self.autoencoder.code**0.5), len(self.denoiser.multipliers) - 1
        if side % 2**halvings:
            raise ValueError(
                f"codes of {self.autoencoder.code} values are images of {side} pixels a side, which cannot be halved "
                f"{halvings} times; give denoiser.multipliers fewer numbers, or autoencoder.side a larger one"
            )
        if self.dataset.drawn > self.dataset.kept:
            raise ValueError(f"dataset.drawn = {self.dataset.drawn} exceeds dataset.kept = {self.dataset.kept}")
        return self

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        assert isinstance(request, DiffusionDraw)
        check_steps(self.diffusion, request.steps)

    def build(self) -> D2NWG:
        from rpg.methods.d2nwg.method import D2NWG

        return D2NWG(self)
