"""Closed forms of what the generator's parts cost: parameters, FLOPs, and bytes for the plain PyTorch modules.

FLOPs are of matrix products, convolutions and attention (two for a multiplication and an addition) and exact. Bytes
follow from the tensors that autograd keeps and the largest that are made besides; tests hold both against the meter
(`rpg.meter`), which runs the modules. Values are float32, products in bfloat16 where `half`.
Legend: B sequences, L length, K tokens that the denoiser sees, D token size, I inner width, M width of what is mixed,
N state dimension, P head dimension, H heads, Q chunk length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rpg.methods.rpg.config import TRANSFORMER_HEADS, GeneratorConfig
from rpg.methods.rpg.models.denoiser import TIME_DIM
from rpg.methods.rpg.models.generator import CONDITION_HIDDEN
from rpg.methods.rpg.models.recompute import at_once
from rpg.methods.rpg.models.ssd import CHUNK_SIZE, turns
from zoo.conditions import BITS

KERNEL_CHUNK = 256  # of mamba-ssm's kernels
F = 4  # bytes of a float32
Room: TypeAlias = Literal["states", "recurrent", "denoiser", "readout"]


@dataclass(frozen=True)
class Pass:
    """What goes through the generator at once: `sequences` of `length` tokens, of which the denoiser sees `picked` (in
    sampling the recurrent model gives all, and there is no backward pass). `kernels`: the scan is mamba-ssm's.
    """

    sequences: int
    length: int
    picked: int
    half: bool = False
    recompute: bool = False
    kernels: bool = False
    supervised: int = 0

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    @property
    def w(self) -> int:
        """Bytes of a value that a matrix product takes."""
        return 2 if self.half else F


@dataclass(frozen=True)
class Part:
    """One part in a training step: parameters; FLOPs forward, backward and again (of what is recomputed); bytes that it
    keeps for its backward pass, and at most takes beside these then; kernels that it launches at least, in both.
    `alone` are the bytes of a forward pass without gradients, inputs and outputs included. `room` is where it belongs.
    """

    room: Room
    parameters: int
    forward: int
    backward: int
    kept: int
    working: int
    launches: int
    again: int = 0
    alone: int = 0

    @property
    def flops(self) -> int:
        return self.forward + self.backward + self.again


def peak(parts: Sequence[Part], accumulated: bool = False) -> int:
    """The most bytes of a step: in the backward pass of some part, when those before it still keep theirs and those
    after it have their gradients, or all have them, `accumulated` in the step's first parts.
    """
    held, most, gradients = sum(part.kept for part in parts), 0, 0
    everything = F * sum(part.parameters for part in parts)
    for part in reversed(parts):
        most = max(most, held + part.working + (everything if accumulated else gradients))
        held -= part.kept
        gradients += F * part.parameters
    return max(most, everything)


def parameters_of(parts: Sequence[Part], room: Room | None = None) -> int:
    """All parameters, or those of a room."""
    return sum(part.parameters for part in parts if room in (None, part.room))


def parts_of(config: GeneratorConfig, num_states: int, passed: Pass, readout: bool = False) -> list[Part]:
    """The generator's parts, in the order in which they compute. Supervised prototypes may be of more tokens than the
    denoiser sees.
    """
    supervised = replace(passed, picked=max(passed.picked, passed.supervised))
    return [
        _states(config, num_states, passed),
        *_recurrent(config, supervised),
        _projection(config, supervised),
        *_denoiser(config, passed),
        *([_readout(config, supervised)] if readout else []),
    ]


def _states(config: GeneratorConfig, num_states: int, passed: Pass) -> Part:
    """Learned positions and states, or the embedding of conditions on ten classes, as the paper's: another number of
    classes changes it by 1024 parameters each.
    """
    width, rows = config.widths[0], passed.sequences
    parameters = passed.length * width if config.positions == "learned" else 0
    parameters += num_states * width if config.permutation_state == "learned" else 0
    if config.condition == "none" or config.condition_embedding == "fixed":
        return Part("states", parameters, 0, 0, 0, 0, 4)
    first, second = BITS * CONDITION_HIDDEN, CONDITION_HIDDEN * width
    forward, backward = 2 * rows * (first + second), 2 * rows * (first + 2 * second)
    parameters += first + second + CONDITION_HIDDEN + width
    return Part("states", parameters, forward, backward, 0, 0, 16)


def _projection(config: GeneratorConfig, passed: Pass) -> Part:
    """Linear, SiLU, Linear on the tokens that the denoiser sees."""
    width, size, tokens, w = config.widths[-1], config.token_size, passed.picked, passed.w
    products = width * size + size * size
    kept = tokens * (width + 2 * size) * w + (2 * products if passed.half else 0)
    working = 2 * tokens * size * w + products * w
    forward, alone = 2 * tokens * products, F * tokens * (width + 3 * size)
    return Part("recurrent", products + 2 * size, forward, 2 * forward, kept, working, 16, alone=alone)


def _readout(config: GeneratorConfig, passed: Pass) -> Part:
    """A linear map of the prototypes."""
    size, tokens, w = config.token_size, passed.picked, passed.w
    forward, casts = 2 * tokens * size * size, 2 * size * size if passed.half else 0
    kept, working = tokens * size * (w + F) + casts, tokens * size * w + size * size * w
    return Part("readout", size * size + size, forward, 2 * forward, kept, working, 8)


# The recurrent model


def _recurrent(config: GeneratorConfig, passed: Pass) -> list[Part]:
    blocks = {"mamba": _mamba, "lstm": _lstm, "transformer": _transformer, "none": _gated_mlp}
    block = blocks[config.recurrent]
    if config.one_sequence:
        passed = replace(passed, sequences=1)
    return [block(config, passed, index) for index in range(config.num_layers)]


def _learned_inputs(config: GeneratorConfig, index: int) -> bool:
    """Whether the block's inputs need gradients."""
    return index > 0 or config.positions == "learned" or config.learns_offsets


def _recomputed(part: Part, passed: Pass, values: int, inputs: int, outputs: int, once: int) -> Part:
    """A block that keeps `inputs` bytes and recomputes all but `once` FLOPs, some sequences of so many `values` at a
    time. The gradients of the weights and of all inputs add up meanwhile; those of the outputs are waiting.
    """
    group = min(passed.sequences, at_once(values))
    working = (part.kept + part.working) * group // passed.sequences + outputs + inputs + F * part.parameters
    launches = part.launches * 4 * -(-passed.sequences // group) // 3
    return replace(part, kept=inputs, working=working, again=part.forward - once, launches=launches)


def _mamba(config: GeneratorConfig, passed: Pass, index: int) -> Part:
    """A Mamba-2 block (rpg.methods.rpg.models.ssd)."""
    width, d_model = (config.widths[0], *config.widths)[index : index + 2]
    inner, state, conv = config.expand * d_model, config.d_state, config.d_conv
    mixed, heads = inner + 2 * state, inner // config.head_dim
    common = index == 0 and config.condition_scope == "all" and not config.one_sequence
    last = index == config.num_layers - 1
    rows, length, half, w = passed.sequences, passed.length, passed.half, passed.w
    tokens, seen = passed.tokens, passed.picked if last else passed.tokens
    parameters = width * (inner + mixed + heads) + mixed * (conv + 1) + 3 * heads + inner + inner * d_model

    early = rows * min(length, conv) if common else 0  # tokens that the offsets are projected for
    through = length if common else tokens  # and those that the inputs are
    gated = length if common else seen
    learned = int(config.positions == "learned" if common else _learned_inputs(config, index))
    offset_learned = int(config.learns_offsets)
    mix, gate, out = 2 * width * (mixed + heads), 2 * width * inner, 2 * inner * d_model
    depthwise = 2 * mixed * conv
    turn_kept = _turn_kept(config, passed, inner)
    scan, scan_backward, scan_kept = (
        _kernel_scan(config, passed, inner) if passed.kernels else _scan(config, passed, inner)
    )
    forward = (through + early) * (mix + depthwise) + (gated + (rows if common else 0)) * gate + scan + seen * out
    backward = through * mix * (1 + learned) + early * mix * (1 + offset_learned) + (through + early) * 2 * depthwise
    backward += gated * gate * (1 + learned) + (rows * gate * (1 + offset_learned) if common else 0)
    backward += scan_backward + 2 * seen * out

    casts = 2 * (width * (inner + mixed + heads) * learned + inner * d_model) if half else 0
    if common:
        inputs = (4 * length * width if half else 0) + F * (length + early) * mixed
    else:
        inputs = tokens * width * w + F * tokens * mixed + (seen * width * w if last else 0)
        if index == 0 and half:
            inputs += tokens * width * w
    mixing = F * tokens * (2 * mixed + 2 * heads)
    # With kernels the norm keeps its inputs, and makes the rest again.
    norm_kept, norm_working = (F + 2 * w, 8) if passed.kernels and not passed.recompute else (5 * F + w, 3)
    kept = casts + inputs + mixing + scan_kept + seen * inner * norm_kept
    working = F * inner * max(norm_working * seen, 2 * tokens) + inner * d_model * w
    launches = 90 + (20 if passed.kernels else 60 * len(turns(length, CHUNK_SIZE)) + 6 * (length // CHUNK_SIZE))
    norm = F * tokens * (5 * inner + mixed + 2 * heads + d_model)
    alone = max(norm, F * tokens * (2 * mixed + 3 * inner + 2 * heads) + turn_kept)
    alone += F * (2 * length * (inner + mixed) if common else tokens * (mixed + heads + width))
    part = Part("recurrent", parameters, forward, backward, kept, working, launches, alone=alone)
    if not passed.recompute:
        return part
    outputs, once = seen * d_model * w, seen * out
    if common:
        once += (through + early) * (mix + depthwise) + (gated + rows) * gate
    else:
        inputs = tokens * width * (w if index else F)
    if not passed.kernels:  # whose turns are recomputed when the block is, too
        part = replace(part, kept=part.kept - scan_kept + turn_kept)
        once -= scan
    return _recomputed(part, passed, length * inner, inputs, outputs, once)


def _scan(config: GeneratorConfig, passed: Pass, inner: int) -> tuple[int, int, int]:
    """FLOPs of the chunked scan, forward and backward, and bytes that it keeps."""
    state, chunk, heads = config.d_state, CHUNK_SIZE, inner // config.head_dim
    rows, length, tokens = passed.sequences, passed.length, passed.tokens
    chunks, rest = divmod(length, chunk)
    taken = turns(length, chunk)
    first = taken[0] if taken[0] <= chunk else 0  # where nothing arrives from the past
    unused = taken[-1] if taken[-1] <= chunk else 0  # what the last turn leaves behind goes nowhere
    inside = 2 * (chunk**2 * chunks + rest**2) * (state + inner)
    left, arriving = 2 * length * state * inner, 2 * (length - first) * state * inner
    forward = rows * (inside + left + arriving)
    backward = 2 * (forward - rows * 2 * unused * state * inner)
    states = rows * inner * state * (-(-length // chunk))
    masks = rows * heads * (chunk**2 * chunks + rest**2)
    copies = tokens * (4 * inner + 2 * heads * state + 2 * state + 3 * heads)
    return forward, backward, F * (copies + 2 * masks + 2 * states)


def _turn_kept(config: GeneratorConfig, passed: Pass, inner: int) -> int:
    """Bytes of the longest turn of the scan and of the states between: what is kept when turns are recomputed."""
    taken = turns(passed.length, CHUNK_SIZE)
    longest = _scan(config, replace(passed, length=max(taken)), inner)[2]
    return longest + F * passed.sequences * inner * config.d_state * len(taken)


def _kernel_scan(config: GeneratorConfig, passed: Pass, inner: int) -> tuple[int, int, int]:
    """The same for mamba-ssm's kernels, which keep their result and the decays, and recompute states."""
    state, chunk, tokens = config.d_state, KERNEL_CHUNK, passed.tokens
    inside, across = 2 * tokens * chunk * (state + inner), 2 * 2 * tokens * state * inner
    forward = inside + across
    return forward, 2 * forward + across // 2, F * tokens * (inner + inner // config.head_dim)


def _lstm(config: GeneratorConfig, passed: Pass, index: int) -> Part:
    """Gates from inputs and from the state before, token by token."""
    width, tokens = config.widths[0], passed.tokens
    product = 2 * tokens * 4 * width * width
    first = 2 * passed.sequences * 4 * width * width  # the state before the first token is zero and needs no gradient
    learned = _learned_inputs(config, index)
    kept = tokens * width * (24 if passed.half else 36) + (16 * width * width if passed.half else 0)
    working = tokens * width * (12 if passed.half else 16)
    parameters = 8 * width * width + 8 * width
    backward, launches, alone = product * (3 + learned) - first, 3 * passed.length, F * tokens * width * 10
    part = Part("recurrent", parameters, 2 * product, backward, kept, working, launches, alone=alone)
    if not passed.recompute:
        return part
    inputs = tokens * width * passed.w
    return _recomputed(part, passed, 4 * passed.length * width, inputs, inputs, 0)


def _transformer(config: GeneratorConfig, passed: Pass, index: int) -> Part:
    """Attention in one operation, then a feed-forward network of twice the width."""
    width, tokens = config.widths[0], passed.tokens
    attention = 4 * passed.sequences * passed.length**2 * width
    products = 2 * tokens * 7 * width * width
    parameters = 7 * width * width + 3 * width + 4 * width
    casts = 14 * width * width if passed.half else 0
    kept = tokens * width * (28 if passed.half else 48) + tokens * (TRANSFORMER_HEADS + 4) * F + casts
    working = tokens * width * (10 if passed.half else 12)
    forward, backward, alone = products + attention, 2 * products + attention * 5 // 2, F * tokens * width * 8
    part = Part("recurrent", parameters, forward, backward, kept, working, 40, alone=alone)
    if not passed.recompute:
        return part
    inputs = tokens * width * F
    return _recomputed(part, passed, 3 * passed.length * width, inputs, inputs, 2 * tokens * 2 * width * width)


def _gated_mlp(config: GeneratorConfig, passed: Pass, index: int) -> Part:
    """Two linear layers, one the other's gate, and a third."""
    width, tokens, w = config.widths[0], passed.tokens, passed.w
    product = 2 * tokens * 2 * width * width
    learned = _learned_inputs(config, index)
    casts = 12 * width * width if passed.half else 0
    kept = tokens * width * (8 * w + (w if index == 0 and passed.half else 0)) + 2 * tokens * F + casts
    parameters, backward = 6 * width * width + 3 * width, product * (4 + 2 * learned)
    working, alone = 4 * tokens * width * w, F * tokens * width * 10
    part = Part("recurrent", parameters, 3 * product, backward, kept, working, 30, alone=alone)
    if not passed.recompute:
        return part
    inputs = tokens * width * w
    return _recomputed(part, passed, 2 * passed.length * width, inputs, inputs, 0)


# The denoiser


def _denoiser(config: GeneratorConfig, passed: Pass) -> list[Part]:
    """The time embedding, then stage by stage."""
    size, tokens, w = config.token_size, passed.picked, passed.w
    products = TIME_DIM * size + size * size
    embedding = Part(
        "denoiser",
        products + 2 * size,
        2 * tokens * products,
        2 * tokens * (products + size * size),
        tokens * (TIME_DIM + 3 * size) * w + (2 * size * size if passed.half else 0),
        products * w + tokens * size * w,
        20,
    )
    stages = [_stage(config, passed, index) for index in range(len(config.channels) - 1)]
    return [embedding, *stages]


def _stage(config: GeneratorConfig, passed: Pass, index: int) -> Part:
    """(features + prototypes) * time, convolution, BatchNorm, ELU."""
    width_in, width_out = config.channels[index : index + 2]
    last, values, w = index == len(config.channels) - 2, passed.picked * config.token_size, passed.w
    forward = 2 * values * config.kernel_size * width_in * width_out
    parameters = width_in * width_out * config.kernel_size + width_out * (1 if last else 3)
    seen = F if index == 0 else w
    kept = values * (width_in * (seen + w) + width_out * w * (1 if last else 2))
    working = values * (2 * width_out + width_in) * w
    part = Part("denoiser", parameters, forward, 2 * forward, kept, working, 30)
    if not passed.recompute:
        return part
    widest = max(max(config.channels[i : i + 2]) for i in range(len(config.channels) - 1))
    chunk = min(passed.picked, at_once(config.token_size * widest))
    inside = chunk * config.token_size * (width_in * 6 * F + width_out * w)
    pending = values * w * (width_in + width_out)
    launches = 40 * -(-passed.picked // chunk)
    return replace(part, kept=values * width_out * w, working=inside + pending, launches=launches)


def denoising_bytes(config: GeneratorConfig, tokens: int) -> int:
    """What a pass of so many tokens through the denoiser takes at most in sampling, where BatchNorm is part of the
    convolutions.
    """
    channels, stages = config.channels, len(config.channels) - 1
    skipped = list(channels[1 : stages - stages // 2])  # of the early stages, until they are added
    most = 0
    for index in range(stages):
        if index > stages // 2:
            skipped.pop()
        waiting = sum(skipped[:index])
        width_in, width_out = channels[index : index + 2]
        convolved = 2 * width_in + (2 if index < stages - 1 else 1) * width_out
        most = max(most, waiting + max(3 * width_in, convolved))
    return F * tokens * config.token_size * most
