"""Kernel densities of the codes of a zoo's best networks, in the two ways that their samples can be drawn.

The published code of hyper-representations and of SANE fits one density for each dimension of a code, or for each
token, and seeds each of them alike. scikit-learn then picks the same kernel and the same normal draw for all: a sample
is one network's code plus one draw of noise, repeated. That is `seeds: published`. With `seeds: independent` each
density is drawn from by itself, as a product of densities says.

Legend: A anchors (training networks whose codes have the kernels), T tokens of a code, C values of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from rpg.methods.base import DrawConfig
from zoo.checkpoint import load_tensors, save_tensors
from zoo.derive.mixtures import MOST_PARENTS
from zoo.errors import Corrupt
from zoo.manifest import Entry
from zoo.seeds import generator

if TYPE_CHECKING:
    from rpg.run import Run

# What imported networks scored (zoo.formats) on other data than validation data, or nobody knows on what.
OTHER_DATA = ("train_acc", "test_acc", "acc")

Scope: TypeAlias = Literal["joint", "token", "individual"]
"""What has a density of its own: whole codes, every token, or every value."""
Seeds: TypeAlias = Literal["published", "independent"]
Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]


class KernelDrawConfig(DrawConfig):
    """`bandwidth` is the kernels' deviation, `seeds` how the densities are drawn from."""

    bandwidth: Annotated[float, Field(ge=0)]
    seeds: Seeds = "published"


def draw_code(anchors: Tensor, request: KernelDrawConfig, scope: Scope, k: int) -> tuple[Tensor, list[int]]:
    """Code k, (T, C), a function of (request.seed, k), out of the anchors' (A, T, C); and which anchors it is made of.

    The densities are Gaussian kernels on all anchors. Joint ones are one density, so both ways to seed are the same.
    """
    count, tokens, size = anchors.shape
    rng = generator(request.seed, "density", k)
    densities = {"joint": (1, 1), "token": (tokens, 1), "individual": (tokens, size)}[scope]
    noise_of_one = {"joint": (tokens, size), "token": (1, size), "individual": (1, 1)}[scope]
    alike = request.seeds == "published"
    picks = torch.randint(count, (1, 1) if alike else densities, generator=rng)
    noise = torch.randn(noise_of_one if alike else (tokens, size), generator=rng)
    return placed(anchors, picks, noise, request.bandwidth), sorted(set(picks.flatten().tolist()))


def placed(anchors: Tensor, picks: Tensor, noise: Tensor, bandwidth: float) -> Tensor:
    """What lies `bandwidth` times noise from the anchors' values that are picked; picks and noise of a shape that
    expands to (T, C).
    """
    chosen = anchors.gather(0, picks.expand(anchors.shape[1:])[None])[0]
    return chosen + bandwidth * noise.expand(anchors.shape[1:])


def parents_of(hashes: Sequence[str], anchors: Sequence[int]) -> tuple[str, ...]:
    """The hashes of a code's anchors, for the record; none where they are too many to list."""
    return tuple(hashes[row] for row in anchors) if len(anchors) <= MOST_PARENTS else ()


def best(entries: Sequence[Entry], share: float) -> list[int]:
    """Which networks are the best by the first metric that was measured on validation data when they were made: those
    at or above the (1 - share) quantile. All of them for a share of 1, of which nothing need be known. What imported
    networks scored on training or test data, or on nobody knows what, chooses nothing.

    Raises ValueError, with the remedy, where networks have no metric in common.
    """
    if share == 1:
        return list(range(len(entries)))
    known = [name for name in entries[0].metrics if name not in OTHER_DATA]
    names = [name for name in known if all(name in entry.metrics for entry in entries)]
    if not names:
        raise ValueError(
            "these networks have no validation scores to say which are the best; learn from a zoo whose networks were "
            "measured when they were made, as `rpg-zoo collect` does, or take all: --set method.best=1"
        )
    metrics = [entry.metrics[names[0]] for entry in entries]
    scores = torch.tensor([m.value if m.higher_is_better else -m.value for m in metrics], dtype=torch.float64)
    return (scores >= scores.quantile(1 - share)).nonzero().flatten().tolist()


ANCHORS = "anchors.safetensors"


def save_anchors(run: Run, codes: Tensor, rows: Sequence[int]) -> Path:
    """Keep the codes (A, T, C) of the training networks with these numbers in the run."""
    path = run.path / ANCHORS
    save_tensors(path, {"codes": codes.cpu().contiguous(), "rows": torch.tensor(rows)})
    return path


def load_anchors(run: Run, shape: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """The codes (A, T, C) that a run keeps, (T, C) being `shape`, and the hashes of their networks. Raises Corrupt for
    anything else.
    """
    path, hashes = run.path / ANCHORS, run.record().networks
    found = load_tensors(path) if path.is_file() else {}
    codes, rows = found.get("codes"), found.get("rows")
    sound = (
        codes is not None
        and rows is not None
        and codes.dtype == torch.float32
        and codes.ndim == 3
        and tuple(codes.shape[1:]) == shape
        and rows.dtype == torch.int64
        and rows.shape == codes.shape[:1]
        and 0 < len(rows) <= len(hashes)
        and bool(((rows >= 0) & (rows < len(hashes))).all() and codes.isfinite().all())
    )
    if not sound:
        raise Corrupt(f"{path} does not hold the codes of training networks; remove {run.path} and train again")
    assert codes is not None
    assert rows is not None
    return codes, [hashes[row] for row in rows.tolist()]
