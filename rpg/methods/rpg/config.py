"""RPG's sections `method:` and `generate:` of a recipe. Defaults are the paper's (Tables 11 and 12,
RPG-Tiny).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from rpg.config import DiffusionConfig, Prediction, SamplerOrReadout, check_steps
from rpg.methods.base import DrawConfig, Method, MethodConfig, TrainingSet
from rpg.tokens.tokenisation import Rule
from zoo.conditions import check_condition
from zoo.seeds import Seed
from zoo.structure import Frozen

Width: TypeAlias = Annotated[int, Field(gt=0, le=2**16)]
Depth: TypeAlias = Annotated[int, Field(gt=0, le=256)]
TRANSFORMER_HEADS = 8  # of the published ablation, whatever the width


def _on_or_off(word: Any) -> Any:
    """YAML reads `on` and `off` as booleans."""
    return {True: "on", False: "off"}[word] if isinstance(word, bool) else word


class GeneratorConfig(Frozen):
    """The generator's architecture: recurrent model, projection, denoiser (paper, Table 12 and section A.3).

    `d_model` is the width of every block, or one width per block; the input has the first block's. `recurrent`,
    `positions`, `tokenisation` and `permutation_state` are the paper's ablations (Tables 4, 5 and 15, Figure 4);
    `fourier` states, as many as there are checkpoints (positions.by_number), are ours.

    With `condition: binary` the generator is told what a network is for (section 4): the bits of its checkpoint's
    condition are embedded and added to the positions of all tokens, or, as in the published code, of the last 8 alone
    (`condition_scope: head`); then what comes before these does not depend on the task. The paper has no permutation
    state then. The published embedding is `learned`, two layers; ours is `fixed`, the sum of a direction for each bit
    (positions.by_bits), as strong as positions from the start, and is learnt from in a fraction of the steps.

    `statistics` are those that tokens are standardised with: two numbers per tensor, as in the paper, or two for every
    value (rpg.tokens.values), which suits zoos whose networks all started from the same weights.
    """

    token_size: Annotated[int, Field(gt=0, le=2**16)] = 256
    tokenisation: Rule = "layer"
    statistics: Literal["tensor", "value"] = "tensor"
    positions: Literal["layer", "index", "learned"] = "layer"
    recurrent: Literal["mamba", "lstm", "transformer", "none"] = "mamba"
    d_model: Width | tuple[Width, ...] = 256
    d_state: Width = 32
    d_conv: Width = 4
    expand: Width = 2
    head_dim: Width = 64
    num_layers: Depth = 2
    channels: Annotated[tuple[Width, ...], Field(max_length=256)] = (1, 32, 64, 128, 64, 32, 1)
    kernel_size: Width = 7
    permutation_state: Literal["one-hot", "learned", "fourier", "none"] = "one-hot"
    condition: Literal["none", "binary"] = "none"
    condition_scope: Literal["all", "head"] = "all"
    condition_embedding: Literal["learned", "fixed"] = "learned"

    @property
    def learns_offsets(self) -> bool:
        """Whether what is added to the positions is learned."""
        return self.permutation_state == "learned" or (
            self.condition == "binary" and self.condition_embedding == "learned"
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each block."""
        return self.d_model if isinstance(self.d_model, tuple) else (self.d_model,) * self.num_layers

    @property
    def one_sequence(self) -> bool:
        """Whether nothing tells checkpoints apart, neither states nor conditions: all sequences are the same one."""
        return self.permutation_state == "none" and self.condition == "none"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.widths) != self.num_layers:
            raise ValueError(
                f"d_model = {list(self.widths)} has {len(self.widths)} widths, but num_layers = {self.num_layers}; "
                f"give one width per block, or a single number for all"
            )
        if self.condition == "binary" and self.permutation_state != "none":
            raise ValueError(
                f"condition = binary takes the place of permutation_state = {self.permutation_state}; set "
                f"method.generator.permutation_state to none"
            )
        for setting, default in (("condition_scope", "all"), ("condition_embedding", "learned")):
            if self.condition == "none" and (given := getattr(self, setting)) != default:
                raise ValueError(
                    f"{setting} = {given} is for generators with a condition; set method.generator.condition to binary"
                )
        if self.recurrent == "mamba":
            for inner in (self.expand * width for width in self.widths):
                if inner % self.head_dim:
                    raise ValueError(f"expand * d_model = {inner} must be a multiple of head_dim = {self.head_dim}")
        elif len(set(self.widths)) > 1:
            raise ValueError(
                f"d_model = {list(self.widths)}: blocks of different widths need recurrent = mamba; "
                f"for recurrent = {self.recurrent} give a single number"
            )
        width = self.widths[0]
        if width % 4:
            raise ValueError(f"d_model = {width} must be a multiple of 4 (sine and cosine of two positions)")
        if self.recurrent == "transformer" and width % TRANSFORMER_HEADS:
            raise ValueError(f"d_model = {width} must be a multiple of {TRANSFORMER_HEADS}, the transformer's heads")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size = {self.kernel_size} must be odd, so that a token keeps its length")
        if len(self.channels) < 3 or self.channels[0] != 1 or self.channels != self.channels[::-1]:
            raise ValueError(f"channels = {list(self.channels)} must start and end with 1 and read the same backwards")
        return self


Precision: TypeAlias = Literal["bfloat16", "float32"]


class TrainConfig(Frozen):
    """How the generator is trained (paper, Table 11).

    `batch_size` checkpoints and `diffusion_batch` tokens make a step, on any number of processes. `accumulation` cuts
    the step into that many parts, computed one after the other to save memory: gradients are those of the whole step,
    but each part is a batch of its own to the denoiser's BatchNorm, and one that no token of `diffusion_batch` falls
    into is left out, with what its prototypes would have learnt. `gradient_clipping` is the largest norm of the
    gradient, `ema` the decay per step of an average of the weights that is then the trained generator; the paper is
    silent about both and the published code has neither. With `loss: token` the error is the mean over tokens of the
    mean over their values, instead of over all values: a small head then counts as much as a token full of a layer.
    `prototype_batch` is how many tokens supervised prototypes learn from in a step, the denoiser's `diffusion_batch`
    among them: they cost little, where the denoiser takes most of a step.

    `recompute` says whether activations are computed again in the backward pass instead of kept; `auto`: where the
    device's memory would not hold them. The mathematics are the same, as on another device or another number of
    processes, and results equal up to rounding: so, like these, it is no part of a run's identity, and a training that
    ran out of memory can be continued with it.
    """

    batch_size: PositiveInt = 16
    accumulation: PositiveInt = 1
    steps: PositiveInt = 80_000
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: PositiveFloat = 3e-5
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    gradient_clipping: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Precision = "bfloat16"
    loss: Literal["value", "token"] = "value"
    diffusion_batch: PositiveInt = 1024
    prototype_batch: PositiveInt | None = None
    recompute: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = Field(
        default="auto", exclude=True
    )
    save_every: PositiveInt = 1000
    seed: Seed = 0

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size = {self.batch_size} must be a multiple of accumulation = {self.accumulation}; "
                f"every part of a step takes as many checkpoints"
            )
        if self.prototype_batch is not None and self.prototype_batch < self.diffusion_batch:
            raise ValueError(
                f"prototype_batch = {self.prototype_batch} has the tokens of diffusion_batch = {self.diffusion_batch} "
                f"among its own; give as many or more"
            )
        return self


class GenerateConfig(DrawConfig):
    """Section `generate:` of method `rpg` (paper, sections 3.1 and B.3).

    `sampler`: the paper's DDPM (1000 steps) and DDIM (60), or DPM-Solver++ with noise, made for about 20; or `readout`,
    no diffusion at all: the clean tokens that are read out of supervised prototypes, one network per state. `mode` says
    how many tokens are denoised together at most: one (sequential), 256 (partial) or all in memory (full). It changes
    time and memory, not the weights. `conditions` are the tasks to generate for, `n` networks each, by a run that was
    trained with conditions.
    """

    conditions: tuple[Annotated[str, AfterValidator(check_condition)], ...] = ()
    sampler: SamplerOrReadout = "ddpm"
    steps: PositiveInt = 1000
    mode: Literal["sequential", "partial", "full"] = "partial"


class RPGConfig(MethodConfig):
    """Section `method:` of method `rpg`.

    `prediction` is what the denoiser estimates and `min_snr` caps how much its error counts at each level
    (rpg.diffusion.Objective); the paper's are the noise, and no cap.

    With `prototype_loss`, the weight of this term, prototypes are supervised: they learn to give the clean token
    through a linear read-out and from nothing else, and the denoiser estimates what that leaves. With Eq. 5 alone the
    recurrent model learns through the denoiser, to which a noisy token says more than its prototype, and so hardly
    (docs/results.md).

    With `behaviour`, the weight of a third term, prototypes also learn what networks are for: in each step the
    cross-entropy of `behaviour_networks` networks that are read out, told of random training checkpoints, on
    `behaviour_images` training images (classification alone, binary tasks among it; in one process). Networks of few
    training steps say with noise what a task wants, images say it themselves. `rpg estimate` does not count it.

    Every checkpoint has a permutation state of its own, or with `state_per: seed` every training seed, as it is seeds
    that symmetries tell apart: of its checkpoints the state then gives the mean, and the diffusion the spread.
    """

    draw_config: ClassVar[type[DrawConfig]] = GenerateConfig

    name: Literal["rpg"]
    prediction: Prediction = "epsilon"
    prototype_loss: Annotated[float, Field(ge=0)] = 0.0
    min_snr: PositiveFloat | None = None
    behaviour: Annotated[float, Field(ge=0)] = 0.0
    behaviour_networks: PositiveInt = 24
    behaviour_images: PositiveInt = 64
    state_per: Literal["checkpoint", "seed"] = "checkpoint"
    generator: GeneratorConfig = GeneratorConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.state_per == "seed" and self.generator.permutation_state == "none":
            raise ValueError(
                "state_per = seed says which checkpoints share a permutation state, but this generator has none; leave "
                "method.state_per out, or set method.generator.permutation_state to one-hot, learned or fourier"
            )
        if self.behaviour and not self.has_readout:
            raise ValueError(
                f"behaviour = {self.behaviour:g} is of networks read out of prototypes, but prototype_loss = 0; "
                "leave it out, or set method.prototype_loss to 1"
            )
        if not self.behaviour:
            for name in ("behaviour_networks", "behaviour_images"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} = {getattr(self, name)} says how behaviour is learnt, but behaviour = 0; leave it "
                        "out, or set method.behaviour to 0.3"
                    )
        if self.train.prototype_batch is not None and not self.has_readout:
            raise ValueError(
                "train.prototype_batch is of supervised prototypes, but prototype_loss = 0; leave it out (a recipe's: "
                "--set method.train.prototype_batch=null), or set method.prototype_loss to 1"
            )
        return self

    @property
    def has_readout(self) -> bool:
        """Whether clean tokens are read out of prototypes."""
        return self.prototype_loss > 0

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        """Also for a read-out of a generator without one."""
        assert isinstance(request, GenerateConfig)
        if request.sampler != "readout":
            check_steps(self.diffusion, request.steps)
        elif not self.has_readout:
            raise ValueError(
                "generate.sampler = readout needs supervised prototypes, but this generator has method.prototype_loss "
                "= 0; use ddpm, ddim or dpm++, or train one with --set method.prototype_loss=1"
            )

    def build(self) -> Method:
        from rpg.methods.rpg.method import RPG  # which trains: a recipe needs its settings alone

        return RPG(self)


Config = RPGConfig
