"""The tokenised zoo: one memory-mapped float32 array (N checkpoints, L tokens, D values), written once.

Training reads only the tokens that it samples, so memory does not grow with the zoo.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rpg.tokens.layout import Layout
from rpg.tokens.values import ValueStatistics
from zoo.errors import Corrupt
from zoo.files import atomic_path

BUFFER = 2**17  # bytes; smaller pieces are written together


def write_tokens(
    path: Path,
    layout: Layout,
    checkpoints: Iterable[Mapping[str, Tensor]],
    count: int,
    values: ValueStatistics | None = None,
) -> None:
    """Tokenise `count` checkpoints into a .npy file, atomically, with one checkpoint and no tokens in memory; with
    statistics of `values`, with its tokens as well.

    Raises Failed when the disk is full, ValueError when there are not `count` checkpoints; neither leaves a file.
    """
    shape = (count, layout.num_tokens, layout.token_size)
    # Ordinary writes: on a full disk a write to a memory map does not raise but kills the process.
    with atomic_path(path) as temporary, temporary.open("wb", buffering=BUFFER) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        found = 0
        for weights in checkpoints:
            pieces = layout.pieces(weights) if values is None else [values.standardise(layout.encode(weights)).view(-1)]
            for piece in pieces:
                file.write(piece.numpy().astype("<f4", copy=False).data)
            found += 1
        if found != count:
            raise ValueError(f"found {found} checkpoints to tokenise where {count} were announced")


def open_tokens(path: Path, layout: Layout, count: int) -> np.memmap:
    """The memory-mapped tokens. Raises Corrupt when the file is not the one for this layout and count."""
    shape = (count, layout.num_tokens, layout.token_size)
    try:
        tokens_NLD = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # on damaged bytes numpy's header parser fails in many ways
        raise Corrupt(f"{path} cannot be read: {error}; remove its directory and train again") from error
    if tokens_NLD.shape != shape or tokens_NLD.dtype != np.float32:
        raise Corrupt(f"{path} holds {tokens_NLD.dtype}{tokens_NLD.shape}, expected float32{shape}")
    if tokens_NLD.offset + tokens_NLD.nbytes != path.stat().st_size:  # also when the header's own length is damaged
        raise Corrupt(f"{path} is {path.stat().st_size} bytes long, which is not what its header says")
    return tokens_NLD


def gather(tokens: np.memmap, checkpoint: Tensor, token: Tensor) -> Tensor:
    """Tokens float32 (K, D) at these (checkpoint, token) index pairs, int64 (K,) each. Only these rows are read."""
    return torch.from_numpy(tokens[checkpoint.numpy(), token.numpy()])
