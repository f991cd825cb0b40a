"""Where the values of each tensor lie in the token sequence: by layer, flattened or by channel (paper, Figure 4).

Legend: L tokens, D token size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Rule: TypeAlias = Literal["layer", "flatten", "channel"]


@dataclass(frozen=True)
class Place:
    """Where one tensor's values lie in tokens (L, D).

    They begin at value `start` of the flattened tokens, `per_token` of them in a token (the last one may hold fewer).
    `num_tokens` tokens begin with a value of this tensor, the first of them is number `first_token`.
    """

    start: int
    numel: int
    per_token: int
    first_token: int
    num_tokens: int

    def put(self, tokens: Tensor, values: Tensor) -> None:
        """Write flat values (numel,) into contiguous tokens (L, D)."""
        _, view = self.window(tokens, 0)
        view[...] = values.view(view.shape)

    def take(self, tokens: Tensor) -> Tensor:
        """Their flat values (numel,), out of contiguous tokens (L, D)."""
        return self.window(tokens, 0)[1].reshape(-1)

    def pad(self, values: Tensor, token_size: int) -> Tensor:
        """Flat values of whole tokens -> the same with the padding between tokens; none follows the last value of all
        where values are contiguous.
        """
        if self._contiguous(token_size):
            return values
        return functional.pad(values.view(-1, self.per_token), (0, token_size - self.per_token)).view(-1)

    def end(self, token_size: int) -> int:
        """Where `pad`ded values end in the flattened tokens."""
        return self.start + (self.numel if self._contiguous(token_size) else self.num_tokens * token_size)

    def window(self, tokens: Tensor, first: int) -> tuple[int, Tensor]:
        """Those of the values that lie in contiguous tokens (K, D), of which the first is number `first`, in place, in
        order and maybe none; and the index in this tensor of the first of them.
        """
        count, size = tokens.shape
        if self._contiguous(size):
            start, end = _overlap(self.start, self.numel, first * size, count * size)
            return start - self.start, tokens.view(-1)[start - first * size : end - first * size]
        start, end = _overlap(self.first_token, self.num_tokens, first, count)
        return (start - self.first_token) * self.per_token, tokens[start - first : end - first, : self.per_token]

    def _contiguous(self, token_size: int) -> bool:
        return self.per_token == token_size or self.numel <= self.per_token


def place(shapes: Iterable[Sequence[int]], rule: Rule, token_size: int) -> list[Place]:
    """Places of tensors with these shapes, in this order.

    - `layer`: a tensor's values fill tokens of their own, of which the last is padded.
    - `flatten`: all tensors in one sequence without gaps; only the last token of all is padded.
    - `channel`: a token holds as many whole output channels as divide their number evenly and fit, or as much of one
      channel by the same rule for its parts (the published rule; SANE divides by channel).
    """
    places: list[Place] = []
    start = first_token = 0
    for shape in shapes:
        numel = math.prod(shape)
        per_token = _channel_values(shape, token_size) if rule == "channel" else token_size
        if rule == "flatten":
            end_token = -(-(start + numel) // token_size)
        else:
            start = first_token * token_size
            end_token = first_token + -(-numel // per_token)
        places.append(Place(start, numel, per_token, first_token, end_token - first_token))
        start, first_token = start + numel, end_token
    return places


def _overlap(start: int, count: int, other_start: int, other_count: int) -> tuple[int, int]:
    """Start and end of what two ranges share; an empty range inside the second when they share nothing."""
    first = min(max(start, other_start), other_start + other_count)
    return first, max(min(start + count, other_start + other_count), first)


def _channel_values(shape: Sequence[int], token_size: int) -> int:
    """How many values of a tensor one token holds, by channel."""
    numel = math.prod(shape)
    if numel <= token_size:
        return max(numel, 1)
    if numel // shape[0] > token_size:  # a channel does not fit: divide it in turn, all channels alike
        return _channel_values(shape[1:], token_size)
    least = -(-numel // token_size)  # divisors come in pairs, so that the search ends at a square root
    pairs = ((d, shape[0] // d) for d in range(1, math.isqrt(shape[0]) + 1) if shape[0] % d == 0)
    return numel // min(d for pair in pairs for d in pair if d >= least)


def positions(places: Iterable[Place]) -> Tensor:
    """int64 (L, 2): of every token the index of the layer that its first value belongs to, and how many tokens began in
    that layer before it.
    """
    pairs = [(layer, token) for layer, place in enumerate(places) for token in range(place.num_tokens)]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def useful(places: Sequence[Place], token_size: int) -> float:
    """Share of the L x D values that are weights; the rest is padding."""
    values = sum(place.num_tokens for place in places) * token_size
    return sum(place.numel for place in places) / max(values, 1)
