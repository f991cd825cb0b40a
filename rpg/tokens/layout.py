"""Layout: the only bridge between checkpoints and tokens (paper, section 2.2).

Every floating-point tensor is standardised with its own two numbers and flattened; `rpg.tokens.tokenisation` says where
its values lie in tokens. "Layer" means one tensor, as in the published code. Legend: L tokens, D token size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from rpg.tokens.tokenisation import Place, Rule, place, positions, useful
from zoo.structure import DTYPES, Frozen, Size, Structure, TensorSpec

VARIANCE_SHIFT, VARIANCE_SCALE = 0.05, 0.95  # of the published code's log transform of running variances
MAX_TOKENS = 2**26  # of a checkpoint: positions are made for each, and a layout may be anyone's
CHUNK = 2**16  # values worked on at a time, so that their float64 copy stays in the processor's cache


class TensorLayout(Frozen):
    """Where one tensor lies in the token sequence and how it is normalised.

    Tokens hold (u - mean) / std, where u is the value itself, or log(value / log_scale + 0.05) for running variances.
    `num_tokens` tokens begin with a value of this tensor, the first of them is number `first_token`.
    """

    name: str
    shape: tuple[Size, ...]
    dtype: str
    kind: Literal["float", "running_var"]
    mean: float
    std: PositiveFloat
    log_scale: PositiveFloat | None
    first_token: NonNegativeInt
    num_tokens: NonNegativeInt

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def normalise(self, value: Tensor, chunk: int) -> Iterator[Tensor]:
        """The tensor's values in tokens, flat, computed in float64 and rounded to float32, `chunk` of them at a time.

        Raises ValueError when they are not finite.
        """
        scale = 1 / self.std
        offset = torch.tensor(-self.mean * scale, dtype=torch.float64)
        for part in _parts(value, chunk):
            u = _unscaled(part, self.log_scale)
            rounded = torch.add(offset, u, alpha=scale, out=u).float()  # one pass over u
            if not math.isfinite(_squares(rounded)):
                _refuse_unless_finite(self.name, u)  # values may also be just too large to square
            yield rounded

    def denormalise(self, flat: Tensor) -> Tensor:
        """The inverse for any of the values, flat: dtype restored, clamped to its finite range."""
        u = flat.double() * self.std + self.mean
        if self.log_scale is not None:
            # The published code clips at 0.001, which would not give back the zero variance of a dead channel.
            u = (u.exp() - VARIANCE_SHIFT).clamp_min(0) * self.log_scale
        dtype = DTYPES[self.dtype]
        limit = torch.finfo(dtype).max
        return u.clamp(-limit, limit).to(dtype)


class Layout(Frozen):
    """How a checkpoint of this structure becomes L tokens of `token_size` values, and back.

    `tensors` has an entry for every tensor that is generated, in the structure's order: constants and the later ones
    of tied tensors have none.
    """

    token_size: PositiveInt
    tokenisation: Rule = "layer"
    structure: Structure
    tensors: tuple[TensorLayout, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.structure.numel // self.token_size > MAX_TOKENS or self.num_tokens > MAX_TOKENS:
            raise ValueError(f"more than {MAX_TOKENS:,} tokens; raise token_size = {self.token_size}")
        specs = generated(self.structure)
        if [spec.name for spec in specs] != [tensor.name for tensor in self.tensors]:
            raise ValueError("the layout's tensors are not those that its structure generates")
        for spec, tensor, where in zip(specs, self.tensors, self._places(), strict=True):
            same = (tensor.shape, tensor.dtype, tensor.kind) == (spec.shape, spec.dtype, spec.kind)
            if not same or (tensor.log_scale is not None) != (spec.kind == "running_var"):
                raise ValueError(f"tensor {spec.name!r} of the layout differs from its structure's")
            if (tensor.first_token, tensor.num_tokens) != (where.first_token, where.num_tokens):
                raise ValueError(f"tensor {spec.name!r} does not lie where its token sequence has it")
        return self

    @classmethod
    def fit(
        cls,
        structure: Structure,
        checkpoints: Callable[[], Iterable[Mapping[str, Tensor]]],
        token_size: int,
        tokenisation: Rule = "layer",
    ) -> Layout:
        """Measure the statistics over training checkpoints and lay out the tokens.

        The mean and the population standard deviation are those of all values of a tensor in all checkpoints, in
        float64; 1 stands in for a deviation of zero. `checkpoints` gives a fresh iterable at each call: one pass
        measures everything; if there are running variances, a second one measures their logarithms, whose scale is
        known by then. Raises ValueError when there is no checkpoint, or one does not fit the structure or holds values
        that are not finite.
        """
        if token_size < 1:
            raise ValueError(f"token_size is {token_size}; it must be at least 1")
        specs = generated(structure)
        moments = _measure(structure, specs, checkpoints(), {})
        variances = [spec for spec in specs if spec.kind == "running_var"]
        # 1 for a BatchNorm that has only dead channels
        scales = {spec.name: VARIANCE_SCALE * moments[spec.name].mean or 1.0 for spec in variances}
        if variances:
            moments |= _measure(structure, variances, checkpoints(), scales)
        tensors = [
            TensorLayout(
                name=spec.name,
                shape=spec.shape,
                dtype=spec.dtype,
                kind="running_var" if spec.kind == "running_var" else "float",
                mean=moments[spec.name].mean,
                std=moments[spec.name].std or 1.0,
                log_scale=scales.get(spec.name),
                first_token=where.first_token,
                num_tokens=where.num_tokens,
            )
            for spec, where in zip(specs, place([spec.shape for spec in specs], tokenisation, token_size), strict=True)
        ]
        return cls(token_size=token_size, tokenisation=tokenisation, structure=structure, tensors=tuple(tensors))

    @property
    def num_tokens(self) -> int:
        """L."""
        return sum(tensor.num_tokens for tensor in self.tensors)

    @property
    def useful(self) -> float:
        """Share of the L x D values that are weights; the rest is padding."""
        return useful(self._places(), self.token_size)

    def mask(self, tokens: range | None = None) -> Tensor:
        """bool (L, D), False where there is padding; or (K, D) of these tokens."""
        tokens = range(self.num_tokens) if tokens is None else tokens
        mask = torch.zeros(len(tokens), self.token_size, dtype=torch.bool)
        for where in self._places():
            where.window(mask, tokens.start)[1].fill_(True)
        return mask

    def positions(self) -> Tensor:
        """int64 (L, 2): of every token the index of its layer and its index inside the layer."""
        return positions(self._places())

    def encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Tokens float32 (L, D), zero in the padding.

        Raises ValueError when the weights do not fit the structure or one of them is not finite.
        """
        tokens = torch.empty(self.num_tokens, self.token_size)
        end = 0
        for piece in self.pieces(weights):
            start, end = end, end + len(piece)
            tokens.view(-1)[start:end] = piece
        return tokens

    def pieces(self, weights: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """The values of `encode`'s tokens in order, padding included, as flat float32 pieces that fit into a
        processor's cache: written to a file at once, they cost main memory no more than one reading of the weights.
        """
        self.structure.check(weights, "this checkpoint")
        end = 0
        for tensor, where in zip(self.tensors, self._places(), strict=True):
            if where.start > end:
                yield torch.zeros(where.start - end)
            whole_tokens = max(1, CHUNK // self.token_size) * where.per_token
            for values in tensor.normalise(weights[tensor.name], whole_tokens):
                yield where.pad(values, self.token_size)
            end = where.end(self.token_size)
        yield torch.zeros(self.num_tokens * self.token_size - end)

    def decode(self, tokens: Tensor, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint of tokens (L, D), in the structure's order; tied tensors are one tensor, constants are taken
        from `constants`. The inverse of `encode` up to float32 rounding of the standardised values.

        Raises ValueError when the tokens or the constants do not fit.
        """
        if tokens.shape != (self.num_tokens, self.token_size):
            expected = (self.num_tokens, self.token_size)
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; this layout has {expected}")
        tokens = tokens.contiguous()
        pairs = zip(self.tensors, self._places(), strict=True)
        decoded = {t.name: t.denormalise(where.take(tokens)).reshape(t.shape) for t, where in pairs}
        values = {**constants, **decoded}
        sources = {spec.name: spec.tied_to or spec.name for spec in self.structure}
        weights = {name: values[source] for name, source in sources.items() if source in values}
        self.structure.check(weights, "the checkpoint of these tokens and constants")  # reports missing constants
        return weights

    def decode_window(self, tokens: Tensor, first: int) -> Iterator[tuple[str, int, Tensor]]:
        """What a window of tokens (K, D), of which the first is number `first`, holds of the generated tensors: name,
        index of a value in the flattened tensor, and the values from there on, flat.

        Windows that cover all tokens give every value of `decode` once, bit for bit, with one window in memory.
        """
        tokens = tokens.contiguous()
        for tensor, where in zip(self.tensors, self._places(), strict=True):
            start, values = where.window(tokens, first)
            if values.numel():
                yield tensor.name, start, tensor.denormalise(values.reshape(-1))

    def _places(self) -> list[Place]:
        return place([tensor.shape for tensor in self.tensors], self.tokenisation, self.token_size)


class _Moments:
    """Mean and population deviation of a stream of values, merged in float64 (Chan et al. 1979).

    Values are taken relative to the first one, so that equal values have a deviation of exactly zero.
    """

    def __init__(self) -> None:
        self.count, self.origin, self.offset, self.squares = 0, 0.0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take in flat float64 values, at least one; they are overwritten."""
        count = len(values)
        if self.count == 0:
            self.origin = values[0].item()
        mean = values.sub_(self.origin).mean().item()
        delta = mean - self.offset
        total = self.count + count
        self.squares += _squares(values.sub_(mean)) + delta * delta * self.count * count / total
        self.offset += delta * count / total
        self.count = total

    @property
    def mean(self) -> float:
        return self.origin + self.offset

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def _measure(
    structure: Structure,
    specs: list[TensorSpec],
    checkpoints: Iterable[Mapping[str, Tensor]],
    scales: Mapping[str, float],
) -> dict[str, _Moments]:
    """Moments of every tensor's values over all checkpoints: in logarithm where `scales` has the tensor's scale."""
    moments = {spec.name: _Moments() for spec in specs}
    count = 0
    for count, weights in enumerate(checkpoints, 1):
        structure.check(weights, f"training checkpoint {count}")
        for spec in specs:
            value, found, scale = weights[spec.name], moments[spec.name], scales.get(spec.name)
            for part in _parts(value, CHUNK):
                found.add(_unscaled(part, scale))
            if not math.isfinite(found.squares):
                _refuse_unless_finite(spec.name, _unscaled(value.detach(), scale))
                raise ValueError(f"tensor {spec.name} of training checkpoint {count} holds values too large to square")
    if count == 0:
        raise ValueError("there are no training checkpoints to measure; give at least one")
    return moments


def _parts(value: Tensor, size: int) -> Sequence[Tensor]:
    """The flat values, `size` of them at a time; nothing of an empty tensor."""
    flat = value.detach().reshape(-1)
    if len(flat) <= size:  # most tensors of small networks: `split` would be a fifth of the work on them
        return (flat,) if len(flat) else ()
    return flat.split(size)


def _unscaled(value: Tensor, log_scale: float | None) -> Tensor:
    """The u of TensorLayout in float64, always a copy; NaN for a negative variance."""
    u = value.to(torch.float64, copy=True)
    if log_scale is None:
        return u
    # The shift would let slightly negative variances through, and they would come back as zero.
    return (u / log_scale + VARIANCE_SHIFT).log().masked_fill(u < 0, math.nan)


def _squares(flat: Tensor) -> float:
    """The sum of squares, which is not finite if one of the values is not: far quicker than `isfinite` of each."""
    return flat.dot(flat).item()


def _refuse_unless_finite(name: str, u: Tensor) -> None:
    if not bool(u.isfinite().all()):
        raise ValueError(f"tensor {name} holds values that are NaN, infinite or, for a variance, negative")


def generated(structure: Structure) -> list[TensorSpec]:
    """The tensors that a generator makes: not constants, and of tied ones the first."""
    return [spec for spec in structure if spec.kind != "constant" and spec.tied_to is None]
