"""Sections `method:` and `generate:` of method `rpg-latent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from rpg.config import DiffusionConfig, SamplerOrReadout, check_steps
from rpg.methods.base import DrawConfig, MethodConfig, TrainingSet
from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.training import Optimisation

if TYPE_CHECKING:
    from torch import Tensor

    from rpg.methods.rpg_latent.method import RPGLatent

Weight = Annotated[float, Field(ge=0)]


class LatentDraw(DrawConfig):
    """Section `generate:`. Latents are drawn from the Gaussian that training saw, `temperature` times as wide, or lie
    on the line between the codes of two training networks, anywhere with equal chance (`interpolated`). `sampler` with
    `steps` denoises tokens (rpg.diffusion.make_scheduler), or there is no diffusion: `readout`.

    With `guidance`, each step of the diffusion goes down so many times the gradient of the cross-entropy, summed over
    values that have deviation 1, of each network's estimate on `images` training images, other ones in each step
    (rpg.diffusion.sample). Classification of images only.
    """

    latents: Literal["gaussian", "interpolated"] = "gaussian"
    temperature: Annotated[float, Field(ge=0)] = 1.0
    guidance: Weight = 0.0
    images: PositiveInt = 128
    sampler: SamplerOrReadout = "dpm++"
    steps: Annotated[int, Field(gt=0, le=2**20)] = 20

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.latents == "interpolated" and self.temperature != 1:
            raise ValueError("temperature is the width of the Gaussian; leave it out, or set generate.latents=gaussian")
        if not self.guidance and self.images != type(self).model_fields["images"].default:
            raise ValueError(f"images = {self.images} are what guidance looks at, but guidance = 0; leave it out")
        if self.guidance and self.sampler == "readout":
            raise ValueError(
                f"guidance = {self.guidance:g} is of diffusion, and sampler = readout takes none; leave it out, or set "
                "generate.sampler=dpm++"
            )
        return self


class Model(GeneratorConfig):
    """RPG's generator (GeneratorConfig), whose permutation state is computed from a latent: two layers, as for
    conditions. Prototypes are supervised always, and detached where the denoiser sees them.

    With `joint`, the denoiser is told prototypes of a second recurrent model instead, which reads all noisy tokens of a
    network, with what was read out of the first's prototypes and the level, from the first to the last and once more:
    so each token's estimate knows all others. Otherwise tokens are independent, given the latent.
    """

    permutation_state: Literal["none"] = "none"
    condition: Literal["none"] = "none"
    statistics: Literal["tensor"] = "tensor"
    joint: bool = False


class Config(MethodConfig):
    """A network's latent is its code along the first `rank` principal components (None: all), each with deviation 1,
    plus noise of deviation `noise`, drawn anew in each step. Learn from an aligned zoo (`rpg-zoo align`) where seeds
    are independent.

    - `model` is the generator, `generator` how it is trained. Each step takes whole networks.
    - The denoiser estimates what the read-out leaves of the clean token, as in the `-supervised` recipes;
      `prototype_loss` and `min_snr` are those of RPGConfig.
    - `zoo`: the weight of the training networks' errors. With 0 nothing is learnt of them but their scale (a
      hypernetwork, as a control), nor any denoiser: then draw with `generate.sampler: readout`.
    - `behaviour`: the weight of the cross-entropy, on `images` training images, of `drawn` networks that are read out
      of latents drawn anew; networks in `groups`, each of which sees images of its own. Classification of images only.
      Running statistics of BatchNorm are those that are generated, and learn nothing from it.
    - `diversity`: the weight of the energy distance between these networks and the batch of training networks
      (rpg.methods.rpg_latent.energy.spread_distance), which holds up the spread that behaviour alone would take away.
    - `function_diversity`: the weight of the same between what they do, softmax outputs for each of the images, so that
      they err as differently as training networks. Weights alone are held apart by copies with other orders of units.
    """

    draw_config: ClassVar[type[DrawConfig]] = LatentDraw

    name: Literal["rpg-latent"]
    rank: PositiveInt | None = None
    noise: Weight = 0.1
    model: Model = Model()
    diffusion: DiffusionConfig = DiffusionConfig()
    min_snr: PositiveFloat | None = 5.0
    prototype_loss: PositiveFloat = 1.0
    zoo: Weight = 1.0
    behaviour: Weight = 0.0
    images: PositiveInt = 128
    groups: PositiveInt = 1
    diversity: Weight = 0.0
    function_diversity: Weight = 0.0
    drawn: Annotated[int, Field(ge=2, le=2**16)] = 16
    generator: Optimisation

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.zoo or self.draws):
            raise ValueError(
                "zoo and all that is asked of drawn networks are 0; set method.behaviour or another weight"
            )
        if self.groups > 1 and not self.on_images:
            raise ValueError(f"groups = {self.groups} are of networks that look at images, and none do; leave it out")
        if self.drawn < 2 * self.groups:
            raise ValueError(f"groups = {self.groups} have not two each of drawn = {self.drawn}; lower method.groups")
        if self.generator.batch_size < self.fewest:
            raise ValueError(
                "diversity compares batches of networks, two in each group, but method.generator.batch_size = "
                f"{self.generator.batch_size}; set {self.fewest} or more"
            )
        return self

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        assert isinstance(request, LatentDraw)
        if request.sampler != "readout":
            check_steps(self.diffusion, request.steps)

    @property
    def fewest(self) -> int:
        """How many training networks a step needs."""
        return 2 * self.groups if self.function_diversity else 2 if self.diversity else 1

    @property
    def draws(self) -> bool:
        """Whether training draws latents anew."""
        return bool(self.diversity or self.on_images)

    @property
    def on_images(self) -> list[str]:
        """The weights of what training asks of networks on images; nothing where it looks at none."""
        return [name for name in ("behaviour", "function_diversity") if getattr(self, name)]

    @property
    def idle(self) -> list[str]:
        """Why settings that somebody said change nothing, a line each."""
        off = {} if self.on_images else {"images": "method.behaviour and method.function_diversity are 0"}
        off |= {} if self.draws else {"drawn": "nothing is asked of drawn networks, as by method.behaviour"}
        off |= {} if self.zoo else dict.fromkeys(("diffusion", "min_snr", "prototype_loss"), "method.zoo is 0")
        said = self.model_fields_set | {f"model.{name}" for name in self.model.model_fields_set}
        off |= {} if self.zoo else {"model.joint": "method.zoo is 0, and nothing is denoised"}
        return [f"method.{name} is ignored: {why}" for name, why in off.items() if name in said]

    def spread(self, alive: Tensor) -> Tensor:
        """The deviation of each of a latent's values in training, over codes and noise, float32 (R,): noise alone along
        components that are nothing, which are not `alive`, bool (R,).
        """
        return (alive.double() + self.noise**2).sqrt().float()

    def build(self) -> RPGLatent:
        from rpg.methods.rpg_latent.method import RPGLatent  # which trains: a recipe needs its settings alone

        return RPGLatent(self)
