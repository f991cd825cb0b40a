"""Zoos from Python: what the command lines call.

import zoo

originals = zoo.collect("digits", epochs=2)
originals[0]  # a state dict
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoint import content_hash
from zoo.console import pick_device
from zoo.derive.align import unalign as unalign_zoo
from zoo.derive.aligning import plan_alignment
from zoo.derive.polish import plan_polish
from zoo.manifest import Origin, versions
from zoo.recipe import Recipe, keyword_overrides, load_recipe, task_of
from zoo.scoring import Score
from zoo.scoring import score as score_zoo
from zoo.store import Zoo
from zoo.structure import Frozen, Structure
from zoo.tasks.wrapped import build_to_score
from zoo.training.collect import CollectConfig
from zoo.training.engines import Plan, collect_zoos
from zoo.writer import ZooWriter

log = logging.getLogger(__name__)

PYTHON = ("python",)  # the command on record where there is no command line


def open(place: Path | str) -> Zoo:
    """A finished zoo: its directory, its name under zoos/, or `hf://user/zoo`, of which files are downloaded when they
    are read. Raises MissingData when there is none, Corrupt when its manifest is damaged.

    >>> sorted(zoo.open("linear")[0])
    ['bias', 'weight']
    """
    return Zoo.open(place)


def collect(
    recipe: str,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    **settings: Any,
) -> Zoo:
    """Train networks as a recipe says and save their checkpoints (default place: zoos/<recipe>). An interrupted call is
    continued by the same call, to the same bytes.

    `settings` are fields of its sections `task:` and `zoo:` by their own names (`epochs=2`), `overrides` any by their
    paths (`["zoo.epochs=2"]`). Raises ValueError for a recipe or setting that does not exist, MissingData when the data
    are not there, Failed when a training diverges; finished checkpoints are kept.
    """
    plan = load_recipe(recipe, overrides)
    if settings:
        schemas: dict[str, type[Frozen]] = {"task": type(plan.task), "zoo": CollectConfig}
        plan = load_recipe(recipe, [*overrides, *keyword_overrides(schemas, settings)])
    (made,) = collect_zoos([collection(plan, PYTHON, out)], "local", workers, data_root, device)
    return made


def collection(recipe: Recipe, command: tuple[str, ...], out: Path | str | None = None) -> Plan:
    """What `collect` does, before it is done."""
    return Plan(recipe.task, recipe.zoo, recipe.collected(command), Path(out or Path("zoos") / recipe.name))


def from_state_dicts(
    networks: Iterable[Mapping[str, Tensor]], name: str, *, heldout: int = 0, out: Path | str | None = None
) -> Zoo:
    """A zoo of networks that are in memory, all of one architecture (default place: zoos/<name>). Each counts as a run
    of its own; the last `heldout` of them are kept from generators, as a yardstick. What the networks do is not known,
    so they can be learnt and compared by their weights, but not scored. Each is copied as it comes, so what a training
    yields step by step is kept as it was.

    Raises ValueError when there are no networks to learn from, when they differ in structure, or when the place holds
    another zoo.

    >>> import torch, zoo
    >>> zoo.from_state_dicts([torch.nn.Linear(3, 2).state_dict() for _ in range(4)], "linear")
    Zoo('zoos/linear', 4 checkpoints of 8 values)
    """
    found = [_state_dict(network, number) for number, network in enumerate(networks)]
    train = len(found) - heldout
    if train < 1 or heldout < 0:
        raise ValueError(f"got {len(found)} networks of which {heldout} are held out; expected one to learn from")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-][\w .+-]{0,199}", name) or not name.strip("."):
        raise ValueError(f"{name!r} is no name for a zoo; expected letters, digits, '-', '_' and '.'")
    structure = _common_structure(found)
    hashes = [content_hash(network) for network in found]
    if len({*hashes}) < len(hashes):
        log.warning(f"of {len(hashes)} networks {len({*hashes})} are different: the others are copies of these")
    settings = {"state_dicts": hashlib.sha256(json.dumps([hashes, train]).encode()).hexdigest()}
    origin = Origin(name=name, kind="imported", settings=dict(settings), command=PYTHON, versions=versions())
    with ZooWriter(Path(out or Path("zoos") / name), origin, structure) as writer:
        for number, network in enumerate(found):
            split = "train" if number < train else "heldout"
            writer.add(f"network-{number:05d}", network, seed=number, split=split)
        return writer.finish()


def _state_dict(network: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    if not isinstance(network, Mapping):
        raise ValueError(f"network {number} is a {type(network).__name__}; expected what its state_dict() gives")
    detached = {name: value.detach() if isinstance(value, Tensor) else value for name, value in network.items()}
    return copy.deepcopy(detached)  # tensors that share their memory do so in the copy, too


def _common_structure(networks: Sequence[Mapping[str, Tensor]]) -> Structure:
    """The structure of all these networks; tied are the tensors that are tied, or equal, in each of them. Raises
    ValueError for what is no state dict, and for networks of other structures.
    """
    for number, network in enumerate(networks):
        for key, tensor in network.items():
            if not (isinstance(key, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided):
                raise ValueError(f"network {number}: {key!r} is no dense tensor under a name; expected a state dict")
            if tensor.is_meta:
                raise ValueError(f"network {number}: {key} has no values (it is on the meta device)")
    if not networks[0]:
        raise ValueError("network 0 holds no tensors; expected a state dict")
    structure = Structure.of(networks[0])
    for number, network in enumerate(networks):
        structure.check(network, f"network {number}")

    def tied_everywhere(name: str, other: str) -> bool:
        return all(torch.equal(network[name], network[other]) for network in networks)

    specs = [
        spec
        if spec.tied_to is None or tied_everywhere(spec.name, spec.tied_to)
        else spec.model_copy(update={"tied_to": None})
        for spec in structure
    ]
    return Structure(tensors=tuple(specs))


def score(
    zoo: Zoo | Path | str,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> list[Score]:
    """Score every network on the test data of its task (default place: scores/<zoo>). What was scored before is not
    scored again. Raises ValueError when nobody knows what the networks do, MissingData when the data are not there.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    origin = opened.manifest.origin
    task = build_to_score(origin, task_of(origin, overrides), data_root, pick_device(device))
    return score_zoo(opened, task, Path(out or Path("scores") / opened.name), precision=precision)


def align(
    zoo: Zoo | Path | str,
    *,
    to: str = "universe",
    match: str = "weights",
    refine: int = 0,
    restarts: int = 4,
    scale: bool = True,
    seed: int = 0,
    measure: bool = True,
    out: Path | str | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    command: tuple[str, ...] = PYTHON,
) -> Zoo:
    """The same networks, each brought as near as its symmetries allow to the mean of all (`universe`), the `medoid`, or
    the network with an id (default place: zoos/<zoo>-aligned). Each computes what it computed. They are matched by
    `weights`, by `activations` on training images, or by `both`; `refine` steps then lower the loss of means there.
    What it is worth is measured on test images and kept in scores/<zoo>-aligned (zoo.derive.worth).

    Raises ValueError when nobody knows what the networks do, or which symmetries they have; MissingData when images are
    wanted and not there.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    path = Path(out or Path("zoos") / f"{opened.name}-aligned")
    settings = {"to": to, "match": match, "refine": refine, "restarts": restarts, "scale": scale, "seed": seed}
    plan = plan_alignment(opened, settings, command, path, data_root=data_root, device=device, measure=measure)
    return plan.carry_out().zoo


def unalign(zoo: Zoo | Path | str, *, out: Path | str | None = None, command: tuple[str, ...] = PYTHON) -> Zoo:
    """The networks that an aligned zoo was made of, to the byte (default place: zoos/<zoo>-original). Raises
    MissingData for a zoo that is not aligned, Corrupt when its alignment does not lead back.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    origin = opened.manifest.origin.model_copy(update={"command": command})
    return unalign_zoo(opened, origin, Path(out or Path("zoos") / f"{opened.name}-original"))


def polish(
    zoo: Zoo | Path | str,
    steps: int,
    *,
    split: str | None = None,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
    command: tuple[str, ...] = PYTHON,
    **settings: Any,
) -> Zoo:
    """The networks of a split (`train`, or the only one there is), each after so many steps of its task's training
    (default place: zoos/<zoo>-polish-<steps>). `settings` are fields of PolishConfig. Done again, it continues what was
    interrupted.

    Raises ValueError for a setting that does not exist or when nobody knows what the networks do, MissingData when the
    data are not there, Failed when a training diverges.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    path = Path(out or Path("zoos") / f"{opened.name}-polish-{steps}")
    where: dict[str, Any] = {"split": split, "overrides": overrides, "data_root": data_root, "device": device}
    return plan_polish(opened, {"steps": steps, **settings}, path, command, **where).carry_out()
